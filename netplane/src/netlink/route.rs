//! Unicast routes of the main table.

use super::link::Link;
use super::socket::{Netlink, NetlinkError};
use futures::TryStreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType, RouteVia,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A route out of one interface. Multipath routes are not among these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub destination: IpNet,
    /// Absent: on link.
    pub gateway: Option<IpAddr>,
    pub index: u32,
    /// `RTA_PRIORITY`, lower is better.
    pub metric: u32,
}

impl Route {
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }
}

impl Netlink {
    /// The main table's unicast routes of both families.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        Ok(self.route_messages()?.iter().filter_map(route).collect())
    }

    /// The main table's default routes of both families. Each next hop of a multipath route is one: two
    /// plugins that both add a default route for IPv6 make one route of two hops.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn default_routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let hops = self.route_messages()?.iter().flat_map(hops).collect::<Vec<_>>();
        Ok(hops.into_iter().filter(Route::is_default).collect())
    }

    fn route_messages(&self) -> Result<Vec<RouteMessage>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let request = self.handle.route().get(message).execute().try_collect::<Vec<_>>();
            routes.extend(self.wait(|| "list the routes".to_owned(), request)?);
        }
        Ok(routes)
    }

    /// Adds a route out of `link`. One that is there is no error.
    ///
    /// # Errors
    /// `ENETUNREACH`: the gateway is not on link.
    pub fn add_route(
        &self,
        link: &Link,
        destination: IpNet,
        gateway: Option<IpAddr>,
    ) -> Result<(), NetlinkError> {
        let message = match (destination, gateway) {
            (IpNet::V4(destination), Some(IpAddr::V4(gateway))) => {
                route_v4(link, destination).gateway(gateway).build()
            }
            (IpNet::V4(destination), Some(IpAddr::V6(gateway))) => {
                route_v4(link, destination).via(gateway).build()
            }
            (IpNet::V4(destination), None) => route_v4(link, destination).scope(RouteScope::Link).build(),
            (IpNet::V6(destination), Some(IpAddr::V6(gateway))) => {
                route_v6(link, destination).gateway(gateway).build()
            }
            (IpNet::V6(destination), _) => route_v6(link, destination).build(),
        };
        let shown = || match gateway {
            Some(gateway) => format!("add the route to {destination} via {gateway} on {}", link.name),
            None => format!("add the route to {destination} on {}", link.name),
        };
        match self.wait(shown, self.handle.route().add(message).execute()) {
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Removes a route, or one hop of a multipath route.
    ///
    /// # Errors
    /// `ESRCH`: it is not there.
    pub fn delete_route(&self, link: &Link, route: &Route) -> Result<(), NetlinkError> {
        // With the gateway: without it, the kernel removes all hops of a multipath route for IPv6.
        let mut message = match (route.destination, route.gateway) {
            (IpNet::V4(destination), Some(IpAddr::V4(gateway))) => {
                route_v4(link, destination).gateway(gateway).build()
            }
            (IpNet::V4(destination), _) => route_v4(link, destination).build(),
            (IpNet::V6(destination), Some(IpAddr::V6(gateway))) => {
                route_v6(link, destination).gateway(gateway).build()
            }
            (IpNet::V6(destination), _) => route_v6(link, destination).build(),
        };
        // Any protocol and scope: what is deleted may have been made by the kernel or by anybody.
        message.header.protocol = rtnetlink::packet_route::route::RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        let request = self.handle.route().del(message).execute();
        self.wait(|| format!("remove the route to {} on {}", route.destination, link.name), request)
    }
}

fn route_v4(link: &Link, destination: Ipv4Net) -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(destination.addr(), destination.prefix_len())
        .output_interface(link.index)
}

fn route_v6(link: &Link, destination: Ipv6Net) -> RouteMessageBuilder<Ipv6Addr> {
    RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(destination.addr(), destination.prefix_len())
        .output_interface(link.index)
}

/// A route with one hop.
fn route(message: &RouteMessage) -> Option<Route> {
    let multipath = message.attributes.iter().any(|it| matches!(it, RouteAttribute::MultiPath(_)));
    if multipath { None } else { hops(message).pop() }
}

/// Each hop of a unicast route of the main table.
fn hops(message: &RouteMessage) -> Vec<Route> {
    let main = u32::from(RouteHeader::RT_TABLE_MAIN);
    let mut table = u32::from(message.header.table);
    let (mut destination, mut metric) = (None, 0);
    let mut ways = vec![way(None, &message.attributes)];
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(it) => destination = ip(it),
            RouteAttribute::Priority(it) => metric = *it,
            RouteAttribute::Table(it) => table = *it,
            RouteAttribute::MultiPath(it) => {
                ways = it.iter().map(|hop| way(Some(hop.interface_index), &hop.attributes)).collect();
            }
            _ => {}
        }
    }
    if table != main || message.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let any: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let prefix = message.header.destination_prefix_length;
    let Ok(destination) = IpNet::new(destination.unwrap_or(any), prefix) else {
        return Vec::new();
    };
    let hop =
        |(index, gateway): (Option<u32>, _)| Some(Route { destination, gateway, index: index?, metric });
    ways.into_iter().filter_map(hop).collect()
}

/// Interface and gateway of a hop.
fn way(mut index: Option<u32>, attributes: &[RouteAttribute]) -> (Option<u32>, Option<IpAddr>) {
    let mut gateway = None;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(it) => gateway = ip(it),
            RouteAttribute::Via(RouteVia::Inet6(it)) => gateway = Some(IpAddr::V6(*it)),
            RouteAttribute::Oif(it) => index = Some(*it),
            _ => {}
        }
    }
    (index, gateway)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(it) => Some(IpAddr::V4(*it)),
        RouteAddress::Inet6(it) => Some(IpAddr::V6(*it)),
        _ => None,
    }
}
