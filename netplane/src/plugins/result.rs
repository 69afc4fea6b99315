//! Results: one type for all versions. How each version reads and writes it is in `convert`.

use super::lenient;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::IpAddr;

/// What an ADD made (CNI specification 1.1.0, section 5, "ADD Success").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniResult {
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub interfaces: Vec<Interface>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub ips: Vec<Ip>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub routes: Vec<Route>,
    #[serde(default, deserialize_with = "lenient::or_default", skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    pub name: String,
    #[serde(default, deserialize_with = "lenient::or_default", skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The namespace's path for an interface in the container, absent for one on the host.
    #[serde(default, deserialize_with = "lenient::or_default", skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<String>,
    /// Since 1.1.0.
    #[serde(default, rename = "pciID", skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    #[serde(deserialize_with = "lenient::prefix")]
    pub address: IpNet,
    #[serde(default, deserialize_with = "lenient::address", skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into `interfaces`.
    #[serde(default, deserialize_with = "lenient::index", skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    #[serde(deserialize_with = "lenient::prefix")]
    pub dst: IpNet,
    #[serde(default, deserialize_with = "lenient::address", skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// `mtu`, `advmss`, `priority`, `table`, `scope`, since 1.1.0.
    #[serde(flatten)]
    pub more: serde_json::Map<String, Value>,
}

impl Route {
    pub fn is_default(&self) -> bool {
        self.dst.prefix_len() == 0
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    #[serde(default, deserialize_with = "lenient::or_default", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    #[serde(default, deserialize_with = "lenient::or_default", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(default, deserialize_with = "lenient::or_default", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl CniResult {
    /// All of `other` behind what is here, its indices moved.
    pub fn append(&mut self, other: &Self) {
        let first = self.interfaces.len();
        self.interfaces.extend(other.interfaces.iter().cloned());
        let moved =
            other.ips.iter().map(|it| Ip { interface: it.interface.map(|at| at + first), ..it.clone() });
        self.ips.extend(moved);
        self.routes.extend(other.routes.iter().cloned());
    }

    /// The first interface inside the container, with its index (NPWG standard §5.3.2).
    pub fn container_interface(&self) -> Option<(usize, &Interface)> {
        self.interfaces.iter().enumerate().find(|(_, it)| !it.sandbox.is_empty())
    }

    /// The addresses of that interface, and those that name none (NPWG standard §5.3.2). A plugin that marks
    /// none as the container's has none outside either: then all are.
    pub fn container_ips(&self) -> impl Iterator<Item = &Ip> {
        let index = self.container_interface().map(|(at, _)| at);
        self.ips.iter().filter(move |it| it.interface.is_none() || index.is_none() || it.interface == index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appending_moves_indices() {
        let one = |name: &str| CniResult {
            interfaces: vec![Interface { name: name.to_owned(), ..Interface::default() }],
            ips: vec![Ip {
                address: "10.0.0.1/8".parse().expect("an address"),
                gateway: None,
                interface: Some(0),
            }],
            ..CniResult::default()
        };
        let mut both = one("net1");
        both.append(&one("net2"));
        assert_eq!(both.ips.iter().map(|it| it.interface).collect::<Vec<_>>(), [Some(0), Some(1)]);
    }
}
