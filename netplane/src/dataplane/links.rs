//! Programs on masters: attaching, taking over what is pinned, and refusing to push anybody away.

use super::bpffs::Pins;
use super::{AttachedMode, KernelError, XDP_PROGRAM};
use crate::netlink::xdp::{self, Attached};
use crate::world::tables::{Master, XdpMode};
use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{Xdp, XdpLink, XdpMode as Flags};
use aya::programs::{ProgramError, ProgramInfo};
use std::collections::BTreeMap;

/// The links of this agent by interface index. Dropping them detaches nothing: the pins hold them.
pub(super) struct Links {
    pins: Pins,
    links: BTreeMap<u32, FdLink>,
}

impl Links {
    pub(super) fn new(pins: Pins) -> Self {
        Self { pins, links: BTreeMap::new() }
    }

    /// Puts the newly loaded program into every pinned link, in place of the old agent's, without a
    /// moment in which none runs. A link whose master is gone is removed. Returns the masters.
    pub(super) fn take_over(&mut self, ebpf: &mut Ebpf) -> Result<Vec<u32>, KernelError> {
        for ifindex in self.pins.linked()? {
            let failed = |source: Box<dyn std::error::Error + Send + Sync>| KernelError {
                operation: format!("take over the pinned link of interface {ifindex}"),
                remedy: None,
                source,
            };
            if xdp::attached(ifindex).is_err() {
                self.unpin(ifindex)?;
                continue;
            }
            let pinned = PinnedLink::from_pin(self.pins.link(ifindex)).map_err(|it| failed(Box::new(it)))?;
            let link = XdpLink::try_from(FdLink::from(pinned)).map_err(|it| failed(Box::new(it)))?;
            match replace(program(ebpf)?, link) {
                Ok(link) => {
                    self.links.insert(ifindex, link);
                }
                // ENOLINK: the device went away and came back under the same index.
                Err(error) => {
                    tracing::warn!(ifindex, %error, "a pinned link is of no use any more and is removed");
                    self.unpin(ifindex)?;
                }
            }
        }
        Ok(self.links.keys().copied().collect())
    }

    /// Attaches to a master as its networks ask for, or says why not.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        ifindex: u32,
        master: &Master,
    ) -> Result<(), KernelError> {
        if self.links.contains_key(&ifindex) {
            return Ok(());
        }
        let failed = |remedy: Option<String>, source: Box<dyn std::error::Error + Send + Sync>| KernelError {
            operation: format!("attach XDP to master {}", master.name),
            remedy,
            source,
        };
        let flags = match master.mode {
            XdpMode::Auto | XdpMode::Native => Flags::Driver,
            XdpMode::Generic => Flags::Skb,
            XdpMode::Off => return Ok(()),
            XdpMode::Tc => return Err(failed(None, "xdp \"tc\" is not supported yet".into())),
        };
        let state = xdp::attached(ifindex).map_err(|it| failed(None, Box::new(it)))?;
        if let Attached { program: Some(id), .. } = state {
            let remedy = "detach it (`ip link set dev MASTER xdp off` or its owner's way), or move the network to \
                          another master";
            return Err(failed(Some(remedy.to_owned()), format!("{} is already there", name_of(id)).into()));
        }
        let program = program(ebpf)?;
        let id = program.attach_to_if_index(ifindex, flags).map_err(|error| {
            let remedy = attach_remedy(&error);
            failed(remedy, Box::new(error))
        })?;
        let link = program.take_link(id).map_err(|it| failed(None, Box::new(it)))?;
        let link = FdLink::try_from(link).map_err(|it| failed(None, Box::new(it)))?;
        // Left over from a master that had this index and is gone.
        let path = self.pins.link(ifindex);
        if path.exists() {
            self.unpin(ifindex)?;
        }
        let pinned = link.pin(&path).map_err(|it| failed(None, Box::new(it)))?;
        self.links.insert(ifindex, FdLink::from(pinned));
        Ok(())
    }

    pub(super) fn detach(&mut self, ifindex: u32) -> Result<(), KernelError> {
        self.links.remove(&ifindex);
        self.unpin(ifindex)?;
        wait_until_detached(ifindex);
        Ok(())
    }

    /// Lets go of all links; returns the masters that had one.
    pub(super) fn forget(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.links).into_keys().collect()
    }

    fn unpin(&self, ifindex: u32) -> Result<(), KernelError> {
        let path = self.pins.link(ifindex);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(KernelError {
                operation: format!("remove the pin {}", path.display()),
                remedy: None,
                source: Box::new(error),
            }),
            _ => Ok(()),
        }
    }
}

/// The kernel detaches a link some moments after its last reference went (a work queue releases it). Whoever
/// asked for it to be detached may look at once, or attach another program.
pub(super) fn wait_until_detached(ifindex: u32) {
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

/// The mode as the kernel reports it for the device.
pub(super) fn mode(ifindex: u32) -> AttachedMode {
    match xdp::attached(ifindex) {
        Ok(Attached { driver: true, .. }) => AttachedMode::Native,
        Ok(Attached { generic: true, .. }) => AttachedMode::Generic,
        _ => AttachedMode::None,
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, KernelError> {
    super::programs::xdp(ebpf, XDP_PROGRAM).map_err(|it| KernelError {
        operation: format!("find the program {XDP_PROGRAM}"),
        remedy: None,
        source: Box::new(it),
    })
}

fn replace(program: &mut Xdp, link: XdpLink) -> Result<FdLink, Box<dyn std::error::Error + Send + Sync>> {
    let id = program.attach_to_link(link)?;
    Ok(FdLink::try_from(program.take_link(id)?)?)
}

fn name_of(id: u32) -> String {
    let name = aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|it: &ProgramInfo| it.id() == id)
        .and_then(|it| it.name_as_str().map(str::to_owned));
    match name {
        Some(name) => format!("the XDP program {id} ({name}) of somebody else"),
        None => format!("the XDP program {id} of somebody else"),
    }
}

fn attach_remedy(error: &ProgramError) -> Option<String> {
    let ProgramError::SyscallError(error) = error else {
        return None;
    };
    match error.io_error.raw_os_error()? {
        libc::EOPNOTSUPP => Some(
            "the driver has no native XDP: set \"xdp\": \"generic\" in the network's netplane.dev/fast-path, \
             knowing that it is much slower"
                .to_owned(),
        ),
        libc::EPERM => Some("run as root, or with CAP_BPF and CAP_NET_ADMIN".to_owned()),
        libc::EBUSY => Some("another XDP program is attached: detach it first".to_owned()),
        libc::ERANGE | libc::EINVAL => {
            Some("lower the master's MTU: its driver's XDP takes no frames that large".to_owned())
        }
        _ => None,
    }
}
