//! The real programs, loaded and attached to nothing, with the tables of one world at a time; a packet runs
//! by BPF_PROG_TEST_RUN.

use super::indexed::{INDEX_MASK, Indexed};
use crate::load::index;
use anyhow::{Context, Result};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::xdp::DevMap;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use netplane::dataplane::{TC_PROGRAM, XDP_PROGRAM, load_tc, load_xdp, object};
use netplane_common::map::{
    AnswerBudget, Counter, Event, EventKind, FramedKey, FramedUser, NO_INDEX, PeerKey, Port, RouteKey,
    Router, Usage, UsageKey, network_counter_index,
};
use netplane_common::testing::cases::{self, IFINDEX};
use netplane_common::testing::invariants::{Passage, pass, pass_on_wire};
use netplane_common::testing::tables::{MapTables, Prefix, words};
use netplane_common::testing::worlds::{INDICES, PORTS};
use netplane_common::verdict::{Reason, Verdict};
use netplane_common::wire::ethernet::Mac;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use zerocopy::FromBytes;

/// Bits of a trie's key in front of the address.
const TRIE_PREFIX: u32 = 32;
/// Of that of framed routes: the port.
const FRAMED_PREFIX: u32 = 64;

/// Bytes of the largest packet that is run, with room for headers that a program adds.
const MAX_OUT: usize = 1 << 16;

/// Which of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Xdp,
    Tc,
}

impl Hook {
    pub const ALL: [Self; 2] = [Self::Xdp, Self::Tc];

    /// What the program returns for a verdict: of `enum xdp_action` in linux/bpf.h, or of `TC_ACT_*` in
    /// linux/pkt_cls.h.
    #[must_use]
    pub fn action(self, verdict: Verdict) -> u32 {
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

    /// Runs the decision on slices, as far as this hook can go.
    #[must_use]
    pub fn pass(self, tables: &MapTables, packet: &[u8]) -> Passage {
        match self {
            Self::Xdp => pass_on_wire(tables, packet),
            Self::Tc => pass(tables, packet),
        }
    }

    /// Whether a test run shows what becomes of a packet. On TC it refuses frames that end within the network
    /// header, and leaves a tag in the frame, where TC never sees one: `tests/it/tc.rs` sends such frames over a
    /// real device.
    #[must_use]
    pub fn can_run(self, packet: &[u8]) -> bool {
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
    #[must_use]
    pub fn is_as_wanted(self, got: &[u8], wanted: &[u8]) -> bool {
        let without_tag =
            || wanted.get(12..14) == Some(&[0x81, 0]) && [&wanted[..12], &wanted[16..]].concat() == got;
        got == wanted || self == Self::Tc && without_tag()
    }
}

/// What a program made of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub action: u32,
    pub bytes: &'a [u8],
}

/// What the kernel counted, by session counter and by network and reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub sessions: BTreeMap<u32, Counter>,
    pub networks: BTreeMap<(u16, u8), Counter>,
}

impl Counted {
    /// Adds what must be counted for a packet whose frame had this length afterwards.
    pub fn add(&mut self, passage: &Passage, len: usize) {
        let add = |to: &mut Counter, packets, bytes| {
            to.packets += packets;
            to.bytes += bytes;
        };
        for (counter, it) in &passage.counted {
            add(self.sessions.entry(*counter).or_default(), it.packets, it.bytes);
        }
        if let Verdict::PassCounted { network, reason }
        | Verdict::Answer { network, reason, .. }
        | Verdict::Drop { network, reason } = passage.verdict
        {
            add(self.networks.entry((network, reason as u8)).or_default(), 1, len as u64);
        }
    }
}

/// The bits of all MACs that entries have.
fn somebodys(tables: &MapTables) -> BTreeMap<u32, u64> {
    let uplink = tables.uplink.values().chain(tables.uplink6.values()).map(|it| it.mac);
    let downlink = tables.downlink4.values().chain(tables.downlink6.values()).map(|it| it.mac);
    let mut words = BTreeMap::new();
    for mac in uplink.chain(downlink).chain(tables.endpoints.values().map(|it| it.mac)) {
        let (word, mask) = mac.bit();
        *words.entry(word).or_insert(0) |= mask;
    }
    words
}

/// One private copy of the programs and their maps.
pub struct Kernel {
    ebpf: Ebpf,
    /// The tables in the maps.
    set: MapTables,
    indexed: Indexed,
    /// All that has been counted so far.
    before: Counted,
    out: Vec<u8>,
}

impl Kernel {
    /// Loads the programs.
    ///
    /// # Errors
    /// No privilege, or a program that the kernel refuses.
    pub fn load() -> Result<Self> {
        let mut loader = EbpfLoader::new();
        index::size(&mut loader, &INDEX_MASK);
        for name in ["UPLINK", "UPLINK6", "DOWNLINK4", "DOWNLINK6", "SESSION_COUNTERS"] {
            loader.map_max_entries(name, 1 << 10);
        }
        let mut ebpf = loader.load(object()).context("cannot load the product's object")?;
        load_xdp(&mut ebpf)?;
        load_tc(&mut ebpf)?;
        let mut ports: DevMap<_> = map(&mut ebpf, "PORTS")?;
        for port in 0..PORTS.max(cases::OTHER_PORT + 1) {
            ports.set(port, IFINDEX, None, 0)?;
        }
        let mut devices: Array<_, u32> = map(&mut ebpf, "DEVICES")?;
        for port in 0..PORTS.max(cases::OTHER_PORT + 1) {
            devices.set(port, IFINDEX, 0)?;
        }
        // As slices have it: no limit, whatever the time.
        let mut answers: PerCpuArray<_, AnswerBudget> = map(&mut ebpf, "ANSWERS")?;
        let cpus = aya::util::nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?;
        let budget = AnswerBudget { left: u64::MAX, since: 0 };
        answers.set(0, PerCpuValues::try_from(vec![budget; cpus])?, 0)?;
        let mut nobodys: Array<_, u64> = map(&mut ebpf, "NOBODYS")?;
        (0..Mac::BIT_WORDS).try_for_each(|it| nobodys.set(it, u64::MAX, 0))?;
        let (set, before, indexed) = Default::default();
        Ok(Self { ebpf, set, indexed, before, out: vec![0; MAX_OUT] })
    }

    /// Puts these tables in the place of those before.
    ///
    /// # Errors
    /// A map cannot be written.
    pub fn set(&mut self, tables: &MapTables) -> Result<()> {
        let old = std::mem::replace(&mut self.set, tables.clone());
        let ebpf = &mut self.ebpf;
        replace(ebpf, "UPLINK", &old.uplink, &tables.uplink)?;
        replace(ebpf, "UPLINK6", &old.uplink6, &tables.uplink6)?;
        replace(ebpf, "DOWNLINK4", &old.downlink4, &tables.downlink4)?;
        replace(ebpf, "DOWNLINK6", &old.downlink6, &tables.downlink6)?;
        self.indexed.set(ebpf, tables)?;
        replace(ebpf, "ENDPOINTS", &old.endpoints, &tables.endpoints)?;
        replace(ebpf, "RULES", &old.rules, &tables.rules)?;
        replace(ebpf, "METERS", &old.meters.borrow(), &tables.meters.borrow())?;
        replace(ebpf, "USAGES", &old.usages.borrow(), &tables.usages.borrow())?;
        replace(ebpf, "LIMITS", &old.limits, &tables.limits)?;
        let mut nobodys: Array<_, u64> = map(ebpf, "NOBODYS")?;
        let (before, now) = (somebodys(&old), somebodys(tables));
        for word in before.keys().chain(now.keys()) {
            nobodys.set(*word, !now.get(word).copied().unwrap_or(0), 0)?;
        }
        let mut next_hops: Array<_, _> = map(ebpf, "NEXT_HOPS")?;
        for index in old.next_hops.keys().chain(tables.next_hops.keys()) {
            next_hops.set(*index, tables.next_hops.get(index).copied().unwrap_or_default(), 0)?;
        }
        let mut routers: Array<_, Router> = map(ebpf, "ROUTERS")?;
        for scope in old.routers.keys().chain(tables.routers.keys()) {
            routers.set(*scope, tables.routers.get(scope).copied().unwrap_or_default(), 0)?;
        }
        let route = |(scope, address, len): &Prefix| {
            Key::new(TRIE_PREFIX + u32::from(*len), RouteKey { scope: *scope, destination: words(*address) })
        };
        let mut routes: LpmTrie<_, RouteKey, u32> = map(ebpf, "ROUTES")?;
        old.routes.keys().try_for_each(|it| routes.remove(&route(it)))?;
        tables.routes.iter().try_for_each(|(it, next_hop)| routes.insert(&route(it), next_hop, 0))?;
        let peer = |(network, address, len): &Prefix| {
            Key::new(TRIE_PREFIX + u32::from(*len), PeerKey { network: *network, address: words(*address) })
        };
        let mut peers: LpmTrie<_, PeerKey, u8> = map(ebpf, "PEERS")?;
        old.peers.keys().try_for_each(|it| peers.remove(&peer(it)))?;
        tables.peers.keys().try_for_each(|it| peers.insert(&peer(it), 1, 0))?;
        let framed = |(port, address, len): &(Port, u128, u8)| {
            let key = FramedKey { port: *port, address: words(*address) };
            Key::new(FRAMED_PREFIX + u32::from(*len), key)
        };
        let mut users: LpmTrie<_, FramedKey, FramedUser> = map(ebpf, "FRAMED")?;
        old.framed.keys().try_for_each(|it| users.remove(&framed(it)))?;
        tables.framed.iter().try_for_each(|(it, user)| users.insert(&framed(it), user, 0))?;
        Ok(())
    }

    /// Runs a packet.
    ///
    /// # Errors
    /// The kernel does not run it.
    pub fn run(&mut self, hook: Hook, packet: &[u8]) -> Result<Frame<'_>> {
        self.run_with(hook, packet, None)
    }

    /// Runs a packet on XDP, with so many bytes of it where packet pointers see them (Linux 6.18).
    ///
    /// # Errors
    /// The kernel does not run it.
    pub fn run_in_fragments(&mut self, packet: &[u8], linear: u32) -> Result<Frame<'_>> {
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, linear, 0, 0, 0, 0].map(u32::to_ne_bytes).concat();
        self.run_with(Hook::Xdp, packet, Some(&context))
    }

    fn run_with(&mut self, hook: Hook, packet: &[u8], context: Option<&[u8]>) -> Result<Frame<'_>> {
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut self.out),
            ctx_in: context,
            repeat: 1,
            ..TestRunOptions::default()
        };
        let result = match hook {
            Hook::Xdp => {
                let program: &Xdp = self.ebpf.program(XDP_PROGRAM).context("no XDP program")?.try_into()?;
                program.test_run(options)
            }
            Hook::Tc => {
                let program = self.ebpf.program(TC_PROGRAM).context("no TC program")?;
                let program: &SchedClassifier = program.try_into()?;
                program.test_run(options)
            }
        };
        let result = result.context("BPF_PROG_TEST_RUN")?;
        let bytes = self.out.get(..result.data_size_out as usize).unwrap_or_default();
        Ok(Frame { action: result.return_value, bytes })
    }

    /// Runs a packet over and over on several threads, on XDP. Returns how often that was.
    ///
    /// # Errors
    /// The kernel does not run it.
    pub fn hammer(&self, packet: &[u8], threads: u32, lasts: Duration) -> Result<u64> {
        let program: &Xdp = self.ebpf.program(XDP_PROGRAM).context("no XDP program")?.try_into()?;
        let end = Instant::now() + lasts;
        let run = || {
            let mut times = 0;
            while Instant::now() < end {
                let options =
                    TestRunOptions { data_in: Some(packet), repeat: 1, ..TestRunOptions::default() };
                program.test_run(options).context("BPF_PROG_TEST_RUN")?;
                times += 1;
            }
            Ok(times)
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
            let failed = |_| anyhow::anyhow!("a thread has panicked");
            threads.into_iter().map(|it| it.join().map_err(failed)?).sum()
        })
    }

    /// What has been used by a URR.
    ///
    /// # Errors
    /// There is no such usage.
    pub fn usage(&self, key: &UsageKey) -> Result<Usage> {
        let usages: HashMap<&MapData, UsageKey, Usage> =
            self.ebpf.map("USAGES").context("no map")?.try_into()?;
        Ok(usages.get(key, 0)?)
    }

    /// What was counted since the last call.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn counted(&mut self) -> Result<Counted> {
        let mut now = Counted::default();
        let counters: PerCpuArray<&MapData, Counter> =
            self.ebpf.map("SESSION_COUNTERS").context("no map")?.try_into()?;
        for index in 0..4 * INDICES {
            now.sessions.insert(index, sum(&counters.get(&index, 0)?));
        }
        let counters: PerCpuArray<&MapData, Counter> =
            self.ebpf.map("NETWORK_COUNTERS").context("no map")?.try_into()?;
        for network in 0..INDICES as u16 {
            for reason in Reason::ALL.iter().map(|it| *it as u8) {
                let index = network_counter_index(network, reason);
                now.networks.insert((network, reason), sum(&counters.get(&index, 0)?));
            }
        }
        let since = Counted {
            sessions: since(&now.sessions, &self.before.sessions),
            networks: since(&now.networks, &self.before.networks),
        };
        self.before = now;
        Ok(since)
    }

    /// On-link neighbours that were asked for since the last call.
    ///
    /// # Errors
    /// The ring buffer cannot be read.
    pub fn wanted(&mut self) -> Result<Vec<RouteKey>> {
        let mut events: RingBuf<&mut MapData> = map(&mut self.ebpf, "EVENTS")?;
        let mut wanted = Vec::new();
        while let Some(item) = events.next() {
            let Ok(event) = Event::read_from_bytes(&item) else { continue };
            if event.kind == EventKind::NeighbourWanted as u32 {
                wanted.push(RouteKey { scope: event.scope, destination: event.address });
            }
        }
        Ok(wanted)
    }
}

fn replace<K, V>(ebpf: &mut Ebpf, name: &str, old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Result<()>
where
    K: Pod + Ord,
    V: Pod,
{
    let mut map: HashMap<_, K, V> = map(ebpf, name)?;
    for key in old.keys().filter(|it| !new.contains_key(it)) {
        map.remove(key).with_context(|| format!("map {name}"))?;
    }
    new.iter().try_for_each(|(key, value)| map.insert(key, value, 0)).with_context(|| format!("map {name}"))
}

/// Over all CPUs.
fn sum(values: &[Counter]) -> Counter {
    values.iter().fold(Counter::default(), |sum, it| Counter {
        packets: sum.packets + it.packets,
        bytes: sum.bytes + it.bytes,
    })
}

/// What has been added; nothing for nothing.
fn since<K: Ord + Copy>(now: &BTreeMap<K, Counter>, before: &BTreeMap<K, Counter>) -> BTreeMap<K, Counter> {
    let added = now.iter().map(|(key, it)| {
        let before = before.get(key).copied().unwrap_or_default();
        (*key, Counter { packets: it.packets - before.packets, bytes: it.bytes - before.bytes })
    });
    added.filter(|(_, it)| *it != Counter::default()).collect()
}

fn map<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<T>
where
    T: TryFrom<&'a mut Map>,
    T::Error: std::error::Error + Send + Sync + 'static,
{
    let map = ebpf.map_mut(name).with_context(|| format!("no map {name} in the object"))?;
    T::try_from(map).with_context(|| format!("map {name}"))
}
