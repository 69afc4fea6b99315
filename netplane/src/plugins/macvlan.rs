//! The macvlan plugin: a device on a master, made in the pod's namespace under its final name.

use super::result::Dns;
use crate::netlink::Mac;
use crate::netlink::arp::{self, AnnounceError};
use crate::netlink::link::{Link, MacvlanMode, NewMacvlan, parse_mac};
use crate::netlink::netns::Netns;
use crate::netlink::socket::{Netlink, NetlinkError, OpenError};
use ipnet::IpNet;
use serde::Deserialize;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The plugin's keys in its configuration. Others are the IPAM's or CNI's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// The master; absent: the interface of the default route.
    #[serde(default)]
    pub master: Option<String>,
    #[serde(default)]
    pub mode: MacvlanMode,
    /// 0 or absent: the master's.
    #[serde(default)]
    pub mtu: Option<u32>,
    #[serde(default)]
    pub mac: Option<String>,
    /// `bcqueuelen`: the reference plugin spells it in lower case.
    #[serde(default, rename = "bcqueuelen")]
    pub bc_queue_len: Option<u32>,
    /// For the result only, as the reference plugin does.
    #[serde(default)]
    pub dns: Dns,
}

/// Why a device was not made.
#[derive(Debug, thiserror::Error)]
pub enum MacvlanError {
    #[error("master \"{master}\" does not exist on this node")]
    UnknownMaster { master: String },
    #[error("no \"master\" is given and this node has no default route to take it from")]
    NoMaster,
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
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Announce(#[from] AnnounceError),
}

/// A device that was made.
#[derive(Debug)]
pub struct Created {
    pub link: Link,
    pub mac: Mac,
    pub master: String,
}

/// Which master the configuration means, looked up on the node.
///
/// # Errors
/// It does not exist.
pub fn master(config: &Config, host: &Netlink) -> Result<Link, MacvlanError> {
    if let Some(name) = config.master.as_deref().filter(|it| !it.is_empty()) {
        return host.link(name)?.ok_or_else(|| MacvlanError::UnknownMaster { master: name.to_owned() });
    }
    let default = host.routes()?.into_iter().filter(|it| it.is_default()).min_by_key(|it| it.metric);
    let index = default.ok_or(MacvlanError::NoMaster)?.index;
    host.links()?.into_iter().find(|it| it.index == index).ok_or(MacvlanError::NoMaster)
}

/// Makes the device `name` in the namespace of `pod`, still down. `mac` overrides the configuration's.
///
/// # Errors
/// As [`MacvlanError`] says; nothing is left behind then.
pub fn create(
    config: &Config,
    host: &Netlink,
    pod: &Netns,
    name: &str,
    mac: Option<&str>,
) -> Result<Created, MacvlanError> {
    let master = master(config, host)?;
    let mtu = config.mtu.filter(|mtu| *mtu != 0);
    if let Some(mtu) = mtu.filter(|mtu| *mtu > master.mtu) {
        return Err(MacvlanError::Mtu { mtu, master: master.name, limit: master.mtu });
    }
    let mac = mac.or(config.mac.as_deref()).map(parse_mac).transpose().map_err(MacvlanError::Mac)?;
    let new = NewMacvlan {
        name,
        master: master.index,
        mode: config.mode,
        mac,
        mtu,
        bc_queue_len: config.bc_queue_len,
    };
    match host.create_macvlan(&new, pod) {
        Err(error) if error.errno() == Some(libc::EEXIST) => {
            return Err(MacvlanError::NameTaken { name: name.to_owned() });
        }
        done => done?,
    }
    let link = Netlink::open(pod)?.link(name)?;
    let link = link.ok_or_else(|| MacvlanError::Vanished { name: name.to_owned() })?;
    let mac = link.mac.ok_or_else(|| MacvlanError::Vanished { name: name.to_owned() })?;
    Ok(Created { link, mac, master: master.name })
}

/// Gives the device its addresses and routes, sets it up, and makes the neighbours know it.
///
/// # Errors
/// An address or route that the kernel refuses, or an IPv6 address that somebody else has.
pub fn configure(
    pod: &Netns,
    created: &Created,
    addresses: &[IpNet],
    routes: &[(IpNet, Option<IpAddr>)],
) -> Result<(), MacvlanError> {
    let netlink = Netlink::open(pod)?;
    for address in addresses {
        netlink.add_address(&created.link, *address)?;
    }
    netlink.set_up(&created.link)?;
    if addresses.iter().any(|it| it.addr().is_ipv6()) {
        wait_for_dad(&netlink, &created.link)?;
    }
    for (destination, gateway) in routes {
        netlink.add_route(&created.link, *destination, *gateway)?;
    }
    for address in addresses {
        if let IpAddr::V4(address) = address.addr() {
            arp::announce(pod, created.link.index, created.mac, address)?;
        }
    }
    Ok(())
}

/// Removes the device. One that is gone, with or without its namespace, is no error.
///
/// # Errors
/// The kernel refuses.
pub fn delete(pod: &Netns, name: &str) -> Result<(), MacvlanError> {
    let netlink = Netlink::open(pod)?;
    let Some(link) = netlink.link(name)? else {
        return Ok(());
    };
    match netlink.delete_link(&link) {
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
        done => Ok(done?),
    }
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
        if !own().any(|it| it.tentative) || start.elapsed() > AT_MOST {
            return Ok(());
        }
        std::thread::sleep(INTERVAL);
    }
}
