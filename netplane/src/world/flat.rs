//! Rules that fit one entry a direction: what static sessions of NADs and sessions of the API both become.

use crate::nad::NetworkName;
use crate::nad::fast_path::{StaticSession, Target};
use ipnet::IpNet;
use netplane_common::map::{Filter, FramedUser, Rate};
use netplane_common::wire::{Be32, ip};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A session whose rules fit one entry a direction: at most one PDR for packets from the access side and one
/// for those from the core, without filters. This is what static sessions of NADs are. A direction that needs more
/// has rules, and its entry is what packets get that filters do not look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Flat {
    pub(super) ue4: Option<Ipv4Addr>,
    /// A /64.
    pub(super) ue6: Option<Ipv6Addr>,
    /// Prefixes behind the user, of families of which it has an address; none overlaps another.
    pub(super) framed: Vec<IpNet>,
    pub(super) uplink: Option<FlatUplink>,
    pub(super) downlink: Option<FlatDownlink>,
    /// In the order of precedence.
    pub(super) uplink_rules: Vec<FlatRule>,
    pub(super) downlink_rules: Vec<FlatRule>,
}

/// What is done with packets for which a filter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlatRule {
    /// Identifier of its PDR.
    pub(super) pdr: u32,
    pub(super) filter: Filter,
    /// Identifiers of QERs, and their maximum bit rates in this direction.
    pub(super) qers: Vec<(u32, Rate)>,
    /// Identifiers of URRs, and whether they have limits of volume or time.
    pub(super) urrs: Vec<(u32, bool)>,
    /// A session of one direction without rules.
    pub(super) flat: Flat,
}

/// Where a tunnel ends: network, TEID, and the one address if it is not all of the pod's.
pub(super) type TunnelEnd<'f> = (&'f NetworkName, u32, Option<IpAddr>);

/// Packets that arrive in a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlatUplink {
    /// Where the tunnel ends.
    pub(super) network: NetworkName,
    pub(super) teid: u32,
    /// The one address of the pod at which it ends; absent: all.
    pub(super) local: Option<IpAddr>,
    /// The QFI that G-PDUs must carry; absent: any or none.
    pub(super) qfi: Option<u8>,
    /// Absent: dropped.
    pub(super) to: Option<Target>,
}

impl FlatUplink {
    /// The peer to which it is relayed.
    pub(super) fn relay_peer(&self) -> Option<IpAddr> {
        match &self.to {
            Some(Target::Relay { peer, .. }) => Some(*peer),
            _ => None,
        }
    }
}

/// Packets to the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlatDownlink {
    /// Where they arrive.
    pub(super) network: NetworkName,
    /// Absent: dropped, or buffered.
    pub(super) tunnel: Option<FlatTunnel>,
    /// Packets are kept by the agent. With a tunnel, that is where they go when it releases them.
    pub(super) buffers: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlatTunnel {
    pub(super) network: NetworkName,
    pub(super) peer: IpAddr,
    pub(super) teid: u32,
    pub(super) qfi: Option<u8>,
    /// The peer that it led to before is told.
    pub(super) end_marker: bool,
}

impl Flat {
    /// A static session of an access network's NAD.
    pub(super) fn of_nad(session: &StaticSession, access: &NetworkName) -> Self {
        let data = session.uplink.as_ref().and_then(|it| match &it.to {
            Target::Data(network) => Some(network.clone()),
            Target::Relay { .. } => None,
        });
        let tunnel = session.downlink.as_ref().map(|it| FlatTunnel {
            network: access.clone(),
            peer: it.peer,
            teid: it.teid,
            qfi: it.qfi,
            end_marker: it.end_marker,
        });
        Self {
            ue4: session.ue4,
            ue6: session.ue6,
            framed: Vec::new(),
            uplink: session.uplink.as_ref().map(|it| FlatUplink {
                network: access.clone(),
                teid: it.teid,
                local: None,
                qfi: it.qfi,
                to: Some(it.to.clone()),
            }),
            downlink: data.zip(tunnel).map(|(network, tunnel)| FlatDownlink {
                network,
                tunnel: Some(tunnel),
                buffers: false,
            }),
            uplink_rules: Vec::new(),
            downlink_rules: Vec::new(),
        }
    }

    /// Rules with whether they are the downlink's.
    pub(super) fn rules(&self) -> impl Iterator<Item = (bool, &FlatRule)> {
        let uplink = self.uplink_rules.iter().map(|it| (false, it));
        uplink.chain(self.downlink_rules.iter().map(|it| (true, it)))
    }

    /// Where a session of one direction has its packets from.
    pub(super) fn place(&self) -> (Option<TunnelEnd<'_>>, Option<&NetworkName>) {
        let uplink = self.uplink.as_ref().map(|it| (&it.network, it.teid, it.local));
        (uplink, self.downlink.as_ref().map(|it| &it.network))
    }

    /// All that becomes of uplink packets.
    pub(super) fn uplink_targets(&self) -> impl Iterator<Item = &Target> {
        let of_rules = self.uplink_rules.iter().filter_map(|it| it.flat.uplink.as_ref());
        of_rules.chain(&self.uplink).filter_map(|it| it.to.as_ref())
    }

    /// The user as the entry of a prefix behind it has it.
    pub(super) fn behind(&self, prefix: &IpNet) -> FramedUser {
        let none = [Be32::new(0); 4];
        let ue = match prefix {
            IpNet::V4(_) => self.ue4.map_or(none, |it| ip::mapped(it.into())),
            IpNet::V6(_) => self.ue6.map_or(none, ip::words),
        };
        FramedUser { ue }
    }

    pub(super) fn users(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.ue4.map(IpAddr::V4);
        v4.into_iter().chain(self.ue6.map(IpAddr::V6))
    }
}
