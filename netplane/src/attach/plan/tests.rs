//! Plans of configurations and selections, and what is said of wrong ones.

use super::*;
use crate::nad::selection;

fn source(config: &str) -> Source {
    Source { name: "n3".to_owned(), ..Source::unnamed("core/n3".to_owned(), config.to_owned()) }
}

fn plan(config: &str, selection: &str) -> Result<Delegate, AttachError> {
    let selection = selection::parse(selection, "core").expect("a selection");
    delegate(&source(config), "net1".to_owned(), false, &Overrides::of_selection(&selection[0]))
}

#[test]
fn name_and_version_go_into_each_plugin() {
    let delegate = plan(
        r#"{"cniVersion":"1.0.0","plugins":[{"type":"bridge"},{"type":"tuning","name":"other"}]}"#,
        "n3",
    )
    .expect("a list");
    assert_eq!(delegate.version, Version::V1_0_0);
    for plugin in &delegate.plugins {
        assert_eq!((&plugin["name"], &plugin["cniVersion"]), (&json!("n3"), &json!("1.0.0")));
    }
}

const ASKS_FOR_ALL: &str = r#"[{"name":"n3","ips":["10.30.0.9/24","2001:db8::9"],"mac":"02:00:00:00:00:01",
    "infiniband-guid":"02:00:00:00:00:00:00:01","portMappings":[{"hostPort":8080,"containerPort":80}],
    "bandwidth":{"ingressRate":1000,"ingressBurst":8000},"deviceID":"0000:03:02.1","cni-args":{"y":2}}]"#;

#[test]
fn what_the_pod_asks_for_goes_to_plugins_with_the_capability() {
    let delegate = plan(
        r#"{"plugins":[
            {"type":"a","capabilities":{"ips":true,"mac":false},"args":{"cni":{"x":1,"y":1}}},
            {"type":"b","capabilities":{"mac":true,"infinibandGUID":true,"deviceID":true}},
            {"type":"c","capabilities":{"portMappings":true,"bandwidth":true,"ips":true}},
            {"type":"d","runtimeConfig":{"stale":1}}]}"#,
        ASKS_FOR_ALL,
    )
    .expect("a list");
    let ips = json!(["10.30.0.9/24", "2001:db8::9"]);
    let runtime: Vec<_> = delegate.plugins.iter().map(|it| it.get("runtimeConfig").cloned()).collect();
    assert_eq!(
        runtime,
        [
            Some(json!({"ips": ips})),
            Some(json!({"mac": "02:00:00:00:00:01", "infinibandGUID": "02:00:00:00:00:00:00:01",
                        "deviceID": "0000:03:02.1"})),
            Some(json!({"ips": ips, "bandwidth": {"ingressRate": 1000, "ingressBurst": 8000},
                "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]})),
            None,
        ]
    );
    assert!(delegate.plugins.iter().all(|it| it.get("capabilities").is_none()));
    assert_eq!(delegate.plugins[0]["args"]["cni"], json!({"x": 1, "y": 2}));
    assert_eq!(delegate.plugins[3]["args"]["cni"], json!({"y": 2}), "in every plugin of a list");
    assert_eq!(delegate.warnings, [], "each is met by one plugin at least");
}

#[test]
fn what_no_plugin_can_do_is_a_warning() {
    let warnings = |config: &str, selection: &str| {
        let delegate = plan(config, selection).expect("passed over, as Multus does");
        delegate.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let all = warnings(r#"{"type":"a","capabilities":{"mac":true,"dns":true}}"#, ASKS_FOR_ALL);
    let lacking = ["bandwidth", "deviceID", "infinibandGUID", "ips", "portMappings"];
    let line = |it| format!("network core/n3: {it} is asked for, and no plugin of it has that capability");
    assert_eq!(all, lacking.map(line));
    assert_eq!(
        warnings(r#"{"type":"a"}"#, r#"[{"name":"n3","ips":[]}]"#),
        ["network core/n3: ips is an empty list"]
    );
    assert_eq!(warnings(r#"{"type":"a"}"#, r#"[{"name":"n3","cni-args":{"y":2}}]"#), [""; 0]);
}

#[test]
fn the_ipam_claim_goes_to_every_plugin_beside_the_args() {
    let delegate = plan(
        r#"{"plugins":[{"type":"a"},{"type":"b","args":{"cni":{"x":1}}}]}"#,
        r#"[{"name":"n3","ipam-claim-reference":"vm1.net","cni-args":{"y":2}}]"#,
    )
    .expect("a list");
    assert_eq!(delegate.plugins[0]["args"]["cni"], json!({"ipam-claim-reference": "vm1.net", "y": 2}));
    assert_eq!(
        delegate.plugins[1]["args"]["cni"],
        json!({"ipam-claim-reference": "vm1.net", "x": 1, "y": 2})
    );
}

fn device() -> Device {
    Device { resource: "intel.com/vf".to_owned(), id: "0000:03:02.1".to_owned() }
}

#[test]
fn a_device_of_kubelet_goes_into_every_plugin() {
    let overrides = Overrides { device: Some(device()), ..Overrides::default() };
    let source = source(r#"{"plugins":[{"type":"sriov","deviceID":"old"},{"type":"tuning"}]}"#);
    let delegate = delegate(&source, "net1".to_owned(), false, &overrides).expect("a list");
    for plugin in &delegate.plugins {
        assert_eq!(
            (&plugin["deviceID"], &plugin["pciBusID"]),
            (&json!("0000:03:02.1"), &json!("0000:03:02.1"))
        );
    }
}

#[test]
fn what_the_runtime_passes_is_filtered_and_no_warning() {
    let passed = json!({"portMappings": [], "bandwidth": {}, "example.com/other": 1});
    let passed = passed.as_object().expect("an object").clone();
    let source = source(
        r#"{"plugins":[{"type":"a"},{"type":"b","capabilities":{"portMappings":true,"example.com/other":true}}]}"#,
    );
    let overrides = Overrides { passed, ..Overrides::default() };
    let delegate = delegate(&source, "eth0".to_owned(), true, &overrides).expect("a list");
    assert_eq!(delegate.plugins[0].get("runtimeConfig"), None);
    assert_eq!(delegate.plugins[1]["runtimeConfig"], json!({"portMappings": [], "example.com/other": 1}));
    assert_eq!(delegate.warnings, []);
}

#[test]
fn the_newest_version_that_both_know_is_spoken() {
    for (config, version) in [
        (r#"{"type":"a"}"#, Version::V0_1_0),
        (r#"{"type":"a","cniVersion":""}"#, Version::V0_1_0),
        (r#"{"type":"a","cniVersion":"0.3.1"}"#, Version::V0_3_1),
        (r#"{"type":"a","cniVersion":"0.4.0","cniVersions":["0.3.1","1.0.0","7.0.0"]}"#, Version::V1_0_0),
        (r#"{"type":"a","cniVersion":"7.0.0","cniVersions":["0.3.1"]}"#, Version::V0_3_1),
        (r#"{"type":"a","cniVersion":"1.1.0","cniVersions":["0.3.1"]}"#, Version::V1_1_0),
    ] {
        let delegate = plan(config, "n3").expect(config);
        assert_eq!(delegate.version, version, "{config}");
        assert_eq!(delegate.plugins[0]["cniVersion"], version.name());
    }
}

#[test]
fn wrong_configurations_are_named_by_key() {
    for (config, part) in [
        ("{", "core/n3: spec.config: is not JSON"),
        ("[]", "not a JSON object"),
        (r#"{"cniVersion":"9.9.9","type":"a"}"#, "cniVersion: \"9.9.9\" is not supported"),
        (r#"{"name":"x"}"#, "type: is missing"),
        (r#"{"plugins":[]}"#, "plugins: must be a list"),
        (r#"{"type":"macvlan","ipam":{"type":"host-local"}}"#, "neither \"subnet\" nor \"ranges\""),
        (r#"{"type":"macvlan","mode":"sideways"}"#, "sideways"),
    ] {
        let error = plan(config, "n3").expect_err(config).to_string();
        assert!(error.contains(part), "{config}: {error}");
    }
}

fn default(interface: &str) -> Delegate {
    let source = source(r#"{"type":"bridge"}"#);
    delegate(&source, interface.to_owned(), true, &Overrides::default()).expect("a delegate")
}

fn planned(annotation: &str, taken: Option<&str>) -> Result<Vec<String>, String> {
    let selections = selection::parse(annotation, "core").expect("selections");
    let wanted = |selection: &NetworkSelection| Wanted {
        source: source(r#"{"type":"bridge"}"#),
        interface: selection.interface.clone(),
        overrides: Overrides::of_selection(selection),
    };
    let delegates = delegates(taken.map(default), &selections.iter().map(wanted).collect::<Vec<_>>());
    let names = |delegates: Vec<Delegate>| {
        let own = delegates.into_iter().filter(|it| !it.default);
        own.map(|it| it.interface).collect()
    };
    delegates.map(names).map_err(|error| error.to_string())
}

#[test]
fn names_by_position_and_no_name_twice() {
    let names = planned("a,b@x,c", Some("eth0")).expect("names");
    assert_eq!(names, ["net1", "x", "net3"]);
    assert_eq!(planned("a,a", None).expect("one network twice"), ["net1", "net2"]);
    assert!(planned("a@eth0", Some("eth0")).is_err());
    assert!(planned("a@net2,b", None).is_err());
}

#[test]
fn one_default_route_only() {
    for (first, second) in
        [(r#"["10.0.0.1"]"#, r#"["10.0.0.2"]"#), (r#"["10.0.0.1"]"#, "[]"), ("[]", r#"["2001:db8::1"]"#)]
    {
        let two = format!(
            r#"[{{"name":"a","default-route":{first}}},{{"name":"c"}},{{"name":"b","default-route":{second}}}]"#
        );
        let error = planned(&two, None).expect_err("two");
        assert!(error.contains("only one can have it"), "{error}");
    }
}

#[test]
fn a_default_route_for_each_family_is_multus_s_and_not_the_standard_s() {
    let annotation =
        r#"[{"name":"a","default-route":["10.0.0.1"]},{"name":"b","default-route":["2001:db8::1"]}]"#;
    let selections = selection::parse(annotation, "core").expect("selections");
    let wanted = |it: &NetworkSelection| Wanted {
        source: Source { label: it.network.to_string(), ..source(r#"{"type":"bridge"}"#) },
        interface: None,
        overrides: Overrides::of_selection(it),
    };
    let delegates = delegates(None, &selections.iter().map(wanted).collect::<Vec<_>>()).expect("both");
    assert_eq!(delegates[0].warnings, []);
    let warning = Warning::TwoDefaultRoutes { network: "core/b".to_owned(), other: "core/a".to_owned() };
    assert_eq!(delegates[1].warnings, [warning]);
}

#[test]
fn args_that_are_no_object_are_named() {
    let error = plan(r#"{"type":"a","args":7}"#, r#"[{"name":"n3","cni-args":{"y":2}}]"#);
    let error = error.expect_err("no object").to_string();
    assert!(error.contains("core/n3: args: must be an object"), "{error}");
}
