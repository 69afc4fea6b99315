//! The frame of an XDP program: direct packet access, with the bounds proof that the verifier asks for
//! in one place.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use core::arch::asm;
use core::intrinsics::is_val_statically_known;
use netplane_common::frame::Frame;
use netplane_common::wire::Wire;

/// No offset of ours is larger; the verifier wants a bound before it adds one to a packet pointer.
const MAX_OFFSET: usize = 0x3fff;

/// The frame behind an `xdp_md`.
pub(crate) struct XdpFrame<'a> {
    ctx: &'a XdpContext,
}

impl<'a> XdpFrame<'a> {
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }

    /// A pointer to `T` at `offset`, if all of it is in the frame.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        if offset > MAX_OFFSET {
            return None;
        }
        let start = if is_val_statically_known(offset) {
            self.ctx.data() + offset
        } else {
            // The verifier ties a bounds check to the very register that is dereferenced. Left to itself,
            // the compiler computes `data + offset` twice, and the check is of the other copy.
            let mut start = self.ctx.data();
            // SAFETY: an addition that the compiler cannot look into.
            unsafe { asm!("{0} += {1}", inout(reg) start, in(reg) offset, options(pure, nomem, nostack)) };
            start
        };
        if start + size_of::<T>() > self.ctx.data_end() {
            return None;
        }
        Some(start as *mut T)
    }
}

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        let mut len = self.ctx.data_end();
        // In plain sight, the compiler folds the difference of two packet pointers into sums that the
        // verifier prohibits (`limit - end + data`).
        // SAFETY: a subtraction that the compiler cannot look into.
        unsafe { asm!("{0} -= {1}", inout(reg) len, in(reg) self.ctx.data(), options(pure, nomem, nostack)) };
        len
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
}
