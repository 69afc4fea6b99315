//! Where annotations and NADs come from.

use super::Stage;
use netplane_bench::lab::apiserver;
use serde_json::json;
use std::time::Duration;

#[test]
fn annotations_and_nads_come_from_the_api_server() {
    let stage = Stage::selecting("n3, n6@data0");
    let configuration = stage.configuration();
    let result = stage.add(&configuration);
    assert_eq!(result["ips"][0]["address"], "10.20.0.2/24");
    assert_eq!(stage.pod.interfaces(), ["eth0", "net1", "data0"]);
    let requests = stage.requests();
    for once in ["get pods/upf-0", "get network-attachment-definitions/n6", "patch pods/upf-0/status"] {
        assert_eq!(requests.iter().filter(|it| *it == once).count(), 1, "{once}: {requests:?}");
    }
    assert_eq!(requests.len(), 5, "the pod, three NADs, and the status: {requests:?}");
    stage.call("DEL", &configuration).expect("detached");
    stage.assert_nothing_left();
    assert_eq!(stage.requests(), [""; 0], "DEL asks nobody");
}

#[test]
fn del_needs_no_api_server() {
    let stage = Stage::selecting("n3");
    let configuration = stage.configuration();
    stage.add(&configuration);
    stage.server.down().expect("down");
    stage.call("DEL", &configuration).expect("detached");
    stage.assert_nothing_left();
}

#[test]
fn annotations_of_the_runtime_save_the_get_of_the_pod() {
    let stage = Stage::selecting("nothing-of-this");
    stage.add(&stage.configuration_with_annotations("n3"));
    assert_eq!(stage.pod.interfaces(), ["eth0", "net1"]);
    assert!(!stage.requests().contains(&"get pods/upf-0".to_owned()));
}

#[test]
fn nads_of_the_folder_count_before_those_of_the_cluster() {
    let stage = Stage::selecting("");
    stage.node.usual_nads();
    let mut configuration = stage.configuration_with_annotations("n3");
    configuration["nadDir"] = json!(stage.node.nads());
    stage.add(&configuration);
    assert_eq!(stage.requests(), ["patch pods/upf-0/status"]);
    stage.call("DEL", &configuration).expect("detached");
    stage
        .server
        .put(apiserver::nad("core", "more", &stage.node.macvlan("n6", "10.50.0.0/24")))
        .expect("a NAD");
    configuration["runtimeConfig"]["io.kubernetes.cri.pod-annotations"]["k8s.v1.cni.cncf.io/networks"] =
        json!("n3,more");
    stage.add(&configuration);
    let requests = stage.requests();
    assert_eq!(requests, ["get network-attachment-definitions/more", "patch pods/upf-0/status"]);
    assert!(stage.pod.ip("address show net2").contains("10.50.0.2/24"));
}

#[test]
fn without_a_kubeconfig_nobody_is_asked() {
    let stage = Stage::selecting("n6");
    stage.node.usual_nads();
    let mut configuration = stage.configuration_with_annotations("n3");
    configuration["nadDir"] = json!(stage.node.nads());
    configuration["kubeconfig"] = json!("");
    stage.add(&configuration);
    assert_eq!(stage.pod.interfaces(), ["eth0", "net1"]);
    assert!(stage.server.journal().is_empty());
}

/// Requests that do not wait for each other's answers are one round trip. Every answer takes a second, so
/// what comes within half of it after another request has not waited for its answer.
fn round_trips(stage: &Stage, configuration: &serde_json::Value) -> Vec<Vec<String>> {
    stage.requests();
    stage.server.set_delay(Duration::from_secs(1));
    stage.add(configuration);
    stage.server.set_delay(Duration::ZERO);
    let mut waves: Vec<(std::time::Instant, Vec<String>)> = Vec::new();
    for entry in stage.server.take_journal() {
        let kind = entry
            .path
            .rsplit('/')
            .find(|it| ["pods", "events", "network-attachment-definitions"].contains(it));
        let request = format!("{} {}", entry.verb, kind.unwrap_or(&entry.path));
        match waves.last_mut() {
            Some((began, wave)) if entry.at.duration_since(*began) < Duration::from_secs(1) => {
                wave.push(request)
            }
            _ => waves.push((entry.at, vec![request])),
        }
    }
    waves.into_iter().map(|(_, wave)| wave).collect()
}

#[test]
fn nads_are_fetched_at_once_and_events_go_with_the_status() {
    let stage = Stage::selecting("n3,n6");
    let waves = round_trips(&stage, &stage.configuration());
    // The pod, all NADs, the status with the events.
    assert_eq!(waves.len(), 3, "{waves:?}");
    assert_eq!(waves[0], ["get pods"]);
    assert_eq!(waves[1], ["get network-attachment-definitions"; 3]);
    assert!(waves[2].contains(&"patch pods".to_owned()) && waves[2].contains(&"create events".to_owned()));
}

#[test]
fn with_nads_and_annotations_at_hand_one_round_trip_is_left() {
    let stage = Stage::selecting("");
    stage.node.usual_nads();
    let mut configuration = stage.configuration_with_annotations("n3,n6");
    configuration["nadDir"] = json!(stage.node.nads());
    let waves = round_trips(&stage, &configuration);
    assert_eq!(waves.len(), 1, "{waves:?}");
    assert_eq!(waves[0].len(), 4, "the status and three events: {waves:?}");
}

/// The default network from the configuration, as `install` and Multus write it.
fn with_own_default(stage: &Stage, networks: &str) -> serde_json::Value {
    let mut configuration = stage.configuration_with_annotations(networks);
    configuration["clusterNetwork"] = json!("");
    let mut default = stage.node.macvlan("n3", "10.20.0.0/24");
    default["name"] = json!("cbr0");
    configuration["delegates"] = json!([default]);
    configuration
}

#[test]
fn nads_are_fetched_while_the_default_network_is_attached() {
    let stage = Stage::selecting("");
    // The server answers when the default network is there, and not before.
    stage.server.fail(
        1,
        "get",
        "network-attachment-definitions/n3",
        apiserver::Fault::Delay(Duration::from_secs(2)),
    );
    let configuration = with_own_default(&stage, "n3");
    let early = std::thread::scope(|scope| {
        let adding = scope.spawn(|| stage.add(&configuration));
        let mut seen = Vec::new();
        while !adding.is_finished() && seen != ["eth0"] {
            seen = stage.pod.interfaces();
        }
        let early = seen == ["eth0"];
        adding.join().expect("attached");
        early
    });
    assert!(early, "eth0 was there before net1");
    assert_eq!(stage.pod.interfaces(), ["eth0", "net1"]);
}

#[test]
fn default_routes_go_in_turn_though_the_nads_are_fetched_meanwhile() {
    let stage = Stage::selecting(r#"[{"name":"first"},{"name":"second","default-route":[]}]"#);
    for (name, subnet) in [("first", "10.61.0.0/24"), ("second", "10.62.0.0/24")] {
        let mut config = stage.node.macvlan("n6", subnet);
        config["ipam"]["routes"] = json!([{ "dst": "0.0.0.0/0" }]);
        // The reference plugin, which leaves a default route alone that is there already.
        config["netplane"] = json!({ "builtin": false });
        config["cniVersion"] = json!("1.0.0");
        stage.server.put(apiserver::nad("core", name, &config)).expect("a NAD");
    }
    let mut default = stage.node.macvlan("n3", "10.20.0.0/24");
    default["name"] = json!("cbr0");
    let mut configuration = stage.configuration();
    configuration["binDir"] = json!("/usr/lib/cni");
    configuration["clusterNetwork"] = json!("");
    configuration["delegates"] = json!([default]);
    stage.add(&configuration);
    let shown = stage.pod.ip("route show default");
    assert!(shown.starts_with("default via 10.62.0.1 dev net2"), "what its plugin has set: {shown}");
    assert_eq!(shown.lines().count(), 1, "{shown}");
}

#[test]
fn a_nad_that_is_not_there_takes_the_default_network_with_it() {
    let stage = Stage::selecting("");
    let configuration = with_own_default(&stage, "n3,absent");
    let (code, message) = stage.add_fails(&configuration);
    assert_eq!(code, 7, "{message}");
    let kubeconfig = stage.server.kubeconfig().display().to_string();
    assert!(message.contains("network core/absent: no such NAD in the cluster of"), "{message}");
    assert!(message.contains(&kubeconfig), "{message}");
    let events = stage.events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((events[0].0.as_str(), events[0].1.as_str()), ("Warning", "NoNetworkFound"));
    assert!(events[0].2.contains("core/absent"), "{events:?}");
}

#[test]
fn the_default_network_of_an_annotation_comes_from_the_cluster_too() {
    let stage = Stage::new(&json!({ "v1.multus-cni.io/default-network": "n6" }));
    let result = stage.add(&stage.configuration());
    assert_eq!(result["ips"][0]["address"], "10.40.0.2/24");
    assert!(!stage.requests().contains(&"get network-attachment-definitions/default-network".to_owned()));
}

#[test]
fn an_empty_nad_is_a_file_of_the_folder() {
    let stage = Stage::selecting("n9");
    let folder = stage.node.folder().join("conf");
    std::fs::create_dir(&folder).expect("a folder");
    let mut config = stage.node.macvlan("n6", "10.90.0.0/24");
    config["name"] = json!("n9");
    std::fs::write(folder.join("n9.conf"), config.to_string()).expect("a file");
    let mut nad = apiserver::nad("core", "n9", &json!({}));
    nad["spec"] = json!({});
    stage.server.put(nad).expect("a NAD");
    stage.add(&stage.configuration());
    assert!(stage.pod.ip("address show net1").contains("10.90.0.2/24"));
}

#[test]
fn another_pod_of_the_same_name_is_not_attached() {
    let mut stage = Stage::selecting("n3");
    stage.pass_uid("11111111-2222-3333-4444-555555555555");
    let (code, message) = stage.add_fails(&stage.configuration());
    assert_eq!(code, 100, "{message}");
    for part in ["pod core/upf-0", "11111111-2222", &stage.uid(), &stage.server.url()] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn a_static_pods_mirror_has_another_uid() {
    let mut stage = Stage::new(&json!({
        "k8s.v1.cni.cncf.io/networks": "n3",
        "kubernetes.io/config.source": "file",
        "kubernetes.io/config.mirror": "0123456789abcdef",
    }));
    stage.pass_uid("0123456789abcdef");
    let configuration = stage.configuration();
    stage.add(&configuration);
    assert_eq!(stage.pod.interfaces(), ["eth0", "net1"]);
    assert!(stage.status().is_some());
}

#[test]
fn a_pod_that_is_gone_gets_an_empty_result() {
    let stage = Stage::selecting("n3");
    stage.server.delete("pods", "core", "upf-0");
    let configuration = stage.configuration();
    let result = stage.add(&configuration);
    assert_eq!(result, json!({ "cniVersion": "1.1.0" }));
    stage.assert_nothing_left();
    stage.call("DEL", &configuration).expect("nothing to detach");
}
