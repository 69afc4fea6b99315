//! What goes to the agent with a packet that is to be kept for a while.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// In front of a frame that the agent is to keep: where it came in, and for whom it is. The bytes of the frame follow,
/// as on a wire but for a tag that was taken off. All in host byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Buffered {
    /// The master that it came in by.
    pub ifindex: u32,
    /// The session's counter of this direction.
    pub counter: u32,
    /// The PDR that is for the packet.
    pub pdr: u32,
    /// Bytes of the frame; what is behind them is padding.
    pub len: u32,
    /// The data network.
    pub network: u16,
    /// VLAN identifier of a tag that lies beside the frame; 0: none.
    pub vlan: u16,
}

/// Mark of a frame that the agent releases, at the far end of the offload wire, beside the index of the master that it
/// had come in by.
pub const RELEASED: u32 = 1 << 31;

const _: () = assert!(size_of::<Buffered>() == 20);
