//! Links: finding, making, changing and removing them.

use super::Mac;
use super::netns::Netns;
use super::socket::{Netlink, NetlinkError};
use futures::TryStreamExt;
use rtnetlink::packet_route::link::{
    InfoKind, InfoMacVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode as KernelMode,
};
use rtnetlink::{LinkMacVlan, LinkUnspec};
use std::os::fd::{AsFd, AsRawFd};

/// A link as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Option<Mac>,
    /// Largest network-layer packet in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// `macvlan`, `veth`, `vlan`, …; empty for physical devices.
    pub kind: String,
}

/// How macvlan devices under one master talk (`IFLA_MACVLAN_MODE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    #[default]
    Bridge,
    Private,
    Vepa,
    Passthru,
}

/// A macvlan device to be made.
#[derive(Clone, Debug)]
pub struct NewMacvlan<'a> {
    pub name: &'a str,
    /// Index of the master in the socket's namespace.
    pub master: u32,
    pub mode: MacvlanMode,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    /// `IFLA_MACVLAN_BC_QUEUE_LEN`.
    pub bc_queue_len: Option<u32>,
}

impl Netlink {
    /// All links of the namespace.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let request = self.handle.link().get().execute().try_collect::<Vec<_>>();
        let messages = self.wait(|| "list the links".to_owned(), request)?;
        Ok(messages.iter().map(link).collect())
    }

    /// The link of this name, `None` if there is none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut stream = self.handle.link().get().match_name(name.to_owned()).execute();
        match self.wait(|| format!("find the link {name}"), stream.try_next()) {
            Ok(message) => Ok(message.as_ref().map(link)),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a macvlan device in the namespace `into`, under its final name from the start: it never
    /// shows up in this namespace, and cannot clash with a name here.
    ///
    /// # Errors
    /// `EEXIST`: the name is taken. `EBUSY`: the master has a device in `passthru` mode.
    pub fn create_macvlan(&self, new: &NewMacvlan<'_>, into: &Netns) -> Result<(), NetlinkError> {
        let mode = match new.mode {
            MacvlanMode::Bridge => KernelMode::Bridge,
            MacvlanMode::Private => KernelMode::Private,
            MacvlanMode::Vepa => KernelMode::Vepa,
            MacvlanMode::Passthru => KernelMode::Passthrough,
        };
        let mut message = LinkMacVlan::new(new.name, new.master, mode).setns_by_fd(into.as_fd().as_raw_fd());
        if let Some(mac) = new.mac {
            message = message.address(mac.octets().to_vec());
        }
        if let Some(mtu) = new.mtu {
            message = message.mtu(mtu);
        }
        if let Some(len) = new.bc_queue_len {
            message = message.append_info_data(InfoMacVlan::BcQueueLen(len));
        }
        let request = self.handle.link().add(message.build()).execute();
        self.wait(|| format!("make the macvlan device {}", new.name), request)
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_up(&self, link: &Link) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        self.wait(|| format!("set {} up", link.name), self.handle.link().set(message).execute())
    }

    /// Removes a link.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_link(&self, link: &Link) -> Result<(), NetlinkError> {
        self.wait(|| format!("remove {}", link.name), self.handle.link().del(link.index).execute())
    }
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        kind: String::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => {
                link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac::new);
            }
            LinkAttribute::LinkInfo(infos) => {
                let kind = infos.iter().find_map(|it| match it {
                    LinkInfo::Kind(kind) => Some(kind_name(kind)),
                    _ => None,
                });
                link.kind = kind.unwrap_or_default();
            }
            _ => {}
        }
    }
    link
}

fn kind_name(kind: &InfoKind) -> String {
    match kind {
        InfoKind::Other(name) => name.clone(),
        InfoKind::MacVlan => "macvlan".to_owned(),
        InfoKind::Vlan => "vlan".to_owned(),
        InfoKind::Bond => "bond".to_owned(),
        InfoKind::Bridge => "bridge".to_owned(),
        InfoKind::Veth => "veth".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Reads a MAC address in its usual form, `02:00:00:00:00:01`.
///
/// # Errors
/// Says what was read, and what it should look like.
pub fn parse_mac(text: &str) -> Result<Mac, String> {
    let wrong = || format!("\"{text}\" is no MAC address (02:00:00:00:00:01)");
    let mut octets = [0_u8; 6];
    let mut parts = text.split([':', '-']);
    for octet in &mut octets {
        let part = parts.next().ok_or_else(wrong)?;
        if part.len() != 2 {
            return Err(wrong());
        }
        *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    if parts.next().is_some() {
        return Err(wrong());
    }
    if octets[0] & 1 == 1 {
        return Err(format!("\"{text}\" is a group address, not a device's"));
    }
    Ok(Mac::new(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs() {
        assert_eq!(parse_mac("02:00:0a:00:00:FF"), Ok(Mac::new([2, 0, 10, 0, 0, 255])));
        for wrong in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "zz:00:00:00:00:01",
            "01:00:00:00:00:00",
        ] {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
    }
}
