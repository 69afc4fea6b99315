//! Ends: asked for, by `kill -9`, and with another install or Multus on the same node.

use super::{CONF, Host, Install, LIST, MASTER, marked, signal_to};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

#[test]
fn without_cleanup_all_stays_and_a_restart_takes_it_up() {
    let host = Host::new();
    host.master(MASTER, "1.0.0", 1);
    let mut install = host.start(&[]);
    install.until("the configuration", || host.mark() == Some(1));
    assert!(install.stop().success());
    assert_eq!(host.names(), [LIST, MASTER]);
    assert!(host.kubeconfig().contains("token-0"));
    let before = fs::metadata(host.net_d(LIST)).and_then(|it| it.modified()).expect("there");
    let (done, log) = host.once(&["--skip-multus-binary-copy"]);
    assert!(done, "{log}");
    let after = fs::metadata(host.net_d(LIST)).and_then(|it| it.modified()).expect("there");
    assert_eq!(before, after, "the same content is not written again");
}

#[test]
fn cleanup_goes_back_to_before() {
    let host = Host::new();
    host.master(MASTER, "1.0.0", 1);
    let flags = ["--cleanup-config-on-exit=true", "--rename-conf-file=true"];
    let mut install = host.start(&flags);
    let renamed = format!("{MASTER}.old");
    install.until("renamed", || host.names() == [LIST, &renamed]);
    // Its owner writes it again, as a default network does when it is updated.
    host.master(MASTER, "1.0.0", 2);
    install.until("renamed again", || host.mark() == Some(2) && host.names() == [LIST, &renamed]);
    // A restart finds what was renamed.
    signal_to(install.child.id(), "KILL");
    drop(install);
    fs::remove_file(host.net_d(LIST)).expect("removed");
    let mut install = host.start(&flags);
    install.until("made from the renamed one", || host.mark() == Some(2));
    install.signal("INT");
    assert!(install.child.wait().expect("it ends").success(), "{}", install.log());
    assert_eq!(host.names(), [MASTER]);
    assert_eq!(host.read(MASTER), Some(marked("1.0.0", 2)));
    assert!(!host.net_d("multus.d").exists());
}

#[test]
fn the_first_process_of_a_container_can_be_stopped() {
    let host = Host::new();
    host.master(MASTER, "0.4.0", 1);
    let install = host.command(&["--skip-multus-binary-copy", "--cleanup-config-on-exit"]);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).arg(install.get_program()).args(install.get_args());
    command.env_clear().env("KUBERNETES_SERVICE_HOST", "h").env("KUBERNETES_SERVICE_PORT", "1");
    let mut unshare = Install::start(command, host.path("log"));
    unshare.until("the configuration", || host.mark() == Some(1));
    let pid = unshare.child.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("they are known");
    signal_to(children.trim().parse().expect("one child"), "TERM");
    assert!(unshare.child.wait().expect("it ends").success());
    assert_eq!(host.names(), [MASTER]);
}

#[test]
fn of_two_installs_the_later_one_is_in_charge_while_it_lives() {
    let host = Host::new();
    host.master(MASTER, "0.4.0", 1);
    let isolates = || host.read(CONF).map(|it| it["namespaceIsolation"] == true);
    let mut old = host.start(&["--cleanup-config-on-exit"]);
    old.until("the old one's", || isolates() == Some(false));
    let mut new = host.start(&["--namespace-isolation", "--cleanup-config-on-exit"]);
    new.until("the new one's", || isolates() == Some(true));
    old.until_logged("is in charge: waiting");
    for mark in 2..30 {
        host.master(MASTER, "0.4.0", mark);
        new.until("the new default network", || host.mark() == Some(mark));
        assert_eq!(isolates(), Some(true), "the old one wrote");
    }
    // The new one dies: the old one, which is still there, does its work.
    signal_to(new.child.id(), "KILL");
    drop(new);
    old.until("the old one's", || isolates() == Some(false));
    // The usual order of an update: the new one comes, the old one goes.
    let mut new = host.start(&["--namespace-isolation", "--cleanup-config-on-exit"]);
    new.until("the new one's", || isolates() == Some(true));
    assert!(old.stop().success());
    assert!(old.log().contains("nothing removed"), "{}", old.log());
    assert_eq!(isolates(), Some(true));
    assert!(host.kubeconfig().contains("token-0"));
    host.master(MASTER, "0.4.0", 30);
    new.until("it still works", || host.mark() == Some(30));
    assert!(new.stop().success());
    assert_eq!(host.names(), [MASTER]);
}

#[test]
fn a_multus_that_is_installed_again_is_left_alone() {
    let host = Host::new();
    host.master(MASTER, "0.4.0", 1);
    // What Multus left before is taken over.
    host.write(CONF, &json!({ "cniVersion": "0.4.0", "name": "x", "type": "multus" }));
    let mut install = host.start(&["--cleanup-config-on-exit"]);
    install.until("taken over", || host.mark() == Some(1));
    let multus = json!({ "cniVersion": "0.4.0", "name": "x", "type": "multus", "delegates": [] });
    host.write(CONF, &multus);
    fs::write(host.net_d("multus.d/multus.kubeconfig"), "of Multus").expect("written");
    install.until_logged("now calls another plugin");
    fs::write(host.net_d("multus.d/multus.kubeconfig"), "of Multus").expect("written");
    host.master(MASTER, "0.4.0", 2);
    assert!(install.stop().success());
    assert_eq!(host.read(CONF), Some(multus));
}

/// A small file system of its own, unmounted on drop.
struct Small(PathBuf);

impl Small {
    fn mount(path: PathBuf) -> Self {
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(&path).status();
        assert!(mount.expect("mount is there").success());
        Self(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_leaves_the_old_configuration_and_kubeconfig() {
    let host = Host::new();
    let _small = Small::mount(host.path("net.d"));
    host.write_in_place(MASTER, 1);
    let mut install = host.start(&["--multus-config-watch-timer=50ms"]);
    install.until("the configuration", || host.mark() == Some(1));
    // The next default network fits, what is made from it does not.
    host.write_in_place(MASTER, 2);
    let filling = host.net_d("filling");
    let full = fs::write(&filling, vec![0; 1 << 20]).expect_err("it does not fit");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    host.write_in_place(MASTER, 3);
    host.rotate("token-1", super::CERTIFICATE);
    install.until_logged("No space left on device");
    let (name, _) = super::runtime_view(&host.path("net.d")).expect("a whole configuration");
    assert_eq!(name, CONF);
    assert!(host.kubeconfig().contains("token-0") && !host.kubeconfig().contains("token-1"));
    fs::remove_file(filling).expect("removed");
    install.until("it is tried again", || host.mark() == Some(3) && host.kubeconfig().contains("token-1"));
}
