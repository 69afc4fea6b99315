//! A packet's bytes behind one bounds check. The BPF crate implements [`Frame`] for `xdp_md` and
//! `__sk_buff`; [`SliceFrame`] is the same thing on a vector, for tests, fuzzers and reference runs.

use crate::map::Buffered;
use crate::wire::Wire;
use crate::wire::ethernet::EtherType;

/// A frame that starts with its Ethernet header. Offsets and lengths are in bytes.
///
/// Every method answers `None` instead of touching bytes outside the frame, and then has changed
/// nothing.
pub trait Frame {
    /// Whether a decision on this frame may forward it, and whether it may turn it into an answer. Together
    /// they need more stack than a BPF program has: there one program forwards, and another one answers.
    const FORWARDS: bool = true;
    const ANSWERS: bool = true;
    /// Whether a decision on this frame is for sessions without rules, and whether for those that have some: these
    /// have a program of their own, so that others carry nothing of it.
    const PLAIN: bool = true;
    const RULES: bool = true;
    /// Whether a rewritten frame can be given to a pod under a master. XDP cannot: it hands such frames on as
    /// they came, and TC decides on them.
    const DELIVERS: bool = true;

    /// Bytes in the frame, without FCS. For a plain packet ask `reaches` and `cut`: of a frame in fragments the
    /// kernel must be asked for its length.
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of the header at `offset`.
    fn load<T: Wire>(&self, offset: usize) -> Option<T>;

    /// Overwrites the bytes at `offset`.
    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()>;

    /// The same offset in a form of which the verifier knows nothing but its bound, so that it can see that
    /// what follows is the same for all offsets. `by` is any number that it does not know.
    #[inline(always)]
    fn opaque(&self, offset: usize, by: u32) -> usize {
        let _ = by;
        offset
    }

    /// Moves the start of the frame by `by` bytes: to the front (room of undefined content) if
    /// positive, into the frame if negative.
    fn move_head(&mut self, by: isize) -> Option<()>;

    /// Cuts the frame to `len` bytes.
    fn truncate(&mut self, len: usize) -> Option<()>;

    /// Whether all of a packet that ends at `end` is in the frame.
    #[inline(always)]
    fn reaches(&self, end: usize) -> bool {
        end <= self.len()
    }

    /// Cuts off what is behind `end`: Ethernet's padding of short frames, or bytes that no length accounts for.
    #[inline(always)]
    fn cut(&mut self, end: usize) -> Option<()> {
        if self.len() > end { self.truncate(end) } else { Some(()) }
    }

    /// The sum of the 16-bit words of the bytes from `from` to `to`, folded to 16 bits, an odd last byte
    /// padded with zero (RFC 1071). In the order of bytes that `from_ne_bytes` gives, as
    /// [`crate::wire::checksum`] has it.
    fn sum(&self, from: usize, to: usize) -> Option<u32>;

    /// Tag control information of a frame whose VLAN tag is always taken off and kept beside it, in host byte
    /// order; 0 where there was none. `None`: a tag is where it was, in the frame.
    #[inline(always)]
    fn stripped_vlan(&self) -> Option<u16> {
        None
    }

    /// Has the frame leave with this VLAN identifier beside it (0: untagged). `false`: that is not how it is
    /// done here, and the tag belongs into the frame.
    #[inline(always)]
    fn leave_with_vlan(&mut self, _id: u16) -> bool {
        false
    }

    /// Whether the frame is one packet as on a wire, so that it can be rewritten: no merged segments, no
    /// checksum that hardware was to finish. Asked before the first write, and after it is known to be ours.
    #[inline(always)]
    fn prepare(&mut self) -> bool {
        true
    }

    /// Whether the kernel can make wire packets of a frame that `prepare` refuses.
    #[inline(always)]
    fn can_be_finished(&self) -> bool {
        false
    }

    /// Hands a copy to the agent, which keeps it. `false`: it does not take it. The length and the tag are filled in.
    #[inline(always)]
    fn keep(&self, _about: &Buffered) -> bool {
        false
    }

    /// Whether this is a frame that the agent has kept and gives back.
    #[inline(always)]
    fn is_released(&self) -> bool {
        false
    }

    /// As [`Frame::move_head`], to a frame that will carry this network protocol.
    #[inline(always)]
    fn move_head_to(&mut self, by: isize, _ether_type: EtherType) -> Option<()> {
        self.move_head(by)
    }
}

/// A frame in memory with as much headroom as XDP promises (`XDP_PACKET_HEADROOM`).
#[cfg(any(test, feature = "testing", feature = "user"))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceFrame {
    buffer: Vec<u8>,
    start: usize,
}

#[cfg(any(test, feature = "testing", feature = "user"))]
impl SliceFrame {
    /// `XDP_PACKET_HEADROOM` of the kernel's `include/uapi/linux/bpf.h`.
    pub const HEADROOM: usize = 256;
    /// Smallest frame that the kernel lets a program shrink to (`ETH_HLEN`).
    const MIN_LEN: usize = 14;

    pub fn new(packet: &[u8]) -> Self {
        let mut buffer = vec![0; Self::HEADROOM];
        buffer.extend_from_slice(packet);
        Self { buffer, start: Self::HEADROOM }
    }

    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }
}

#[cfg(any(test, feature = "testing", feature = "user"))]
impl Frame for SliceFrame {
    fn len(&self) -> usize {
        self.bytes().len()
    }

    fn load<T: Wire>(&self, offset: usize) -> Option<T> {
        let rest = self.bytes().get(offset..)?;
        T::read_from_prefix(rest).ok().map(|(value, _)| value)
    }

    fn store<T: Wire>(&mut self, offset: usize, value: T) -> Option<()> {
        let at = self.start.checked_add(offset)?;
        let to = self.buffer.get_mut(at..at.checked_add(size_of::<T>())?)?;
        to.copy_from_slice(value.as_bytes());
        Some(())
    }

    fn move_head(&mut self, by: isize) -> Option<()> {
        let start = self.start.checked_add_signed(by.checked_neg()?)?;
        if start.checked_add(Self::MIN_LEN)? > self.buffer.len() {
            return None;
        }
        self.start = start;
        Some(())
    }

    fn truncate(&mut self, len: usize) -> Option<()> {
        if len < Self::MIN_LEN || len > self.len() {
            return None;
        }
        self.buffer.truncate(self.start.checked_add(len)?);
        Some(())
    }

    fn sum(&self, from: usize, to: usize) -> Option<u32> {
        let word = |pair: &[u8]| u32::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        let sum = self.bytes().get(from..to)?.chunks(2).map(word).sum::<u32>();
        Some(u32::from(!crate::wire::checksum::finish(sum)))
    }
}
