//! `kill -9` at any point of ADD and DEL: strace delivers it before the n-th system call of a kind, until
//! there is none. Whatever comes next leaves nothing.

use crate::harness::{Node, Pod, files};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

/// System calls that change something, and those in which plugins are waited for. What one of them has left
/// is there before the next. Those that this kernel or processor lacks are passed over (`?`).
const EFFECTS: [&str; 15] = [
    "?rename",
    "?renameat",
    "?renameat2",
    "?unlink",
    "?unlinkat",
    "?mkdir",
    "?mkdirat",
    "write",
    "fsync",
    "flock",
    "sendto",
    "?vfork",
    "?clone",
    "?clone3",
    "?poll",
];

/// A node, a pod, and a configuration with three networks, one of them by the reference plugins.
struct Lab {
    node: Node,
    pod: Pod,
    configuration: Value,
}

impl Lab {
    fn new() -> Self {
        let mut node = Node::new();
        node.usual_nads();
        let mut foreign = node.macvlan("n6", "10.50.0.0/24");
        foreign["cniVersion"] = json!("1.0.0");
        foreign["netplane"] = json!({ "builtin": false });
        node.nad("foreign", &foreign);
        let pod = node.pod();
        let mut configuration = node.configuration("1.1.0", "n3, foreign");
        configuration["binDir"] = json!("/usr/lib/cni");
        // Multus has been here: its files are kept up, too.
        std::fs::create_dir_all(node.records().join("results")).expect("a folder");
        Self { node, pod, configuration }
    }

    /// Calls the plugin and kills it before system call `number` of a kind. False: it came to its end.
    fn killed(&self, verb: &str, effect: &str, number: usize) -> bool {
        let (trace, inject) =
            (format!("trace={effect}"), format!("inject={effect}:signal=SIGKILL:when={number}"));
        let strace = ["strace", "-qqq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let mut command = self.node.command(verb, &self.pod.name, &self.pod.path(), &strace);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("strace is installed");
        let mut stdin = child.stdin.take().expect("stdin");
        // One that was killed does not read it.
        let _ = stdin.write_all(self.configuration.to_string().as_bytes());
        drop(stdin);
        let status = child.wait().expect("it ends");
        // Or such a system call is not to be had, and strace said so.
        assert!(
            status.signal() == Some(9) || status.success() || effect.starts_with('?'),
            "{verb} {effect} {number}: {status}"
        );
        status.signal() == Some(9)
    }

    fn call(&self, verb: &str) -> Result<Option<Value>, Value> {
        self.node.call(verb, &self.pod, &self.configuration)
    }

    fn gc(&self) -> Result<Option<Value>, Value> {
        let mut configuration = self.configuration.clone();
        configuration["cni.dev/valid-attachments"] = json!([]);
        self.node.call("GC", &self.pod, &configuration)
    }

    /// What is there that should not be.
    fn left(&self) -> Vec<String> {
        let mut left = self.pod.interfaces();
        left.extend(files(&self.node.records()));
        let kept = |name: &str| name == "lock" || name.starts_with("last_reserved_ip.");
        left.extend(files(&self.node.ipam()).into_iter().filter(|it| !kept(it)));
        left
    }

    /// Walks through the effects of `verb`. `before` and `after` each call; what `after` says is wrong.
    fn walk(&self, verb: &str, before: impl Fn(), after: impl Fn() -> Result<(), String>) {
        let (mut kills, mut wrong) = (0, Vec::new());
        for effect in EFFECTS {
            for number in 1.. {
                before();
                let killed = self.killed(verb, effect, number);
                let outcome = after().and_then(|()| match self.left() {
                    left if left.is_empty() => Ok(()),
                    left => Err(format!("left: {left:?}")),
                });
                if let Err(error) = outcome {
                    wrong.push(format!("{effect} {number}: {error}"));
                    // The next point is to start from nothing.
                    let _ = (self.call("DEL"), self.gc());
                }
                if !killed {
                    break;
                }
                kills += 1;
            }
        }
        assert_eq!(wrong, [""; 0]);
        assert!(kills > 15, "{kills} effects only: strace delivers nothing");
    }
}

fn failed(what: &str) -> impl Fn(Value) -> String {
    move |error| format!("{what}: {error}")
}

#[test]
fn no_call_waits_for_the_disk_but_a_child_that_it_leaves() {
    let lab = Lab::new();
    // The record and its folder, however many networks there are; and the folder that it is gone from.
    for (verb, synced) in [("ADD", 2), ("DEL", 1)] {
        let trace = tempfile::NamedTempFile::new().expect("a file");
        let path = trace.path().to_str().expect("UTF-8");
        let calls = "trace=execve,fsync,fdatasync,sync,syncfs";
        let strace = ["strace", "-f", "-qqq", "-o", path, "-e", calls];
        let mut command = lab.node.command(verb, &lab.pod.name, &lab.pod.path(), &strace);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("strace is installed");
        let stdin = lab.configuration.to_string();
        child.stdin.take().expect("stdin").write_all(stdin.as_bytes()).expect("read");
        assert!(child.wait().expect("it ends").success());
        let trace = std::fs::read_to_string(path).expect("a trace");
        let call = trace.split(' ').next().expect("the process that strace starts");
        let (own, of_others): (Vec<_>, Vec<_>) =
            trace.lines().filter(|it| it.contains("sync(")).partition(|it| it.starts_with(call));
        assert_eq!((own.len(), of_others.len()), (0, synced), "{verb}: {trace}");
    }
}

#[test]
fn an_add_killed_anywhere_is_cleaned_by_del() {
    let lab = Lab::new();
    lab.walk("ADD", || {}, || lab.call("DEL").map(drop).map_err(failed("DEL")));
}

#[test]
fn an_add_killed_anywhere_is_cleaned_by_gc() {
    let lab = Lab::new();
    lab.walk("ADD", || {}, || lab.gc().map(drop).map_err(failed("GC")));
}

#[test]
fn an_add_killed_anywhere_can_be_repeated() {
    let lab = Lab::new();
    let again = || {
        match lab.call("ADD") {
            Ok(_) => {}
            // All was done, and only the answer is missing.
            Err(error) if error["msg"].as_str().is_some_and(|it| it.contains("DEL comes first")) => {}
            Err(error) => return Err(failed("ADD")(error)),
        }
        let (interfaces, addresses) = (lab.pod.interfaces(), files(&lab.node.ipam()));
        let addresses = addresses.iter().filter(|it| it.parse::<std::net::IpAddr>().is_ok()).count();
        if interfaces != ["eth0", "net1", "net2"] || addresses != 3 {
            return Err(format!("{interfaces:?} with {addresses} addresses"));
        }
        lab.call("DEL").map(drop).map_err(failed("DEL"))
    };
    lab.walk("ADD", || {}, again);
}

#[test]
fn with_a_damaged_record_too_what_is_killed_anywhere_is_finished_by_del() {
    let lab = Lab::new();
    // Without Multus's files, which would know.
    std::fs::remove_dir(lab.node.records().join("results")).expect("removed");
    let attached = || {
        lab.call("ADD").expect("attached");
        let record = lab.node.records().join(format!("{}@eth0.json", lab.pod.name));
        std::fs::write(record, "{\"version\":1,").expect("as after a power cut");
    };
    let del = || {
        lab.call("DEL").map_err(failed("DEL"))?;
        let aside = lab.node.records().join(format!("{}@eth0.corrupt", lab.pod.name));
        std::fs::remove_file(aside).map_err(|error| format!("not set aside: {error}"))
    };
    for verb in ["DEL", "ADD"] {
        lab.walk(verb, attached, del);
    }
}

#[test]
fn a_del_killed_anywhere_is_finished_by_the_next() {
    let lab = Lab::new();
    let add = || drop(lab.call("ADD").expect("attached"));
    lab.walk("DEL", add, || lab.call("DEL").map(drop).map_err(failed("DEL")));
}
