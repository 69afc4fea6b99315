//! The layout of every map key and value. `LAYOUT_VERSION` goes up with every change to any of
//! them, so that an agent never reads pins of another layout.

mod buffered;
mod counters;
mod endpoint;
mod event;
mod failure;
mod indexed;
mod next_hop;
#[cfg(feature = "user")]
mod pod;
mod rule;
mod session;

pub use buffered::{Buffered, RELEASED};
pub use counters::{
    AnswerBudget, Counter, NETWORK_COUNTERS_STRIDE, NETWORK_NAME_MAX, NetworkName, network_counter_index,
};
pub use endpoint::{EndpointEntry, EndpointKey, PeerKey, PodKey, UnknownTeid, endpoint_flags};
pub use event::{Event, EventKind, GtpuEvent};
pub use failure::{Failure, FailureKey};
pub use indexed::{Element, IndexedDownlink4, IndexedDownlink6, IndexedUplink, Slot};
pub use next_hop::{LookedUp, NextHop, NextHopState, OffloadWire, RouteKey, Router, next_hop_flags};
pub use rule::{
    Filter, MAX_METERS, MAX_RULES, MAX_USAGES, MeterKey, MeterUse, Rate, Rule, RuleKey, Usage, UsageKey,
    UsageLimits, filter_has, usage_state,
};
pub use session::{
    DownlinkEntry, DownlinkKey4, DownlinkKey6, FramedKey, FramedUser, SessionAction, UplinkEntry, UplinkKey,
    UplinkKey6, downlink_flags, uplink_flags,
};

/// Version of all layouts in this module, part of the pins' folder name.
pub const LAYOUT_VERSION: u32 = 3;

/// The value of an unset index: no next hop, no counter.
pub const NO_INDEX: u32 = u32::MAX;

/// Mark of a buffer that was decided on at the far end of the offload wire and goes on to the pod ("np").
pub const TC_PASSED: u32 = 0x6e70_0001;

/// Where packets come in: a master's interface index and VLAN identifier (0: untagged). Two networks
/// with different tags on one parent are two ports, so their addresses may overlap.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C)]
pub struct Port {
    pub ifindex: u32,
    pub vlan: u16,
    reserved: u16,
}

impl Port {
    #[inline(always)]
    pub const fn new(ifindex: u32, vlan: u16) -> Self {
        Self { ifindex, vlan, reserved: 0 }
    }
}
