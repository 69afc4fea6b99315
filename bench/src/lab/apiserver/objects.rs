//! Objects as tests need them, with as little in them as works.

use serde_json::{Value, json};

/// A pod on a node, with annotations.
pub fn pod(namespace: &str, name: &str, node: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": namespace, "name": name, "annotations": annotations },
        "spec": { "nodeName": node, "containers": [{ "name": "main", "image": "example.org/main" }] },
        "status": { "phase": "Pending" },
    })
}

/// A NAD whose `spec.config` is this JSON.
pub fn nad(namespace: &str, name: &str, config: &Value) -> Value {
    json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "config": config.to_string() },
    })
}

/// A node.
pub fn node(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } })
}
