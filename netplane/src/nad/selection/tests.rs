//! The annotation's forms and keys, and what is said of wrong ones.

use super::*;
use serde_json::json;

fn one(keys: Value) -> Result<NetworkSelection, String> {
    let mut entry = json!({"name": "n3"});
    entry.as_object_mut().expect("an object").extend(keys.as_object().expect("an object").clone());
    let parsed = parse(&json!([entry]).to_string(), "core").map_err(|it| it.to_string())?;
    Ok(parsed.into_iter().next().expect("one selection"))
}

#[test]
fn short_form() {
    let selections = parse("n3, other/n6@data0 ,n3", "core").expect("three selections");
    let shown: Vec<_> =
        selections.iter().map(|it| (it.network.to_string(), it.interface.as_deref())).collect();
    assert_eq!(
        shown,
        [("core/n3".to_owned(), None), ("other/n6".to_owned(), Some("data0")), ("core/n3".to_owned(), None)]
    );
    assert_eq!(parse("  ", "core").expect("nothing"), []);
}

#[test]
fn json_form_with_every_key() {
    let selection = one(json!({
        "namespace": "other", "interface": "b", "ips": ["10.40.0.7/24", "2001:db8::7"],
        "mac": "02:00:00:00:00:01", "infiniband-guid": "c2:b0:57:49:47:f1:00:01",
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "UDP", "hostIP": "10.1.1.1"},
                         {"hostPort": 8081, "containerPort": 81}],
        "bandwidth": {"ingressRate": 1000, "ingressBurst": 200, "egressRate": 3000},
        "deviceID": "0000:03:02.1", "cni-args": {"k": 1}, "default-route": ["10.40.0.1", "2001:db8::1"],
        "example.com/x": 1, "reserved": [],
    }))
    .expect("a selection");
    assert_eq!(selection.network.to_string(), "other/n3");
    assert_eq!(selection.interface.as_deref(), Some("b"));
    assert_eq!(selection.ips, Some(vec!["10.40.0.7/24".to_owned(), "2001:db8::7".to_owned()]));
    assert_eq!(selection.mac.as_deref(), Some("02:00:00:00:00:01"));
    assert_eq!(selection.infiniband_guid.as_deref(), Some("c2:b0:57:49:47:f1:00:01"));
    assert_eq!(
        json!(selection.port_mappings),
        json!([{"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "10.1.1.1"},
               {"hostPort": 8081, "containerPort": 81, "protocol": "tcp"}])
    );
    assert_eq!(
        json!(selection.bandwidth),
        json!({"ingressRate": 1000, "ingressBurst": 200, "egressRate": 3000, "egressBurst": i32::MAX}),
        "a rate without a burst gets kubelet's"
    );
    assert_eq!(selection.device_id.as_deref(), Some("0000:03:02.1"));
    assert_eq!(json!(selection.cni_args), json!({"k": 1}));
    let gateways: Vec<IpAddr> = ["10.40.0.1", "2001:db8::1"].map(|it| it.parse().expect("it")).to_vec();
    assert_eq!(selection.default_route, Some(gateways));
}

#[test]
fn the_old_name_of_interface_counts_where_the_new_one_is_not() {
    assert_eq!(one(json!({"interfaceRequest": "a"})).expect("a").interface.as_deref(), Some("a"));
    let both = one(json!({"interfaceRequest": "a", "interface": "b"})).expect("both");
    assert_eq!(both.interface.as_deref(), Some("b"));
    let error = one(json!({"interfaceRequest": "a/b"})).expect_err("a path");
    assert!(error.contains("entry core/n3: interfaceRequest: interface name \"a/b\""), "{error}");
}

#[test]
fn an_ipam_claim_comes_without_addresses() {
    let claim = one(json!({"ipam-claim-reference": "vm1.net"})).expect("a claim");
    assert_eq!(claim.ipam_claim.as_deref(), Some("vm1.net"));
    one(json!({"ipam-claim-reference": "vm1.net", "ips": []})).expect("no address is asked for");
    let error = one(json!({"ipam-claim-reference": "vm1.net", "ips": ["10.0.0.5"]})).expect_err("both");
    assert!(error.contains("entry core/n3: ipam-claim-reference: together with ips"), "{error}");
}

#[test]
fn null_and_empty_are_as_not_there() {
    let selection = one(json!({
        "namespace": "", "interface": null, "ips": null, "mac": "", "infiniband-guid": null,
        "portMappings": null, "bandwidth": {"ingressRate": 0}, "deviceID": "", "cni-args": null,
        "ipam-claim-reference": "", "default-route": null,
    }))
    .expect("a selection");
    let plain = parse("n3", "core").expect("the short form");
    assert_eq!(plain, [selection]);
    assert_eq!(one(json!({"default-route": []})).expect("empty").default_route, Some(Vec::new()));
    assert_eq!(one(json!({"ips": []})).expect("empty").ips, Some(Vec::new()));
}

#[test]
fn wrong_entries_are_named() {
    for (annotation, part) in [
        ("n3@", "must have 1 to 15 bytes"),
        ("n3@a/b", "\"a/b\""),
        ("n3@abcdefghijklmnop", "abcdefghijklmnop"),
        ("a b", "\"a b\" is no Kubernetes name; the form is"),
        ("n3,,n6", "\"\" is no Kubernetes name"),
        ("{\"name\":\"n3\"}", "not a JSON list"),
        ("[7]", "not a JSON list"),
        (r#"[{"name":"n3"},{"interface":"x"}]"#, "entry 2: name: is missing"),
        (r#"[{"name":["n3"]}]"#, "entry 1: name: is [\"n3\"], should be a string"),
        (r#"[{"name":"a b"}]"#, "entry 1: name: \"a b\" is no Kubernetes name"),
    ] {
        let error = parse(annotation, "core").expect_err(annotation).to_string();
        assert!(error.contains(part), "{annotation}: {error}");
    }
}

#[test]
fn wrong_values_are_named_by_entry_and_key() {
    for (keys, part) in [
        (json!({"ips": "10.0.0.1"}), "ips: is \"10.0.0.1\", should be a list"),
        (json!({"ips": ["10.0.0.300"]}), "ips: \"10.0.0.300\" should be an address"),
        (json!({"ips": ["10.0.0.3/33"]}), "ips: \"10.0.0.3/33\" should be an address"),
        (json!({"ips": [7]}), "ips: 7 should be an address"),
        (json!({"mac": "02:00:00:00:01"}), "mac: is \"02:00:00:00:01\", should be a MAC"),
        (json!({"mac": 2}), "mac: is 2, should be a string"),
        (json!({"infiniband-guid": "02:00:00:00:00:01"}), "infiniband-guid: is \"02:00:00:00:00:01\""),
        (json!({"portMappings": [{"hostPort": 70000, "containerPort": 1}]}), "hostPort should be a number"),
        (json!({"portMappings": [{"hostPort": 1}]}), "containerPort should be a number from 1"),
        (json!({"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}]}), "tcp, udp"),
        (json!({"portMappings": [{"hostPort": 1, "containerPort": 1, "hostIP": "x"}]}), "hostIP should be"),
        (json!({"portMappings": {"hostPort": 1}}), "portMappings: is {\"hostPort\":1}, should be a list"),
        (json!({"bandwidth": {"ingressBurst": 5}}), "bandwidth: ingressBurst needs ingressRate, too"),
        (json!({"bandwidth": {"egressRate": -1}}), "bandwidth: egressRate is -1, should be a number from 0"),
        (json!({"bandwidth": {"egressRate": 1, "egressBurst": 34_359_738_360_u64}}), "egressBurst is 34359"),
        (json!({"deviceID": 5}), "deviceID: is 5, should be a string"),
        (json!({"cni-args": "a=b"}), "cni-args: is \"a=b\", should be an object"),
        (json!({"default-route": "10.0.0.1"}), "default-route: is \"10.0.0.1\", should be a list"),
        (json!({"default-route": ["10.0.0.0/8"]}), "default-route: \"10.0.0.0/8\" should be a gateway"),
        (json!({"default-route": ["10.0.0.1", "10.0.0.2"]}), "one gateway of each family at most"),
        (json!({"ipam-claim-reference": {}}), "ipam-claim-reference: is {}, should be a string"),
    ] {
        let error = one(keys.clone()).expect_err("wrong");
        assert!(error.contains("entry core/n3: ") && error.contains(part), "{keys}: {error}");
    }
}

#[test]
fn hardware_addresses_are_read_as_go_reads_them() {
    for mac in ["02:00:00:00:00:01", "02-00-00-00-00-01", "0200.0000.0001", "02:00:00:00:00:00:00:01"] {
        assert_eq!(one(json!({"mac": mac})).expect(mac).mac.as_deref(), Some(mac));
    }
    for mac in ["020000000001", "02:00:00:00:00:0g", "02:00-00:00:00:01", "2:0:0:0:0:1"] {
        one(json!({"mac": mac})).expect_err(mac);
    }
}
