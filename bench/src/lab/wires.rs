//! Both wires at once: what goes over N3 and N6, and whether a UPF did with it what it must, field by
//! field as tshark reads it.

use super::capture::{Capture, Frame};
use super::tshark::{CHECKSUM_GOOD, Dissection, FIELDS, dissect};
use super::users::User;
use super::{GNB, Lab};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// A capture of N3 at the gNB and of N6 at the data-network host.
#[derive(Debug)]
pub struct Tap {
    n3: Capture,
    n6: Capture,
}

/// What was captured.
#[derive(Debug)]
pub struct Wires {
    pub n3: Vec<Seen>,
    pub n6: Vec<Seen>,
}

/// A frame, and how tshark reads it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub frame: Frame,
    pub fields: Dissection,
}

/// The pod as it is on the wires.
#[derive(Clone, Debug)]
pub struct Pod {
    pub n3: Ipv4Addr,
    pub n3_mac: String,
    pub n6: Ipv4Addr,
    pub n6_mac: String,
}

/// What is expected of the UPF.
#[derive(Debug)]
pub struct Expectation<'a> {
    pub pod: &'a Pod,
    pub users: &'a [User],
    pub gnb_mac: String,
    pub gateway_mac: String,
    /// The outer UDP checksum: [`CHECKSUM_GOOD`] or [`super::tshark::CHECKSUM_ABSENT`].
    pub outer_udp_checksum: &'static str,
}

/// What is right and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Judgement {
    /// Packets that came out on N6 as they must for what the gNB had sent.
    pub uplink: u32,
    /// Packets that came out on N3 as they must for what the data network had sent.
    pub downlink: u32,
    pub problems: Vec<String>,
}

impl Tap {
    /// Starts to capture both wires.
    ///
    /// # Errors
    /// No privilege.
    pub fn start(lab: &Lab) -> Result<Self> {
        Ok(Self { n3: Capture::start(&lab.gnb, "n3")?, n6: Capture::start(&lab.dn, "n6")? })
    }

    /// Ends it, leaves `n3-NAME.pcap` and `n6-NAME.pcap` in the lab's folder, and has them read by tshark.
    ///
    /// # Errors
    /// tshark is not installed.
    pub fn stop(self, lab: &Lab, name: &str) -> Result<Wires> {
        let read = |wire: &str, frames: Vec<Frame>| -> Result<Vec<Seen>> {
            let fields = dissect(&frames, &lab.folder().join(format!("{wire}-{name}.pcap")))?;
            Ok(frames.into_iter().zip(fields).map(|(frame, fields)| Seen { frame, fields }).collect())
        };
        Ok(Wires { n3: read("n3", self.n3.stop()?)?, n6: read("n6", self.n6.stop()?)? })
    }
}

impl Seen {
    /// Whether it is a G-PDU.
    pub fn is_gpdu(&self) -> bool {
        self.fields.first("gtp.message") == "0xff"
    }

    /// The innermost IP packet without what a router changes (TTL, header checksum): the same for a packet
    /// on both wires.
    fn identity(&self) -> Option<Vec<u8>> {
        let length: usize = self.fields.last("ip.len").parse().ok()?;
        let mut packet = self.frame.bytes.get(self.frame.bytes.len().checked_sub(length)?..)?.to_vec();
        packet.get_mut(8..9)?.fill(0);
        packet.get_mut(10..12)?.fill(0);
        Some(packet)
    }

    /// `10.30.0.10 > 10.30.0.20  TEID 0x1001 QFI 9 | 10.60.0.1 > 10.50.0.1 ICMP`, for people.
    pub fn summary(&self) -> String {
        let fields = &self.fields;
        let pair = |at: fn(&Dissection, &str) -> String| {
            format!("{} > {}", at(fields, "ip.src"), at(fields, "ip.dst"))
        };
        let inner = pair(|fields, field| fields.last(field).to_owned());
        let protocol = fields.all("frame.protocols").split(':').find(|it| ["icmp", "tcp"].contains(it));
        let inner =
            format!("{inner} {} ttl {}", protocol.unwrap_or("udp").to_uppercase(), fields.last("ip.ttl"));
        if !self.is_gpdu() {
            return inner;
        }
        let outer = pair(|fields, field| fields.first(field).to_owned());
        let teid = fields.first("gtp.teid").trim_start_matches("0x").trim_start_matches('0');
        let qfi = match fields.all("gtp.ext_hdr.pdu_ses_con.qos_flow_id") {
            "" => String::new(),
            qfi => format!(" QFI {qfi}"),
        };
        format!("{outer} TEID 0x{teid}{qfi} [{inner}]")
    }
}

impl Wires {
    /// Compares what came out with what went in.
    pub fn judge(&self, expectation: &Expectation<'_>) -> Judgement {
        let mut judgement = Judgement::default();
        let sent = |seen: &&Seen| seen.frame.outgoing;
        let is_to_user = |seen: &&Seen| {
            let to = seen.fields.all("ip.dst").parse();
            to.is_ok_and(|to: Ipv4Addr| expectation.users.iter().any(|user| user.ue == to))
        };
        let came_out_n6 = index(self.n6.iter().filter(|seen| !seen.frame.outgoing));
        for seen in self.n3.iter().filter(sent).filter(|seen| seen.is_gpdu()) {
            let expected = expectation.on_n6(&seen.fields);
            judgement.uplink += u32::from(compare(seen, &expected, &came_out_n6, &mut judgement.problems));
        }
        let came_out_n3 =
            index(self.n3.iter().filter(|seen| !seen.frame.outgoing).filter(|seen| seen.is_gpdu()));
        for seen in self.n6.iter().filter(sent).filter(is_to_user) {
            let Some(expected) = expectation.on_n3(&seen.fields) else { continue };
            judgement.downlink += u32::from(compare(seen, &expected, &came_out_n3, &mut judgement.problems));
        }
        judgement
    }
}

type Fields = BTreeMap<&'static str, String>;

fn index<'a>(frames: impl Iterator<Item = &'a Seen>) -> BTreeMap<Vec<u8>, &'a Seen> {
    frames.filter_map(|seen| Some((seen.identity()?, seen))).collect()
}

/// Whether what came out for `sent` is as expected.
fn compare(
    sent: &Seen,
    expected: &Fields,
    came_out: &BTreeMap<Vec<u8>, &Seen>,
    problems: &mut Vec<String>,
) -> bool {
    let Some(seen) = sent.identity().and_then(|identity| came_out.get(&identity)) else {
        problems.push(format!("did not come out, or not byte for byte: {}", sent.summary()));
        return false;
    };
    let wrong = FIELDS.iter().filter_map(|field| {
        let (is, should) = (seen.fields.all(field), expected.get(field)?);
        (is != should).then(|| format!("{field} is {is}, should be {should}: {}", seen.summary()))
    });
    let n_before = problems.len();
    problems.extend(wrong);
    problems.len() == n_before
}

impl Expectation<'_> {
    /// What must come out on N6 for a G-PDU of the gNB: the inner packet, one hop further.
    fn on_n6(&self, sent: &Dissection) -> Fields {
        let mut fields = inner(sent);
        fields.insert("eth.src", self.pod.n6_mac.clone());
        fields.insert("eth.dst", self.gateway_mac.clone());
        let inner_length: u32 = sent.last("ip.len").parse().unwrap_or_default();
        fields.insert("frame.len", (14 + inner_length).to_string());
        for field in FIELDS.iter().filter(|field| field.starts_with("gtp.")) {
            fields.insert(field, String::new());
        }
        fields
    }

    /// What must come out on N3 for a packet of the data network to a user: the packet, one hop further,
    /// in the user's tunnel. `None` if it is to nobody here.
    fn on_n3(&self, sent: &Dissection) -> Option<Fields> {
        let to: Ipv4Addr = sent.all("ip.dst").parse().ok()?;
        let user = self.users.iter().find(|user| user.ue == to)?;
        let length: u32 = sent.all("ip.len").parse().ok()?;
        // TS 29.281 §5.1: the length counts what follows the first eight bytes.
        let optional = if user.qfi.is_some() { 8 } else { 0 };
        let mut fields = inner(sent);
        let mut outer = |field, value: String| {
            let inner = fields.remove(field).filter(|inner| !inner.is_empty());
            fields.insert(field, inner.map_or(value.clone(), |inner| format!("{value},{inner}")));
        };
        outer("ip.version", "4".to_owned());
        outer("ip.hdr_len", "20".to_owned());
        // DSCP is copied (`gtpu.dscp`), and ECN too (RFC 6040 §4.1, normal mode).
        outer("ip.dsfield", sent.all("ip.dsfield").to_owned());
        outer("ip.len", (20 + 8 + 8 + optional + length).to_string());
        // Do not fragment.
        outer("ip.flags", "0x02".to_owned());
        outer("ip.frag_offset", "0".to_owned());
        outer("ip.ttl", "64".to_owned());
        outer("ip.proto", "17".to_owned());
        outer("ip.checksum.status", CHECKSUM_GOOD.to_owned());
        outer("ip.src", self.pod.n3.to_string());
        outer("ip.dst", GNB.to_string());
        outer("udp.dstport", "2152".to_owned());
        outer("udp.length", (8 + 8 + optional + length).to_string());
        outer("udp.checksum.status", self.outer_udp_checksum.to_owned());
        outer("gtp.flags", if user.qfi.is_some() { "0x34" } else { "0x30" }.to_owned());
        outer("gtp.message", "0xff".to_owned());
        outer("gtp.length", (optional + length).to_string());
        outer("gtp.teid", format!("0x{:08x}", user.downlink.0));
        let container = |value: String| if user.qfi.is_some() { value } else { String::new() };
        outer("gtp.ext_hdr.length", container("1".to_owned()));
        outer("gtp.ext_hdr.pdu_ses_con.pdu_type", container("0".to_owned()));
        outer("gtp.ext_hdr.pdu_ses_con.qos_flow_id", container(user.qfi.unwrap_or(0).to_string()));
        outer("gtp.ext_hdr.next", container("0x85,0x00".to_owned()));
        fields.insert("eth.src", self.pod.n3_mac.clone());
        fields.insert("eth.dst", self.gnb_mac.clone());
        fields.insert("frame.len", (14 + 20 + 8 + 8 + optional + length).to_string());
        // The outer identification and source port are the sender's to choose.
        fields.remove("ip.id");
        fields.remove("udp.srcport");
        Some(fields)
    }
}

/// The fields of the innermost packet after a router: all as they were, the TTL one less, all checksums
/// good.
fn inner(sent: &Dissection) -> Fields {
    let ip = ["version", "hdr_len", "dsfield", "len", "id", "flags", "frag_offset", "proto", "src", "dst"];
    let is_udp = sent.last("ip.proto") == "17";
    let mut fields = Fields::new();
    for field in FIELDS.iter().copied() {
        let name = field.split_once('.').map_or(field, |(_, name)| name);
        let value = match field.split_once('.').map(|(protocol, _)| protocol) {
            Some("ip") if ip.contains(&name) => sent.last(field).to_owned(),
            Some("udp") if is_udp => sent.last(field).to_owned(),
            Some("udp") => String::new(),
            Some("icmp" | "tcp") if !field.ends_with("status") => sent.all(field).to_owned(),
            _ => continue,
        };
        fields.insert(field, value);
    }
    let ttl: u32 = sent.last("ip.ttl").parse().unwrap_or_default();
    fields.insert("ip.ttl", ttl.saturating_sub(1).to_string());
    fields.insert("eth.type", "0x0800".to_owned());
    fields.insert("ip.checksum.status", CHECKSUM_GOOD.to_owned());
    for (protocol, field) in
        [("1", "icmp.checksum.status"), ("6", "tcp.checksum.status"), ("17", "udp.checksum.status")]
    {
        let good = if sent.last("ip.proto") == protocol { CHECKSUM_GOOD } else { "" };
        fields.insert(field, good.to_owned());
    }
    fields.insert("_ws.malformed", String::new());
    fields
}

/// The MAC address of an interface.
///
/// # Errors
/// There is no such interface.
pub fn mac(namespace: &super::Namespace, interface: &str) -> Result<String> {
    let links = namespace.ip_json(&["link", "show", interface])?;
    let mac = links.first().and_then(|link| link["address"].as_str());
    Ok(mac.with_context(|| format!("MAC address of {interface}"))?.to_owned())
}
