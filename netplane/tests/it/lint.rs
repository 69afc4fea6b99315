//! `netplane lint` as a person calls it: findings with their places, and how it ends.

use std::fs;
use std::path::Path;
use std::process::Command;

/// What it prints, with paths relative to the folder of the files; and whether it succeeds.
fn lint(files: &[(&str, &str)], more: &[&str]) -> (Vec<String>, bool) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("a file");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_netplane"));
    command.current_dir(folder.path()).arg("lint").args(more).args(files.iter().map(|(name, _)| name));
    let output = command.output().expect("it starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    (text.lines().map(str::to_owned).collect(), output.status.success())
}

const NADS: &str = r#"apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: { name: n3, namespace: core }
spec:
  config: '{"cniVersion": "1.0.0", "type": "macvlan", "master": "n3", "ipam": {"type": "host-local", "subnet": "10.0.0.0/24"}}'
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: { name: n6, namespace: core }
spec:
  config: '{"cniVersion": "1.0.0", "type": "macvlan", "master": "n6", "capabilities": {"ips": true, "mac": true}}'
"#;

fn pod(annotation: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: upf-0\n  namespace: core\n  annotations:\n    \
         k8s.v1.cni.cncf.io/networks: {annotation}\n"
    )
}

#[track_caller]
fn of_pod(annotation: &str) -> (Vec<String>, bool) {
    lint(&[("nads.yaml", NADS), ("pod.yaml", &pod(annotation))], &[])
}

#[test]
fn sound_files_have_no_problems() {
    let (found, well) = of_pod("n3, n6@up0");
    assert_eq!(found, ["2 NADs, 1 pods and 0 configurations in 2 files: no problems"]);
    assert!(well);
    // What this repository shows its readers.
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut command = Command::new(env!("CARGO_BIN_EXE_netplane"));
    command.current_dir(examples).args(["lint", "--strict", "pod-upf.yaml", "cni/00-netplane.conf"]);
    command.args(["nads/default-network.yaml", "nads/n3.yaml", "nads/n6.yaml"]);
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn every_entry_and_key_of_an_annotation_is_checked() {
    let json =
        r#"'[{"name": "n3", "ips": ["x"], "mac": "y", "ipss": 1}, {"name": "n6", "portMappings": 7}]'"#;
    let (found, well) = of_pod(json);
    assert!(!well);
    let at = "pod.yaml:7:34: document 1: Pod core/upf-0: annotation k8s.v1.cni.cncf.io/networks: ";
    for wanted in ["entry core/n3: ips: ", "entry core/n3: mac: ", "entry core/n6: portMappings: "] {
        let wanted = format!("{at}{wanted}");
        assert!(found.iter().any(|it| it.starts_with(&wanted)), "{wanted}: {found:#?}");
    }
    let unknown = "warning: Pod core/upf-0: annotation k8s.v1.cni.cncf.io/networks: entry 1: ipss: ";
    assert!(found.iter().any(|it| it.contains(unknown)), "{found:#?}");
    let (found, _) = of_pod("n3@much-too-long-for-an-interface, UP_PER, n6");
    assert_eq!(found.len(), 2, "both, and not only the first: {found:#?}");
    let (found, _) = of_pod("'[{]'");
    assert!(found[0].contains("not a JSON list of selections: "), "{found:#?}");
}

#[test]
fn what_multus_passes_over_in_silence_is_a_warning_and_with_strict_an_error() {
    let ips = r#"'[{"name": "n3", "ips": ["10.0.0.5/24"]}, {"name": "n7"}]'"#;
    let (found, well) = of_pod(ips);
    assert!(well, "as Multus does");
    let wanted =
        "warning: Pod core/upf-0: network core/n3: ips is asked for, and no plugin of it has that capability";
    assert!(found.iter().any(|it| it.contains(wanted)), "{found:#?}");
    assert!(found.iter().any(|it| it.contains("network core/n7: no such NAD in these files")), "{found:#?}");
    let (_, well) = lint(&[("nads.yaml", NADS), ("pod.yaml", &pod(ips))], &["--strict"]);
    assert!(!well);
    let (found, _) = of_pod(r#"'[{"name": "n6", "ips": ["10.0.0.5/24"], "mac": "02:00:00:00:00:01"}]'"#);
    assert_eq!(found.len(), 1, "it has both capabilities: {found:#?}");
}

#[test]
fn selections_that_contradict_each_other_are_named() {
    let (found, well) = of_pod(r#"'[{"name": "n3", "interface": "a"}, {"name": "n6", "interface": "a"}]'"#);
    assert!(!well && found[0].contains("network core/n6: interface a is asked for twice"), "{found:#?}");
    let routes = |second: &str| {
        format!(
            r#"'[{{"name":"n3","default-route":["10.0.0.1"]}},{{"name":"n6","default-route":["{second}"]}}]'"#
        )
    };
    let (found, well) = of_pod(&routes("10.0.0.2"));
    assert!(
        !well && found[0].contains("default-route is asked for on network core/n3, too; only one"),
        "{found:#?}"
    );
    let (found, well) = of_pod(&routes("fd00::1"));
    assert!(
        well && found[0].contains("warning: ") && found[0].contains("default-route is asked for"),
        "{found:#?}"
    );
}

#[test]
fn templates_are_pods_and_annotations_beside_them_have_no_effect() {
    for (kind, indent) in
        [("Deployment", "  "), ("StatefulSet", "  "), ("DaemonSet", "  "), ("CronJob", "      ")]
    {
        let before = if kind == "CronJob" { "spec:\n  jobTemplate:\n    spec:\n" } else { "spec:\n" };
        let text = format!(
            "kind: {kind}\nmetadata: {{ name: upf, namespace: core }}\n{before}{indent}template:\n{indent}  \
             metadata:\n{indent}    annotations:\n{indent}      k8s.v1.cni.cncf.io/networks: n3, n_9\n"
        );
        let (found, well) = lint(&[("nads.yaml", NADS), ("x.yaml", &text)], &[]);
        assert!(!well && found[0].contains(&format!("{kind} core/upf: annotation")), "{kind}: {found:#?}");
    }
    let misplaced = "kind: Deployment\nmetadata:\n  name: upf\n  annotations: { k8s.v1.cni.cncf.io/networks: n3 }\n\
                     spec: { template: { metadata: {} } }\n";
    let (found, _) = lint(&[("x.yaml", misplaced)], &[]);
    assert!(found[0].starts_with("x.yaml:4:47: document 1: warning: Deployment default/upf: "), "{found:#?}");
    let host = format!("{}spec: {{ hostNetwork: true }}\n", pod("n3"));
    let (found, _) = lint(&[("nads.yaml", NADS), ("x.yaml", &host)], &[]);
    assert!(found[0].contains("the pod has hostNetwork, so nothing is attached"), "{found:#?}");
    let default =
        pod("n3").replace("k8s.v1.cni.cncf.io/networks: n3", "v1.multus-cni.io/default-network: a, b");
    let (found, well) = lint(&[("x.yaml", &default)], &[]);
    assert!(!well && found[0].contains("default-network: is \"a, b\", should be one NAD"), "{found:#?}");
}

#[test]
fn configurations_are_checked_key_by_key() {
    let meta = r#"{"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus",
  "clusterNetwork": "/etc/cni/net.d/10-flannel.conflist", "namespaceIsolation": true,
  "logLevl": "debug", "kubeconfig": "/etc/kubeconfig"}"#;
    let isolated = pod("infra/n3");
    let (found, well) = lint(&[("00-multus.conf", meta), ("pod.yaml", &isolated)], &[]);
    assert!(!well, "the pod may not use it");
    let unknown = "00-multus.conf:3:14: document 1: warning: configuration multus-cni-network: logLevl: ";
    assert!(found.iter().any(|it| it.starts_with(unknown)), "{found:#?}");
    assert!(found.iter().any(|it| it.contains("infra/n3: pods of core may not use it")), "{found:#?}");

    let wrong = meta.replace("true", "\"yes\"").replace("\"debug\"", "[]").replace("logLevl", "logLevel");
    let (found, well) = lint(&[("00-multus.conf", &wrong)], &[]);
    assert!(!well);
    for key in ["namespaceIsolation is \"yes\"", "logLevel is []"] {
        assert!(found.iter().any(|it| it.contains(key)), "{key}: {found:#?}");
    }
    let none = r#"{"cniVersion": "1.0.0", "name": "x", "type": "netplane"}"#;
    let (found, well) = lint(&[("x.conf", none)], &[]);
    assert!(!well && found[0].contains("neither clusterNetwork nor delegates"), "{found:#?}");
    let list = r#"{"cniVersion": "7.0.0", "name": "x", "plugins": [{"type": "bridge"}]}"#;
    let (found, well) = lint(&[("x.conflist", list)], &[]);
    assert!(!well && found[0].contains("cniVersion: \"7.0.0\" is not supported"), "{found:#?}");
}

#[test]
fn broken_nads_and_files_are_told_with_their_place() {
    let broken = NADS.replace("\"type\": \"macvlan\", \"master\": \"n6\", ", "");
    let (found, well) =
        lint(&[("nads.yaml", &broken), ("x.yaml", "a: [unclosed"), ("nads2.yaml", NADS)], &[]);
    assert!(!well);
    let no_type = "nads.yaml:11:11: document 2: NAD core/n6: type: is missing: which plugin?";
    assert!(found.iter().any(|it| it == no_type), "{found:#?}");
    assert!(
        found.iter().any(|it| it.starts_with("x.yaml:1:") && it.contains("is not YAML or JSON")),
        "{found:#?}"
    );
    assert_eq!(found.iter().filter(|it| it.contains("is defined twice")).count(), 2, "{found:#?}");
}
