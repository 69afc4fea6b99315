//! Counters, all per CPU: an element for each session and direction, and one for each network and
//! verdict. Shared elements would need an atomic operation for each number, which costs more than the
//! rest of counting (`docs/performance.md`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Packets and their bytes. Sessions count inner bytes (the user's IP packet) in both directions;
/// verdicts count frame bytes without FCS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

/// How many packets of our own (ICMP, Error Indication) a CPU may still send in the current window, so
/// that nobody makes netplane flood a third party.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AnswerBudget {
    pub left: u64,
    /// Start of the window, in nanoseconds of the monotonic clock.
    pub since: u64,
}

impl AnswerBudget {
    /// With the window, 1000 a second and 50 at once on each CPU: the kernel's own defaults
    /// (`icmp_msgs_per_sec`, `icmp_msgs_burst`).
    pub const PER_WINDOW: u64 = 50;
    pub const WINDOW_NS: u64 = 50_000_000;
}

/// Elements of the network counters per network: one for each number of `Reason`.
pub const NETWORK_COUNTERS_STRIDE: u32 = 64;

/// The element that counts `reason` (a `Reason`'s number) for the network with this index.
#[inline(always)]
pub const fn network_counter_index(network: u16, reason: u8) -> u32 {
    network as u32 * NETWORK_COUNTERS_STRIDE + (reason as u32 & (NETWORK_COUNTERS_STRIDE - 1))
}

/// Longest `namespace/name` of a NAD: two DNS labels of at most 63 and 253 bytes and the slash.
pub const NETWORK_NAME_MAX: usize = 318;

/// Which network an index stands for, so that a new agent finds its counters again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetworkName {
    /// Bytes used of `bytes`; 0 for a free index.
    pub len: u16,
    pub bytes: [u8; NETWORK_NAME_MAX],
}

impl NetworkName {
    pub const FREE: Self = Self { len: 0, bytes: [0; NETWORK_NAME_MAX] };

    /// `None` if the name does not fit.
    pub fn new(name: &str) -> Option<Self> {
        let mut this = Self::FREE;
        this.bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        this.len = u16::try_from(name.len()).ok()?;
        Some(this)
    }

    /// `None` for a free or damaged element.
    pub fn as_str(&self) -> Option<&str> {
        let name = core::str::from_utf8(self.bytes.get(..usize::from(self.len))?).ok()?;
        (!name.is_empty()).then_some(name)
    }
}
