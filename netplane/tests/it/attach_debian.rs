//! The reference plugins as Debian has them (package containernetworking-plugins), called by netplane: what they
//! make in the kernel, what they take from a selection, and how their errors come through.

use crate::harness::{Node, Pod, files};
use crate::recorded::message;
use netplane::netlink::netns::Netns;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

const PLUGINS: &str = "/usr/lib/cni";
const PATIENCE: Duration = Duration::from_secs(20);

/// A node with Debian's plugins, and a configuration that has no default network.
pub(crate) struct Debian {
    pub(crate) node: Node,
}

impl Debian {
    pub(crate) fn new() -> Self {
        let there = Path::new(PLUGINS).join("bridge").is_file();
        assert!(there, "{PLUGINS}: install containernetworking-plugins, as `cargo xtask setup` does");
        let node = Node::new();
        node.ip("link set lo up");
        Self { node }
    }

    /// host-local in this node's folder, with one range for each subnet and these routes.
    pub(crate) fn ipam(&self, subnets: &[&str], routes: &[&str]) -> Value {
        let ranges: Vec<_> = subnets.iter().map(|it| json!([{ "subnet": it }])).collect();
        let routes: Vec<_> = routes.iter().map(|it| json!({ "dst": it })).collect();
        json!({"type": "host-local", "dataDir": self.node.ipam(), "ranges": ranges, "routes": routes})
    }

    pub(crate) fn configuration(&self, networks: &Value) -> Value {
        let mut configuration = self.node.configuration("1.0.0", &networks.to_string());
        configuration["binDir"] = json!(PLUGINS);
        configuration["clusterNetwork"] = json!("");
        configuration
    }

    pub(crate) fn add(&self, pod: &Pod, configuration: &Value) -> Value {
        self.node.call("ADD", pod, configuration).expect("attached").expect("a result")
    }

    /// CHECK, DEL, and a look at what is left.
    pub(crate) fn check_and_del(&self, pod: &Pod, configuration: &Value) {
        self.node.call("CHECK", pod, configuration).expect("as it was");
        self.node.call("DEL", pod, configuration).expect("detached");
        assert_eq!(pod.interfaces(), Vec::<String>::new());
        assert_eq!(files(&self.node.records()), Vec::<String>::new());
        let mut reserved = files(&self.node.ipam());
        reserved.retain(|it| it.parse::<std::net::IpAddr>().is_ok());
        assert_eq!(reserved, Vec::<String>::new());
    }

    fn refused(&self, pod: &Pod, networks: &Value) -> Value {
        let error = self.node.call("ADD", pod, &self.configuration(networks)).expect_err("refused");
        assert_eq!(pod.interfaces(), Vec::<String>::new());
        assert_eq!(files(&self.node.records()), Vec::<String>::new());
        error
    }
}

fn in_netns<T: Send>(path: &Path, f: impl FnOnce() -> T + Send) -> T {
    Netns::open(path).expect("a namespace").run(f).expect("entered")
}

#[test]
fn bridge_portmap_and_tuning_are_a_list_and_a_port_of_the_node_leads_to_the_pod() {
    let mut lab = Debian::new();
    let pod = lab.node.pod();
    let plugins = json!([
        {"type": "bridge", "bridge": "br0", "isGateway": true, "ipam": lab.ipam(&["10.61.0.0/24", "fd61::/64"], &["0.0.0.0/0"])},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "tuning", "capabilities": {"mac": true}, "sysctl": {"net.ipv4.conf.net1.arp_filter": "1"}},
    ]);
    // portmap 1.1.1 looks for its rules for IPv4 among those for IPv6, so its CHECK always fails.
    lab.node.nad("lan", &json!({"cniVersion": "1.0.0", "disableCheck": true, "plugins": plugins}));
    let networks = json!([{"name": "lan", "mac": "02:00:00:00:61:02",
        "portMappings": [{"hostPort": 8080, "containerPort": 80}]}]);
    let configuration = lab.configuration(&networks);
    let result = lab.add(&pod, &configuration);
    assert_eq!(result["ips"][0]["address"], "10.61.0.2/24", "{result}");
    assert!(lab.node.ip("-br link show master br0").contains("veth"));
    assert!(pod.ip("link show net1").contains("02:00:00:00:61:02"), "tuning has set the MAC");
    assert_eq!(pod.exec("sysctl -n net.ipv4.conf.net1.arp_filter").expect("it is there").trim(), "1");
    let listener = in_netns(&pod.path(), || TcpListener::bind("0.0.0.0:80").expect("bound"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.write_all(b"pod").expect("written");
        });
        let host: SocketAddr = "10.61.0.1:8080".parse().expect("an address");
        let connect = || TcpStream::connect_timeout(&host, PATIENCE).expect("connected");
        let mut stream = in_netns(&lab.node.netns(), connect);
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read");
        assert_eq!(answer, "pod");
    });
    lab.check_and_del(&pod, &configuration);
    let rules = lab.node.exec("iptables -t nat -S").expect("iptables");
    assert!(!rules.contains("8080"), "{rules}");
}

#[test]
fn ptp_is_the_default_network_of_both_families() {
    let mut lab = Debian::new();
    let pod = lab.node.pod();
    let ipam = lab.ipam(&["10.62.0.0/24", "fd62::/64"], &["0.0.0.0/0", "::/0"]);
    lab.node.nad("default-network", &json!({"cniVersion": "0.4.0", "type": "ptp", "ipam": ipam}));
    let mut configuration = lab.configuration(&json!([]));
    configuration["clusterNetwork"] = json!("core/default-network");
    let result = lab.add(&pod, &configuration);
    assert_eq!(result["cniVersion"], "1.0.0", "converted from the plugin's 0.4.0");
    let addresses: Vec<_> = result["ips"].as_array().expect("two").iter().map(|it| &it["address"]).collect();
    assert_eq!(addresses, ["10.62.0.2/24", "fd62::2/64"]);
    for address in ["10.62.0.2", "fd62::2"] {
        // The node's own address may still be tentative.
        let ping = || lab.node.exec(&format!("busybox ping -c 1 -W 2 {address}"));
        assert!((0..20).any(|_| ping().is_ok()), "{address} does not answer");
    }
    configuration["prevResult"] = result;
    lab.check_and_del(&pod, &configuration);
}

#[test]
fn static_addresses_come_from_the_selection() {
    let mut lab = Debian::new();
    let pod = lab.node.pod();
    lab.node.nad(
        "n3",
        &json!({"cniVersion": "1.0.0", "type": "macvlan", "master": "n3", "mode": "bridge",
        "capabilities": {"ips": true, "mac": true}, "ipam": {"type": "static"}}),
    );
    let networks = json!([{"name": "n3", "ips": ["10.63.0.9/24", "fd63::9/64"], "mac": "02:00:00:00:63:09"},
                          {"name": "n3", "ips": ["10.63.0.10/24"], "interface": "data0"}]);
    let configuration = lab.configuration(&networks);
    lab.add(&pod, &configuration);
    let first = pod.ip("address show net1");
    assert!(
        ["10.63.0.9/24", "fd63::9/64", "02:00:00:00:63:09"].iter().all(|it| first.contains(it)),
        "{first}"
    );
    assert!(pod.ip("address show data0").contains("10.63.0.10/24"));
    lab.check_and_del(&pod, &configuration);
}

#[test]
fn bandwidth_of_the_selection_is_a_queue_in_each_direction() {
    let mut lab = Debian::new();
    let pod = lab.node.pod();
    let plugins = json!([
        {"type": "bridge", "bridge": "br0", "ipam": lab.ipam(&["10.64.0.0/24"], &[])},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
    ]);
    lab.node.nad("lan", &json!({"cniVersion": "1.0.0", "plugins": plugins}));
    let bandwidth = json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000});
    let configuration = lab.configuration(&json!([{"name": "lan", "bandwidth": bandwidth}]));
    lab.add(&pod, &configuration);
    let queues: Value = serde_json::from_str(&lab.node.exec("tc -j qdisc show").expect("tc")).expect("JSON");
    let mut rates: Vec<_> = queues
        .as_array()
        .into_iter()
        .flatten()
        .filter(|it| it["kind"] == "tbf")
        .map(|it| (it["options"]["rate"].as_u64(), it["dev"].as_str().map(|it| it.starts_with("bwp"))))
        .collect();
    rates.sort_unstable();
    let bytes = |bits: u64| Some(bits / 8);
    let expected = [(bytes(8_000_000), Some(false)), (bytes(16_000_000), Some(true))];
    assert_eq!(rates, expected, "{queues}: the burst that was not given is one that the plugin takes");
    lab.check_and_del(&pod, &configuration);
    assert!(!lab.node.ip("-br link").contains("bwp"));
}

#[test]
fn what_the_plugins_complain_of_comes_through() {
    let mut lab = Debian::new();
    let pod = lab.node.pod();
    let bridge =
        |ipam: Value| json!({"cniVersion": "1.0.0", "type": "bridge", "bridge": "br0", "ipam": ipam});
    let mut full = lab.ipam(&[], &[]);
    full["ranges"] =
        json!([[{"subnet": "10.65.0.0/24", "rangeStart": "10.65.0.9", "rangeEnd": "10.65.0.9"}]]);
    lab.node.nad("full", &bridge(full));
    lab.node.nad("static", &bridge(json!({"type": "static", "addresses": [{"address": "10.65.0.300/24"}]})));
    let alone = json!({"cniVersion": "1.0.0", "type": "bandwidth", "ingressRate": 8, "ingressBurst": 8});
    lab.node.nad("alone", &alone);
    for (name, code, part) in [
        ("static", 999, "the 'address' field is expected to be in CIDR notation"),
        ("alone", 999, "must be called as chained plugin"),
    ] {
        let error = lab.refused(&pod, &json!([{ "name": name }]));
        assert!(message(&error).starts_with(&format!("network core/{name}: ")), "{error}");
        assert!(error.to_string().contains(part), "{name}: {error}");
        assert_eq!(error["code"], code, "the plugin's own: {error}");
    }
    let error = lab.refused(&pod, &json!([{"name": "full"}, {"name": "full"}]));
    assert!(message(&error).contains("no IP addresses available in range set"), "{error}");
}

#[test]
fn the_auxiliary_chain_tunes_what_the_default_network_has_made() {
    let mut lab = Debian::new();
    let pod = lab.node.pod();
    let dir = tempfile::tempdir().expect("a folder");
    let ptp = json!({"cniVersion": "1.0.0", "name": "pods", "type": "ptp", "ipam": lab.ipam(&["10.67.0.0/24"], &[])});
    std::fs::write(dir.path().join("10-ptp.conf"), ptp.to_string()).expect("written");
    std::fs::create_dir(dir.path().join("vendor-cni-chain")).expect("made");
    let tuning = json!({"cniVersion": "1.0.0", "name": "twiddle", "type": "tuning",
        "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}});
    std::fs::write(dir.path().join("vendor-cni-chain/twiddle.conf"), tuning.to_string()).expect("written");
    let mut configuration = lab.configuration(&json!([]));
    configuration["clusterNetwork"] = json!(dir.path().join("10-ptp.conf"));
    configuration["auxiliaryCNIChainName"] = json!("vendor-cni-chain");
    let result = lab.add(&pod, &configuration);
    assert_eq!(result["ips"][0]["address"], "10.67.0.2/24");
    assert_eq!(pod.exec("sysctl -n net.ipv4.conf.eth0.arp_filter").expect("it is there").trim(), "1");
    configuration["prevResult"] = result;
    lab.check_and_del(&pod, &configuration);
}

#[test]
fn a_configuration_that_is_refused_by_del_as_well_does_not_keep_the_pod_for_ever() {
    let mut lab = Debian::new();
    let pod = lab.node.pod();
    let nobody =
        json!({"cniVersion": "1.0.0", "type": "bridge", "bridge": "br0", "ipam": {"type": "nobody"}});
    lab.node.nad("nobody", &nobody);
    lab.node.nad("new", &json!({"cniVersion": "1.1.0", "type": "bridge", "bridge": "br0"}));
    for (name, code, part) in
        [("nobody", 999, "failed to find plugin \"nobody\""), ("new", 1, "incompatible CNI versions")]
    {
        let mut configuration = lab.configuration(&json!([{ "name": name }]));
        let error = lab.node.call("ADD", &pod, &configuration).expect_err("refused");
        assert_eq!(error["code"], code, "{error}");
        assert!(message(&error).starts_with(&format!("network core/{name}: ")), "{error}");
        let said = format!("{} {}", message(&error), error["details"].as_str().unwrap_or_default());
        assert!(said.contains(part), "{error}");
        assert_eq!(files(&lab.node.records()).len(), 1, "its DEL failed, too, and is owed");
        configuration["retryDeleteOnError"] = json!(true);
        lab.node.call("DEL", &pod, &configuration).expect_err("still owed");
        configuration["retryDeleteOnError"] = json!(false);
        lab.node.call("DEL", &pod, &configuration).expect("forgotten");
        assert_eq!(files(&lab.node.records()), Vec::<String>::new());
    }
}

#[test]
fn ipvlan_works_where_the_kernel_has_it_and_says_so_where_not() {
    let mut lab = Debian::new();
    let pod = lab.node.pod();
    let ipam = lab.ipam(&["10.66.0.0/24"], &[]);
    lab.node.nad("n3", &json!({"cniVersion": "1.0.0", "type": "ipvlan", "master": "n3", "ipam": ipam}));
    let networks = json!([{"name": "n3"}]);
    let has = lab.node.exec("ip link add link n3 name probe type ipvlan mode l2").is_ok();
    if has {
        lab.node.ip("link del probe");
        let configuration = lab.configuration(&networks);
        lab.add(&pod, &configuration);
        assert!(pod.ip("-d link show net1").contains("ipvlan"));
        lab.check_and_del(&pod, &configuration);
    } else {
        let error = lab.refused(&pod, &networks);
        assert!(message(&error).starts_with("network core/n3: failed to create ipvlan"), "{error}");
        assert!(error.to_string().contains("operation not supported"), "{error}");
    }
}
