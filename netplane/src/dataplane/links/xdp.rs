//! XDP on masters.

use super::super::KernelError;
use super::super::bpffs::{Hook, Pins};
use super::super::fragments::Fragments;
use super::super::programs::{self, XDP_PROGRAM};
use crate::netlink::socket::Netlink;
use crate::netlink::xdp::{self, Attached};
use crate::world::tables::Master;
use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{Xdp, XdpError, XdpLink, XdpMode as Flags};
use aya::programs::{ProgramError, ProgramInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Links by interface index.
pub(super) struct XdpLinks {
    pins: Pins,
    fragments: Fragments,
    links: BTreeMap<u32, FdLink>,
}

/// Why XDP cannot be attached.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Somebody else's program is there.
    Foreign(KernelError),
    /// The driver has no native XDP.
    NotNative(KernelError),
    /// The driver has it, but not now: its MTU, its queues.
    Driver(KernelError),
    /// The master is a bond.
    Bond(KernelError),
    /// VLAN tags do not stay in frames.
    Tags(KernelError),
    /// Nothing that another hook would mend.
    Other(KernelError),
}

impl Refusal {
    /// Whether TC can be used instead.
    pub(super) fn leaves_tc(&self) -> bool {
        !matches!(self, Self::Other(_))
    }

    /// Whether somebody should do something about it.
    pub(super) fn is_problem(&self) -> bool {
        !matches!(self, Self::NotNative(_) | Self::Bond(_))
    }

    pub(super) fn into_error(self) -> KernelError {
        match self {
            Self::Foreign(it)
            | Self::NotNative(it)
            | Self::Bond(it)
            | Self::Driver(it)
            | Self::Tags(it)
            | Self::Other(it) => it,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = match self {
            Self::NotNative(it) => return it.source.fmt(f),
            Self::Bond(it) => return it.source.fmt(f),
            Self::Foreign(it) | Self::Driver(it) | Self::Tags(it) | Self::Other(it) => it,
        };
        write!(f, "cannot {error}: {}", error.source)?;
        match &error.remedy {
            Some(remedy) => write!(f, " ({remedy})"),
            None => Ok(()),
        }
    }
}

impl XdpLinks {
    pub(super) fn new(pins: Pins, fragments: Fragments) -> Self {
        Self { pins, fragments, links: BTreeMap::new() }
    }

    pub(super) fn take_over(&mut self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        for ifindex in self.pins.linked(Hook::Xdp)? {
            let failed = |source: Box<dyn std::error::Error + Send + Sync>| KernelError {
                operation: format!("take over the pinned link of interface {ifindex}"),
                remedy: None,
                source,
            };
            if xdp::attached(ifindex).is_err() {
                self.pins.unlink(Hook::Xdp, ifindex)?;
                continue;
            }
            let pinned = PinnedLink::from_pin(self.pins.link(Hook::Xdp, ifindex));
            let pinned = pinned.map_err(|it| failed(Box::new(it)))?;
            let link = XdpLink::try_from(FdLink::from(pinned)).map_err(|it| failed(Box::new(it)))?;
            match replace(programs::xdp(ebpf, XDP_PROGRAM)?, link) {
                Ok(link) => {
                    self.links.insert(ifindex, link);
                }
                // ENOLINK: the device went away and came back under the same index.
                Err(error) => {
                    tracing::warn!(ifindex, %error, "a pinned link is of no use any more and is removed");
                    self.pins.unlink(Hook::Xdp, ifindex)?;
                }
            }
        }
        Ok(())
    }

    /// Takes over the link that an older layout has on a master, if it has one: it gets the program, and its
    /// pin moves here.
    fn move_here(&mut self, ebpf: &mut Ebpf, ifindex: u32) -> Result<bool, KernelError> {
        let older = self.pins.older().into_iter().find(|it| it.link(ifindex).exists());
        let Some(older) = older else { return Ok(false) };
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| KernelError {
            operation: format!("take over the link of interface {ifindex} from layout {}", older.version),
            remedy: None,
            source,
        };
        let path = older.link(ifindex);
        let pinned = PinnedLink::from_pin(&path).map_err(|it| failed(Box::new(it)))?;
        let link = XdpLink::try_from(FdLink::from(pinned)).map_err(|it| failed(Box::new(it)))?;
        match replace(programs::xdp(ebpf, XDP_PROGRAM)?, link) {
            Ok(link) => {
                // One step: there is no moment with two pins or none.
                let here = self.pins.link(Hook::Xdp, ifindex);
                std::fs::rename(&path, here).map_err(|it| failed(Box::new(it)))?;
                self.links.insert(ifindex, link);
                Ok(true)
            }
            Err(error) => {
                tracing::warn!(ifindex, %error, "a pinned link is of no use any more and is removed");
                older.unlink(ifindex)?;
                Ok(false)
            }
        }
    }

    /// In the driver, or on socket buffers. Nothing for a master that has a link.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        ifindex: u32,
        master: &Master,
        native: bool,
    ) -> Result<(), Refusal> {
        if self.links.contains_key(&ifindex) || self.move_here(ebpf, ifindex).map_err(Refusal::Other)? {
            return Ok(());
        }
        let failed = |remedy: Option<String>, source: Box<dyn std::error::Error + Send + Sync>| KernelError {
            operation: format!("attach XDP to master {}", master.name),
            remedy,
            source,
        };
        let other = |source: Box<dyn std::error::Error + Send + Sync>| Refusal::Other(failed(None, source));
        let state = xdp::attached(ifindex).map_err(|it| other(Box::new(it)))?;
        if let Attached { program: Some(id), .. } = state {
            let remedy = "detach it (`ip link set dev MASTER xdp off` or its owner's way), or move the network to \
                          another master";
            let there = format!("{} is already there", name_of(id));
            return Err(Refusal::Foreign(failed(Some(remedy.to_owned()), there.into())));
        }
        let program = programs::xdp(ebpf, XDP_PROGRAM).map_err(|it| Refusal::Other(it.into()))?;
        let flags = if native { Flags::Driver } else { Flags::Skb };
        let id = program.attach_to_if_index(ifindex, flags).map_err(|error| {
            let number = errno(&error);
            let mtu = jumbo_mtu(&master.name);
            let remedy = attach_remedy(number, mtu, self.fragments);
            match number {
                Some(libc::EOPNOTSUPP) => Refusal::NotNative(failed(remedy, no_native(mtu).into())),
                Some(libc::EPERM | libc::ENODEV) | None => Refusal::Other(failed(remedy, Box::new(error))),
                Some(_) => Refusal::Driver(failed(remedy, Box::new(error))),
            }
        })?;
        let link = program.take_link(id).map_err(|it| other(Box::new(it)))?;
        let link = FdLink::try_from(link).map_err(|it| other(Box::new(it)))?;
        // Left over from a master that had this index and is gone.
        self.pins.unlink(Hook::Xdp, ifindex).map_err(Refusal::Other)?;
        let pinned = link.pin(self.pins.link(Hook::Xdp, ifindex)).map_err(|it| other(Box::new(it)))?;
        self.links.insert(ifindex, FdLink::from(pinned));
        Ok(())
    }

    pub(super) fn detach(&mut self, ifindex: u32) -> Result<(), KernelError> {
        let attached = self.links.remove(&ifindex).is_some();
        self.pins.unlink(Hook::Xdp, ifindex)?;
        if attached {
            wait_until_detached(ifindex);
        }
        Ok(())
    }

    /// Links whose device came back from another namespace, or that somebody has detached, are of no use: they go.
    pub(super) fn let_go_of_dead(&mut self, ebpf: &Ebpf) -> Result<Vec<u32>, KernelError> {
        let own = ebpf.program(XDP_PROGRAM).and_then(|it| Some(it.info().ok()?.id()));
        let is_dead = |it: &&u32| xdp::attached(**it).is_ok_and(|it| it.program != own);
        let dead: Vec<u32> = self.links.keys().filter(is_dead).copied().collect();
        for ifindex in &dead {
            tracing::warn!(ifindex, "XDP was detached by somebody else");
            self.links.remove(ifindex);
            self.pins.unlink(Hook::Xdp, *ifindex)?;
        }
        Ok(dead)
    }

    /// Masters that have a link.
    pub(super) fn masters(&self) -> BTreeSet<u32> {
        self.links.keys().copied().collect()
    }

    /// Lets go of all links; returns the masters that had one.
    pub(super) fn forget(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.links).into_keys().collect()
    }
}

/// The kernel detaches a link some moments after its last reference went (a work queue releases it). Whoever
/// asked for it to be detached may look at once, or attach another program.
pub(in super::super) fn wait_until_detached(ifindex: u32) {
    const INTERVAL: std::time::Duration = std::time::Duration::from_millis(5);
    const ATTEMPTS: u32 = 400;
    for _ in 0..ATTEMPTS {
        // An error: the device is gone, and the program with it.
        match xdp::attached(ifindex) {
            Ok(Attached { program: Some(_), .. }) => std::thread::sleep(INTERVAL),
            _ => return,
        }
    }
}

fn replace(program: &mut Xdp, link: XdpLink) -> Result<FdLink, Box<dyn std::error::Error + Send + Sync>> {
    let id = program.attach_to_link(link)?;
    Ok(FdLink::try_from(program.take_link(id)?)?)
}

pub(super) fn name_of(id: u32) -> String {
    let name = aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|it: &ProgramInfo| it.id() == id)
        .and_then(|it| it.name_as_str().map(str::to_owned));
    match name {
        Some(name) => format!("the XDP program {id} ({name}) of somebody else"),
        None => format!("the XDP program {id} of somebody else"),
    }
}

/// The kernel's error number. Without BPF links (`EINVAL`), attaching is by netlink.
fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::XdpError(XdpError::NetlinkError(error)) => error.raw_os_error(),
        _ => None,
    }
}

/// The MTU of a master whose frames may not fit a page with the room that XDP wants, as most drivers have it.
fn jumbo_mtu(name: &str) -> Option<u32> {
    const FITS_A_PAGE: u32 = 3498;
    let link = Netlink::here().ok()?.link(name).ok()??;
    Some(link.mtu).filter(|it| *it > FITS_A_PAGE)
}

/// Some drivers say that they have no native XDP where they have none for this MTU.
fn no_native(jumbo_mtu: Option<u32>) -> String {
    let or = jumbo_mtu.map(|it| format!(", or none for its MTU of {it}")).unwrap_or_default();
    format!("the driver has no native XDP{or}")
}

fn attach_remedy(errno: Option<i32>, jumbo_mtu: Option<u32>, fragments: Fragments) -> Option<String> {
    match errno? {
        libc::EOPNOTSUPP => Some(
            "set \"xdp\": \"tc\" in the network's netplane.dev/fast-path, or \"generic\", knowing that it is much \
             slower"
                .to_owned(),
        ),
        libc::EPERM => Some("run as root, or with CAP_BPF and CAP_NET_ADMIN".to_owned()),
        libc::EBUSY => Some("another XDP program is attached: detach it first".to_owned()),
        libc::ERANGE | libc::EINVAL => Some(match jumbo_mtu {
            Some(mtu) if fragments == Fragments::Refused => format!(
                "lower the master's MTU of {mtu}, or use Linux 5.18: before, XDP takes no frames in fragments"
            ),
            Some(mtu) => format!("lower the master's MTU of {mtu}: its driver's XDP takes no frames that large"),
            None => "lower the master's MTU: its driver's XDP takes no frames that large".to_owned(),
        }),
        _ => None,
    }
}
