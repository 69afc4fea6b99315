//! The annotation that puts a network on the fast path.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netplane_bench::fuzz::fast_path;

fuzz_target!(|data: &[u8]| fast_path(data));
