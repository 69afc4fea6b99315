//! The lookups that the decision needs. BPF maps implement them in the kernel, ordered maps in tests.

use crate::map::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, EndpointEntry, EndpointKey, FramedKey, FramedUser, GtpuEvent,
    MeterUse, NextHop, PeerKey, RouteKey, Router, Rule, RuleKey, UplinkEntry, UplinkKey, UplinkKey6,
    UsageKey,
};
use crate::wire::ethernet::Mac;

/// The tables of one node.
pub trait Tables {
    /// Whether no entry can have this MAC, so that no packet to it is for anybody here. `false` is always right.
    #[inline(always)]
    fn is_nobodys(&self, _mac: Mac) -> bool {
        false
    }

    fn uplink(&self, key: &UplinkKey) -> Option<&UplinkEntry>;
    fn uplink6(&self, key: &UplinkKey6) -> Option<&UplinkEntry>;
    fn downlink4(&self, key: &DownlinkKey4) -> Option<&DownlinkEntry>;
    fn downlink6(&self, key: &DownlinkKey6) -> Option<&DownlinkEntry>;
    /// Asked only where no user's own address answers.
    fn framed(&self, key: &FramedKey) -> Option<&FramedUser>;
    fn next_hop(&self, index: u32) -> Option<&NextHop>;

    /// Asked only where no session answers.
    fn endpoint(&self, key: &EndpointKey) -> Option<&EndpointEntry>;
    /// Whether a peer is in the list of a network that has more than one prefix.
    fn peer_listed(&self, key: &PeerKey) -> bool;

    /// The next hop's index for a destination in a data endpoint's looked-up prefix; `NO_INDEX` for an
    /// on-link neighbour that is not known, `None` where there is no route.
    fn route(&self, key: &RouteKey) -> Option<u32>;
    /// Tells the agent that an on-link neighbour is wanted.
    fn want_neighbour(&self, key: &RouteKey);

    /// Tells the agent of a message. Not of each, where there are very many.
    fn tell(&self, event: &GtpuEvent);

    /// A data endpoint as the users' router.
    fn router(&self, scope: u32) -> Option<&Router>;
    /// Whether there may be one more packet of our own now (ICMP, Error Indication): they are limited in
    /// number (RFC 1812 §4.3.2.8, RFC 4443 §2.4 f).
    fn may_answer(&self) -> bool;

    /// Adds a forwarded packet of `bytes` inner bytes to a session's counter.
    fn count_session(&self, counter: u32, bytes: u32);

    /// Asked only of sessions with rules.
    fn rule(&self, key: &RuleKey) -> Option<&Rule>;
    /// Whether a packet of `bytes` inner bytes is within a meter's rate now; if `take`, it is charged for.
    fn meter(&self, meter: &MeterUse, bytes: u32, take: bool) -> bool;
    /// Whether a quota of a usage is used up, in one direction or in all.
    fn is_used_up(&self, usage: &UsageKey, is_uplink: bool) -> bool;
    /// Adds a forwarded packet to a usage; if it is `limited`, its thresholds are looked at.
    fn count_usage(&self, usage: &UsageKey, bytes: u32, is_uplink: bool, limited: bool);
}
