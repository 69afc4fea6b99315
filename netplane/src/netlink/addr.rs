//! Addresses of interfaces.

use super::link::Link;
use super::socket::{Netlink, NetlinkError};
use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use std::net::IpAddr;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    pub index: u32,
    pub address: IpNet,
    /// IPv6 duplicate address detection is still going on (`IFA_F_TENTATIVE`).
    pub tentative: bool,
    /// Duplicate address detection found another owner (`IFA_F_DADFAILED`).
    pub duplicate: bool,
}

impl Netlink {
    /// All addresses of the namespace.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        let request = self.handle.address().get().execute().try_collect::<Vec<_>>();
        let messages = self.wait(|| "list the addresses".to_owned(), request)?;
        Ok(messages.iter().filter_map(address).collect())
    }

    /// Adds an address.
    ///
    /// # Errors
    /// `EEXIST`: it is there.
    pub fn add_address(&self, link: &Link, address: IpNet) -> Result<(), NetlinkError> {
        let request = self.handle.address().add(link.index, address.addr(), address.prefix_len()).execute();
        self.wait(|| format!("add {address} to {}", link.name), request)
    }
}

fn address(message: &AddressMessage) -> Option<Address> {
    let mut address: Option<IpAddr> = None;
    let mut flags = AddressFlags::empty();
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point link, `Address` is the other side's.
            AddressAttribute::Local(it) => address = Some(*it),
            AddressAttribute::Address(it) if address.is_none() => address = Some(*it),
            AddressAttribute::Flags(it) => flags = *it,
            _ => {}
        }
    }
    Some(Address {
        index: message.header.index,
        address: IpNet::new(address?, message.header.prefix_len).ok()?,
        tentative: flags.contains(AddressFlags::Tentative),
        duplicate: flags.contains(AddressFlags::Dadfailed),
    })
}
