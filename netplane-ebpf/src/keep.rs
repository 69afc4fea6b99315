//! Packets for the agent to keep. Functions that are called: what is said of a packet must not take room on the
//! programs' stacks.

use crate::maps;
use aya_ebpf::bindings::{__sk_buff, BPF_F_CURRENT_CPU, xdp_md};
use aya_ebpf::helpers::bpf_perf_event_output;
use core::ffi::c_void;
use netplane_common::map::Buffered;

/// A frame of an XDP program, which has its tag in it. Returns 1 if the agent has a copy.
#[inline(never)]
pub(crate) fn of_xdp(ctx: *mut xdp_md, counter: u32, pdr: u32, network: u32, len: u32) -> u32 {
    // SAFETY: the kernel's context, which lives as long as the program runs.
    let ifindex = unsafe { (*ctx).ingress_ifindex };
    let about = Buffered { ifindex, counter, pdr, len, network: network as u16, vlan: 0 };
    output(ctx.cast(), &about)
}

/// A frame of a TC program, with its tag beside it.
#[inline(never)]
pub(crate) fn of_skb(skb: *mut __sk_buff, ifindex: u32, counter: u32, pdr: u32, network: u32) -> u32 {
    // SAFETY: as above.
    let (len, tci) = unsafe { ((*skb).len, if (*skb).vlan_present != 0 { (*skb).vlan_tci } else { 0 }) };
    let about = Buffered { ifindex, counter, pdr, len, network: network as u16, vlan: tci as u16 & 0xfff };
    output(skb.cast(), &about)
}

/// The frame's first `len` bytes, behind what is said of it. Without an agent there is no element of this CPU.
#[inline(always)]
fn output(ctx: *mut c_void, about: &Buffered) -> u32 {
    let flags = u64::from(BPF_F_CURRENT_CPU as u32) | u64::from(about.len) << 32;
    let map = (&raw const maps::BUFFERED).cast_mut().cast();
    let data = (&raw const *about).cast_mut().cast();
    // SAFETY: the context is this program's; the helper reads a whole `Buffered`.
    let result = unsafe { bpf_perf_event_output(ctx, map, flags, data, size_of::<Buffered>() as u64) };
    u32::from(result == 0)
}
