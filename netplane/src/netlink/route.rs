//! Unicast routes of the main table.

use super::link::Link;
use super::socket::{Netlink, NetlinkError, Request};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_core::NLM_F_CREATE;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The table where routes are unless something else is asked for.
pub const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// A route out of one interface. Multipath routes are not among these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

    /// Table and destination of all unicast routes, those of several hops too.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn destinations(&self) -> Result<BTreeSet<(u32, IpNet)>, NetlinkError> {
        let messages = self.route_messages()?;
        let all = messages.iter().map(hops_of_table);
        Ok(all.flat_map(|(table, hops)| hops.into_iter().map(move |it| (table, it.destination))).collect())
    }

    fn route_messages(&self) -> Result<Vec<RouteMessage>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let request = RouteNetlinkMessage::GetRoute(message);
            let messages = self.list(|| "list the routes".to_owned(), request)?;
            routes.extend(messages.into_iter().filter_map(|it| match it {
                RouteNetlinkMessage::NewRoute(message) => Some(message),
                _ => None,
            }));
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
        let new = NewRoute { destination, gateway, ..NewRoute::default() };
        self.change(vec![add(link, &new)])
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
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        self.change(vec![Request {
            operation: format!("remove the route to {} on {}", route.destination, link.name),
            message: RouteNetlinkMessage::DelRoute(message),
            flags: 0,
            tolerated: None,
        }])
    }
}

/// A route to be made. What is absent is the kernel's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRoute {
    pub destination: IpNet,
    /// Absent: on link.
    pub gateway: Option<IpAddr>,
    /// Bytes (`RTAX_MTU`).
    pub mtu: Option<u32>,
    /// Bytes (`RTAX_ADVMSS`).
    pub advmss: Option<u32>,
    /// `RTA_PRIORITY`, lower is better.
    pub priority: Option<u32>,
    /// Absent: the main table.
    pub table: Option<u32>,
    /// `rtm_scope`. Absent: link for IPv4 without a gateway, else global.
    pub scope: Option<u8>,
}

/// The request to add a route out of `link`. One that is there is no error.
pub(super) fn add(link: &Link, new: &NewRoute) -> Request {
    let NewRoute { destination, gateway, mtu, advmss, priority, table, scope } = *new;
    let mut message = match (destination, gateway) {
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
    // As `ip route add` and the reference plugins: not a routing daemon's.
    message.header.protocol = RouteProtocol::Boot;
    if let Some(scope) = scope {
        message.header.scope = RouteScope::from(scope);
    }
    if let Some(table) = table {
        message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        message.attributes.push(RouteAttribute::Table(table));
    }
    message.attributes.extend(priority.map(RouteAttribute::Priority));
    let metrics = [mtu.map(RouteMetric::Mtu), advmss.map(RouteMetric::Advmss)];
    let metrics: Vec<_> = metrics.into_iter().flatten().collect();
    if !metrics.is_empty() {
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    let operation = match gateway {
        Some(gateway) => format!("add the route to {destination} via {gateway} on {}", link.name),
        None => format!("add the route to {destination} on {}", link.name),
    };
    Request {
        operation,
        message: RouteNetlinkMessage::NewRoute(message),
        // Not exclusive: as with the reference plugins, the route of a later network is put before one to the
        // same destination for IPv4, and beside it for IPv6.
        flags: NLM_F_CREATE,
        tolerated: Some(libc::EEXIST),
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
    let (table, hops) = hops_of_table(message);
    if table == MAIN_TABLE { hops } else { Vec::new() }
}

/// Each hop of a unicast route, and its table.
fn hops_of_table(message: &RouteMessage) -> (u32, Vec<Route>) {
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
    if message.header.kind != RouteType::Unicast {
        return (table, Vec::new());
    }
    let any: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let prefix = message.header.destination_prefix_length;
    let Ok(destination) = IpNet::new(destination.unwrap_or(any), prefix) else {
        return (table, Vec::new());
    };
    let hop =
        |(index, gateway): (Option<u32>, _)| Some(Route { destination, gateway, index: index?, metric });
    (table, ways.into_iter().filter_map(hop).collect())
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
