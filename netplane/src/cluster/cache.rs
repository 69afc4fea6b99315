//! What the plugin and the agent say to each other about the cluster, over the agent's Unix socket: HTTP
//! with JSON. Paths and messages only; the plugin's side is in `agent.rs`, the agent serves them from its
//! watches.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/pods/NAMESPACE/NAME` | [`CachedPod`] |
//! | `GET /v1/networks/NAMESPACE/NAME` | [`CachedNetwork`] |
//! | `POST /v1/pods/NAMESPACE/NAME/report` with a [`PodReport`] | 202: the agent sees to it |
//!
//! 404 says that the agent does not know it, 503 that its watches have not caught up yet. To both, and to
//! silence, the plugin's answer is to do without the agent.

use crate::nad::NetworkName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A pod as the agent's watch has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CachedPod {
    /// `metadata.uid`; the plugin compares it with `K8S_POD_UID`.
    pub uid: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// A NAD as the agent's watch has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CachedNetwork {
    /// `spec.config`.
    pub config: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// What an ADD has to say about a pod. The agent that answers 202 writes it, and goes on trying until it is
/// written or the pod is gone. If the agent dies before, the attachment record has the same facts for the
/// next one; so has a report whose attachment was detached meanwhile nothing to write any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// `CNI_CONTAINERID` and `CNI_IFNAME`: which record this is about.
    pub container_id: String,
    pub interface: String,
    /// `K8S_POD_UID`, the precondition of the write. Absent for static pods, whose UID is another in the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The value of `k8s.v1.cni.cncf.io/network-status`; absent after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_status: Option<String>,
    #[serde(default)]
    pub events: Vec<PodEvent>,
    /// How long the ADD has taken up to here; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
}

/// An event on the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodEvent {
    /// `Warning`, else `Normal`.
    pub warning: bool,
    /// One of [`REASONS`].
    pub reason: String,
    pub message: String,
}

/// Reason of the event for each attachment, as Multus has it.
pub const ADDED_INTERFACE: &str = "AddedInterface";
/// A NAD is not there; as Multus has it.
pub const NO_NETWORK_FOUND: &str = "NoNetworkFound";
/// Any other failure; ours.
pub const FAILED_ADD_INTERFACE: &str = "FailedAddInterface";
/// What `strictSelections` would refuse; ours.
pub const SELECTION_PASSED_OVER: &str = "SelectionPassedOver";

/// A pod runs without the networks that it selects; ours, and the agent's.
pub const NOT_ATTACHED: &str = "NotAttached";

/// DEL found a damaged record, and takes down what annotations and NADs say; ours.
pub const DAMAGED_RECORD: &str = "DamagedRecord";

/// All reasons of events.
pub const REASONS: [&str; 6] = [
    ADDED_INTERFACE,
    NO_NETWORK_FOUND,
    FAILED_ADD_INTERFACE,
    SELECTION_PASSED_OVER,
    NOT_ATTACHED,
    DAMAGED_RECORD,
];

/// Answers as long as the agent's loop turns.
pub const STATUS_PATH: &str = "/v1/status";

/// The resource of a pod, for GET.
pub fn pod_path(namespace: &str, name: &str) -> String {
    format!("/v1/pods/{namespace}/{name}")
}

/// The resource of a network, for GET.
pub fn network_path(name: &NetworkName) -> String {
    format!("/v1/networks/{}/{}", name.namespace, name.name)
}

/// Where an ADD says what it did, with POST.
pub fn report_path(namespace: &str, name: &str) -> String {
    format!("/v1/pods/{namespace}/{name}/report")
}

/// Whether this can be the name of an object or a namespace (RFC 1123 subdomain): nothing else goes into a
/// path, however it came into `CNI_ARGS` or an annotation.
pub fn is_object_name(name: &str) -> bool {
    let inner = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '-' || it == '.';
    let end = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit();
    name.len() <= 253 && name.chars().all(inner) && name.starts_with(end) && name.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_have_the_documented_form() {
        let pod: CachedPod =
            serde_json::from_value(json!({"uid": "u-1"})).expect("a pod without annotations");
        assert_eq!(pod.annotations, BTreeMap::new());
        let report = PodReport {
            container_id: "c".to_owned(),
            interface: "eth0".to_owned(),
            uid: Some("u-1".to_owned()),
            network_status: Some("[]".to_owned()),
            events: vec![PodEvent {
                warning: false,
                reason: "AddedInterface".to_owned(),
                message: "m".to_owned(),
            }],
            milliseconds: Some(12),
        };
        let text = json!({
            "containerId": "c", "interface": "eth0", "uid": "u-1", "networkStatus": "[]",
            "events": [{"warning": false, "reason": "AddedInterface", "message": "m"}], "milliseconds": 12,
        });
        assert_eq!(serde_json::to_value(&report).expect("JSON"), text);
        assert_eq!(serde_json::from_value::<PodReport>(text).expect("a report"), report);
    }

    #[test]
    fn paths_take_names_of_objects_only() {
        for name in ["upf-0", "a", "0.b-1"] {
            assert!(is_object_name(name), "{name}");
        }
        for name in ["", "A", "a/b", "../pods", "-a", "a.", "a b", "a%2f", &"a".repeat(254)] {
            assert!(!is_object_name(name), "{name}");
        }
    }
}
