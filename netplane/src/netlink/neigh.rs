//! Neighbours: what the kernel knows of MAC addresses on a link, and asking it to find out.

use super::Mac;
use super::socket::{Netlink, NetlinkError};
use futures::TryStreamExt;
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use std::net::IpAddr;

/// An entry of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
        let request = self.handle.neighbours().get().execute().try_collect::<Vec<_>>();
        let messages = self.wait(|| "list the neighbours".to_owned(), request)?;
        Ok(messages.iter().filter_map(neighbour).collect())
    }

    /// Asks the kernel to resolve `address` on the interface with this index, and to keep it resolved
    /// where it can (Linux 5.16): packets that never pass its stack do not keep an entry alive.
    ///
    /// # Errors
    /// The interface is gone or down.
    pub fn resolve(&self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut managed = self.request(index, address, NeighbourFlags::Use);
        let flags = DefaultNla::new(NDA_FLAGS_EXT, NTF_EXT_MANAGED.to_ne_bytes().to_vec());
        managed.message_mut().attributes.push(NeighbourAttribute::Other(flags));
        managed.message_mut().header.flags = NeighbourFlags::empty();
        let operation = || format!("resolve {address}");
        match self.wait(operation, managed.execute()) {
            // An older kernel does not know the attribute; one that knows it may still want the other way.
            Err(_) => self.wait(operation, self.request(index, address, NeighbourFlags::Use).execute()),
            done => done,
        }
    }

    fn request(&self, index: u32, address: IpAddr, flags: NeighbourFlags) -> rtnetlink::NeighbourAddRequest {
        self.handle.neighbours().add(index, address).state(NeighbourState::None).flags(flags).replace()
    }
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
