//! A pod's selection of networks.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netplane_bench::fuzz::selection;

fuzz_target!(|data: &[u8]| selection(data));
