//! The floor: the least that a tunnel end can do, to compare the product's programs with.

use crate::packet::at;
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, DevMap, HashMap, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use netplane_common::map::Counter;
use netplane_common::wire::Be32;

/// The way out: destination and source MAC, as they are in the frame, and the port.
#[repr(C)]
struct FloorNextHop {
    macs: u64,
    macs_rest: u32,
    port: u32,
}

/// What the floor needs to know of a session.
#[repr(C)]
struct FloorSession {
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
static FLOOR_NEXT_HOPS: Array<FloorNextHop> = Array::with_max_entries(16, 0);
#[map]
static FLOOR_COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(1 << 18, 0);
#[map]
static FLOOR_PORTS: DevMap = DevMap::with_max_entries(16, 0);

/// A session in one cache line with what it counts: what the least costs where a TEID is an index.
#[repr(C, align(64))]
struct FloorLine {
    session: FloorSession,
    teid: Be32,
    reserved: u32,
    counter: Counter,
}

/// As many as TEIDs have values in their lowest 20 bits.
#[map]
static FLOOR_LINES: Array<FloorLine> = Array::with_max_entries(1, 0);

/// The least that an uplink can do: no options, no extension headers but one container at its fixed
/// place, one hash lookup, the user's address, a counter, the TTL, the next hop, the redirect.
#[xdp(frags)]
fn floor_uplink(ctx: XdpContext) -> u32 {
    decapsulate(&ctx, hashed).unwrap_or(xdp_action::XDP_DROP)
}

/// The same with an array in place of the hash table, and the counter beside the session.
#[xdp(frags)]
fn floor_indexed(ctx: XdpContext) -> u32 {
    decapsulate(&ctx, indexed).unwrap_or(xdp_action::XDP_DROP)
}

#[inline(always)]
fn hashed(teid: u32, local: u32, bytes: u16) -> Option<&'static FloorSession> {
    // SAFETY: what a deleted element becomes does not matter here: none is.
    let session = unsafe { FLOOR_UPLINK.get([teid, local]) }?;
    count(session, bytes)?;
    Some(session)
}

#[inline(always)]
fn indexed(teid: u32, local: u32, bytes: u16) -> Option<&'static FloorSession> {
    let line = FLOOR_LINES.get_ptr_mut(u32::from_be(teid) & 0xf_ffff)?;
    // SAFETY: a checked value; one CPU measures.
    let line = unsafe { &mut *line };
    if line.teid.raw() != teid || line.session.local.raw() != local {
        return None;
    }
    line.counter.packets += 1;
    line.counter.bytes += u64::from(bytes);
    Some(&line.session)
}

const INNER: usize = 14 + 20 + 8 + 16;

#[inline(always)]
fn decapsulate(
    ctx: &XdpContext,
    find: impl Fn(u32, u32, u16) -> Option<&'static FloorSession>,
) -> Option<u32> {
    // SAFETY: each `at` has checked its bounds.
    unsafe {
        let ether_type = *at::<u16>(ctx, 12)?;
        let protocol = *at::<u8>(ctx, 23)?;
        let port = *at::<u16>(ctx, 36)?;
        let flags = *at::<u8>(ctx, 42)?;
        if ether_type != 0x0008 || protocol != 17 || port != 2152_u16.to_be() || flags != 0x34 {
            return Some(xdp_action::XDP_PASS);
        }
        let (teid, local) = (*at::<u32>(ctx, 46)?, *at::<u32>(ctx, 30)?);
        let session = find(teid, local, u16::from_be(*at::<u16>(ctx, INNER + 2)?))?;
        if *at::<u32>(ctx, INNER + 12)? != session.ue.raw() {
            return None;
        }
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
#[xdp(frags)]
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
fn link(ctx: &XdpContext, next_hop: &FloorNextHop) -> Option<()> {
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
