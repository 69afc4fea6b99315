//! Programs of the benches, not part of the product: the wrapper that repeats a program on fresh
//! packets, the empty program, and the floor, which is the least that a tunnel end can do.

#![no_std]
#![no_main]
// What `xdp::XdpFrame` needs.
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "there is no other way to ask whether a value is a constant")]

mod xdp;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_xdp_adjust_head};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, DevMap, HashMap, PerCpuArray, ProgramArray};
use aya_ebpf::programs::XdpContext;
use netplane_common::frame::Frame;
use netplane_common::map::{Counter, NextHop};
use netplane_common::wire::Be32;

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

/// What the floor needs to know of a session.
#[repr(C)]
pub struct FloorSession {
    pub ue: Be32,
    pub peer: Be32,
    pub local: Be32,
    pub teid: Be32,
    pub next_hop: u32,
    pub counter: u32,
}

#[map]
static FLOOR_UPLINK: HashMap<[u32; 2], FloorSession> = HashMap::with_max_entries(1 << 17, 0);
#[map]
static FLOOR_DOWNLINK: HashMap<u32, FloorSession> = HashMap::with_max_entries(1 << 17, 0);
#[map]
static FLOOR_NEXT_HOPS: Array<NextHop> = Array::with_max_entries(16, 0);
#[map]
static FLOOR_COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(1 << 18, 0);
#[map]
static FLOOR_PORTS: DevMap = DevMap::with_max_entries(16, 0);

/// A pointer to `T` at the constant `offset`, if all of it is in the frame.
#[inline(always)]
fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() { None } else { Some(start as *mut T) }
}

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
    let mut frame = xdp::XdpFrame::new(ctx);
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

/// The least that an uplink can do: no options, no extension headers but one container at its fixed
/// place, one hash lookup, the user's address, a counter, the TTL, the next hop, the redirect.
#[xdp]
fn floor_uplink(ctx: XdpContext) -> u32 {
    decapsulate(&ctx).unwrap_or(xdp_action::XDP_DROP)
}

const INNER: usize = 14 + 20 + 8 + 16;

#[inline(always)]
fn decapsulate(ctx: &XdpContext) -> Option<u32> {
    // SAFETY: each `at` has checked its bounds.
    unsafe {
        let ether_type = *at::<u16>(ctx, 12)?;
        let protocol = *at::<u8>(ctx, 23)?;
        let port = *at::<u16>(ctx, 36)?;
        let flags = *at::<u8>(ctx, 42)?;
        if ether_type != 0x0008 || protocol != 17 || port != 2152_u16.to_be() || flags != 0x34 {
            return Some(xdp_action::XDP_PASS);
        }
        let key = [*at::<u32>(ctx, 46)?, *at::<u32>(ctx, 30)?];
        let session = FLOOR_UPLINK.get(key)?;
        if *at::<u32>(ctx, INNER + 12)? != session.ue.raw() {
            return None;
        }
        let length = u16::from_be(*at::<u16>(ctx, INNER + 2)?);
        count(session, length)?;
        let next_hop = FLOOR_NEXT_HOPS.get(session.next_hop)?;
        if bpf_xdp_adjust_head(ctx.as_ptr().cast(), (INNER - 14) as i32) != 0 {
            return None;
        }
        link(ctx, next_hop)?;
        hop(ctx, 14)?;
        Some(FLOOR_PORTS.redirect(next_hop.port, 0).unwrap_or_else(|action| action))
    }
}

/// The least that a downlink can do.
#[xdp]
fn floor_downlink(ctx: XdpContext) -> u32 {
    encapsulate(&ctx).unwrap_or(xdp_action::XDP_DROP)
}

#[inline(always)]
fn encapsulate(ctx: &XdpContext) -> Option<u32> {
    // SAFETY: each `at` has checked its bounds.
    unsafe {
        if *at::<u16>(ctx, 12)? != 0x0008 {
            return Some(xdp_action::XDP_PASS);
        }
        let session = FLOOR_DOWNLINK.get(*at::<u32>(ctx, 30)?)?;
        let length = u16::from_be(*at::<u16>(ctx, 16)?);
        count(session, length)?;
        let next_hop = FLOOR_NEXT_HOPS.get(session.next_hop)?;
        hop(ctx, 14)?;
        if bpf_xdp_adjust_head(ctx.as_ptr().cast(), -44) != 0 {
            return None;
        }
        link(ctx, next_hop)?;
        let total = length + 44;
        let mut sum = 0x4500 + u32::from(total) + 0x4000 + 0x4011;
        for address in [session.local.get(), session.peer.get()] {
            sum += (address >> 16) + (address & 0xffff);
        }
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        *at::<[u32; 11]>(ctx, 14)? = [
            (0x4500 << 16 | u32::from(total)).to_be(),
            0x4000_u32.to_be(),
            (0x4011 << 16 | u32::from(!(sum as u16))).to_be(),
            session.local.raw(),
            session.peer.raw(),
            (2152_u32 << 16 | 2152).to_be(),
            (u32::from(length + 24) << 16).to_be(),
            (0x34ff << 16 | u32::from(length + 8)).to_be(),
            session.teid.raw(),
            0x85_u32.to_be(),
            (1_u32 << 24 | 9 << 8).to_be(),
        ];
        Some(FLOOR_PORTS.redirect(next_hop.port, 0).unwrap_or_else(|action| action))
    }
}

#[inline(always)]
fn count(session: &FloorSession, bytes: u16) -> Option<()> {
    let counter = FLOOR_COUNTERS.get_ptr_mut(session.counter)?;
    // SAFETY: a checked per-CPU value.
    unsafe {
        (*counter).packets += 1;
        (*counter).bytes += u64::from(bytes);
    }
    Some(())
}

#[inline(always)]
fn link(ctx: &XdpContext, next_hop: &NextHop) -> Option<()> {
    let to = at::<[u16; 7]>(ctx, 0)?;
    // SAFETY: `at` has checked the bounds of all three.
    unsafe {
        *to.cast::<u64>() = next_hop.macs;
        *to.cast::<u32>().add(2) = next_hop.macs_rest;
        *to.cast::<u16>().add(6) = 0x0008;
    }
    Some(())
}

/// TTL down by one, checksum to match.
#[inline(always)]
fn hop(ctx: &XdpContext, l3: usize) -> Option<()> {
    // SAFETY: `at` has checked the bounds.
    unsafe {
        let ttl = at::<u8>(ctx, l3 + 8)?;
        let checksum = at::<u16>(ctx, l3 + 10)?;
        *ttl = (*ttl).wrapping_sub(1);
        let sum = u32::from(*checksum) + 1;
        *checksum = (sum + u32::from(sum >= 0xffff)) as u16;
    }
    Some(())
}

/// A reachable panic is an endless loop, which the verifier refuses to load.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// As the product's programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
