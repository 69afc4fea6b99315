//! The wrapper that repeats a program on fresh packets, and the empty program.

use crate::packet::at;
use crate::xdp::XdpFrame;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, ProgramArray};
use aya_ebpf::programs::XdpContext;
use netplane_common::frame::Frame;

/// Bytes at the start of each packet that the wrapper writes anew: all headers of the largest template.
const TEMPLATE: usize = 80;

/// How many templates there are, the whole packet's length, and which one is next.
#[repr(C)]
struct Cursor {
    templates: u32,
    length: u32,
    next: u32,
}

#[map]
static TEMPLATES: Array<[u64; TEMPLATE / 8]> = Array::with_max_entries(1 << 17, 0);
#[map]
static CURSOR: Array<Cursor> = Array::with_max_entries(1, 0);
/// Element 0 is the program under test.
#[map]
static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Puts the head back to where the packet started, writes the next template over its headers and
/// tail-calls the program under test: BPF_PROG_TEST_RUN does not restore packets between repetitions.
#[xdp]
fn wrapper(ctx: XdpContext) -> u32 {
    wrap(&ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn wrap(ctx: &XdpContext) -> Option<u32> {
    let cursor = CURSOR.get_ptr_mut(0)?;
    // SAFETY: a checked map value; one CPU runs the bench.
    let cursor = unsafe { &mut *cursor };
    let mut frame = XdpFrame::new(ctx);
    let moved = cursor.length as isize - frame.len() as isize;
    if moved != 0 {
        frame.move_head(moved)?;
    }
    let index = cursor.next;
    cursor.next = if index + 1 >= cursor.templates { 0 } else { index + 1 };
    let template = TEMPLATES.get(index)?;
    let to = at::<[u64; TEMPLATE / 8]>(ctx, 0)?;
    // SAFETY: `at` has checked the bounds; BPF may access packets unaligned.
    unsafe { *to = *template };
    // A packet that comes from a device is in the cache, not in this CPU's store buffer: give the stores
    // time to get there, or loads of other widths wait for them and the bench measures that. Reading the
    // clock takes long enough, is ordered, and costs the empty program the same.
    // SAFETY: a helper without arguments.
    let _ = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the program under test has the same type and attach type; control does not come back.
    unsafe { TARGET.tail_call(ctx, 0) };
    None
}

/// What wrapper and run cost without a program under test.
#[xdp]
fn empty(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}
