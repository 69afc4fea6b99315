//! The seam between the agent and BPF: what the agent asks of the kernel, and what it can learn.

use super::Statistics;
use crate::world::tables::{Operation, Tables};
use netplane_common::map::{
    Buffered, Counter, Event, FailureKey, GtpuEvent, UplinkKey, Usage, UsageKey, UsageLimits,
};
use netplane_common::verdict::Reason;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

/// What went wrong with one operation. The rest of a batch is still applied.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct KernelError {
    /// What was being done, with its object: `attach XDP to eth1`.
    pub operation: String,
    /// What would make it work, where that is known.
    pub remedy: Option<String>,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The remedy of an operation for which a table has no room.
pub const TABLE_FULL: &str =
    "the table is full: remove sessions, or start the agent with more --max-sessions";

/// The mode in which the kernel says that a program runs on a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachedMode {
    Native,
    Generic,
    Tc,
    None,
}

impl std::fmt::Display for AttachedMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Native => "XDP native",
            Self::Generic => "XDP generic",
            Self::Tc => "TC",
            Self::None => "not attached",
        })
    }
}

/// How a master is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    pub mode: AttachedMode,
    /// A TC program beside XDP sees what pods under the master send each other.
    pub local: bool,
    /// Why it is not on native XDP, where nobody asked for that.
    pub why: Option<String>,
    /// What somebody should do something about.
    pub problem: Option<String>,
}

/// What an earlier agent left in the kernel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Left {
    pub tables: Tables,
    /// Else an older layout forwards: the tables say no more than which index means what, and all of them are
    /// still to be written.
    pub in_force: bool,
}

/// Packets that the kernel has lost after the decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Of masters with XDP, since it was attached.
    pub packets: BTreeMap<FailureKey, u64>,
    /// Why they are not counted, or not all.
    pub note: Option<String>,
}

/// An event of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    Event(Event),
    Gtpu(GtpuEvent),
}

/// The kernel's side of the fast path. `dataplane::bpf` is the real one; tests use a double.
pub trait Kernel: Send {
    /// For a start that takes over pins. `networks` and all indices are as they were.
    ///
    /// # Errors
    /// A map cannot be read.
    fn read_back(&mut self) -> Result<Left, KernelError>;

    /// Applies operations in order. Each failure is returned with its operation's index; the others are
    /// applied all the same. The first call is the one that takes over from an older layout, so it must have
    /// everything.
    fn apply(&mut self, operations: &[Operation]) -> Vec<(usize, KernelError)>;

    /// Session entries that were written are found by an index only after a grace period of the kernel
    /// ([`super::grace`]), which is about to begin. Returns whether one is wanted.
    fn begin_to_settle(&mut self) -> bool {
        false
    }

    /// That grace period is over.
    fn settle(&mut self) {}

    /// Session entries that are found by an index.
    fn indexed(&self) -> u32 {
        0
    }

    /// Whether packets to this tunnel's end would be found by an index.
    fn would_be_indexed(&self, _key: &UplinkKey) -> bool {
        true
    }

    /// Verdict counters of a network by reason number, summed over CPUs. Zero counters are left out.
    ///
    /// # Errors
    /// The map cannot be read.
    fn network_counters(&mut self, network: u16) -> Result<BTreeMap<u8, Counter>, KernelError>;

    /// Elements of the table of session counters: two for each session.
    fn session_counters_len(&self) -> u32;

    /// Bytes of the kernel's memory that the tables of sessions take.
    fn session_table_bytes(&self) -> u64;

    /// Session counters by index, in the order asked for.
    ///
    /// # Errors
    /// The map cannot be read.
    fn session_counters(&mut self, counters: &[u32]) -> Result<Vec<Counter>, KernelError>;

    /// What has been used by a URR, and its limits; `None` if there is no such usage.
    ///
    /// # Errors
    /// The map cannot be read.
    fn usage(&mut self, key: &UsageKey) -> Result<Option<(Usage, UsageLimits)>, KernelError>;

    /// Now, by the clock of [`Usage`], in nanoseconds.
    fn clock(&self) -> u64;

    /// Events that the programs raised since the last call, oldest first.
    fn drain_events(&mut self) -> Vec<Raised>;

    /// Has packets taken that are to be kept, and makes sure of their way back. Once more: nothing.
    ///
    /// # Errors
    /// The kernel has no memory for that, or no offload wire can be had.
    fn start_buffering(&mut self) -> Result<(), KernelError>;

    /// Packets to be kept since the last call: those of one CPU in order.
    fn buffered(&mut self) -> Vec<(Buffered, Vec<u8>)>;

    /// Readable when there are some; `None` before buffering has started.
    fn wakes(&self) -> Option<OwnedFd>;

    /// Gives a kept packet back: the programs decide on it as if it had just come, and count it.
    ///
    /// # Errors
    /// It cannot be sent; nothing has counted it.
    fn release(&mut self, about: &Buffered, frame: &[u8]) -> Result<(), KernelError>;

    /// Counts packets of a network that were dropped outside of the programs, for a reason that these do not count.
    fn count_dropped(&mut self, network: u16, reason: Reason, dropped: Counter);

    /// How the kernel says that a master is attached.
    fn attached(&mut self, ifindex: u32) -> Attached;

    /// Looks whether what is in force is still so, and whether a master may have what it could not have before.
    /// Returns what to forget of the tables in force, as operations, so that it is made so again.
    fn changed(&mut self, in_force: &Tables) -> Vec<Operation>;

    /// Whether what is in force outlives the agent.
    ///
    /// # Errors
    /// The pins are gone, with their file system or by somebody's hand.
    fn pinned(&self) -> Result<(), KernelError>;

    /// Packets that were to leave and that the kernel has lost.
    ///
    /// # Errors
    /// The map cannot be read.
    fn lost(&mut self) -> Result<Lost, KernelError>;

    /// What the kernel says of programs and maps.
    fn statistics(&mut self) -> Statistics;

    /// Removes links, pins and maps.
    ///
    /// # Errors
    /// Something could not be removed; the rest is.
    fn detach_all(&mut self) -> Result<(), KernelError>;
}
