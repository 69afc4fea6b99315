//! The lab by itself: a pod attached by hand and the user-space UPF in it, without netplane.

use super::endpoint::{Endpoint, EndpointCounters};
use super::traffic::{self, EchoServer, Host, Stream};
use super::users::{self, UE_POOL};
use super::wires::{Expectation, Pod, Tap, mac};
use super::*;

const POD_N3: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 20);
const POD_N6: Ipv4Addr = Ipv4Addr::new(10, 40, 0, 20);

/// A lab with a pod on both masters and the user-space UPF in it.
struct Hand {
    lab: Lab,
    gnb: Endpoint,
    upf: Endpoint,
}

impl Hand {
    fn new(n_users: u32) -> Self {
        // Any file will do for the binary: it is not called here.
        let lab = Lab::new(&std::env::current_exe().unwrap()).unwrap();
        let pod = lab.pod.name();
        lab.node
            .ip(&format!(
                "link add link n3 name np-a netns {pod} type macvlan mode bridge\n\
                 link add link n6 name np-b netns {pod} type macvlan mode bridge"
            ))
            .unwrap();
        lab.pod
            .ip(&format!(
                "link set np-a name net1 up\nlink set np-b name net2 up\n\
                 address add {POD_N3}/24 dev net1\naddress add {POD_N6}/24 dev net2\n\
                 route add default via {GATEWAY}"
            ))
            .unwrap();
        lab.pod.sysctl("net/ipv4/ip_forward", "1").unwrap();
        lab.dn.ip(&format!("route add {UE_POOL} via {POD_N6}")).unwrap();
        let users = users::users(n_users);
        let upf = lab.pod.run(|| Endpoint::start(&users::upf(&users, POD_N3))).unwrap().unwrap();
        let gnb = lab.gnb.run(|| Endpoint::start(&users::gnb(&users, POD_N3))).unwrap().unwrap();
        Self { lab, gnb, upf }
    }

    fn user(&self, number: u32) -> Host<'_> {
        Host { namespace: &self.lab.gnb, address: users::users(number).last().unwrap().ue }
    }

    fn server(&self) -> Host<'_> {
        Host { namespace: &self.lab.dn, address: SERVER }
    }
}

#[test]
fn user_space_upf_carries_ping_tcp_and_udp() {
    let hand = Hand::new(3);
    for number in 1..=3 {
        let report = traffic::ping(hand.user(number), SERVER, 3, 56).unwrap();
        assert!(report.is_complete(), "{report:?}");
        assert_eq!(report.ttl, Some(63), "the pod is one router on the way");
    }
    traffic::tcp::echo(hand.user(1), hand.server(), 300_000).unwrap();
    let time = Duration::from_millis(300);
    for uplink in [true, false] {
        let report = traffic::tcp::bulk(hand.user(1), hand.server(), uplink, time).unwrap();
        assert!(report.bytes > 100_000, "{report:?}");
    }
    let _echo = EchoServer::start(hand.server()).unwrap();
    let report = traffic::udp::bulk(hand.user(2), hand.server(), 2000, 1000, 32).unwrap();
    assert_eq!((report.sent, report.returned), (2000, 2000));
    let stream = Stream::start(hand.user(3), hand.server(), 1000).unwrap();
    stream.wait_for_more(200).unwrap();
    let report = stream.finish().unwrap();
    assert_eq!((report.n_lost(), report.sent), (0, report.returned));

    let (gnb, upf) = (hand.gnb.counters(), hand.upf.counters());
    assert_eq!(gnb.encapsulated, upf.decapsulated);
    assert_eq!(upf.encapsulated, gnb.decapsulated);
    for counters in [gnb, upf] {
        let EndpointCounters { unknown_teid, spoofed, malformed, errors, .. } = counters;
        assert_eq!((unknown_teid, spoofed, malformed, errors), (0, 0, 0, 0), "{counters:?}");
    }
}

#[test]
fn nothing_is_left_of_a_lab() {
    let hand = Hand::new(1);
    let Hand { lab, gnb, upf } = hand;
    let mut command = lab.node.command("sleep");
    command.arg("1000");
    let sleeper = lab.spawn("sleeper", command).unwrap();
    let (folder, names) =
        (lab.folder().to_owned(), [&lab.gnb, &lab.node, &lab.dn, &lab.pod].map(Namespace::path));
    let pid = sleeper.id();
    drop((gnb, upf));
    lab.remove().unwrap();
    assert!(!folder.exists());
    for path in names {
        assert!(!path.exists(), "{}", path.display());
    }
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(folder.to_str().unwrap()));
}

#[test]
fn tshark_finds_the_user_space_upf_right() {
    let hand = Hand::new(3);
    let tap = Tap::start(&hand.lab).unwrap();
    for number in 1..=3 {
        traffic::ping(hand.user(number), SERVER, 2, 56).unwrap();
    }
    traffic::tcp::echo(hand.user(1), hand.server(), 3000).unwrap();
    let _echo = EchoServer::start(hand.server()).unwrap();
    traffic::udp::bulk(hand.user(2), hand.server(), 3, 100, 1).unwrap();
    let wires = tap.stop(&hand.lab, "test").unwrap();
    let pod = Pod {
        n3: POD_N3,
        n3_mac: mac(&hand.lab.pod, "net1").unwrap(),
        n6: POD_N6,
        n6_mac: mac(&hand.lab.pod, "net2").unwrap(),
    };
    let mut expectation = Expectation {
        pod: &pod,
        users: &users::users(3),
        gnb_mac: mac(&hand.lab.gnb, "n3").unwrap(),
        gateway_mac: mac(&hand.lab.dn, "n6").unwrap(),
        outer_udp_checksum: tshark::CHECKSUM_GOOD,
    };
    let judgement = wires.judge(&expectation);
    assert_eq!(judgement.problems, Vec::<String>::new());
    assert!(judgement.uplink >= 14 && judgement.downlink >= 14, "{judgement:?}");

    // The judge is awake: a wrong expectation is reported by its field.
    expectation.outer_udp_checksum = tshark::CHECKSUM_ABSENT;
    let problems = wires.judge(&expectation).problems;
    assert!(problems[0].starts_with("udp.checksum.status is 1"), "{problems:?}");
}
