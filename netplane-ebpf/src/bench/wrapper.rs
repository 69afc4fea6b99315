//! The wrapper that repeats a program on fresh packets, and the empty program.

use crate::load::{self, HEAD};
use crate::packet::{Bytes, at};
use crate::xdp::XdpFrame;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::XdpContext;
use netplane_common::frame::Frame;

/// Element 0 is the program under test.
#[map]
static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Puts the head back to where the packet started, writes the next session's headers over it and tail-calls
/// the program under test: BPF_PROG_TEST_RUN does not restore packets between repetitions.
#[xdp(frags)]
fn wrapper(ctx: XdpContext) -> u32 {
    wrap(&ctx).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn wrap(ctx: &XdpContext) -> Option<u32> {
    let config = load::config()?;
    let template = load::template(0)?;
    let turn = load::turn(config, load::state()?)?;
    let mut frame = XdpFrame::new(ctx);
    let moved = isize::from(template.length as i16) - frame.len() as isize;
    if moved != 0 {
        frame.move_head(moved)?;
    }
    // The whole head, or as many words of it as a short frame has: what a program changes is in them.
    let [a, b, c, d, e, f, g, h, i, rest @ ..] = template.head;
    // SAFETY: `at` has checked the bounds; BPF may access packets unaligned.
    unsafe {
        if let Some(to) = at::<[u64; HEAD / 8]>(ctx, 0) {
            *to = template.head;
        } else if let Some(to) = at::<[u64; 15]>(ctx, 0) {
            *to = [a, b, c, d, e, f, g, h, i, rest[0], rest[1], rest[2], rest[3], rest[4], rest[5]];
        } else if let Some(to) = at::<[u64; 9]>(ctx, 0) {
            *to = [a, b, c, d, e, f, g, h, i];
        } else {
            // The shortest: an Echo Request.
            *at::<[u64; 7]>(ctx, 0)? = [a, b, c, d, e, f, g];
        }
    }
    load::write(Bytes { start: ctx.data(), end: ctx.data_end() }, template, turn, config)?;
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
#[xdp(frags)]
fn empty(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}
