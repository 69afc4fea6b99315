//! Every packet that the table of cases puts on a wire, read by tshark and by scapy: programs of other people,
//! which know the headers from the same standards but not from this code.

use netplane_bench::lab::capture::Frame;
use netplane_bench::lab::tshark::{CHECKSUM_ABSENT, CHECKSUM_GOOD, Dissection, dissect};
use netplane_common::decide::decide;
use netplane_common::frame::SliceFrame;
use netplane_common::testing::cases::{self, IFINDEX};
use netplane_common::verdict::Verdict;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Of `icmp.checksum.status`.
const UNVERIFIED: &str = "2";
/// Of `udp.checksum.status`: zero over IPv6.
const CHECKSUM_ILLEGAL: &str = "4";

/// A case whose packet leaves, changed.
struct Sent {
    name: &'static str,
    /// `forward`, or `answer` for what was turned around.
    kind: &'static str,
    came: Vec<u8>,
    left: Vec<u8>,
}

/// What the decision makes of each case: not what the case says that it should.
fn sent() -> Vec<Sent> {
    let sent: Vec<_> = cases::all()
        .into_iter()
        .filter_map(|case| {
            let mut frame = SliceFrame::new(&case.packet);
            let kind = match decide(&mut frame, &case.tables, IFINDEX) {
                Verdict::Transmit | Verdict::Redirect { .. } => "forward",
                Verdict::Answer { .. } => "answer",
                _ => return None,
            };
            Some(Sent { name: case.name, kind, left: frame.bytes().to_vec(), came: case.packet })
        })
        .collect();
    let count = |kind| sent.iter().filter(|it| it.kind == kind).count();
    assert!(count("forward") > 30 && count("answer") > 15, "the table has few packets that leave");
    sent
}

fn frames(packets: impl Iterator<Item = Vec<u8>>) -> Vec<Frame> {
    packets.map(|bytes| Frame { at: Duration::ZERO, outgoing: true, bytes }).collect()
}

fn split(values: &str) -> Vec<&str> {
    values.split(',').filter(|it| !it.is_empty()).collect()
}

/// What is wrong with a packet, as tshark reads it. What came with the packet is the sender's: users' UDP
/// checksums.
fn problems(name: &str, came: &Dissection, left: &Dissection) -> Vec<String> {
    let mut problems = Vec::new();
    let mut ensure = |right: bool, what: String| {
        if !right {
            problems.push(what)
        }
    };
    let malformed = |it: &Dissection| it.all("_ws.malformed").to_owned();
    ensure(
        ["", &malformed(came)].contains(&malformed(left).as_str()),
        format!("malformed: {}", malformed(left)),
    );
    ensure(
        left.all("ip.checksum.status").split(',').all(|it| ["", CHECKSUM_GOOD].contains(&it)),
        "IPv4 checksum".to_owned(),
    );
    for field in ["icmp.checksum.status", "icmpv6.checksum.status"] {
        let all = split(left.all(field));
        // One that is quoted by another is too short to be verified.
        let right = all.first().is_none_or(|it| *it == CHECKSUM_GOOD)
            && all.iter().skip(1).all(|it| *it == UNVERIFIED);
        ensure(right, format!("{field} {all:?}"));
    }
    let is_tunnelled = !left.all("gtp.message").is_empty();
    if is_tunnelled {
        // RFC 768: zero is no checksum over IPv4; over IPv6 RFC 6935 allows it, and it is not what we do.
        let over_ipv6 = left.first("eth.type") == "0x86dd";
        let outer = left.first("udp.checksum.status");
        let right = match outer {
            CHECKSUM_GOOD => true,
            CHECKSUM_ABSENT => !over_ipv6,
            CHECKSUM_ILLEGAL => over_ipv6 && name.contains("checksum zero where the network says so"),
            _ => false,
        };
        ensure(right, format!("outer UDP checksum {outer}"));
        ensure(
            left.first("udp.dstport") == "2152" || left.first("gtp.message") == "0x02",
            "outer port".to_owned(),
        );
        // TS 29.281 §5.1: the length counts what follows the first eight bytes, UDP's own eight as well.
        let number = |field: &str| left.first(field).parse::<u32>().unwrap_or_default();
        ensure(
            number("udp.length") == 16 + number("gtp.length"),
            format!("UDP {} and GTP-U {}", number("udp.length"), number("gtp.length")),
        );
        let flags =
            u8::from_str_radix(left.first("gtp.flags").trim_start_matches("0x"), 16).unwrap_or_default();
        ensure(flags & 0xf0 == 0x30, format!("GTP-U flags {flags:#x}"));
        let has_extension = !left.all("gtp.ext_hdr").is_empty();
        ensure(
            (flags & 4 != 0) == has_extension,
            format!("flags {flags:#x}, extensions {}", left.all("gtp.ext_hdr")),
        );
    }
    let statuses = |it: &Dissection| split(it.all("udp.checksum.status")).last().copied().map(str::to_owned);
    if left.all("icmp.type").is_empty()
        && left.all("icmpv6.type").is_empty()
        && !left.all("udp.length").is_empty()
    {
        let right = statuses(left) == statuses(came) || statuses(left).as_deref() == Some(CHECKSUM_GOOD);
        ensure(
            right || is_tunnelled,
            format!("inner UDP checksum {:?}, came as {:?}", statuses(left), statuses(came)),
        );
    }
    problems
}

#[test]
fn tshark_finds_nothing_wrong_with_any_packet_that_leaves() {
    let sent = sent();
    let folder = tempfile::tempdir().expect("a folder");
    let read = |name: &str, packets: Vec<Vec<u8>>| {
        dissect(&frames(packets.into_iter()), &folder.path().join(name)).expect("tshark")
    };
    let came = read("came.pcap", sent.iter().map(|it| it.came.clone()).collect());
    let left = read("left.pcap", sent.iter().map(|it| it.left.clone()).collect());
    let mut problems_by_case = Vec::new();
    for ((case, came), left) in sent.iter().zip(&came).zip(&left) {
        let problems = problems(case.name, came, left);
        problems_by_case.extend(problems.into_iter().map(|it| format!("{}: {it}", case.name)));
    }
    assert!(problems_by_case.is_empty(), "\n{}", problems_by_case.join("\n"));
    let containers: Vec<_> = left.iter().filter(|it| it.first("gtp.ext_hdr.next") == "0x85").collect();
    assert!(containers.len() > 5, "{} PDU Session Containers", containers.len());
    for container in containers {
        let flow = container.first("gtp.ext_hdr.pdu_ses_con.qos_flow_id");
        assert!(
            [cases::QFI, netplane_common::testing::rules::DNS_QFI].iter().any(|it| it.to_string() == flow),
            "QFI {flow}"
        );
    }
}

/// The nodes of the cases, for who has not read this code.
fn world() -> Value {
    let mac = |bytes: [u8; 6]| bytes.map(|it| format!("{it:02x}")).join(":");
    json!({
        "pod_n3": [cases::POD_N3.to_string(), cases::POD_N3_6.to_string()],
        "gnb": [cases::GNB.to_string(), cases::GNB6.to_string()],
        "peer": [cases::PEER.to_string(), cases::PEER6.to_string()],
        "pod_n3_mac": mac(cases::POD_N3_MAC), "pod_n6_mac": mac(cases::POD_N6_MAC), "gnb_mac": mac(cases::GNB_MAC),
        "n6_macs": [mac(cases::ROUTER_MAC), mac(cases::HOST_MAC)], "router_mac": mac(cases::ROUTER_MAC),
        "downlink_teid": cases::DOWNLINK_TEID, "relayed_teid": cases::RELAYED_TEID, "qfis": [cases::QFI, netplane_common::testing::rules::DNS_QFI],
        "vlan": cases::VLAN, "pod_n6": ["10.40.0.2", "2001:db8:40::2"], "mtus": [1400, 1500],
    })
}

/// Hands packets to scapy, and returns what it says of each that is wrong, by the case's name.
fn wrong_for_scapy(sent: &[Sent]) -> BTreeMap<String, String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|it| format!("{it:02x}")).collect::<String>();
    let cases: Vec<_> = sent
        .iter()
        .map(|it| json!({ "name": it.name, "kind": it.kind, "came": hex(&it.came), "left": hex(&it.left) }))
        .collect();
    let input = json!({ "world": world(), "cases": cases }).to_string();
    // Debian's interpreter, which is the one that has Debian's scapy.
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", include_str!("reading.py")]);
    python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = python.spawn().expect("python3 is installed");
    child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints} (Debian: python3-scapy)");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["read"], json!(sent.len()));
    serde_json::from_value(said["wrong"].clone()).expect("sentences by name")
}

#[test]
fn scapy_makes_the_same_of_every_packet_that_leaves() {
    assert_eq!(wrong_for_scapy(&sent()), BTreeMap::new());
}

/// Else its agreement would mean little.
#[test]
fn scapy_sees_any_byte_that_is_changed() {
    let mut sent = sent();
    for (number, case) in sent.iter_mut().enumerate() {
        let at = number * 5 % case.left.len();
        case.left[at] ^= 0x55;
    }
    let wrong = wrong_for_scapy(&sent);
    let unseen: Vec<_> = sent.iter().map(|it| it.name).filter(|it| !wrong.contains_key(*it)).collect();
    assert_eq!(unseen, [""; 0]);
}
