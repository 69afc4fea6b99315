//! The packet programs of netplane: entry points and glue. What happens to a packet is decided in
//! `netplane_common::decide`; here are only the maps, the frame and the kernel's verdicts.

#![no_std]
#![no_main]
// Inline assembly for BPF, and telling constant offsets from others: see `xdp::at`.
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "there is no other way to ask whether a value is a constant")]

mod counters;
mod failures;
mod keep;
mod maps;
mod skb;
mod tables;
mod tc;
mod usage;
mod xdp;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use netplane_common::decide::packed;
use netplane_common::frame::Frame;
use netplane_common::map::NO_INDEX;
use netplane_common::verdict::{Kind, Packed, Reason};

/// Attached to every master that carries a fast-path network.
#[xdp(frags)]
#[inline(always)]
fn netplane_xdp(ctx: XdpContext) -> u32 {
    let ifindex = ctx.ingress_ifindex() as u32;
    let mut frame = xdp::XdpFrame::new(&ctx);
    let verdict = packed(&mut frame, &tables::Maps::<true>, ifindex);
    match verdict.kind() {
        Kind::Pass => xdp_action::XDP_PASS,
        Kind::PassCounted => {
            counters::count(verdict, frame.len());
            xdp_action::XDP_PASS
        }
        Kind::Transmit => xdp_action::XDP_TX,
        Kind::Redirect => redirect(ifindex, verdict.port()),
        Kind::Drop if verdict.reason_number() == Reason::Malformed as u8 && frame.hides_headers() => {
            counters::count(Packed::pass_counted(verdict.network(), Reason::PassHeadersHidden), frame.len());
            xdp_action::XDP_PASS
        }
        Kind::Drop => {
            counters::count_drop(&ctx, verdict, frame.len());
            xdp_action::XDP_DROP
        }
        Kind::ToAnswer => {
            // SAFETY: a program of the same type, in an element of the map or not.
            unsafe { maps::XDP_ANSWER_FRAGS.tail_call(&ctx, 0) };
            counters::count_drop(&ctx, verdict, frame.len());
            xdp_action::XDP_DROP
        }
        Kind::ToRules => {
            // SAFETY: as above.
            unsafe { maps::XDP_RULES.tail_call(&ctx, 0) };
            xdp_action::XDP_DROP
        }
        // Never: this frame cannot be answered, has no rules, and drivers hand over what they received.
        Kind::Answer | Kind::Unfinished | Kind::Buffered => xdp_action::XDP_PASS,
    }
}

/// On a frame of a session with rules: tail-called by the other, which is the faster without them.
#[xdp(frags)]
#[inline(always)]
fn netplane_xdp_rules(ctx: XdpContext) -> u32 {
    let ifindex = ctx.ingress_ifindex() as u32;
    let mut frame = xdp::XdpFrame::with_rules(&ctx);
    let verdict = packed(&mut frame, &tables::Maps::<true>, ifindex);
    match verdict.kind() {
        Kind::PassCounted => {
            counters::count(verdict, frame.len());
            xdp_action::XDP_PASS
        }
        // To a pod under the same master: TC decides.
        Kind::Pass => xdp_action::XDP_PASS,
        Kind::Transmit => xdp_action::XDP_TX,
        Kind::Redirect => redirect(ifindex, verdict.port()),
        Kind::ToAnswer => {
            // SAFETY: as above.
            unsafe { maps::XDP_ANSWER_FRAGS.tail_call(&ctx, 0) };
            counters::count_drop(&ctx, verdict, frame.len());
            xdp_action::XDP_DROP
        }
        Kind::Drop if verdict.reason_number() == Reason::Malformed as u8 && frame.hides_headers() => {
            counters::count(Packed::pass_counted(verdict.network(), Reason::PassHeadersHidden), frame.len());
            xdp_action::XDP_PASS
        }
        Kind::Drop => {
            counters::count_drop(&ctx, verdict, frame.len());
            xdp_action::XDP_DROP
        }
        // The agent has a copy; or the tables have changed meanwhile: as if the packet had been lost on its way.
        Kind::Buffered | Kind::ToRules | Kind::Answer | Kind::Unfinished => xdp_action::XDP_DROP,
    }
}

/// On a frame that is to be answered: tail-called by the others. Both in one program would need more stack than
/// there is.
#[xdp(frags)]
#[inline(always)]
fn netplane_xdp_answer(ctx: XdpContext) -> u32 {
    let ifindex = ctx.ingress_ifindex() as u32;
    let mut frame = xdp::XdpFrame::to_answer(&ctx);
    let verdict = packed(&mut frame, &tables::Maps::<false>, ifindex);
    match verdict.kind() {
        Kind::Answer => {
            counters::count(verdict, frame.len());
            if verdict.port() == NO_INDEX { xdp_action::XDP_TX } else { redirect(ifindex, verdict.port()) }
        }
        Kind::PassCounted => {
            counters::count(verdict, frame.len());
            xdp_action::XDP_PASS
        }
        Kind::Drop => {
            counters::count_drop(&ctx, verdict, frame.len());
            xdp_action::XDP_DROP
        }
        // The tables have changed meanwhile: as if the packet had been lost on its way.
        _ => xdp_action::XDP_DROP,
    }
}

/// Out by a master. One that has vanished: dropped, as a frame already rewritten cannot be passed.
#[inline(always)]
fn redirect(ifindex: u32, port: u32) -> u32 {
    maps::PORTS.redirect(port, u64::from(xdp_action::XDP_DROP)).unwrap_or_else(|action| {
        failures::netplane_vanished(ifindex);
        action
    })
}

/// A reachable panic is an endless loop, which the verifier refuses to load.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers such as the ring buffer's are for programs under a GPL-compatible licence only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
