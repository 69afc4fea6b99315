//! Tracing programs: packets that were to leave by a master and that the kernel has lost on the way. Kernel
//! structures are read at offsets that the loader finds in the kernel's own types (BTF).

use crate::maps::DEVICES;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{HashMap, PerCpuHashMap};
use aya_ebpf::programs::RawTracePointContext;
use netplane_common::map::{Failure, FailureKey};

/// Packets. Pairs of masters and reasons that have none have no element.
#[map]
static FAILURES: PerCpuHashMap<FailureKey, u64> = PerCpuHashMap::with_max_entries(1024, 0);
/// Interface indices of the masters on which a program of ours is attached as XDP.
#[map]
static WATCHED: HashMap<u32, u8> = HashMap::with_max_entries(256, 0);

/// Where the kernel has what is read here, set by the loader: in `net_device` its index and its namespace, and in
/// that the inode, by which the agent knows its own. Interface indices of other namespaces may be the same.
#[unsafe(no_mangle)]
static NET_DEVICE_IFINDEX: u32 = 0;
#[unsafe(no_mangle)]
static NET_DEVICE_NET: u32 = 0;
#[unsafe(no_mangle)]
static NET_INODE: u32 = 0;
#[unsafe(no_mangle)]
static OWN_INODE: u32 = 0;

/// `xdp_redirect_err(device, program, target, error, map type, map, index)`: a frame that was not given to the
/// device of the map's element. Older kernels say `xdp_redirect_map_err` in words only: it is this one.
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
fn netplane_redirect_err(ctx: RawTracePointContext) -> i32 {
    if let Some(from) = watched(ctx.arg(0)) {
        let to = DEVICES.get(ctx.arg::<u32>(6)).copied().filter(|it| *it != 0).unwrap_or(from);
        count(from, to, Failure::of_error(ctx.arg(3)), 1);
    }
    0
}

/// `xdp_devmap_xmit(from, to, sent, drops, error)`: a bundle of frames that was given to the driver.
#[raw_tracepoint(tracepoint = "xdp_devmap_xmit")]
fn netplane_devmap_xmit(ctx: RawTracePointContext) -> i32 {
    let drops = ctx.arg::<i32>(3);
    if drops > 0
        && let Some(from) = watched(ctx.arg(0))
        && let Some(to) = index(ctx.arg(1))
    {
        count(from, to, Failure::of_error(ctx.arg(4)), drops as u64);
    }
    0
}

/// `xdp_bulk_tx(device, sent, drops, error)`: a bundle of frames that was to go back (XDP_TX), of drivers that
/// bundle them.
#[raw_tracepoint(tracepoint = "xdp_bulk_tx")]
fn netplane_bulk_tx(ctx: RawTracePointContext) -> i32 {
    let drops = ctx.arg::<i32>(2);
    if drops > 0
        && let Some(from) = watched(ctx.arg(0))
    {
        count(from, from, Failure::Transmit, drops as u64);
    }
    0
}

/// `xdp_exception(device, program, action)`: what a driver could not do with the program's verdict.
#[raw_tracepoint(tracepoint = "xdp_exception")]
fn netplane_exception(ctx: RawTracePointContext) -> i32 {
    let failure = match ctx.arg::<u32>(2) {
        xdp_action::XDP_TX => Failure::Transmit,
        xdp_action::XDP_ABORTED => Failure::Aborted,
        // Some drivers say so after `xdp_redirect_err`.
        xdp_action::XDP_REDIRECT => return 0,
        _ => Failure::Other,
    };
    if let Some(from) = watched(ctx.arg(0)) {
        count(from, from, failure, 1);
    }
    0
}

/// A redirect to an element of the device map that has no device: no tracepoint tells of it. A function of its own,
/// so that the packet programs' stack has no part in it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn netplane_vanished(from: u32) -> u32 {
    count(from, from, Failure::NoDevice, 1);
    0
}

/// The interface index of a device of the agent's namespace.
#[inline(always)]
fn index(device: usize) -> Option<u32> {
    let net: usize = read(device, &raw const NET_DEVICE_NET)?;
    let inode: u32 = read(net, &raw const NET_INODE)?;
    // SAFETY: of this program's read-only data.
    if inode != unsafe { (&raw const OWN_INODE).read_volatile() } {
        return None;
    }
    read(device, &raw const NET_DEVICE_IFINDEX)
}

/// The same, if the device is a master of ours.
#[inline(always)]
fn watched(device: usize) -> Option<u32> {
    let index = index(device)?;
    // SAFETY: the element is not looked at.
    unsafe { WATCHED.get(index) }.map(|_| index)
}

/// A field of the kernel's structure at `at`.
#[inline(always)]
fn read<T>(at: usize, offset: *const u32) -> Option<T> {
    // SAFETY: of this program's read-only data; volatile, since the loader has changed it.
    let offset = unsafe { offset.read_volatile() } as usize;
    // SAFETY: the helper checks the address, and any bytes are a number.
    unsafe { bpf_probe_read_kernel((at + offset) as *const T) }.ok()
}

#[inline(always)]
fn count(from: u32, to: u32, failure: Failure, packets: u64) {
    let key = FailureKey { from, to, failure: failure as u32 };
    let Some(counter) = FAILURES.get_ptr_mut(key) else {
        // One of the same on another CPU may be first: then it is there now.
        if FAILURES.insert(key, packets, u64::from(BPF_NOEXIST)).is_err() {
            add(key, packets);
        }
        return;
    };
    // SAFETY: a per-CPU value that was checked for null; raw tracepoints do not nest here.
    unsafe { *counter = (*counter).wrapping_add(packets) };
}

#[inline(always)]
fn add(key: FailureKey, packets: u64) {
    if let Some(counter) = FAILURES.get_ptr_mut(key) {
        // SAFETY: as above.
        unsafe { *counter = (*counter).wrapping_add(packets) };
    }
}
