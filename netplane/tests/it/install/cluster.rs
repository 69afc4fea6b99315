//! A node with containerd in a cluster: what install makes is what the runtime loads and what the plugin asks
//! the API server with.

use super::{Host, Install, until};
use netplane_bench::lab::Lab;
use netplane_bench::lab::apiserver::{self, ApiServer, Options};
use netplane_bench::lab::containerd::{Containerd, PodSpec};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
/// What the lab has containerd read before install comes: the default network.
const MASTER: &str = "00-netplane.conf";

fn default_network(mtu: u64) -> Value {
    json!({ "cniVersion": "0.4.0", "name": "pods", "type": "ptp", "mtu": mtu,
        "ipam": { "type": "host-local", "subnet": "10.20.0.0/24" } })
}

/// Renamed into place.
fn write_master(containerd: &Containerd<'_>, mtu: u64) {
    let temporary = containerd.conf_dir().join("incoming");
    fs::write(&temporary, default_network(mtu).to_string()).expect("written");
    fs::rename(temporary, containerd.conf_dir().join(MASTER)).expect("in place");
}

fn install(host: &Host, containerd: &Containerd<'_>, flags: &[&str]) -> Install {
    let [conf, bin] = [containerd.conf_dir(), containerd.bin_dir()].map(|it| it.display().to_string());
    let kubeconfig = format!("{conf}/multus.d/multus.kubeconfig");
    let own = ["--cni-conf-dir", &conf, "--cni-bin-dir", &bin, "--multus-kubeconfig-file-host", &kubeconfig];
    let mut command = host.command(&[&own, flags].concat());
    command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1");
    if let Some(port) = fs::read_to_string(host.path("port")).ok().filter(|it| !it.is_empty()) {
        command.env("KUBERNETES_SERVICE_PORT", port);
    }
    Install::start(command, host.path("log"))
}

fn loaded(containerd: &Containerd<'_>) -> String {
    containerd.cri().network().unwrap_or_else(|error| format!("{error:#}"))
}

#[test]
fn pods_of_containerd_get_networks_of_the_cluster_also_after_the_token_was_replaced() {
    let lab = Lab::new(Path::new(env!("CARGO_BIN_EXE_netplane"))).expect("a lab");
    let server = lab.node.run(|| ApiServer::start(&Options::default())).expect("a thread").expect("a server");
    let host = Host::new();
    fs::write(host.path("port"), server.address().port().to_string()).expect("written");
    let authority = fs::read_to_string(server.ca()).expect("a CA");
    host.rotate(apiserver::TOKEN, &authority);
    let config = json!({ "cniVersion": "1.0.0", "type": "macvlan", "master": "n3", "mode": "bridge",
        "ipam": { "type": "host-local", "subnet": "10.30.0.0/24", "rangeStart": "10.30.0.50" } });
    server.put(apiserver::nad("core", "n3", &config)).expect("a NAD");
    let containerd = Containerd::start(&lab, &default_network(1400)).expect("containerd");
    let mut install = install(&host, &containerd, &[]);
    install.until("the runtime has it", || loaded(&containerd).contains("multus-cni-network"));
    // Not a link to the lab's program any more.
    assert!(containerd.bin_dir().join("netplane").symlink_metadata().expect("there").is_file());
    let attach = |name: &str| {
        let mut pod = apiserver::pod("core", name, "node", &json!({ NETWORKS: "n3" }));
        pod["metadata"]["uid"] = format!("uid-of-{name}").into();
        server.put(pod).expect("a pod");
        let pod =
            containerd.run(PodSpec { namespace: "core", name, annotations: &[(NETWORKS, "n3")], uid: None });
        let pod = pod.unwrap_or_else(|error| panic!("{error:#}\n{}", install.log()));
        assert_eq!(pod.namespace.interfaces().expect("interfaces"), ["lo", "eth0", "net1"]);
        let pod = server.get("pods", "core", name).expect("it is there");
        let status = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"].as_str();
        let status: Vec<Value> = serde_json::from_str(status.unwrap_or_default()).expect("a status");
        let names: Vec<_> = status.iter().map(|it| it["name"].as_str().unwrap_or_default()).collect();
        assert!(names.len() == 2 && names.contains(&"core/n3"), "{names:?}");
    };
    attach("first");
    // An hour later, kubelet has a new token and the old one ends; the CA is another, too.
    server.rotate_ca().expect("a new CA");
    server.set_tokens(Some(&["token-of-the-next-hour"]));
    host.rotate("token-of-the-next-hour", &fs::read_to_string(server.ca()).expect("a CA"));
    let kubeconfig: PathBuf = containerd.conf_dir().join("multus.d/multus.kubeconfig");
    until("the kubeconfig is renewed", || {
        fs::read_to_string(&kubeconfig).expect("it is always there").contains("token-of-the-next-hour")
    });
    attach("second");
    for id in containerd.cri().list().expect("sandboxes") {
        containerd.cri().stop(&id).expect("stopped");
    }
    assert_eq!(crate::harness::files(&lab.record_dir()), [""; 0]);
}

#[test]
fn the_node_stays_ready_while_its_configuration_changes_100_times() {
    let lab = Lab::new(Path::new(env!("CARGO_BIN_EXE_netplane"))).expect("a lab");
    let host = Host::new();
    let containerd = Containerd::start(&lab, &default_network(1300)).expect("containerd");
    let nads = format!("nadDir={}", lab.nad_dir().display());
    let mut install = install(&host, &containerd, &["--service-account-dir=/nowhere", "--set", &nads]);
    install.until("the runtime has it", || loaded(&containerd).contains("multus-cni-network"));
    let (done, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let wrong = std::thread::scope(|scope| {
        let _stop = super::whole::Stop(&done);
        let kubelet = scope.spawn(|| {
            let mut wrong = Vec::new();
            while !done.load(Ordering::Relaxed) {
                asked.fetch_add(1, Ordering::Relaxed);
                match containerd.cri().network() {
                    Ok(loaded) if loaded.contains("multus-cni-network") => {}
                    Ok(loaded) => wrong.push(loaded),
                    Err(error) => wrong.push(format!("{error:#}")),
                }
            }
            wrong
        });
        for mtu in 1301..=1400 {
            write_master(&containerd, mtu);
            let placed = || fs::read_to_string(containerd.conf_dir().join(super::CONF)).unwrap_or_default();
            install.until(&format!("MTU {mtu}"), || placed().contains(&format!("\"mtu\": {mtu},")));
        }
        done.store(true, Ordering::Relaxed);
        kubelet.join().expect("it ends")
    });
    assert_eq!(wrong, [""; 0]);
    assert!(asked.into_inner() > 100, "nobody asked");
    until("the runtime has the last one", || loaded(&containerd).contains("1400"));
    let pod = containerd
        .run(PodSpec { namespace: "core", name: "pod", annotations: &[], uid: None })
        .expect("a pod");
    let link = pod.namespace.ip_json(&["link", "show", "eth0"]).expect("a link");
    assert_eq!(link[0]["mtu"], 1400);
}
