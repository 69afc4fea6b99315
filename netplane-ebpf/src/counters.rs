//! Counting in per-CPU elements, without atomic operations, and the sampled log of drops.

use crate::maps;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::info;
use netplane_common::map::{AnswerBudget, Counter, network_counter_index};
use netplane_common::verdict::Reason;

/// Of the drops of one reason on one CPU, the first and then one in this many (a power of two) is logged.
const SAMPLE: u64 = 1024;

/// Adds a packet to this CPU's element. Returns how many packets it had before.
#[inline(always)]
fn add(counter: *mut Counter, bytes: u64) -> u64 {
    // SAFETY: a per-CPU map value that the verifier has checked for null: nobody else writes it now.
    unsafe {
        let before = (*counter).packets;
        (*counter).packets = before.wrapping_add(1);
        (*counter).bytes = (*counter).bytes.wrapping_add(bytes);
        before
    }
}

/// Counts a forwarded packet.
#[inline(always)]
pub(crate) fn count_session(counter: u32, bytes: u32) {
    if let Some(counter) = maps::SESSION_COUNTERS.get_ptr_mut(counter) {
        add(counter, u64::from(bytes));
    }
}

/// Counts a packet that was not forwarded. Returns how many there were before on this CPU.
#[inline(always)]
pub(crate) fn count(network: u16, reason: Reason, bytes: usize) -> u64 {
    let counter = maps::NETWORK_COUNTERS.get_ptr_mut(network_counter_index(network, reason as u8));
    counter.map_or(0, |counter| add(counter, bytes as u64))
}

/// Takes one from this CPU's budget of answers. The clock is read only where a window's budget is used up.
#[inline(always)]
pub(crate) fn take_answer() -> bool {
    let Some(budget) = maps::ANSWERS.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: as in `add`; the helper has no arguments.
    unsafe {
        if (*budget).left == 0 {
            let now = bpf_ktime_get_ns();
            if now.wrapping_sub((*budget).since) < AnswerBudget::WINDOW_NS {
                return false;
            }
            *budget = AnswerBudget { left: AnswerBudget::PER_WINDOW, since: now };
        }
        (*budget).left = (*budget).left.wrapping_sub(1);
    }
    true
}

/// Logs some drops, so that a person can see what they are; never all of them.
#[inline(always)]
pub(crate) fn sample(ctx: &XdpContext, network: u16, reason: Reason, count: u64) {
    if count & (SAMPLE - 1) == 0 {
        info!(ctx, "drop: network {} reason {} count {}", network, reason as u8, count);
    }
}
