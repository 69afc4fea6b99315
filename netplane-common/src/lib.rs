//! What the BPF programs and user space share: wire formats, map layouts, the verdict and
//! drop-reason enums, and the forwarding decision itself.
//!
//! A packet's way through this crate: `frame` (bytes behind one bounds check) → `wire` (headers) →
//! `parse` → `decide` (one session lookup in `tables`) → `rewrite` → `verdict`.
//! Nothing here allocates, logs or does I/O, so that the same code runs in the kernel, in unit
//! tests, in fuzzers and in the reference runs of the benches.

#![cfg_attr(not(any(test, feature = "testing", feature = "user")), no_std)]
#![deny(unsafe_code)]

pub mod frame;
pub mod wire;

pub mod map;
pub mod tables;
pub mod verdict;

pub mod decide;
mod parse;
mod rewrite;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
