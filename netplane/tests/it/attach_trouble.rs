//! Full and read-only disks, vanished namespaces and masters, locks, and many calls at once: a clear error
//! that names what is in the way, nothing left, and DEL goes on.

use crate::harness::{Node, Pod, answer, files};
use crate::recorded::Recorded;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A small disk that only calls under [`Disk::under`] see.
struct Disk {
    holder: Child,
    folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let script = "mount -t tmpfs -o size=64k small \"$0\" && mkdir \"$0/d\" && echo ready && cat";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c", script]).arg(folder.path());
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("util-linux");
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("stdout");
        BufReader::new(stdout).read_line(&mut line).expect("read");
        assert_eq!(line, "ready\n");
        Self { holder, folder }
    }

    /// Its folder as calls see it.
    fn inside(&self) -> PathBuf {
        self.folder.path().join("d")
    }

    /// The same from here.
    fn outside(&self) -> PathBuf {
        Path::new(&format!("/proc/{}/root{}", self.holder.id(), self.inside().display())).to_owned()
    }

    fn call(
        &self,
        node: &Node,
        verb: &str,
        pod: &Pod,
        configuration: &Value,
    ) -> Result<Option<Value>, Value> {
        let holder = self.holder.id().to_string();
        let under = ["nsenter", "--mount", "--target", &holder];
        run(node.command(verb, &pod.name, &pod.path(), &under), configuration)
    }

    fn fill(&self) {
        let mut filler = fs::File::create(self.outside().join("../filler")).expect("a file");
        while filler.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.outside().join("../filler")).expect("removed");
    }

    fn remount(&self, how: &str) {
        let holder = self.holder.id().to_string();
        let mut mount = Command::new("nsenter");
        mount.args(["--mount", "--target", &holder, "mount", "-o", &format!("remount,{how}")]);
        assert!(mount.arg(self.folder.path()).status().expect("nsenter").success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn run(mut command: Command, configuration: &Value) -> Result<Option<Value>, Value> {
    let mut child = start(&mut command, configuration);
    drop(child.stdin.take());
    answer(&child.wait_with_output().expect("it ends"))
}

fn start(command: &mut Command, configuration: &Value) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("nsenter is installed");
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(configuration.to_string().as_bytes()).expect("stdin is read");
    child
}

fn addresses(folder: &Path) -> Vec<String> {
    let mut names = files(folder);
    names.retain(|it| it.parse::<std::net::IpAddr>().is_ok());
    names
}

#[track_caller]
fn assert_error(error: &Value, code: u64, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error["code"], code, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

/// A plugin that runs a script for ADD, and says nothing.
fn plugin(folder: &Path, name: &str, script: &str) {
    let result = r#"{"cniVersion":"1.0.0"}"#;
    let text =
        format!("#!/bin/sh\ncat >/dev/null\nif [ $CNI_COMMAND = ADD ]; then {script}; echo '{result}'; fi\n");
    fs::write(folder.join(name), text).expect("written");
    fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o755)).expect("executable");
}

/// Until it is so.
fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(120), "{what}: not so for two minutes");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_full_disk_for_records_is_named_and_del_goes_on() {
    let (mut node, disk) = (Node::new(), Disk::new());
    node.usual_nads();
    let pod = node.pod();
    let mut configuration = node.configuration("1.1.0", "n3");
    configuration["cniDir"] = json!(disk.inside());
    disk.fill();
    let error = disk.call(&node, "ADD", &pod, &configuration).expect_err("full");
    let record = disk.inside().join(format!("{}@eth0.json", pod.name));
    assert_error(&error, 5, &[&record.display().to_string(), "No space left"]);
    assert_eq!(pod.interfaces(), Vec::<String>::new());
    assert_eq!((addresses(&node.ipam()), files(&disk.outside())), (vec![], vec![]));
    disk.call(&node, "DEL", &pod, &configuration).expect("nothing to do");
    disk.free();
    disk.call(&node, "ADD", &pod, &configuration).expect("attached");
    disk.fill();
    disk.call(&node, "DEL", &pod, &configuration).expect("detached");
    assert_eq!(pod.interfaces(), Vec::<String>::new());
    assert_eq!((addresses(&node.ipam()), files(&disk.outside())), (vec![], vec![]));
}

#[test]
fn a_full_disk_for_addresses_is_named_and_del_goes_on() {
    let (mut node, disk) = (Node::new(), Disk::new());
    node.usual_nads();
    let mut n3 = node.macvlan("n3", "10.30.0.0/24");
    n3["ipam"]["dataDir"] = json!(disk.inside());
    node.nad("n3", &n3);
    let pod = node.pod();
    let configuration = node.configuration("1.1.0", "n6, n3");
    disk.fill();
    let error = disk.call(&node, "ADD", &pod, &configuration).expect_err("full");
    let address = disk.inside().join("n3/10.30.0.2").display().to_string();
    assert_error(&error, 5, &["network core/n3", &address, "No space left"]);
    let nothing_left = || {
        assert_eq!(pod.interfaces(), Vec::<String>::new());
        assert_eq!((addresses(&node.ipam()), addresses(&disk.outside())), (vec![], vec![]));
        assert_eq!(files(&node.records()), Vec::<String>::new());
        assert!(!files(&disk.outside()).contains(&".reserving".to_owned()));
    };
    nothing_left();
    disk.free();
    disk.call(&node, "ADD", &pod, &configuration).expect("attached");
    disk.fill();
    disk.call(&node, "DEL", &pod, &configuration).expect("detached");
    nothing_left();
}

#[test]
fn read_only_folders_are_named_and_del_does_what_it_can() {
    let (mut node, disk) = (Node::new(), Disk::new());
    node.usual_nads();
    let mut n3 = node.macvlan("n3", "10.30.0.0/24");
    n3["ipam"]["dataDir"] = json!(disk.inside().join("ipam"));
    node.nad("n3", &n3);
    let pod = node.pod();
    let mut configuration = node.configuration("1.1.0", "n3, n6");
    configuration["cniDir"] = json!(disk.inside());
    let record = disk.inside().join(format!("{}@eth0.json", pod.name)).display().to_string();
    disk.remount("ro");
    let error = disk.call(&node, "ADD", &pod, &configuration).expect_err("read-only");
    assert_error(&error, 5, &[&record, "Read-only"]);
    assert_eq!(pod.interfaces(), Vec::<String>::new());
    disk.call(&node, "DEL", &pod, &configuration).expect("nothing to do");
    disk.remount("rw");
    disk.call(&node, "ADD", &pod, &configuration).expect("attached");
    disk.remount("ro");
    let error = disk.call(&node, "DEL", &pod, &configuration).expect_err("read-only");
    assert_error(&error, 5, &["network core/n3", &disk.inside().join("ipam").display().to_string()]);
    assert_eq!(pod.interfaces(), Vec::<String>::new(), "what can go is gone");
    assert_eq!(addresses(&node.ipam()), Vec::<String>::new());
    disk.remount("rw");
    disk.call(&node, "DEL", &pod, &configuration).expect("the rest");
    assert_eq!((addresses(&disk.outside()), pod.interfaces()), (vec![], vec![]));
    assert!(!disk.outside().join(format!("{}@eth0.json", pod.name)).exists());
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let mut node = Node::new();
    node.usual_nads();
    let pod = node.pod();
    let mut configuration = node.configuration("1.1.0", "n3");
    fs::write(node.nads().join("file"), "").expect("a file");
    configuration["cniDir"] = json!(node.nads().join("file/records"));
    let error = node.call("ADD", &pod, &configuration).expect_err("below a file");
    assert_error(&error, 5, &["file/records", "Not a directory"]);
    assert_eq!((pod.interfaces(), addresses(&node.ipam())), (vec![], vec![]));
    node.call("DEL", &pod, &configuration).expect("there can be nothing");
}

#[test]
fn a_namespace_or_a_master_that_goes_away_leaves_nothing() {
    let mut node = Node::new();
    node.usual_nads();
    let bin = tempfile::tempdir().expect("a folder");
    for (name, what, networks, part) in [
        ("unpod", "ip netns del $(basename $CNI_NETNS)", "n3, unpod, n6", "/run/netns/"),
        ("unmaster", "ip link del n6", "n3, unmaster, n6", "n6"),
    ] {
        plugin(bin.path(), name, what);
        node.nad(name, &json!({"cniVersion": "1.0.0", "type": name}));
        let pod = node.pod();
        let mut configuration = node.configuration("1.1.0", networks);
        configuration["binDir"] = json!(bin.path());
        let error = node.call("ADD", &pod, &configuration).expect_err(name);
        assert!(error["msg"].as_str().is_some_and(|it| it.contains("core/n6")), "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(addresses(&node.ipam()), Vec::<String>::new(), "{name}");
        assert_eq!(files(&node.records()), Vec::<String>::new(), "{name}");
        node.call("DEL", &pod, &configuration).expect("nothing left");
    }
    let pod = node.pod();
    let configuration = node.configuration("1.1.0", "n3");
    node.call("ADD", &pod, &configuration).expect("attached");
    node.ip("link del n3");
    node.call("DEL", &pod, &configuration).expect("its master took the device along");
    assert_eq!((addresses(&node.ipam()), files(&node.records())), (vec![], vec![]));
}

#[test]
fn a_lock_of_a_living_process_is_waited_for_and_named() {
    let mut node = Node::new();
    node.usual_nads();
    let pod = node.pod();
    let lock = node.ipam().join("n3/lock");
    fs::create_dir_all(node.ipam().join("n3")).expect("a folder");
    let script = format!("exec 9>{}; flock 9; echo locked; read line", lock.display());
    let mut holder = Command::new("bash");
    holder.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn().expect("bash");
    let mut line = String::new();
    BufReader::new(holder.stdout.take().expect("stdout")).read_line(&mut line).expect("read");
    let mut configuration = node.configuration("1.1.0", "n3");
    configuration["delegateTimeout"] = json!(0.5);
    let error = node.call("ADD", &pod, &configuration);
    configuration["delegateTimeout"] = json!(100);
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| node.call("ADD", &pod, &configuration));
        drop(holder.stdin.take());
        let _ = holder.wait();
        waiting.join().expect("no panic")
    });
    assert_error(
        &error.expect_err("locked"),
        11,
        &["network core/n3", &lock.display().to_string(), "locked by"],
    );
    waiting.expect("attached as soon as it is free");
    node.call("DEL", &pod, &configuration).expect("detached");
}

#[test]
fn del_waits_for_plugins_that_outlived_their_add() {
    let mut node = Node::new();
    let bin = tempfile::tempdir().expect("a folder");
    let path = |name: &str| bin.path().join(name);
    let folder = bin.path().display();
    let script =
        format!("touch {folder}/begun; until [ -e {folder}/go ]; do sleep 0.05; done; touch {folder}/made");
    plugin(bin.path(), "slow", &script);
    let text = fs::read_to_string(path("slow")).expect("read");
    let del = format!("{text}if [ $CNI_COMMAND = DEL ]; then mv {folder}/made {folder}/unmade || true; fi\n");
    fs::write(path("slow"), del).expect("written");
    node.nad("default-network", &json!({"cniVersion": "1.0.0", "type": "slow"}));
    let pod = node.pod();
    let mut configuration = node.configuration("1.1.0", "");
    configuration["binDir"] = json!(bin.path());
    let mut add = start(&mut node.command("ADD", &pod.name, &pod.path(), &[]), &configuration);
    wait_for("the plugin begins", || path("begun").exists());
    add.kill().expect("killed");
    add.wait().expect("dead");
    configuration["delegateTimeout"] = json!(0.2);
    let error = node.call("DEL", &pod, &configuration).expect_err("at work");
    assert_error(&error, 11, &[&format!("{}@eth0.lock", pod.name), "has ended"]);
    configuration["delegateTimeout"] = json!(100);
    let del = start(&mut node.command("DEL", &pod.name, &pod.path(), &[]), &configuration);
    let waits = format!("-> FLOCK  ADVISORY  WRITE {} ", del.id());
    wait_for("DEL waits", || fs::read_to_string("/proc/locks").is_ok_and(|it| it.contains(&waits)));
    fs::write(path("go"), "").expect("written");
    answer(&del.wait_with_output().expect("it ends")).expect("detached");
    assert!(path("unmade").exists(), "DEL came after all that ADD had done");
    assert_eq!(files(&node.records()), Vec::<String>::new());
}

#[test]
fn with_a_damaged_record_too_a_del_that_fails_is_tried_again() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let configuration = lab.configuration("1.1.0", "chain, single");
    lab.add(&pod, &configuration);
    let record = lab.node.records().join(format!("{}@eth0.json", pod.name));
    fs::write(&record, "{\"version\":1,\"contai").expect("as after a power cut");
    fs::write(lab.path("fail-DEL-net1-two"), r#"{"code": 11, "msg": "busy"}"#).expect("written");
    let mut stubborn = configuration.clone();
    stubborn["retryDeleteOnError"] = json!(true);
    for _ in 0..2 {
        let error = lab.node.call("DEL", &pod, &stubborn).expect_err("busy");
        assert_error(&error, 11, &["core/chain", "busy"]);
    }
    fs::remove_file(lab.path("fail-DEL-net1-two")).expect("removed");
    lab.del(&pod, &stubborn);
    let down = ["DEL-net2-one", "DEL-net1-two", "DEL-net1-one"];
    assert_eq!(lab.calls()[3..], [down, down, down].concat());
    assert_eq!(lab.records(), [format!("{}@eth0.corrupt", pod.name)]);
}

#[test]
fn del_needs_neither_cluster_nor_agent() {
    let mut node = Node::new();
    node.usual_nads();
    let pod = node.pod();
    let mut configuration = node.configuration("1.1.0", "n3");
    node.call("ADD", &pod, &configuration).expect("attached");
    configuration["kubeconfig"] = json!("/nowhere/kubeconfig");
    configuration["agentSocket"] = json!("/nowhere/agent.sock");
    configuration["nadDir"] = json!("/nowhere/nads");
    node.args.clear();
    node.call("DEL", &pod, &configuration).expect("detached");
    assert_eq!((pod.interfaces(), files(&node.records())), (vec![], vec![]));
    assert_eq!(addresses(&node.ipam()), Vec::<String>::new());
}

#[test]
fn a_hundred_adds_and_dels_at_once_give_no_address_twice() {
    let mut node = Node::new();
    node.usual_nads();
    let pods: Vec<_> = (0..150).map(|_| node.pod()).collect();
    let (first, second) = pods.split_at(100);
    let configuration = node.configuration("1.1.0", "n3");
    let text = configuration.to_string();
    let all = |calls: &[(&'static str, &Pod)]| {
        std::thread::scope(|scope| {
            let call = |(verb, pod): &(&'static str, &Pod)| {
                let (node, text, verb, name, path) = (&node, &text, *verb, pod.name.clone(), pod.path());
                scope.spawn(move || node.call_in(verb, &name, &path, text))
            };
            let calls: Vec<_> = calls.iter().map(call).collect();
            let calls = calls.into_iter().map(|it| it.join().expect("no panic").expect("no error"));
            calls.collect::<Vec<_>>()
        })
    };
    let added = all(&first.iter().map(|it| ("ADD", it)).collect::<Vec<_>>());
    let of = |result: &Value| result["ips"][0]["address"].as_str().expect("an address").to_owned();
    let given: BTreeSet<_> = added.iter().flatten().map(of).collect();
    assert_eq!(given.len(), 100);
    // Half of them go while others come.
    let (going, staying) = first.split_at(50);
    let mixed = going.iter().map(|it| ("DEL", it)).chain(second.iter().map(|it| ("ADD", it)));
    all(&mixed.collect::<Vec<_>>());
    assert_eq!(addresses(&node.ipam()).len(), 200);
    let mut seen = BTreeSet::new();
    for pod in staying.iter().chain(second) {
        let shown: Value = serde_json::from_str(&pod.ip("-j -4 address show")).expect("JSON of ip");
        let links = shown.as_array().into_iter().flatten().filter(|it| it["ifname"] != "lo");
        for address in links.flat_map(|it| it["addr_info"].as_array().into_iter().flatten()) {
            assert!(seen.insert(address["local"].to_string()), "{address} twice");
        }
    }
    assert_eq!(seen.len(), 200);
    all(&staying.iter().chain(second).map(|it| ("DEL", it)).collect::<Vec<_>>());
    assert_eq!((addresses(&node.ipam()), files(&node.records())), (vec![], vec![]));
    assert!(pods.iter().all(|it| it.interfaces().is_empty()));
}
