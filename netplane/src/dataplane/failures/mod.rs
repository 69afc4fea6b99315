//! Packets that the kernel has lost after the decision: redirects that a driver does not take, frames that it does
//! not send. Nobody is told of them but tracepoints (`xdp:xdp_redirect_err` and others), so programs there count
//! them, pinned as the packet programs are: `BPFFS/v3/tracing/xdp_redirect_err`.
//!
//! Without them everything is forwarded all the same; `status` then says what is not counted.

mod types;

use self::types::Types;
use super::KernelError;
use super::bpffs::Pins;
use super::links::chain;
use super::programs::loaded;
use crate::netlink::netns::Netns;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuHashMap};
use aya::programs::RawTracePoint;
use aya::programs::links::FdLink;
use aya::{Ebpf, EbpfLoader};
use netplane_common::map::FailureKey;
use std::collections::{BTreeMap, BTreeSet};

/// Programs and the tracepoints that they are for.
const PROGRAMS: [(&str, &str); 4] = [
    ("netplane_redirect_err", "xdp_redirect_err"),
    ("netplane_devmap_xmit", "xdp_devmap_xmit"),
    ("netplane_bulk_tx", "xdp_bulk_tx"),
    ("netplane_exception", "xdp_exception"),
];

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What the programs must know of the kernel and of this agent.
pub(super) struct Layout {
    ifindex: u32,
    net: u32,
    inode: u32,
    own: u32,
}

impl Layout {
    pub(super) fn find() -> Result<Self, String> {
        let types = Types::of_kernel()?;
        let own = Netns::current().map_err(|it| chain(&it))?.id().inode;
        Ok(Self {
            ifindex: types.offset("net_device", &["ifindex"])?,
            net: types.offset("net_device", &["nd_net", "net"])?,
            inode: types.offset("net", &["ns", "inum"])?,
            own: u32::try_from(own)
                .map_err(|_| format!("the namespace's inode {own} has more than 32 bits"))?,
        })
    }

    pub(super) fn tell<'l>(&'l self, loader: &mut EbpfLoader<'l>) {
        let globals = [
            ("NET_DEVICE_IFINDEX", &self.ifindex),
            ("NET_DEVICE_NET", &self.net),
            ("NET_INODE", &self.inode),
            ("OWN_INODE", &self.own),
        ];
        for (name, value) in globals {
            loader.override_global(name, value, true);
        }
    }
}

/// The counts, and the masters of which they are.
pub(super) struct Failures {
    counts: PerCpuHashMap<MapData, FailureKey, u64>,
    watched: HashMap<MapData, u32, u8>,
    /// Why they are not counted, or not all.
    note: Option<String>,
}

impl Failures {
    /// Attaches the programs, in place of an earlier agent's. A kernel that has none of it is no error.
    pub(super) fn start(
        ebpf: &mut Ebpf,
        pins: &Pins,
        layout: Result<&Layout, &String>,
    ) -> Result<Self, KernelError> {
        let counts = take(ebpf, "FAILURES")?.try_into().map_err(cannot_open)?;
        let watched = take(ebpf, "WATCHED")?.try_into().map_err(cannot_open)?;
        let attached = layout.map_err(|it| it.clone()).and_then(|_| attach(ebpf, pins));
        let note = attached.err();
        if let Some(note) = &note {
            tracing::warn!(note, "redirects that fail are not counted");
        }
        Ok(Self { counts, watched, note })
    }

    pub(super) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// From now on those of these masters are counted. What others have counted is forgotten.
    pub(super) fn watch(&mut self, masters: &BTreeSet<u32>) -> Result<(), MapError> {
        let watched: BTreeSet<u32> = self.watched.keys().collect::<Result<_, _>>()?;
        masters.difference(&watched).try_for_each(|it| self.watched.insert(it, 1, 0))?;
        watched.difference(masters).try_for_each(|it| self.watched.remove(it))?;
        let keys: Vec<_> = self.counts.keys().collect::<Result<_, _>>()?;
        let gone = keys.iter().filter(|it| !masters.contains(&it.from));
        gone.into_iter().try_for_each(|it| self.counts.remove(it))
    }

    /// Packets, over all CPUs.
    pub(super) fn read(&self) -> Result<BTreeMap<FailureKey, u64>, MapError> {
        let sum = |(key, values): (FailureKey, aya::maps::PerCpuValues<u64>)| (key, values.iter().sum());
        self.counts.iter().map(|it| it.map(sum)).collect()
    }
}

/// All that can be; what cannot is named.
fn attach(ebpf: &mut Ebpf, pins: &Pins) -> Result<(), String> {
    let mut missing = Vec::new();
    for (program, tracepoint) in PROGRAMS {
        if let Err(error) = attach_one(ebpf, pins, program, tracepoint) {
            missing.push(format!("tracepoint {tracepoint}: {}", chain(&*error)));
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) }
}

fn attach_one(ebpf: &mut Ebpf, pins: &Pins, program: &str, tracepoint: &str) -> Result<(), Cause> {
    let program: &mut RawTracePoint =
        ebpf.program_mut(program).ok_or("its program is not in the object")?.try_into()?;
    loaded(|| program.load())?;
    // Such a link cannot be given another program. The old one goes first: nothing is counted twice.
    pins.stop_tracing(tracepoint)?;
    let id = program.attach(tracepoint)?;
    let link = FdLink::from(program.take_link(id)?);
    link.pin(pins.tracing(tracepoint))?;
    Ok(())
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or_else(|| KernelError {
        operation: format!("open the map {name}"),
        remedy: None,
        source: "it is not in the object".into(),
    })
}

fn cannot_open(source: MapError) -> KernelError {
    let operation = "open the maps of redirect failures".to_owned();
    KernelError { operation, remedy: None, source: Box::new(source) }
}
