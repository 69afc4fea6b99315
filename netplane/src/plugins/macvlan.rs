//! The macvlan plugin: a device on a master, made in the pod's namespace under its final name.

use super::result::Dns;
use crate::netlink::Mac;
use crate::netlink::configure::{self, Setup};
use crate::netlink::link::{Link, MacvlanMode, NewMacvlan, parse_mac};
use crate::netlink::netns::Netns;
use crate::netlink::socket::{Netlink, NetlinkError, OpenError};
use serde::Deserialize;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The plugin's keys in its configuration. Others are the IPAM's or CNI's. What is empty or 0 counts as
/// absent, as for the reference plugin.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// The master; absent: the interface of the default route.
    #[serde(default)]
    pub master: Option<String>,
    /// The master is in the container, not on the node.
    #[serde(default)]
    pub link_in_container: bool,
    #[serde(default)]
    pub mode: MacvlanMode,
    /// Absent: the master's.
    #[serde(default)]
    pub mtu: Option<u32>,
    #[serde(default)]
    pub mac: Option<String>,
    /// `bcqueuelen`: the reference plugin spells it in lower case.
    #[serde(default, rename = "bcqueuelen")]
    pub bc_queue_len: Option<u32>,
    /// Packets for other MACs, too.
    #[serde(default)]
    pub promisc: bool,
    /// For the result only.
    #[serde(default)]
    pub dns: Dns,
}

/// Why a device was not made.
#[derive(Debug, thiserror::Error)]
pub enum MacvlanError {
    #[error("master \"{master}\" does not exist {place}")]
    UnknownMaster { master: String, place: &'static str },
    #[error("no \"master\" is given, and there is no default route {place} to take it from")]
    NoMaster { place: &'static str },
    #[error("mtu {mtu} is larger than master {master}'s, {limit}")]
    Mtu { mtu: u32, master: String, limit: u32 },
    #[error("mac: {0}")]
    Mac(String),
    #[error("interface {name} is already in the container")]
    NameTaken { name: String },
    #[error("interface {name} is not in the container after it was made")]
    Vanished { name: String },
    #[error("another host has the address {address} (IPv6 duplicate address detection)")]
    Duplicate { address: IpAddr },
    #[error("IPv6 addresses of {name} are still tentative after {} s", .limit.as_secs())]
    Tentative { name: String, limit: Duration },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// A device that was made.
#[derive(Debug)]
pub struct Created {
    pub link: Link,
    pub mac: Mac,
    pub master: String,
}

/// Which master the configuration means, looked up where it is to be: on the node, or in the container.
///
/// # Errors
/// It does not exist.
pub fn master(config: &Config, netlink: &Netlink) -> Result<Link, MacvlanError> {
    let place = if config.link_in_container { "in the container" } else { "on this node" };
    if let Some(name) = config.master.as_deref().filter(|it| !it.is_empty()) {
        return netlink
            .link(name)?
            .ok_or_else(|| MacvlanError::UnknownMaster { master: name.to_owned(), place });
    }
    let default = netlink.routes()?.into_iter().filter(|it| it.is_default()).min_by_key(|it| it.metric);
    let index = default.ok_or(MacvlanError::NoMaster { place })?.index;
    netlink.link_at(index)?.ok_or(MacvlanError::NoMaster { place })
}

/// Makes the device `name` in the namespace `pod`, of which `inside` is a socket, still down. `mac` overrides
/// the configuration's.
///
/// # Errors
/// As [`MacvlanError`] says; nothing is left behind then.
pub fn create(
    config: &Config,
    pod: &Netns,
    inside: &Netlink,
    name: &str,
    mac: Option<&str>,
) -> Result<Created, MacvlanError> {
    let outside;
    let masters = if config.link_in_container {
        inside
    } else {
        outside = Netlink::here()?;
        &outside
    };
    let master = master(config, masters)?;
    let mtu = config.mtu.filter(|mtu| *mtu != 0);
    if let Some(mtu) = mtu.filter(|mtu| *mtu > master.mtu) {
        return Err(MacvlanError::Mtu { mtu, master: master.name, limit: master.mtu });
    }
    let mac = mac.or(config.mac.as_deref()).filter(|it| !it.is_empty());
    let new = NewMacvlan {
        name,
        master: master.index,
        mode: config.mode,
        mac: mac.map(parse_mac).transpose().map_err(MacvlanError::Mac)?,
        mtu,
        bc_queue_len: config.bc_queue_len.filter(|it| *it != 0),
    };
    match masters.create_macvlan(&new, pod) {
        Err(error) if error.errno() == Some(libc::EEXIST) => {
            return Err(MacvlanError::NameTaken { name: name.to_owned() });
        }
        done => done?,
    }
    let vanished = || MacvlanError::Vanished { name: name.to_owned() };
    let link = inside.link(name)?.ok_or_else(vanished)?;
    let mac = link.mac.ok_or_else(vanished)?;
    Ok(Created { link, mac, master: master.name })
}

/// Gives the device its addresses and routes, sets it up, and makes the neighbours know it.
///
/// # Errors
/// An address or route that the kernel refuses, or an IPv6 address that somebody else has.
pub fn configure(
    pod: &Netns,
    inside: &Netlink,
    created: &Created,
    setup: &Setup,
) -> Result<(), MacvlanError> {
    let link = &created.link;
    if !setup.addresses.iter().any(|it| it.addr().is_ipv6()) {
        return Ok(inside.set_up(link, setup, true)?);
    }
    configure::enable_ipv6(pod, &link.name)?;
    inside.set_up(link, setup, false)?;
    wait_for_dad(inside, link)?;
    Ok(inside.add_routes(link, &setup.routes)?)
}

/// Removes the macvlan devices with these names, all at once. One that is gone is no error; a device of
/// another kind that has such a name meanwhile is somebody else's.
///
/// # Errors
/// The kernel refuses.
pub fn delete(inside: &Netlink, names: &[&str]) -> Result<(), MacvlanError> {
    let links = match names {
        [only] => inside.link(only)?.into_iter().collect(),
        _ => inside.links()?,
    };
    let own = |it: &&Link| it.kind == "macvlan" && names.contains(&it.name.as_str());
    let own: Vec<_> = links.iter().filter(own).collect();
    if own.is_empty() { Ok(()) } else { Ok(inside.delete_links(&own)?) }
}

/// Until no address of the link is tentative: packets from such an address are refused (RFC 4862 §5.4).
fn wait_for_dad(netlink: &Netlink, link: &Link) -> Result<(), MacvlanError> {
    /// As the reference plugins: detection takes about one second, on a busy node perhaps more.
    const AT_MOST: Duration = Duration::from_secs(10);
    const INTERVAL: Duration = Duration::from_millis(50);
    let start = Instant::now();
    loop {
        let addresses = netlink.addresses()?;
        let own = || addresses.iter().filter(|it| it.index == link.index);
        if let Some(duplicate) = own().find(|it| it.duplicate) {
            return Err(MacvlanError::Duplicate { address: duplicate.address.addr() });
        }
        if !own().any(|it| it.tentative) {
            return Ok(());
        }
        if start.elapsed() > AT_MOST {
            return Err(MacvlanError::Tentative { name: link.name.clone(), limit: AT_MOST });
        }
        std::thread::sleep(INTERVAL);
    }
}
