//! The annotation `k8s.v1.cni.cncf.io/network-status` (NPWG standard §5): what a pod's attachments became.

use super::device_info::DeviceInfo;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The annotation that tells a pod's attachments.
pub const NETWORK_STATUS_ANNOTATION: &str = "k8s.v1.cni.cncf.io/network-status";

/// One attachment (§5.3). Keys and their order are Multus's, `default-route` is the standard's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkStatus {
    /// `namespace/name` of a NAD; for a default network from a file the configuration's `name`.
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub interface: String,
    /// Without prefix lengths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Whether it is the pod's default network (§5.2): true in one entry only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// Present in every entry, empty as it may be.
    #[serde(default)]
    pub dns: StatusDns,
    /// The device information specification's object, as the device plugin or the delegate wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_info: Option<DeviceInfo>,
    /// Next hops of the default routes that the attachment has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<IpAddr>,
    /// What the selection asked for as `default-route` (§5.3.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_route: Option<Vec<IpAddr>>,
}

/// As in the attachment's result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusDns {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// The annotation's text: a JSON list, indented as Multus does, since people read it with `kubectl describe`.
pub fn to_annotation(statuses: &[NetworkStatus]) -> String {
    let mut text = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(
        &mut text,
        serde_json::ser::PrettyFormatter::with_indent(b"    "),
    );
    // Plain data with string keys into memory: neither can fail.
    let written = statuses.serialize(&mut writer);
    debug_assert!(written.is_ok(), "{written:?}");
    String::from_utf8(text).unwrap_or_default()
}
