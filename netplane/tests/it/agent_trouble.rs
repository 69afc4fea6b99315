//! What a node does to a running agent: its BPF file system goes. Forwarding goes on, the agent says what is wrong,
//! and nothing is left of it afterwards.

use crate::agent::{LIMIT, forwarding, lab, problems, until};
use crate::masters::start_gnb;
use crate::tc::attach_pod;
use netplane_bench::lab::traffic::{Host, ping};
use netplane_bench::lab::users::users;
use netplane_bench::lab::{Lab, SERVER, wait_for};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::Path;

fn mount_on(kind: &str, target: &Path, options: Option<&str>) {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), options).expect("mounted");
}

/// Puts the lab's BPF file system back, in place of what an agent has mounted below.
struct Unmounted<'a>(&'a Lab);

impl Drop for Unmounted<'_> {
    fn drop(&mut self) {
        let _ = umount2(&self.0.bpffs(), MntFlags::MNT_DETACH);
        let place = self.0.bpffs();
        mount_on("bpf", place.parent().expect("a folder"), None);
    }
}

#[test]
fn an_unmounted_bpf_file_system_is_a_problem_and_forwarding_goes_on() {
    let lab = lab();
    let upf = attach_pod(&lab);
    let agent = lab.start_agent().expect("an agent");
    let status = until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
    assert_eq!(problems(&status), Vec::<String>::new());
    let _gnb = start_gnb(&lab, upf);
    let user = Host { namespace: &lab.gnb, address: users(1)[0].ue };
    let gets_through = || Ok(ping(user, SERVER, 5, 100)?.is_complete().then_some(()));
    wait_for("packets get through", LIMIT, gets_through).expect("traffic");

    umount2(lab.bpffs().parent().expect("a folder"), MntFlags::empty()).expect("unmounted");
    let _back = Unmounted(&lab);
    let status = until(&lab, &agent, "a problem", |it| !problems(it).is_empty());
    let said = problems(&status);
    assert!(
        said.len() == 1 && said[0].contains("was unmounted") && said[0].contains("restart it"),
        "{said:?}"
    );
    assert!(said[0].contains(&lab.bpffs().display().to_string()), "{said:?}");
    assert!(forwarding(&status, 3), "{status:#}");
    assert!(ping(user, SERVER, 20, 100).expect("sent").is_complete(), "the agent's descriptors hold all");

    // The next one mounts and pins by itself.
    agent.terminate().expect("a clean end");
    let agent = lab.start_agent().expect("an agent");
    let status = until(&lab, &agent, "sessions forward again", |it| forwarding(it, 3));
    assert_eq!(problems(&status), Vec::<String>::new());
    wait_for("packets get through again", LIMIT, gets_through).expect("traffic");
    agent.kill().expect("kill -9");
    assert!(ping(user, SERVER, 20, 100).expect("sent").is_complete(), "pinned");
    lab.detach_agent().expect("detached");
    assert!(!lab.bpffs().join("v3").exists(), "nothing is pinned");
}
