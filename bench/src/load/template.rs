//! A scenario's frames as the generator's program writes them: a head for each length, and where the fields
//! are that change.

use super::scenario::{Mac, Scenario, Tunnel, User};
use anyhow::{Context, Result, ensure};
use netplane_common::testing::packet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use std::net::IpAddr;

/// `HEAD` of `netplane-ebpf/src/bench/load.rs`.
pub(super) const HEAD: usize = 160;

/// `MARKER` of `netplane-ebpf/src/bench/sink.rs`, and behind it the time.
pub(super) const MARKER: [u8; 4] = 0x6e70_6c64_u32.to_be_bytes();
const MARKED: usize = MARKER.len() + 8;

const ETHERNET: usize = 14;
const UDP: usize = 8;

const fn ip_header(is_v4: bool) -> usize {
    if is_v4 { 20 } else { 40 }
}

/// Bytes of the shortest user packet: headers, marker and time.
pub const fn least_size(is_v4: bool) -> u16 {
    (ip_header(is_v4) + UDP + MARKED) as u16
}

/// `Template` of `netplane-ebpf/src/bench/load.rs`, as words.
pub(super) const TEMPLATE_WORDS: usize = HEAD / 4 + 4 + 6;
pub(super) type Words = [u32; TEMPLATE_WORDS];

/// Frames of one length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The first session's frame of the first flow.
    pub frame: Vec<u8>,
    teid: u16,
    user: u16,
    flow: u16,
    ip_checksum: u16,
    udp_checksum: u16,
    time: u16,
    first_teid: u32,
    first_user: u32,
    first_flow: u32,
    ip_sum: u32,
    udp_sum: u32,
}

/// All frames of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates {
    pub templates: Vec<Template>,
    /// Indices of templates in the order of sending.
    pub pattern: Vec<u32>,
}

/// What a device under test makes of a scenario's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// As they were sent, but for MAC addresses and TTL.
    AsSent,
    /// Without the tunnel.
    Decapsulated,
    /// In a tunnel with these outer headers: IPv4 or IPv6, with or without a PDU Session Container.
    Encapsulated { is_v4: bool, with_container: bool },
}

impl Scenario {
    fn is_v4(&self) -> bool {
        self.user.source.is_ipv4()
    }

    /// Where the user's packet is in a frame that arrives so.
    fn inner_at(&self, arrival: Arrival) -> usize {
        let tunnel = |is_v4, with_container| ip_header(is_v4) + UDP + if with_container { 16 } else { 8 };
        match (arrival, &self.gtpu) {
            (Arrival::AsSent, Some(it)) => ETHERNET + tunnel(it.source.is_ipv4(), it.qfi.is_some()),
            (Arrival::AsSent, None) | (Arrival::Decapsulated, _) => ETHERNET,
            (Arrival::Encapsulated { is_v4, with_container }, _) => ETHERNET + tunnel(is_v4, with_container),
        }
    }

    /// Where the marker is in a frame that arrives so.
    pub(super) fn marker_at(&self, arrival: Arrival) -> u16 {
        (self.inner_at(arrival) + ip_header(self.is_v4()) + UDP) as u16
    }

    /// Where the part of the user's address is that counts up.
    pub(super) fn user_at(&self, arrival: Arrival) -> u16 {
        let is_source = self.user.is == User::Source;
        // Of an IPv6 address the second word: a user has a prefix of 64 bits (TS 23.501 §5.8.2.2).
        let in_header = match (self.is_v4(), is_source) {
            (true, true) => 12,
            (true, false) => 16,
            (false, true) => 8 + 4,
            (false, false) => 24 + 4,
        };
        (self.inner_at(arrival) + in_header) as u16
    }

    /// The part of the first user's address that counts up.
    pub(super) fn first_user(&self) -> u32 {
        let user = if self.user.is == User::Source { self.user.source } else { self.user.destination };
        match user {
            IpAddr::V4(it) => it.to_bits(),
            IpAddr::V6(it) => (it.to_bits() >> 64) as u32,
        }
    }

    /// Bytes of the frame that arrives for a user packet of this length.
    pub fn frame_length(&self, size: u16, arrival: Arrival) -> usize {
        self.inner_at(arrival) + usize::from(size)
    }
}

impl Templates {
    /// For frames from one MAC address to another.
    ///
    /// # Errors
    /// The sessions' addresses would overflow.
    pub fn new(scenario: &Scenario, source: Mac, destination: Mac) -> Result<Self> {
        let last = scenario.first_user().checked_add(scenario.sessions - 1);
        last.with_context(|| format!("{} sessions: their addresses overflow", scenario.sessions))?;
        let mix = scenario.sizes.mix();
        let templates = mix.iter().map(|it| template(scenario, it.bytes, source, destination));
        let templates = templates.collect::<Result<_>>()?;
        let weights: Vec<_> = mix.iter().map(|it| it.weight).collect();
        Ok(Self { templates, pattern: interleave(&weights) })
    }

    /// Bytes of the longest frame.
    pub fn longest(&self) -> usize {
        self.templates.iter().map(|it| it.frame.len()).max().unwrap_or_default()
    }
}

impl Template {
    /// A frame in which nothing changes.
    pub(crate) fn fixed(frame: Vec<u8>) -> Self {
        let [teid, user, flow, ip_checksum, udp_checksum, time] = [0; 6];
        let [first_teid, first_user, first_flow, ip_sum, udp_sum] = [0; 5];
        Self {
            frame,
            teid,
            user,
            flow,
            ip_checksum,
            udp_checksum,
            time,
            first_teid,
            first_user,
            first_flow,
            ip_sum,
            udp_sum,
        }
    }
}

/// Indices as often as their weights say, each spread evenly over the whole.
fn interleave(weights: &[u16]) -> Vec<u32> {
    let total: u32 = weights.iter().map(|it| u32::from(*it)).sum();
    let mut sent = vec![0_u32; weights.len()];
    let next = |step: u32| {
        // The one that is furthest behind its share.
        let behind = |index: usize| {
            i64::from(weights[index]) * i64::from(step + 1) - i64::from(sent[index]) * i64::from(total)
        };
        let index =
            (0..weights.len()).max_by_key(|index| (behind(*index), std::cmp::Reverse(*index))).unwrap_or(0);
        sent[index] += 1;
        index as u32
    };
    (0..total).map(next).collect()
}

fn template(scenario: &Scenario, size: u16, source: Mac, destination: Mac) -> Result<Template> {
    let user = &scenario.user;
    let is_v4 = scenario.is_v4();
    let mut payload = MARKER.to_vec();
    payload.resize(usize::from(size) - ip_header(is_v4) - UDP, 0);
    let datagram = packet::udp(user.source_port, user.destination_port, &payload);
    let inner = ip(user.source, user.destination, 0, datagram);
    let (packet, ether_type) = match &scenario.gtpu {
        None => (inner, if is_v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }),
        Some(tunnel) => outer(tunnel, &inner),
    };
    let mut frame = packet::ethernet(destination.0, source.0, ether_type, &packet);
    let at = scenario.inner_at(Arrival::AsSent);
    let udp_at = at + ip_header(is_v4);
    let user_at = scenario.user_at(Arrival::AsSent);
    let mut template = Template {
        teid: scenario.gtpu.map_or(0, |it| (ETHERNET + ip_header(it.source.is_ipv4()) + UDP + 4) as u16),
        user: user_at,
        flow: udp_at as u16,
        ip_checksum: if is_v4 { (at + 10) as u16 } else { 0 },
        // IPv4 may go without (RFC 768), IPv6 may not (RFC 8200 §8.1).
        udp_checksum: if is_v4 { 0 } else { (udp_at + 6) as u16 },
        time: scenario.marker_at(Arrival::AsSent) + MARKER.len() as u16,
        first_teid: scenario.gtpu.map_or(0, |it| it.teid.0),
        first_user: scenario.first_user(),
        first_flow: u32::from(user.source_port),
        ip_sum: 0,
        udp_sum: 0,
        frame: Vec::new(),
    };
    let without = |bytes: &[u8], offset: usize, zero: &[(u16, usize)]| {
        let mut bytes = bytes.to_vec();
        for (start, length) in zero {
            let start = usize::from(*start) - offset;
            bytes[start..start + length].fill(0);
        }
        sum(&bytes)
    };
    if is_v4 {
        let zero = [(template.ip_checksum, 2), (template.user, 4)];
        template.ip_sum = without(&frame[at..udp_at], at, &zero);
    } else {
        let zero = [(template.user, 4), (template.flow, 2), (template.udp_checksum, 2)];
        // RFC 8200 §8.1: addresses, length and next header are covered too.
        let pseudo = u32::from(size) - 40 + 17;
        template.udp_sum = without(&frame[at + 8..], at + 8, &zero) + pseudo;
        let user_sum = (template.first_user >> 16) + (template.first_user & 0xffff);
        let whole = fold(template.udp_sum + user_sum + template.first_flow);
        let at = usize::from(template.udp_checksum);
        frame[at..at + 2].copy_from_slice(&(!whole).to_be_bytes());
    }
    ensure!(frame.len() <= 2047, "frames of {} bytes: no more than 2047 can be sent", frame.len());
    template.frame = frame;
    Ok(template)
}

fn ip(source: IpAddr, destination: IpAddr, tos: u8, payload: Vec<u8>) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet::Ipv4 { tos, ..packet::Ipv4::new(source, destination, payload) }.bytes()
        }
        (source, destination) => {
            let v6 = |it: IpAddr| match it {
                IpAddr::V4(it) => it.to_ipv6_mapped(),
                IpAddr::V6(it) => it,
            };
            let packet = packet::Ipv6::new(v6(source), v6(destination), payload);
            packet::Ipv6 { traffic_class: tos, ..packet }.bytes()
        }
    }
}

fn outer(tunnel: &Tunnel, inner: &[u8]) -> (Vec<u8>, u16) {
    let teid = tunnel.teid.0;
    let message = match tunnel.qfi {
        Some(qfi) => packet::gtpu_with_container(teid, u8::from(!tunnel.downlink), qfi, inner),
        None => packet::gtpu(0x30, 255, teid, inner),
    };
    let datagram = packet::udp(tunnel.source_port, crate::lab::endpoint::GTPU_PORT, &message);
    let packet = ip(tunnel.source, tunnel.destination, tunnel.dscp << 2, datagram);
    (packet, if tunnel.source.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 })
}

fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    u32::from(fold(bytes.chunks(2).map(word).sum()))
}

fn fold(sum: u32) -> u16 {
    let folded = (sum >> 16) + (sum & 0xffff);
    ((folded >> 16) + (folded & 0xffff)) as u16
}

impl Template {
    /// As the program's map has it.
    pub(super) fn words(&self) -> Words {
        let mut bytes = self.frame.clone();
        bytes.resize(HEAD, 0);
        let length = self.frame.len() as u16;
        let offsets =
            [length, self.teid, self.user, self.flow, self.ip_checksum, self.udp_checksum, self.time, 0];
        bytes.extend(offsets.iter().flat_map(|it| it.to_ne_bytes()));
        let numbers = [self.first_teid, self.first_user, self.first_flow, self.ip_sum, self.udp_sum, 0];
        bytes.extend(numbers.iter().flat_map(|it| it.to_ne_bytes()));
        let mut words = [0; TEMPLATE_WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_spread_evenly() {
        assert_eq!(interleave(&[1]), [0]);
        assert_eq!(interleave(&[2, 1]), [0, 1, 0]);
        let imix = interleave(&[7, 4, 1]);
        let count = |index| imix.iter().filter(|it| **it == index).count();
        assert_eq!([count(0), count(1), count(2)], [7, 4, 1]);
        assert!(imix.windows(3).all(|it| it != [0, 0, 0]), "{imix:?}");
    }
}
