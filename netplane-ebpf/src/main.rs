//! The packet programs of netplane: entry points and glue. What happens to a packet is decided in
//! `netplane_common::decide`; here are only the maps, the frame and the kernel's verdicts.

#![no_std]
#![no_main]
// Inline assembly for BPF, and telling constant offsets from others: see `xdp::XdpFrame::at`.
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "there is no other way to ask whether a value is a constant")]

mod counters;
mod maps;
mod tables;
mod xdp;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use netplane_common::decide::decide;
use netplane_common::frame::Frame;
use netplane_common::map::NO_INDEX;
use netplane_common::verdict::Verdict;

/// Attached to every master that carries a fast-path network.
#[xdp]
#[inline(always)]
fn netplane_xdp(ctx: XdpContext) -> u32 {
    let ifindex = ctx.ingress_ifindex() as u32;
    let mut frame = xdp::XdpFrame::new(&ctx);
    match decide(&mut frame, &tables::Maps, ifindex) {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::PassCounted { network, reason } => {
            counters::count(network, reason, frame.len());
            xdp_action::XDP_PASS
        }
        Verdict::Transmit => xdp_action::XDP_TX,
        Verdict::Redirect { port } => redirect(port),
        Verdict::Answer { network, reason, port } => {
            counters::count(network, reason, frame.len());
            if port == NO_INDEX { xdp_action::XDP_TX } else { redirect(port) }
        }
        Verdict::Drop { network, reason } => {
            let count = counters::count(network, reason, frame.len());
            counters::sample(&ctx, network, reason, count);
            xdp_action::XDP_DROP
        }
    }
}

/// Out by a master. One that has vanished: dropped, as a frame already rewritten cannot be passed.
#[inline(always)]
fn redirect(port: u32) -> u32 {
    maps::PORTS.redirect(port, u64::from(xdp_action::XDP_DROP)).unwrap_or_else(|action| action)
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
