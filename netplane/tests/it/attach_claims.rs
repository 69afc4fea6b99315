//! Devices of dynamic resource allocation: a pod's ResourceClaims, from an API server in the node's namespace.

use crate::attach_devices::{Lab, VF};
use crate::kubelet::{Kubelet, claiming, pod};
use netplane::netlink::netns::Netns;
use netplane_bench::lab::apiserver::{self, ApiServer, Fault, Options};
use serde_json::{Value, json};

const DRIVER: &str = "sriov.example.com";

/// A lab with an API server that has the pod, with claims `a` (devices `vf-1` and a GPU) and `b` (`vf-0`).
pub(crate) struct Claims {
    pub(crate) lab: Lab,
    pub(crate) server: ApiServer,
}

impl Claims {
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        lab.recorded.node.ip("link set lo up");
        let netns = Netns::open(lab.recorded.node.netns()).expect("the node's namespace");
        let server =
            netns.run(|| ApiServer::start(&Options::default())).expect("a thread").expect("a server");
        let claims = Self { lab, server };
        claims.put_pod(json!({ "resourceClaimStatuses": [
            { "name": "first", "resourceClaimName": "a" }, { "name": "unneeded" },
            { "name": "second", "resourceClaimName": "b" },
        ] }));
        claims.put_claim("a", &[("r", "vf-1"), ("gpu", "gpu-0")]);
        claims.put_claim("b", &[("r", "vf-0")]);
        let attributes = |id: &str, resource: &str| {
            json!({ "k8s.cni.cncf.io/deviceID": { "string": id },
            "k8s.cni.cncf.io/resourceName": { "string": resource }, "example.com/numa": { "int": 0 } })
        };
        claims.put_slice(
            DRIVER,
            "1",
            json!([
                { "name": "vf-0", "attributes": attributes("0000:05:00.0", VF) },
                { "name": "vf-1", "attributes": attributes("0000:05:00.1", VF) },
            ]),
        );
        claims.put_slice(DRIVER, "2", json!([{ "name": "gpu-0", "attributes": {} }]));
        claims.put_slice(
            "other.example.com",
            "3",
            json!([
                { "name": "vf-0", "attributes": attributes("0000:66:00.0", VF) },
            ]),
        );
        claims
    }

    fn put(&self, object: Value) {
        self.server.put(object).expect("put");
    }

    fn put_pod(&self, status: Value) {
        let mut pod = apiserver::pod("core", "upf-0", "node-1", &json!({}));
        pod["metadata"]["uid"] = json!("u-1");
        pod["status"] = status;
        self.put(pod);
    }

    /// A claim whose requests were given these devices.
    fn put_claim(&self, name: &str, devices: &[(&str, &str)]) {
        let result = |(request, device): &(&str, &str)| json!({ "request": request, "driver": DRIVER, "pool": "node-1", "device": device });
        let results: Vec<_> = devices.iter().map(result).collect();
        self.put(json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": { "namespace": "core", "name": name }, "spec": {},
            "status": { "allocation": { "devices": { "results": results } } },
        }));
    }

    fn put_slice(&self, driver: &str, name: &str, devices: Value) {
        self.put(json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": { "name": name },
            "spec": { "driver": driver, "nodeName": "node-1", "devices": devices,
                      "pool": { "name": "node-1", "generation": 1, "resourceSliceCount": 1 } },
        }));
    }

    pub(crate) fn configuration(&self, kubelet: &Kubelet, networks: &str) -> Value {
        let mut configuration = self.lab.configuration(kubelet.dir(), networks);
        configuration["kubeconfig"] = json!(self.server.kubeconfig());
        configuration
    }

    /// Reads of pods, claims and slices: verb and name.
    fn reads(&self) -> Vec<String> {
        let reads = self.server.take_journal().into_iter().filter(|it| matches!(it.verb, "get" | "list"));
        let short = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        reads.map(|it| format!("{} {}", it.verb, short(&it.path))).collect()
    }
}

fn message(error: &Value) -> &str {
    error["msg"].as_str().expect("a message")
}

#[test]
fn claims_that_kubelet_names_need_no_look_at_the_pod() {
    let mut claims = Claims::new();
    let kubelet = Kubelet::serve(vec![claiming(pod("core", "upf-0", &[&[]]), &["b", "a"])], true);
    let pod = claims.lab.recorded.node.pod();
    let configuration = claims.configuration(&kubelet, "plain,plain");
    claims.reads();
    claims.lab.recorded.add(&pod, &configuration);
    assert_eq!(claims.lab.device_ids(), [json!("0000:05:00.0"), json!("0000:05:00.1")]);
    // Slices once for each driver.
    assert_eq!(claims.reads(), ["get b", "list resourceslices", "get a"]);
    claims.lab.recorded.del(&pod, &configuration);
    assert_eq!(claims.reads(), [""; 0]);
}

#[test]
fn a_device_plugins_devices_come_first_and_claims_of_the_pods_status_behind() {
    let mut claims = Claims::new();
    let kubelet = Kubelet::serve(vec![pod("core", "upf-0", &[&[(VF, &["0000:03:02.1"])]])], true);
    let pod = claims.lab.recorded.node.pod();
    claims.lab.recorded.add(&pod, &claims.configuration(&kubelet, "plain"));
    assert_eq!(claims.reads(), [""; 0], "kubelet had what was needed");
    std::fs::remove_dir_all(claims.lab.recorded.path("calls")).expect("removed");
    let next = claims.lab.recorded.node.pod();
    claims.lab.recorded.add(&next, &claims.configuration(&kubelet, "plain,plain,vf,plain"));
    let expected = ["0000:03:02.1", "0000:05:00.1", "0000:05:00.0"].map(|it| json!(it));
    assert_eq!(claims.lab.device_ids(), [&expected[..], &[Value::Null]].concat());
    assert_eq!(claims.reads(), ["get upf-0", "get a", "list resourceslices", "get b"]);
}

#[test]
fn claims_that_kubelet_and_the_pod_name_are_counted_once() {
    let mut claims = Claims::new();
    let kubelet = Kubelet::serve(vec![claiming(pod("core", "upf-0", &[&[]]), &["a", "b"])], true);
    let pod = claims.lab.recorded.node.pod();
    claims.lab.recorded.add(&pod, &claims.configuration(&kubelet, "plain,plain,plain"));
    assert_eq!(claims.lab.device_ids(), [json!("0000:05:00.1"), json!("0000:05:00.0"), Value::Null]);
}

#[test]
fn the_claim_of_extended_resources_has_its_names_by_request() {
    let mut claims = Claims::new();
    claims.put_pod(json!({ "extendedResourceClaimStatus": { "resourceClaimName": "upf-0-extended",
        "requestMappings": [{ "containerName": "c", "resourceName": VF, "requestName": "container-0-request-0" }] } }));
    claims.put_claim("upf-0-extended", &[("container-0-request-0", "bare")]);
    let bare = json!([{ "name": "bare", "attributes": { "k8s.cni.cncf.io/deviceID": { "string": "0000:07:00.0" } } }]);
    claims.put_slice(DRIVER, "4", bare);
    // Kubelet names the claim, too, but not its requests.
    let kubelet = Kubelet::serve(vec![claiming(pod("core", "upf-0", &[&[]]), &["upf-0-extended"])], true);
    let pod = claims.lab.recorded.node.pod();
    claims.lab.recorded.add(&pod, &claims.configuration(&kubelet, "plain,plain"));
    assert_eq!(claims.lab.device_ids(), [json!("0000:07:00.0"), Value::Null]);
}

#[test]
fn a_pod_without_claims_is_attached_without_a_device() {
    let mut claims = Claims::new();
    claims.put_pod(json!({}));
    let kubelet = Kubelet::serve(vec![pod("core", "upf-0", &[&[]])], true);
    let pod = claims.lab.recorded.node.pod();
    let mut configuration = claims.configuration(&kubelet, "plain");
    configuration["strictSelections"] = json!(true);
    let error = claims.lab.recorded.node.call("ADD", &pod, &configuration).expect_err("strict");
    assert!(
        message(&error).contains("kubelet.sock and for ResourceClaims of the pod, which has none)"),
        "{error}"
    );
    configuration["strictSelections"] = json!(false);
    claims.server.take_journal();
    claims.lab.recorded.add(&pod, &configuration);
    assert_eq!(claims.lab.device_ids(), [Value::Null]);
    let events = claims.server.take_journal().into_iter().filter(|it| it.path.ends_with("/events")).count();
    assert_eq!(
        events, 1,
        "AddedInterface: pods with resource names for the scheduler only are all like this"
    );
}

#[test]
fn network_status_tells_of_the_device() {
    let mut claims = Claims::new();
    let information = json!({ "type": "pci", "version": "1.1.0", "pci": { "pci-address": "0000:05:00.1" } });
    claims.lab.device_information("0000:05:00.1", &information.to_string());
    let kubelet = Kubelet::serve(vec![claiming(pod("core", "upf-0", &[&[]]), &["a"])], true);
    let pod = claims.lab.recorded.node.pod();
    claims.lab.recorded.add(&pod, &claims.configuration(&kubelet, "single,vf"));
    let pod = claims.server.get("pods", "core", "upf-0").expect("the pod");
    let status = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"].as_str();
    let status: Value = serde_json::from_str(status.expect("a status")).expect("JSON");
    assert_eq!(status[0].get("device-info"), None);
    assert_eq!((&status[1]["name"], &status[1]["device-info"]), (&json!("core/vf"), &information));
}

#[test]
fn a_cluster_role_without_claims_is_no_reason_to_fail_and_a_server_that_is_down_is_one() {
    let mut claims = Claims::new();
    let kubelet = Kubelet::serve(vec![pod("core", "upf-0", &[&[]])], true);
    let pod = claims.lab.recorded.node.pod();
    let mut configuration = claims.configuration(&kubelet, "single,plain");
    claims.server.fail(usize::MAX, "get", "resourceclaims/a", Fault::Answer { code: 503, retry_after: None });
    let error = claims.lab.recorded.node.call("ADD", &pod, &configuration).expect_err("down");
    assert_eq!(error["code"], 11, "{error}");
    assert!(
        message(&error).starts_with(
            "network core/plain: resource intel.com/vf: ResourceClaims: GET resourceclaim core/a"
        ),
        "{error}"
    );
    assert!(claims.lab.recorded.calls().is_empty() && claims.lab.recorded.records().is_empty());
    claims.server.clear_faults();
    claims.server.fail(usize::MAX, "get", "resourceclaims/", Fault::Answer { code: 403, retry_after: None });
    configuration["strictSelections"] = json!(true);
    let error = claims.lab.recorded.node.call("ADD", &pod, &configuration).expect_err("strict");
    assert!(message(&error).contains("says 403"), "{error}");
    configuration["strictSelections"] = json!(false);
    claims.lab.recorded.add(&pod, &configuration);
    assert_eq!(claims.lab.recorded.given("ADD-net2-one").get("deviceID"), None);
}
