//! What devices say of the checksums of frames, seen by programs of their own on the way in.

use super::Namespace;
use crate::load::objects;
use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{SchedClassifier, TcAttachOptions, TcAttachType};

/// Frames of IP at one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// With a sum over all bytes of the frame (`CHECKSUM_COMPLETE`).
    pub complete: u64,
    pub others: u64,
}

/// Two places where frames are looked at, first of all programs there.
pub struct Watched(Ebpf);

impl Watched {
    /// Starts to look at what two interfaces receive.
    ///
    /// # Errors
    /// No privilege, or a kernel before 6.6, which has no tcx.
    pub fn start(places: [(&Namespace, &str); 2]) -> Result<Self> {
        let mut ebpf = objects::load(&[("TURNS", 1)])?;
        for ((namespace, interface), name) in places.into_iter().zip(["checksums_in", "checksums_out"]) {
            let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
            let program: &mut SchedClassifier = program.try_into()?;
            program.load()?;
            let first = TcAttachOptions::TcxOrder(LinkOrder::first());
            namespace
                .run(|| program.attach_with_options(interface, TcAttachType::Ingress, first))?
                .with_context(|| format!("attach to {interface}"))?;
        }
        Ok(Self(ebpf))
    }

    /// What has come so far at both places.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn seen(&self) -> Result<[Sums; 2]> {
        let map: PerCpuArray<&MapData, [u64; 2]> = self.0.map("CHECKSUMS").context("no map")?.try_into()?;
        let read = |place: u32| -> Result<Sums> {
            let values = map.get(&place, 0)?;
            let sum = |index: usize| values.iter().map(|it| it[index]).sum();
            Ok(Sums { complete: sum(0), others: sum(1) })
        };
        Ok([read(0)?, read(1)?])
    }
}
