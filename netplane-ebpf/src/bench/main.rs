//! Programs of the benches, not part of the product: what measures, what sends, what counts, and what the
//! product is compared with.

#![no_std]
#![no_main]
// What `xdp::XdpFrame` needs.
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "there is no other way to ask whether a value is a constant")]

mod checksum;

mod floor;

mod load;

mod packet;

mod sink;

mod wrapper;

/// Nobody buffers here.
mod keep {
    use aya_ebpf::bindings::xdp_md;

    pub(crate) fn of_xdp(_: *mut xdp_md, _: u32, _: u32, _: u32, _: u32) -> u32 {
        0
    }
}

#[path = "../xdp.rs"]
mod xdp;

/// A reachable panic is an endless loop, which the verifier refuses to load.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// As the product's programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
