//! The state of a namespace, and waiting for it to change. All is read anew after each change: a lost
//! message costs nothing, and there is no state to get wrong.

use super::addr::Address;
use super::link::Link;
use super::neigh::Neighbour;
use super::netns::Netns;
use super::route::Route;
use super::socket::{Changes, Netlink, NetlinkError, OpenError};
use rtnetlink::MulticastGroup;
use std::time::Duration;

/// What the fast path needs to know of a namespace, each list sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
    pub neighbours: Vec<Neighbour>,
}

/// What is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Links only: masters.
    Links,
    /// Links, addresses, routes and neighbours: pods.
    All,
}

/// Follows one namespace.
#[derive(Debug)]
pub struct Observer {
    netlink: Netlink,
    changes: Changes,
    scope: Scope,
}

impl Observer {
    /// Starts to follow `netns`: what changes from here on is not missed.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn open(netns: &Netns, scope: Scope) -> Result<Self, OpenError> {
        let groups: &[MulticastGroup] = match scope {
            Scope::Links => &[MulticastGroup::Link],
            Scope::All => &[
                MulticastGroup::Link,
                MulticastGroup::Neigh,
                MulticastGroup::Ipv4Ifaddr,
                MulticastGroup::Ipv4Route,
                MulticastGroup::Ipv6Ifaddr,
                MulticastGroup::Ipv6Route,
            ],
        };
        // Two sockets: answers must not be lost when changes overrun.
        netns.visit(|| Ok(Self { changes: Changes::here(groups)?, netlink: Netlink::here()?, scope }))?
    }

    /// Requests in the same namespace.
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Reads everything.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn snapshot(&self) -> Result<Snapshot, NetlinkError> {
        let mut snapshot = Snapshot { links: self.netlink.links()?, ..Snapshot::default() };
        snapshot.links.sort_by_key(|it| it.index);
        if self.scope == Scope::All {
            snapshot.addresses = self.netlink.addresses()?;
            snapshot.addresses.sort_unstable();
            snapshot.routes = self.netlink.routes()?;
            snapshot.routes.sort_unstable();
            snapshot.neighbours = self.netlink.neighbours()?;
            snapshot.neighbours.sort_unstable();
        }
        Ok(snapshot)
    }

    /// Waits until something may have changed, or for `at_most`.
    pub fn wait(&mut self, at_most: Duration) -> bool {
        self.changes.wait(at_most)
    }
}
