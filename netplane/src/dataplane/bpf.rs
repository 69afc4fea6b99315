//! The real kernel: loads the object with pinned maps, keeps the links, reads the counters.

use super::bpffs::Pins;
use super::buffered::Keeper;
use super::failures::{Failures, Layout};
use super::fragments::Fragments;
use super::links::{self, Links};
use super::maps::{Maps, PINNED};
use super::sizes::{self, DEFAULT_RULES, DEFAULT_SESSIONS};
use super::upgrade::Upgrade;
use super::{Attached, Kernel, KernelError, Left, LoadError, Lost, Raised, Statistics, load_xdp, read_back};
use crate::world::tables::{Operation, Tables};
use aya::maps::MapError;
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use netplane_common::map::{
    Buffered, Counter, Event, GtpuEvent, UplinkKey, Usage, UsageKey, UsageLimits, network_counter_index,
};
use netplane_common::verdict::Reason;
use nix::time::{ClockId, clock_gettime};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use zerocopy::FromBytes;

/// The data plane of this node.
pub struct BpfKernel {
    ebpf: Ebpf,
    maps: Maps,
    links: Links,
    pins: Pins,
    upgrade: Upgrade,
    failures: Failures,
    keeper: Keeper,
    logger: EbpfLogger<&'static dyn log::Log>,
}

impl BpfKernel {
    /// Loads the programs, with the maps pinned under `bpffs` if there are any, and puts the programs
    /// into the pinned links: from here on this process's programs forward. Pins of an older layout are taken
    /// over by the first [`Kernel::apply`].
    ///
    /// # Errors
    /// No privilege, no BPF file system, pins of a newer layout, or a kernel that refuses a program.
    pub fn open(bpffs: &Path) -> Result<Self, KernelError> {
        Self::open_sized(bpffs, DEFAULT_SESSIONS, DEFAULT_RULES)
    }

    /// The same with tables for so many sessions, and so many rules of theirs, unless they are there with another
    /// size.
    ///
    /// # Errors
    /// As for [`BpfKernel::open`].
    pub fn open_sized(bpffs: &Path, sessions: u32, rules: u32) -> Result<Self, KernelError> {
        match Self::open_for(bpffs, (sessions, rules), Fragments::Taken) {
            Err(error) if Fragments::Taken.are_refused(&*error.source) => {
                Self::open_for(bpffs, (sessions, rules), Fragments::Refused)
            }
            result => result,
        }
    }

    /// The same with XDP programs for frames of this kind.
    ///
    /// # Errors
    /// As for [`BpfKernel::open`].
    pub fn open_for(
        bpffs: &Path,
        (sessions, rules): (u32, u32),
        fragments: Fragments,
    ) -> Result<Self, KernelError> {
        let pins = Pins::open(bpffs)?;
        let upgrade = Upgrade::begin(&pins)?;
        let paths = PINNED.map(|name| (name, pins.map(name)));
        let layout = Layout::find();
        let index_mask = sizes::index_mask(&pins, sessions);
        let mut loader = EbpfLoader::new();
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        sizes::set(&mut loader, &pins, &index_mask, (sessions, rules));
        if let Ok(layout) = &layout {
            layout.tell(&mut loader);
        }
        let mut ebpf = fragments.load(&mut loader).map_err(|source| KernelError {
            operation: "load the packet programs' object".to_owned(),
            remedy: Some(
                "run as root, or with CAP_BPF and CAP_NET_ADMIN; pins of another configuration go with `netplane \
                 agent --detach`"
                    .to_owned(),
            ),
            source: Box::new(source),
        })?;
        load_xdp(&mut ebpf).map_err(not_loaded)?;
        let logger = EbpfLogger::init(&mut ebpf).map_err(|source| KernelError {
            operation: "open the packet programs' log".to_owned(),
            remedy: None,
            source: Box::new(source),
        })?;
        let maps = Maps::take(&mut ebpf)?;
        let keeper = Keeper::new(super::maps::take(&mut ebpf, "BUFFERED")?);
        let mut links = Links::new(pins.clone(), fragments);
        links.take_over(&mut ebpf)?;
        let failures = Failures::start(&mut ebpf, &pins, layout.as_ref())?;
        let mut this = Self { ebpf, maps, links, pins, upgrade, failures, keeper, logger };
        this.watch();
        Ok(this)
    }
}

impl BpfKernel {
    /// Losses are counted on the masters that have XDP now.
    fn watch(&mut self) {
        if let Err(error) = self.failures.watch(&self.links.on_xdp()) {
            tracing::warn!(%error, "redirects that fail are not counted on all masters");
        }
    }
}

pub(super) fn not_loaded(source: LoadError) -> KernelError {
    KernelError {
        operation: "load the packet programs".to_owned(),
        remedy: Some("netplane needs Linux 5.15 or newer".to_owned()),
        source: Box::new(source),
    }
}

/// Over all CPUs.
fn sum(values: &[Counter]) -> Counter {
    values.iter().fold(Counter::default(), |sum, it| Counter {
        packets: sum.packets.wrapping_add(it.packets),
        bytes: sum.bytes.wrapping_add(it.bytes),
    })
}

fn cannot_read(what: String, source: MapError) -> KernelError {
    KernelError { operation: format!("read {what}"), remedy: None, source: Box::new(source) }
}

impl Kernel for BpfKernel {
    fn read_back(&mut self) -> Result<Left, KernelError> {
        let mut tables = read_back::tables(&self.maps, &self.pins.masters()?)?;
        let known = self.maps.nobodys.know(&tables);
        known.map_err(|it| cannot_read("which MACs the pinned tables have".to_owned(), it))?;
        let known = self.maps.index.know(&tables);
        known.map_err(|it| cannot_read("which slots the pinned tables have".to_owned(), it))?;
        self.upgrade.add_counters(&mut tables)?;
        Ok(Left { tables, in_force: !self.upgrade.is_fresh })
    }

    fn apply(&mut self, operations: &[Operation]) -> Vec<(usize, KernelError)> {
        let (mut failures, mut waiting) = (Vec::new(), BTreeSet::new());
        for (index, operation) in operations.iter().enumerate() {
            let result = match operation {
                Operation::Attach { ifindex, master } => {
                    let attached = self.links.attach(&mut self.ebpf, *ifindex, master);
                    waiting.extend(attached.is_err().then_some(*ifindex));
                    attached
                }
                Operation::Detach { ifindex } => self.links.detach(&mut self.ebpf, *ifindex),
                other => self.maps.apply(other, &self.upgrade.counters),
            };
            failures.extend(result.err().map(|error| (index, error)));
        }
        let is_of_master = |it: &Operation| matches!(it, Operation::Attach { .. } | Operation::Detach { .. });
        if operations.iter().any(is_of_master) {
            self.watch();
        }
        match self.upgrade.finish(&waiting) {
            Ok(gone) => gone.into_iter().for_each(links::wait_until_detached),
            Err(error) => tracing::warn!(%error, "pins of an older layout are left"),
        }
        failures
    }

    fn begin_to_settle(&mut self) -> bool {
        self.maps.index.begin()
    }

    fn settle(&mut self) {
        if let Err(error) = self.maps.settle() {
            tracing::warn!(%error, "sessions are found by their hashes, not by an index");
        }
    }

    fn indexed(&self) -> u32 {
        self.maps.index.in_force()
    }

    fn would_be_indexed(&self, key: &UplinkKey) -> bool {
        self.maps.index.uplink.is_free(key)
    }

    fn network_counters(&mut self, network: u16) -> Result<BTreeMap<u8, Counter>, KernelError> {
        let mut counters = BTreeMap::new();
        for reason in Reason::ALL {
            let index = network_counter_index(network, *reason as u8);
            let values = self.maps.network_counters.get(&index, 0);
            let values =
                values.map_err(|it| cannot_read(format!("the counters of network {network}"), it))?;
            let sum = sum(&values);
            if sum != Counter::default() {
                counters.insert(*reason as u8, sum);
            }
        }
        Ok(counters)
    }

    fn session_counters_len(&self) -> u32 {
        self.maps.session_counters.len()
    }

    fn session_table_bytes(&self) -> u64 {
        sizes::bytes(&self.pins) + self.maps.index.bytes()
    }

    fn session_counters(&mut self, counters: &[u32]) -> Result<Vec<Counter>, KernelError> {
        let read = |index: &u32| {
            let counter = self.maps.session_counters.get(index, 0);
            counter.map(|it| sum(&it)).map_err(|it| cannot_read(format!("session counter {index}"), it))
        };
        counters.iter().map(read).collect()
    }

    fn usage(&mut self, key: &UsageKey) -> Result<Option<(Usage, UsageLimits)>, KernelError> {
        let what = |it| cannot_read(format!("the usage of URR {}", key.urr), it);
        let usage = match self.maps.usages.get(key, 0) {
            Err(MapError::KeyNotFound) => return Ok(None),
            other => other.map_err(what)?,
        };
        match self.maps.limits.get(key, 0) {
            Err(MapError::KeyNotFound) => Ok(Some((usage, UsageLimits::NONE))),
            other => other.map(|limits| Some((usage, limits))).map_err(what),
        }
    }

    fn clock(&self) -> u64 {
        // It cannot fail for this clock.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
    }

    fn drain_events(&mut self) -> Vec<Raised> {
        self.logger.flush();
        let mut events = Vec::new();
        while let Some(item) = self.maps.events.next() {
            events.extend(Event::read_from_bytes(&item).ok().map(Raised::Event));
            events.extend(GtpuEvent::read_from_bytes(&item).ok().map(Raised::Gtpu));
        }
        events
    }

    fn start_buffering(&mut self) -> Result<(), KernelError> {
        self.links.wire_to_release(&mut self.ebpf)?;
        self.keeper.start()
    }

    fn buffered(&mut self) -> Vec<(Buffered, Vec<u8>)> {
        self.keeper.take()
    }

    fn wakes(&self) -> Option<OwnedFd> {
        self.keeper.wakes()
    }

    fn release(&mut self, about: &Buffered, frame: &[u8]) -> Result<(), KernelError> {
        let near = self.links.wire_to_release(&mut self.ebpf)?;
        self.keeper.release(near, about, frame).map_err(|source| KernelError {
            operation: "send a packet into the offload wire".to_owned(),
            remedy: None,
            source: Box::new(source),
        })
    }

    fn count_dropped(&mut self, network: u16, reason: Reason, dropped: Counter) {
        if let Err(error) = self.maps.add_to_network(network, reason, dropped) {
            tracing::warn!(%error, reason = reason.name(), "dropped packets are not counted");
        }
    }

    fn attached(&mut self, ifindex: u32) -> Attached {
        self.links.attached(ifindex)
    }

    fn changed(&mut self, in_force: &Tables) -> Vec<Operation> {
        let again = self.links.masters_to_attach(&self.ebpf).unwrap_or_else(|error| {
            tracing::warn!(%error, "links are not looked after");
            Vec::new()
        });
        let attached = again.into_iter().filter(|it| in_force.masters.contains_key(it));
        let mut changed: Vec<_> = attached.map(|ifindex| Operation::Detach { ifindex }).collect();
        let is_lost = |(index, ifindex): &(&u32, &u32)| !self.maps.leads_to(**index, **ifindex);
        let lost = in_force.ports.iter().filter(is_lost);
        changed.extend(lost.map(|(index, _)| Operation::ClearPort { index: *index }));
        changed
    }

    fn pinned(&self) -> Result<(), KernelError> {
        self.pins.check()
    }

    fn lost(&mut self) -> Result<Lost, KernelError> {
        let packets = self.failures.read();
        let packets =
            packets.map_err(|it| cannot_read("the counters of redirects that fail".to_owned(), it))?;
        Ok(Lost { packets, note: self.failures.note().map(str::to_owned) })
    }

    fn statistics(&mut self) -> Statistics {
        // Those that are not loaded have no information.
        let programs: Vec<_> = self.ebpf.programs().filter_map(|(_, it)| it.info().ok()).collect();
        Statistics::read(&self.pins, &programs)
    }

    fn detach_all(&mut self) -> Result<(), KernelError> {
        let mut masters = self.links.forget(&mut self.ebpf)?;
        for older in self.pins.older() {
            masters.extend(older.linked()?);
        }
        self.pins.remove()?;
        masters.into_iter().for_each(links::wait_until_detached);
        Ok(())
    }
}
