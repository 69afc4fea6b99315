//! The map types as aya's maps take them.

#![expect(
    unsafe_code,
    reason = "aya's marker for plain bytes is an unsafe trait; zerocopy has checked each type"
)]

use super::{
    AnswerBudget, Counter, DownlinkEntry, DownlinkKey4, DownlinkKey6, EndpointEntry, EndpointKey, FailureKey,
    FramedKey, FramedUser, IndexedDownlink4, IndexedDownlink6, IndexedUplink, MeterKey, NetworkName, NextHop,
    OffloadWire, PeerKey, PodKey, RouteKey, Router, Rule, RuleKey, UplinkEntry, UplinkKey, UplinkKey6, Usage,
    UsageKey, UsageLimits,
};

macro_rules! pod {
    ($($type:ty),+ $(,)?) => {
        // SAFETY: `IntoBytes` proves that there is no padding, `FromBytes` that every pattern is valid,
        // and the types are `Copy` and own nothing.
        $(unsafe impl aya::Pod for $type {})+
        const _: fn() = || {
            fn plain<T: zerocopy::IntoBytes + zerocopy::FromBytes + Copy + 'static>() {}
            $(plain::<$type>();)+
        };
    };
}

pod!(
    AnswerBudget,
    Counter,
    DownlinkEntry,
    DownlinkKey4,
    DownlinkKey6,
    EndpointEntry,
    EndpointKey,
    FailureKey,
    FramedKey,
    FramedUser,
    IndexedDownlink4,
    IndexedDownlink6,
    IndexedUplink,
    MeterKey,
    NetworkName,
    NextHop,
    OffloadWire,
    PeerKey,
    PodKey,
    RouteKey,
    Router,
    Rule,
    RuleKey,
    UplinkEntry,
    UplinkKey,
    UplinkKey6,
    Usage,
    UsageKey,
    UsageLimits,
);
