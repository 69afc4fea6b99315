//! End Markers (TS 29.281 §7.3.2): when a session's packets go to another peer, the old one is told that no more
//! come, so that a gNB can put those that it forwards to the new one in front of them (TS 23.501 §5.8.2.9).

use super::tables::{Operation, Tables};
use netplane_common::map::{DownlinkEntry, SessionAction, next_hop_flags};
use netplane_common::wire::ethernet::Mac;
use netplane_common::wire::gtpu::{Gtpu, message};
use netplane_common::wire::ip;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What is sent, and as whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndMarker {
    /// MAC and address of the endpoint from which the tunnel's packets came.
    pub mac: Mac,
    pub local: IpAddr,
    /// The F-TEID to which no more packets go.
    pub peer: IpAddr,
    pub teid: u32,
}

impl EndMarker {
    /// What is to be sent when a downlink's entry takes the place of another: nothing, where both lead to the same
    /// F-TEID or one of them to none.
    pub fn between(
        (old, old_tables): (&DownlinkEntry, &Tables),
        (new, new_tables): (&DownlinkEntry, &Tables),
    ) -> Option<Self> {
        let (old, new) = (Self::of(old, old_tables)?, Self::of(new, new_tables)?);
        old.is_other(&new).then_some(old)
    }

    /// Whether the F-TEID is another one.
    pub fn is_other(&self, other: &Self) -> bool {
        (self.peer, self.teid) != (other.peer, other.teid)
    }

    /// For the tunnel into which a downlink's entry forwards.
    pub fn of(entry: &DownlinkEntry, tables: &Tables) -> Option<Self> {
        let next_hop = tables.next_hops.get(&entry.next_hop)?;
        if entry.action != SessionAction::Forward as u8 {
            return None;
        }
        let (local, peer) = if next_hop.has(next_hop_flags::IPV6) {
            let (local, peer) = next_hop.tunnel6();
            (ip::unmapped(local), ip::unmapped(peer))
        } else {
            let (local, peer) = next_hop.tunnel4();
            (std::net::Ipv4Addr::from(local).into(), std::net::Ipv4Addr::from(peer).into())
        };
        Some(Self { mac: next_hop.source(), local, peer, teid: entry.teid.get() })
    }

    /// The message: it has no information elements that must be there, and no sequence number.
    pub fn message(&self) -> [u8; Gtpu::LEN] {
        let [a, b, c, d] = self.teid.to_be_bytes();
        [Gtpu::VERSION_1, message::END_MARKER, 0, 0, a, b, c, d]
    }
}

/// Those of operations, by the operation that must not have failed. A session's packets of both families go into one
/// tunnel, and there is one for both. `asked` are the counters of the downlinks that ask for it.
pub fn of_operations(
    current: &Tables,
    wanted: &Tables,
    operations: &[Operation],
    asked: &BTreeSet<u32>,
) -> BTreeMap<EndMarker, usize> {
    let mut markers = BTreeMap::new();
    for (index, operation) in operations.iter().enumerate() {
        let (old, new) = match operation {
            Operation::SetDownlink4 { key, entry, .. } => (current.downlink4.get(key), entry),
            Operation::SetDownlink6 { key, entry, .. } => (current.downlink6.get(key), entry),
            _ => continue,
        };
        let Some(old) = old.filter(|_| asked.contains(&new.counter)) else { continue };
        if let Some(marker) = EndMarker::between((old, current), (new, wanted)) {
            markers.insert(marker, index);
        }
    }
    markers
}

#[cfg(test)]
mod tests {
    use super::*;
    use netplane_common::map::{DownlinkKey4, NextHop, Port};
    use netplane_common::wire::Be32;
    use std::net::Ipv4Addr;
    use zerocopy::FromZeros;

    const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 50);

    fn tables(peers: &[(u32, Ipv4Addr)]) -> Tables {
        let tunnel =
            |peer: Ipv4Addr| NextHop { way: NextHop::way4(LOCAL.into(), peer.into()), ..NextHop::default() };
        let next_hops = peers.iter().map(|(index, peer)| (*index, tunnel(*peer))).collect();
        Tables { next_hops, ..Tables::default() }
    }

    #[test]
    fn only_who_asks_and_goes_elsewhere_has_one() {
        let key = DownlinkKey4 { port: Port::new(3, 0), ue: Be32::new(7) };
        let entry = |next_hop, teid| DownlinkEntry {
            action: SessionAction::Forward as u8,
            next_hop,
            teid: Be32::new(teid),
            counter: 5,
            ..DownlinkEntry::new_zeroed()
        };
        let (a, b) = (Ipv4Addr::new(10, 30, 0, 10), Ipv4Addr::new(10, 30, 0, 11));
        let mut current = tables(&[(0, a)]);
        current.downlink4.insert(key, entry(0, 0x2001));
        let wanted = tables(&[(0, a), (1, b)]);
        let markers = |entry, asked: &[u32]| {
            let operation = Operation::SetDownlink4 { key, entry, new_counter: false };
            let asked = asked.iter().copied().collect();
            of_operations(&current, &wanted, &[operation], &asked).into_keys().collect::<Vec<_>>()
        };
        let old = EndMarker { mac: Mac::default(), local: LOCAL.into(), peer: a.into(), teid: 0x2001 };
        assert_eq!(markers(entry(1, 0x2001), &[5]), [old], "another peer");
        assert_eq!(markers(entry(0, 0x2002), &[5]), [old], "another tunnel of the same");
        assert_eq!(markers(entry(1, 0x2001), &[4]), [], "not asked for");
        assert_eq!(markers(entry(0, 0x2001), &[5]), [], "the same");
        let dropped = DownlinkEntry { action: SessionAction::Drop as u8, ..entry(1, 0x2001) };
        assert_eq!(markers(dropped, &[5]), [], "no path");
        assert_eq!(old.message(), [0x30, 254, 0, 0, 0, 0, 0x20, 0x01]);
    }
}
