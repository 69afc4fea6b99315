//! What others see while it is made anew: the runtime its configuration, callers the program.

use super::{Host, MASTER, mark, runtime_view};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{fs, thread};

/// Ends the other threads also when one panics.
pub(super) struct Stop<'a>(pub(super) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_runtime_always_sees_one_whole_configuration_while_it_is_made_anew_200_times() {
    let host = Host::new();
    host.master(MASTER, "0.4.0", 0);
    let mut install = host.start(&[]);
    install.until("the first configuration", || host.mark() == Some(0));
    let (done, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    let wrong = thread::scope(|scope| {
        let _stop = Stop(&done);
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut wrong, mut last) = (Vec::new(), 0);
                    while !done.load(Ordering::Relaxed) {
                        looks.fetch_add(1, Ordering::Relaxed);
                        match runtime_view(&host.path("net.d")) {
                            // The meta-plugin's, around a default network that is not older than the last.
                            Ok((_, plugin)) if mark(&plugin).is_some_and(|it| it >= last) => {
                                last = mark(&plugin).unwrap_or(last);
                            }
                            Ok((name, plugin)) => {
                                wrong.push(format!("{name}: {:?} after {last}", mark(&plugin)))
                            }
                            Err(error) => wrong.push(error),
                        }
                    }
                    wrong
                })
            })
            .collect();
        for turn in 1..=200 {
            // The version decides between a plugin's file and a list's.
            host.master(MASTER, if turn % 3 == 0 { "1.0.0" } else { "0.4.0" }, turn);
            install.until(&format!("turn {turn}"), || host.mark() == Some(turn));
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().flat_map(|it| it.join().expect("it ends")).collect::<Vec<_>>()
    });
    assert_eq!(wrong, [""; 0]);
    assert!(looks.into_inner() > 200, "nobody looked");
}

#[test]
fn the_program_can_be_called_while_it_is_replaced() {
    let host = Host::new();
    host.master(MASTER, "0.4.0", 0);
    // Two programs of different content, both real ones.
    let shell = fs::read("/bin/busybox").expect("busybox is installed");
    for (name, tail) in [("one", b"1"), ("two", b"2")] {
        let path = host.path(name);
        fs::write(&path, [shell.as_slice(), tail].concat()).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    let install = |name: &str| {
        let program = host.path(name).display().to_string();
        let (done, log) = host.once(&["--multus-bin-file", &program, "--multus-alias"]);
        assert!(done, "{log}");
    };
    install("one");
    let (done, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    let failed = thread::scope(|scope| {
        let _stop = Stop(&done);
        let callers: Vec<_> = ["netplane", "multus"]
            .map(|name| {
                let (host, done, calls) = (&host, &done, &calls);
                scope.spawn(move || {
                    let mut failed = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        calls.fetch_add(1, Ordering::Relaxed);
                        let mut command = Command::new(host.path("bin").join(name));
                        match command.arg0("busybox").arg("true").status() {
                            Ok(status) if status.success() => {}
                            other => failed.push(format!("{name}: {other:?}")),
                        }
                    }
                    failed
                })
            })
            .into();
        // One that runs all the time keeps its file.
        let program = host.path("bin").join("netplane");
        let mut running =
            Command::new(program).arg0("busybox").args(["sleep", "600"]).spawn().expect("it runs");
        for turn in 0..40 {
            install(if turn % 2 == 0 { "two" } else { "one" });
        }
        let still = running.try_wait().expect("known").is_none();
        running.kill().expect("killed");
        running.wait().expect("it ends");
        assert!(still, "the running program ended");
        done.store(true, Ordering::Relaxed);
        callers.into_iter().flat_map(|it| it.join().expect("it ends")).collect::<Vec<_>>()
    });
    assert_eq!(failed, [""; 0]);
    assert!(calls.into_inner() > 40, "nobody called");
}

#[test]
fn installs_at_the_same_time_do_not_mix_what_they_write() {
    let host = Host::new();
    host.master(MASTER, "0.4.0", 7);
    let wholes: Vec<_> = (0..8_u8)
        .map(|number| {
            fs::write(host.path(&format!("program{number}")), vec![number; 3 << 20]).expect("a program");
            format!("--multus-bin-file={}/program{number}", host.folder.path().display())
        })
        .collect();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let run = |flag: &String| {
            scope.spawn({
                let (host, flag) = (&host, flag.clone());
                move || host.once(&[&flag, "--multus-alias"])
            })
        };
        wholes.iter().map(run).collect::<Vec<_>>().into_iter().map(|it| it.join().expect("it ends")).collect()
    });
    for (done, log) in outcomes {
        assert!(done, "{log}");
    }
    let program = fs::read(host.path("bin/multus")).expect("there");
    assert!(program.len() == 3 << 20 && program.iter().all(|it| *it == program[0]));
    assert_eq!((host.mark(), host.kubeconfig().contains("token-0")), (Some(7), true));
    let left: Vec<_> = crate::harness::files(host.folder.path());
    assert!(!left.iter().any(|it| it.contains("netplane-new")), "{left:?}");
}
