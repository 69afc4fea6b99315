//! Plugins that misbehave: they hang, die, print too much or nonsense, or leave children behind. Each is a
//! small script.

use crate::harness::{Node, Pod, answer, files};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const RESULT: &str = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.7/24"}]}"#;

/// A node with a folder of scripts as plugins.
struct Scripts {
    node: Node,
    bin: tempfile::TempDir,
}

impl Scripts {
    fn new() -> Self {
        Self { node: Node::new(), bin: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bin.path().join(name)
    }

    /// A plugin `name` that runs `add` for ADD and succeeds for DEL, and the NAD `core/NAME` of it.
    fn plugin(&self, name: &str, add: &str) {
        self.plugin_of_verbs(
            name,
            &format!("[ $CNI_COMMAND = ADD ] || {{ cat > /dev/null; exit 0; }}\n{add}"),
        );
        self.node.nad(name, &json!({"cniVersion": "1.0.0", "type": name}));
    }

    fn plugin_of_verbs(&self, name: &str, text: &str) {
        let script = format!("#!/bin/sh\ncd {}\n{text}\n", self.bin.path().display());
        std::fs::write(self.path(name), script).expect("written");
        std::fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o755)).expect("executable");
    }

    fn configuration(&self, network: &str) -> Value {
        let mut configuration = self.node.configuration("1.0.0", "");
        configuration["binDir"] = json!(self.bin.path());
        configuration["clusterNetwork"] = json!(format!("core/{network}"));
        configuration
    }

    fn add(&self, pod: &Pod, network: &str) -> Result<Value, Value> {
        let added = self.node.call("ADD", pod, &self.configuration(network));
        if added.is_err() {
            assert_eq!(files(&self.node.records()), Vec::<String>::new(), "{network}: nothing is left");
        }
        added.map(|it| it.expect("a result"))
    }
}

fn message(error: &Value) -> &str {
    error["msg"].as_str().expect("a message")
}

/// Whether a process is there and no zombie.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|it| it.split_whitespace().next()).is_some_and(|state| state != "Z")
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < until, "waited a minute for: {what}");
        std::thread::yield_now();
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("read").trim().to_owned()
}

#[test]
fn a_plugin_that_hangs_is_killed_with_its_children_at_the_deadline() {
    let mut lab = Scripts::new();
    lab.plugin("hang", "sleep 3600 & echo $! > child\ntrap '' TERM\nwhile :; do wait; done");
    let pod = lab.node.pod();
    let mut configuration = lab.configuration("hang");
    configuration["delegateTimeout"] = json!(1.5);
    let error = lab.node.call("ADD", &pod, &configuration).expect_err("no result ever");
    assert_eq!(error["code"], 100, "{error}");
    assert!(message(&error).starts_with("network core/hang: "), "{error}");
    assert!(message(&error).contains("/hang was not done with ADD after 1.5 s (delegateTimeout)"), "{error}");
    let child = read(&lab.path("child"));
    wait_until("the plugin's child to end", || !runs(&child));
    assert_eq!(files(&lab.node.records()), Vec::<String>::new());
}

#[test]
fn a_deadline_that_makes_no_sense_is_refused() {
    let mut lab = Scripts::new();
    let pod = lab.node.pod();
    for wrong in [json!(0), json!(-1), json!(100_000), json!("2m")] {
        let mut configuration = lab.configuration("any");
        configuration["delegateTimeout"] = wrong.clone();
        let error = lab.node.call("ADD", &pod, &configuration).expect_err("refused");
        assert_eq!(error["code"], 7, "{error}");
        assert!(message(&error).starts_with(&format!("delegateTimeout is {wrong}: ")), "{error}");
    }
}

#[test]
fn a_child_that_keeps_stdout_open_is_neither_waited_for_nor_killed() {
    let mut lab = Scripts::new();
    let text = format!(
        "cat > /dev/null; sleep 3600 & echo $! >> children; [ $CNI_COMMAND = DEL ] || echo '{RESULT}'"
    );
    lab.plugin_of_verbs("daemon", &text);
    lab.node.nad("daemon", &json!({"cniVersion": "1.0.0", "type": "daemon"}));
    let pod = lab.node.pod();
    let result = lab.add(&pod, "daemon").expect("attached");
    assert_eq!(result["ips"], json!([{"address": "10.0.0.7/24"}]));
    lab.node.call("DEL", &pod, &lab.configuration("daemon")).expect("detached");
    let children = read(&lab.path("children"));
    assert_eq!(children.lines().count(), 2);
    for child in children.lines() {
        assert!(runs(child), "a plugin's daemon lives on");
        let killed = std::process::Command::new("kill").arg(child).status().expect("kill");
        assert!(killed.success());
    }
}

#[test]
fn a_result_that_a_child_writes_after_the_plugins_end_is_read() {
    let mut lab = Scripts::new();
    // As with `exec > >(tee log)` in a shell.
    lab.plugin("late", &format!("cat > /dev/null; (sleep 0.5; echo '{RESULT}') &"));
    let pod = lab.node.pod();
    let result = lab.add(&pod, "late").expect("attached");
    assert_eq!(result["ips"], json!([{"address": "10.0.0.7/24"}]));
}

#[test]
fn how_a_plugin_ended_is_told() {
    let mut lab = Scripts::new();
    let pod = lab.node.pod();
    for (name, add, code, part, details) in [
        ("signal", "kill -KILL $$", 100, "/signal ended with signal: 9 (SIGKILL) and no CNI error", ""),
        (
            "status",
            "echo no luck >&2; exit 3",
            100,
            "/status ended with exit status: 3 and no CNI",
            "no luck",
        ),
        ("noise", "echo panic: oops; exit 2", 100, "/noise ended with exit status: 2", "panic: oops"),
        ("odd", r#"echo '{"msg": 7}'; exit 1"#, 100, "/odd ended with exit status: 1", r#"{"msg": 7}"#),
        ("garbage", "echo 'debug: hello'", 6, "plugin garbage printed no JSON", "debug: hello"),
        ("half", r#"printf '{"cniVersion": "1.0.0", "ips": ['"#, 6, "plugin half printed no JSON", ""),
        ("empty", "cat > /dev/null", 6, "plugin empty printed no JSON", ""),
        ("list", "echo '[]'", 6, "plugin list: result is not a CNI result", ""),
        ("future", r#"echo '{"cniVersion": "7.0.0"}'"#, 1, "plugin future: result in CNI version 7.0.0", ""),
        ("wrong", r#"echo '{"ips": [{"address": "?"}]}'"#, 6, "plugin wrong: result is not", ""),
    ] {
        lab.plugin(name, add);
        let error = lab.add(&pod, name).expect_err(name);
        assert_eq!(error["code"], code, "{error}");
        assert!(message(&error).starts_with(&format!("network core/{name}: ")), "{error}");
        assert!(message(&error).contains(part), "{error}");
        assert!(error["details"].as_str().unwrap_or_default().contains(details), "{error}");
    }
}

#[test]
fn codes_and_details_of_plugins_are_kept() {
    let mut lab = Scripts::new();
    let pod = lab.node.pod();
    for code in [1, 2, 3, 4, 5, 6, 7, 11, 50, 99, 100, 999, 4_000_000_000_u32] {
        let printed = json!({"cniVersion": "1.0.0", "code": code, "msg": "no", "details": "a\n\"b\""});
        std::fs::write(lab.path("printed"), printed.to_string()).expect("written");
        lab.plugin("failing", "cat > /dev/null; cat printed; exit 1");
        let error = lab.add(&pod, "failing").expect_err("it says so");
        let expected = json!({"cniVersion": "1.0.0", "code": code, "msg": "network core/failing: no",
            "details": "a\n\"b\""});
        assert_eq!(error, expected);
    }
    for (printed, code, part) in [
        (json!({"code": 0, "msg": "none"}), 100, "none"),
        (json!({"code": -4, "msg": "negative"}), 100, "negative"),
        (json!({"code": 12}), 12, "ended with exit status: 1"),
        (json!({"msg": "without a code"}), 100, "without a code"),
    ] {
        std::fs::write(lab.path("printed"), printed.to_string()).expect("written");
        let error = lab.add(&pod, "failing").expect_err("it says so");
        assert_eq!(error["code"], code, "{error}");
        assert!(message(&error).contains(part), "{error}");
    }
}

#[test]
fn large_results_are_read_and_huge_ones_refused() {
    let mut lab = Scripts::new();
    let pod = lab.node.pod();
    let result = |names: usize| {
        let search: Vec<_> = (0..names).map(|it| format!("name-{it:08}.example.org")).collect();
        json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.7/24"}], "dns": {"search": search}})
    };
    for (name, names) in [("large", 15_000), ("huge", 60_000)] {
        std::fs::write(lab.path(&format!("{name}.json")), result(names).to_string()).expect("written");
        lab.plugin(name, &format!("cat {name}.json; cat > /dev/null"));
    }
    let large = lab.add(&pod, "large").expect("attached");
    assert_eq!(large["dns"]["search"].as_array().map(Vec::len), Some(15_000));
    lab.node.call("DEL", &pod, &lab.configuration("large")).expect("detached");
    let error = lab.add(&pod, "huge").expect_err("too large");
    assert_eq!(error["code"], 6, "{error}");
    assert!(message(&error).contains("/huge printed more than 1048576 bytes for ADD"), "{error}");
}

#[test]
fn input_and_output_do_not_wait_for_each_other() {
    let mut lab = Scripts::new();
    let pod = lab.node.pod();
    // More than a pipe holds, both ways.
    let comment = "x".repeat(300_000);
    let large = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.7/24"}], "comment": comment});
    std::fs::write(lab.path("large.json"), large.to_string()).expect("written");
    for (name, add) in [
        ("deaf", format!("exec 0<&-; echo '{RESULT}'")),
        ("eager", "cat large.json; cat > given".to_owned()),
        ("slow", "cat > given; cat large.json".to_owned()),
    ] {
        lab.plugin(name, &add);
        lab.node.nad(name, &json!({"cniVersion": "1.0.0", "type": name, "comment": comment}));
        let result = lab.add(&pod, name).expect(name);
        assert_eq!(result["ips"], json!([{"address": "10.0.0.7/24"}]), "{name}");
        lab.node.call("DEL", &pod, &lab.configuration(name)).expect("detached");
    }
    let given: Value = serde_json::from_str(&read(&lab.path("given"))).expect("all of it");
    assert_eq!(given["comment"], comment);
}

#[test]
fn a_plugins_stderr_is_passed_on_up_to_a_bound() {
    let mut lab = Scripts::new();
    let talk = "echo first words >&2; yes 'and so on' | head -c 1000000 >&2; echo last words >&2";
    lab.plugin("talker", &format!("{talk}; echo '{RESULT}'"));
    let pod = lab.node.pod();
    let configuration = lab.configuration("talker").to_string();
    let output = lab.node.run_in("ADD", &pod.name, &pod.path(), &configuration, &[]);
    answer(&output).expect("attached");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("first words\nand so on\n"), "it is there");
    assert!(!stderr.contains("last words") && stderr.contains("left out"), "it is cut, and says so");
    assert!(stderr.len() < 100_000, "{} bytes", stderr.len());
}
