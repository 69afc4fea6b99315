//! Events from the packet programs to the agent, through a ring buffer. A full buffer loses events,
//! never packets: what still matters is raised again by the next packet.

use crate::wire::Be32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A packet was dropped because the on-link neighbour `address` of the data endpoint `scope` is
    /// not known: the agent asks the pod's kernel to resolve it.
    NeighbourWanted = 1,
    /// The usage of session `scope` and the URR that is the first word of `address` has begun, or has
    /// reached a threshold or a quota. Raised again while that is not reported.
    UsageReached = 2,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// An [`EventKind`] as its number.
    pub kind: u32,
    pub scope: u32,
    /// IPv4 as IPv4-mapped.
    pub address: [Be32; 4],
}
