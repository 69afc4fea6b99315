//! Setting a new link up: addresses, routes and announcement in one request.

use super::link::{self, Link};
use super::route::{self, NewRoute};
use super::socket::{Netlink, NetlinkError};
use super::{addr, netns::Netns};
use ipnet::IpNet;
use std::io;

/// What a link is to have. Default: nothing but being up.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    pub addresses: Vec<IpNet>,
    /// In this order: a gateway must be reachable by what came before it.
    pub routes: Vec<NewRoute>,
    /// `IFF_PROMISC`.
    pub promiscuous: bool,
}

impl Netlink {
    /// Gives a link its addresses and sets it up; its IPv4 addresses are announced then. `routes`: whether
    /// the routes come in the same request.
    ///
    /// # Errors
    /// The first part that the kernel refuses.
    pub fn set_up(&self, link: &Link, setup: &Setup, routes: bool) -> Result<(), NetlinkError> {
        let mut requests = Vec::new();
        if setup.addresses.iter().any(|it| it.addr().is_ipv4()) {
            // Announced is what is there when the link comes up.
            requests.push(link::announce(link));
        }
        requests.extend(setup.addresses.iter().map(|it| addr::add(link, *it)));
        requests.push(link::up(link, setup.promiscuous));
        if routes {
            requests.extend(setup.routes.iter().map(|it| route::add(link, it)));
        }
        self.change(requests)
    }

    /// Adds routes out of a link, all in one request.
    ///
    /// # Errors
    /// The first one that the kernel refuses.
    pub fn add_routes(&self, link: &Link, routes: &[NewRoute]) -> Result<(), NetlinkError> {
        self.change(routes.iter().map(|it| route::add(link, it)).collect())
    }
}

/// Switches IPv6 on for `lo` and the interface `name` in `netns`, where it is off, and has the kernel
/// announce the interface's IPv6 addresses by unsolicited neighbour advertisements.
///
/// # Errors
/// A setting cannot be written; none at all in a kernel without IPv6.
pub fn enable_ipv6(netns: &Netns, name: &str) -> Result<(), NetlinkError> {
    let failed = |source| NetlinkError { operation: format!("enable IPv6 on {name}"), hint: None, source };
    let enable = || -> io::Result<()> {
        for interface in ["lo", name] {
            // Names with a dot are one path component here, unlike in sysctl(8).
            let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
            if std::fs::read_to_string(&path)?.trim() != "0" {
                std::fs::write(&path, "0")?;
            }
        }
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/ndisc_notify"), "1")
    };
    // /proc/sys/net shows the settings of the thread that looks.
    netns.visit(enable).map_err(|error| failed(io::Error::other(error)))?.map_err(failed)
}
