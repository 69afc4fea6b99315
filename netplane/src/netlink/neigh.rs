//! Neighbours: what the kernel knows of MAC addresses on a link, and asking it to find out.

use super::Mac;
use super::socket::{Netlink, NetlinkError, Request};
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

/// An entry of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    pub index: u32,
    pub address: IpAddr,
    /// The MAC to send to; absent while it is not known or has failed.
    pub mac: Option<Mac>,
}

/// `NDA_FLAGS_EXT` and `NTF_EXT_MANAGED` of linux/neighbour.h: since Linux 5.16 the kernel itself keeps
/// such an entry resolved.
const NDA_FLAGS_EXT: u16 = 15;
const NTF_EXT_MANAGED: u32 = 1;

impl Netlink {
    /// The neighbour table.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn neighbours(&self) -> Result<Vec<Neighbour>, NetlinkError> {
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let messages = self.list(|| "list the neighbours".to_owned(), request)?;
        let neighbour = |it: &_| match it {
            RouteNetlinkMessage::NewNeighbour(message) => neighbour(message),
            _ => None,
        };
        Ok(messages.iter().filter_map(neighbour).collect())
    }

    /// Asks the kernel to resolve `address` on the interface with this index, and to keep it resolved
    /// where it can (Linux 5.16): packets that never pass its stack do not keep an entry alive.
    ///
    /// # Errors
    /// The interface is gone or down.
    pub fn resolve(&self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut managed = request(index, address, NeighbourFlags::empty());
        let flags = DefaultNla::new(NDA_FLAGS_EXT, NTF_EXT_MANAGED.to_ne_bytes().to_vec());
        managed.attributes.push(NeighbourAttribute::Other(flags));
        let change = |message| {
            self.change(vec![Request {
                operation: format!("resolve {address}"),
                message: RouteNetlinkMessage::NewNeighbour(message),
                flags: NLM_F_CREATE | NLM_F_REPLACE,
                tolerated: None,
            }])
        };
        // An older kernel does not know the attribute; one that knows it may still want the other way.
        change(managed).or_else(|_| change(request(index, address, NeighbourFlags::Use)))
    }
}

fn request(index: u32, address: IpAddr, flags: NeighbourFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    let (family, destination) = match address {
        IpAddr::V4(it) => (AddressFamily::Inet, NeighbourAddress::Inet(it)),
        IpAddr::V6(it) => (AddressFamily::Inet6, NeighbourAddress::Inet6(it)),
    };
    message.header.family = family;
    message.header.ifindex = index;
    message.header.state = NeighbourState::None;
    message.header.flags = flags;
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    let usable = matches!(message.header.state, Reachable | Stale | Delay | Probe | Permanent | Noarp);
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(it)) => address = Some(IpAddr::V4(*it)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(it)) => address = Some(IpAddr::V6(*it)),
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac::new);
            }
            _ => {}
        }
    }
    Some(Neighbour { index: message.header.ifindex, address: address?, mac: mac.filter(|_| usable) })
}
