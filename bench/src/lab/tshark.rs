//! Independent eyes: Wireshark's dissectors read what was captured.

use super::capture::{Frame, write_pcap};
use super::command::TSHARK;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::Path;

/// The fields that are asked for: together every bit of the headers from Ethernet to the users' UDP, and
/// Wireshark's verdict on each checksum.
pub const FIELDS: &[&str] = &[
    "frame.len",
    "frame.protocols",
    "eth.src",
    "eth.dst",
    "eth.type",
    "ip.version",
    "ip.hdr_len",
    "ip.dsfield",
    "ip.len",
    "ip.id",
    "ip.flags",
    "ip.frag_offset",
    "ip.ttl",
    "ip.proto",
    "ip.checksum.status",
    "ip.src",
    "ip.dst",
    "udp.srcport",
    "udp.dstport",
    "udp.length",
    "udp.checksum.status",
    "gtp.flags",
    "gtp.message",
    "gtp.length",
    "gtp.teid",
    "gtp.ext_hdr",
    "gtp.ext_hdr.length",
    "gtp.ext_hdr.pdu_ses_con.pdu_type",
    "gtp.ext_hdr.pdu_ses_con.qos_flow_id",
    "gtp.ext_hdr.next",
    "icmp.type",
    "icmp.seq",
    "icmp.checksum.status",
    "icmpv6.type",
    "icmpv6.checksum.status",
    "tcp.checksum",
    "tcp.checksum_calculated",
    "tcp.checksum.status",
    "_ws.malformed",
];

/// Values of `*.checksum.status`.
pub const CHECKSUM_GOOD: &str = "1";
/// A UDP checksum of zero.
pub const CHECKSUM_ABSENT: &str = "3";

/// Fields of one frame as tshark prints them: from the outermost header inwards, separated by commas;
/// fields that the frame does not have are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dissection(BTreeMap<&'static str, String>);

impl Dissection {
    /// All values of a field; empty for none.
    pub fn all(&self, field: &str) -> &str {
        self.0.get(field).map_or("", String::as_str)
    }

    /// The value in the outermost header that has the field.
    pub fn first(&self, field: &str) -> &str {
        self.all(field).split(',').next().unwrap_or_default()
    }

    /// The value in the innermost header that has the field.
    pub fn last(&self, field: &str) -> &str {
        self.all(field).rsplit(',').next().unwrap_or_default()
    }
}

/// Writes the frames to `pcap`, and lets tshark read them with all checksums checked.
///
/// # Errors
/// tshark is not installed or fails.
pub fn dissect(frames: &[Frame], pcap: &Path) -> Result<Vec<Dissection>> {
    write_pcap(pcap, frames)?;
    let mut command = TSHARK.command();
    command.arg("-r").arg(pcap).args(["-n", "-T", "fields"]);
    // What a users' SYN says of window scaling or the like is not our business: one frame, one line.
    command.args(["-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=,"]);
    for protocol in ["ip", "udp", "tcp"] {
        command.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
    }
    // ICMP and ICMPv6 are always checked.
    // What users say to each other is not our business, and a lab's payloads are not what their ports promise.
    command.args(["--disable-protocol", "dns"]);
    // IP packets inside GTP-U are dissected as what they are.
    command.args(["-o", "gtp.dissect_tpdu_as:TPDU Heuristic"]);
    command.args(FIELDS.iter().flat_map(|field| ["-e", field]));
    let text = TSHARK.output(&mut command, "")?;
    let dissections: Vec<_> = text.lines().map(parse).collect();
    ensure!(
        dissections.len() == frames.len(),
        "tshark printed {} lines for the {} frames of {}",
        dissections.len(),
        frames.len(),
        pcap.display()
    );
    Ok(dissections)
}

fn parse(line: &str) -> Dissection {
    let fields = FIELDS.iter().copied().zip(line.split('\t'));
    Dissection(fields.filter(|(_, value)| !value.is_empty()).map(|(k, v)| (k, v.to_owned())).collect())
}

/// Version line of the installed tshark, for reports.
///
/// # Errors
/// It is not installed.
pub fn version() -> Result<String> {
    let text = TSHARK.run(["--version"])?;
    text.lines().next().map(str::to_owned).context("tshark --version printed nothing")
}
