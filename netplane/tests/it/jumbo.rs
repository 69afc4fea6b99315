//! Frames larger than a page, which XDP gets in fragments: by test runs, and on devices with an MTU of 9000.

use crate::agent::{list, problems};
use crate::tc::{agent_in, attach_pod, lab_with};
use netplane_bench::differential::{Counted, Hook, Kernel};
use netplane_bench::lab::cni::addresses;
use netplane_bench::lab::endpoint::Endpoint;
use netplane_bench::lab::traffic::{EchoServer, Host, tcp, udp};
use netplane_bench::lab::tshark::CHECKSUM_ABSENT;
use netplane_bench::lab::users::{gnb, users};
use netplane_bench::lab::wires::{Expectation, Pod, Tap, mac};
use netplane_bench::lab::{Lab, SERVER};
use netplane_common::testing::invariants::{judge, pass_on_wire};
use netplane_common::testing::jumbo::{self, Jumbo};
use netplane_common::testing::packet::difference;
use netplane_common::testing::tables::MapTables;
use netplane_common::verdict::{Reason, Verdict};

/// Bytes that a test run puts in the first fragment at most: a page without headroom (256) and the kernel's note
/// of the fragments behind it (320).
const FIRST: usize = 4096 - 256 - 320;

/// Runs one frame on slices and in the kernel. Returns the verdict.
fn agree(
    kernel: &mut Kernel,
    tables: &MapTables,
    packet: &[u8],
    linear: Option<u32>,
) -> Result<Verdict, String> {
    let wanted = pass_on_wire(tables, packet);
    judge(tables, packet, &wanted)?;
    let ran = match linear {
        Some(linear) => kernel.run_in_fragments(packet, linear),
        None => kernel.run(Hook::Xdp, packet),
    };
    let frame = ran.map_err(|it| format!("{it:#}"))?;
    if frame.action != Hook::Xdp.action(wanted.verdict) || frame.bytes != wanted.out {
        let differ = difference(frame.bytes, &wanted.out);
        return Err(format!("action {}, wanted {:?}: {differ}", frame.action, wanted.verdict));
    }
    let mut counted = Counted::default();
    counted.add(&wanted, frame.bytes.len());
    let got = kernel.counted().map_err(|it| format!("{it:#}"))?;
    if got == counted { Ok(wanted.verdict) } else { Err(format!("counted {got:?}, wanted {counted:?}")) }
}

#[test]
fn xdp_takes_frames_in_fragments_as_slices_do() {
    let mut kernel = Kernel::load().expect("root and a kernel with BPF");
    let tables = jumbo::tables();
    kernel.set(&tables).expect("the maps can be written");
    let mut forwarded = 0;
    // Around the end of the first fragment, of the second one, and the largest.
    let sizes =
        (FIRST - 80..FIRST + 20).chain(FIRST + 4000..FIRST + 4040).chain([8899, 8900, 8936, 8957, 9001]);
    for size in sizes {
        for Jumbo { name, packet, end, sound } in jumbo::frames(size) {
            // Bytes behind a packet that ends just there stay: see `XdpFrame::cut`.
            if end == FIRST && packet.len() > FIRST {
                continue;
            }
            let verdict = agree(&mut kernel, &tables, &packet, None);
            let verdict = verdict.unwrap_or_else(|it| panic!("{name}, {size}: {it}"));
            let goes_on = matches!(verdict, Verdict::Transmit | Verdict::Redirect { .. });
            assert!(goes_on == sound || size > 8936, "{name}, {size}: {verdict:?}");
            forwarded += u32::from(goes_on && packet.len() > FIRST);
        }
    }
    assert!(forwarded > 400, "{forwarded} in fragments");
}

#[test]
fn headers_that_xdp_cannot_read_are_no_reason_to_drop() {
    let mut kernel = Kernel::load().expect("root and a kernel with BPF");
    let tables = jumbo::tables();
    kernel.set(&tables).expect("the maps can be written");
    let frames = jumbo::frames(600);
    // Before Linux 6.18 a test run fills the first fragment.
    if kernel.run_in_fragments(&frames[0].packet, 100).is_err() {
        return;
    }
    let _before = kernel.counted();
    // Ethernet, IPv4, UDP, GTP-U with container, and the user's header.
    let headers = 14 + 20 + 8 + 16 + 20;
    let mut hidden = 0;
    for linear in 14..=headers {
        let Jumbo { name, packet, .. } = &frames[0];
        let frame = kernel.run_in_fragments(packet, linear).expect("BPF_PROG_TEST_RUN");
        let (action, passed) = (frame.action, frame.bytes == packet);
        if linear == headers {
            assert_eq!(action, Hook::Xdp.action(pass_on_wire(&tables, packet).verdict), "{name}");
            continue;
        }
        assert!(passed && action == Hook::Xdp.action(Verdict::Pass), "{name}, {linear}: action {action}");
        let counted = kernel.counted().expect("counters");
        let reasons: Vec<_> = counted.networks.keys().map(|(_, reason)| *reason).collect();
        // Without a header in sight for nobody, then for no GTP-U, then for an endpoint.
        let known = [Reason::PassHeadersHidden as u8, Reason::PassNotGtpu as u8];
        assert!(reasons.iter().all(|it| known.contains(it)), "{linear}: {counted:?}");
        hidden += u32::from(reasons == known[..1]);
    }
    assert!(hidden > 20, "{hidden} counted as hidden");
    let _before = kernel.counted();
    for Jumbo { name, packet, sound, .. } in &frames {
        for linear in [256, 300, 399] {
            let agreed = agree(&mut kernel, &tables, packet, Some(linear));
            let verdict =
                agreed.unwrap_or_else(|it| panic!("{name}, {linear} of {} bytes: {it}", packet.len()));
            let goes_on = matches!(verdict, Verdict::Transmit | Verdict::Redirect { .. });
            assert_eq!(goes_on, *sound, "{name}, {linear}: {verdict:?}");
        }
    }
}

/// Datagrams there and back, and bytes of each user's packet.
const DATAGRAMS: u64 = 300;
const PACKET: usize = 8900;

/// Gives all devices of the wires the large MTU; what is attached to them afterwards gets it, too.
pub(crate) fn widen(lab: &Lab) {
    for (namespace, interface) in [(&lab.gnb, "n3"), (&lab.dn, "n6"), (&lab.node, "n3"), (&lab.node, "n6")] {
        namespace.ip(&format!("link set {interface} mtu {}", jumbo::MTU)).expect("an MTU");
    }
}

/// The packets of all sessions, up and down, and their bytes.
fn forwarded(lab: &Lab) -> [u64; 4] {
    let status = lab.status().expect("a status");
    let sum = |way: &str, what: &str| {
        list(&status, "sessions").iter().map(|it| it[way][what].as_u64().unwrap_or(0)).sum()
    };
    [sum("uplink", "packets"), sum("downlink", "packets"), sum("uplink", "bytes"), sum("downlink", "bytes")]
}

/// G-PDUs of 8,900 bytes and what is in them, byte for byte on both wires.
fn large_packets(xdp: &str, attached: &str) {
    let lab = lab_with(xdp);
    widen(&lab);
    let n3 = attach_pod(&lab);
    let (agent, status) = agent_in(&lab, attached);
    assert_eq!(problems(&status), Vec::<String>::new());
    let mut config = gnb(&users(3), n3);
    config.tun.mtu = jumbo::UE_MTU;
    let _gnb = lab.gnb.run(|| Endpoint::start(&config)).expect("the namespace").expect("a gNB");
    let user = Host { namespace: &lab.gnb, address: users(1)[0].ue };
    let server = Host { namespace: &lab.dn, address: SERVER };
    let trouble = || format!("{:#}\n{}", lab.status().unwrap_or_default(), agent.log_tail());

    let tap = Tap::start(&lab).expect("captures");
    let echo = EchoServer::start(server).expect("a server");
    // IPv4 and UDP.
    let bulk = udp::bulk(user, server, DATAGRAMS, PACKET - 28, 8).expect("datagrams");
    drop(echo);
    assert_eq!((bulk.sent, bulk.returned), (DATAGRAMS, DATAGRAMS), "{}", trouble());
    let bytes = DATAGRAMS * PACKET as u64;
    assert_eq!(forwarded(&lab), [DATAGRAMS, DATAGRAMS, bytes, bytes], "{}", trouble());
    let wires = tap.stop(&lab, "jumbo").expect("tshark");
    let n6 = addresses(&lab.pod, "net2").expect("an interface");
    let n6 = n6[0].split('/').next().and_then(|it| it.parse().ok()).expect("an address");
    let mac_of = |namespace, interface| mac(namespace, interface).expect("a MAC");
    let pod = Pod { n3, n3_mac: mac_of(&lab.pod, "net1"), n6, n6_mac: mac_of(&lab.pod, "net2") };
    let judgement = wires.judge(&Expectation {
        pod: &pod,
        users: &users(3),
        gnb_mac: mac_of(&lab.gnb, "n3"),
        gateway_mac: mac_of(&lab.dn, "n6"),
        outer_udp_checksum: CHECKSUM_ABSENT,
    });
    let seen = (u64::from(judgement.uplink), u64::from(judgement.downlink));
    assert_eq!((seen, judgement.problems), ((DATAGRAMS, DATAGRAMS), Vec::new()));

    tcp::echo(user, server, 4 << 20).unwrap_or_else(|error| panic!("{error:#}\n{}", trouble()));
    let status = lab.status().expect("a status");
    assert!(list(&status, "masters").iter().all(|it| it["attached"] == attached), "{}", trouble());
    agent.terminate().expect("a clean end");
}

#[test]
fn jumbo_frames_are_forwarded_by_native_xdp() {
    large_packets("native", "native");
}

#[test]
fn jumbo_frames_are_forwarded_by_tc() {
    large_packets("tc", "tc");
}
