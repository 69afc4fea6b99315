//! Addresses of interfaces.

use super::link::Link;
use super::socket::{Netlink, NetlinkError, Request};
use ipnet::IpNet;
use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let messages = self.list(|| "list the addresses".to_owned(), request)?;
        let address = |it: &_| match it {
            RouteNetlinkMessage::NewAddress(message) => address(message),
            _ => None,
        };
        Ok(messages.iter().filter_map(address).collect())
    }
}

/// The request to add an address. `EEXIST`: it is there.
pub(super) fn add(link: &Link, address: IpNet) -> Request {
    let message = match address {
        IpNet::V4(it) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(link.index)
            .address(it.addr(), it.prefix_len())
            .build(),
        IpNet::V6(it) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(link.index)
            .address(it.addr(), it.prefix_len())
            .build(),
    };
    Request {
        operation: format!("add {address} to {}", link.name),
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        tolerated: None,
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
