//! Developer verbs, and the BPF build that they share with the `build.rs` of the crates that embed objects.

pub mod bpf;
pub mod run;
pub mod toolchain;
