//! The examples' NADs with as many sessions as are asked for: all of one gNB.

use crate::lab::{GNB, Lab};
use anyhow::Result;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// First user's address, of 100.64.0.0/10: room for four million.
pub(super) const FIRST_USER: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
pub(super) const USERS: &str = "100.64.0.0/10";
/// First TEIDs at the UPF and at the gNB.
pub(super) const FIRST_UPLINK: u32 = 0x1000_0001;
pub(super) const FIRST_DOWNLINK: u32 = 0x2000_0001;
pub(super) const QFI: u8 = 9;

/// Puts them where the lab's netplane looks, and the default network.
pub(super) fn apply(lab: &Lab, sessions: u32, mode: &str) -> Result<()> {
    for (name, text) in files(sessions, mode) {
        lab.write_nad(&name, text.as_bytes())?;
    }
    lab.write_nad("default-network.yaml", DEFAULT_NETWORK.as_bytes())
}

/// N3 with this many sessions, and N6, by their files' names; in the mode that the metadata's key `xdp` names.
pub fn files(sessions: u32, mode: &str) -> Vec<(String, String)> {
    let session = |number: u32| -> Value {
        let ue = Ipv4Addr::from_bits(FIRST_USER.to_bits() + number);
        json!({
            "name": format!("ue-{number}"),
            "ue": [ue],
            "uplink": { "teid": format!("{:#x}", FIRST_UPLINK + number), "to": "core/n6" },
            "downlink": { "peer": GNB, "teid": format!("{:#x}", FIRST_DOWNLINK + number), "qfi": QFI },
        })
    };
    let access = json!({
        "role": "access", "xdp": mode, "gtpu": { "peers": ["10.30.0.0/24"] },
        "sessions": (0..sessions).map(session).collect::<Vec<_>>(),
    });
    let data = json!({ "role": "data", "xdp": mode, "uePools": [USERS] });
    let n3 = json!({ "type": "host-local", "subnet": "10.30.0.0/24", "rangeStart": "10.30.0.50" });
    let n6 = json!({
        "type": "host-local", "subnet": "10.40.0.0/24", "rangeStart": "10.40.0.50",
        "gateway": "10.40.0.1", "routes": [{ "dst": "0.0.0.0/0" }],
    });
    let file = |(name, metadata, ipam): (&str, Value, Value)| {
        let config = json!({
            "cniVersion": "1.1.0", "type": "macvlan", "master": name, "mode": "bridge", "ipam": ipam,
        });
        let nad = json!({
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {
                "name": name, "namespace": "core",
                "annotations": { netplane::nad::fast_path::FAST_PATH_ANNOTATION: metadata.to_string() },
            },
            "spec": { "config": config.to_string() },
        });
        (format!("{name}.yaml"), nad.to_string())
    };
    [("n3", access, n3), ("n6", data, n6)].map(file).to_vec()
}

const DEFAULT_NETWORK: &str = include_str!("../../../examples/nads/default-network.yaml");
