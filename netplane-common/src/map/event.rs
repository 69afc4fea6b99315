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
    /// GTP-U messages: a [`GtpuEvent`]. A G-PDU that no session takes.
    UnknownTeid = 3,
    /// The last packet of a tunnel that ends here (TS 29.281 §7.3.2).
    EndMarker = 4,
    /// A peer does not know a tunnel (§7.3.1).
    ErrorIndication = 5,
    EchoResponse = 6,
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

/// A GTP-U message for an endpoint, which whoever controls its sessions may want to know of.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct GtpuEvent {
    /// An [`EventKind`] as its number.
    pub kind: u32,
    /// Index of the network.
    pub network: u32,
    /// Of the message; of an Error Indication, the peer's TEID that it does not know.
    pub teid: Be32,
    pub reserved: u32,
    /// The endpoint's address and the peer's, IPv4 as IPv4-mapped.
    pub local: [Be32; 4],
    pub peer: [Be32; 4],
}

// They lie in one ring buffer, and are told apart by their lengths.
const _: () = assert!(size_of::<Event>() == 24 && size_of::<GtpuEvent>() == 48);
