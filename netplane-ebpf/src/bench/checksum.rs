//! What a device says of the checksums of the frames that it has received.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::helpers::bpf_csum_update;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;

/// Frames with a sum over all bytes (`CHECKSUM_COMPLETE`) and others; a copy for each of two places.
#[map]
static CHECKSUMS: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(2, 0);

/// Counts IP packets on their way in at the first place.
#[classifier]
fn checksums_in(ctx: TcContext) -> i32 {
    count(&ctx, 0)
}

/// The same at the second one.
#[classifier]
fn checksums_out(ctx: TcContext) -> i32 {
    count(&ctx, 1)
}

#[inline(always)]
fn count(ctx: &TcContext, place: u32) -> i32 {
    let is_ip = ctx.load::<u16>(12).is_ok_and(|it| it == 0x0008 || it == 0xdd86);
    if let Some(counts) = CHECKSUMS.get_ptr_mut(place).filter(|_| is_ip) {
        // The helper adds to such a sum, here nothing, and fails for all others.
        // SAFETY: the context is this program's; this CPU's element, for which the verifier has checked for null.
        unsafe {
            let other = usize::from(bpf_csum_update(ctx.skb.skb, 0) < 0);
            if other == 0 {
                (*counts)[0] += 1;
            } else {
                (*counts)[1] += 1;
            }
        }
    }
    TC_ACT_UNSPEC
}
