//! The frame of an XDP program: direct packet access, with the bounds proof that the verifier asks for
//! in one place.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{
    bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use core::arch::asm;
use core::intrinsics::is_val_statically_known;
use netplane_common::frame::Frame;
use netplane_common::map::Buffered;
use netplane_common::wire::Wire;

/// No offset of ours is larger; the verifier wants a bound before it adds one to a packet pointer.
const MAX_OFFSET: usize = 0x7fff;
/// No offset of a header is larger. Less than `MAX_OFFSET` by more than a header, so that the compiler sees
/// that offsets within one need no further check.
const MAX_HEADER: usize = 0x3fff;

/// What [`netplane_sum`] returns for a range that is not in the frame: no folded sum is that large.
pub(crate) const NO_SUM: u32 = u32::MAX;
/// All headers that the decision looks at, with some extension headers, are in so many bytes.
pub(crate) const HEADERS: usize = 256;
/// Bytes that are added up at once.
const CHUNK: usize = 32;
/// No packet of which a sum is asked for is longer: jumbo frames have some 9,000 bytes.
const MAX_SUM: usize = 0x3fff;

/// Whether frames may come in fragments, of which packet pointers see the first (Linux 5.18). The loader says so
/// before the programs are loaded: then the verifier takes the other way out of the program, with helpers that
/// an older kernel does not know.
#[unsafe(no_mangle)]
static FRAGMENTS: u32 = 1;

/// Bytes of a frame in fragments that are added up at once: what `bpf_csum_diff` takes.
const PIECE: usize = 512;

/// A copy of some of a frame's bytes, and zeros behind them.
type Piece = [u64; PIECE / 8 + 1];

/// One element. On the stack there is no room for it.
#[map]
static PIECES: PerCpuArray<Piece> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn has_fragments() -> bool {
    // SAFETY: a static that nobody writes once the program is loaded; volatile, since the loader does before.
    unsafe { core::ptr::read_volatile(&raw const FRAGMENTS) != 0 }
}

/// Bytes in the frame, in all its fragments.
#[inline(always)]
fn whole(ctx: &XdpContext) -> usize {
    if has_fragments() {
        // SAFETY: the context is this program's; the helper only reads.
        unsafe { bpf_xdp_get_buff_len(ctx.as_ptr().cast()) as usize }
    } else {
        distance(ctx.data(), ctx.data_end())
    }
}

/// A global function: the verifier walks through its loop once, whatever the offsets of its callers, and not
/// once for each way that leads here. Only tunnels with a full checksum pay for it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn netplane_sum(ctx: *mut xdp_md, from: u32, to: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    sum(|| (ctx.data(), ctx.data_end()), from as usize, to as usize)
}

/// The same of a frame in fragments. A function beside the other: one that calls both, or does the work of both,
/// would need more stack than there is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn netplane_sum_of_pieces(ctx: *mut xdp_md, from: u32, to: u32) -> u32 {
    let (from, to) = (from as usize, to as usize);
    if !has_fragments() || from > to || to > MAX_SUM {
        return NO_SUM;
    }
    let Some(piece) = PIECES.get_ptr_mut(0) else { return NO_SUM };
    let (mut sum, mut offset) = (0, from);
    let mut to = to;
    // SAFETY: a copy to itself, at which the compiler forgets the bound of `to` and leaves that of the loop.
    unsafe { asm!("{0} = {0}", inout(reg) to, options(pure, nomem, nostack)) };
    while offset + PIECE <= to {
        // Never, but older verifiers (Linux 6.1) see the end of a loop by constants only. A counter would be one
        // more on the stack.
        if offset > MAX_SUM {
            return NO_SUM;
        }
        let Some(with) = add_piece(ctx, piece, offset, PIECE, sum) else { return NO_SUM };
        sum = with;
        offset += PIECE;
    }
    if offset < to {
        // The rest looks the same to the verifier after however many pieces, and is 1 to 512: older ones (Linux
        // 6.1) do not learn from a comparison that it is not 0.
        let mut rest = to - offset;
        // SAFETY: sums and a mask that change nothing, which the compiler cannot look into.
        unsafe {
            asm!("{0} += -1", "{0} &= 0x1ff", "{0} += 1", inout(reg) rest, options(pure, nomem, nostack));
        }
        let Some(with) = add_piece(ctx, piece, offset, rest, sum) else { return NO_SUM };
        sum = with;
    }
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

/// Adds `len` bytes of the frame (1 to `PIECE`), which overwrite the start of `piece`, to a sum.
#[inline(always)]
fn add_piece(ctx: *mut xdp_md, piece: *mut Piece, offset: usize, len: usize, sum: u32) -> Option<u32> {
    // SAFETY: this CPU's element, which nobody else uses while the program runs, is longer than what is read into
    // it and from it by the bytes that make the length one of whole words.
    unsafe {
        if bpf_xdp_load_bytes(ctx, offset as u32, piece.cast(), len as u32) != 0 {
            return None;
        }
        if len < PIECE {
            *piece.cast::<u8>().add(len).cast::<[u8; 4]>() = [0; 4];
        }
        let words = (len as u32 + 3) & 0x3fc;
        let sum = bpf_csum_diff(core::ptr::null_mut(), 0, piece.cast(), words, sum);
        (sum >= 0).then_some(sum as u32)
    }
}

/// The folded sum of the bytes from `from` to `to` of what `packet` points at the start and the end of, or
/// `NO_SUM`.
#[inline(always)]
pub(crate) fn sum(packet: impl Fn() -> (usize, usize), from: usize, to: usize) -> u32 {
    let mut offset = from;
    if offset > to || to > MAX_SUM {
        return NO_SUM;
    }
    let mut sum = 0_u64;
    for _ in 0..=MAX_SUM / CHUNK {
        if to - offset < CHUNK {
            break;
        }
        let (data, end) = packet();
        let Some(words) = at::<[u32; CHUNK / 4]>(data, end, offset) else { return NO_SUM };
        // SAFETY: `at` has checked the bounds; by reference, so that nothing is copied to the stack.
        for word in unsafe { &*words } {
            sum += u64::from(*word);
        }
        offset += CHUNK;
    }
    // The rest looks the same to the verifier after however many chunks.
    offset = opaque(offset, to as u32);
    if offset > to {
        return NO_SUM;
    }
    for _ in 0..CHUNK / 2 {
        if to - offset < 2 {
            break;
        }
        let (data, end) = packet();
        let Some(word) = at::<u16>(data, end, offset) else { return NO_SUM };
        // SAFETY: as above.
        sum += u64::from(unsafe { *word });
        offset += 2;
    }
    if offset < to {
        let (data, end) = packet();
        let Some(last) = at::<u8>(data, end, offset) else { return NO_SUM };
        // SAFETY: as above.
        sum += u64::from(unsafe { *last });
    }
    // At most 2^9 chunks of eight words of 32 bits: one fold to 33 bits, three to 16.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u32
}

/// A pointer to `T` at `offset` behind `data`, if all of it is before `end`. Both are of the context, read
/// just now.
#[inline(always)]
pub(crate) fn at<T>(data: usize, end: usize, offset: usize) -> Option<*mut T> {
    if offset > MAX_OFFSET {
        return None;
    }
    let start = if is_val_statically_known(offset) {
        data + offset
    } else {
        // The verifier ties a bounds check to the very register that is dereferenced. Left to itself,
        // the compiler computes `data + offset` twice, and the check is of the other copy.
        // Older verifiers (Linux 6.1) do not carry the bound above from a loop's sum to here, so it is said
        // once more, of the register that is added.
        let mut start = data;
        // SAFETY: a mask that changes nothing and an addition, which the compiler cannot look into.
        unsafe {
            asm!(
                "{1} &= 0x7fff",
                "{0} += {1}",
                inout(reg) start,
                inout(reg) offset => _,
                options(pure, nomem, nostack)
            );
        }
        start
    };
    if start + size_of::<T>() > end {
        return None;
    }
    Some(start as *mut T)
}

/// Bytes between two packet pointers.
#[inline(always)]
pub(crate) fn distance(data: usize, end: usize) -> usize {
    let mut len = end;
    // In plain sight, the compiler folds the difference of two packet pointers into sums that the
    // verifier prohibits (`limit - end + data`).
    // SAFETY: a subtraction that the compiler cannot look into.
    unsafe { asm!("{0} -= {1}", inout(reg) len, in(reg) data, options(pure, nomem, nostack)) };
    len
}

/// See [`Frame::opaque`].
#[inline(always)]
pub(crate) fn opaque(offset: usize, by: u32) -> usize {
    let mut offset = offset;
    // SAFETY: the same bits flipped twice, which neither the compiler nor the verifier sees through.
    unsafe {
        asm!("{0} ^= {1}", "{0} ^= {1}", inout(reg) offset, in(reg) u64::from(by), options(pure, nomem, nostack));
    }
    offset & MAX_HEADER
}

/// The frame behind an `xdp_md`, in the program that answers or in one that forwards: sessions without rules, or
/// those with some.
pub(crate) struct XdpFrame<'a, const ANSWERS: bool, const RULES: bool = false> {
    ctx: &'a XdpContext,
}

impl<'a> XdpFrame<'a, false> {
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }
}

impl<'a> XdpFrame<'a, true> {
    #[allow(dead_code, reason = "the benches have this file and do not answer")]
    pub(crate) fn to_answer(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }
}

impl<'a> XdpFrame<'a, false, true> {
    #[allow(dead_code, reason = "the benches have this file and no rules")]
    pub(crate) fn with_rules(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }
}

impl<const ANSWERS: bool, const RULES: bool> XdpFrame<'_, ANSWERS, RULES> {
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        at(self.ctx.data(), self.ctx.data_end(), offset)
    }

    /// Bytes that packet pointers see.
    #[inline(always)]
    fn linear(&self) -> usize {
        distance(self.ctx.data(), self.ctx.data_end())
    }

    /// Whether there may be headers where packet pointers do not see them: a driver that puts little into the
    /// first fragment.
    #[inline(always)]
    #[allow(dead_code, reason = "the benches have this file and do not ask")]
    pub(crate) fn hides_headers(&self) -> bool {
        has_fragments() && self.linear() < HEADERS && self.linear() < self.len()
    }
}

impl<const ANSWERS: bool, const RULES: bool> Frame for XdpFrame<'_, ANSWERS, RULES> {
    const FORWARDS: bool = !ANSWERS;
    const ANSWERS: bool = ANSWERS;
    const PLAIN: bool = !RULES;
    const RULES: bool = RULES;
    const DELIVERS: bool = false;

    #[inline(always)]
    fn len(&self) -> usize {
        whole(self.ctx)
    }

    #[inline(always)]
    fn reaches(&self, end: usize) -> bool {
        end <= self.linear() || has_fragments() && end <= whole(self.ctx)
    }

    #[inline(always)]
    fn cut(&mut self, end: usize) -> Option<()> {
        // Of a frame in fragments, bytes behind a packet that ends exactly with the first one stay: they are
        // padding all the same, and to find them would cost every packet a call.
        if self.linear() == end || self.len() <= end { Some(()) } else { self.truncate(end) }
    }

    #[inline(always)]
    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        // SAFETY: in bounds, and any bytes are a `T`. It may be unaligned: BPF loads of packet data are
        // allowed to be (the verifier asks for alignment only where the CPU does), and `read_unaligned`
        // would be compiled to a load for each byte.
        self.at::<T>(offset).map(|it| unsafe { *it })
    }

    #[inline(always)]
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()> {
        // SAFETY: as for `load`; the program has the frame for itself.
        self.at::<T>(offset).map(|it| unsafe { *it = value })
    }

    #[inline(always)]
    fn opaque(&self, offset: usize, by: u32) -> usize {
        opaque(offset, by)
    }

    #[inline(always)]
    fn move_head(&mut self, by: isize) -> Option<()> {
        // The kernel's argument is the distance to move the start to the back.
        // SAFETY: the context is this program's; all pointers into the packet are made anew in `at`.
        let result = unsafe { bpf_xdp_adjust_head(self.ctx.as_ptr().cast(), -by as i32) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) -> Option<()> {
        let delta = len as i32 - self.len() as i32;
        // SAFETY: as for `move_head`.
        let result = unsafe { bpf_xdp_adjust_tail(self.ctx.as_ptr().cast(), delta) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn keep(&self, about: &Buffered) -> bool {
        let (ctx, len) = (self.ctx.as_ptr().cast(), self.len() as u32);
        crate::keep::of_xdp(ctx, about.counter, about.pdr, about.network.into(), len) != 0
    }

    #[inline(always)]
    fn sum(&self, from: usize, to: usize) -> Option<u32> {
        let ctx = self.ctx.as_ptr().cast();
        let sum = if has_fragments() && to > self.linear() {
            netplane_sum_of_pieces(ctx, from as u32, to as u32)
        } else {
            netplane_sum(ctx, from as u32, to as u32)
        };
        if sum == NO_SUM { None } else { Some(sum) }
    }
}
