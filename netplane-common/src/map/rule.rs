//! Rules of sessions that are more than one entry a direction: filters, meters and usage. Only packets of such
//! sessions look here ([`super::uplink_flags::RULES`]).

use super::{DownlinkEntry, UplinkEntry};
use crate::wire::Be32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most rules of a session a direction: a packet looks at no more. A PDR has one for each of its SDF filters, and
/// for each combination of ranges of ports in one.
pub const MAX_RULES: u32 = 16;
/// Most meters and usages of one rule.
pub const MAX_METERS: usize = 3;
pub const MAX_USAGES: usize = 3;

/// A rule's place: the set that a session's entry names, and the place in it, in the order of precedence. A changed
/// session gets a new set, so that no packet sees half of one and half of the other.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RuleKey {
    pub set: u32,
    pub number: u32,
}

/// Bits of [`Filter::has`].
pub mod filter_has {
    /// The packet is of `version`.
    pub const VERSION: u8 = 1 << 0;
    /// Its protocol, or first next header of IPv6, is `protocol`.
    pub const PROTOCOL: u8 = 1 << 1;
    /// Its ports are in the ranges. Packets without ports, as all fragments but the first, do not match.
    pub const PORTS: u8 = 1 << 2;
    /// Its IPsec security parameter index is `word`.
    pub const SPI: u8 = 1 << 3;
    /// Its IPv6 flow label is `word`.
    pub const FLOW_LABEL: u8 = 1 << 4;
}

/// What packets a rule is for (TS 29.244 §8.2.5). All zero: all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Filter {
    /// QFIs of uplink G-PDUs, one bit for each; 0: any or none.
    pub qfis: u64,
    /// Bits of [`filter_has`].
    pub has: u8,
    /// 4 or 6.
    pub version: u8,
    pub protocol: u8,
    /// `traffic class & tos_mask == tos`.
    pub tos: u8,
    pub tos_mask: u8,
    pub reserved: [u8; 3],
    /// First and last source port, first and last destination port, in host byte order.
    pub ports: [u16; 4],
    /// SPI or flow label.
    pub word: u32,
    pub reserved1: u32,
    /// `address & mask == address` of the filter; IPv4 as IPv4-mapped.
    pub source: [Be32; 4],
    pub source_mask: [Be32; 4],
    pub destination: [Be32; 4],
    pub destination_mask: [Be32; 4],
}

/// Which meter: of a QER of a session, one a direction.
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
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct MeterKey {
    /// The session's handle, and in the highest bit whether it is the downlink's.
    pub session: u32,
    pub qer: u32,
}

impl MeterKey {
    pub const DOWNLINK: u32 = 1 << 31;
}

/// A maximum bit rate, as packets are measured by: the generic cell rate algorithm (ITU-T I.371 annex A). The
/// meter's state is one number, the time at which the rate will have made up for all that was let through; a packet
/// that would come too long before that is over the rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rate {
    /// Time that a byte takes, in ticks over 2^16.
    pub byte: u64,
    /// Ticks by which traffic may be ahead of the rate.
    pub burst: u64,
}

impl Rate {
    /// A tick is a 64th of a nanosecond: at 100 Gbit/s the smallest packet takes 205 of them.
    pub const TICKS_PER_NS: u64 = 64;
    const FRACTION: u32 = 16;
    /// The rates that a meter holds within 2 %, in bits a second.
    pub const LEAST: u64 = 1_000;
    pub const MOST: u64 = 100_000_000_000;
    /// So long at the full rate may a burst be, and at least so many bytes.
    pub const BURST_NS: u64 = 10_000_000;
    pub const BURST_BYTES: u64 = 12_000;

    /// The meter of a rate between [`Rate::LEAST`] and [`Rate::MOST`], in bits a second.
    pub const fn of_bits(bits: u64) -> Self {
        let byte = ((8_000_000_000_u128 * Self::TICKS_PER_NS as u128) << Self::FRACTION) / bits as u128;
        let byte = byte as u64;
        let least = (Self::BURST_BYTES * byte) >> Self::FRACTION;
        let long = Self::BURST_NS * Self::TICKS_PER_NS;
        Self { byte, burst: if least > long { least } else { long } }
    }

    /// The state after a packet of so many bytes at `now` (in ticks, as `state`); `None`: it is over the rate.
    #[inline(always)]
    pub const fn take(&self, state: u64, now: u64, bytes: u32) -> Option<u64> {
        // Of a clock that goes round, too: at most half a turn ahead or behind.
        let ahead = state.wrapping_sub(now).cast_signed();
        if ahead > self.burst.cast_signed() {
            return None;
        }
        let from = if ahead > 0 { state } else { now };
        Some(from.wrapping_add((self.byte * bytes as u64) >> Self::FRACTION))
    }
}

/// A meter of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MeterUse {
    pub key: MeterKey,
    pub rate: Rate,
}

/// Which usage: of a URR of a session.
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
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct UsageKey {
    /// The session's handle.
    pub session: u32,
    pub urr: u32,
}

/// What has been used, in both directions: inner bytes and packets that were forwarded. Counted with atomic
/// additions in one place for all CPUs, so that a quota is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Usage {
    pub total_bytes: u64,
    pub uplink_bytes: u64,
    pub downlink_bytes: u64,
    pub uplink_packets: u64,
    pub downlink_packets: u64,
    /// Nanoseconds of the monotonic clock; 0: none yet.
    pub first: u64,
    pub last: u64,
    pub reserved: u64,
}

/// Where a usage is to be reported and where it ends; the agent writes it. Volumes are those of [`Usage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UsageLimits {
    /// The agent is told where any of them is reached: total, uplink, downlink.
    pub thresholds: [u64; 3],
    /// From here on packets are dropped.
    pub quotas: [u64; 3],
    /// What the last report has told, and when it was made, in nanoseconds of the monotonic clock.
    pub told: Usage,
    pub told_at: u64,
    /// From where quotas count: total, uplink, downlink, and time.
    pub granted: [u64; 3],
    pub granted_at: u64,
    /// Of the next report.
    pub sequence: u32,
    /// Bits of [`usage_state`].
    pub state: u32,
}

/// Bits of [`UsageLimits::state`].
pub mod usage_state {
    /// That a quota is used up has been reported.
    pub const EXHAUSTION_TOLD: u32 = 1 << 0;
}

impl UsageLimits {
    pub const NONE: Self = Self {
        thresholds: [u64::MAX; 3],
        quotas: [u64::MAX; 3],
        told: Usage {
            total_bytes: 0,
            uplink_bytes: 0,
            downlink_bytes: 0,
            uplink_packets: 0,
            downlink_packets: 0,
            first: 0,
            last: 0,
            reserved: 0,
        },
        told_at: 0,
        granted: [0; 3],
        granted_at: 0,
        sequence: 0,
        state: 0,
    };

    /// While a usage is over a limit the agent is told again with one packet of so many, a power of two.
    const AGAIN: u64 = 1024;

    /// Whether a quota is used up, in this direction or in all.
    #[inline(always)]
    pub const fn is_used_up(&self, usage: &Usage, is_uplink: bool) -> bool {
        let [total, uplink, downlink] = self.quotas;
        let (own, quota) =
            if is_uplink { (usage.uplink_bytes, uplink) } else { (usage.downlink_bytes, downlink) };
        usage.total_bytes >= total || own >= quota
    }

    /// Whether the agent is to be told of a packet of `bytes`, with which a usage became `total` and, in its
    /// direction, `own` bytes and `packets`.
    #[inline(always)]
    pub const fn tells(&self, (total, own, packets): (u64, u64, u64), bytes: u32, is_uplink: bool) -> bool {
        let (bytes, n) = (bytes as u64, if is_uplink { 1 } else { 2 });
        Self::reached(total, self.thresholds[0], packets, bytes)
            | Self::reached(total, self.quotas[0], packets, bytes)
            | Self::reached(own, self.thresholds[n], packets, bytes)
            | Self::reached(own, self.quotas[n], packets, bytes)
    }

    #[inline(always)]
    const fn reached(now: u64, limit: u64, packets: u64, bytes: u64) -> bool {
        now >= limit && (now.wrapping_sub(bytes) < limit || packets & (Self::AGAIN - 1) == 0)
    }
}

/// A rule: the packets that it is for, what is to be paid for them, and what is done with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rule {
    pub filter: Filter,
    pub meters: [MeterUse; MAX_METERS],
    pub usages: [UsageKey; MAX_USAGES],
    /// How many of them there are.
    pub n_meters: u8,
    pub n_usages: u8,
    /// Of the usages, a bit for each that has limits.
    pub limited: u8,
    pub reserved: [u8; 5],
    /// What is done with a G-PDU; its peers and flags for them do not count.
    pub uplink: UplinkEntry,
    /// What is done with a packet to the user.
    pub downlink: DownlinkEntry,
}

const _: () = {
    assert!(size_of::<Filter>() == 96 && size_of::<MeterUse>() == 24);
    assert!(size_of::<Usage>() == 64 && size_of::<UsageLimits>() == 160);
    assert!(size_of::<Rule>() == 96 + 72 + 24 + 8 + 64 + 40);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::numbers::Numbers;

    /// Bytes that a meter lets through of packets that are offered at these times, a second from the first on.
    fn admitted(rate: Rate, offered: impl Iterator<Item = (u64, u32)>) -> u64 {
        let (mut state, mut bytes) = (0, 0);
        for (now, len) in offered {
            if let Some(new) = rate.take(state, now * Rate::TICKS_PER_NS, len) {
                (state, bytes) = (new, bytes + u64::from(len));
            }
        }
        bytes
    }

    #[test]
    fn a_meter_holds_its_rate_within_two_percent_and_a_burst() {
        let mut numbers = Numbers::new(7);
        let mut bits = Rate::LEAST;
        while bits <= Rate::MOST {
            for _ in 0..4 {
                let rate = Rate::of_bits(bits);
                // So many packets that the meter is always asked too much, over as long as that takes.
                let packets = 100_000_u64;
                let len = |numbers: &mut Numbers| 40 + numbers.below(1461) as u32;
                let start = 1 + numbers.below(1 << 40) as u64;
                let mean = 770 * 8 * 1_000_000_000 / (bits * 2);
                let mut now = start;
                let offered: Vec<_> = (0..packets)
                    .map(|_| {
                        now += numbers.below(2 * mean as usize + 1) as u64;
                        (now, len(&mut numbers))
                    })
                    .collect();
                let offered_bytes: u64 = offered.iter().map(|it| u64::from(it.1)).sum();
                let lasted = u128::from(now - start);
                let got = admitted(rate, offered.into_iter());
                let fair = (u128::from(bits) * lasted / 8_000_000_000) as u64;
                let burst = Rate::BURST_BYTES.max(bits / 8 * Rate::BURST_NS / 1_000_000_000) + 1500;
                assert!(offered_bytes > fair, "{bits}: too little was offered");
                assert!(got <= fair + fair / 50 + burst, "{bits} bit/s: {got} bytes, {fair} are fair");
                // The last packet that did not fit may have been as long as that.
                assert!(got + fair / 50 + 1500 >= fair, "{bits} bit/s: {got} bytes, {fair} are fair");
            }
            bits = bits * 7 + 3;
        }
    }

    #[test]
    fn an_idle_meter_takes_a_burst_and_no_more() {
        for bits in [Rate::LEAST, 1_000_000, 1_000_000_000, Rate::MOST] {
            let got = admitted(Rate::of_bits(bits), (0..2_000_000).map(|_| (1_000_000_000, 1500)));
            let burst = Rate::BURST_BYTES.max(bits / 8 / 100);
            // One packet is let through that begins within the burst and ends behind it.
            assert!(burst <= got && got <= burst + burst / 50 + 2 * 1500, "{bits} bit/s: {got}, not {burst}");
        }
    }

    #[test]
    fn a_clock_that_goes_round_changes_nothing() {
        let rate = Rate::of_bits(8_000_000);
        let near_end = u64::MAX - 5;
        let state = rate.take(near_end, near_end, 1500).expect("an idle meter takes a packet");
        let packet = state.wrapping_sub(near_end);
        assert!(state < near_end, "it went round");
        assert_eq!(rate.take(state, near_end, 1500), Some(state + packet));
    }
}
