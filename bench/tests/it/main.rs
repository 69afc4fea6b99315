//! The demo as a program: what it leaves behind when it is interrupted. In modules: the API
//! server double, and the guard of the packet program.

mod apiserver;
mod apiserver_faults;
mod guard;
mod kubectl;

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Starts the demo and returns it with its process id once it has printed a line that begins so.
fn demo_until(arguments: &[&str], line: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netplane-demo"));
    let mut demo = command.args(arguments).stdout(Stdio::piped()).spawn().expect("the demo starts");
    let lines = BufReader::new(demo.stdout.as_mut().expect("stdout is piped")).lines();
    let found = lines.map_while(Result::ok).any(|it| it.starts_with(line));
    assert!(found, "the demo ended before it printed \"{line}\"; is netplane built beside it?");
    demo
}

fn interrupt(demo: &mut Child) -> Option<i32> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(demo.id()).expect("a process id"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("a signal");
    let status = demo.wait().expect("the demo ends");
    assert_eq!(status.signal(), None, "it cleans up and ends by itself");
    status.code()
}

/// Namespaces, folders, mounts and processes of the demo with this process id.
fn left_of(pid: u32) -> Vec<String> {
    let prefix = format!("np{pid}-");
    let in_folder = |folder: &str| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|it| it.path()).collect()
    };
    let mut paths = in_folder("/run/netns");
    paths.extend(in_folder(std::env::temp_dir().to_str().expect("a path in UTF-8")));
    let mut left: Vec<_> = paths.iter().map(|it| it.display().to_string()).collect();
    left.extend(std::fs::read_to_string("/proc/self/mounts").expect("mounts").lines().map(str::to_owned));
    for process in in_folder("/proc") {
        // Processes end while this goes on; those have left nothing.
        left.extend(std::fs::read_to_string(process.join("cmdline")));
    }
    left.retain(|it| it.contains(&prefix));
    left
}

/// At every stage, from an unfinished lab to traffic under the fast path.
#[test]
fn an_interrupted_demo_leaves_nothing() {
    for line in ["lab:", "CNI ADD", "netplane agent", "with the fast path", "without it"] {
        let mut demo = demo_until(&[], line);
        assert_eq!(interrupt(&mut demo), Some(130), "after \"{line}\"");
        assert_eq!(left_of(demo.id()), Vec::<String>::new(), "after \"{line}\"");
    }
}

#[test]
fn a_kept_lab_stands_until_it_is_interrupted() {
    let mut demo = demo_until(&["--keep"], "the lab stands");
    let gnb = format!("/run/netns/np{}-gnb", demo.id());
    let ping = Command::new("nsenter")
        .args([&format!("--net={gnb}"), "busybox", "ping", "-c", "2", "-I", "10.60.0.1", "10.50.0.1"])
        .output()
        .expect("nsenter runs");
    assert!(ping.status.success(), "{ping:?}");
    assert_eq!(interrupt(&mut demo), Some(130));
    assert_eq!(left_of(demo.id()), Vec::<String>::new());
}
