//! What is known of an attachment's device (device-info-spec 1.1.0, §3): the content of device information
//! files, and `device-info` of `network-status`.

use serde::{Deserialize, Serialize};

/// One device. Keys of later versions are passed over, as Multus does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceInfo {
    /// `pci`, `vdpa`, `vhost-user` or `memif`: the key below that is there.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of the specification, `1.1.0`. Required there; files without it exist.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<Pci>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vdpa: Option<Vdpa>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost_user: Option<VhostUser>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memif: Option<Memif>,
}

/// §3.1.3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Pci {
    /// `dddd:BB:DD.f`.
    pub pci_address: String,
    /// Path of the vhost-net character device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost_net: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rdma_device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pf_pci_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub representor_device: Option<String>,
}

/// §3.1.4.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Vdpa {
    pub parent_device: String,
    /// `vhost` or `virtio`.
    pub driver: String,
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pf_pci_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub representor_device: Option<String>,
}

/// §3.1.5.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VhostUser {
    /// `client` or `server`.
    pub mode: String,
    pub path: String,
}

/// §3.1.6.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memif {
    /// `master` or `slave`.
    pub role: String,
    pub path: String,
    /// `ethernet`, `ip` or `inject-punt`.
    pub mode: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn every_type_of_the_specification_is_read_and_written_the_same() {
        for info in [
            json!({"type": "pci", "version": "1.1.0", "pci": {"pci-address": "0000:18:02.5",
                   "vhost-net": "/dev/vhost-net", "rdma-device": "mlx5_3", "pf-pci-address": "0000:18:00.0",
                   "representor-device": "eth3"}}),
            json!({"type": "vdpa", "version": "1.1.0", "vdpa": {"parent-device": "vdpa2", "driver": "vhost",
                   "path": "/dev/vhost-vdpa0", "pci-address": "0000:02:01.6",
                   "pf-pci-address": "0000:02:01.0", "representor-device": "eth3"}}),
            json!({"type": "vhost-user", "version": "1.1.0",
                   "vhost-user": {"mode": "client", "path": "/var/run/net3/vhost.sock"}}),
            json!({"type": "memif", "version": "1.0.0",
                   "memif": {"role": "master", "path": "/run/memif.sock", "mode": "ethernet"}}),
        ] {
            let read: DeviceInfo = serde_json::from_value(info.clone()).expect("of the specification");
            assert_eq!(serde_json::to_value(read).expect("JSON"), info);
        }
    }

    #[test]
    fn what_has_no_type_says_nothing() {
        let read = |value: Value| serde_json::from_value::<DeviceInfo>(value);
        assert!(read(json!({"version": "1.1.0"})).is_err());
        assert!(read(json!([])).is_err());
        let later = read(json!({"type": "cxl", "version": "2.0.0", "cxl": {}})).expect("of later versions");
        assert_eq!(later.kind, "cxl");
    }
}
