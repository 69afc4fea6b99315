//! TC on masters: tcx where the kernel has it (6.6), else a filter on the clsact qdisc.
//!
//! A tcx link is pinned. A filter belongs to the device and stays by itself: a folder among the pins says that it
//! is there, and it has a priority and a handle of its own by which a new agent replaces it in one step.

use super::super::KernelError;
use super::super::bpffs::{Hook, Pins};
use super::super::programs::{self, TC_LOCAL_PROGRAM, TC_PROGRAM};
use aya::Ebpf;
use aya::programs::ProgramError;
use aya::programs::links::{FdLink, Link, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifier, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle,
    qdisc_add_clsact,
};
use std::collections::BTreeMap;

/// Where our filter is among those of clsact: rather early, and at a number that nobody else takes ("np").
const PRIORITY: u16 = 0x6e;
const HANDLE: TcHandle = TcHandle::new(0, 0x6e70);

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A program on a device.
enum Attached {
    Tcx(FdLink),
    Clsact,
}

/// What is attached by hook and interface index.
pub(super) struct Tc {
    pins: Pins,
    attached: BTreeMap<(Hook, u32), Attached>,
}

impl Tc {
    pub(super) fn new(pins: Pins) -> Self {
        Self { pins, attached: BTreeMap::new() }
    }

    pub(super) fn has(&self, hook: Hook, ifindex: u32) -> bool {
        self.attached.contains_key(&(hook, ifindex))
    }

    /// Whether any master is attached; the offload wire is none.
    pub(super) fn has_masters(&self) -> bool {
        self.attached.keys().any(|(hook, _)| *hook != Hook::Wire)
    }

    /// Whether an earlier agent has left any.
    pub(super) fn is_pinned(&self) -> Result<bool, KernelError> {
        for hook in Hook::TC {
            if !self.pins.linked(hook)?.is_empty() || !self.pins.filters_on(hook)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn take_over(&mut self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        for hook in Hook::TC {
            for ifindex in self.pins.linked(hook)? {
                match self.replace_link(ebpf, hook, ifindex) {
                    Ok(link) => drop(self.attached.insert((hook, ifindex), Attached::Tcx(link))),
                    // The device is gone, or came back under the same index.
                    Err(error) => {
                        tracing::warn!(ifindex, %error, "a pinned TC link is of no use any more and is removed");
                        self.pins.unlink(hook, ifindex)?;
                    }
                }
            }
            for ifindex in self.pins.filters_on(hook)? {
                match replace_filter(classifier(ebpf, hook)?, &super::name(ifindex)) {
                    Ok(()) => drop(self.attached.insert((hook, ifindex), Attached::Clsact)),
                    Err(error) => {
                        tracing::warn!(ifindex, %error, "a TC filter is gone with its device");
                        self.pins.unmark(hook, ifindex)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn replace_link(&self, ebpf: &mut Ebpf, hook: Hook, ifindex: u32) -> Result<FdLink, Cause> {
        let link = FdLink::from(PinnedLink::from_pin(self.pins.link(hook, ifindex))?);
        let program = classifier(ebpf, hook)?;
        let id = program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
        Ok(FdLink::try_from(program.take_link(id)?)?)
    }

    /// Nothing for a device that has it.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        hook: Hook,
        ifindex: u32,
        name: &str,
    ) -> Result<(), KernelError> {
        if self.has(hook, ifindex) {
            return Ok(());
        }
        let failed = |source: Cause| KernelError {
            operation: format!("attach TC to {name}"),
            remedy: Some(
                "the kernel needs tcx (Linux 6.6) or CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF"
                    .to_owned(),
            ),
            source,
        };
        let program = classifier(ebpf, hook)?;
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let attached = match program.attach_with_options(name, TcAttachType::Ingress, first) {
            Ok(id) => {
                let link = program.take_link(id).map_err(|it| failed(Box::new(it)))?;
                let link = FdLink::try_from(link).map_err(|it| failed(Box::new(it)))?;
                self.pins.unlink(hook, ifindex)?;
                let pinned = link.pin(self.pins.link(hook, ifindex)).map_err(|it| failed(Box::new(it)))?;
                Attached::Tcx(FdLink::from(pinned))
            }
            // A kernel without tcx does not know the type of attachment.
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EINVAL) => {
                add_filter(program, name).map_err(failed)?;
                self.pins.mark(hook, ifindex)?;
                Attached::Clsact
            }
            Err(error) => return Err(failed(Box::new(error))),
        };
        self.attached.insert((hook, ifindex), attached);
        Ok(())
    }

    /// Nothing for a device that does not have it.
    pub(super) fn detach(&mut self, hook: Hook, ifindex: u32, name: &str) -> Result<(), KernelError> {
        match self.attached.remove(&(hook, ifindex)) {
            // The link goes with its last reference; waiting for it would be for nothing that anybody sees.
            Some(Attached::Tcx(link)) => {
                drop(link);
                self.pins.unlink(hook, ifindex)
            }
            Some(Attached::Clsact) => {
                // With its device it is gone anyway.
                if let Ok(link) = filter(name) {
                    let _gone = link.detach();
                }
                self.pins.unmark(hook, ifindex)
            }
            None => Ok(()),
        }
    }

    pub(super) fn detach_all(&mut self) -> Result<(), KernelError> {
        for (hook, ifindex) in self.attached.keys().copied().collect::<Vec<_>>() {
            self.detach(hook, ifindex, &super::name(ifindex))?;
        }
        Ok(())
    }
}

fn classifier(ebpf: &mut Ebpf, hook: Hook) -> Result<&mut SchedClassifier, KernelError> {
    let name = if hook == Hook::Local { TC_LOCAL_PROGRAM } else { TC_PROGRAM };
    Ok(programs::classifier(ebpf, name)?)
}

/// Our filter on a device, whoever has put it there.
fn filter(name: &str) -> std::io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(name, TcAttachType::Ingress, PRIORITY, HANDLE, None)
}

fn add_filter(program: &mut SchedClassifier, name: &str) -> Result<(), Cause> {
    match qdisc_add_clsact(name) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(TcError::AlreadyAttached) | Ok(()) => {}
        Err(error) => return Err(error.into()),
    }
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    match program.attach_with_options(name, TcAttachType::Ingress, TcAttachOptions::Netlink(options)) {
        Ok(id) => {
            keep(program.take_link(id)?);
            Ok(())
        }
        // An agent's that died before it could say so.
        Err(_) => replace_filter(program, name),
    }
}

fn replace_filter(program: &mut SchedClassifier, name: &str) -> Result<(), Cause> {
    let id = program.attach_to_link(filter(name)?)?;
    keep(program.take_link(id)?);
    Ok(())
}

/// Dropping one of these would detach it.
fn keep(link: SchedClassifierLink) {
    std::mem::forget(link);
}
