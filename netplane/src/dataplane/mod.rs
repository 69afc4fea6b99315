//! The only place that touches BPF: the embedded object, links, pins, maps and counters.

mod bpf;
mod bpffs;
mod kernel;
mod links;
mod maps;
mod read_back;

pub use bpf::BpfKernel;
pub use kernel::{AttachedMode, Kernel, KernelError};

/// The compiled packet programs (`netplane-ebpf`), for the loader here, for tests and for benches.
pub fn object() -> &'static [u8] {
    aya::include_bytes_aligned!(env!("NETPLANE_BPF_OBJECT"))
}

/// Name of the XDP program in the object.
pub const XDP_PROGRAM: &str = "netplane_xdp";
