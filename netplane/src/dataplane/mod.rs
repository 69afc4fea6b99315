//! The only place that touches BPF: the embedded object, links, pins, maps and counters.

mod kernel;

pub use kernel::{AttachedMode, Kernel, KernelError};
