//! The compiled tables: everything the kernel is to hold, and the operations that change it.

use ipnet::IpNet;
use netplane_common::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, EndpointEntry, EndpointKey, FramedUser, MeterKey, NextHop,
    PodKey, Port, Router, Rule, RuleKey, UplinkEntry, UplinkKey, UplinkKey6, UsageKey, UsageLimits,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// How XDP is to be attached to a master (`xdp` in the NAD's metadata). Two networks on one master
/// must agree; `compile` reports a problem if they do not.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native where the driver has it, else tc.
    #[default]
    Auto,
    Native,
    Generic,
    Tc,
    Off,
}

/// An allowed peer prefix of a network with more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerPrefix {
    /// Index of the network.
    pub network: u16,
    pub prefix: IpNet,
}

/// A route of a data endpoint: destination prefix under the endpoint's scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutePrefix {
    pub scope: u32,
    pub prefix: IpNet,
}

/// A prefix behind a user, and the port on which its packets arrive (framed routes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FramedPrefix {
    pub port: Port,
    pub prefix: IpNet,
}

impl FramedPrefix {
    /// Whether this address is in the prefix.
    pub fn has(&self, port: Port, address: IpAddr) -> bool {
        self.port == port && self.prefix.contains(&address)
    }

    /// Whether an address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (&self.prefix, &other.prefix);
        self.port == other.port && (a.contains(b) || b.contains(a))
    }
}

/// All tables of one node. Indices (networks, next hops, ports, counters) are assigned by `Slots` and
/// stay the same for the same thing from one compilation to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    /// Masters to attach to: name by interface index.
    pub masters: BTreeMap<u32, Master>,
    /// Device map: index → interface index of a master to redirect to.
    pub ports: BTreeMap<u32, u32>,
    /// Index → `namespace/name`.
    pub networks: BTreeMap<u16, String>,
    pub next_hops: BTreeMap<u32, NextHop>,
    pub uplink: BTreeMap<UplinkKey, UplinkEntry>,
    pub uplink6: BTreeMap<UplinkKey6, UplinkEntry>,
    pub downlink4: BTreeMap<DownlinkKey4, DownlinkEntry>,
    pub downlink6: BTreeMap<DownlinkKey6, DownlinkEntry>,
    pub framed: BTreeMap<FramedPrefix, FramedUser>,
    pub endpoints: BTreeMap<EndpointKey, EndpointEntry>,
    /// Value: next hop's index, or `NO_INDEX` for an on-link subnet.
    pub routes: BTreeMap<RoutePrefix, u32>,
    pub peers: BTreeSet<PeerPrefix>,
    /// Pods that masters deliver to by themselves.
    pub pods: BTreeSet<PodKey>,
    /// Data endpoints by scope, as they speak to users and their correspondents.
    pub routers: BTreeMap<u32, Router>,
    /// Of sessions of the API, as their entries: here while they are looked at, or have no session any more.
    pub rules: BTreeMap<RuleKey, Rule>,
    pub meters: BTreeSet<MeterKey>,
    pub usages: BTreeSet<UsageKey>,
    /// Counters of sessions that were out of force until now: they go on. Of what is wanted only.
    pub resumed: BTreeSet<u32>,
}

/// A master that carries at least one fast-path endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Master {
    pub name: String,
    pub mode: XdpMode,
    /// Pods under it may send each other packets that never reach the driver (macvlan in bridge mode).
    pub local: bool,
    /// Any of its networks is on a VLAN.
    pub tagged: bool,
    /// XDP programs run on a bond's ports, and their frames do not say which bond they are for.
    pub bond: bool,
}

/// One change to the kernel's tables. `diff` orders them so that no half state forwards wrongly:
/// what is pointed at (ports, next hops) is written before what points at it, and removed after.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    Attach {
        ifindex: u32,
        master: Master,
    },
    Detach {
        ifindex: u32,
    },
    SetPort {
        index: u32,
        ifindex: u32,
    },
    ClearPort {
        index: u32,
    },
    /// Names the index; a new name means that the index's counters start at zero.
    SetNetwork {
        index: u16,
        name: String,
    },
    ClearNetwork {
        index: u16,
    },
    SetNextHop {
        index: u32,
        next_hop: NextHop,
    },
    /// Uplink counters of a new session start at zero; a changed entry with the same counter goes on.
    SetUplink {
        key: UplinkKey,
        entry: UplinkEntry,
        new_counter: bool,
    },
    DeleteUplink {
        key: UplinkKey,
    },
    SetUplink6 {
        key: UplinkKey6,
        entry: UplinkEntry,
        new_counter: bool,
    },
    DeleteUplink6 {
        key: UplinkKey6,
    },
    SetDownlink4 {
        key: DownlinkKey4,
        entry: DownlinkEntry,
        new_counter: bool,
    },
    DeleteDownlink4 {
        key: DownlinkKey4,
    },
    SetDownlink6 {
        key: DownlinkKey6,
        entry: DownlinkEntry,
        new_counter: bool,
    },
    DeleteDownlink6 {
        key: DownlinkKey6,
    },
    SetFramed {
        key: FramedPrefix,
        user: FramedUser,
    },
    DeleteFramed {
        key: FramedPrefix,
    },
    SetEndpoint {
        key: EndpointKey,
        entry: EndpointEntry,
    },
    DeleteEndpoint {
        key: EndpointKey,
    },
    SetRoute {
        route: RoutePrefix,
        next_hop: u32,
    },
    DeleteRoute {
        route: RoutePrefix,
    },
    /// The default value for one that has gone.
    SetRouter {
        scope: u32,
        router: Router,
    },
    AddPeer(PeerPrefix),
    RemovePeer(PeerPrefix),
    AddPod(PodKey),
    RemovePod(PodKey),
    SetRule {
        key: RuleKey,
        rule: Box<Rule>,
    },
    DeleteRule {
        key: RuleKey,
    },
    /// A meter that is there already stays as it is.
    StartMeter {
        key: MeterKey,
    },
    DeleteMeter {
        key: MeterKey,
    },
    /// A usage that is there already goes on, with its limits.
    StartUsage {
        key: UsageKey,
        limits: Box<UsageLimits>,
    },
    SetLimits {
        key: UsageKey,
        limits: Box<UsageLimits>,
    },
    DeleteUsage {
        key: UsageKey,
    },
}
