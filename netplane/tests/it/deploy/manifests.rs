//! Reading the manifests, and each object against the API's own types.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use netplane_bench::lab::apiserver::{ApiServer, Options};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// All that `kubectl apply -k` is documented for.
const VARIANTS: [&str; 4] = ["thin", "full", "beside-multus", "dra"];

pub(crate) fn top(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// All documents of a file.
pub(crate) fn documents(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The objects of `deploy/NAME`, as kustomize puts them together: ours have nothing but resources. Debian 12's
/// kubectl has a kustomize that knows no folders among them.
pub(crate) fn variant(name: &str) -> Vec<Value> {
    let mut objects = Vec::new();
    let folder = top("deploy").join(name);
    for kustomization in documents(&folder.join("kustomization.yaml")) {
        let fields: Vec<_> = kustomization.as_object().expect("an object").keys().cloned().collect();
        assert_eq!(fields, ["apiVersion", "kind", "resources"], "{name}: this test knows no more");
        for resource in kustomization["resources"].as_array().expect("a list") {
            let resource = resource.as_str().expect("a path");
            match resource.strip_prefix("../") {
                Some(other) => objects.extend(variant(other)),
                None => objects.extend(documents(&folder.join(resource))),
            }
        }
    }
    objects
}

/// The examples' objects.
pub(crate) fn examples() -> Vec<Value> {
    let mut paths: Vec<_> = std::fs::read_dir(top("examples/cluster"))
        .expect("examples")
        .map(|it| it.expect("a file").path())
        .collect();
    paths.sort();
    paths.iter().flat_map(|it| documents(it)).collect()
}

/// The object as the API's type reads it and writes it: a field that the type does not know is lost.
fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
    let typed: T =
        serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object:#}"));
    serde_json::to_value(&typed).expect("JSON")
}

fn typed(object: &Value) -> Value {
    match object["kind"].as_str().expect("a kind") {
        "ClusterRole" => through::<ClusterRole>(object),
        "ClusterRoleBinding" => through::<ClusterRoleBinding>(object),
        "ConfigMap" => through::<ConfigMap>(object),
        "CustomResourceDefinition" => through::<CustomResourceDefinition>(object),
        "DaemonSet" => through::<DaemonSet>(object),
        "Deployment" => through::<Deployment>(object),
        "Namespace" => through::<Namespace>(object),
        "NetworkPolicy" => through::<NetworkPolicy>(object),
        "Pod" => through::<Pod>(object),
        "ServiceAccount" => through::<ServiceAccount>(object),
        "ValidatingAdmissionPolicy" => through::<ValidatingAdmissionPolicy>(object),
        "ValidatingAdmissionPolicyBinding" => through::<ValidatingAdmissionPolicyBinding>(object),
        other => panic!("no type for {other}"),
    }
}

/// What `object` has and `typed` has not. The type's defaults may come on top.
fn lost(object: &Value, typed: &Value, path: &str, found: &mut Vec<String>) {
    match (object, typed) {
        (Value::Object(object), Value::Object(typed)) => {
            for (key, value) in object {
                match typed.get(key) {
                    Some(typed) => lost(value, typed, &format!("{path}.{key}"), found),
                    None => found.push(format!("{path}.{key}")),
                }
            }
        }
        (Value::Array(object), Value::Array(typed)) if object.len() == typed.len() => {
            for (number, (object, typed)) in object.iter().zip(typed).enumerate() {
                lost(object, typed, &format!("{path}[{number}]"), found);
            }
        }
        _ if object == typed => {}
        _ => found.push(format!("{path} is {typed}, not {object}")),
    }
}

/// The fields of a NAD by the schema of our own CRD.
fn check_nad(nad: &Value) {
    let fields: Vec<_> = nad.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(fields, ["apiVersion", "kind", "metadata", "spec"]);
    let config = nad["spec"]["config"].as_str().expect("spec.config is a string");
    serde_json::from_str::<Value>(config).expect("spec.config is JSON");
}

#[test]
fn every_object_is_what_the_api_takes() {
    let all = VARIANTS.iter().flat_map(|it| variant(it)).chain(examples());
    let mut checked = 0;
    for object in all {
        checked += 1;
        if object["kind"] == "NetworkAttachmentDefinition" {
            check_nad(&object);
            continue;
        }
        let mut found = Vec::new();
        lost(&object, &typed(&object), "", &mut found);
        assert!(found.is_empty(), "{} {}: {found:?}", object["kind"], object["metadata"]["name"]);
    }
    assert!(checked > 30, "only {checked} objects found");
}

/// kubectl from PATH, or what `KUBECTL` names, with these objects on its standard input.
pub(crate) fn kubectl(kubeconfig: &Path, arguments: &[&str], objects: &[Value]) -> String {
    let home = tempfile::tempdir().expect("a folder");
    let program = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
    let mut command = Command::new(program);
    // Discovery is cached below HOME.
    command.env("HOME", home.path()).env("KUBECONFIG", kubeconfig).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("kubectl runs; cargo xtask setup installs it");
    let documents: Vec<_> = objects.iter().map(|it| format!("---\n{it}\n")).collect();
    child.stdin.take().expect("stdin").write_all(documents.concat().as_bytes()).expect("read");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "kubectl {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What is applied twice is the same, and deleted it is gone.
#[test]
fn kubectl_applies_each_variant_and_the_examples() {
    let server = ApiServer::start(&Options::default()).expect("an API server");
    let apply = ["apply", "--validate=false", "-f", "-"];
    for objects in VARIANTS.iter().map(|it| variant(it)).chain([examples()]) {
        let applied = kubectl(&server.kubeconfig(), &apply, &objects);
        assert_eq!(applied.lines().count(), objects.len(), "{applied}");
        let again = kubectl(&server.kubeconfig(), &apply, &objects);
        let same = again.lines().filter(|it| it.ends_with(" unchanged")).count();
        assert_eq!(same, objects.len(), "{again}");
        let delete = ["delete", "--timeout=30s", "-f", "-"];
        kubectl(&server.kubeconfig(), &delete, &objects);
        assert_eq!(server.all("daemonsets").len() + server.all("clusterroles").len(), 0);
    }
}

/// Where kubectl's kustomize is new enough, it makes of the folders what the tests make of them.
#[test]
fn kustomize_puts_the_same_objects_together() {
    let program = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
    let version = Command::new(&program).args(["version", "--client", "-o", "json"]).output();
    let version: Value = serde_json::from_slice(&version.expect("kubectl runs").stdout).expect("JSON");
    // kubectl tells of its kustomize since 1.24; that of 1.20 is of 2019.
    let knows_folders = version.get("kustomizeVersion").is_some();
    let identity = |it: &Value| format!("{} {}", it["kind"], it["metadata"]["name"]);
    for name in VARIANTS {
        let mut ours: Vec<_> = variant(name).iter().map(identity).collect();
        ours.sort();
        let mut different = ours.clone();
        different.dedup();
        assert_eq!(ours, different, "an object comes once");
        if knows_folders {
            let output = Command::new(&program).arg("kustomize").arg(top("deploy").join(name)).output();
            let output = output.expect("kubectl runs");
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
            let text = String::from_utf8(output.stdout).expect("UTF-8");
            let theirs: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
            let mut theirs: Vec<_> = theirs.iter().map(identity).collect();
            theirs.sort();
            assert_eq!(ours, theirs, "{name}");
        }
    }
}

/// What Pod Security and a reader look for in a container's context.
#[test]
fn containers_have_what_they_need_and_no_more() {
    let mut contexts = Vec::new();
    for daemon_set in variant("full").iter().filter(|it| it["kind"] == "DaemonSet") {
        let pod = &daemon_set["spec"]["template"]["spec"];
        for key in ["hostPID", "hostIPC"] {
            assert_eq!(pod[key], Value::Null);
        }
        for container in pod["containers"].as_array().expect("a list") {
            let context = &container["securityContext"];
            assert_eq!(context["privileged"], Value::Null);
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
            assert_eq!(context["capabilities"]["drop"][0], "ALL");
            let name = container["name"].as_str().expect("a name");
            contexts.push(format!("{name} {}", context["capabilities"]["add"]));
        }
    }
    assert_eq!(contexts, ["install null", r#"agent ["NET_ADMIN","SYS_ADMIN"]"#]);
}
