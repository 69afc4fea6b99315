//! Tests that need a kernel with GTP, VLAN and bonding devices, and pktgen. `cargo xtask test vm` runs them in guests with
//! other kernels; here and there each makes and removes its own network namespaces.

mod buffer;
mod gtp;
mod masters;
mod pktgen;
