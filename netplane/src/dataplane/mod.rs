//! The only place that touches BPF: the embedded object, links, pins, maps and counters.

mod bpf;
mod bpffs;
mod buffered;
mod failures;
mod fragments;
mod index;
mod kernel;
mod links;
mod maps;
mod nobodys;
mod programs;
mod read_back;
mod sizes;
mod statistics;
mod upgrade;

pub use bpf::BpfKernel;
pub use fragments::Fragments;
pub use index::grace;
pub use kernel::{Attached, AttachedMode, Kernel, KernelError, Left, Lost, Raised, TABLE_FULL};
pub use programs::{LoadError, TC_LOCAL_PROGRAM, TC_PROGRAM, XDP_PROGRAM, load_tc, load_xdp};
pub use sizes::{DEFAULT_RULES, DEFAULT_SESSIONS};
pub use statistics::Statistics;

/// The compiled packet programs (`netplane-ebpf`), for the loader here, for tests and for benches.
pub fn object() -> &'static [u8] {
    aya::include_bytes_aligned!(env!("NETPLANE_BPF_OBJECT"))
}
