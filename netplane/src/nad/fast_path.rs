//! The annotation that puts a network on the fast path: its keys, defaults and limits. What is for later
//! versions is an error that says so, never silently without effect.

use super::NetworkName;
use super::path_check;
use super::reader::{Problems, Reader, report};
use ipnet::IpNet;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use super::path_check::PathCheck;
pub use super::reader::FieldProblem;

/// The annotation on a NAD.
pub const FAST_PATH_ANNOTATION: &str = "netplane.dev/fast-path";

/// Metadata of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FastPath {
    pub role: Role,
    pub xdp: Xdp,
    pub gtpu: Gtpu,
    /// On a data network: where users' addresses come from.
    pub ue_pools: Vec<IpNet>,
    /// Largest inner packet to the users in bytes; absent: what the path leaves.
    pub mtu: Option<u16>,
    pub sessions: Vec<StaticSession>,
}

/// What a network carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// GTP-U: N3, N9, S1-U, S5/S8-U.
    Access,
    /// Users' plain IP: N6, SGi.
    Data,
}

/// How programs are attached to the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xdp {
    Auto,
    Native,
    Generic,
    Tc,
    Off,
}

/// GTP-U on an access network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gtpu {
    /// Outer sources that are let in; empty: any.
    pub peers: Vec<IpNet>,
    /// Echo Requests are answered in the data plane.
    pub echo: bool,
    /// The peers of sessions are asked by Echo Requests; absent: not.
    pub path_check: Option<PathCheck>,
    pub unknown_teid: UnknownTeid,
    /// Outer source port from the inner flow instead of 2152.
    pub flow_source_port: bool,
    /// Outer UDP checksums of what is sent; absent: none over IPv4, full over IPv6.
    pub udp_checksum: Option<UdpChecksum>,
    /// Outer DSCP; absent: copied.
    pub dscp: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpChecksum {
    /// None, as RFC 768 and, for tunnels over IPv6, RFC 6935 allow.
    Zero,
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownTeid {
    Pass,
    Drop,
    /// Dropped, and the peer is told.
    ErrorIndication,
}

/// A session that needs no control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticSession {
    pub name: String,
    /// `namespace/name`; absent where one pod on the node has all the session's networks.
    pub pod: Option<NetworkName>,
    pub ue4: Option<Ipv4Addr>,
    /// A /64.
    pub ue6: Option<Ipv6Addr>,
    pub uplink: Option<Uplink>,
    pub downlink: Option<Downlink>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub teid: u32,
    /// The QFI that G-PDUs must carry; absent: any or none.
    pub qfi: Option<u8>,
    pub to: Target,
}

/// Where an uplink goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A data network: decapsulated.
    Data(NetworkName),
    /// Another peer on an access network: under a new F-TEID.
    Relay { network: NetworkName, peer: IpAddr, teid: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downlink {
    pub peer: IpAddr,
    pub teid: u32,
    pub qfi: Option<u8>,
    /// When this is not the peer and TEID of before, those are told by an End Marker (TS 29.281 §7.3.2).
    pub end_marker: bool,
}

const PREFIX: &str = "a prefix such as 10.30.0.0/24";
const ADDRESS: &str = "an IP address";
const NETWORK: &str = "NAMESPACE/NAME";
const LATER: &str = "is not supported yet";

impl FastPath {
    /// Reads the annotation's text.
    ///
    /// # Errors
    /// Every problem, each with its place.
    pub fn parse(annotation: &str) -> Result<Self, Vec<FieldProblem>> {
        let value: Value = serde_json::from_str(annotation).map_err(|error| {
            vec![FieldProblem {
                path: FAST_PATH_ANNOTATION.to_owned(),
                message: format!("is not JSON: {error}"),
            }]
        })?;
        let mut problems = Problems::new();
        let fast_path = read(&value, &mut problems);
        match fast_path {
            Some(fast_path) if problems.is_empty() => Ok(fast_path),
            _ => Err(problems),
        }
    }
}

fn read(value: &Value, problems: &mut Problems) -> Option<FastPath> {
    let keys = ["role", "xdp", "gtpu", "spread", "uePools", "mtu", "sessions"];
    let reader = Reader::new(value, "", &keys, problems)?;
    reader.required("role", problems);
    let role = match reader.string("role", problems) {
        Some("access") => Some(Role::Access),
        Some("data") => Some(Role::Data),
        Some(other) => {
            report(problems, "role", format!("is \"{other}\", should be access or data"));
            None
        }
        None => None,
    };
    let xdp = match reader.string("xdp", problems) {
        None | Some("auto") => Xdp::Auto,
        Some("native") => Xdp::Native,
        Some("generic") => Xdp::Generic,
        Some("off") => Xdp::Off,
        Some("tc") => Xdp::Tc,
        Some(other) => {
            report(problems, "xdp", format!("is \"{other}\", should be auto, native, generic, tc or off"));
            Xdp::Off
        }
    };
    if reader.get("spread").is_some() {
        report(problems, "spread", LATER);
    }
    let gtpu = read_gtpu(reader.get("gtpu"), problems);
    let ue_pools: Vec<IpNet> = reader.list("uePools", PREFIX, problems);
    let mtu = reader.number("mtu", 576..=9216, problems).and_then(|it| u16::try_from(it).ok());
    let sessions = read_sessions(&reader, problems);
    let role = role?;
    match role {
        Role::Data if ue_pools.is_empty() => {
            report(problems, "uePools", "is missing: a data network needs it")
        }
        Role::Data if !sessions.is_empty() => {
            report(problems, "sessions", "belong to the access network that their uplink arrives on");
        }
        Role::Data if reader.get("gtpu").is_some() => report(problems, "gtpu", "is for access networks only"),
        Role::Access if !ue_pools.is_empty() => report(problems, "uePools", "is for data networks only"),
        _ => {}
    }
    Some(FastPath { role, xdp, gtpu, ue_pools, mtu, sessions })
}

fn read_gtpu(value: Option<&Value>, problems: &mut Problems) -> Gtpu {
    let mut gtpu = Gtpu {
        peers: Vec::new(),
        echo: false,
        path_check: None,
        unknown_teid: UnknownTeid::Pass,
        flow_source_port: true,
        udp_checksum: None,
        dscp: None,
    };
    let keys = [
        "peers",
        "echo",
        "echoInterval",
        "echoTimeout",
        "echoRequests",
        "unknownTeid",
        "sourcePort",
        "udpChecksum",
        "dscp",
        "service",
    ];
    let Some(reader) = value.and_then(|it| Reader::new(it, "gtpu", &keys, problems)) else {
        return gtpu;
    };
    let peers = reader.list::<IpNet>("peers", PREFIX, problems);
    gtpu.peers = peers.iter().map(IpNet::trunc).collect();
    gtpu.echo = reader.boolean("echo", problems).unwrap_or(false);
    gtpu.path_check = path_check::read(&reader, problems);
    match reader.string("unknownTeid", problems) {
        None | Some("pass") => {}
        Some("drop") => gtpu.unknown_teid = UnknownTeid::Drop,
        Some("errorIndication") => gtpu.unknown_teid = UnknownTeid::ErrorIndication,
        Some(other) => {
            report(
                problems,
                "gtpu.unknownTeid",
                format!("is \"{other}\", should be pass, drop or errorIndication"),
            );
        }
    }
    match reader.string("sourcePort", problems) {
        None | Some("flow") => {}
        Some("fixed") => gtpu.flow_source_port = false,
        Some(other) => {
            report(problems, "gtpu.sourcePort", format!("is \"{other}\", should be fixed or flow"))
        }
    }
    match reader.string("udpChecksum", problems) {
        None => {}
        Some("zero") => gtpu.udp_checksum = Some(UdpChecksum::Zero),
        Some("full") => gtpu.udp_checksum = Some(UdpChecksum::Full),
        Some(other) => {
            report(problems, "gtpu.udpChecksum", format!("is \"{other}\", should be zero or full"))
        }
    }
    match reader.get("dscp") {
        None => {}
        Some(Value::String(text)) if text == "copy" => {}
        Some(Value::Number(_)) => {
            gtpu.dscp = reader.number("dscp", 0..=63, problems).and_then(|it| u8::try_from(it).ok());
        }
        Some(other) => {
            report(problems, "gtpu.dscp", format!("is {other}, should be \"copy\" or a number from 0 to 63"))
        }
    }
    if reader.get("service").is_some() {
        report(problems, "gtpu.service", LATER);
    }
    gtpu
}

fn read_sessions(reader: &Reader<'_>, problems: &mut Problems) -> Vec<StaticSession> {
    let Some(value) = reader.get("sessions") else {
        return Vec::new();
    };
    let Some(items) = value.as_array() else {
        report(problems, "sessions", format!("is {value}, should be a list"));
        return Vec::new();
    };
    let mut sessions: Vec<StaticSession> = Vec::with_capacity(items.len());
    let mut names = std::collections::BTreeSet::new();
    for (number, item) in items.iter().enumerate() {
        let path = format!("sessions[{number}]");
        if let Some(session) = read_session(item, &path, problems) {
            if !names.insert(session.name.clone()) {
                report(
                    problems,
                    &format!("{path}.name"),
                    format!("\"{}\" is another session's too", session.name),
                );
            }
            sessions.push(session);
        }
    }
    sessions
}

fn read_session(value: &Value, path: &str, problems: &mut Problems) -> Option<StaticSession> {
    let reader = Reader::new(value, path, &["name", "pod", "ue", "uplink", "downlink"], problems)?;
    reader.required("name", problems);
    let name = reader.string("name", problems)?.to_owned();
    let pod = network_name(&reader, "pod", problems);
    let (ue4, ue6) = read_ue(&reader, problems);
    let uplink = reader.get("uplink").and_then(|it| read_uplink(it, &reader.at("uplink"), problems));
    let downlink = reader.get("downlink").and_then(|it| read_downlink(it, &reader.at("downlink"), problems));
    if reader.get("uplink").is_none() && reader.get("downlink").is_none() {
        report(problems, path, "has neither uplink nor downlink");
    }
    let to_data = uplink.as_ref().is_some_and(|it| matches!(it.to, Target::Data(_)));
    if reader.get("ue").is_none() && (to_data || downlink.is_some()) {
        report(problems, &reader.at("ue"), "is missing: whose packets are these?");
    }
    if downlink.is_some() && uplink.is_some() && !to_data {
        report(
            problems,
            &reader.at("downlink"),
            "has no data network: the uplink is relayed; the way back is a session of its own",
        );
    }
    if downlink.is_some() && reader.get("uplink").is_none() {
        report(problems, &reader.at("uplink"), "is missing: its \"to\" says where the downlink arrives");
    }
    Some(StaticSession { name, pod, ue4, ue6, uplink, downlink })
}

/// At most one IPv4 address and one IPv6 /64: what a PDU session has (TS 23.501 §5.8.2.2).
fn read_ue(reader: &Reader<'_>, problems: &mut Problems) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let form = "an IPv4 address or an IPv6 /64";
    let (mut ue4, mut ue6) = (None, None);
    for text in reader.list::<String>("ue", form, problems) {
        let prefix = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let path = reader.at("ue");
        match prefix {
            Some(IpNet::V4(it)) if it.prefix_len() == 32 && ue4.is_none() => ue4 = Some(it.addr()),
            Some(IpNet::V6(it)) if it.prefix_len() == 64 && ue6.is_none() => ue6 = Some(it.trunc().addr()),
            Some(IpNet::V4(it)) if it.prefix_len() == 32 => {
                report(problems, &path, "more than one IPv4 address is not supported yet")
            }
            Some(IpNet::V6(it)) if it.prefix_len() == 64 => {
                report(problems, &path, "more than one IPv6 prefix is not supported yet")
            }
            Some(it) => report(
                problems,
                &path,
                format!("{it}: other prefixes than an IPv6 /64 are not supported yet"),
            ),
            None => report(problems, &path, format!("\"{text}\" should be {form}")),
        }
    }
    (ue4, ue6)
}

fn read_uplink(value: &Value, path: &str, problems: &mut Problems) -> Option<Uplink> {
    let reader = Reader::new(value, path, &["teid", "to", "relay", "qfi"], problems)?;
    let teid = teid(&reader, problems);
    let to = network_name(&reader, "to", problems);
    let relay = reader.get("relay").map(|it| read_relay(it, &reader.at("relay"), problems));
    let target = match (to, relay) {
        (Some(to), None) => Some(Target::Data(to)),
        (None, Some(relay)) => relay,
        (Some(_), Some(_)) => {
            report(problems, path, "has both to and relay");
            None
        }
        (None, None) => {
            if reader.get("to").is_none() {
                report(problems, path, "has neither to (a data network) nor relay (another peer)");
            }
            None
        }
    };
    let qfi = reader.number("qfi", 0..=63, problems).and_then(|it| u8::try_from(it).ok());
    if qfi.is_some() && matches!(target, Some(Target::Relay { .. })) {
        report(
            problems,
            &reader.at("qfi"),
            "is for uplinks to a data network: a relay hands on what it gets",
        );
    }
    Some(Uplink { teid: teid?, qfi, to: target? })
}

fn read_relay(value: &Value, path: &str, problems: &mut Problems) -> Option<Target> {
    let reader = Reader::new(value, path, &["network", "peer", "teid"], problems)?;
    reader.required("network", problems);
    reader.required("peer", problems);
    let network = network_name(&reader, "network", problems);
    let peer = reader.parsed("peer", ADDRESS, problems);
    let teid = teid(&reader, problems);
    Some(Target::Relay { network: network?, peer: peer?, teid: teid? })
}

fn read_downlink(value: &Value, path: &str, problems: &mut Problems) -> Option<Downlink> {
    let reader = Reader::new(value, path, &["peer", "teid", "qfi", "endMarker"], problems)?;
    reader.required("peer", problems);
    let peer = reader.parsed("peer", ADDRESS, problems);
    let teid = teid(&reader, problems);
    let qfi = reader.number("qfi", 0..=63, problems).and_then(|it| u8::try_from(it).ok());
    let end_marker = reader.boolean("endMarker", problems).unwrap_or(false);
    Some(Downlink { peer: peer?, teid: teid?, qfi, end_marker })
}

/// A number, or a string in decimal or with `0x`. Zero is for signalling (TS 29.281 §5.1).
fn teid(reader: &Reader<'_>, problems: &mut Problems) -> Option<u32> {
    let value = reader.required("teid", problems)?;
    let teid = match value {
        Value::Number(number) => number.as_u64().and_then(|it| u32::try_from(it).ok()),
        Value::String(text) => match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        },
        _ => None,
    };
    let teid = teid.filter(|it| *it != 0);
    if teid.is_none() {
        report(
            problems,
            &reader.at("teid"),
            format!("is {value}, should be 1 to 4294967295, or a string such as \"0x1001\""),
        );
    }
    teid
}

fn network_name(reader: &Reader<'_>, key: &str, problems: &mut Problems) -> Option<NetworkName> {
    let text = reader.string(key, problems)?;
    let name = NetworkName::try_from(text.to_owned()).ok();
    if name.is_none() {
        report(problems, &reader.at(key), format!("is \"{text}\", should be {NETWORK}"));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_documentation() {
        let fast_path = FastPath::parse(
            r#"{ "role": "access", "gtpu": { "peers": ["10.30.0.0/24"], "dscp": 46, "unknownTeid": "drop", "sourcePort": "fixed" },
                 "sessions": [
                   { "name": "gw-1", "pod": "core/upf-0", "ue": ["10.60.0.1", "2001:db8:60:1::/64"],
                     "uplink": { "teid": "0x1001", "to": "core/n6" },
                     "downlink": { "peer": "10.30.0.10", "teid": 8193, "qfi": 9 } },
                   { "name": "n9", "uplink": { "teid": 3, "relay": { "network": "core/n9", "peer": "10.90.0.7", "teid": "0x4001" } } } ] }"#,
        )
        .expect("a network");
        assert_eq!(fast_path.gtpu.dscp, Some(46));
        assert_eq!(fast_path.gtpu.unknown_teid, UnknownTeid::Drop);
        let first = &fast_path.sessions[0];
        assert_eq!(first.uplink.as_ref().map(|it| it.teid), Some(0x1001));
        assert_eq!(first.downlink.as_ref().map(|it| (it.teid, it.qfi)), Some((0x2001, Some(9))));
        assert_eq!(first.ue6, Some("2001:db8:60:1::".parse().expect("a prefix")));
        assert!(matches!(
            &fast_path.sessions[1].uplink,
            Some(Uplink { teid: 3, to: Target::Relay { teid: 0x4001, .. }, .. })
        ));
    }

    #[test]
    fn defaults() {
        let fast_path = FastPath::parse(r#"{"role":"data","uePools":["10.60.0.0/16"]}"#).expect("a network");
        assert_eq!(fast_path.xdp, Xdp::Auto);
        assert_eq!(fast_path.mtu, None);
        let gtpu = Gtpu {
            peers: vec![],
            echo: false,
            path_check: None,
            unknown_teid: UnknownTeid::Pass,
            flow_source_port: true,
            udp_checksum: None,
            dscp: None,
        };
        assert_eq!(fast_path.gtpu, gtpu);
    }

    #[track_caller]
    fn problems(annotation: &str, wanted: &[&str]) {
        let problems = FastPath::parse(annotation).expect_err(annotation);
        let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
        for part in wanted {
            assert!(shown.iter().any(|it| it.contains(part)), "{part} is not in {shown:#?}");
        }
        assert_eq!(shown.len(), wanted.len(), "{shown:#?}");
    }

    #[test]
    fn every_problem_with_its_place() {
        problems("{", &["is not JSON"]);
        problems("{}", &["role: is missing"]);
        problems(
            r#"{"role":"access","rolle":1,"xdp":"fast","gtpu":{"peers":["10.0.0.0/40",7],"dscp":64,"echo":"yes"},"uePools":["10.0.0.0/8"]}"#,
            &[
                "rolle: is not a key",
                "xdp: is \"fast\"",
                "gtpu.peers[0]: is \"10.0.0.0/40\"",
                "gtpu.peers[1]: is 7",
                "gtpu.dscp: is 64",
                "gtpu.echo: is \"yes\"",
                "uePools: is for data networks only",
            ],
        );
        problems(r#"{"role":"data"}"#, &["uePools: is missing"]);
    }

    #[test]
    fn what_comes_later_says_so() {
        problems(
            r#"{"role":"access","spread":{},"gtpu":{"service":{}}}"#,
            &["spread: is not supported yet", "gtpu.service: is not supported yet"],
        );
    }

    #[test]
    fn wrong_sessions() {
        let session = |json: &str| format!(r#"{{"role":"access","sessions":[{json}]}}"#);
        let good = r#""uplink":{"teid":1,"to":"core/n6"}"#;
        for (json, wanted) in [
            (r#"{"uplink":{}}"#.to_owned(), vec!["sessions[0].name: is missing"]),
            (format!(r#"{{"name":"a",{good}}}"#), vec!["sessions[0].ue: is missing"]),
            (r#"{"name":"a"}"#.to_owned(), vec!["has neither uplink nor downlink"]),
            (format!(r#"{{"name":"a","ue":["10.0.0.0/24"],{good}}}"#), vec!["10.0.0.0/24: other prefixes"]),
            (format!(r#"{{"name":"a","ue":["10.0.0.1","10.0.0.2"],{good}}}"#), vec!["more than one IPv4"]),
            (
                r#"{"name":"a","ue":["10.0.0.1"],"uplink":{"teid":0,"to":"core/n6"}}"#.to_owned(),
                vec!["uplink.teid: is 0"],
            ),
            (
                r#"{"name":"a","ue":["10.0.0.1"],"uplink":{"teid":1,"to":"n6"}}"#.to_owned(),
                vec!["uplink.to: is \"n6\", should be NAMESPACE/NAME"],
            ),
            (
                format!(
                    r#"{{"name":"a","ue":["10.0.0.1"],{good},"downlink":{{"peer":"10.0.0.9","teid":"0x","qfi":64}}}}"#
                ),
                vec!["downlink.teid: is \"0x\"", "downlink.qfi: is 64"],
            ),
        ] {
            problems(&session(&json), &wanted);
        }
        let twice = session(&format!(
            r#"{{"name":"a","ue":["10.0.0.1"],{good}}},{{"name":"a","ue":["10.0.0.2"],{good}}}"#
        ));
        problems(&twice, &["sessions[1].name: \"a\" is another session's too"]);
    }
}
