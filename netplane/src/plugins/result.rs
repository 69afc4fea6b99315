//! Results: one type for all versions from 0.3.0 to 1.1.0, read from and written as each of them.

use super::version::Version;
use super::{PluginError, code};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::IpAddr;

/// What an ADD made (CNI specification 1.1.0, section 5, "ADD Success").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniResult {
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    #[serde(default)]
    pub ips: Vec<Ip>,
    #[serde(default)]
    pub routes: Vec<Route>,
    #[serde(default, skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The namespace's path for an interface in the container, absent for one on the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
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
    pub address: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl CniResult {
    /// Reads a result of any version.
    ///
    /// # Errors
    /// A version that is not supported, or a field that is not as the specification says.
    pub fn from_json(value: &Value) -> Result<Self, PluginError> {
        let version = value.get("cniVersion").and_then(Value::as_str).unwrap_or("0.3.1");
        if Version::parse(version).is_none() {
            let supported = Version::supported().join(", ");
            let message = format!("result in CNI version {version} (supported: {supported})");
            return Err(PluginError::new(code::INCOMPATIBLE_VERSION, message));
        }
        let read = Self::deserialize(value);
        read.map_err(|error| PluginError::new(code::DECODING, format!("result is not a CNI result: {error}")))
    }

    /// The result as `version` has it: fields that came later are left out, those that went are put in.
    pub fn to_json(&self, version: Version) -> Value {
        let interfaces: Vec<_> = self.interfaces.iter().map(|it| interface_json(it, version)).collect();
        let ips: Vec<_> = self.ips.iter().map(|it| ip_json(it, version)).collect();
        let routes: Vec<_> = self.routes.iter().map(|it| route_json(it, version)).collect();
        let mut result = json!({ "cniVersion": version.name() });
        for (key, list) in [("interfaces", interfaces), ("ips", ips), ("routes", routes)] {
            if !list.is_empty() {
                result[key] = Value::Array(list);
            }
        }
        // `dns` is an object in all versions; the older ones always had it.
        if !self.dns.is_empty() || version < Version::V1_1_0 {
            result["dns"] = json!(self.dns);
        }
        result
    }

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
}

fn interface_json(interface: &Interface, version: Version) -> Value {
    let mut interface = interface.clone();
    if version < Version::V1_1_0 {
        interface.mtu = None;
        interface.socket_path = None;
        interface.pci_id = None;
    }
    json!(interface)
}

fn ip_json(ip: &Ip, version: Version) -> Value {
    let mut value = json!(ip);
    if version < Version::V1_0_0 {
        value["version"] = json!(if ip.address.addr().is_ipv4() { "4" } else { "6" });
    }
    value
}

fn route_json(route: &Route, version: Version) -> Value {
    let mut route = route.clone();
    if version < Version::V1_1_0 {
        route.more.clear();
    }
    json!(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_reads_what_it_wrote() {
        let result = CniResult::from_json(&json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "m0"}, {"name": "net1", "mac": "02:00:00:00:00:01", "mtu": 1400, "sandbox": "/n"}],
            "ips": [{"address": "10.30.0.50/24", "gateway": "10.30.0.1", "interface": 1},
                    {"address": "2001:db8::2/64", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.30.0.1", "mtu": 1300}],
            "dns": {"nameservers": ["10.0.0.53"]},
        }))
        .expect("a result");
        assert_eq!(result.container_interface().map(|(at, it)| (at, it.name.as_str())), Some((1, "net1")));
        for version in Version::ALL {
            let written = result.to_json(version);
            assert_eq!(written["cniVersion"], version.name());
            let read = CniResult::from_json(&written).expect("what was written");
            assert_eq!(read.to_json(version), written, "{version:?}");
            assert_eq!(written["ips"][0].get("version").is_some(), version < Version::V1_0_0);
            assert_eq!(written["interfaces"][1].get("mtu").is_some(), version == Version::V1_1_0);
            assert_eq!(written["routes"][0].get("mtu").is_some(), version == Version::V1_1_0);
        }
    }

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

    #[test]
    fn a_version_from_the_future_is_refused() {
        let error = CniResult::from_json(&json!({"cniVersion": "9.0.0"})).expect_err("9.0.0");
        assert_eq!(error.code, code::INCOMPATIBLE_VERSION);
    }
}
