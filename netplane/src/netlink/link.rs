//! Links: finding, making, changing and removing them.

use super::Mac;
use super::netns::Netns;
use super::socket::{Netlink, NetlinkError, Request};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    MacVlanMode as KernelMode,
};
use rtnetlink::{LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVeth};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd};

/// A link as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Option<Mac>,
    /// Largest network-layer packet in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// `macvlan`, `veth`, `vlan`, …; empty for physical devices.
    pub kind: String,
    /// `IFLA_GROUP`: a number by which many can be meant at once; 0 unless somebody sets it.
    pub group: u32,
    /// Index of the device below (`IFLA_LINK`), for a VLAN device or a macvlan; in the namespace that it is
    /// in, which may be another one.
    pub parent: Option<u32>,
    /// The device below is in another namespace (`IFLA_LINK_NETNSID`).
    pub parent_is_elsewhere: bool,
    /// Of a VLAN device: its identifier.
    pub vlan: Option<u16>,
    /// Of a macvlan.
    pub macvlan_mode: Option<MacvlanMode>,
    /// Index of the device that this is a port of (`IFLA_MASTER`): a bond or bridge.
    pub controller: Option<u32>,
}

/// How macvlan devices under one master talk (`IFLA_MACVLAN_MODE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    #[default]
    #[serde(alias = "")]
    Bridge,
    Private,
    Vepa,
    Passthru,
}

/// A macvlan device to be made.
#[derive(Clone, Debug)]
pub struct NewMacvlan<'a> {
    pub name: &'a str,
    /// Index of the master in the socket's namespace.
    pub master: u32,
    pub mode: MacvlanMode,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    /// `IFLA_MACVLAN_BC_QUEUE_LEN`.
    pub bc_queue_len: Option<u32>,
}

impl Netlink {
    /// All links of the namespace.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let messages = self.list(|| "list the links".to_owned(), request)?;
        Ok(messages.iter().filter_map(new_link).collect())
    }

    /// The link of this name, `None` if there is none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        self.one_link(|| format!("find the link {name}"), LinkUnspec::new_with_name(name).build())
    }

    /// The link with this index, `None` if there is none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn link_at(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        self.one_link(|| format!("find link number {index}"), LinkUnspec::new_with_index(index).build())
    }

    fn one_link(
        &self,
        operation: impl Fn() -> String,
        message: LinkMessage,
    ) -> Result<Option<Link>, NetlinkError> {
        match self.get(operation, RouteNetlinkMessage::GetLink(message)) {
            Ok(messages) => Ok(messages.iter().find_map(new_link)),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a macvlan device in the namespace `into`, under its final name from the start: it never
    /// shows up in this namespace, and cannot clash with a name here.
    ///
    /// # Errors
    /// `EEXIST`: the name is taken. `EBUSY`: the master has a device in `passthru` mode.
    pub fn create_macvlan(&self, new: &NewMacvlan<'_>, into: &Netns) -> Result<(), NetlinkError> {
        let mode = match new.mode {
            MacvlanMode::Bridge => KernelMode::Bridge,
            MacvlanMode::Private => KernelMode::Private,
            MacvlanMode::Vepa => KernelMode::Vepa,
            MacvlanMode::Passthru => KernelMode::Passthrough,
        };
        let mut message = LinkMacVlan::new(new.name, new.master, mode).setns_by_fd(into.as_fd().as_raw_fd());
        if let Some(mac) = new.mac {
            message = message.address(mac.octets().to_vec());
        }
        if let Some(mtu) = new.mtu {
            message = message.mtu(mtu);
        }
        if let Some(len) = new.bc_queue_len {
            message = message.append_info_data(InfoMacVlan::BcQueueLen(len));
        }
        self.change(vec![Request {
            operation: format!("make the macvlan device {}", new.name),
            message: RouteNetlinkMessage::NewLink(message.build()),
            flags: NLM_F_CREATE | NLM_F_EXCL,
            tolerated: None,
        }])
    }

    /// Makes a veth pair in this namespace, both ends up and with this MTU.
    ///
    /// # Errors
    /// `EEXIST`: a name is taken.
    pub fn create_veth(&self, name: &str, peer: &str, mtu: u32) -> Result<(), NetlinkError> {
        self.change(vec![Request {
            operation: format!("make the veth pair {name} and {peer}"),
            message: RouteNetlinkMessage::NewLink(LinkVeth::new(name, peer).build()),
            flags: NLM_F_CREATE | NLM_F_EXCL,
            tolerated: None,
        }])?;
        let up = |name: &str| {
            let message = LinkUnspec::new_with_name(name).mtu(mtu).up().build();
            request(format!("set {name} up"), RouteNetlinkMessage::SetLink(message))
        };
        self.change(vec![up(peer), up(name)])
    }

    /// Removes links of this namespace. Those that are gone are no error. Many are removed by one request, as
    /// a group of their own: the kernel waits for all readers of a device's pointers, and so it waits once.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_links(&self, links: &[&Link]) -> Result<(), NetlinkError> {
        if let [only] = links {
            let message = RouteNetlinkMessage::DelLink(LinkUnspec::new_with_index(only.index).build());
            return self.change(vec![request(format!("remove {}", only.name), message).or(libc::ENODEV)]);
        }
        let group = self.free_group()?;
        let named = links.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ");
        let mut requests: Vec<_> = links
            .iter()
            .map(|it| {
                let message = LinkUnspec::new_with_index(it.index).link_group(group).build();
                request(format!("put {} into a group", it.name), RouteNetlinkMessage::SetLink(message))
                    .or(libc::ENODEV)
            })
            .collect();
        let message = LinkMessageBuilder::<LinkUnspec>::default().link_group(group).build();
        requests
            .push(request(format!("remove {named}"), RouteNetlinkMessage::DelLink(message)).or(libc::ENODEV));
        self.change(requests)
    }

    /// A group that no link here is in. Two callers at the same time may find the same one: what is in it is
    /// to be removed by either.
    fn free_group(&self) -> Result<u32, NetlinkError> {
        /// "np", and room for numbers.
        const FIRST: u32 = 0x6e70_0000;
        let used: BTreeSet<u32> = self.links()?.iter().map(|it| it.group).collect();
        Ok((FIRST..).find(|it| !used.contains(it)).unwrap_or(FIRST))
    }
}

/// The request to set a link up, promiscuous on demand.
pub(super) fn up(link: &Link, promiscuous: bool) -> Request {
    let mut message = LinkUnspec::new_with_index(link.index).up();
    if promiscuous {
        message = message.promiscuous(true);
    }
    request(format!("set {} up", link.name), RouteNetlinkMessage::SetLink(message.build()))
}

/// The request that makes the kernel announce IPv4 addresses by gratuitous ARP whenever the link comes up
/// (`net.ipv4.conf.*.arp_notify`): switches and neighbours learn of them at once.
pub(super) fn announce(link: &Link) -> Request {
    /// `IPV4_DEVCONF_ARP_NOTIFY` of linux/ip.h.
    const ARP_NOTIFY: u16 = 22;
    /// `IFLA_INET_CONF` of linux/if_link.h.
    const INET_CONF: u16 = 1;
    const AF_INET: u16 = 2;
    let value = attribute(AF_INET, &attribute(INET_CONF, &attribute(ARP_NOTIFY, &1_u32.to_ne_bytes())));
    let message = LinkUnspec::new_with_index(link.index)
        .append_extra_attribute(LinkAttribute::AfSpecUnknown(value))
        .build();
    request(format!("have {} announce its addresses", link.name), RouteNetlinkMessage::SetLink(message))
}

/// A netlink attribute whose value's length is a multiple of four.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
}

fn request(operation: String, message: RouteNetlinkMessage) -> Request {
    Request { operation, message, flags: 0, tolerated: None }
}

fn new_link(message: &RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(link(message)),
        _ => None,
    }
}

fn link(message: &LinkMessage) -> Link {
    let up = message.header.flags.contains(LinkFlags::Up);
    let mut link = Link { index: message.header.index, up, ..Link::default() };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Group(group) => link.group = *group,
            LinkAttribute::Link(index) => link.parent = Some(*index),
            LinkAttribute::LinkNetNsId(_) => link.parent_is_elsewhere = true,
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::Address(bytes) => {
                link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac::new);
            }
            LinkAttribute::LinkInfo(infos) => {
                let kind = infos.iter().find_map(|it| match it {
                    LinkInfo::Kind(kind) => Some(kind_name(kind)),
                    _ => None,
                });
                link.kind = kind.unwrap_or_default();
                for data in
                    infos.iter().filter_map(|it| if let LinkInfo::Data(it) = it { Some(it) } else { None })
                {
                    kind_data(&mut link, data);
                }
            }
            _ => {}
        }
    }
    link
}

fn kind_data(link: &mut Link, data: &InfoData) {
    match data {
        InfoData::Vlan(infos) => {
            link.vlan = infos.iter().find_map(|it| if let InfoVlan::Id(id) = it { Some(*id) } else { None });
        }
        InfoData::MacVlan(infos) => {
            link.macvlan_mode = infos.iter().find_map(|it| match it {
                InfoMacVlan::Mode(KernelMode::Bridge) => Some(MacvlanMode::Bridge),
                InfoMacVlan::Mode(KernelMode::Private) => Some(MacvlanMode::Private),
                InfoMacVlan::Mode(KernelMode::Vepa) => Some(MacvlanMode::Vepa),
                InfoMacVlan::Mode(KernelMode::Passthrough) => Some(MacvlanMode::Passthru),
                _ => None,
            });
        }
        _ => {}
    }
}

fn kind_name(kind: &InfoKind) -> String {
    match kind {
        InfoKind::Other(name) => name.clone(),
        InfoKind::MacVlan => "macvlan".to_owned(),
        InfoKind::Vlan => "vlan".to_owned(),
        InfoKind::Bond => "bond".to_owned(),
        InfoKind::Bridge => "bridge".to_owned(),
        InfoKind::Veth => "veth".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Reads a MAC address in its usual form, `02:00:00:00:00:01`.
///
/// # Errors
/// Says what was read, and what it should look like.
pub fn parse_mac(text: &str) -> Result<Mac, String> {
    let wrong = || format!("\"{text}\" is no MAC address (02:00:00:00:00:01)");
    let mut octets = [0_u8; 6];
    let mut parts = text.split([':', '-']);
    for octet in &mut octets {
        let part = parts.next().ok_or_else(wrong)?;
        if part.len() != 2 {
            return Err(wrong());
        }
        *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    if parts.next().is_some() {
        return Err(wrong());
    }
    if octets[0] & 1 == 1 {
        return Err(format!("\"{text}\" is a group address, not a device's"));
    }
    Ok(Mac::new(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs() {
        assert_eq!(parse_mac("02:00:0a:00:00:FF"), Ok(Mac::new([2, 0, 10, 0, 0, 255])));
        for wrong in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "zz:00:00:00:00:01",
            "01:00:00:00:00:00",
        ] {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
    }
}
