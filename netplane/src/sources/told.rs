//! Attachments as `network-status` tells of them, written by whoever attached the pod: Multus, say.

use crate::nad::NetworkName;
use crate::nad::status::NetworkStatus;
use crate::netlink::Mac;
use crate::netlink::link::parse_mac;

/// One attachment to a NAD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub network: NetworkName,
    /// Its name in the pod.
    pub interface: String,
    pub mac: Mac,
}

/// The attachments in the annotation's text. Entries without a NAD, an interface or a MAC are passed over: the
/// default network's, devices that are no interfaces. So is a text that is no list of entries.
pub fn read(annotation: &str) -> Vec<Told> {
    let entries: Vec<serde_json::Value> = serde_json::from_str(annotation).unwrap_or_default();
    let told = |entry| {
        let entry: NetworkStatus = serde_json::from_value(entry).ok()?;
        let network = NetworkName::try_from(entry.name).ok()?;
        let mac = parse_mac(&entry.mac).ok()?;
        (!entry.interface.is_empty()).then_some(Told { network, interface: entry.interface, mac })
    };
    entries.into_iter().filter_map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_nads_with_interface_and_mac_count() {
        let text = r#"[
            { "name": "cbr0", "interface": "eth0", "ips": ["10.244.1.73"], "mac": "0a:58:0a:f4:01:49", "default": true, "dns": {} },
            { "name": "core/n3", "interface": "net1", "ips": ["10.30.0.50"], "mac": "2A:1d:00:00:00:01", "dns": {} },
            { "name": "core/vf", "interface": "net2", "dns": {}, "device-info": { "type": "pci", "version": "1.0.0" } },
            { "name": 7 } ]"#;
        let told = read(text);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((told[0].network.to_string().as_str(), told[0].interface.as_str()), ("core/n3", "net1"));
        assert_eq!(told[0].mac.to_string(), "2a:1d:00:00:00:01");
        assert_eq!(read("no JSON"), []);
    }
}
