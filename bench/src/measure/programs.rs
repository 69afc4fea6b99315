//! The programs and their tables, loaded into the kernel and attached to nothing.

use super::scenario::{Path, Scenario, downlink_key, relay_key, uplink_key, user};
use anyhow::{Context, Result, ensure};
use aya::maps::xdp::DevMap;
use aya::maps::{Array, HashMap, Map, ProgramArray};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use netplane::dataplane::{XDP_PROGRAM, object};
use netplane_common::map::{DownlinkEntry, DownlinkKey4, NextHop, UplinkEntry, UplinkKey};
use netplane_common::testing::cases;
use netplane_common::wire::Be32;

pub(super) const EMPTY: &str = "empty";
pub(super) const TESTED: &str = "netplane_xdp";

/// Sizes of `netplane-ebpf/src/bench/wrapper.rs`.
const TEMPLATE: usize = 80;

/// `FloorSession` of `netplane-ebpf/src/bench/floor.rs`: user, peer, local, TEID, next hop, counter.
type FloorSession = [u32; 6];

/// `FloorNextHop` of the same file: MACs, port.
type FloorNextHop = [u32; 4];

/// The product's object and the benches' one.
pub struct Programs {
    product: Ebpf,
    bench: Ebpf,
}

impl Programs {
    /// Loads both objects with tables for so many sessions on each path.
    ///
    /// # Errors
    /// No privilege, or a program or map that the kernel refuses.
    pub fn load(sessions: u32) -> Result<Self> {
        let mut product = EbpfLoader::new().load(object()).context("cannot load the product's object")?;
        let bench_object = aya::include_bytes_aligned!(env!("NETPLANE_BENCH_BPF_OBJECT"));
        let mut bench = EbpfLoader::new().load(bench_object).context("cannot load the benches' object")?;
        load_program(&mut product, XDP_PROGRAM)?;
        for name in ["wrapper", EMPTY, "floor_uplink", "floor_downlink"] {
            load_program(&mut bench, name)?;
        }
        let mut this = Self { product, bench };
        this.fill(sessions).context("cannot fill the tables")?;
        Ok(this)
    }

    fn fill(&mut self, sessions: u32) -> Result<()> {
        let standard = cases::standard();
        let mut next_hops: Array<_, NextHop> = map(&mut self.product, "NEXT_HOPS")?;
        standard.next_hops.iter().try_for_each(|(index, it)| next_hops.set(*index, it, 0))?;
        let mut next_hops: Array<_, FloorNextHop> = map(&mut self.bench, "FLOOR_NEXT_HOPS")?;
        next_hops.set(cases::TO_ROUTER, floor_next_hop(cases::ROUTER_MAC, cases::POD_N6_MAC), 0)?;
        next_hops.set(cases::TO_GNB, floor_next_hop(cases::GNB_MAC, cases::POD_N3_MAC), 0)?;
        let mut ports: DevMap<_> = map(&mut self.product, "PORTS")?;
        ports.set(cases::OTHER_PORT, cases::IFINDEX, None, 0)?;
        let mut ports: DevMap<_> = map(&mut self.bench, "FLOOR_PORTS")?;
        ports.set(cases::OTHER_PORT, cases::IFINDEX, None, 0)?;

        let mut uplink: HashMap<_, UplinkKey, UplinkEntry> = map(&mut self.product, "UPLINK")?;
        for session in 0..sessions {
            let entry = UplinkEntry { ue4: user(session).into(), counter: session, ..cases::uplink_entry() };
            uplink.insert(uplink_key(session), entry, 0)?;
        }
        // The relay's sessions are no more than there is room for beside the uplink's.
        for session in 0..sessions.min(RELAYS) {
            let entry = UplinkEntry { counter: session, ..cases::relay_entry() };
            let entry = UplinkEntry { next_hop4: cases::TO_GNB, ..entry };
            uplink.insert(relay_key(session), entry, 0)?;
        }
        let mut downlink: HashMap<_, DownlinkKey4, DownlinkEntry> = map(&mut self.product, "DOWNLINK4")?;
        for session in 0..sessions {
            let entry =
                DownlinkEntry { counter: FLOOR_DOWNLINK_COUNTERS + session, ..cases::downlink_entry() };
            downlink.insert(downlink_key(session), entry, 0)?;
        }
        self.fill_floor(sessions)
    }

    fn fill_floor(&mut self, sessions: u32) -> Result<()> {
        let raw = |address: std::net::Ipv4Addr| Be32::from(address).raw();
        let session = |session: u32, next_hop, counter| -> FloorSession {
            let teid = Be32::new(cases::DOWNLINK_TEID).raw();
            [raw(user(session)), raw(cases::GNB), raw(cases::POD_N3), teid, next_hop, counter]
        };
        let mut uplink: HashMap<_, [u32; 2], FloorSession> = map(&mut self.bench, "FLOOR_UPLINK")?;
        for it in 0..sessions {
            let key = [uplink_key(it).teid.raw(), raw(cases::POD_N3)];
            uplink.insert(key, session(it, cases::TO_ROUTER, it), 0)?;
        }
        let mut downlink: HashMap<_, u32, FloorSession> = map(&mut self.bench, "FLOOR_DOWNLINK")?;
        for it in 0..sessions {
            let value = session(it, cases::TO_GNB, FLOOR_DOWNLINK_COUNTERS + it);
            downlink.insert(raw(user(it)), value, 0)?;
        }
        Ok(())
    }

    /// Writes the scenario's templates, one for each session.
    pub(super) fn load_templates(&mut self, scenario: Scenario) -> Result<()> {
        let mut templates: Array<_, [u64; TEMPLATE / 8]> = map(&mut self.bench, "TEMPLATES")?;
        for n in 0..scenario.templates() {
            let packet = scenario.packet(n);
            let mut words = [0_u64; TEMPLATE / 8];
            for (word, bytes) in words.iter_mut().zip(packet.chunks_exact(8)) {
                *word = u64::from_ne_bytes(bytes.try_into()?);
            }
            templates.set(n, words, 0)?;
        }
        Ok(())
    }

    /// Nanoseconds that one packet takes through the wrapper and the target.
    pub(super) fn run(&mut self, scenario: Scenario, target: &str, packets: u32) -> Result<f64> {
        let packet = scenario.packet(0);
        let mut cursor: Array<_, [u32; 3]> = map(&mut self.bench, "CURSOR")?;
        cursor.set(0, [scenario.templates(), u32::try_from(packet.len())?, 0], 0)?;
        let from = if target == TESTED { &mut self.product } else { &mut self.bench };
        let program = program(from, target)?.fd()?.try_clone()?;
        let mut slot: ProgramArray<_> = map(&mut self.bench, "TARGET")?;
        slot.set(0, &program, 0)?;
        let options = TestRunOptions { data_in: Some(&packet), repeat: packets, ..TestRunOptions::default() };
        let result = self.wrapper()?.test_run(options).context("BPF_PROG_TEST_RUN")?;
        let wanted = if target == EMPTY { Path::Pass.action() } else { scenario.path.action() };
        ensure!(
            result.return_value == wanted,
            "{target} on {}: the last packet's action was {}, not {wanted}",
            scenario.path.name(),
            result.return_value
        );
        Ok(result.duration.as_nanos() as f64)
    }

    fn wrapper(&mut self) -> Result<&Xdp> {
        program(&mut self.bench, "wrapper").map(|it| &*it)
    }
}

/// Relay sessions that fit the uplink table beside its own.
const RELAYS: u32 = 30_000;

/// Where the downlink's counters start.
const FLOOR_DOWNLINK_COUNTERS: u32 = 1 << 17;

fn floor_next_hop(to: [u8; 6], from: [u8; 6]) -> FloorNextHop {
    let [a, b, c, d, e, f] = to;
    let [g, h, i, j, k, l] = from;
    let word = u32::from_ne_bytes;
    [word([a, b, c, d]), word([e, f, g, h]), word([i, j, k, l]), cases::OTHER_PORT]
}

impl Scenario {
    fn templates(self) -> u32 {
        match self.path {
            Path::Relay => self.sessions.min(RELAYS),
            Path::Pass => 1,
            _ => self.sessions,
        }
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name} in the object"))?;
    Ok(program.try_into()?)
}

fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    program(ebpf, name)?.load().with_context(|| format!("the kernel refuses the program {name}"))
}

fn map<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<T>
where
    T: TryFrom<&'a mut Map>,
    T::Error: std::error::Error + Send + Sync + 'static,
{
    let map = ebpf.map_mut(name).with_context(|| format!("no map {name} in the object"))?;
    T::try_from(map).with_context(|| format!("map {name}"))
}

/// The bench reads and writes its maps as plain words; this says that they are.
const _: fn() = || {
    fn plain<T: Pod>() {}
    plain::<FloorSession>();
    plain::<FloorNextHop>();
};
