//! The real XDP and TC programs, loaded for a test and attached to nothing, with tables as the test wants them.

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::xdp::DevMap;
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp};
use aya::{Ebpf, EbpfLoader};
use netplane::dataplane::{TC_PROGRAM, XDP_PROGRAM, load_tc, load_xdp, object};
use netplane_common::map::{
    AnswerBudget, Counter, DownlinkEntry, DownlinkKey4, DownlinkKey6, EndpointEntry, EndpointKey, NO_INDEX,
    NextHop, PeerKey, RouteKey, Router, UplinkEntry, UplinkKey, UplinkKey6, network_counter_index,
};
use netplane_common::testing::cases::{self, IFINDEX, OTHER_PORT};
use netplane_common::testing::tables::{MapTables, words};
use netplane_common::verdict::Verdict;

/// Which of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Xdp,
    Tc,
}

impl Hook {
    pub(crate) const ALL: [Self; 2] = [Self::Xdp, Self::Tc];

    /// Of `enum xdp_action` in linux/bpf.h, or of `TC_ACT_*` in linux/pkt_cls.h.
    pub(crate) fn action(self, verdict: Verdict) -> u32 {
        let back = matches!(verdict, Verdict::Transmit | Verdict::Answer { port: NO_INDEX, .. });
        let (drop, pass, transmit, redirect) = match self {
            Self::Xdp => (1, 2, 3, 4),
            Self::Tc => (2, u32::MAX, 7, 7),
        };
        match verdict {
            Verdict::Drop { .. } => drop,
            Verdict::Pass | Verdict::PassCounted { .. } => pass,
            _ if back => transmit,
            _ => redirect,
        }
    }

    /// Whether a test run shows what becomes of a packet. On TC it refuses frames that end within the network
    /// header, and leaves a tag in the frame, where TC never sees one: `tests/it/tc.rs` sends such frames over a
    /// real device.
    pub(crate) fn can_run(self, packet: &[u8]) -> bool {
        let least = match packet.get(12..14) {
            Some(&[0x81, 0] | &[0x88, 0xa8]) => return self == Self::Xdp,
            Some(&[0x08, 0]) => 14 + 20,
            Some(&[0x86, 0xdd]) => 14 + 40,
            _ => 15,
        };
        self == Self::Xdp || packet.len() >= least
    }

    /// Whether the frame is as wanted. A tag that a forwarded frame gets lies beside an skb, not in its bytes,
    /// and a test run does not show it: that is the one difference.
    pub(crate) fn is_as_wanted(self, got: &[u8], wanted: &[u8]) -> bool {
        let without_tag =
            || wanted.get(12..14) == Some(&[0x81, 0]) && [&wanted[..12], &wanted[16..]].concat() == got;
        got == wanted || self == Self::Tc && without_tag()
    }
}

/// A private copy of the object: nothing pinned, gone with the test.
pub(crate) fn load() -> Ebpf {
    let mut ebpf = EbpfLoader::new().load(object()).expect("root and a kernel with BPF");
    load_xdp(&mut ebpf).expect("the verifier accepts the programs");
    load_tc(&mut ebpf).expect("the verifier accepts the programs");
    let mut devices: Array<_, u32> = map(&mut ebpf, "DEVICES");
    devices.set(OTHER_PORT, IFINDEX, 0).expect("loopback for TC");
    let mut ports: DevMap<_> = ebpf.map_mut("PORTS").expect("PORTS").try_into().expect("device map");
    ports.set(OTHER_PORT, IFINDEX, None, 0).expect("loopback in the device map");
    // As slices have it: no limit.
    let mut answers: PerCpuArray<_, AnswerBudget> = map(&mut ebpf, "ANSWERS");
    let budget = AnswerBudget { left: u64::MAX, since: 0 };
    let cpus = aya::util::nr_cpus().expect("the number of CPUs");
    let budgets = aya::maps::PerCpuValues::try_from(vec![budget; cpus]).expect("one a CPU");
    answers.set(0, budgets, 0).expect("ANSWERS");
    ebpf
}

pub(crate) fn map<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> T
where
    T: TryFrom<&'a mut aya::maps::Map>,
    T::Error: std::fmt::Debug,
{
    ebpf.map_mut(name).expect(name).try_into().expect(name)
}

pub(crate) fn fill(ebpf: &mut Ebpf, tables: &MapTables) {
    let mut uplink: HashMap<_, UplinkKey, UplinkEntry> = map(ebpf, "UPLINK");
    tables.uplink.iter().for_each(|(key, value)| uplink.insert(key, value, 0).expect("UPLINK"));
    let mut uplink6: HashMap<_, UplinkKey6, UplinkEntry> = map(ebpf, "UPLINK6");
    tables.uplink6.iter().for_each(|(key, value)| uplink6.insert(key, value, 0).expect("UPLINK6"));
    let mut downlink4: HashMap<_, DownlinkKey4, DownlinkEntry> = map(ebpf, "DOWNLINK4");
    tables.downlink4.iter().for_each(|(key, value)| downlink4.insert(key, value, 0).expect("DOWNLINK4"));
    let mut downlink6: HashMap<_, DownlinkKey6, DownlinkEntry> = map(ebpf, "DOWNLINK6");
    tables.downlink6.iter().for_each(|(key, value)| downlink6.insert(key, value, 0).expect("DOWNLINK6"));
    let mut endpoints: HashMap<_, EndpointKey, EndpointEntry> = map(ebpf, "ENDPOINTS");
    tables.endpoints.iter().for_each(|(key, value)| endpoints.insert(key, value, 0).expect("ENDPOINTS"));
    let mut next_hops: Array<_, NextHop> = map(ebpf, "NEXT_HOPS");
    tables.next_hops.iter().for_each(|(index, value)| next_hops.set(*index, value, 0).expect("NEXT_HOPS"));
    let mut routes: LpmTrie<_, RouteKey, u32> = map(ebpf, "ROUTES");
    for ((scope, address, len), next_hop) in &tables.routes {
        let key = RouteKey { scope: *scope, destination: words(*address) };
        routes.insert(&Key::new(32 + u32::from(*len), key), next_hop, 0).expect("ROUTES");
    }
    let mut routers: Array<_, Router> = map(ebpf, "ROUTERS");
    let router = tables.routers.get(&cases::SCOPE).copied().unwrap_or_default();
    routers.set(cases::SCOPE, router, 0).expect("ROUTERS");
    let mut peers: LpmTrie<_, PeerKey, u8> = map(ebpf, "PEERS");
    for (network, address, len) in tables.peers.keys() {
        let key = PeerKey { network: *network, address: words(*address) };
        peers.insert(&Key::new(32 + u32::from(*len), key), 1, 0).expect("PEERS");
    }
}

/// Takes out what `fill` has put in. Next hops stay: an array has no holes.
pub(crate) fn empty(ebpf: &mut Ebpf, tables: &MapTables) {
    let mut uplink: HashMap<_, UplinkKey, UplinkEntry> = map(ebpf, "UPLINK");
    tables.uplink.keys().for_each(|key| uplink.remove(key).expect("UPLINK"));
    let mut uplink6: HashMap<_, UplinkKey6, UplinkEntry> = map(ebpf, "UPLINK6");
    tables.uplink6.keys().for_each(|key| uplink6.remove(key).expect("UPLINK6"));
    let mut downlink4: HashMap<_, DownlinkKey4, DownlinkEntry> = map(ebpf, "DOWNLINK4");
    tables.downlink4.keys().for_each(|key| downlink4.remove(key).expect("DOWNLINK4"));
    let mut downlink6: HashMap<_, DownlinkKey6, DownlinkEntry> = map(ebpf, "DOWNLINK6");
    tables.downlink6.keys().for_each(|key| downlink6.remove(key).expect("DOWNLINK6"));
    let mut endpoints: HashMap<_, EndpointKey, EndpointEntry> = map(ebpf, "ENDPOINTS");
    tables.endpoints.keys().for_each(|key| endpoints.remove(key).expect("ENDPOINTS"));
    let mut routes: LpmTrie<_, RouteKey, u32> = map(ebpf, "ROUTES");
    for (scope, address, len) in tables.routes.keys() {
        let key = RouteKey { scope: *scope, destination: words(*address) };
        routes.remove(&Key::new(32 + u32::from(*len), key)).expect("ROUTES");
    }
    let mut peers: LpmTrie<_, PeerKey, u8> = map(ebpf, "PEERS");
    for (network, address, len) in tables.peers.keys() {
        let key = PeerKey { network: *network, address: words(*address) };
        peers.remove(&Key::new(32 + u32::from(*len), key)).expect("PEERS");
    }
}

pub(crate) fn run(ebpf: &Ebpf, hook: Hook, packet: &[u8]) -> (u32, Vec<u8>) {
    match hook {
        Hook::Xdp => {
            let program = ebpf.program(XDP_PROGRAM).expect("in the object");
            run_program::<Xdp>(program.try_into().expect("XDP"), packet)
        }
        Hook::Tc => {
            let program = ebpf.program(TC_PROGRAM).expect("in the object");
            run_program::<SchedClassifier>(program.try_into().expect("a classifier"), packet)
        }
    }
}

fn run_program<P>(program: &P, packet: &[u8]) -> (u32, Vec<u8>)
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let mut out = vec![0; packet.len() + 256];
    let options = TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        repeat: 1,
        ..TestRunOptions::default()
    };
    let result = program.test_run(options).expect("BPF_PROG_TEST_RUN");
    let len = result.data_size_out as usize;
    out.truncate(len);
    (result.return_value, out)
}

pub(crate) fn count(ebpf: &Ebpf, network: u16, reason: u8) -> u64 {
    let counters: PerCpuArray<&MapData, Counter> =
        ebpf.map("NETWORK_COUNTERS").expect("NETWORK_COUNTERS").try_into().expect("per-CPU array");
    let values = counters.get(&network_counter_index(network, reason), 0).expect("a counter");
    values.iter().map(|it| it.packets).sum()
}

pub(crate) fn session_count(ebpf: &Ebpf) -> u64 {
    let counters: PerCpuArray<&MapData, Counter> =
        ebpf.map("SESSION_COUNTERS").expect("SESSION_COUNTERS").try_into().expect("per-CPU array");
    [cases::UPLINK_COUNTER, cases::DOWNLINK_COUNTER]
        .iter()
        .flat_map(|index| {
            counters.get(index, 0).expect("a counter").iter().map(|it| it.packets).collect::<Vec<_>>()
        })
        .sum()
}
