//! What is written to the pod.

use super::Stage;
use netplane_bench::lab::apiserver::{self, Fault};
use serde_json::{Value, json};

fn answer(code: u16) -> Fault {
    Fault::Answer { code, retry_after: None }
}

#[test]
fn network_status_tells_every_attachment() {
    let stage = Stage::selecting(
        r#"[{"name":"dual","default-route":["10.60.0.1"]},{"name":"n3"},{"name":"n3","interface":"again","mac":"02:00:00:00:00:31"}]"#,
    );
    let mut dual = stage.node.macvlan("n6", "10.60.0.0/24");
    dual["mac"] = json!("02:00:00:00:00:60");
    dual["mtu"] = json!(1400);
    dual["ipam"]["ranges"] = json!([[{ "subnet": "10.60.0.0/24" }], [{ "subnet": "fd00:60::/64" }]]);
    dual["ipam"].as_object_mut().expect("an object").remove("subnet");
    dual["dns"] = json!({ "nameservers": ["10.60.0.53"] });
    stage.server.put(apiserver::nad("core", "dual", &dual)).expect("a NAD");
    let mut n3 = stage.node.macvlan("n3", "10.30.0.0/24");
    n3["mac"] = json!("02:00:00:00:00:30");
    n3["capabilities"] = json!({ "mac": true });
    stage.server.put(apiserver::nad("core", "n3", &n3)).expect("a NAD");
    stage.add(&stage.configuration());
    let golden: Value = serde_json::from_str(include_str!("../golden/network-status.json")).expect("JSON");
    assert_eq!(stage.status().expect("a status"), golden);
}

#[test]
fn a_default_network_from_a_file_has_its_own_name() {
    let stage = Stage::selecting("n3");
    let mut default = stage.node.macvlan("n6", "10.20.0.0/24");
    default["name"] = json!("cbr0");
    let mut configuration = stage.configuration();
    configuration["clusterNetwork"] = json!("");
    configuration["delegates"] = json!([default]);
    stage.add(&configuration);
    let status = stage.status().expect("a status");
    assert_eq!((&status[0]["name"], &status[0]["default"]), (&json!("cbr0"), &json!(true)));
    assert_eq!((&status[1]["name"], &status[1]["default"]), (&json!("core/n3"), &Value::Null));
}

#[test]
fn each_attachment_is_an_event_and_so_is_what_was_passed_over() {
    let stage = Stage::selecting(r#"[{"name":"n6","ips":["10.40.0.77"]}]"#);
    stage.add(&stage.configuration());
    let normal = |text: &str| ("Normal".to_owned(), "AddedInterface".to_owned(), text.to_owned());
    let events = stage.events();
    assert_eq!(events[0], normal("Attached eth0 [10.20.0.2/24] to core/default-network"));
    assert_eq!(events[1], normal("Attached net1 [10.40.0.2/24] to core/n6"));
    assert_eq!((events[2].0.as_str(), events[2].1.as_str()), ("Warning", "SelectionPassedOver"));
    assert!(events[2].2.contains("core/n6: ips"), "{events:?}");
    assert_eq!(events.len(), 3);
    let event = &stage.server.all("events")[0];
    assert_eq!(event["involvedObject"]["uid"], json!(stage.uid()), "{event}");
    assert_eq!(
        (&event["source"]["component"], &event["involvedObject"]["kind"]),
        (&json!("multus"), &json!("Pod"))
    );
}

#[test]
fn a_failure_is_an_event() {
    let stage = Stage::selecting("n3,bad");
    stage
        .server
        .put(apiserver::nad("core", "bad", &stage.node.macvlan("nowhere", "10.50.0.0/24")))
        .expect("a NAD");
    let (_, message) = stage.add_fails(&stage.configuration());
    assert!(message.contains("nowhere"), "{message}");
    let events = stage.events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((events[0].0.as_str(), events[0].1.as_str()), ("Warning", "FailedAddInterface"));
    assert!(events[0].2.contains("core/bad") && events[0].2.contains("nowhere"), "{events:?}");
    assert_eq!(stage.status(), None);
}

#[test]
fn a_damaged_record_is_an_event_and_what_is_known_is_taken_down() {
    let stage = Stage::selecting("n3");
    stage.add(&stage.configuration());
    let record = stage.node.records().join(format!("{}@eth0.json", stage.pod.name));
    std::fs::write(&record, "{\"version\":1,").expect("as after a power cut");
    for _ in 0..2 {
        stage.call("DEL", &stage.configuration()).expect("detached");
    }
    assert_eq!(stage.pod.interfaces(), [""; 0]);
    let events = stage.events();
    let told: Vec<_> = events.iter().filter(|it| it.1 == "DamagedRecord").collect();
    assert_eq!(told.len(), 1, "{events:?}");
    assert_eq!(told[0].0, "Warning");
    assert!(told[0].2.contains("record of eth0 is damaged"), "{events:?}");
}

#[test]
fn an_add_over_a_damaged_record_is_an_event_too() {
    let stage = Stage::selecting("n3");
    stage.add(&stage.configuration());
    let record = stage.node.records().join(format!("{}@eth0.json", stage.pod.name));
    std::fs::write(&record, "{").expect("as after a power cut");
    stage.add(&stage.configuration());
    assert_eq!(stage.pod.interfaces(), ["eth0", "net1"]);
    let events = stage.events();
    assert_eq!(events.iter().filter(|it| it.1 == "DamagedRecord").count(), 1, "{events:?}");
    stage.call("DEL", &stage.configuration()).expect("detached");
    std::fs::remove_file(record.with_extension("corrupt")).expect("set aside");
    stage.assert_nothing_left();
}

#[test]
fn with_a_damaged_record_the_default_network_goes_though_nothing_is_known_of_the_pod() {
    for is_down in [false, true] {
        let stage = Stage::selecting("n3");
        let mut configuration = stage.configuration();
        let mut default = stage.node.macvlan("n6", "10.20.0.0/24");
        default["name"] = json!("cbr0");
        configuration["clusterNetwork"] = json!("");
        configuration["delegates"] = json!([default]);
        stage.add(&configuration);
        let record = stage.node.records().join(format!("{}@eth0.json", stage.pod.name));
        std::fs::write(&record, "{").expect("as after a power cut");
        if is_down {
            stage.server.fail(usize::MAX, "get", "", answer(503));
        } else {
            stage.server.delete("pods", "core", "upf-0");
        }
        stage.call("DEL", &configuration).expect("detached");
        assert_eq!(stage.pod.interfaces(), ["net1"], "that one goes with the namespace");
        assert!(!stage.node.ipam().join("cbr0/10.20.0.2").exists());
    }
}

#[test]
fn events_that_cannot_be_posted_fail_nothing() {
    for fault in [answer(403), Fault::Hang] {
        let stage = Stage::selecting("n3");
        stage.server.fail(usize::MAX, "create", "/events", fault);
        stage.add(&stage.configuration());
        assert!(stage.status().is_some());
    }
}

#[test]
fn a_write_is_tried_again_after_a_conflict() {
    let stage = Stage::selecting("n3");
    stage.server.fail(2, "patch", "pods/upf-0", answer(409));
    stage.add(&stage.configuration());
    assert!(stage.status().is_some());
    assert_eq!(stage.server.count("patch", "pods/upf-0/status"), 3);
}

#[test]
fn annotations_of_others_are_left_alone() {
    let stage = Stage::new(&json!({ "k8s.v1.cni.cncf.io/networks": "n3", "example.org/mine": "yes" }));
    stage.add(&stage.configuration());
    let pod = stage.server.get("pods", "core", "upf-0").expect("the pod");
    assert_eq!(pod["metadata"]["annotations"]["example.org/mine"], "yes");
    assert_eq!(pod["spec"]["nodeName"], "node-1");
}

#[test]
fn multus_cluster_role_is_enough() {
    let stage = Stage::selecting("n3");
    stage.server.fail(usize::MAX, "patch", "pods", answer(403));
    stage.server.fail(1, "update", "pods/upf-0/status", answer(409));
    stage.add(&stage.configuration());
    assert_eq!(stage.status().expect("a status")[1]["name"], "core/n3");
    assert_eq!(stage.server.count("update", "pods/upf-0/status"), 2);
}

#[test]
fn a_status_that_may_not_be_written_leaves_nothing() {
    let stage = Stage::selecting("n3");
    stage.server.fail(usize::MAX, "patch", "pods", answer(403));
    stage.server.fail(usize::MAX, "update", "pods", answer(403));
    let (_, message) = stage.add_fails(&stage.configuration());
    assert!(message.contains("pod core/upf-0") && message.contains("403"), "{message}");
    assert!(message.contains("ClusterRole"), "{message}");
}

#[test]
fn a_pod_that_goes_meanwhile_is_no_failure() {
    let stage = Stage::selecting("");
    stage.server.delete("pods", "core", "upf-0");
    let configuration = stage.configuration_with_annotations("n3");
    stage.add(&configuration);
    assert_eq!(stage.pod.interfaces(), ["eth0", "net1"]);
    stage.call("DEL", &configuration).expect("detached");
}

#[test]
fn the_successor_of_a_pod_does_not_get_its_status() {
    let mut stage = Stage::selecting("");
    stage.pass_uid(&stage.uid());
    let successor = stage.put_pod(&json!({}));
    let (code, message) = stage.add_fails(&stage.configuration_with_annotations("n3"));
    assert_eq!(code, 100, "{message}");
    assert!(message.contains(&successor) && message.contains("it was replaced"), "{message}");
    assert_eq!(stage.status(), None);
}

#[test]
fn a_static_pods_mirror_gets_its_status() {
    let mut stage = Stage::new(&json!({ "kubernetes.io/config.source": "file" }));
    stage.pass_uid("0123456789abcdef");
    // The runtime passes annotations, with or without the one that tells.
    let mut configuration = stage.configuration_with_annotations("n3");
    stage.add(&configuration);
    assert_eq!(stage.status().expect("a status")[1]["name"], "core/n3");
    stage.call("DEL", &configuration).expect("detached");
    configuration["runtimeConfig"]["io.kubernetes.cri.pod-annotations"]["kubernetes.io/config.source"] =
        json!("file");
    stage.requests();
    stage.add(&configuration);
    assert_eq!(stage.requests().iter().filter(|it| it.contains("pods/")).count(), 1);
}
