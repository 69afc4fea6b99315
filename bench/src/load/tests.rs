//! Generators and sink on a wire between two namespaces. What is on the wire is read by tshark.

use super::scenario::{Mac, Scenario};
use super::sink::Sink;
use super::template::Arrival;
use super::{Generator, Kind, Load, Sent};
use crate::lab::capture::{Capture, Frame};
use crate::lab::pair::{INTERFACE, Pair};
use crate::lab::tshark::{CHECKSUM_GOOD, Dissection, dissect};
use std::time::Duration;

const UPLINK: &str = include_str!("../../scenarios/uplink.yaml");
const UPLINK_IPV6: &str = include_str!("../../scenarios/uplink-ipv6.yaml");
const DOWNLINK: &str = include_str!("../../scenarios/downlink.yaml");

fn scenario(text: &str) -> Scenario {
    let mut scenario = Scenario::parse(text).unwrap();
    scenario.ethernet.destination = Some(Mac([2, 0, 0, 0, 0, 9]));
    scenario
}

fn frames(frames: u64) -> Load {
    Load { rate: None, frames: Some(frames), time: Duration::from_secs(20) }
}

fn send(pair: &Pair, scenario: &Scenario, load: Load) -> Sent {
    let run = || Generator::new(Kind::Live, INTERFACE, scenario).unwrap().run(load).unwrap();
    pair.near.run(run).unwrap()
}

fn attach(pair: &Pair, scenario: &Scenario, by_session: bool) -> Sink {
    let sink = || Sink::attach(INTERFACE, scenario, Arrival::AsSent, by_session, false).unwrap();
    pair.far.run(sink).unwrap()
}

#[test]
fn every_frame_of_every_session_is_counted() {
    let pair = Pair::new().unwrap();
    for text in [UPLINK, DOWNLINK, UPLINK_IPV6] {
        let mut scenario = scenario(text);
        scenario.sessions = 100;
        // Fewer at once than the receiving ring has room for.
        scenario.send.burst = 32;
        let mut sink = attach(&pair, &scenario, true);
        let sent = send(&pair, &scenario, frames(10_000));
        let received = sink.received().unwrap();
        assert_eq!((sent.frames, received.frames), (10_000, 10_000), "{}", scenario.name);
        assert_eq!(sent.bytes, received.bytes, "{}", scenario.name);
        assert_eq!(sink.by_session().unwrap(), vec![100; 100], "{}", scenario.name);
        sink.reset().unwrap();
        assert_eq!(sink.received().unwrap().frames, 0);
    }
}

#[test]
fn a_rate_is_kept_and_latency_counted() {
    let pair = Pair::new().unwrap();
    let mut scenario = scenario(UPLINK);
    scenario.send.latency = true;
    scenario.send.burst = 1;
    let mut sink = attach(&pair, &scenario, false);
    // How fast this machine is does not matter: no frame leaves before it is due.
    let load = Load { rate: Some(20_000.0), frames: Some(2_000), time: Duration::from_secs(20) };
    let sent = send(&pair, &scenario, load);
    assert_eq!(sent.frames, 2_000);
    assert!(sent.seconds >= 0.099, "2000 frames at 20000 a second in {} s", sent.seconds);
    let latencies = sink.latencies().unwrap();
    assert_eq!(latencies.0.iter().map(|it| it.1).sum::<u64>(), 2_000);
    assert!(latencies.percentile(0.5) <= latencies.percentile(0.99));
}

fn captured(scenario: &Scenario, count: u64) -> Vec<(Frame, Dissection)> {
    let pair = Pair::new().unwrap();
    // NAPI on the receiving side, which has no sink here.
    pair.far.ethtool(INTERFACE, &["gro", "on"]).unwrap();
    let capture = Capture::start(&pair.far, INTERFACE).unwrap();
    send(&pair, scenario, frames(count));
    let seen = capture.stop().unwrap();
    // The namespaces' own traffic (neighbour discovery) has other destinations.
    let mut seen: Vec<_> = seen.into_iter().filter(|it| it.bytes[..6] == [2, 0, 0, 0, 0, 9]).collect();
    seen.truncate(count as usize);
    let folder = tempfile::tempdir().unwrap();
    let read = dissect(&seen, &folder.path().join("seen.pcap")).unwrap();
    seen.into_iter().zip(read).collect()
}

#[test]
fn tshark_reads_what_the_scenario_says() {
    let mut scenario = scenario(UPLINK);
    scenario.sessions = 3;
    scenario.flows = 2;
    scenario.order = super::scenario::Order::Sequential;
    let seen = captured(&scenario, 6);
    assert_eq!(seen.len(), 6);
    for (index, (frame, fields)) in seen.iter().enumerate() {
        assert_eq!(frame.bytes.len(), 14 + 20 + 8 + 16 + 64);
        let (session, flow) = (index % 3, index / 3);
        assert_eq!(fields.all("gtp.teid"), format!("0x{:08x}", 0x1000_0001 + session));
        assert_eq!(fields.last("ip.src"), format!("100.64.0.{}", 1 + session));
        assert_eq!(fields.last("udp.srcport"), (40_000 + flow).to_string());
        assert_eq!(fields.all("ip.checksum.status"), format!("{CHECKSUM_GOOD},{CHECKSUM_GOOD}"));
        assert_eq!(fields.all("gtp.ext_hdr.pdu_ses_con.qos_flow_id"), "9");
        assert_eq!(fields.all("gtp.ext_hdr.pdu_ses_con.pdu_type"), "1");
        assert_eq!(fields.all("_ws.malformed"), "");
    }
}

#[test]
fn ipv6_users_have_checksums_and_mixes_their_lengths() {
    let mut scenario = scenario(UPLINK_IPV6);
    scenario.sizes =
        serde_saphyr::from_str("[{ bytes: 80, weight: 2 }, { bytes: 1300, weight: 1 }]").unwrap();
    let seen = captured(&scenario, 60);
    let outer = 14 + 40 + 8 + 16;
    let long = seen.iter().filter(|it| it.0.bytes.len() == outer + 1300).count();
    let short = seen.iter().filter(|it| it.0.bytes.len() == outer + 80).count();
    assert_eq!((short, long), (40, 20));
    for (_, fields) in &seen {
        assert_eq!(fields.last("udp.checksum.status"), CHECKSUM_GOOD);
        // "Illegal" to Wireshark; RFC 6935 allows zero for tunnels.
        assert_eq!(fields.first("udp.checksum.status"), "4");
        assert_eq!(fields.all("_ws.malformed"), "");
    }
}

#[test]
fn a_missing_generator_is_an_error_with_a_remedy() {
    let has_pktgen = std::path::Path::new("/proc/net/pktgen").is_dir();
    let pair = Pair::new().unwrap();
    let scenario = scenario(UPLINK);
    let made = pair.near.run(|| Generator::new(Kind::Pktgen, INTERFACE, &scenario).map(|_| ())).unwrap();
    match made {
        Ok(()) => assert!(has_pktgen),
        Err(error) => {
            assert!(!has_pktgen, "{error:#}");
            assert!(error.to_string().contains("remedy: `modprobe pktgen`"), "{error:#}");
        }
    }
    let mut nowhere = scenario.clone();
    nowhere.ethernet.destination = None;
    let made = pair.near.run(|| Generator::new(Kind::Live, INTERFACE, &nowhere).map(|_| ())).unwrap();
    assert!(made.unwrap_err().to_string().contains("--destination"));
}
