//! The maps. Their names are those of the pins; sizes are what the loader sets them to, or these.

use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{
    Array, DevMap, HashMap, LpmTrie, PerCpuArray, PerfEventByteArray, ProgramArray, RingBuf,
};
use netplane_common::map::{
    AnswerBudget, Counter, DownlinkEntry, DownlinkKey4, DownlinkKey6, EndpointEntry, EndpointKey, FramedKey,
    FramedUser, IndexedDownlink4, IndexedDownlink6, IndexedUplink, MeterKey, NETWORK_COUNTERS_STRIDE,
    NetworkName, NextHop, OffloadWire, PeerKey, PodKey, RouteKey, Router, Rule, RuleKey, UplinkEntry,
    UplinkKey, UplinkKey6, Usage, UsageKey, UsageLimits,
};
use netplane_common::wire::ethernet::Mac;

/// Sessions per direction that fit unless the loader says otherwise.
const SESSIONS: u32 = 1 << 17;
const RULES_MAX: u32 = 1 << 15;
const MAX_NETWORKS: u32 = 256;
const MAX_ENDPOINTS: u32 = 4096;

#[map]
pub(crate) static UPLINK: HashMap<UplinkKey, UplinkEntry> = HashMap::with_max_entries(SESSIONS, 0);
#[map]
pub(crate) static UPLINK6: HashMap<UplinkKey6, UplinkEntry> = HashMap::with_max_entries(SESSIONS, 0);
#[map]
pub(crate) static DOWNLINK4: HashMap<DownlinkKey4, DownlinkEntry> = HashMap::with_max_entries(SESSIONS, 0);
#[map]
pub(crate) static DOWNLINK6: HashMap<DownlinkKey6, DownlinkEntry> = HashMap::with_max_entries(SESSIONS, 0);
/// The same where a packet finds it without a hash, with a length of `INDEX_MASK` and one more. Not pinned: an element
/// that an agent has left which knows nothing of it would say what is true no more.
#[map]
pub(crate) static UPLINK_INDEX: Array<IndexedUplink> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static DOWNLINK4_INDEX: Array<IndexedDownlink4> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static DOWNLINK6_INDEX: Array<IndexedDownlink6> = Array::with_max_entries(1, 0);
/// Set by the loader.
#[unsafe(no_mangle)]
static INDEX_MASK: u32 = 0;

#[inline(always)]
pub(crate) fn index_mask() -> u32 {
    // SAFETY: a static of the object. Volatile, since the loader has changed it after it was compiled.
    unsafe { core::ptr::read_volatile(&raw const INDEX_MASK) }
}

/// Prefixes behind users.
#[map]
pub(crate) static FRAMED: LpmTrie<FramedKey, FramedUser> = LpmTrie::with_max_entries(1 << 16, 0);
#[map]
pub(crate) static ENDPOINTS: HashMap<EndpointKey, EndpointEntry> =
    HashMap::with_max_entries(MAX_ENDPOINTS, 0);
/// A bit for each value of [`Mac::bit`], set where no entry of the maps
/// above has such a MAC. Not pinned: it is all zero, and every frame is looked up, until the agent that has loaded the
/// program knows all entries.
#[map]
pub(crate) static NOBODYS: Array<u64> = Array::with_max_entries(Mac::BIT_WORDS, 0);
#[map]
pub(crate) static NEXT_HOPS: Array<NextHop> = Array::with_max_entries(1 << 16, 0);
#[map]
pub(crate) static ROUTES: LpmTrie<RouteKey, u32> = LpmTrie::with_max_entries(1 << 16, 0);
#[map]
pub(crate) static ROUTERS: Array<Router> = Array::with_max_entries(MAX_ENDPOINTS, 0);
/// What is left in the current window, of our own packets (ICMP and the like), and of events of messages.
#[map]
pub(crate) static ANSWERS: PerCpuArray<AnswerBudget> = PerCpuArray::with_max_entries(2, 0);
#[map]
pub(crate) static PEERS: LpmTrie<PeerKey, u8> = LpmTrie::with_max_entries(1 << 12, 0);
#[map]
pub(crate) static PORTS: DevMap = DevMap::with_max_entries(256, 0);
/// Two for each session: uplink and downlink.
#[map]
pub(crate) static SESSION_COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(2 * SESSIONS, 0);
#[map]
pub(crate) static NETWORK_COUNTERS: PerCpuArray<Counter> =
    PerCpuArray::with_max_entries(MAX_NETWORKS * NETWORK_COUNTERS_STRIDE, 0);
/// Not read by the programs: which network an index stands for, kept with the pins.
#[map]
pub(crate) static NETWORKS: Array<NetworkName> = Array::with_max_entries(MAX_NETWORKS, 0);
/// What `PORTS` has, for TC: the kernel lets programs of one type only use a device map.
#[map]
pub(crate) static DEVICES: Array<u32> = Array::with_max_entries(256, 0);
/// For TC: pods that masters deliver to. The value means nothing.
#[map]
pub(crate) static PODS: HashMap<PodKey, u8> = HashMap::with_max_entries(MAX_ENDPOINTS, 0);
/// One element, for TC.
#[map]
pub(crate) static WIRE: Array<OffloadWire> = Array::with_max_entries(1, 0);
/// Rules of the sessions that have some, of both directions.
#[map]
pub(crate) static RULES: HashMap<RuleKey, Rule> = HashMap::with_max_entries(RULES_MAX, 0);
/// States of their meters, in ticks of [`netplane_common::map::Rate`].
#[map]
pub(crate) static METERS: HashMap<MeterKey, u64> = HashMap::with_max_entries(RULES_MAX, 0);
#[map]
pub(crate) static USAGES: HashMap<UsageKey, Usage> = HashMap::with_max_entries(RULES_MAX, 0);
#[map]
pub(crate) static LIMITS: HashMap<UsageKey, UsageLimits> = HashMap::with_max_entries(RULES_MAX, 0);
/// One element each: the programs for sessions with rules.
#[map]
pub(crate) static XDP_RULES: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub(crate) static TC_RULES: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// One element: the XDP program that answers. A program array takes programs for frames in fragments or others,
/// not both: `XDP_ANSWER` is the name of that of earlier versions, which may still forward.
#[map]
pub(crate) static XDP_ANSWER_FRAGS: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// One element: the TC program that answers.
#[map]
pub(crate) static TC_ANSWER: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// Packets that the agent keeps, each behind a [`netplane_common::map::Buffered`]. Not a ring buffer: of this array the
/// kernel copies all of a frame, in fragments or not, and without an agent it has no elements. Not pinned for that.
#[map]
pub(crate) static BUFFERED: PerfEventByteArray = PerfEventByteArray::new(0);
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 16, 0);

pub(crate) type RouteTrieKey = Key<RouteKey>;
pub(crate) type FramedTrieKey = Key<FramedKey>;
pub(crate) type PeerTrieKey = Key<PeerKey>;
