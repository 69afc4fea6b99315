//! Tables and a frame for the forwarding decision.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use netplane_common::testing::fuzz::{decide, mutated_decide};

fuzz_target!(|data: &[u8]| decide(data));

// Most of the time by who knows where headers are, else by the engine, which knows what was new.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed % 4 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let mutated = mutated_decide(&data[..size], seed);
    let len = mutated.len().min(max_size);
    data[..len].copy_from_slice(&mutated[..len]);
    len
});
