//! Counting: sessions in shared elements, verdicts in per-CPU ones; and the sampled log of drops.

use crate::maps;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::info;
use core::arch::asm;
use netplane_common::map::{Counter, network_counter_index};
use netplane_common::verdict::Reason;

/// Of the drops of one reason on one CPU, the first and then one in this many (a power of two) is logged.
const SAMPLE: u64 = 1024;

/// Adds a packet to an element that several CPUs share.
#[inline(always)]
pub(crate) fn add_shared(counter: *mut Counter, bytes: u64) {
    // The target has no atomic read-modify-write in `core`, though the machine does (BPF_ATOMIC).
    // SAFETY: a map value that the verifier has checked for null; 8-byte aligned, as all values are.
    unsafe {
        asm!(
            "lock *(u64 *)({counter} + 0) += {one}",
            "lock *(u64 *)({counter} + 8) += {bytes}",
            counter = in(reg) counter,
            one = in(reg) 1_u64,
            bytes = in(reg) bytes,
            options(nostack),
        );
    }
}

/// Counts a packet that was not forwarded. Returns how many there were before on this CPU.
#[inline(always)]
pub(crate) fn count(network: u16, reason: Reason, bytes: usize) -> u64 {
    let Some(counter) = maps::NETWORK_COUNTERS.get_ptr_mut(network_counter_index(network, reason as u8))
    else {
        return 0;
    };
    // SAFETY: a per-CPU map value that the verifier has checked for null: nobody else writes it now.
    unsafe {
        let before = (*counter).packets;
        (*counter).packets = before.wrapping_add(1);
        (*counter).bytes = (*counter).bytes.wrapping_add(bytes as u64);
        before
    }
}

/// Logs some drops, so that a person can see what they are; never all of them.
#[inline(always)]
pub(crate) fn sample(ctx: &XdpContext, network: u16, reason: Reason, count: u64) {
    if count & (SAMPLE - 1) == 0 {
        info!(ctx, "drop: network {} reason {} count {}", network, reason as u8, count);
    }
}
