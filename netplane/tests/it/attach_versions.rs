//! Each verb in each version of the specification, against files of what is right (`golden/`): our own
//! results, and those of delegates in all forms. `UPDATE_GOLDEN=1` writes the files anew, to be read over.

use crate::harness::{Node, files};
use serde_json::{Map, Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Compares with `golden/NAME.json`.
fn assert_golden(name: &str, actual: &Value) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/golden/{name}.json"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let text = serde_json::to_string_pretty(actual).expect("JSON");
        std::fs::write(&file, format!("{text}\n")).expect("written");
    }
    assert_eq!(actual, &golden(name), "{name}");
}

fn golden(name: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/golden/{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(file).expect("a golden file")).expect("JSON")
}

#[test]
fn each_verb_in_each_version() {
    for version in VERSIONS {
        let mut node = Node::new();
        let mut config = node.macvlan("n3", "10.20.0.0/24");
        config["mac"] = json!("02:00:00:00:00:01");
        config["ipam"]["ranges"] = json!([[{ "subnet": "2001:db8:20::/64" }]]);
        config["ipam"]["routes"] = json!([{ "dst": "10.99.0.0/16" }, { "dst": "2001:db8:99::/48" }]);
        node.nad("default-network", &config);
        let pod = node.pod();
        let mut configuration = node.configuration(version, "");
        configuration["cni.dev/valid-attachments"] = json!([{"containerID": pod.name, "ifname": "eth0"}]);
        let mut wrong = configuration.clone();
        wrong["nadDir"] = json!(7);
        let mut answers = Map::new();
        for (title, verb, stdin) in [
            ("VERSION", "VERSION", &configuration),
            ("STATUS", "STATUS", &configuration),
            ("ADD of a wrong configuration", "ADD", &wrong),
            ("ADD", "ADD", &configuration),
            ("ADD again", "ADD", &configuration),
            ("CHECK", "CHECK", &configuration),
            ("GC", "GC", &configuration),
            ("DEL", "DEL", &configuration),
            ("DEL again", "DEL", &configuration),
        ] {
            let answer = match node.call(verb, &pod, stdin) {
                Ok(printed) => printed.unwrap_or_default(),
                Err(error) => json!({ "failed": error }),
            };
            let text = answer.to_string().replace(&pod.path().display().to_string(), "SANDBOX");
            let answer = serde_json::from_str(&text.replace(&pod.name, "POD")).expect("JSON");
            answers.insert(title.to_owned(), answer);
        }
        assert_eq!(files(&node.records()), Vec::<String>::new());
        assert_golden(&format!("verbs-{version}"), &Value::Object(answers));
    }
}

/// A delegate's result in one version goes on in another, to the next plugin and to the runtime. `in` of
/// each golden file is what the delegate prints, `out` by version what becomes of it.
#[test]
fn delegates_results_of_each_version_in_each_version() {
    let mut node = Node::new();
    let bin = tempfile::tempdir().expect("a folder");
    let folder = bin.path().display();
    for (name, text) in [
        ("printer", format!("cat > /dev/null; [ $CNI_COMMAND != ADD ] || cat {folder}/result")),
        ("echoer", format!("cat > {folder}/given; [ $CNI_COMMAND != ADD ] || jq .prevResult {folder}/given")),
    ] {
        std::fs::write(bin.path().join(name), format!("#!/bin/sh\n{text}\n")).expect("written");
        std::fs::set_permissions(bin.path().join(name), PermissionsExt::from_mode(0o755))
            .expect("executable");
    }
    for from in VERSIONS {
        let input = golden(&format!("convert-{from}"))["in"].clone();
        assert_eq!(input["cniVersion"], from);
        std::fs::write(bin.path().join("result"), input.to_string()).expect("written");
        let mut outputs = Map::new();
        for version in VERSIONS {
            let plugins = json!([{"type": "printer"}, {"type": "echoer"}]);
            node.nad("default-network", &json!({"cniVersion": version, "plugins": plugins}));
            let pod = node.pod();
            let mut configuration = node.configuration(version, "");
            configuration["binDir"] = json!(bin.path());
            let result = node.call("ADD", &pod, &configuration).expect("attached").expect("a result");
            let given = std::fs::read_to_string(bin.path().join("given")).expect("read");
            let given: Value = serde_json::from_str(&given).expect("JSON");
            assert_eq!(given["prevResult"], result, "{from} in {version}: as the next plugin saw it");
            node.call("DEL", &pod, &configuration).expect("detached");
            outputs.insert(version.to_owned(), result);
        }
        assert_golden(&format!("convert-{from}"), &json!({ "in": input, "out": outputs }));
    }
}
