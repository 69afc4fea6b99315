//! Counting in per-CPU elements, without atomic operations, and the sampled log of drops.

use crate::maps;
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_log_ebpf::info;
use netplane_common::map::{AnswerBudget, Counter, network_counter_index};
use netplane_common::verdict::Packed;

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
pub(crate) fn count(verdict: Packed, bytes: usize) -> u64 {
    let index = network_counter_index(verdict.network(), verdict.reason_number());
    let counter = maps::NETWORK_COUNTERS.get_ptr_mut(index);
    counter.map_or(0, |counter| add(counter, bytes as u64))
}

/// The same for one that is dropped. Some are logged, so that a person can see what they are; never all.
#[inline(always)]
pub(crate) fn count_drop<C: EbpfContext>(ctx: &C, verdict: Packed, bytes: usize) {
    let count = count(verdict, bytes);
    if count & (SAMPLE - 1) == 0 {
        let (network, reason) = (verdict.network(), verdict.reason_number());
        info!(ctx, "drop: network {} reason {} count {}", network, reason, count);
    }
}

/// Elements of the budgets: our own packets, and events of messages.
pub(crate) const ANSWERS: u32 = 0;
pub(crate) const EVENTS: u32 = 1;

/// Takes one from a budget of this CPU. The clock is read only where a window's budget is used up.
#[inline(always)]
pub(crate) fn take(of: u32) -> bool {
    let Some(budget) = maps::ANSWERS.get_ptr_mut(of) else {
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
