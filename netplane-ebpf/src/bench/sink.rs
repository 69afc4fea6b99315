//! Where a scenario's frames end: counted, and their time on the way, in XDP. And the bare redirect, which
//! is the most that a program which forwards by XDP can reach.

use crate::packet::Bytes;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, DevMap, PerCpuArray};
use aya_ebpf::programs::XdpContext;

/// What is in the payload of every frame of a scenario, in front of the time.
const MARKER: u32 = 0x6e70_6c64;

/// What to look for, as offsets from the start of the frame.
#[repr(C)]
struct SinkConfig {
    marker: u16,
    /// Of the 32 bits of the user's address that count up.
    user: u16,
    /// Whether frames carry a time.
    with_time: u16,
    /// Whether to count by session.
    by_session: u16,
    first_user: u32,
    reserved: u32,
}

#[repr(C)]
struct SinkCount {
    frames: u64,
    bytes: u64,
    /// Frames that are not the scenario's; they pass.
    others: u64,
}

/// Steps between two powers of two.
const STEPS: u32 = 16;
/// Up to 2^40 ns.
const BUCKETS: u32 = 40 * STEPS;

#[map]
static SINK_CONFIG: Array<SinkConfig> = Array::with_max_entries(1, 0);
#[map]
static SINK_COUNT: PerCpuArray<SinkCount> = PerCpuArray::with_max_entries(1, 0);
#[map]
static LATENCY: PerCpuArray<u64> = PerCpuArray::with_max_entries(BUCKETS, 0);
#[map]
static SESSION_FRAMES: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Counts and drops the scenario's frames, and passes all others.
#[xdp]
fn sink(ctx: XdpContext) -> u32 {
    take(&ctx).unwrap_or(xdp_action::XDP_PASS)
}

#[inline(always)]
fn take(ctx: &XdpContext) -> Option<u32> {
    let config = SINK_CONFIG.get(0)?;
    let count = SINK_COUNT.get_ptr_mut(0)?;
    let frame = Bytes { start: ctx.data(), end: ctx.data_end() };
    let length = (frame.end - frame.start) as u64;
    // SAFETY: `at` has checked the bounds; the counters are this CPU's own.
    unsafe {
        let marker = frame.at::<u32>(config.marker).map(|it| *it);
        if marker != Some(MARKER.to_be()) {
            (*count).others += 1;
            return None;
        }
        (*count).frames += 1;
        (*count).bytes += length;
        if config.with_time != 0 {
            let sent = *frame.at::<u64>(config.marker + 4)?;
            let bucket = bucket(bpf_ktime_get_ns().wrapping_sub(sent));
            *LATENCY.get_ptr_mut(bucket)? += 1;
        }
        if config.by_session != 0 {
            let user = u32::from_be(*frame.at::<u32>(config.user)?);
            if let Some(frames) = SESSION_FRAMES.get_ptr_mut(user.wrapping_sub(config.first_user)) {
                *frames += 1;
            }
        }
    }
    Some(xdp_action::XDP_DROP)
}

/// Sixteen buckets for each power of two: no more than 6 % wide.
#[inline(always)]
fn bucket(nanoseconds: u64) -> u32 {
    if nanoseconds < u64::from(STEPS) {
        return nanoseconds as u32;
    }
    // BPF has no instruction that counts zeroes.
    let (mut rest, mut power) = (nanoseconds, 0);
    for shift in [32, 16, 8, 4, 2, 1] {
        if rest >> shift != 0 {
            rest >>= shift;
            power += shift;
        }
    }
    let step = (nanoseconds >> (power - 4)) as u32 & (STEPS - 1);
    ((power - 3) * STEPS + step).min(BUCKETS - 1)
}

/// Element 0 is the way out.
#[map]
static REDIRECT_PORT: DevMap = DevMap::with_max_entries(1, 0);

/// Out by the other port, nothing else.
#[xdp]
fn bare_redirect(_ctx: XdpContext) -> u32 {
    REDIRECT_PORT.redirect(0, u64::from(xdp_action::XDP_DROP)).unwrap_or_else(|action| action)
}
