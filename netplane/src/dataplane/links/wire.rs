//! The offload wire: a veth pair without offloads. A TC program sends into its near end what is not one packet of
//! a wire (merged segments, unfinished checksums); the kernel segments it and finishes the checksums, as it must
//! for any device without offloads, and at the far end the TC program decides on each packet.

use super::super::KernelError;
use super::super::bpffs::Hook;
use super::tc::Tc;
use crate::netlink::ethtool::Ethtool;
use crate::netlink::socket::Netlink;
use aya::Ebpf;
use aya::maps::Array;
use netplane_common::map::OffloadWire;

/// The devices. One pair a node.
const NEAR: &str = "netplane-wire";
const FAR: &str = "netplane-wirep";
/// Whatever fits a socket buffer.
const MTU: u32 = 65_535;

/// Sending: everything that a device may leave for later. Receiving: packets must not be merged again.
const NEAR_OFF: [&str; 8] = [
    "tx-checksum-ip-generic",
    "tx-checksum-sctp",
    "tx-scatter-gather",
    "tx-scatter-gather-fraglist",
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
    "tx-generic-segmentation",
];
const FAR_OFF: [&str; 1] = ["rx-gro"];

type Cause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Default)]
pub(super) struct Wire {
    /// The near end's interface index.
    laid: Option<u32>,
}

impl Wire {
    /// Makes it, or takes over an earlier agent's. Returns the near end's interface index.
    pub(super) fn lay(&mut self, ebpf: &mut Ebpf, tc: &mut Tc) -> Result<u32, KernelError> {
        if let Some(near) = self.laid {
            return Ok(near);
        }
        let failed = |source: Cause| KernelError {
            operation: format!("make the veth pair {NEAR} without offloads"),
            remedy: None,
            source,
        };
        let (near, far) = devices().map_err(failed)?;
        tc.attach(ebpf, Hook::Wire, far, FAR)?;
        set(ebpf, OffloadWire { near, far }).map_err(failed)?;
        self.laid = Some(near);
        Ok(near)
    }

    /// Removes it: also what an earlier agent has left.
    pub(super) fn take_up(&mut self, ebpf: &mut Ebpf, tc: &mut Tc) -> Result<(), KernelError> {
        self.laid = None;
        let failed = |source: Cause| KernelError {
            operation: format!("remove the veth pair {NEAR}"),
            remedy: Some(format!("`ip link del {NEAR}`")),
            source,
        };
        set(ebpf, OffloadWire::default()).map_err(failed)?;
        let remove = || -> Result<(), Cause> {
            let netlink = Netlink::here()?;
            if let Some(far) = netlink.link(FAR)? {
                tc.detach(Hook::Wire, far.index, FAR)?;
            }
            if let Some(near) = netlink.link(NEAR)? {
                netlink.delete_links(&[&near])?;
            }
            Ok(())
        };
        let mut remove = remove;
        remove().map_err(failed)
    }
}

/// Interface indices of both ends.
fn devices() -> Result<(u32, u32), Cause> {
    let netlink = Netlink::here()?;
    if netlink.link(NEAR)?.is_none() {
        netlink.create_veth(NEAR, FAR, MTU)?;
    }
    let ethtool = Ethtool::here()?;
    for (device, features) in [(NEAR, &NEAR_OFF[..]), (FAR, &FAR_OFF[..])] {
        let known = ethtool.features(device)?;
        // Kernels differ in what there is; what is active must go off.
        for feature in known.iter().filter(|it| it.active && features.contains(&it.name.as_str())) {
            ethtool
                .set_feature(device, &feature.name, false)
                .map_err(|it| format!("{}: {it}", feature.name))?;
        }
    }
    let index = |name: &str| -> Result<u32, Cause> {
        Ok(netlink.link(name)?.ok_or_else(|| format!("{name} is gone"))?.index)
    };
    Ok((index(NEAR)?, index(FAR)?))
}

fn set(ebpf: &mut Ebpf, wire: OffloadWire) -> Result<(), Cause> {
    let map = ebpf.map_mut("WIRE").ok_or("the map WIRE is not in the object")?;
    let mut map: Array<_, OffloadWire> = map.try_into()?;
    Ok(map.set(0, wire, 0)?)
}
