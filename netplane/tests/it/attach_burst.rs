//! A node that has just started: two hundred pods at once, with little memory.

use crate::harness::{Node, Pod, answer, files};
use netplane_bench::lab::cgroup::Cgroup;
use serde_json::Value;
use std::io::Write;
use std::process::Stdio;

/// Bytes for 200 processes that are all there at once, most of them waiting for their turn with a sixth of a MiB, and
/// for the kernel's part of 400 interfaces.
const LIMIT: u64 = 64 << 20;

#[test]
fn two_hundred_adds_at_once_need_little_memory() {
    let name = format!("netplane-test-{}", std::process::id());
    let cgroup = Cgroup::new(&name, Some(LIMIT)).expect("a memory controller");
    let mut node = Node::new();
    node.usual_nads();
    let pods: Vec<_> = (0..200).map(|_| node.pod()).collect();
    let configuration = node.configuration("1.1.0", "n3").to_string();
    let procs = cgroup.procs().display().to_string();
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
        let peak = cgroup.peak().expect("a number");
        assert!(failed.is_empty(), "{verb}: {} failed at {peak} bytes, like {:?}", failed.len(), failed[0]);
    }
    assert_eq!(files(&node.records()), Vec::<String>::new());
}
