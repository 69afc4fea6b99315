//! Networks with a resource name: which device each attachment gets, how plugins learn of it, and the files
//! that say more.

use crate::harness::files;
use crate::kubelet::{Kubelet, pod, socket_in, write_checkpoint};
use crate::recorded::Recorded;
use serde_json::{Value, json};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) const VF: &str = "intel.com/vf";

/// [`Recorded`] with NADs `vf` (a list of `one`, which takes its device by capabilities, and of `two`, which
/// does not) and `plain` (`one` alone), both of the resource `intel.com/vf`.
pub(crate) struct Lab {
    pub(crate) recorded: Recorded,
    info: PathBuf,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let mut recorded = Recorded::new();
        recorded.node.args = "K8S_POD_NAMESPACE=core;K8S_POD_NAME=upf-0;K8S_POD_UID=u-1".to_owned();
        let lab = Self { info: recorded.path("devinfo"), recorded };
        let capabilities = json!({"deviceID": true, "CNIDeviceInfoFile": true});
        let list = json!([{"type": "one", "capabilities": capabilities}, {"type": "two", "deviceID": "old"}]);
        lab.nad("vf", &json!({"cniVersion": "1.0.0", "plugins": list}));
        lab.nad("plain", &json!({"cniVersion": "1.0.0", "type": "one"}));
        lab
    }

    /// A NAD of the resource.
    fn nad(&self, name: &str, config: &Value) {
        let nad = json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": { "name": name, "namespace": "core",
                          "annotations": { "k8s.v1.cni.cncf.io/resourceName": VF } },
            "spec": { "config": config.to_string() },
        });
        let file = self.recorded.node.nads().join(format!("{name}.json"));
        std::fs::write(file, nad.to_string()).expect("a NAD");
    }

    pub(crate) fn configuration(&self, kubelet: &Path, networks: &str) -> Value {
        let mut configuration = self.recorded.configuration("1.1.0", networks);
        configuration["kubeletDir"] = json!(kubelet);
        configuration["deviceInfoDir"] = json!(self.info);
        configuration
    }

    /// `deviceID` of the plugins' configuration for each ADD of `one`.
    pub(crate) fn device_ids(&self) -> Vec<Value> {
        let adds =
            self.recorded.calls().into_iter().filter(|it| it.starts_with("ADD-") && it.ends_with("-one"));
        adds.map(|call| self.recorded.given(&call)["deviceID"].clone()).collect()
    }

    fn record(&self) -> Value {
        let folder = self.recorded.node.records();
        let name = files(&folder).pop().expect("a record");
        serde_json::from_str(&std::fs::read_to_string(folder.join(name)).expect("read")).expect("JSON")
    }

    /// What the device plugin says of a device.
    pub(crate) fn device_information(&self, device: &str, text: &str) {
        let folder = self.info.join("dp");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(format!("intel.com-vf-{device}-device.json")), text).expect("written");
    }
}

fn message(error: &Value) -> &str {
    error["msg"].as_str().expect("a message")
}

/// Two containers with three devices, and what other pods have.
fn three() -> Vec<netplane::devices::pod_resources::PodResources> {
    vec![
        pod("core", "upf-1", &[&[(VF, &["0000:03:03.0"])]]),
        pod("other", "upf-0", &[&[(VF, &["0000:03:03.1"])]]),
        pod(
            "core",
            "upf-0",
            &[
                // One entry for each NUMA node, as kubelet has it.
                &[(VF, &["0000:03:02.3"]), ("example.com/gpu", &["7"]), (VF, &["0000:03:02.1"])],
                &[(VF, &["0000:03:02.0"])],
            ],
        ),
    ]
}

#[test]
fn each_attachment_gets_the_next_device_in_its_configuration() {
    let mut lab = Lab::new();
    let kubelet = Kubelet::serve(three(), true);
    let pod = lab.recorded.node.pod();
    let configuration = lab.configuration(kubelet.dir(), "vf,single,plain,vf");
    lab.recorded.add(&pod, &configuration);
    let file = lab.info.join(format!("cni/core-vf-{}_net1", pod.name));
    assert_eq!(
        lab.recorded.given("ADD-net1-one"),
        json!({"cniVersion": "1.0.0", "name": "vf", "type": "one", "deviceID": "0000:03:02.1",
               "pciBusID": "0000:03:02.1",
               "runtimeConfig": {"deviceID": "0000:03:02.1", "CNIDeviceInfoFile": file}})
    );
    let mut second = lab.recorded.given("ADD-net1-two");
    second.as_object_mut().expect("an object").remove("prevResult");
    assert_eq!(
        second,
        json!({"cniVersion": "1.0.0", "name": "vf", "type": "two", "deviceID": "0000:03:02.1",
               "pciBusID": "0000:03:02.1"}),
        "in place of what the NAD says, and nothing that it has no capability for"
    );
    // Sorted in a container, containers in their order; `single` has no resource name.
    let expected = [json!("0000:03:02.1"), Value::Null, json!("0000:03:02.3"), json!("0000:03:02.0")];
    assert_eq!(lab.device_ids(), expected);
    assert_eq!(kubelet.calls(), ["Get"], "once for all");
    lab.recorded.del(&pod, &configuration);
    assert_eq!(lab.recorded.given("DEL-net1-one")["deviceID"], "0000:03:02.1");
    assert_eq!(kubelet.calls().len(), 1, "DEL knows");
}

#[test]
fn a_kubelet_that_does_not_tell_of_one_pod_is_asked_for_all() {
    let mut lab = Lab::new();
    let kubelet = Kubelet::serve(three(), false);
    let pod = lab.recorded.node.pod();
    lab.recorded.add(&pod, &lab.configuration(kubelet.dir(), "plain,plain"));
    assert_eq!(lab.device_ids(), [json!("0000:03:02.1"), json!("0000:03:02.3")]);
    assert_eq!(kubelet.calls(), ["Get", "List"]);
}

#[test]
fn networks_without_a_resource_name_do_not_ask() {
    let mut lab = Lab::new();
    let kubelet = Kubelet::serve(three(), true);
    let pod = lab.recorded.node.pod();
    lab.recorded.add(&pod, &lab.configuration(kubelet.dir(), "single,chain"));
    assert!(kubelet.calls().is_empty());
    assert!(!lab.info.exists());
}

#[test]
fn the_default_network_and_those_of_every_pod_come_first() {
    let mut lab = Lab::new();
    let kubelet = Kubelet::serve(three(), true);
    let pod = lab.recorded.node.pod();
    let mut configuration = lab.configuration(kubelet.dir(), "plain");
    configuration["clusterNetwork"] = json!("core/vf");
    configuration["defaultNetworks"] = json!(["core/plain"]);
    lab.recorded.add(&pod, &configuration);
    assert_eq!(lab.recorded.given("ADD-eth0-one")["runtimeConfig"]["deviceID"], "0000:03:02.1");
    assert_eq!(lab.device_ids(), [json!("0000:03:02.1"), json!("0000:03:02.3"), json!("0000:03:02.0")]);
}

#[test]
fn without_its_socket_kubelets_checkpoint_says_it_in_both_layouts() {
    let list = [r#"["0000:03:03.0"]"#, r#"["0000:03:02.3", "0000:03:02.1"]"#];
    let by_node = [r#"{"0": ["0000:03:03.0"]}"#, r#"{"0": ["0000:03:02.3"], "-1": ["0000:03:02.1"]}"#];
    for [others, ids] in [list, by_node] {
        let mut lab = Lab::new();
        let kubelet = tempfile::tempdir().expect("a folder");
        let entry = |uid: &str, ids: &str| {
            format!(
                r#"{{"PodUID":"{uid}","ContainerName":"c","ResourceName":"{VF}","DeviceIDs":{ids},"AllocResp":""}}"#
            )
        };
        let entries = [entry("u-0", others), entry("u-1", ids)].join(",");
        let text = format!(
            r#"{{"Data":{{"PodDeviceEntries":[{entries}],"RegisteredDevices":{{"{VF}":[]}}}},"Checksum":7}}"#
        );
        write_checkpoint(kubelet.path(), &text);
        let pod = lab.recorded.node.pod();
        lab.recorded.add(&pod, &lab.configuration(kubelet.path(), "plain,plain"));
        assert_eq!(lab.device_ids(), [json!("0000:03:02.1"), json!("0000:03:02.3")], "{ids}");
    }
}

#[test]
fn nothing_to_ask_and_nothing_readable_are_errors_before_anything_is_done() {
    let mut lab = Lab::new();
    let pod = lab.recorded.node.pod();
    let kubelet = tempfile::tempdir().expect("a folder");
    let configuration = lab.configuration(kubelet.path(), "single,plain");
    let error = lab.recorded.node.call("ADD", &pod, &configuration).expect_err("no kubelet");
    assert_eq!(error["code"], 5, "{error}");
    let socket = kubelet.path().join("pod-resources/kubelet.sock");
    let checkpoint = kubelet.path().join("device-plugins/kubelet_internal_checkpoint");
    let expected = format!(
        "network core/plain: resource intel.com/vf: neither kubelet's socket {} nor its checkpoint {} is there",
        socket.display(),
        checkpoint.display()
    );
    assert_eq!(message(&error), expected);
    write_checkpoint(kubelet.path(), "{\"Data\":");
    let error = lab.recorded.node.call("ADD", &pod, &configuration).expect_err("damaged");
    assert_eq!(error["code"], 5, "{error}");
    assert!(message(&error).contains("kubelet_internal_checkpoint: is no checkpoint"), "{error}");
    write_checkpoint(kubelet.path(), "{\"Data\":{}}");
    lab.recorded.node.args = "K8S_POD_NAMESPACE=core;K8S_POD_NAME=upf-0".to_owned();
    let error = lab.recorded.node.call("ADD", &pod, &configuration).expect_err("no UID");
    assert_eq!(error["code"], 4, "{error}");
    assert!(message(&error).contains("K8S_POD_UID"), "{error}");
    assert!(lab.recorded.calls().is_empty());
    assert!(lab.recorded.records().is_empty());
}

#[test]
fn a_kubelet_that_accepts_and_says_nothing_does_not_hang_add() {
    let mut lab = Lab::new();
    let pod = lab.recorded.node.pod();
    let kubelet = tempfile::tempdir().expect("a folder");
    // It would know, but is not asked: kubelet is there.
    write_checkpoint(kubelet.path(), "{\"Data\":{}}");
    let listener = UnixListener::bind(socket_in(kubelet.path())).expect("bound");
    let configuration = lab.configuration(kubelet.path(), "single,plain");
    let started = Instant::now();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut caller, _) = listener.accept().expect("a caller");
            let _ = caller.read_to_end(&mut Vec::new());
        });
        lab.recorded.node.call("ADD", &pod, &configuration).expect_err("silence")
    });
    // Kubelet gives a sandbox four minutes.
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
    assert_eq!(error["code"], 11, "{error}");
    assert!(
        message(&error).starts_with("network core/plain: resource intel.com/vf: kubelet's socket /"),
        "{error}"
    );
    assert!(message(&error).ends_with("pod-resources/kubelet.sock: no answer within 10 s"), "{error}");
    assert!(lab.recorded.calls().is_empty() && lab.recorded.records().is_empty());
}

#[test]
fn a_pod_without_devices_is_attached_all_the_same_unless_that_is_an_error() {
    let mut lab = Lab::new();
    let kubelet = Kubelet::serve(vec![pod("core", "upf-0", &[&[(VF, &["0000:03:02.1"])]])], true);
    let pod = lab.recorded.node.pod();
    let mut configuration = lab.configuration(kubelet.dir(), "plain,plain");
    let failure = lab.recorded.path("fail-ADD-net2-one");
    std::fs::write(&failure, r#"{"code": 7, "msg": "what device?"}"#).expect("written");
    let error = lab.recorded.node.call("ADD", &pod, &configuration).expect_err("the plugin's");
    assert_eq!(message(&error), "network core/plain: what device?");
    let expected = format!(
        "network core/plain: the pod has no device of resource intel.com/vf left for it (looked in kubelet's \
         socket {})",
        socket_in(kubelet.dir()).display()
    );
    assert_eq!(error["details"], json!(expected), "the plugin cannot know why");
    configuration["strictSelections"] = json!(true);
    std::fs::remove_dir_all(lab.recorded.path("calls")).expect("removed");
    let error = lab.recorded.node.call("ADD", &pod, &configuration).expect_err("strict");
    assert_eq!(
        (&error["code"], message(&error)),
        (&json!(7), format!("{expected} (strictSelections)").as_str())
    );
    assert!(lab.recorded.calls().is_empty());
    std::fs::remove_file(&failure).expect("removed");
    configuration["strictSelections"] = json!(false);
    lab.recorded.add(&pod, &configuration);
    assert_eq!(lab.device_ids(), [json!("0000:03:02.1"), Value::Null]);
}

#[test]
fn the_pods_own_device_id_counts_where_kubelet_gave_none() {
    let mut lab = Lab::new();
    let kubelet = Kubelet::serve(vec![pod("core", "upf-0", &[&[(VF, &["0000:03:02.1"])]])], true);
    let pod = lab.recorded.node.pod();
    let networks =
        json!([{"name": "vf", "deviceID": "0000:99:00.1"}, {"name": "vf", "deviceID": "0000:99:00.2"}]);
    lab.recorded.add(&pod, &lab.configuration(kubelet.dir(), &networks.to_string()));
    let first = lab.recorded.given("ADD-net1-one");
    assert_eq!(
        (&first["deviceID"], &first["runtimeConfig"]["deviceID"]),
        (&json!("0000:03:02.1"), &json!("0000:03:02.1"))
    );
    let second = lab.recorded.given("ADD-net2-one");
    assert_eq!(
        (&second["deviceID"], &second["runtimeConfig"]["deviceID"]),
        (&Value::Null, &json!("0000:99:00.2"))
    );
}

const INFORMATION: &str =
    r#"{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:03:02.1","vhost-net":"/dev/vhost-net"}}"#;

#[test]
fn what_the_device_plugin_says_reaches_plugins_and_record_and_goes_with_del() {
    let mut lab = Lab::new();
    let kubelet = Kubelet::serve(three(), true);
    lab.device_information("0000:03:02.1", INFORMATION);
    lab.device_information("0000:03:02.3", "no JSON");
    let pod = lab.recorded.node.pod();
    let configuration = lab.configuration(kubelet.dir(), "vf,vf,single");
    lab.recorded.add(&pod, &configuration);
    let file = lab.recorded.given("ADD-net1-one")["runtimeConfig"]["CNIDeviceInfoFile"].clone();
    let file = PathBuf::from(file.as_str().expect("a path"));
    assert_eq!(std::fs::read_to_string(&file).expect("read"), INFORMATION);
    let record = lab.record();
    let expected: Value = serde_json::from_str(INFORMATION).expect("JSON");
    assert_eq!(record["attachments"][0]["deviceInfo"], expected);
    for other in [1, 2] {
        assert_eq!(record["attachments"][other].get("deviceInfo"), None);
    }
    lab.recorded.del(&pod, &configuration);
    assert!(files(&lab.info.join("cni")).is_empty());
    assert_eq!(files(&lab.info.join("dp")).len(), 2, "the device plugin's are its own");
}

#[test]
fn device_information_of_an_add_that_fails_is_gone() {
    let mut lab = Lab::new();
    let kubelet = Kubelet::serve(three(), true);
    lab.device_information("0000:03:02.1", INFORMATION);
    lab.device_information("0000:03:02.3", INFORMATION);
    std::fs::write(lab.recorded.path("fail-ADD-net2-two"), r#"{"code": 11, "msg": "busy"}"#)
        .expect("written");
    let pod = lab.recorded.node.pod();
    let configuration = lab.configuration(kubelet.dir(), "vf,vf");
    let error = lab.recorded.node.call("ADD", &pod, &configuration).expect_err("busy");
    assert_eq!((&error["code"], message(&error)), (&json!(11), "network core/vf: busy"));
    assert_eq!(
        lab.recorded.calls().iter().filter(|it| it.starts_with("ADD")).count(),
        4,
        "both had their files"
    );
    assert!(files(&lab.info.join("cni")).is_empty());
    assert!(lab.recorded.records().is_empty());
}

#[test]
fn a_plugin_may_write_the_device_information_without_any_resource() {
    let mut lab = Lab::new();
    let information = json!({"type": "vhost-user", "version": "1.1.0",
                             "vhost-user": {"mode": "client", "path": "/run/vhost.sock"}});
    let script = format!(
        r#"#!/bin/sh
file=$(jq -r .runtimeConfig.CNIDeviceInfoFile)
[ $CNI_COMMAND != ADD ] || {{ mkdir -p "$(dirname "$file")"; echo '{information}' > "$file"; echo '{{"cniVersion": "1.0.0"}}'; }}
"#
    );
    let program = lab.recorded.path("userspace");
    std::fs::write(&program, script).expect("written");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("executable");
    let config =
        json!({"cniVersion": "1.0.0", "type": "userspace", "capabilities": {"CNIDeviceInfoFile": true}});
    lab.recorded.node.nad("userspace", &config);
    let pod = lab.recorded.node.pod();
    let configuration = lab.configuration(Path::new("/nonexistent"), "userspace");
    lab.recorded.add(&pod, &configuration);
    assert_eq!(lab.record()["attachments"][0]["deviceInfo"], information);
    assert_eq!(files(&lab.info.join("cni")), [format!("core-userspace-{}_net1", pod.name)]);
    lab.recorded.del(&pod, &configuration);
    assert!(files(&lab.info.join("cni")).is_empty());
}

#[test]
fn host_device_with_a_resource_that_has_no_devices() {
    let mut lab = Lab::new();
    // As the markers of ovs-cni and bridge-marker: the name is there for the scheduler only.
    let kubelet = Kubelet::serve(Vec::new(), true);
    lab.recorded.node.ip("link add vf0 type veth peer name vf0p");
    lab.nad("host", &json!({"cniVersion": "1.0.0", "type": "host-device", "device": "vf0"}));
    let pod = lab.recorded.node.pod();
    let mut configuration = lab.configuration(kubelet.dir(), "host");
    configuration["binDir"] = json!("/usr/lib/cni");
    lab.recorded.add(&pod, &configuration);
    assert_eq!(pod.interfaces(), ["net1"]);
    assert!(!lab.recorded.node.ip("-br link").contains("vf0@"), "it has moved");
    lab.recorded.del(&pod, &configuration);
    assert!(lab.recorded.node.ip("-br link").contains("vf0@"), "and has come back");
    assert_eq!(kubelet.calls(), ["Get", "List"]);
}
