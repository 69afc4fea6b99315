//! `kill -9` before each single effect: strace delivers it at the n-th call of a kind, until there is none.

use super::{CERTIFICATE, CONF, Host, LIST, MASTER, marked, runtime_view, signal_to, until};
use serde_json::json;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

/// System calls that change something. Those that this kernel or processor lacks are passed over (`?`).
const EFFECTS: [&str; 14] = [
    "?rename",
    "?renameat",
    "?renameat2",
    "?unlink",
    "?unlinkat",
    "?symlink",
    "?symlinkat",
    "?mkdir",
    "?mkdirat",
    "copy_file_range",
    "write",
    "fchmod",
    "fsync",
    "flock",
];
const FLAGS: [&str; 3] = ["--rename-conf-file", "--multus-alias", "--one-shot"];

/// A node with a default network and a program to install.
fn fresh() -> Host {
    let host = Host::new();
    host.master(MASTER, "1.0.0", 1);
    fs::write(host.path("program"), vec![b'n'; 300_000]).expect("a program");
    host
}

/// The same, with Multus on it.
fn with_multus() -> Host {
    let host = fresh();
    host.write(CONF, &json!({ "cniVersion": "1.0.0", "name": "x", "type": "multus", "delegates": [] }));
    fs::create_dir(host.net_d("multus.d")).expect("a folder");
    fs::write(host.net_d("multus.d/multus.kubeconfig"), "token: old").expect("a kubeconfig");
    fs::write(host.path("bin/multus"), "of Multus").expect("a program");
    fs::write(host.path("bin/netplane"), "an older netplane").expect("a program");
    host
}

fn command(host: &Host) -> Command {
    let program = format!("--multus-bin-file={}", host.path("program").display());
    let mut command = host.command(&[FLAGS.as_slice(), &[&program]].concat());
    command.stderr(Stdio::null());
    command
}

/// What must hold at every moment.
fn check(host: &Host, had_multus: bool) -> Result<(), String> {
    let there = |name: &str| fs::read(host.path(name)).ok();
    let whole = vec![b'n'; 300_000];
    for (name, old) in [("bin/netplane", "an older netplane"), ("bin/multus", "of Multus")] {
        match there(name) {
            None if !had_multus => {}
            Some(program) if program == whole || had_multus && program == old.as_bytes() => {}
            program => return Err(format!("{name} has {:?} bytes", program.map(|it| it.len()))),
        }
    }
    match there("net.d/multus.d/multus.kubeconfig") {
        None if !had_multus => {}
        Some(it) if it.ends_with(b"current-context: netplane\n") || had_multus && it == b"token: old" => {}
        other => return Err(format!("kubeconfig: {other:?}")),
    }
    // The default network itself, before there is anything of ours.
    runtime_view(&host.path("net.d"))?;
    let aside = format!("{MASTER}.old");
    match host.read(MASTER).or_else(|| host.read(&aside)) {
        Some(master) if master == marked("1.0.0", 1) => Ok(()),
        _ => Err("the default network's configuration is lost".to_owned()),
    }
}

/// What the next install makes of it.
fn finish(host: &Host, had_multus: bool) -> Result<(), String> {
    host.rotate("token-1", CERTIFICATE);
    let status = command(host).status().map_err(|it| it.to_string())?;
    check(host, had_multus)?;
    let aside = format!("{MASTER}.old");
    let wanted: &[&str] = if had_multus { &[CONF, LIST, &aside] } else { &[LIST, &aside] };
    if !status.success() || host.names() != wanted || host.mark() != Some(1) {
        return Err(format!("{status}: {:?}, {:?}", host.names(), host.mark()));
    }
    if !host.kubeconfig().contains("token-1") {
        return Err(host.kubeconfig());
    }
    if had_multus
        && fs::read_to_string(host.path("bin/multus.before-netplane")).ok().as_deref() != Some("of Multus")
    {
        return Err("Multus's program is lost".to_owned());
    }
    match crate::harness::files(host.folder.path()).iter().find(|it| it.contains("netplane-new")) {
        Some(left) => Err(format!("{left} is left")),
        None => Ok(()),
    }
}

fn walk(make: fn() -> Host, had_multus: bool) {
    let (mut kills, mut wrong) = (0, Vec::new());
    for effect in EFFECTS {
        for number in 1.. {
            let host = make();
            let install = command(&host);
            let status = strace(effect, number, &install).status().expect("strace is installed");
            if status.signal() != Some(9) {
                // Or such a system call is not to be had, and strace said so.
                assert!(status.success() || effect.starts_with('?'), "{effect} {number}: {status}");
                break;
            }
            kills += 1;
            let outcome = check(&host, had_multus).and_then(|()| finish(&host, had_multus));
            wrong.extend(outcome.err().map(|it| format!("{effect} {number}: {it}")));
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert!(kills > 30, "{kills} effects only: strace delivers nothing");
}

/// strace with its child, or a process without strace. Both are killed on drop.
struct Traced(Child);

impl Traced {
    /// strace's child, or the process itself.
    fn id(&self) -> u32 {
        let id = self.0.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().next().map_or(id, |it| it.parse().expect("a number"))
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|it| it.is_none()) {
            signal_to(self.id(), "KILL");
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Runs `command` under strace, and kills it before the `number`th `effect`.
fn strace(effect: &str, number: u32, command: &Command) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={effect}"), "-e"]);
    strace.arg(format!("inject={effect}:signal=SIGKILL:when={number}"));
    strace.arg(command.get_program()).args(command.get_args()).env_clear().stderr(Stdio::null());
    strace.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    strace
}

#[test]
fn killed_before_any_effect_on_a_new_node_nothing_is_broken_and_the_next_one_succeeds() {
    walk(fresh, false);
}

#[test]
fn killed_before_any_effect_in_place_of_multus_nothing_is_broken_and_the_next_one_succeeds() {
    walk(with_multus, true);
}

#[test]
fn killed_before_any_effect_of_cleaning_up_the_default_network_is_there_and_the_next_one_cleans_up() {
    let aside = format!("{MASTER}.old");
    let clean = |host: &Host, wrap: &dyn Fn(&Command) -> Command| {
        let install =
            host.command(&["--skip-multus-binary-copy", "--rename-conf-file", "--cleanup-config-on-exit"]);
        let log = host.path("log");
        let stderr = fs::File::create(&log).expect("a log");
        let mut traced = Traced(wrap(&install).stderr(stderr).spawn().expect("it runs"));
        let mut ended = None;
        until("in place, or killed before", || {
            ended = traced.0.try_wait().expect("known");
            // From then on signals wait.
            let has_begun = fs::read_to_string(&log).is_ok_and(|it| it.contains("not copied"));
            ended.is_some() || has_begun && host.names() == [LIST, &aside]
        });
        if ended.is_none() {
            signal_to(traced.id(), "TERM");
        }
        traced.0.wait().expect("it ends")
    };
    let (mut kills, mut wrong) = (0, Vec::new());
    for effect in
        ["?rename", "?renameat", "?unlink", "?unlinkat", "?link", "?linkat", "?rmdir", "fsync", "flock"]
    {
        for number in 1.. {
            let host = fresh();
            if clean(&host, &|install| strace(effect, number, install)).signal() != Some(9) {
                break;
            }
            kills += 1;
            wrong.extend(check(&host, false).err().map(|it| format!("{effect} {number}: {it}")));
            let plain = |install: &Command| {
                let mut command = Command::new(install.get_program());
                command.args(install.get_args()).env_clear();
                command.envs(install.get_envs().filter_map(|(key, value)| Some((key, value?))));
                command
            };
            let status = clean(&host, &plain);
            if !status.success() || host.names() != [MASTER] || host.net_d("multus.d").exists() {
                wrong.push(format!("{effect} {number}: {status}, {:?} left", host.names()));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert!(kills > 10, "{kills} effects only: strace delivers nothing");
}
