//! Extension header chains of GTP-U (TS 29.281 §5.2).

#![no_main]

use libfuzzer_sys::fuzz_target;
use netplane_common::testing::fuzz::gtpu;

fuzz_target!(|data: &[u8]| gtpu(data));
