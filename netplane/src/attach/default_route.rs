//! `default-route` of a selection (NPWG standard §4.1.2.1.9): the pod's default route goes out of that
//! network, and the others lose theirs, in the namespace and in the results.

use super::AttachError;
use super::perform::Container;
use super::plan::Delegate;
use super::record::AttachmentRecord;
use crate::netlink::netns::Netns;
use crate::netlink::socket::Netlink;
use crate::plugins::result::Route;
use crate::plugins::{PluginError, code};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::error::Error;
use std::net::IpAddr;

/// Moves the default route. An empty list of gateways keeps the one that the network's plugin has set.
pub(super) fn apply(
    container: &Container,
    delegate: &Delegate,
    record: &mut AttachmentRecord,
) -> Result<(), AttachError> {
    let gateways = delegate.default_route.as_deref().unwrap_or_default();
    let moved = move_routes(container, &delegate.interface, gateways);
    moved.map_err(|error| AttachError::DefaultRoute {
        network: delegate.label.clone(),
        error: PluginError::from_error(code::FAILED, &*error),
    })?;
    for attachment in &mut record.attachments {
        let Some(result) = &mut attachment.result else { continue };
        let replaced = |dst: &IpNet| gateways.iter().any(|it| it.is_ipv4() == dst.addr().is_ipv4());
        let own = attachment.interface == delegate.interface;
        result.routes.retain(|it| !it.is_default() || (own && !replaced(&it.dst)));
        if own {
            result.routes.extend(gateways.iter().map(|gateway| Route {
                dst: any(*gateway),
                gw: Some(*gateway),
                more: serde_json::Map::new(),
            }));
        }
    }
    Ok(())
}

/// All destinations of the gateway's family.
fn any(gateway: IpAddr) -> IpNet {
    match gateway {
        IpAddr::V4(_) => Ipv4Net::default().into(),
        IpAddr::V6(_) => Ipv6Net::default().into(),
    }
}

fn move_routes(container: &Container, interface: &str, gateways: &[IpAddr]) -> Result<(), Box<dyn Error>> {
    let netns = Netns::open(container.call.netns.clone().unwrap_or_default())?;
    let netlink = Netlink::open(&netns)?;
    let links = netlink.links()?;
    let own = links.iter().find(|it| it.name == interface).ok_or("its interface is gone")?;
    for route in netlink.routes()?.iter().filter(|it| it.is_default()) {
        let replaced = gateways.iter().any(|it| it.is_ipv4() == route.destination.addr().is_ipv4());
        if route.index == own.index && !replaced {
            continue;
        }
        if let Some(link) = links.iter().find(|it| it.index == route.index) {
            netlink.delete_route(link, route)?;
        }
    }
    for gateway in gateways {
        netlink.add_route(own, any(*gateway), Some(*gateway))?;
    }
    Ok(())
}
