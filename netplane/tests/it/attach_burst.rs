//! A node that has just started: two hundred pods at once, with little memory.

use crate::harness::{Node, Pod, answer, files};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Bytes for 200 processes that are all there at once, most of them waiting for their turn with a sixth of a MiB, and
/// for the kernel's part of 400 interfaces.
const LIMIT: u64 = 64 << 20;

/// A memory cgroup of its own, version 2 where memory is there, else version 1.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(limit: u64) -> Self {
        let v2 = Path::new("/sys/fs/cgroup");
        let controllers = fs::read_to_string(v2.join("cgroup.controllers")).unwrap_or_default();
        let is_v2 = controllers.split_whitespace().any(|it| it == "memory");
        let (parent, file) =
            if is_v2 { (v2.to_owned(), "memory.max") } else { (v2.join("memory"), "memory.limit_in_bytes") };
        if is_v2 {
            fs::write(parent.join("cgroup.subtree_control"), "+memory").expect("a cgroup tree of ours");
        }
        let folder = parent.join(format!("netplane-test-{}", std::process::id()));
        fs::create_dir(&folder).expect("a cgroup tree of ours");
        let cgroup = Self(folder);
        fs::write(cgroup.0.join(file), limit.to_string()).expect("a memory controller");
        cgroup
    }

    fn number(&self, names: [&str; 2]) -> u64 {
        let text = names.iter().find_map(|it| fs::read_to_string(self.0.join(it)).ok());
        text.and_then(|it| it.trim().parse().ok()).expect("a number")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn two_hundred_adds_at_once_need_little_memory() {
    let cgroup = Cgroup::new(LIMIT);
    let mut node = Node::new();
    node.usual_nads();
    let pods: Vec<_> = (0..200).map(|_| node.pod()).collect();
    let configuration = node.configuration("1.1.0", "n3").to_string();
    let procs = cgroup.0.join("cgroup.procs").display().to_string();
    let call = |verb: &str, pod: &Pod| -> Result<Option<Value>, Value> {
        let under = ["sh", "-c", "echo $$ > $0 && exec \"$@\"", &procs];
        let mut command = node.command(verb, &pod.name, &pod.path(), &under);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("nsenter is installed");
        let written = child.stdin.take().expect("stdin").write_all(configuration.as_bytes());
        let output = child.wait_with_output().expect("it ends");
        written.unwrap_or_else(|error| panic!("{verb}: {error}: {}", output.status));
        answer(&output)
    };
    for verb in ["ADD", "DEL"] {
        let results: Vec<_> = std::thread::scope(|scope| {
            let calls: Vec<_> = pods.iter().map(|pod| scope.spawn(|| call(verb, pod))).collect();
            calls.into_iter().map(|it| it.join()).collect()
        });
        let failed: Vec<_> = results.iter().filter(|it| !matches!(it, Ok(Ok(_)))).collect();
        let peak = cgroup.number(["memory.peak", "memory.max_usage_in_bytes"]);
        assert!(failed.is_empty(), "{verb}: {} failed at {peak} bytes, like {:?}", failed.len(), failed[0]);
    }
    assert_eq!(files(&node.records()), Vec::<String>::new());
}
