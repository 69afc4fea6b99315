//! Meters and usages, which all CPUs share: changed by atomic operations.

use crate::maps;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use core::arch::asm;
use netplane_common::map::{Event, EventKind, MeterUse, Rate, UsageKey};
use netplane_common::wire::Be32;

/// So often is a meter tried that other CPUs are charging at the same moment. A packet that has no luck is over
/// the rate: never is more let through than that.
const TRIES: u32 = 8;

/// Whether a packet is within a meter's rate; it is charged for if `take` says so. A meter that has gone lets all
/// through: its rule is about to.
#[inline(always)]
pub(crate) fn meter(meter: &MeterUse, bytes: u32, take: bool) -> bool {
    let Some(state) = maps::METERS.get_ptr_mut(meter.key) else {
        return true;
    };
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_ns() }.wrapping_mul(Rate::TICKS_PER_NS);
    // SAFETY: a map value that the verifier has checked for null, aligned to eight bytes.
    let mut known = unsafe { state.read_volatile() };
    for _ in 0..TRIES {
        let Some(new) = meter.rate.take(known, now, bytes) else {
            return false;
        };
        if !take {
            return true;
        }
        // SAFETY: as above.
        let found = unsafe { exchange(state, known, new) };
        if found == known {
            return true;
        }
        known = found;
    }
    false
}

#[inline(always)]
pub(crate) fn is_used_up(key: &UsageKey, is_uplink: bool) -> bool {
    // SAFETY: the program only reads; a sum that is being added to is the old or the new one.
    match unsafe { (maps::USAGES.get(key), maps::LIMITS.get(key)) } {
        (Some(usage), Some(limits)) => limits.is_used_up(usage, is_uplink),
        _ => false,
    }
}

#[inline(always)]
pub(crate) fn count(key: &UsageKey, bytes: u32, is_uplink: bool, limited: bool) {
    let Some(usage) = maps::USAGES.get_ptr_mut(key) else {
        return;
    };
    let length = u64::from(bytes);
    // SAFETY: as for `meter`; times are written by whoever is last, which is as good.
    let (after, is_first) = unsafe {
        let now = bpf_ktime_get_ns();
        let is_first = (*usage).first == 0;
        if is_first {
            (*usage).first = now;
        }
        (*usage).last = now;
        let (own, packets) = if is_uplink {
            (&raw mut (*usage).uplink_bytes, &raw mut (*usage).uplink_packets)
        } else {
            (&raw mut (*usage).downlink_bytes, &raw mut (*usage).downlink_packets)
        };
        let total = add(&raw mut (*usage).total_bytes, length);
        ((total, add(own, length), add(packets, 1)), is_first)
    };
    if !limited {
        return;
    }
    // SAFETY: as for `is_used_up`.
    let Some(limits) = (unsafe { maps::LIMITS.get(key) }) else {
        return;
    };
    // With the first packet time begins.
    if is_first || limits.tells(after, bytes, is_uplink) {
        let address = [key.urr, 0, 0, 0].map(Be32::new);
        let event = Event { kind: EventKind::UsageReached as u32, scope: key.session, address };
        // A full buffer: a later packet tells again.
        let _ = maps::EVENTS.output::<Event>(event, 0);
    }
}

/// Adds, and returns the sum. The compiler's own atomic operations are not there for this target.
///
/// # Safety
/// A place of eight bytes in a map value.
#[inline(always)]
unsafe fn add(to: *mut u64, what: u64) -> u64 {
    let mut before = what;
    // SAFETY: as the caller says.
    unsafe {
        asm!("{0} = atomic_fetch_add((u64 *)({1} + 0), {0})", inout(reg) before, in(reg) to, options(nostack));
    }
    before.wrapping_add(what)
}

/// Puts `new` where `known` is; returns what was there.
///
/// # Safety
/// As for [`add`].
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn exchange(place: *mut u64, known: u64, new: u64) -> u64 {
    let mut found = known;
    // SAFETY: as the caller says; the instruction has one of its operands in this register.
    unsafe {
        asm!("r0 = cmpxchg_64({0} + 0, r0, {1})", in(reg) place, in(reg) new, inout("r0") found, options(nostack));
    }
    found
}

/// For the lints, which are of the host: it has no such register.
#[cfg(not(target_arch = "bpf"))]
unsafe fn exchange(_place: *mut u64, known: u64, _new: u64) -> u64 {
    known
}
