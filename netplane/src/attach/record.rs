//! The attachment record: one file a container, written by the plugin, read by the agent and by DEL.
//! It is all that DEL needs, and all that the agent knows of a pod without a cluster. How it is read and
//! written is in `store`.

use crate::nad::NetworkName;
use crate::nad::device_info::DeviceInfo;
use crate::plugins::result::CniResult;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// Version of the record's layout; a reader refuses a newer one.
pub const RECORD_VERSION: u32 = 1;

/// Where records are unless the configuration's `cniDir` says otherwise.
pub const DEFAULT_RECORD_DIR: &str = "/var/lib/netplane/attachments";

/// All attachments of one ADD.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentRecord {
    pub version: u32,
    pub container_id: String,
    /// `CNI_IFNAME` of the ADD: a container may be attached more than once under different names.
    pub interface: String,
    /// `CNI_NETNS` of the ADD.
    pub netns: PathBuf,
    /// From `K8S_POD_NAMESPACE`, `K8S_POD_NAME`, `K8S_POD_UID` in `CNI_ARGS`; absent outside Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// False from the first effect of ADD until its last: an ADD that was killed leaves it so.
    pub complete: bool,
    /// In the order in which they were attached; DEL goes backwards.
    pub attachments: Vec<Attachment>,
}

/// Which pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// One delegate's attachment: what DEL and CHECK call it with, and what it made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The NAD; absent for a default network that is not a NAD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkName>,
    /// How errors name it.
    pub label: String,
    /// `CNI_IFNAME` of the delegate.
    pub interface: String,
    /// Whether it is the pod's default network.
    #[serde(default)]
    pub default: bool,
    /// `disableCheck` of a list: CHECK is not for its plugins.
    #[serde(default)]
    pub disable_check: bool,
    /// `disableGC` of a list: its addresses and plugins are somebody else's to clean.
    #[serde(default)]
    pub disable_gc: bool,
    /// `default-route` of the selection: gateways, perhaps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_route: Option<Vec<IpAddr>>,
    /// Of the device that the attachment has (device information specification), for `network-status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_info: Option<DeviceInfo>,
    /// The CNI plugins' file of it, which DEL removes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_info_file: Option<PathBuf>,
    /// The plugins' configurations as they were called, in order, without `prevResult`.
    pub plugins: Vec<serde_json::Value>,
    /// The delegate's result; absent until the delegate has returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<CniResult>,
    /// From the result: the interface inside the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// `master` where the configuration names one or the built-in macvlan found it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
}
