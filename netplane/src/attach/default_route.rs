//! `default-route` of a selection (NPWG standard §4.1.2.1.9): the pod's default route goes out of that
//! network, and the others lose theirs, in the namespace and in the results.
//!
//! IPv4 and IPv6 are told apart: where a gateway is given, it replaces every default route of its family;
//! of a family without one, the networks that asked keep what their plugins have set.

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

/// Who is to have the default route.
pub(super) struct Wish {
    /// How errors name it.
    network: String,
    /// Interfaces that asked, each with its gateways.
    asked: Vec<(String, Vec<IpAddr>)>,
}

impl Wish {
    /// None: nobody has asked, and all is as the plugins leave it.
    pub(super) fn of<'a>(delegates: impl IntoIterator<Item = &'a Delegate>) -> Option<Self> {
        let asking = delegates.into_iter().filter_map(|it| Some((it, it.default_route.clone()?)));
        let (networks, asked): (Vec<_>, Vec<_>) =
            asking.map(|(it, gateways)| (it.label.clone(), (it.interface.clone(), gateways))).unzip();
        (!asked.is_empty()).then(|| Self { network: networks.join(", "), asked })
    }

    /// Whether a default route that a plugin has set stays.
    fn keeps(&self, interface: &str, destination: &IpNet) -> bool {
        let is_v4 = destination.addr().is_ipv4();
        let replaced = self.asked.iter().flat_map(|(_, it)| it).any(|it| it.is_ipv4() == is_v4);
        !replaced && self.asked.iter().any(|(name, _)| name == interface)
    }

    /// Takes the default routes away that are not to stay. Before the next plugin sets its own: it would fail
    /// over one that is there already, or add a second hop to it.
    pub(super) fn clear(&self, container: &Container) -> Result<(), AttachError> {
        self.wrapped(self.remove_routes(container).map(drop))
    }

    /// At the end: what is left over goes, the gateways that are asked for come, and the results follow.
    pub(super) fn fulfil(
        &self,
        container: &Container,
        record: &mut AttachmentRecord,
    ) -> Result<(), AttachError> {
        self.wrapped(self.add_routes(container))?;
        for attachment in &mut record.attachments {
            let Some(result) = &mut attachment.result else { continue };
            let interface = &attachment.interface;
            result.routes.retain(|it| !it.is_default() || self.keeps(interface, &it.dst));
            let own = self.asked.iter().filter(|(name, _)| name == interface);
            result.routes.extend(own.flat_map(|(_, gateways)| gateways).map(|gateway| Route {
                dst: any(*gateway),
                gw: Some(*gateway),
                more: serde_json::Map::new(),
            }));
        }
        Ok(())
    }

    fn remove_routes(&self, container: &Container) -> Result<Netlink, Box<dyn Error>> {
        let netns = Netns::open(container.call.netns.clone().unwrap_or_default())?;
        let netlink = Netlink::open(&netns)?;
        let links = netlink.links()?;
        for route in netlink.default_routes()? {
            let Some(link) = links.iter().find(|it| it.index == route.index) else { continue };
            if !self.keeps(&link.name, &route.destination) {
                netlink.delete_route(link, &route)?;
            }
        }
        Ok(netlink)
    }

    fn add_routes(&self, container: &Container) -> Result<(), Box<dyn Error>> {
        let netlink = self.remove_routes(container)?;
        for (interface, gateways) in &self.asked {
            let gone = || format!("its interface {interface} is gone");
            let link = netlink.link(interface)?.ok_or_else(gone)?;
            for gateway in gateways {
                netlink.add_route(&link, any(*gateway), Some(*gateway))?;
            }
        }
        Ok(())
    }

    fn wrapped<T>(&self, result: Result<T, Box<dyn Error>>) -> Result<T, AttachError> {
        result.map_err(|error| AttachError::DefaultRoute {
            network: self.network.clone(),
            error: PluginError::from_error(code::FAILED, &*error),
        })
    }
}

/// All destinations of the gateway's family.
fn any(gateway: IpAddr) -> IpNet {
    match gateway {
        IpAddr::V4(_) => Ipv4Net::default().into(),
        IpAddr::V6(_) => Ipv6Net::default().into(),
    }
}
