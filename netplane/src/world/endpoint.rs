//! One interface of a pod on a fast-path network, as its namespace has it now, and the ways out of it.

use super::{Attachment, AttachmentKey, World};
use crate::nad::NetworkName;
use crate::nad::fast_path::FastPath;
use crate::netlink::addr::Address;
use crate::netlink::link::Link;
use crate::netlink::observe::Snapshot;
use crate::netlink::route::Route;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netplane_common::map::{Port, Router};
use netplane_common::wire::ethernet::Mac;
use netplane_common::wire::{Be32, ip};
use std::net::IpAddr;

/// An endpoint that can be compiled.
#[derive(Clone, Debug)]
pub(super) struct Endpoint<'w> {
    pub(super) key: &'w AttachmentKey,
    pub(super) attachment: &'w Attachment,
    pub(super) fast_path: &'w FastPath,
    /// The device that frames come in by. A NAD's master that is a VLAN device stands for its parent and a tag.
    pub(super) master: &'w Link,
    /// The NAD's master.
    pub(super) named: &'w Link,
    /// Identifier of the tag, 0 for none.
    vlan: u16,
    pub(super) link: &'w Link,
    pub(super) mac: Mac,
    /// The interface's first address of each family; IPv6: the first that counts beyond the link.
    pub(super) address4: Option<Ipv4Net>,
    pub(super) address6: Option<Ipv6Net>,
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
        let interface = &key.interface;
        let link = snapshot.links.iter().find(|it| it.name == *interface);
        let named = named(world, attachment, link)?;
        let (master, vlan) = below(world, named)?;
        let link = link.ok_or_else(|| format!("interface {interface} is not in the pod"))?;
        let mac = link.mac.ok_or_else(|| format!("interface {interface} has no MAC address"))?;
        let own = || {
            let usable = |it: &&Address| it.index == link.index && !it.tentative && !it.duplicate;
            snapshot.addresses.iter().filter(usable).map(|it| it.address)
        };
        let address4 = own().find_map(|it| if let IpNet::V4(it) = it { Some(it) } else { None });
        let global = |it: IpNet| match it {
            IpNet::V6(it) if !it.addr().is_unicast_link_local() => Some(it),
            _ => None,
        };
        let address6 = own().find_map(global);
        if address4.is_none() && address6.is_none() {
            return Err(format!("interface {interface} has no IP address"));
        }
        Ok(Some(Self {
            key,
            attachment,
            fast_path,
            master,
            named,
            vlan,
            link,
            mac,
            address4,
            address6,
            snapshot,
        }))
    }

    pub(super) fn port(&self) -> Port {
        Port::new(self.master.index, self.vlan)
    }

    /// The addresses under which it speaks as the users' router.
    pub(super) fn router(&self) -> Router {
        Router {
            address4: self.address4.map_or(Be32::new(0), |it| it.addr().into()),
            address6: self.address6.map_or([Be32::new(0); 4], |it| ip::words(it.addr())),
        }
    }

    /// The address under which it speaks to a peer: of the same family.
    pub(super) fn local(&self, peer: IpAddr) -> Result<IpAddr, String> {
        let (local, family) = match peer {
            IpAddr::V4(_) => (self.address4.map(|it| it.addr().into()), "IPv4"),
            IpAddr::V6(_) => (self.address6.map(|it| it.addr().into()), "IPv6"),
        };
        let interface = &self.key.interface;
        local
            .ok_or_else(|| format!("interface {interface} has no {family} address to reach peer {peer} from"))
    }

    /// Its addresses, for people.
    pub(super) fn addresses(&self) -> Vec<IpNet> {
        self.address4.map(IpNet::V4).into_iter().chain(self.address6.map(IpNet::V6)).collect()
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

    /// All usable neighbours on this interface.
    pub(super) fn neighbours(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let own =
            self.snapshot.neighbours.iter().filter(|it| it.index == self.link.index && it.mac.is_some());
        own.map(|it| it.address)
    }

    /// Whether packets can go out at all.
    pub(super) fn is_up(&self) -> bool {
        self.link.up && self.named.up && self.master.up
    }
}

/// The master of an attachment. A macvlan stays on its device whatever the device is called now, so the kernel's
/// word counts, and the name only where there is no other.
pub(super) fn named<'w>(
    world: &'w World,
    attachment: &Attachment,
    link: Option<&Link>,
) -> Result<&'w Link, String> {
    let name = attachment.master.as_deref().ok_or("its master is not known: the NAD's config names none")?;
    // A parent in the pod's own namespace (`linkInContainer`) is none of the node's.
    let parent = link.filter(|it| it.macvlan_mode.is_some() && it.parent_is_elsewhere);
    let named = match parent.and_then(|it| it.parent) {
        Some(index) => world.masters.values().find(|it| it.index == index),
        None => world.masters.get(name),
    };
    named.ok_or_else(|| format!("master \"{name}\" does not exist on this node"))
}

/// The device that a master's frames come in by, and the tag that they have there.
fn below<'w>(world: &'w World, named: &'w Link) -> Result<(&'w Link, u16), String> {
    let Some(vlan) = named.vlan else {
        return Ok((named, 0));
    };
    let parent = named.parent.and_then(|index| world.masters.values().find(|it| it.index == index));
    let name = &named.name;
    let parent = parent.ok_or_else(|| {
        format!("the parent of VLAN device \"{name}\" is not in the node's own network namespace")
    })?;
    match parent.vlan {
        None => Ok((parent, vlan)),
        Some(_) => Err(format!(
            "master \"{name}\" is a VLAN device on VLAN device \"{}\": frames with two tags are not forwarded",
            parent.name
        )),
    }
}
