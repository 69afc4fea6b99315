//! Access to packets: by constant offsets, and by offsets from a map.

use aya_ebpf::programs::XdpContext;
use core::arch::asm;

/// A pointer to `T` at the constant `offset`, if all of it is in the frame.
#[inline(always)]
pub(crate) fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() { None } else { Some(start as *mut T) }
}

/// No offset of a template is larger; the verifier wants a bound before it adds one to a packet pointer.
const MAX_OFFSET: usize = 0x7ff;

/// The bytes of a packet, of whatever kind of context.
#[derive(Clone, Copy)]
pub(crate) struct Bytes {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Bytes {
    /// A pointer to `T` at an offset that a map gave, if all of it is in the packet.
    #[inline(always)]
    pub(crate) fn at<T>(self, offset: u16) -> Option<*mut T> {
        let offset = usize::from(offset);
        if offset > MAX_OFFSET {
            return None;
        }
        let mut at = self.start;
        // The verifier ties a bounds check to the very register that is dereferenced: see `XdpFrame::at`.
        // SAFETY: an addition that the compiler cannot look into.
        unsafe { asm!("{0} += {1}", inout(reg) at, in(reg) offset, options(pure, nomem, nostack)) };
        if at + size_of::<T>() > self.end { None } else { Some(at as *mut T) }
    }

    /// Writes `value` at an offset that a map gave, if it is in the packet.
    #[inline(always)]
    pub(crate) fn put<T>(self, offset: u16, value: T) -> Option<()> {
        // SAFETY: `at` has checked the bounds; BPF may access packets unaligned.
        self.at::<T>(offset).map(|it| unsafe { *it = value })
    }
}
