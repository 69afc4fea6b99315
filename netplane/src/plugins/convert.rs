//! Results in each version of the specification, read and written: from 0.3.0 a list of interfaces with
//! their addresses, before that `ip4` and `ip6`.

use super::result::{CniResult, Dns, Interface, Ip, Route};
use super::version::Version;
use super::{PluginError, code, lenient};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// A result of 0.1.0 or 0.2.0.
#[derive(Deserialize)]
struct Old {
    #[serde(default)]
    ip4: Option<OldIp>,
    #[serde(default)]
    ip6: Option<OldIp>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    dns: Dns,
}

/// One family's part of it.
#[derive(Deserialize)]
struct OldIp {
    #[serde(deserialize_with = "lenient::prefix")]
    ip: IpNet,
    #[serde(default, deserialize_with = "lenient::address")]
    gateway: Option<IpAddr>,
    #[serde(default, deserialize_with = "lenient::or_default")]
    routes: Vec<Route>,
}

impl CniResult {
    /// Reads a result of any version. One that does not say its version is of `asked`, that of the
    /// configuration, as with libcni.
    ///
    /// # Errors
    /// A version that is not supported, or a field that is not as the specification says.
    pub fn from_json(value: &Value, asked: Version) -> Result<Self, PluginError> {
        let name = value.get("cniVersion").and_then(Value::as_str).filter(|it| !it.is_empty());
        let version = name.map_or(Some(asked), Version::parse).ok_or_else(|| {
            let (name, supported) = (name.unwrap_or_default(), Version::supported().join(", "));
            let message = format!("result in CNI version {name} (supported: {supported})");
            PluginError::new(code::INCOMPATIBLE_VERSION, message)
        })?;
        // By what is there rather than by what it is called: a plugin that is not asked for a version
        // may well answer in the form that it knows.
        let is_old = ["ip4", "ip6"].iter().any(|key| value.get(key).is_some_and(|it| !it.is_null()))
            && value.get("ips").is_none_or(Value::is_null);
        let read = if value.is_null() {
            // Go's decoder, and so libcni, takes it for an object without keys.
            Ok(Self::default())
        } else if !value.is_object() {
            Err(serde::de::Error::custom("not an object"))
        } else if is_old && !version.has_interfaces() {
            Old::deserialize(value).map(Self::from)
        } else {
            Self::deserialize(value)
        };
        read.map_err(|error| PluginError::new(code::DECODING, format!("result is not a CNI result: {error}")))
    }

    /// The result as `version` has it: fields that came later are left out, those that went are put in.
    pub fn to_json(&self, version: Version) -> Value {
        let mut result = json!({ "cniVersion": version.name() });
        if version.has_interfaces() {
            let interfaces: Vec<_> = self.interfaces.iter().map(|it| interface_json(it, version)).collect();
            let ips: Vec<_> = self.ips.iter().map(|it| ip_json(it, version)).collect();
            let routes: Vec<_> = self.routes.iter().map(|it| route_json(it, version)).collect();
            for (key, list) in [("interfaces", interfaces), ("ips", ips), ("routes", routes)] {
                if !list.is_empty() {
                    result[key] = Value::Array(list);
                }
            }
        } else {
            for (key, v4) in [("ip4", true), ("ip6", false)] {
                if let Some(old) = self.old_json(v4) {
                    result[key] = old;
                }
            }
        }
        // `dns` is an object in all versions; the older ones always had it.
        if !self.dns.is_empty() || version < Version::V1_1_0 {
            result["dns"] = json!(self.dns);
        }
        result
    }

    /// `ip4` or `ip6`: the first address of that family on the container's interface, with all routes of
    /// that family. Versions before 0.3.0 have place for no more.
    fn old_json(&self, v4: bool) -> Option<Value> {
        let ip = self.container_ips().find(|it| it.address.addr().is_ipv4() == v4)?;
        let routes = self.routes.iter().filter(|it| it.dst.addr().is_ipv4() == v4);
        let routes: Vec<_> = routes.map(|it| route_json(it, Version::V0_2_0)).collect();
        let mut old = json!({ "ip": ip.address });
        if let Some(gateway) = ip.gateway {
            old["gateway"] = json!(gateway);
        }
        if !routes.is_empty() {
            old["routes"] = json!(routes);
        }
        Some(old)
    }
}

impl From<Old> for CniResult {
    fn from(old: Old) -> Self {
        let mut result = Self { dns: old.dns, ..Self::default() };
        for part in [old.ip4, old.ip6].into_iter().flatten() {
            result.ips.push(Ip { address: part.ip, gateway: part.gateway, interface: None });
            result.routes.extend(part.routes);
        }
        result
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
    let more = if version < Version::V1_1_0 { Map::new() } else { route.more.clone() };
    json!(Route { more, ..route.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<u32>(), 0_u8..=32).prop_map(|(it, len)| IpNet::new(IpAddr::V4(it.into()), len));
        let v6 = (any::<u128>(), 0_u8..=128).prop_map(|(it, len)| IpNet::new(IpAddr::V6(it.into()), len));
        prop_oneof![v4, v6].prop_map(|it| it.expect("the length fits"))
    }

    fn results() -> impl Strategy<Value = CniResult> {
        let interface = ("[a-z]{1,15}", any::<bool>(), proptest::option::of(68_u32..9000));
        let interface = interface.prop_map(|(name, inside, mtu)| {
            let sandbox = if inside { "/run/netns/x".to_owned() } else { String::new() };
            Interface { name, mtu, sandbox, ..Interface::default() }
        });
        let ip = (addresses(), any::<bool>(), proptest::option::of(0_usize..4));
        let ip = ip.prop_map(|(address, has, interface)| Ip {
            address,
            gateway: has.then(|| address.network()),
            interface,
        });
        let route = (addresses(), any::<bool>(), proptest::option::of(1_u32..9000));
        let route = route.prop_map(|(dst, has, mtu)| {
            let more = mtu.into_iter().map(|it| ("mtu".to_owned(), json!(it))).collect();
            Route { dst, gw: has.then(|| dst.addr()), more }
        });
        let lists = (
            proptest::collection::vec(interface, 0..4),
            proptest::collection::vec(ip, 0..5),
            proptest::collection::vec(route, 0..4),
        );
        lists.prop_map(|(interfaces, ips, routes)| CniResult {
            interfaces,
            ips,
            routes,
            ..CniResult::default()
        })
    }

    proptest! {
        /// What a version has room for comes back as it was, and a second time round nothing more is lost.
        #[test]
        fn a_result_survives_each_version(result in results()) {
            prop_assert_eq!(read(&result.to_json(Version::NEWEST)), result.clone());
            for version in Version::ALL {
                let written = result.to_json(version);
                let again = read(&written);
                prop_assert_eq!(again.to_json(version), written, "{:?}", version);
                if version.has_interfaces() {
                    prop_assert_eq!(&again.ips, &result.ips);
                } else {
                    prop_assert!(again.ips.iter().all(|it| result.ips.iter().any(|old| old.address == it.address)));
                    prop_assert!(again.ips.len() <= 2 && again.routes.len() <= result.routes.len());
                }
            }
        }
    }

    fn read(value: &Value) -> CniResult {
        CniResult::from_json(value, Version::UNSAID).expect("a result")
    }

    #[test]
    fn every_version_reads_what_it_wrote() {
        let result = read(&json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "m0"}, {"name": "net1", "mac": "02:00:00:00:00:01", "mtu": 1400, "sandbox": "/n"}],
            "ips": [{"address": "10.30.0.50/24", "gateway": "10.30.0.1", "interface": 1},
                    {"address": "2001:db8::2/64", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.30.0.1", "mtu": 1300}],
            "dns": {"nameservers": ["10.0.0.53"]},
        }));
        assert_eq!(result.container_interface().map(|(at, it)| (at, it.name.as_str())), Some((1, "net1")));
        for version in Version::ALL {
            let written = result.to_json(version);
            assert_eq!(written["cniVersion"], version.name());
            assert_eq!(read(&written).to_json(version), written, "{version:?}");
        }
    }

    #[test]
    fn converting_down_keeps_the_first_address_of_each_family_in_the_container() {
        let result = read(&json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "br0"}, {"name": "net1", "sandbox": "/n"}],
            "ips": [{"address": "10.0.0.1/24", "interface": 0}, {"address": "10.0.0.7/24", "interface": 1},
                    {"address": "10.1.0.7/24", "interface": 1}, {"address": "2001:db8::7/64", "interface": 1}],
            "routes": [{"dst": "10.9.0.0/16"}, {"dst": "::/0", "gw": "2001:db8::1"}],
        }));
        let expected = json!({"cniVersion": "0.2.0", "dns": {},
            "ip4": {"ip": "10.0.0.7/24", "routes": [{"dst": "10.9.0.0/16"}]},
            "ip6": {"ip": "2001:db8::7/64", "routes": [{"dst": "::/0", "gw": "2001:db8::1"}]}});
        assert_eq!(result.to_json(Version::V0_2_0), expected);
    }

    #[test]
    fn what_plugins_write_for_absent_is_read_as_absent() {
        let result = read(&json!({
            "cniVersion": "0.3.1", "routes": null, "dns": null,
            "interfaces": [{"name": "net1", "mac": null, "sandbox": null}],
            "ips": [{"version": "4", "address": "10.0.0.7", "gateway": "", "interface": -1}],
        }));
        let expected = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "net1"}],
            "ips": [{"address": "10.0.0.7/32"}]});
        assert_eq!(result.to_json(Version::V1_1_0), expected);
        assert_eq!(read(&Value::Null), CniResult::default());
    }

    #[test]
    fn a_result_without_a_version_is_of_the_one_that_was_asked_for() {
        let new = json!({"ips": [{"address": "10.0.0.7/24"}]});
        for asked in [Version::UNSAID, Version::V0_4_0] {
            let result = CniResult::from_json(&new, asked).expect("a result");
            assert_eq!(result.ips.len(), 1, "{asked:?}");
        }
        let old = json!({"ip4": {"ip": "10.0.0.7/24", "routes": null}});
        assert_eq!(read(&old).ips.len(), 1);
    }

    #[test]
    fn wrong_results_are_named() {
        for (value, code, part) in [
            (json!({"cniVersion": "9.0.0"}), code::INCOMPATIBLE_VERSION, "version 9.0.0 (supported: 0.1.0,"),
            (json!({"cniVersion": "1.0.0", "ips": [{"address": "x"}]}), code::DECODING, "\"x\" is neither"),
            (json!({"ip4": {"ip": 7}}), code::DECODING, "not a CNI result"),
            (json!([]), code::DECODING, "not a CNI result"),
        ] {
            let error = CniResult::from_json(&value, Version::UNSAID).expect_err("wrong");
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.contains(part), "{error}");
        }
    }
}
