//! Programs on masters: which hook a master gets, taking over what is pinned, and refusing to push anybody away.
//!
//! | `xdp` | hook |
//! |---|---|
//! | `auto` | native XDP; where that cannot be, TC, and `status` says why |
//! | `native`, `generic`, `tc` | that one or a problem |
//!
//! Beside native XDP a TC program sees what pods under the master send each other.

mod offloads;
mod tc;
mod wire;
mod xdp;

use super::bpffs::{Hook, Pins};
use super::fragments::Fragments;
use super::{Attached, AttachedMode, KernelError, LoadError, load_tc};
use crate::netlink::xdp as kernel_xdp;
use crate::world::tables::{Master, XdpMode};
use aya::Ebpf;
use offloads::Offloads;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tc::Tc;
use wire::Wire;
use xdp::{Refusal, XdpLinks};

pub(super) use xdp::wait_until_detached;

/// How long to wait before native XDP is tried again where the driver has refused it for what may change: its MTU,
/// its queues.
const RETRY: Duration = Duration::from_secs(30);

/// What was decided for a master that is attached.
#[derive(Clone, Debug)]
struct Note {
    text: String,
    is_problem: bool,
    retry: Retry,
}

/// When native XDP may be possible after all.
#[derive(Clone, Copy, Debug)]
enum Retry {
    Never,
    /// When nobody else's program is there.
    WhenFree,
    At(Instant),
}

/// The links of this agent. Dropping them detaches nothing: the pins hold them.
pub(super) struct Links {
    xdp: XdpLinks,
    tc: Tc,
    wire: Wire,
    offloads: Offloads,
    /// Why a master is not on native XDP, by interface index.
    notes: BTreeMap<u32, Note>,
    /// Why there is no offload wire.
    no_wire: Option<String>,
    has_tc_programs: bool,
    /// Buffered packets come back through the wire, also where no master is on TC.
    keeps_wire: bool,
}

impl Links {
    pub(super) fn new(pins: Pins, fragments: Fragments) -> Self {
        Self {
            xdp: XdpLinks::new(pins.clone(), fragments),
            tc: Tc::new(pins.clone()),
            wire: Wire::default(),
            offloads: Offloads::new(pins),
            notes: BTreeMap::new(),
            no_wire: None,
            has_tc_programs: false,
            keeps_wire: false,
        }
    }

    /// Puts the newly loaded programs into every pinned link, in place of the old agent's, without a moment in
    /// which none runs. What belongs to a master that is gone is removed.
    pub(super) fn take_over(&mut self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        self.xdp.take_over(ebpf)?;
        if self.tc.is_pinned()? {
            self.load_tc(ebpf)?;
            self.tc.take_over(ebpf)?;
            self.lay_wire(ebpf);
        }
        self.offloads.forget_vanished()
    }

    /// Attaches to a master as its networks ask for, or says why not. Once more for one that is attached: then
    /// what has changed about it is made so.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        ifindex: u32,
        master: &Master,
    ) -> Result<(), KernelError> {
        match master.mode {
            XdpMode::Off => return Ok(()),
            XdpMode::Tc => return self.attach_tc(ebpf, ifindex, master, None),
            XdpMode::Generic => {
                return self.xdp.attach(ebpf, ifindex, master, false).map_err(Refusal::into_error);
            }
            XdpMode::Auto | XdpMode::Native => {}
        }
        let native = self.attach_native(ebpf, ifindex, master);
        match native {
            Ok(()) => {
                self.notes.remove(&ifindex);
                self.tc.detach(Hook::Tc, ifindex, &master.name)?;
                self.attach_local(ebpf, ifindex, master)
            }
            Err(refusal) if master.mode == XdpMode::Auto && refusal.leaves_tc() => {
                let retry = match refusal {
                    Refusal::Foreign(_) => Retry::WhenFree,
                    Refusal::Driver(_) | Refusal::Tags(_) => Retry::At(Instant::now() + RETRY),
                    _ => Retry::Never,
                };
                let note = Note { is_problem: refusal.is_problem(), text: refusal.to_string(), retry };
                self.attach_tc(ebpf, ifindex, master, Some(note))
            }
            Err(refusal) => Err(refusal.into_error()),
        }
    }

    fn attach_native(&mut self, ebpf: &mut Ebpf, ifindex: u32, master: &Master) -> Result<(), Refusal> {
        if master.bond {
            return Err(Refusal::Bond(KernelError {
                operation: format!("attach XDP to master {}", master.name),
                remedy: Some("leave out \"xdp\" or set it to \"tc\" for its networks".to_owned()),
                source: "it is a bond: XDP would run on its ports, whose frames do not say which bond they are for"
                    .into(),
            }));
        }
        self.keep_tags(ifindex, master)?;
        self.xdp.attach(ebpf, ifindex, master, true)
    }

    /// XDP finds VLAN tags in frames only: a device must not take them off.
    fn keep_tags(&mut self, ifindex: u32, master: &Master) -> Result<(), Refusal> {
        if !master.tagged {
            return Ok(());
        }
        self.offloads.off(ifindex, &master.name, &[offloads::VLAN_STRIPPING]).map_err(|source| {
            Refusal::Tags(KernelError {
                operation: format!("have master {} leave VLAN tags in frames", master.name),
                remedy: Some(format!(
                    "`ethtool -K {} rx-vlan-hw-parse off`, or set \"xdp\": \"tc\" for its networks",
                    master.name
                )),
                source: Box::new(source),
            })
        })
    }

    fn attach_tc(
        &mut self,
        ebpf: &mut Ebpf,
        ifindex: u32,
        master: &Master,
        note: Option<Note>,
    ) -> Result<(), KernelError> {
        self.load_tc(ebpf)?;
        self.lay_wire(ebpf);
        self.tc.detach(Hook::Local, ifindex, &master.name)?;
        self.tc.attach(ebpf, Hook::Tc, ifindex, &master.name)?;
        self.xdp.detach(ifindex)?;
        // Merged packets would only be taken apart again. A device that keeps merging is no error.
        if let Err(error) = self.offloads.off(ifindex, &master.name, &offloads::MERGING) {
            tracing::info!(master = master.name, %error, "goes on merging received packets");
        }
        match note {
            Some(note) => drop(self.notes.insert(ifindex, note)),
            None => drop(self.notes.remove(&ifindex)),
        }
        Ok(())
    }

    fn attach_local(&mut self, ebpf: &mut Ebpf, ifindex: u32, master: &Master) -> Result<(), KernelError> {
        if !master.local {
            self.tc.detach(Hook::Local, ifindex, &master.name)?;
            return self.take_wire_up(ebpf);
        }
        self.load_tc(ebpf)?;
        self.lay_wire(ebpf);
        self.tc.attach(ebpf, Hook::Local, ifindex, &master.name)
    }

    fn load_tc(&mut self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        if !self.has_tc_programs {
            load_tc(ebpf).map_err(super::bpf::not_loaded)?;
            self.has_tc_programs = true;
        }
        Ok(())
    }

    /// Without the wire merged packets are dropped, and all others forwarded.
    fn lay_wire(&mut self, ebpf: &mut Ebpf) {
        let laid = self.wire.lay(ebpf, &mut self.tc);
        self.no_wire = laid.err().map(|error| format!("{error}: {}", chain(&*error.source)));
    }

    /// The near end of the wire, for packets that are released. From here on it stays.
    pub(super) fn wire_to_release(&mut self, ebpf: &mut Ebpf) -> Result<u32, KernelError> {
        self.keeps_wire = true;
        self.load_tc(ebpf)?;
        self.wire.lay(ebpf, &mut self.tc)
    }

    fn take_wire_up(&mut self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        if self.keeps_wire || self.tc.has_masters() { Ok(()) } else { self.wire.take_up(ebpf, &mut self.tc) }
    }

    pub(super) fn detach(&mut self, ebpf: &mut Ebpf, ifindex: u32) -> Result<(), KernelError> {
        self.notes.remove(&ifindex);
        self.xdp.detach(ifindex)?;
        let name = name(ifindex);
        self.tc.detach(Hook::Tc, ifindex, &name)?;
        self.tc.detach(Hook::Local, ifindex, &name)?;
        self.offloads.restore(ifindex, &name)?;
        self.take_wire_up(ebpf)
    }

    /// Takes down what is not gone with the pins, and lets go of the rest. Returns the masters that XDP was on.
    pub(super) fn forget(&mut self, ebpf: &mut Ebpf) -> Result<Vec<u32>, KernelError> {
        let masters = self.xdp.forget();
        self.tc.detach_all()?;
        self.offloads.restore_all()?;
        self.wire.take_up(ebpf, &mut self.tc)?;
        Ok(masters)
    }

    /// Masters that are to be attached once more: their link is without effect now, and has been let go, or
    /// they may have native XDP after all.
    pub(super) fn masters_to_attach(&mut self, ebpf: &Ebpf) -> Result<Vec<u32>, KernelError> {
        let mut again = self.xdp.let_go_of_dead(ebpf)?;
        let now = Instant::now();
        let is_due = |(ifindex, note): &(&u32, &Note)| match note.retry {
            Retry::Never => false,
            Retry::WhenFree => kernel_xdp::attached(**ifindex).is_ok_and(|it| it.program.is_none()),
            Retry::At(at) => now >= at,
        };
        again.extend(self.notes.iter().filter(is_due).map(|(ifindex, _)| *ifindex));
        Ok(again)
    }

    /// Masters on which XDP is attached.
    pub(super) fn on_xdp(&self) -> BTreeSet<u32> {
        self.xdp.masters()
    }

    /// How the kernel says that a master is attached, and why so.
    pub(super) fn attached(&self, ifindex: u32) -> Attached {
        let on_tc = self.tc.has(Hook::Tc, ifindex);
        let local = self.tc.has(Hook::Local, ifindex);
        let on_xdp = kernel_xdp::attached(ifindex);
        let mode = match &on_xdp {
            // With TC, the program in the driver is somebody else's.
            _ if on_tc => AttachedMode::Tc,
            Ok(it) if it.driver => AttachedMode::Native,
            Ok(it) if it.generic => AttachedMode::Generic,
            _ => AttachedMode::None,
        };
        let note = self.notes.get(&ifindex);
        // One that was there before is what the note is about.
        let is_new = !note.is_some_and(|it| matches!(it.retry, Retry::WhenFree));
        let before = on_xdp.ok().and_then(|it| it.program).filter(|_| on_tc && is_new);
        let before = before.map(|it| format!("{} has packets before netplane", xdp::name_of(it)));
        let wireless = (on_tc || local).then_some(self.no_wire.as_ref()).flatten();
        Attached {
            mode,
            local,
            why: note.map(|it| it.text.clone()).or_else(|| before.clone()),
            problem: note
                .filter(|it| it.is_problem)
                .map(|it| it.text.clone())
                // With TC by choice there may be a reason for it.
                .or_else(|| before.filter(|_| note.is_some()))
                .or_else(|| wireless.map(|it| format!("merged packets are dropped: {it}"))),
        }
    }
}

pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |it| it.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The device's name now; empty if it is gone.
fn name(ifindex: u32) -> String {
    let name = nix::net::if_::if_indextoname(ifindex);
    name.ok().and_then(|it| it.into_string().ok()).unwrap_or_default()
}

impl From<LoadError> for KernelError {
    fn from(it: LoadError) -> Self {
        super::bpf::not_loaded(it)
    }
}
