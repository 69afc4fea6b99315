//! The load generator: writes a scenario's frames and sends them. On live frames it is an XDP program that
//! redirects; behind pktgen it writes over what pktgen made, at TC egress.
//!
//! A frame is a template's head with the fields written anew that tell sessions and flows apart. Which
//! session is next comes from a list that user space has drawn, so that every distribution costs the same.

use crate::packet::Bytes;
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT, xdp_action};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_xdp_adjust_tail};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, DevMap, PerCpuArray};
use aya_ebpf::programs::{TcContext, XdpContext};

/// Bytes at the start of a frame that a template has: all headers, the marker and the time. No live frame is
/// shorter when it is handed in; shorter ones are cut.
pub(crate) const HEAD: usize = 160;

/// Frames of one length. Offsets are from the start of the frame; 0 for a field that is not there.
#[repr(C)]
pub(crate) struct Template {
    pub(crate) head: [u64; HEAD / 8],
    /// Bytes of the frame, without FCS.
    pub(crate) length: u16,
    teid: u16,
    /// Of the 32 bits of the user's address that count up.
    user: u16,
    /// Of the inner source port.
    flow: u16,
    /// Of the inner IPv4 header's checksum.
    ip_checksum: u16,
    /// Of the inner UDP checksum.
    udp_checksum: u16,
    /// Of the 64 bits for the time of sending.
    time: u16,
    reserved: u16,
    first_teid: u32,
    first_user: u32,
    first_flow: u32,
    /// Ones' complement sums over what the checksums cover, without the fields that change.
    ip_sum: u32,
    udp_sum: u32,
    reserved1: u32,
}

/// A session and, of its flows, one.
#[repr(C)]
pub(crate) struct Turn {
    session: u32,
    flow: u32,
}

/// How to send.
#[repr(C)]
pub(crate) struct LoadConfig {
    /// Used elements of `TURNS` and `PATTERN`.
    turns: u32,
    pattern: u32,
    /// Whether frames carry the time when they were sent.
    with_time: u32,
    reserved: u32,
    /// Between two frames of a CPU, in 1/1024 ns; 0 for as fast as possible.
    interval: u64,
}

/// Where a CPU is.
#[repr(C)]
pub(crate) struct LoadState {
    turn: u32,
    step: u32,
    /// Frames to send in all.
    limit: u64,
    sent: u64,
    bytes: u64,
    /// When the next frame is due, in 1/1024 ns.
    due: u64,
    /// Frames that were due more than a millisecond before they could be sent: the rate was not kept.
    late: u64,
}

#[map]
static LOAD_TEMPLATES: Array<Template> = Array::with_max_entries(16, 0);
/// Templates by their index, in the order of sending: the mix of lengths.
#[map]
static PATTERN: Array<u32> = Array::with_max_entries(1024, 0);
#[map]
static TURNS: Array<Turn> = Array::with_max_entries(1, 0);
#[map]
static LOAD_CONFIG: Array<LoadConfig> = Array::with_max_entries(1, 0);
#[map]
static LOAD_STATE: PerCpuArray<LoadState> = PerCpuArray::with_max_entries(1, 0);
/// Element 0 is the interface that live frames go out by.
#[map]
static LOAD_PORT: DevMap = DevMap::with_max_entries(1, 0);

const MILLISECOND: u64 = 1_000_000 << 10;

/// Sends one live frame if one is due. The kernel hands frames in again as they were left, with head and
/// tail put back.
#[xdp]
fn generate(ctx: XdpContext) -> u32 {
    live(&ctx).unwrap_or(xdp_action::XDP_DROP)
}

#[inline(always)]
fn live(ctx: &XdpContext) -> Option<u32> {
    let config = config()?;
    let state = state()?;
    if state.sent >= state.limit {
        return None;
    }
    if config.interval != 0 {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() } << 10;
        if now < state.due {
            return None;
        }
        if now - state.due > MILLISECOND {
            state.late += u64::from(state.due != 0);
            state.due = now;
        }
        state.due += config.interval;
    }
    let template = template(step(config, state)?)?;
    let turn = turn(config, state)?;
    let frame = Bytes { start: ctx.data(), end: ctx.data_end() };
    let handed_in = frame.end - frame.start;
    // SAFETY: `at` has checked the bounds.
    unsafe { *crate::packet::at::<[u64; HEAD / 8]>(ctx, 0)? = template.head };
    write(frame, template, turn, config)?;
    let cut = i32::from(template.length) - handed_in as i32;
    // SAFETY: the context is this program's, and no pointer into the packet is used any more.
    if cut != 0 && unsafe { bpf_xdp_adjust_tail(ctx.as_ptr().cast(), cut) } != 0 {
        return None;
    }
    state.sent += 1;
    state.bytes += u64::from(template.length);
    Some(LOAD_PORT.redirect(0, u64::from(xdp_action::XDP_DROP)).unwrap_or_else(|action| action))
}

/// First bytes of pktgen's payload (`PKTGEN_MAGIC` of the kernel's `net/core/pktgen.c`), behind Ethernet,
/// IPv4 or IPv6, and UDP.
const PKTGEN_MAGIC: u32 = 0xbe9b_e955;
const PKTGEN_AT: [u16; 2] = [14 + 20 + 8, 14 + 40 + 8];

/// Makes a scenario's frame of one of pktgen's, which must have the length of a template. Other frames pass.
#[classifier]
fn stamp(ctx: TcContext) -> i32 {
    let frame = Bytes { start: ctx.data(), end: ctx.data_end() };
    let is_pktgens = PKTGEN_AT.iter().any(|at| {
        // SAFETY: `at` has checked the bounds.
        frame.at::<u32>(*at).is_some_and(|it| unsafe { *it } == PKTGEN_MAGIC.to_be())
    });
    if !is_pktgens {
        return TC_ACT_OK;
    }
    over_pktgen(frame, ctx.len()).map_or(TC_ACT_SHOT, |()| TC_ACT_OK)
}

#[inline(always)]
fn over_pktgen(frame: Bytes, length: u32) -> Option<()> {
    let config = config()?;
    let state = state()?;
    let template = of_length(length)?;
    let turn = turn(config, state)?;
    // Words, then bytes, as far as the frame goes: the shortest end before the head does.
    let mut at = 0_u16;
    for word in &template.head {
        if frame.put(at, *word).is_none() {
            break;
        }
        at += 8;
    }
    for byte in 0..7_u16 {
        let offset = at + byte;
        let Some(word) = template.head.get(usize::from(offset / 8)) else { break };
        if frame.put(offset, (*word >> (u32::from(offset % 8) * 8)) as u8).is_none() {
            break;
        }
    }
    write(frame, template, turn, config)?;
    state.sent += 1;
    state.bytes += u64::from(template.length);
    Some(())
}

#[inline(always)]
fn of_length(length: u32) -> Option<&'static Template> {
    (0..16).find_map(|index| template(index).filter(|it| u32::from(it.length) == length))
}

#[inline(always)]
pub(crate) fn config() -> Option<&'static LoadConfig> {
    LOAD_CONFIG.get(0)
}

#[inline(always)]
pub(crate) fn template(index: u32) -> Option<&'static Template> {
    LOAD_TEMPLATES.get(index)
}

#[inline(always)]
pub(crate) fn state() -> Option<&'static mut LoadState> {
    // SAFETY: a checked value of this CPU; a program on one CPU does not run twice at a time.
    LOAD_STATE.get_ptr_mut(0).map(|it| unsafe { &mut *it })
}

#[inline(always)]
fn step(config: &LoadConfig, state: &mut LoadState) -> Option<u32> {
    let index = state.step;
    state.step = if index + 1 >= config.pattern { 0 } else { index + 1 };
    PATTERN.get(index).copied()
}

#[inline(always)]
pub(crate) fn turn(config: &LoadConfig, state: &mut LoadState) -> Option<&'static Turn> {
    let index = state.turn;
    state.turn = if index + 1 >= config.turns { 0 } else { index + 1 };
    TURNS.get(index)
}

/// The fields that change.
#[inline(always)]
pub(crate) fn write(frame: Bytes, template: &Template, turn: &Turn, config: &LoadConfig) -> Option<()> {
    if template.teid != 0 {
        frame.put(template.teid, template.first_teid.wrapping_add(turn.session).to_be())?;
    }
    let user = template.first_user.wrapping_add(turn.session);
    let flow = template.first_flow.wrapping_add(turn.flow) & 0xffff;
    if template.user != 0 {
        frame.put(template.user, user.to_be())?;
        frame.put(template.flow, (flow as u16).to_be())?;
    }
    let user_sum = (user >> 16) + (user & 0xffff);
    if template.ip_checksum != 0 {
        frame.put(template.ip_checksum, checksum(template.ip_sum + user_sum).to_be())?;
    }
    if template.udp_checksum != 0 {
        let sum = checksum(template.udp_sum + user_sum + flow);
        // RFC 768: zero is sent as all ones.
        frame.put(template.udp_checksum, (if sum == 0 { 0xffff } else { sum }).to_be())?;
    }
    if config.with_time != 0 {
        // SAFETY: a helper without arguments.
        frame.put(template.time, unsafe { bpf_ktime_get_ns() })?;
    }
    Some(())
}

#[inline(always)]
fn checksum(sum: u32) -> u16 {
    let folded = (sum >> 16) + (sum & 0xffff);
    !(((folded >> 16) + folded) as u16)
}
