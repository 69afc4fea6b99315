//! What a pod is told of its attachments, from the record alone: `network-status` (NPWG standard §5) and
//! events. Pure: who writes it is another matter.

use super::record::{Attachment, AttachmentRecord};
use crate::cluster::cache::{ADDED_INTERFACE, PodEvent, PodReport};
use crate::nad::status::{NetworkStatus, StatusDns, to_annotation};
use crate::plugins::result::{CniResult, Ip};
use serde_json::Value;
use std::net::IpAddr;

/// One entry for each attachment, in their order. Multus has one for each interface of a result instead;
/// the standard has it so (§5.3).
pub fn network_status(record: &AttachmentRecord) -> Vec<NetworkStatus> {
    shown(record).map(status_of).collect()
}

/// Chained plugins that are no network of the pod's and made nothing of their own, as those of
/// `auxiliaryCNIChainName`, are nothing to tell. Multus leaves out all empty results.
fn shown(record: &AttachmentRecord) -> impl Iterator<Item = &Attachment> {
    let made = |it: &Attachment| {
        it.result.as_ref().is_some_and(|it| !(it.interfaces.is_empty() && it.ips.is_empty()))
    };
    record.attachments.iter().filter(move |it| it.default || it.network.is_some() || made(it))
}

/// All that there is to say on the pod after an ADD. `uid` is the precondition of the write.
pub fn report(record: &AttachmentRecord, uid: Option<String>) -> PodReport {
    PodReport {
        container_id: record.container_id.clone(),
        interface: record.interface.clone(),
        uid,
        network_status: Some(to_annotation(&network_status(record))),
        events: shown(record).map(added).collect(),
        milliseconds: None,
    }
}

fn status_of(attachment: &Attachment) -> NetworkStatus {
    let nothing = CniResult::default();
    let result = attachment.result.as_ref().unwrap_or(&nothing);
    let inside = result.container_interface().map(|(_, it)| it);
    let ips: Vec<_> = result.container_ips().collect();
    let routes = result.routes.iter().filter(|it| it.is_default());
    // A route without a next hop has the gateway of its family's address (CNI specification, "routes").
    let mut gateway: Vec<IpAddr> = routes
        .filter_map(|route| {
            let of_family = |it: &&&Ip| it.address.addr().is_ipv4() == route.dst.addr().is_ipv4();
            route.gw.or_else(|| ips.iter().find(of_family).and_then(|it| it.gateway))
        })
        .collect();
    gateway.dedup();
    NetworkStatus {
        name: name_of(attachment),
        // Results before 0.3.0 have no interfaces; the name is known all the same.
        interface: inside.map_or_else(|| attachment.interface.clone(), |it| it.name.clone()),
        ips: ips.iter().map(|it| it.address.addr()).collect(),
        mac: inside.map(|it| it.mac.clone()).unwrap_or_default(),
        mtu: inside.and_then(|it| it.mtu),
        default: attachment.default,
        dns: StatusDns {
            nameservers: result.dns.nameservers.clone(),
            domain: result.dns.domain.clone(),
            search: result.dns.search.clone(),
            options: result.dns.options.clone(),
        },
        device_info: attachment.device_info.clone(),
        gateway,
        default_route: attachment.default_route.clone(),
    }
}

/// The NAD, else the `name` of the configuration, as Multus names a default network from a file.
fn name_of(attachment: &Attachment) -> String {
    let configured = || attachment.plugins.first()?.get("name").and_then(Value::as_str).map(str::to_owned);
    let nad = attachment.network.as_ref().map(ToString::to_string);
    nad.or_else(configured).unwrap_or_else(|| attachment.label.clone())
}

fn added(attachment: &Attachment) -> PodEvent {
    let nothing = CniResult::default();
    let result = attachment.result.as_ref().unwrap_or(&nothing);
    let addresses: Vec<_> = result.container_ips().map(|it| it.address.to_string()).collect();
    let addresses = if addresses.is_empty() {
        "without an address".to_owned()
    } else {
        format!("[{}]", addresses.join(" "))
    };
    let message = format!("Attached {} {addresses} to {}", attachment.interface, name_of(attachment));
    PodEvent { warning: false, reason: ADDED_INTERFACE.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn attachment(network: &str, more: Value) -> Attachment {
        let mut value = json!({
            "label": network, "interface": "net1", "plugins": [{"name": "conf-name", "type": "macvlan"}],
        });
        if network.contains('/') {
            value["network"] = json!(network);
        }
        let (Some(all), Value::Object(more)) = (value.as_object_mut(), more) else { panic!("objects") };
        all.extend(more);
        serde_json::from_value(value).expect("an attachment")
    }

    fn status(network: &str, more: Value) -> Value {
        serde_json::to_value(status_of(&attachment(network, more))).expect("JSON")
    }

    #[test]
    fn both_families_of_the_first_interface_inside() {
        let result = json!({
            "interfaces": [
                {"name": "br0", "mac": "02:00:00:00:00:aa"},
                {"name": "net1", "mac": "02:00:00:00:00:01", "mtu": 1400, "sandbox": "/n"},
                {"name": "tun0", "mac": "02:00:00:00:00:02", "sandbox": "/n"},
            ],
            "ips": [
                {"address": "192.0.2.1/24", "interface": 0},
                {"address": "10.30.0.2/24", "gateway": "10.30.0.1", "interface": 1},
                {"address": "fd00:30::2/64", "interface": 1},
                {"address": "10.99.0.2/24", "interface": 2},
            ],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd00:30::1"}, {"dst": "10.0.0.0/8", "gw": "10.30.0.9"}],
            "dns": {"nameservers": ["10.30.0.53"], "search": ["core.local"]},
        });
        assert_eq!(
            status("core/n3", json!({"result": result, "defaultRoute": ["10.30.0.1"]})),
            json!({
                "name": "core/n3", "interface": "net1", "ips": ["10.30.0.2", "fd00:30::2"],
                "mac": "02:00:00:00:00:01", "mtu": 1400,
                "dns": {"nameservers": ["10.30.0.53"], "search": ["core.local"]},
                "gateway": ["10.30.0.1", "fd00:30::1"], "default-route": ["10.30.0.1"],
            })
        );
    }

    #[test]
    fn a_default_network_from_a_file_has_its_configurations_name() {
        let more = json!({"interface": "eth0", "default": true, "result": {}, "deviceInfo": {"type": "pci"}});
        assert_eq!(
            status("10-x.conf", more),
            json!({
                "name": "conf-name", "interface": "eth0", "default": true, "dns": {},
                "device-info": {"type": "pci"},
            })
        );
    }

    #[test]
    fn results_without_interfaces_say_what_they_can() {
        let result = json!({"ips": [{"address": "10.1.0.2/16", "gateway": "10.1.0.1"}]});
        let status = status("core/old", json!({"result": result}));
        assert_eq!(status, json!({"name": "core/old", "interface": "net1", "ips": ["10.1.0.2"], "dns": {}}));
        let outside =
            json!({"interfaces": [{"name": "x"}], "ips": [{"address": "10.1.0.2/16", "interface": 0}]});
        let message = added(&attachment("core/old", json!({"result": outside}))).message;
        assert_eq!(message, "Attached net1 [10.1.0.2/16] to core/old");
        let message = added(&attachment("core/old", json!({}))).message;
        assert_eq!(message, "Attached net1 without an address to core/old");
    }

    #[test]
    fn a_chain_that_made_nothing_is_no_attachment_of_the_pod() {
        let record = |attachments: &[Value]| -> AttachmentRecord {
            let record = json!({"version": 1, "containerId": "c", "interface": "eth0", "netns": "/n",
                "complete": true, "attachments": attachments});
            serde_json::from_value(record).expect("a record")
        };
        let one = |more: Value| {
            let mut value = json!({"label": "x", "interface": "net1", "result": {},
                "plugins": [{"name": "chain", "type": "tuning"}]});
            let (Some(all), Value::Object(more)) = (value.as_object_mut(), more) else { panic!("objects") };
            all.extend(more);
            value
        };
        let made = json!({"interfaces": [{"name": "net9", "sandbox": "/n"}]});
        let record = record(&[
            one(json!({"default": true})),
            one(json!({"network": "core/n3"})),
            one(json!({"label": "auxiliary"})),
            one(json!({"result": made})),
        ]);
        let names: Vec<_> = network_status(&record).into_iter().map(|it| (it.name, it.interface)).collect();
        let expected = [("chain", "net1"), ("core/n3", "net1"), ("chain", "net9")];
        assert_eq!(names, expected.map(|(name, interface)| (name.to_owned(), interface.to_owned())));
        assert_eq!(report(&record, None).events.len(), 3);
    }

    #[test]
    fn the_annotation_is_a_list_in_the_order_of_attaching() {
        let record = AttachmentRecord {
            version: 1,
            container_id: "c".to_owned(),
            interface: "eth0".to_owned(),
            netns: "/n".into(),
            pod: None,
            complete: true,
            attachments: vec![
                attachment("cbr0", json!({"interface": "eth0", "default": true})),
                attachment("core/n3", json!({})),
                attachment("core/n3", json!({"interface": "net2"})),
            ],
        };
        let report = report(&record, Some("u".to_owned()));
        let text = report.network_status.expect("a status");
        let read: Vec<NetworkStatus> = serde_json::from_str(&text).expect("a list");
        let names: Vec<_> =
            read.iter().map(|it| (it.name.as_str(), it.interface.as_str(), it.default)).collect();
        assert_eq!(
            names,
            [("conf-name", "eth0", true), ("core/n3", "net1", false), ("core/n3", "net2", false)]
        );
        assert!(text.starts_with("[\n    {\n        \"name\": \"conf-name\""), "{text}");
        assert_eq!((report.events.len(), report.uid.as_deref()), (3, Some("u")));
    }
}
