//! `netplane trace`: which entry a packet meets and what becomes of it. A packet is made up, and the decision that
//! runs in the kernel runs here on the tables that are in the kernel.

mod packet;
mod shown;

use crate::world::tables::Tables;
use crate::world::{Compiled, Lookup, SessionView};
use netplane_common::decide::decide;
use netplane_common::frame::SliceFrame;
use netplane_common::map::{
    DownlinkEntry, EndpointEntry, NO_INDEX, Port, SessionAction, UplinkEntry, uplink_flags,
};
use netplane_common::wire::ethernet::Mac;
use netplane_common::wire::{Be32, ip};
use packet::{GPdu, downlink, uplink};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where packets come from and go to that nobody has asked about: for documentation (RFC 5737, RFC 3849).
const ELSEWHERE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ELSEWHERE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Packets that are told at most: a TEID may be in use on every network.
const MOST: usize = 16;

/// What is asked: a TEID, a user, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// An uplink G-PDU of this tunnel, and what its session sends down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teid: Option<u32>,
    /// The user's address; with a TEID in place of the session's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ue: Option<IpAddr>,
    /// The user's correspondent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<IpAddr>,
}

/// One packet and its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traced {
    /// What was made up, and where it arrives.
    pub packet: String,
    /// `namespace/name` of the network whose counters count it.
    pub network: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What the tables have for it.
    pub entry: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<String>,
    /// `forwarded`, or the reason's name.
    pub verdict: String,
    /// What that means, and what leaves where.
    pub outcome: String,
}

/// What becomes of the packets that the query is about.
///
/// # Errors
/// Nothing in the tables has to do with it; the text says so.
pub(super) fn trace(compiled: &Compiled, tables: &Tables, query: &Query) -> Result<Vec<Traced>, String> {
    let tracer = Tracer { compiled, tables, query };
    let mut traced = Vec::new();
    let mut counters = Vec::new();
    if let Some(teid) = query.teid {
        for (port, local, entry) in tracer.uplinks(teid) {
            let session = compiled.sessions.iter().find(|it| it.uplink == Some(entry.counter));
            counters.extend(session.and_then(|it| it.downlink));
            traced.push(tracer.uplink(port, local, entry, session, teid));
        }
        if traced.is_empty() {
            let endpoints = tables.endpoints.iter();
            traced.extend(endpoints.map(|(key, entry)| tracer.unknown(key.port, key.address, entry, teid)));
        }
    }
    for (port, entry, ue) in tracer.downlinks() {
        let of_teid = query.teid.is_none() || counters.contains(&entry.counter);
        let of_ue = query.ue.is_none_or(|it| it == ue || query.teid.is_some());
        if of_teid && of_ue {
            traced.push(tracer.downlink(port, entry, ue));
        }
        if traced.len() >= MOST {
            break;
        }
    }
    if traced.is_empty() {
        return Err(match query.ue {
            Some(ue) if query.teid.is_none() => format!("no session on this node has the user address {ue}"),
            _ => "no pod on this node is on an access network".to_owned(),
        });
    }
    traced.truncate(MOST);
    Ok(traced)
}

struct Tracer<'a> {
    compiled: &'a Compiled,
    /// Those in the kernel.
    tables: &'a Tables,
    query: &'a Query,
}

impl Tracer<'_> {
    /// The uplink entries of a TEID, with the port and the local address.
    fn uplinks(&self, teid: u32) -> Vec<(Port, IpAddr, &UplinkEntry)> {
        let of4 = self.tables.uplink.iter().filter(|(key, _)| key.teid.get() == teid);
        let of4 = of4.map(|(key, entry)| (key.port, IpAddr::from(Ipv4Addr::from(key.local)), entry));
        let of6 = self.tables.uplink6.iter().filter(|(key, _)| key.teid.get() == teid);
        of4.chain(of6.map(|(key, entry)| (key.port, ip::unmapped(key.local), entry))).collect()
    }

    /// The downlink entries, with an address of the user.
    fn downlinks(&self) -> impl Iterator<Item = (Port, &DownlinkEntry, IpAddr)> {
        let of4 = self.tables.downlink4.iter();
        let of4 = of4.map(|(key, entry)| (key.port, entry, IpAddr::from(Ipv4Addr::from(key.ue))));
        let asked = self.query.ue;
        let of6 = self.tables.downlink6.iter().map(move |(key, entry)| {
            let first = host6(key.ue);
            // Any address of the prefix is the user's.
            let own = asked
                .filter(|it| matches!(it, IpAddr::V6(it) if it.segments()[..4] == first.segments()[..4]));
            (key.port, entry, own.unwrap_or(IpAddr::V6(first)))
        });
        of4.chain(of6)
    }

    fn uplink(
        &self,
        port: Port,
        local: IpAddr,
        entry: &UplinkEntry,
        session: Option<&SessionView>,
        teid: u32,
    ) -> Traced {
        // With its TEID, for people.
        let peer = session.and_then(|it| it.peer.as_ref()?.split(' ').next()?.parse().ok());
        let peer = peer.filter(|it: &IpAddr| it.is_ipv4() == local.is_ipv4());
        let peer = peer.unwrap_or_else(|| allowed(entry.peer, local.is_ipv4()));
        let own = if entry.ue4.get() != 0 {
            IpAddr::from(Ipv4Addr::from(entry.ue4))
        } else if entry.ue6.iter().any(|it| it.get() != 0) {
            IpAddr::V6(host6(entry.ue6))
        } else {
            IpAddr::V4(ELSEWHERE4)
        };
        let qfi = (entry.flags & uplink_flags::CHECK_QFI != 0).then_some(entry.qfi);
        let ue = self.query.ue.unwrap_or(own);
        let g_pdu = GPdu { to: entry.mac, peer, local, teid, qfi, inner: (ue, self.elsewhere(ue)) };
        let next_hop = if ue.is_ipv6() && entry.action == SessionAction::Forward as u8 {
            entry.next_hop6
        } else {
            entry.next_hop4
        };
        let tunnel = format!("TEID {teid:#x} at {local} on {}", self.master(port.ifindex));
        let entry_shown = shown::uplink(&tunnel, entry);
        self.traced(
            &g_pdu.to_string(),
            uplink(&g_pdu, port),
            port,
            (entry.network, session, entry_shown),
            next_hop,
        )
    }

    /// A G-PDU for an endpoint that has no session for it.
    fn unknown(&self, port: Port, address: [Be32; 4], entry: &EndpointEntry, teid: u32) -> Traced {
        let local = ip::unmapped(address);
        let peer = allowed(entry.peer, local.is_ipv4());
        let ue = self.query.ue.unwrap_or(IpAddr::V4(ELSEWHERE4));
        let inner = (ue, self.elsewhere(ue));
        let g_pdu = GPdu { to: entry.mac, peer, local, teid, qfi: None, inner };
        let shown = format!("none for TEID {teid:#x} at {local} on {}", self.master(port.ifindex));
        self.traced(&g_pdu.to_string(), uplink(&g_pdu, port), port, (entry.network, None, shown), NO_INDEX)
    }

    fn downlink(&self, port: Port, entry: &DownlinkEntry, ue: IpAddr) -> Traced {
        let session = self.compiled.sessions.iter().find(|it| it.downlink == Some(entry.counter));
        let from = self.elsewhere(ue);
        let shown = shown::downlink(&format!("user {ue} on {}", self.master(port.ifindex)), entry);
        let made = format!("{from} > {ue} UDP to {}", entry.mac);
        let frame = downlink(entry.mac, from, ue, port);
        self.traced(&made, frame, port, (entry.network, session, shown), entry.next_hop)
    }

    fn traced(
        &self,
        made: &str,
        frame: Vec<u8>,
        port: Port,
        (network, session, entry): (u16, Option<&SessionView>, String),
        next_hop: u32,
    ) -> Traced {
        let mut frame = SliceFrame::new(&frame);
        let verdict = decide(&mut frame, &Lookup(self.tables), port.ifindex);
        let name = |ifindex: u32| self.master(ifindex);
        let out =
            |port: u32| self.tables.ports.get(&port).map_or_else(|| format!("port {port}"), |it| name(*it));
        let (verdict, outcome) = shown::verdict(verdict, &name(port.ifindex), out, frame.bytes());
        let next_hop = (next_hop != NO_INDEX).then(|| {
            let found = self.tables.next_hops.get(&next_hop);
            found.map_or_else(
                || "none: the pod has no route".to_owned(),
                |it| shown::next_hop(it, name(it.ifindex)),
            )
        });
        Traced {
            packet: format!("{made} into {}", name(port.ifindex)),
            network: self.tables.networks.get(&network).cloned().unwrap_or_default(),
            session: session.map(|it| it.name.clone()),
            entry,
            next_hop,
            verdict,
            outcome,
        }
    }

    fn elsewhere(&self, ue: IpAddr) -> IpAddr {
        let default = if ue.is_ipv4() { IpAddr::V4(ELSEWHERE4) } else { IpAddr::V6(ELSEWHERE6) };
        self.query.to.filter(|it| it.is_ipv4() == ue.is_ipv4()).unwrap_or(default)
    }

    fn master(&self, ifindex: u32) -> String {
        let found = self.tables.masters.get(&ifindex);
        found.map_or_else(|| format!("interface {ifindex}"), |it| it.name.clone())
    }
}

/// A peer that the network lets in: the first host of the prefix.
fn allowed(prefix: [Be32; 2], v4: bool) -> IpAddr {
    if v4 {
        let bits = prefix[0].get();
        return if bits == 0 { ELSEWHERE4.into() } else { Ipv4Addr::from_bits(bits | 1).into() };
    }
    let first = host6(prefix);
    if prefix.iter().all(|it| it.get() == 0) { ELSEWHERE6.into() } else { first.into() }
}

/// The first host of a /64.
fn host6([a, b]: [Be32; 2]) -> Ipv6Addr {
    let bits = u128::from(a.get()) << 96 | u128::from(b.get()) << 64;
    Ipv6Addr::from_bits(bits | 1)
}

/// A MAC that sends what is made up.
const SENDER: Mac = Mac::new([0x02, 0, 0, 0, 0, 0x01]);
