//! What a CNI plugin answers.

#![no_main]

use libfuzzer_sys::fuzz_target;
use netplane_bench::fuzz::result;

fuzz_target!(|data: &[u8]| result(data));
