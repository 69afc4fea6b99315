//! The frame of a TC program: a socket buffer, whose headers are linear, whose VLAN tag lies beside it, and
//! which may be something that no wire has seen (merged segments, unfinished checksums).

use crate::xdp::{self, HEADERS, NO_SUM, at, distance};
use aya_ebpf::bindings::{__sk_buff, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC};
use aya_ebpf::helpers::{
    bpf_csum_update, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_pull_data,
    bpf_skb_vlan_pop, bpf_skb_vlan_push,
};
use aya_ebpf::programs::TcContext;
use netplane_common::frame::Frame;
use netplane_common::map::{Buffered, RELEASED};
use netplane_common::wire::ethernet::{EtherType, Ethernet, VlanTag};
use netplane_common::wire::{Be16, Wire};

/// A tag that is pushed and popped again, see [`change_protocol`].
const PASSING_TAG: u16 = 1;

/// The frame behind a `__sk_buff`, in a program that answers or in one that forwards: sessions without rules, or
/// those with some.
pub(crate) struct SkbFrame<const ANSWERS: bool, const RULES: bool = false> {
    skb: *mut __sk_buff,
    /// The identifier of the VLAN tag that the frame leaves with, [`AS_IT_CAME`], or 0 for none.
    tag: u32,
    /// Interface index of the offload wire's near end; 0: there is none, or the frame has come through it.
    wire: u32,
}

/// No VLAN identifier: whatever tag lies beside the frame stays.
const AS_IT_CAME: u32 = u32::MAX;

impl<const ANSWERS: bool, const RULES: bool> SkbFrame<ANSWERS, RULES> {
    /// Makes the headers linear. Where that fails, they are simply not to be read.
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext, wire: u32) -> Self {
        let frame = Self { skb: ctx.skb.skb, tag: AS_IT_CAME, wire };
        let wanted = if ctx.len() < HEADERS as u32 { ctx.len() } else { HEADERS as u32 };
        if distance(ctx.data(), ctx.data_end()) < wanted as usize {
            // SAFETY: the context is this program's.
            unsafe { bpf_skb_pull_data(frame.skb, wanted) };
        }
        frame
    }

    /// As it is.
    #[inline(always)]
    pub(crate) fn of(skb: *mut __sk_buff) -> Self {
        Self { skb, tag: AS_IT_CAME, wire: 0 }
    }

    /// With the tag that it is to have.
    #[inline(always)]
    pub(crate) fn with_tag(skb: *mut __sk_buff, tag: u32) -> Self {
        Self { skb, tag, wire: 0 }
    }

    #[inline(always)]
    pub(crate) fn tag(&self) -> u32 {
        self.tag
    }

    #[inline(always)]
    pub(crate) fn skb(&self) -> *mut __sk_buff {
        self.skb
    }

    /// A field of the context.
    #[inline(always)]
    fn field(&self, get: impl FnOnce(&__sk_buff) -> u32) -> u32 {
        // SAFETY: the kernel's context, which lives as long as the program runs.
        get(unsafe { &*self.skb })
    }

    /// Whether a tag lies beside the frame.
    #[inline(always)]
    fn has_tag(&self) -> bool {
        self.field(|it| it.vlan_present) != 0
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        at(self.field(|it| it.data) as usize, self.field(|it| it.data_end) as usize, offset)
    }

    /// Gives the frame the tag that it leaves with.
    #[inline(always)]
    pub(crate) fn finish(&mut self) -> Option<()> {
        if self.tag == AS_IT_CAME {
            return Some(());
        }
        // SAFETY: the context is this program's.
        unsafe {
            if self.has_tag() && bpf_skb_vlan_pop(self.skb) != 0 {
                return None;
            }
            if self.tag != 0 && bpf_skb_vlan_push(self.skb, EtherType::VLAN.0.raw(), self.tag as u16) != 0 {
                return None;
            }
        }
        Some(())
    }
}

/// As `netplane_sum` of `xdp`. The whole packet has to be linear for that.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn netplane_skb_sum(skb: *mut __sk_buff, from: u32) -> u32 {
    let ctx = TcContext::new(skb);
    let to = ctx.len();
    // Always, so that the verifier sees one way only; for a linear packet that is little work.
    let _too_long = ctx.pull_data(to);
    xdp::sum(|| (ctx.data(), ctx.data_end()), from as usize, to as usize)
}

/// Whether this is one packet whose checksums are as they say. Functions of their own, which are called: their
/// registers must not take room on the program's stack.
#[inline(never)]
fn is_finished(skb: *mut __sk_buff) -> u32 {
    let mut frame = SkbFrame::<false>::of(skb);
    if frame.field(|it| it.gso_size) != 0 {
        return 0;
    }
    let Some(before) = frame.load::<u16>(0) else {
        return 0;
    };
    // Programs cannot read whether hardware was to finish a checksum (`CHECKSUM_PARTIAL`), but this helper
    // leaves the bytes alone exactly then, and changes them else; they are put back.
    // SAFETY: the context is this program's; a field of two bytes, no pseudo header.
    unsafe { bpf_l4_csum_replace(skb, 0, 0, 1, size_of::<u16>() as u64) };
    if frame.load::<u16>(0) == Some(before) {
        return 0;
    }
    frame.store(0, before);
    // A checksum over all bytes that the device has computed (`CHECKSUM_COMPLETE`) would not follow what is
    // written: growing a buffer makes the kernel forget it.
    // SAFETY: the context is this program's.
    unsafe {
        let len = (*skb).len;
        if bpf_csum_update(skb, 0) >= 0 && bpf_skb_change_tail(skb, len + 1, 0) == 0 {
            bpf_skb_change_tail(skb, len, 0);
        }
    }
    1
}

/// Makes the buffer's protocol that of the packet to be carried. No helper does that on all kernels, but
/// popping a tag takes the protocol from the bytes behind it: two are pushed, so that the first is among the
/// bytes, and both are popped.
#[inline(never)]
fn change_protocol(skb: *mut __sk_buff, ether_type: u16) -> u32 {
    let mut frame = SkbFrame::<false>::of(skb);
    let announced = EtherType::VLAN.0.raw();
    let ether_type = EtherType(Be16::from_raw(ether_type));
    // SAFETY: the context is this program's.
    unsafe {
        if frame.has_tag() {
            bpf_skb_vlan_pop(skb);
        }
        let done = bpf_skb_vlan_push(skb, announced, PASSING_TAG) == 0
            && bpf_skb_vlan_push(skb, announced, PASSING_TAG) == 0
            && frame.store(Ethernet::LEN, VlanTag { tci: Be16::new(PASSING_TAG), ether_type }).is_some()
            && bpf_skb_vlan_pop(skb) == 0
            && bpf_skb_vlan_pop(skb) == 0;
        u32::from(done)
    }
}

impl<const ANSWERS: bool, const RULES: bool> Frame for SkbFrame<ANSWERS, RULES> {
    const FORWARDS: bool = !ANSWERS;
    const ANSWERS: bool = ANSWERS;
    const PLAIN: bool = !RULES;
    const RULES: bool = RULES;

    #[inline(always)]
    fn len(&self) -> usize {
        self.field(|it| it.len) as usize
    }

    #[inline(always)]
    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        // SAFETY: in bounds, and any bytes are a `T`; unaligned as in `XdpFrame::load`.
        self.at::<T>(offset).map(|it| unsafe { *it })
    }

    #[inline(always)]
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()> {
        // SAFETY: as for `load`; the kernel has made the headers this program's own before it ran.
        self.at::<T>(offset).map(|it| unsafe { *it = value })
    }

    #[inline(always)]
    fn move_head(&mut self, by: isize) -> Option<()> {
        // SAFETY: the context is this program's; all pointers into the packet are made anew in `at`.
        unsafe {
            // Behind the Ethernet header, which is written anew or moves along: the kernel's offsets of the
            // headers stay right.
            (bpf_skb_adjust_room(self.skb, by as i32, BPF_ADJ_ROOM_MAC, 0) == 0).then_some(())
        }
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) -> Option<()> {
        // SAFETY: as for `move_head`.
        let result = unsafe { bpf_skb_change_tail(self.skb, len as u32, 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn opaque(&self, offset: usize, by: u32) -> usize {
        xdp::opaque(offset, by)
    }

    #[inline(always)]
    fn keep(&self, about: &Buffered) -> bool {
        crate::keep::of_skb(self.skb, about.ifindex, about.counter, about.pdr, about.network.into()) != 0
    }

    #[inline(always)]
    fn is_released(&self) -> bool {
        // Only at the far end of the wire: the second word of the control buffer says so. Marks of others mean nothing.
        let at_far_end = RULES && self.field(|it| it.cb[1]) != 0;
        at_far_end && self.field(|it| it.mark) & RELEASED != 0
    }

    #[inline(always)]
    fn sum(&self, from: usize, _to: usize) -> Option<u32> {
        // Whatever is added up ends with the frame: `to` would only take room on the stack.
        let sum = netplane_skb_sum(self.skb, from as u32);
        if sum == NO_SUM { None } else { Some(sum) }
    }

    #[inline(always)]
    fn stripped_vlan(&self) -> Option<u16> {
        // The kernel strips a tag before TC sees the frame, if the device has not done so.
        Some(if self.has_tag() { self.field(|it| it.vlan_tci) as u16 } else { 0 })
    }

    #[inline(always)]
    fn leave_with_vlan(&mut self, id: u16) -> bool {
        self.tag = u32::from(id);
        true
    }

    #[inline(always)]
    fn prepare(&mut self) -> bool {
        is_finished(self.skb) != 0
    }

    #[inline(always)]
    fn can_be_finished(&self) -> bool {
        self.wire != 0
    }

    #[inline(always)]
    fn move_head_to(&mut self, by: isize, ether_type: EtherType) -> Option<()> {
        let protocol = EtherType(Be16::from_raw(self.field(|it| it.protocol) as u16));
        if protocol != ether_type && change_protocol(self.skb, ether_type.0.raw()) == 0 {
            return None;
        }
        self.move_head(by)
    }
}
