//! The configuration's keys, as far as they are about when and what, not about one pod's selection.

use crate::harness::files;
use crate::recorded::{Recorded, message};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

#[test]
fn add_waits_for_the_readiness_file_and_del_does_not() {
    let mut lab = Recorded::new();
    let (pod, other) = (lab.node.pod(), lab.node.pod());
    let file = lab.path("ready");
    let at_once = lab.configuration("1.1.0", "single@other");
    let mut configuration = lab.configuration("1.1.0", "single");
    configuration["readinessindicatorfile"] = json!(file);
    let error = lab.node.call("STATUS", &pod, &configuration).expect_err("not ready");
    assert_eq!(error["code"], 50, "{error}");
    assert!(message(&error).contains("readinessindicatorfile") && message(&error).contains("ready"));
    let log = lab.path("log");
    configuration["logFile"] = json!(log);
    configuration["logLevel"] = json!("verbose");
    std::thread::scope(|scope| {
        let (node, pod, configuration) = (&lab.node, &pod, &configuration);
        let add = scope.spawn(move || node.call("ADD", pod, configuration));
        let end = Instant::now() + Duration::from_secs(30);
        while !std::fs::read_to_string(&log).is_ok_and(|it| it.contains("waits for the readiness")) {
            assert!(Instant::now() < end, "it does not say that it waits");
            std::thread::yield_now();
        }
        // Time enough for one that does not wait.
        lab.add(&other, &at_once);
        lab.del(&other, &at_once);
        assert_eq!(lab.calls(), ["ADD-other-one", "DEL-other-one"]);
        assert!(!add.is_finished());
        std::fs::write(&file, "").expect("written");
        add.join().expect("no panic").expect("attached");
    });
    lab.node.call("STATUS", &pod, &configuration).expect("ready");
    std::fs::remove_file(&file).expect("removed");
    lab.del(&pod, &configuration);
    assert_eq!(lab.calls()[2..], ["ADD-net1-one", "DEL-net1-one"]);
}

/// A configuration directory with a default network and, under `chain`, two plugins in files.
fn chained(lab: &Recorded) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, config: Value| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, config.to_string()).expect("written");
    };
    write("10-default.conf", json!({"cniVersion": "0.4.0", "name": "default", "type": "one"}));
    write("chain/20.conf", json!({"type": "three", "name": "any", "cniVersion": "0.1.0"}));
    write("chain/10.conf", json!({"type": "two", "name": "any", "key": 7}));
    lab.plugin("three");
    dir
}

#[test]
fn the_auxiliary_chain_is_called_for_every_pod_after_all_else() {
    let mut lab = Recorded::new();
    let dir = chained(&lab);
    let by_file = json!(dir.path().join("10-default.conf"));
    for cluster_network in [by_file, json!(dir.path()), json!("default")] {
        let pod = lab.node.pod();
        let mut configuration = lab.configuration("1.0.0", "single@net2");
        configuration["clusterNetwork"] = cluster_network;
        configuration["confDir"] = json!(dir.path());
        configuration["auxiliaryCNIChainName"] = json!("chain");
        let result = lab.add(&pod, &configuration);
        assert_eq!(result["dns"]["domain"], "one", "the result is the default network's");
        let calls = ["ADD-eth0-one", "ADD-net2-one", "ADD-net3-two", "ADD-net3-three"];
        assert_eq!(lab.calls(), calls, "under a name that nobody has asked for");
        let given = lab.given("ADD-net3-two");
        let expected = json!({"cniVersion": "1.0.0", "name": "chain", "type": "two", "key": 7,
            "prevResult": {"cniVersion": "1.0.0", "dns": {}}});
        assert_eq!(given, expected, "chained plugins want a prevResult");
        assert_eq!(lab.given("ADD-net3-three")["prevResult"]["dns"]["domain"], "two");
        lab.del(&pod, &configuration);
        let down = ["DEL-net3-three", "DEL-net3-two", "DEL-net2-one", "DEL-eth0-one"];
        assert_eq!(lab.calls()[4..], down);
        std::fs::remove_dir_all(lab.path("calls")).expect("removed");
    }
}

#[test]
fn an_auxiliary_chain_that_is_empty_is_none_and_a_broken_one_an_error() {
    let mut lab = Recorded::new();
    let dir = chained(&lab);
    let pod = lab.node.pod();
    let mut configuration = lab.configuration("1.0.0", "");
    configuration["clusterNetwork"] = json!("default");
    configuration["confDir"] = json!(dir.path());
    configuration["auxiliaryCNIChainName"] = json!("another");
    lab.add(&pod, &configuration);
    lab.del(&pod, &configuration);
    assert_eq!(lab.calls(), ["ADD-eth0-one", "DEL-eth0-one"]);
    configuration["auxiliaryCNIChainName"] = json!("chain");
    std::fs::write(dir.path().join("chain/30.conf"), "{").expect("written");
    let error = lab.node.call("ADD", &pod, &configuration).expect_err("broken");
    assert!(message(&error).contains("chain/30.conf"), "{error}");
    configuration["auxiliaryCNIChainName"] = json!("../etc");
    let error = lab.node.call("ADD", &pod, &configuration).expect_err("a path");
    assert!(message(&error).starts_with("auxiliaryCNIChainName is \"../etc\""), "{error}");
    assert_eq!(lab.calls().len(), 2);
}

#[test]
fn an_empty_nad_is_a_file_of_its_name_lists_first() {
    let mut lab = Recorded::new();
    let dir = tempfile::tempdir().expect("a folder");
    let pod = lab.node.pod();
    let nad = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "file", "namespace": "core"}});
    std::fs::write(lab.node.nads().join("file.json"), nad.to_string()).expect("a NAD");
    let mut configuration = lab.configuration("1.0.0", "file");
    configuration["confDir"] = json!(dir.path());
    let error = lab.node.call("ADD", &pod, &configuration).expect_err("no such file");
    assert!(message(&error).starts_with("network core/file: spec.config: empty, and no file"), "{error}");
    let single = json!({"cniVersion": "0.4.0", "name": "file", "type": "one"});
    std::fs::write(dir.path().join("10.conf"), single.to_string()).expect("written");
    let list = json!({"cniVersion": "0.4.0", "name": "file", "plugins": [{"type": "two"}]});
    std::fs::write(dir.path().join("20.conflist"), list.to_string()).expect("written");
    lab.add(&pod, &configuration);
    assert_eq!(lab.calls(), ["ADD-net1-two"]);
}

#[test]
fn networks_of_the_configuration_are_nads_first_then_names_then_directories_and_files() {
    let mut lab = Recorded::new();
    let dir = tempfile::tempdir().expect("a folder");
    lab.plugin("three");
    let config = |kind: &str, name: &str| json!({"cniVersion": "0.4.0", "name": name, "type": kind});
    let file = dir.path().join("10-other.conf");
    std::fs::write(&file, config("two", "wanted").to_string()).expect("written");
    let nad = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "wanted", "namespace": "infra"},
        "spec": {"config": config("one", "nad").to_string()}});
    std::fs::write(lab.node.nads().join("wanted.json"), nad.to_string()).expect("a NAD");
    let elsewhere = tempfile::tempdir().expect("a folder");
    std::fs::write(elsewhere.path().join("20.conf"), config("two", "second").to_string()).expect("written");
    std::fs::write(elsewhere.path().join("10.conf"), config("three", "first").to_string()).expect("written");
    for (namespace, network, kind) in [
        (Some("infra"), json!("wanted"), "one"),
        (None, json!("wanted"), "two"),
        (Some("infra"), json!("infra/wanted"), "one"),
        (None, json!(elsewhere.path()), "three"),
        (None, json!(elsewhere.path().join("20.conf")), "two"),
    ] {
        let pod = lab.node.pod();
        let mut configuration = lab.configuration("0.4.0", "");
        configuration["confDir"] = json!(dir.path());
        configuration["multusNamespace"] = json!(namespace);
        configuration["clusterNetwork"] = network.clone();
        configuration["defaultNetworks"] = json!([network]);
        lab.add(&pod, &configuration);
        assert_eq!(lab.calls(), [format!("ADD-eth0-{kind}"), format!("ADD-net1-{kind}")]);
        std::fs::remove_dir_all(lab.path("calls")).expect("removed");
    }
    let mut configuration = lab.configuration("0.4.0", "");
    configuration["clusterNetwork"] = json!("nowhere");
    let pod = lab.node.pod();
    let error = lab.node.call("ADD", &pod, &configuration).expect_err("none of these");
    assert!(message(&error).starts_with("network \"nowhere\": neither a NAD"), "{error}");
}

#[test]
fn pods_of_system_namespaces_get_the_default_network_and_what_they_select_only() {
    let mut lab = Recorded::new();
    for (systems, namespace, extra) in [
        (json!(null), "kube-system", false),
        (json!(null), "core", true),
        (json!(["core"]), "core", false),
        (json!(["core"]), "kube-system", true),
        (json!([]), "kube-system", true),
    ] {
        let pod = lab.node.pod();
        lab.node.args = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=x");
        let mut configuration = lab.configuration("0.4.0", "core/single@own");
        configuration["clusterNetwork"] = json!("core/single");
        configuration["defaultNetworks"] = json!(["core/single"]);
        configuration["systemNamespaces"] = systems;
        lab.add(&pod, &configuration);
        let mut expected = vec!["ADD-eth0-one", "ADD-net1-one", "ADD-own-one"];
        if !extra {
            expected.remove(1);
        }
        assert_eq!(lab.calls(), expected, "{namespace}");
        std::fs::remove_dir_all(lab.path("calls")).expect("removed");
    }
}

#[test]
fn a_directory_with_our_own_configuration_in_it_ends_in_an_error() {
    let mut lab = Recorded::new();
    let dir = tempfile::tempdir().expect("a folder");
    let pod = lab.node.pod();
    let mut configuration = lab.configuration("1.1.0", "");
    configuration["clusterNetwork"] = json!(dir.path());
    std::fs::write(dir.path().join("00-multus.conf"), configuration.to_string()).expect("written");
    for verb in ["ADD", "STATUS"] {
        let error = lab.node.call(verb, &pod, &configuration).expect_err("ourselves");
        assert!(message(&error).contains("type is \"netplane\", which is this plugin"), "{error}");
    }
}

#[test]
fn the_record_stays_until_all_is_down_whatever_retry_delete_on_error_says() {
    for retry in [json!(null), json!(false), json!(true)] {
        let mut lab = Recorded::new();
        let pod = lab.node.pod();
        let mut configuration = lab.configuration("1.1.0", "single");
        configuration["retryDeleteOnError"] = retry;
        lab.add(&pod, &configuration);
        std::fs::write(lab.path("fail-DEL-net1-one"), r#"{"code": 11, "msg": "busy"}"#).expect("written");
        let error = lab.node.call("DEL", &pod, &configuration).expect_err("busy");
        assert_eq!(error["code"], 11, "{error}");
        std::fs::remove_file(lab.path("fail-DEL-net1-one")).expect("removed");
        lab.del(&pod, &configuration);
        assert_eq!(lab.calls(), ["ADD-net1-one", "DEL-net1-one", "DEL-net1-one"]);
    }
}

#[test]
fn values_of_a_wrong_type_are_named_by_key_and_null_is_as_not_there() {
    let mut lab = Recorded::new();
    let pod = lab.node.pod();
    let all = [
        "nadDir",
        "cniDir",
        "confDir",
        "binDir",
        "clusterNetwork",
        "defaultNetworks",
        "systemNamespaces",
        "multusNamespace",
        "delegates",
        "runtimeConfig",
        "capabilities",
        "namespaceIsolation",
        "globalNamespaces",
        "readinessindicatorfile",
        "retryDeleteOnError",
        "auxiliaryCNIChainName",
        "logFile",
        "logLevel",
        "logToStderr",
        "logOptions",
        "strictSelections",
    ];
    for key in all {
        let mut configuration = lab.configuration("1.1.0", "single");
        configuration[key] = json!(7);
        let error = lab.node.call("ADD", &pod, &configuration).expect_err(key);
        assert_eq!(error["code"], 7, "{error}");
        assert!(message(&error).starts_with(&format!("{key} is 7: ")), "{error}");
    }
    assert!(lab.calls().is_empty());
    let mut configuration = lab.configuration("1.1.0", "single");
    for key in all.iter().filter(|it| !["nadDir", "cniDir", "binDir", "runtimeConfig"].contains(it)) {
        configuration[*key] = json!(null);
    }
    configuration["Note1"] = json!("Multus ignores what it does not know");
    lab.add(&pod, &configuration);
}

/// Calls the plugin without a container, in no namespace of its own.
fn status(configuration: &Value) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netplane"));
    command.env("CNI_COMMAND", "STATUS").env("CNI_PATH", "/usr/lib/cni").env_remove("RUST_LOG");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(configuration.to_string().as_bytes()).expect("stdin is read");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_log_goes_where_and_says_what_it_is_told_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("made/multus.log");
    let fails = json!({"cniVersion": "1.1.0", "name": "x", "type": "netplane", "clusterNetwork": "absent",
        "logFile": log, "Note1": "unknown"});
    let with = |level: &str, to_stderr: bool| {
        let mut configuration = fails.clone();
        configuration["logLevel"] = json!(level);
        configuration["logToStderr"] = json!(to_stderr);
        let output = status(&configuration);
        assert!(text(&output.stdout).contains("\"code\":50"), "the answer is the answer");
        let written = std::fs::read_to_string(&log).unwrap_or_default();
        let _ = std::fs::remove_file(&log);
        (text(&output.stderr), written)
    };
    let (stderr, file) = with("error", true);
    assert!(stderr.contains("network \"absent\": neither a NAD"), "{stderr}");
    assert!(file.contains("network \"absent\": neither a NAD") && file.contains("STATUS"), "{file}");
    assert!(!file.contains("begins") && !file.contains("Note1") && !file.contains('\u{1b}'), "{file}");
    let (stderr, file) = with("verbose", false);
    assert_eq!(stderr, "");
    assert!(file.contains("begins") && !file.contains("Note1"), "{file}");
    let (_, file) = with("debug", false);
    assert!(file.contains("Note1"), "{file}");
    assert_eq!(with("panic", true), (String::new(), String::new()));
    let (stderr, _) = with("loud", true);
    assert!(stderr.contains("no such level") && stderr.contains("loud"), "{stderr}");
}

#[test]
fn a_log_file_that_cannot_be_written_stops_nobody() {
    let configuration = json!({"cniVersion": "1.1.0", "name": "x", "type": "netplane",
        "delegates": [{"name": "a", "type": "bridge"}], "logLevel": "debug", "logFile": "/proc/nowhere/multus.log"});
    let output = status(&configuration);
    assert!(output.status.success(), "{}", text(&output.stdout));
}

#[test]
fn processes_that_rotate_one_file_lose_no_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("multus.log");
    // Near the limit, so that the processes meet at the rotation.
    std::fs::write(&log, vec![b'\n'; (1 << 20) - 2000]).expect("a file");
    let configuration = json!({"cniVersion": "1.1.0", "name": "x", "type": "netplane",
        "clusterNetwork": "absent", "logFile": log, "logOptions": {"maxSize": 1}});
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| drop(status(&configuration)));
        }
    });
    let names = files(folder.path());
    assert_eq!(names.len(), 2, "{names:?}");
    let count = |path: &Path| {
        let program = if path.extension().is_some_and(|it| it == "gz") { "zcat" } else { "cat" };
        let output = Command::new(program).arg(path).output().expect("it runs");
        assert!(output.status.success(), "{path:?}");
        text(&output.stdout).matches("neither a NAD").count()
    };
    assert!(names.iter().any(|it| it.ends_with(".log.gz")), "{names:?}");
    let counts: Vec<_> = names.iter().map(|it| count(&folder.path().join(it))).collect();
    assert_eq!(counts.iter().sum::<usize>(), 24, "{counts:?}");
    assert!(counts.iter().all(|it| *it > 0), "on both sides of the rotation: {counts:?}");
}
