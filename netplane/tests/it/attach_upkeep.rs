//! STATUS and GC: what is asked of plugins, and what comes back.

use crate::agent;
use crate::harness::{Node, Pod, answer, files};
use crate::recorded::{Recorded, message};
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;

/// GC as a runtime calls it that knows these containers, each with `eth0`.
fn gc(node: &Node, pod: &Pod, configuration: &Value, valid: &[&str]) -> Result<(), Value> {
    let valid: Vec<_> = valid.iter().map(|it| json!({"containerID": it, "ifname": "eth0"})).collect();
    let mut configuration = configuration.clone();
    configuration["cni.dev/valid-attachments"] = json!(valid);
    node.call("GC", pod, &configuration).map(|printed| assert_eq!(printed, None, "no output on success"))
}

#[test]
fn status_asks_the_default_networks_plugins() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let plugins = json!([{"type": "one", "key": 1}, {"type": "two"}]);
    lab.node.nad("new", &json!({"cniVersion": "1.1.0", "plugins": plugins}));
    lab.node.nad("old", &json!({"cniVersion": "1.0.0", "plugins": plugins}));
    let mut configuration = lab.configuration("1.1.0", "single");
    configuration["clusterNetwork"] = json!("core/new");
    let status = |configuration: &Value| lab.node.call("STATUS", &pod, configuration);
    assert_eq!(status(&configuration), Ok(None));
    assert_eq!(lab.calls(), ["STATUS--one", "STATUS--two"], "and nobody else");
    assert_eq!(
        lab.given("STATUS--one"),
        json!({"cniVersion": "1.1.0", "name": "new", "type": "one", "key": 1})
    );
    let env = std::fs::read_to_string(lab.path("env")).expect("read");
    for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"] {
        assert!(!env.contains(name), "{name} is not for STATUS: {env}");
    }
    for code in [50, 51, 7, 123] {
        let printed = json!({"cniVersion": "1.1.0", "code": code, "msg": "not yet", "details": "more"});
        std::fs::write(lab.path("fail-STATUS--two"), printed.to_string()).expect("written");
        let expected = json!({"cniVersion": "1.1.0", "code": code, "msg": "network core/new: not yet",
            "details": "more"});
        assert_eq!(status(&configuration), Err(expected));
    }
    let calls = lab.calls().len();
    configuration["clusterNetwork"] = json!("core/old");
    assert_eq!(status(&configuration), Ok(None), "older plugins are not asked");
    assert_eq!(lab.calls().len(), calls);
    configuration["clusterNetwork"] = json!("core/absent");
    let error = status(&configuration).expect_err("no such network");
    assert_eq!(error["code"], 50, "{error}");
    assert!(message(&error).contains("core/absent"), "{error}");
    configuration["clusterNetwork"] = json!("core/old");
    std::fs::remove_file(lab.path("two")).expect("removed");
    let error = status(&configuration).expect_err("no such plugin");
    assert_eq!(error["code"], 50, "{error}");
    assert!(message(&error).contains("core/old: no plugin \"two\""), "{error}");
}

#[test]
fn status_of_the_built_in_plugins() {
    let mut node = Node::new();
    // One address beside the gateway.
    node.nad("default-network", &node.macvlan("n3", "10.20.0.0/30"));
    let pod = node.pod();
    let configuration = node.configuration("1.1.0", "");
    let status = |node: &Node| node.call("STATUS", &pod, &configuration);
    assert_eq!(status(&node), Ok(None));
    assert!(files(&node.ipam()).is_empty(), "asking makes no store");
    node.call("ADD", &pod, &configuration).expect("attached");
    let error = status(&node).expect_err("none left");
    assert_eq!(error["code"], 50, "{error}");
    assert!(message(&error).contains("no address left in 10.20.0.1-10.20.0.2"), "{error}");
    node.call("DEL", &pod, &configuration).expect("detached");
    assert_eq!(status(&node), Ok(None));
    node.ip("link del n3");
    let error = status(&node).expect_err("no master");
    assert_eq!(error["code"], 51, "who is attached is cut off: {error}");
    assert!(
        message(&error).contains("core/default-network") && message(&error).contains("\"n3\""),
        "{error}"
    );
}

#[test]
fn status_asks_the_agent_where_there_is_to_be_one() {
    let lab = agent::lab();
    let mut configuration = json!({
        "cniVersion": "1.1.0", "name": "x", "type": "netplane", "nadDir": lab.nad_dir(),
        "clusterNetwork": "core/default-network", "agentSocket": lab.socket(),
    });
    let status = |configuration: &Value| {
        let mut command = lab.plugin().expect("unshare");
        command.env("CNI_COMMAND", "STATUS").env("CNI_PATH", "/opt/cni/bin");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the plugin starts");
        write!(child.stdin.take().expect("stdin"), "{configuration}").expect("read");
        answer(&child.wait_with_output().expect("it ends"))
    };
    let no_agent = || {
        let error = status(&configuration).expect_err("no agent");
        assert_eq!(error["code"], 50, "{error}");
        let socket = lab.socket().display().to_string();
        assert_eq!(message(&error), format!("agentSocket is {socket}: no agent answers there"));
    };
    no_agent();
    let process = lab.start_agent().expect("an agent");
    agent::until(&lab, &process, "the agent is ready", |it| it["ready"] == true);
    assert_eq!(status(&configuration), Ok(None));
    let pid = nix::unistd::Pid::from_raw(process.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("it stops");
    no_agent();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("it goes on");
    process.kill().expect("kill -9");
    no_agent();
    configuration["agentSocket"] = json!("");
    assert_eq!(status(&configuration), Ok(None), "none is to be there");
}

#[test]
fn gc_is_passed_on_to_plugins_that_know_it() {
    let mut lab = Recorded::new();
    lab.node.nad("base", &json!({"cniVersion": "1.1.0", "type": "one"}));
    lab.node.nad("new", &json!({"cniVersion": "1.1.0", "plugins": [{"type": "one"}, {"type": "two"}]}));
    lab.node.nad("off", &json!({"cniVersion": "1.1.0", "disableGC": true, "plugins": [{"type": "two"}]}));
    lab.node.nad("elsewhere", &json!({"cniVersion": "1.1.0", "type": "not-here"}));
    let (kept, gone) = (lab.node.pod(), lab.node.pod());
    let mut configuration = lab.configuration("1.1.0", "new,new@x,single");
    configuration["clusterNetwork"] = json!("core/base");
    for pod in [&kept, &gone] {
        lab.add(pod, &configuration);
    }
    std::fs::remove_dir_all(lab.path("calls")).expect("removed");
    gc(&lab.node, &kept, &configuration, &[&kept.name]).expect("done");
    let calls = lab.calls();
    let dels = ["DEL-net3-one", "DEL-x-two", "DEL-x-one", "DEL-net1-two", "DEL-net1-one", "DEL-eth0-one"];
    assert_eq!(calls[..6], dels);
    assert_eq!(
        calls[6..],
        ["GC--one", "GC--one", "GC--two"],
        "not of 0.4.0, nor with disableGC, nor what is not on this node"
    );
    let mut told = files(&lab.path("calls"));
    told.sort_unstable();
    let told = told.iter().skip(6).map(|name| {
        let text = std::fs::read_to_string(lab.path("calls").join(name)).expect("read");
        serde_json::from_str::<Value>(&text).expect("JSON")
    });
    let attachment = |it: &str| json!({"containerID": kept.name, "ifname": it});
    let base = json!({"cniVersion": "1.1.0", "name": "base", "type": "one",
        "cni.dev/valid-attachments": [attachment("eth0")]});
    let new = |kind: &str| {
        json!({"cniVersion": "1.1.0", "name": "new", "type": kind,
            "cni.dev/valid-attachments": [attachment("net1"), attachment("x")]})
    };
    assert_eq!(told.collect::<Vec<_>>(), [base, new("one"), new("two")]);
    let env = std::fs::read_to_string(lab.path("env")).expect("read");
    assert!(!env.contains("CNI_CONTAINERID") && env.contains("CNI_PATH"), "{env}");
    assert_eq!(lab.records(), [format!("{}@eth0.json", kept.name)]);
}

#[test]
fn gc_goes_on_after_errors_and_reports_them_all() {
    let mut lab = Recorded::new();
    lab.node.nad("new", &json!({"cniVersion": "1.1.0", "type": "one"}));
    let (kept, gone) = (lab.node.pod(), lab.node.pod());
    let configuration = lab.configuration("1.1.0", "single,new");
    for pod in [&kept, &gone] {
        lab.add(pod, &configuration);
    }
    let unreadable = lab.node.records().join("later@eth0.json");
    std::fs::write(&unreadable, r#"{"version": 99}"#).expect("written");
    for (file, name) in [("fail-DEL-net1-one", "first"), ("fail-GC--one", "second")] {
        let printed = json!({"code": 11, "msg": name, "details": format!("of {name}")});
        std::fs::write(lab.path(file), printed.to_string()).expect("written");
    }
    let error = gc(&lab.node, &kept, &configuration, &[&kept.name]).expect_err("three things");
    assert_eq!(error["code"], 100, "they have not one code: {error}");
    for part in ["later@eth0.json", "network core/single: first", "network core/new: second"] {
        assert!(message(&error).contains(part), "{part}: {error}");
    }
    assert!(lab.calls().contains(&"DEL-net2-one".to_owned()), "the other delegate: {:?}", lab.calls());
    assert!(lab.node.records().join(format!("{}@eth0.json", gone.name)).exists(), "to be tried again");
    std::fs::remove_file(&unreadable).expect("removed");
    std::fs::remove_file(lab.path("fail-GC--one")).expect("removed");
    let error = gc(&lab.node, &kept, &configuration, &[&kept.name]).expect_err("one thing");
    let expected = json!({"cniVersion": "1.1.0", "code": 11, "msg": "network core/single: first",
        "details": "of first"});
    assert_eq!(error, expected);
    std::fs::remove_file(lab.path("fail-DEL-net1-one")).expect("removed");
    let mut lost = configuration.clone();
    lost["clusterNetwork"] = json!("core/absent");
    let error = gc(&lab.node, &kept, &lost, &[&kept.name]).expect_err("its addresses cannot be found");
    assert!(message(&error).contains("core/absent"), "{error}");
    assert_eq!(lab.records(), [format!("{}@eth0.json", kept.name)], "the rest is done all the same");
    gc(&lab.node, &kept, &configuration, &[&kept.name]).expect("done");
    assert_eq!(lab.records(), [format!("{}@eth0.json", kept.name)]);
}

#[test]
fn gc_leaves_containers_alone_that_it_does_not_know() {
    let mut lab = Recorded::new();
    lab.node.nad("base", &json!({"cniVersion": "1.1.0", "type": "one"}));
    lab.node.nad("new", &json!({"cniVersion": "1.1.0", "type": "two"}));
    let pod = lab.node.pod();
    let mut configuration = lab.configuration("1.1.0", "new");
    configuration["clusterNetwork"] = json!("core/base");
    lab.add(&pod, &configuration);
    gc(&lab.node, &pod, &configuration, &[&pod.name, "stranger"]).expect("done");
    assert_eq!(lab.calls()[2..], ["GC--one"], "two would remove what the stranger may have under any name");
    let valid = &lab.given("GC--one")["cni.dev/valid-attachments"];
    let expected = json!([{"containerID": pod.name, "ifname": "eth0"},
        {"containerID": "stranger", "ifname": "eth0"}]);
    assert_eq!(*valid, expected);
}

#[test]
fn gc_gives_back_addresses_that_nobody_has() {
    let mut node = Node::new();
    node.usual_nads();
    let bridge = json!({"cniVersion": "1.0.0", "type": "bridge",
        "ipam": {"type": "host-local", "dataDir": node.ipam(), "subnet": "10.50.0.0/24"}});
    node.nad("bridge", &bridge);
    let mut off = node.macvlan("n6", "10.70.0.0/24");
    off = json!({"cniVersion": "1.1.0", "name": "off", "disableGC": true, "plugins": [off]});
    node.nad("off", &off);
    let (kept, gone) = (node.pod(), node.pod());
    let configuration = node.configuration("1.1.0", "n3");
    for pod in [&kept, &gone] {
        node.call("ADD", pod, &configuration).expect("attached");
    }
    let write = |file: &str, text: &str| {
        let path = node.ipam().join(file);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    let has = |file: &str| node.ipam().join(file).exists();
    // Of an ADD that was killed, of an interface that is no more, of nobody, of plugins that know no GC.
    write("n3/10.30.0.100", "killed\r\nnet1");
    write("n3/10.30.0.101", &format!("{}\r\nnet9", kept.name));
    write("n3/10.30.0.102", "");
    write("bridge/10.50.0.2", "killed\r\nnet1");
    // Of whom `disableGC` leaves it to.
    write("off/10.70.0.2", "killed\r\nnet1");
    // Of a container that the runtime has and netplane did not attach.
    write("n3/10.30.0.103", "stranger\r\nnet7");
    let records = node.records();
    for file in ["killed@eth0.corrupt", "killed@eth0.tmp", "stranger@eth0.corrupt"] {
        std::fs::write(records.join(file), "{").expect("written");
    }
    gc(&node, &kept, &configuration, &[&kept.name, "stranger"]).expect("done");
    for file in ["n3/10.30.0.100", "n3/10.30.0.101", "n3/10.30.0.102", "bridge/10.50.0.2"] {
        assert!(!has(file), "{file}");
    }
    for file in [
        "n3/10.30.0.2",
        "default-network/10.20.0.2",
        "n3/10.30.0.103",
        "off/10.70.0.2",
        "n3/last_reserved_ip.0",
    ] {
        assert!(has(file), "{file}");
    }
    assert!(!has("n3/10.30.0.3") && !has("default-network/10.20.0.3"), "the pod that is gone");
    assert!(gone.interfaces().is_empty());
    node.call("CHECK", &kept, &configuration).expect("as it was");
    let mut left = files(&records);
    left.sort_unstable();
    let mut expected = vec![format!("{}@eth0.json", kept.name), "stranger@eth0.corrupt".to_owned()];
    expected.sort_unstable();
    assert_eq!(left, expected);
}
