//! Switches of devices that are turned off while netplane is attached, and turned on again afterwards. What was
//! on is a folder among the pins, so that another agent can put it right as well.

use super::super::KernelError;
use super::super::bpffs::Pins;
use crate::netlink::ethtool::Ethtool;
use std::io;

/// Received packets become larger ones, which TC would have to take apart again.
pub(super) const MERGING: [&str; 3] = ["rx-lro", "rx-gro-hw", "rx-gro"];
/// The VLAN tag is taken off, and XDP does not see it.
pub(super) const VLAN_STRIPPING: &str = "rx-vlan-hw-parse";

pub(super) struct Offloads {
    pins: Pins,
}

impl Offloads {
    pub(super) fn new(pins: Pins) -> Self {
        Self { pins }
    }

    /// Turns them off. All are tried; the first that cannot be is the error.
    pub(super) fn off(&self, ifindex: u32, name: &str, features: &[&str]) -> io::Result<()> {
        let ethtool = Ethtool::here()?;
        let mut result = Ok(());
        for feature in ethtool.features(name)? {
            if !feature.active || !features.contains(&feature.name.as_str()) {
                continue;
            }
            if !feature.changeable {
                result = result.and(Err(io::Error::other(format!("{} cannot be turned off", feature.name))));
                continue;
            }
            // First remembered: if this process dies in between, turning it on again changes nothing.
            self.pins.remember_offload(ifindex, &feature.name).map_err(|it| io::Error::other(it.source))?;
            result = result.and(ethtool.set_feature(name, &feature.name, false));
        }
        result
    }

    /// Turns on again what was turned off.
    pub(super) fn restore(&self, ifindex: u32, name: &str) -> Result<(), KernelError> {
        for feature in self.pins.offloads(ifindex)? {
            let restored = Ethtool::here().and_then(|it| it.set_feature(name, &feature, true));
            // A device that is gone, or that does not want it any more, is as it should be.
            if let Err(error) =
                restored.as_ref().or_else(|it| if name.is_empty() { Ok(&()) } else { Err(it) })
            {
                tracing::warn!(device = name, feature, %error, "cannot be turned on again");
            }
            self.pins.forget_offload(ifindex, &feature)?;
        }
        Ok(())
    }

    pub(super) fn restore_all(&self) -> Result<(), KernelError> {
        self.pins.with_offloads()?.into_iter().try_for_each(|it| self.restore(it, &super::name(it)))
    }

    /// After a start: devices that went without an agent.
    pub(super) fn forget_vanished(&self) -> Result<(), KernelError> {
        let vanished = self.pins.with_offloads()?.into_iter().filter(|it| super::name(*it).is_empty());
        vanished.into_iter().try_for_each(|it| self.restore(it, ""))
    }
}
