//! The API server double as kubectl sees it, an independent client written by others.

use crate::apiserver::start;
use netplane_bench::lab::apiserver::ApiServer;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

const MANIFESTS: &str = "
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: { name: n3, namespace: default }
spec: { config: '{ \"cniVersion\": \"1.0.0\", \"type\": \"macvlan\" }' }
---
apiVersion: v1
kind: Pod
metadata: { name: upf, namespace: default, labels: { app: upf } }
spec: { containers: [{ name: upf, image: example.org/upf }] }
";

/// kubectl from PATH, or what `KUBECTL` names.
fn kubectl(server: &ApiServer, home: &Path, arguments: &[&str]) -> Output {
    let program = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
    let mut command = Command::new(program);
    // Discovery is cached below HOME.
    command.env("HOME", home).env("KUBECONFIG", server.kubeconfig()).args(arguments);
    command.output().expect("kubectl runs; cargo xtask setup installs it")
}

#[test]
fn kubectl_applies_reads_annotates_and_deletes() {
    let server = start();
    let home = tempfile::tempdir().expect("a folder");
    let manifests = home.path().join("manifests.yaml");
    std::fs::write(&manifests, MANIFESTS).expect("written");
    let manifests = manifests.to_str().expect("UTF-8");
    let run = |arguments: &[&str]| {
        let output = kubectl(&server, home.path(), arguments);
        assert!(output.status.success(), "kubectl {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let applied = run(&["apply", "--validate=false", "-f", manifests]);
    assert!(applied.contains("pod/upf created"), "{applied}");
    let again = run(&["apply", "--validate=false", "-f", manifests]);
    assert!(again.contains("pod/upf unchanged") && again.contains("/n3 unchanged"), "{again}");

    assert!(run(&["get", "pods", "-A"]).contains("upf"));
    let names = run(&["get", "net-attach-def", "-o", "name"]);
    assert_eq!(names.trim(), "networkattachmentdefinition.k8s.cni.cncf.io/n3");
    assert!(run(&["get", "po", "-l", "app=other", "-o", "name"]).is_empty());

    run(&["annotate", "pod/upf", "k8s.v1.cni.cncf.io/networks=n3"]);
    let pod: Value = serde_json::from_str(&run(&["get", "pod", "upf", "-o", "json"])).expect("JSON");
    assert_eq!(pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"], "n3");
    run(&["annotate", "net-attach-def/n3", "example.org/a=b"]);
    run(&["patch", "net-attach-def", "n3", "--type=merge", "-p", r#"{"spec":{"config":"{}"}}"#]);
    let nad = server.get("network-attachment-definitions", "default", "n3").expect("the NAD");
    assert_eq!((nad["spec"]["config"].as_str(), &nad["metadata"]["generation"]), (Some("{}"), &2.into()));

    // Waits for the end by a watch.
    run(&["delete", "-f", manifests, "--timeout=30s"]);
    assert_eq!(server.get("pods", "default", "upf"), None);
    let output = kubectl(&server, home.path(), &["get", "pod", "upf"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.trim(), "Error from server (NotFound): pods \"upf\" not found");
}
