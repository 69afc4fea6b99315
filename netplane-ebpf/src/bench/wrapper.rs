//! The wrappers that repeat a program on fresh packets, on XDP and on TC, and what is run beside it.

use crate::load::{self, HEAD};
use crate::packet::{Bytes, at};
use crate::xdp::XdpFrame;
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_skb_adjust_room};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::ProgramArray;
use aya_ebpf::programs::{TcContext, XdpContext};
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

/// Element 0 is the program under test, of TC.
#[map]
static TC_TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The same on TC. Room comes and goes behind the link header, as the product has it.
#[classifier]
fn tc_wrapper(ctx: TcContext) -> i32 {
    tc_wrap(&ctx).unwrap_or(TC_ACT_SHOT)
}

#[inline(always)]
fn tc_wrap(ctx: &TcContext) -> Option<i32> {
    let config = load::config()?;
    let template = load::template(0)?;
    let turn = load::turn(config, load::state()?)?;
    let missing = i32::from(template.length as i16) - ctx.len() as i32;
    if missing != 0 {
        change_room(ctx, missing)?;
    }
    let frame = Bytes { start: ctx.data(), end: ctx.data_end() };
    // All headers of the shortest frame, and of one with a tunnel.
    let [a, b, c, d, e, f, g, h, i, ..] = template.head;
    // SAFETY: `at` has checked the bounds; BPF may access packets unaligned.
    unsafe {
        if let Some(to) = frame.at::<[u64; 14]>(0) {
            let [.., j, k, l, m, n, _, _, _, _, _, _] = template.head;
            *to = [a, b, c, d, e, f, g, h, i, j, k, l, m, n];
        } else {
            *frame.at::<[u64; 9]>(0)? = [a, b, c, d, e, f, g, h, i];
        }
    }
    load::write(frame, template, turn, config)?;
    // SAFETY: a helper without arguments.
    let _ = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the program under test has the same type; control does not come back.
    unsafe { TC_TARGET.tail_call(ctx, 0) };
    None
}

#[inline(always)]
fn change_room(ctx: &TcContext, by: i32) -> Option<()> {
    // SAFETY: the context is this program's, and no pointer into the packet is used any more.
    (unsafe { bpf_skb_adjust_room(ctx.skb.skb, by, BPF_ADJ_ROOM_MAC, 0) } == 0).then_some(())
}

/// What wrapper and run cost on TC.
#[classifier]
fn tc_empty(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// What a tunnel over IPv4 with a PDU Session Container adds.
const TUNNEL: i32 = 20 + 8 + 16;

/// The least of an uplink on TC: the kernel makes the packet shorter.
#[classifier]
fn tc_shorter(ctx: TcContext) -> i32 {
    change_room(&ctx, -TUNNEL).map_or(TC_ACT_SHOT, |()| TC_ACT_REDIRECT)
}

/// The least of a downlink on TC.
#[classifier]
fn tc_longer(ctx: TcContext) -> i32 {
    change_room(&ctx, TUNNEL).map_or(TC_ACT_SHOT, |()| TC_ACT_REDIRECT)
}
