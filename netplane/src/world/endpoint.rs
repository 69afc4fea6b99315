//! One interface of a pod on a fast-path network, as its namespace has it now, and the ways out of it.

use super::{Attachment, AttachmentKey, World};
use crate::nad::NetworkName;
use crate::nad::fast_path::FastPath;
use crate::netlink::link::Link;
use crate::netlink::observe::Snapshot;
use crate::netlink::route::Route;
use ipnet::{IpNet, Ipv4Net};
use netplane_common::map::{Port, Router};
use netplane_common::wire::Be32;
use netplane_common::wire::ethernet::Mac;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An endpoint that can be compiled.
#[derive(Clone, Debug)]
pub(super) struct Endpoint<'w> {
    pub(super) key: &'w AttachmentKey,
    pub(super) attachment: &'w Attachment,
    pub(super) fast_path: &'w FastPath,
    pub(super) master: &'w Link,
    pub(super) link: &'w Link,
    pub(super) mac: Mac,
    /// The interface's first IPv4 address.
    pub(super) address: Ipv4Net,
    snapshot: &'w Snapshot,
}

impl<'w> Endpoint<'w> {
    /// The endpoint of an attachment, or why it cannot be used. `Ok(None)`: not looked at yet.
    pub(super) fn find(
        world: &'w World,
        key: &'w AttachmentKey,
        attachment: &'w Attachment,
        fast_path: &'w FastPath,
    ) -> Result<Option<Self>, String> {
        let Some(snapshot) = world.pods.get(&key.container) else {
            return Ok(None);
        };
        let name =
            attachment.master.as_deref().ok_or("its master is not known: the NAD's config names none")?;
        let master = world
            .masters
            .get(name)
            .ok_or_else(|| format!("master \"{name}\" does not exist on this node"))?;
        if matches!(master.kind.as_str(), "vlan" | "bond") {
            return Err(format!("master \"{name}\" is a {} device, which is not supported yet", master.kind));
        }
        let interface = &key.interface;
        let link = snapshot.links.iter().find(|it| it.name == *interface);
        let link = link.ok_or_else(|| format!("interface {interface} is not in the pod"))?;
        let mac = link.mac.ok_or_else(|| format!("interface {interface} has no MAC address"))?;
        let v4 = |it: &IpNet| if let IpNet::V4(it) = it { Some(*it) } else { None };
        let own = snapshot.addresses.iter().filter(|it| it.index == link.index);
        let address = own.filter_map(|it| v4(&it.address)).next();
        let address = address.ok_or_else(|| format!("interface {interface} has no IPv4 address"))?;
        Ok(Some(Self { key, attachment, fast_path, master, link, mac, address, snapshot }))
    }

    pub(super) fn port(&self) -> Port {
        Port::new(self.master.index, 0)
    }

    /// The addresses under which it speaks as the users' router. IPv6: none that only counts on the link.
    pub(super) fn router(&self) -> Router {
        let own = self.snapshot.addresses.iter().filter(|it| it.index == self.link.index);
        let mut v6 = own.filter_map(|it| if let IpNet::V6(it) = it.address { Some(it.addr()) } else { None });
        let address6 = v6.find(|it| !it.is_unicast_link_local()).map_or(0, Ipv6Addr::to_bits);
        let word = |shift: u32| Be32::new((address6 >> shift) as u32);
        Router { address4: self.address.addr().into(), address6: [word(96), word(64), word(32), word(0)] }
    }

    pub(super) fn network(&self) -> &'w NetworkName {
        &self.attachment.network
    }

    /// The interface's routes, longest prefix first, then lowest metric.
    pub(super) fn routes(&self) -> Vec<&'w Route> {
        let mut routes: Vec<_> =
            self.snapshot.routes.iter().filter(|it| it.index == self.link.index).collect();
        routes.sort_by_key(|it| (std::cmp::Reverse(it.destination.prefix_len()), it.metric));
        routes
    }

    /// The neighbour that packets to `destination` go to, `None` without a route.
    pub(super) fn towards(&self, destination: IpAddr) -> Option<IpAddr> {
        let routes = self.routes();
        let route = routes.iter().find(|it| it.destination.contains(&destination))?;
        Some(route.gateway.unwrap_or(destination))
    }

    /// The gateway of the default route of a family.
    pub(super) fn gateway(&self, v4: bool) -> Option<IpAddr> {
        let routes = self.routes();
        routes.iter().find(|it| it.is_default() && it.destination.addr().is_ipv4() == v4)?.gateway
    }

    /// The MAC of a neighbour on this interface, if it is usable.
    pub(super) fn neighbour(&self, address: IpAddr) -> Option<Mac> {
        let entry =
            self.snapshot.neighbours.iter().find(|it| it.index == self.link.index && it.address == address);
        entry?.mac
    }

    /// All usable IPv4 neighbours on this interface.
    pub(super) fn neighbours4(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let own =
            self.snapshot.neighbours.iter().filter(|it| it.index == self.link.index && it.mac.is_some());
        own.filter_map(|it| if let IpAddr::V4(address) = it.address { Some(address) } else { None })
    }

    /// Whether packets can go out at all.
    pub(super) fn is_up(&self) -> bool {
        self.link.up && self.master.up
    }
}
