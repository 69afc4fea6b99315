//! Load: what is sent, described in a file; the generators that send it, and the sink that counts it.

pub mod scenario;

pub mod template;

pub(crate) mod turns;

pub(crate) mod index;

pub(crate) mod objects;

pub mod live;

pub mod pktgen;

pub mod sink;

#[cfg(test)]
mod tests;

pub use scenario::{Mac, Scenario};

use anyhow::{Context, Result, bail};
use std::time::Duration;

/// How much of a scenario is sent, and how fast, in one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Frames a second, all threads together; as fast as possible if `None`.
    pub rate: Option<f64>,
    /// Frames in all, if they are limited.
    pub frames: Option<u64>,
    /// The longest that is sent.
    pub time: Duration,
}

/// What a generator has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sent {
    pub frames: u64,
    pub bytes: u64,
    pub seconds: f64,
    /// Frames that were due more than a millisecond before they could be sent.
    pub late: u64,
}

/// What sends: pktgen is a module of the kernel, live frames are BPF_PROG_TEST_RUN's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The kernel's pktgen.
    Pktgen,
    /// XDP live frames.
    Live,
}

/// A generator that is ready to send.
pub enum Generator {
    Pktgen(Box<pktgen::Pktgen>),
    Live(Box<live::Live>),
}

impl Generator {
    /// Loads a scenario for an interface of the calling thread's network namespace. There is no falling back
    /// from one kind to another: they do not cost the same.
    ///
    /// # Errors
    /// The kernel lacks it (the error says what to do), or the scenario cannot be sent by it.
    pub fn new(kind: Kind, interface: &str, scenario: &Scenario) -> Result<Self> {
        Ok(match kind {
            Kind::Pktgen => Self::Pktgen(Box::new(pktgen::Pktgen::new(interface, scenario)?)),
            Kind::Live => Self::Live(Box::new(live::Live::new(interface, scenario)?)),
        })
    }

    /// Sends, and returns when all is sent.
    ///
    /// # Errors
    /// The kernel's.
    pub fn run(&mut self, load: Load) -> Result<Sent> {
        match self {
            Self::Pktgen(it) => it.run(load),
            Self::Live(it) => it.run(load),
        }
    }
}

/// Keeps the calling thread on one CPU.
///
/// # Errors
/// There is no such CPU.
pub fn pin(cpu: usize) -> Result<()> {
    pin_process(nix::unistd::Pid::from_raw(0), cpu)
}

/// Keeps a thread, by its id, on one CPU.
///
/// # Errors
/// There is no such CPU or thread.
pub fn pin_process(thread: nix::unistd::Pid, cpu: usize) -> Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu).with_context(|| format!("CPU {cpu}"))?;
    nix::sched::sched_setaffinity(thread, &set).with_context(|| format!("no CPU {cpu} to run on"))
}

/// MAC address of an interface of the calling thread's network namespace.
///
/// # Errors
/// There is no such interface.
pub fn mac_of(interface: &str) -> Result<Mac> {
    use nix::ifaddrs::getifaddrs;
    for address in getifaddrs().context("getifaddrs")?.filter(|it| it.interface_name == interface) {
        if let Some(mac) = address.address.and_then(|it| it.as_link_addr().and_then(|it| it.addr())) {
            return Ok(Mac(mac));
        }
    }
    bail!("no interface {interface} with a MAC address")
}
