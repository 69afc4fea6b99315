//! A power cut, as the disk sees it: a copy of the device while the file system on it is in use. What a node finds
//! after it, DEL takes down, and nothing leaks.

use crate::harness::{Node, Pod, answer};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A file system with a journal on an image file, where the node's records and addresses are.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn new(node: &Node) -> Self {
        let (image, at) = (node.folder().join("disk"), node.folder().join("state"));
        fs::File::create(&image).and_then(|it| it.set_len(16 << 20)).expect("an image");
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_os_str()]);
        fs::create_dir(&at).expect("a folder");
        let disk = Self { image, at };
        disk.mount();
        disk
    }

    fn mount(&self) {
        run("mount", &["-o".as_ref(), "loop".as_ref(), self.image.as_os_str(), self.at.as_os_str()]);
    }

    fn unmount(&self) {
        run("umount", &[self.at.as_os_str()]);
    }

    /// What the device has now is what there is from now on: what the kernel has in memory only is lost.
    fn cut_power(&self) {
        let copy = self.image.with_extension("copy");
        run("cp", &["--sparse=always".as_ref(), self.image.as_os_str(), copy.as_os_str()]);
        self.unmount();
        fs::rename(&copy, &self.image).expect("replaced");
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

fn run(program: &str, arguments: &[impl AsRef<std::ffi::OsStr>]) {
    let output = Command::new(program).args(arguments).output().expect("installed");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Lab {
    disk: Disk,
    node: Node,
    pod: Pod,
    configuration: Value,
}

impl Lab {
    fn new() -> Self {
        let mut node = Node::new();
        let disk = Disk::new(&node);
        for (name, master) in [("default-network", "n3"), ("n6", "n6")] {
            let mut config = node.macvlan(master, "10.20.0.0/24");
            config["ipam"]["dataDir"] = json!(disk.at.join("ipam"));
            node.nad(name, &config);
        }
        let mut configuration = node.configuration("1.1.0", "n6");
        configuration["cniDir"] = json!(disk.at.join("records"));
        let pod = node.pod();
        Self { disk, node, pod, configuration }
    }

    /// Calls the plugin under strace, which also waits for the children that it leaves.
    fn call(&self, verb: &str, netns: &Path, strace: &[&str]) -> Output {
        let under = [&["strace", "-f", "-qqq", "-o", "/dev/null"], strace].concat();
        let mut command = self.node.command(verb, &self.pod.name, netns, &under);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("strace is installed");
        // One that was killed does not read it.
        let _ = child.stdin.take().expect("stdin").write_all(self.configuration.to_string().as_bytes());
        child.wait_with_output().expect("it ends")
    }

    /// DEL as after a reboot: there is no namespace any more. What is left of records and addresses then; an
    /// address file without a word in it belongs to nobody, and is given out again.
    fn left_after_del(&self) -> Vec<PathBuf> {
        let output = self.call("DEL", Path::new("/run/netns/gone-with-the-power"), &["-e", "trace=none"]);
        assert_eq!(answer(&output), Ok(None), "DEL");
        let kept =
            |it: &&str| *it == "lock" || it.starts_with("last_reserved_ip.") || it.ends_with(".corrupt");
        let mut left = paths(&self.disk.at);
        left.retain(|it| it.file_name().and_then(|it| it.to_str()).is_none_or(|it| !kept(&it)));
        left.retain(|it| {
            it.starts_with(self.disk.at.join("records")) || it.metadata().is_ok_and(|it| it.len() > 0)
        });
        left
    }

    /// The interfaces go, as with the node.
    fn reboot(&self) {
        self.disk.cut_power();
        for interface in self.pod.interfaces() {
            self.pod.ip(&format!("link del {interface}"));
        }
    }
}

/// All files below a folder.
fn paths(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|it| it.path());
    entries.flat_map(|it| if it.is_dir() { paths(&it) } else { vec![it] }).collect()
}

#[test]
fn a_record_survives_a_power_cut_though_no_add_waits_for_the_disk() {
    let lab = Lab::new();
    let add = || {
        let output = lab.call("ADD", &lab.pod.path(), &["-e", "trace=none"]);
        answer(&output).expect("attached").expect("a result")
    };
    add();
    lab.reboot();
    let record = lab.disk.at.join(format!("records/{}@eth0.json", lab.pod.name));
    let record: Value = serde_json::from_slice(&fs::read(&record).expect("a record")).expect("whole");
    assert_eq!(record["complete"], true);
    assert_eq!(lab.left_after_del(), Vec::<PathBuf>::new());
    // Nor does one come back that was removed.
    add();
    let output = lab.call("DEL", &lab.pod.path(), &["-e", "trace=none"]);
    assert_eq!(answer(&output), Ok(None), "DEL");
    lab.reboot();
    assert_eq!(paths(&lab.disk.at.join("records")), Vec::<PathBuf>::new());
}

#[test]
fn whatever_a_power_cut_leaves_of_an_add_goes_with_del() {
    let lab = Lab::new();
    let mut cuts = 0;
    for effect in ["?rename", "sendto", "?clone", "?clone3"] {
        for number in 1.. {
            let inject = format!("inject={effect}:signal=SIGKILL:when={number}");
            let trace = format!("trace={effect}");
            let output = lab.call("ADD", &lab.pod.path(), &["-e", &trace, "-e", &inject]);
            // Half of the time all that was written has reached the disk by itself.
            if number % 2 == 0 {
                run("sync", &["-f".as_ref(), lab.disk.at.as_os_str()]);
            }
            lab.reboot();
            assert_eq!(lab.left_after_del(), Vec::<PathBuf>::new(), "{effect} {number}");
            if output.status.signal() != Some(9) {
                break;
            }
            cuts += 1;
        }
    }
    assert!(cuts > 8, "{cuts} cuts only: strace delivers nothing");
}
