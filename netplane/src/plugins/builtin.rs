//! macvlan with host-local addresses, as one plugin call without another process.

use super::ipam::audit;
use super::ipam::host_local::{self, Allocation, HostLocalError, Request};
use super::macvlan::{self, MacvlanError};
use super::result::{CniResult, Interface, Ip, Route};
use super::{Call, PluginError, code};
use crate::netlink::netns::{Netns, NetnsError};
use crate::netlink::socket::Netlink;
use serde::Deserialize;
use serde_json::Value;
use std::io;
use std::net::IpAddr;

/// Keys of the reference plugins that only they obey, where they are set.
const FOREIGN_KEYS: [&str; 3] = ["/linkInContainer", "/promisc", "/ipam/resolvConf"];

/// Whether a configuration is for the process itself: macvlan with host-local or no addresses, unless it
/// has keys of [`FOREIGN_KEYS`] or `"netplane": {"builtin": false}` asks for the programs.
pub fn is_builtin(config: &Value) -> bool {
    let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str);
    let ipam = text("/ipam/type").unwrap_or_default();
    text("/type") == Some("macvlan")
        && matches!(ipam, "" | "host-local")
        && config.pointer("/netplane/builtin") != Some(&Value::Bool(false))
        && !FOREIGN_KEYS.iter().filter_map(|it| config.pointer(it)).any(is_set)
}

/// `"netplane": {"builtin": true}` is for configurations that must not be run by a program.
///
/// # Errors
/// The key and the value that only a program knows (code 2).
pub fn check_demand(config: &Value) -> Result<(), PluginError> {
    if config.pointer("/netplane/builtin") != Some(&Value::Bool(true)) || is_builtin(config) {
        return Ok(());
    }
    let of = |pointer: &'static str| Some((pointer, config.pointer(pointer)?)).filter(|(_, it)| is_set(it));
    let foreign = FOREIGN_KEYS.iter().find_map(|it| of(it));
    let wrong_type = of("/type").filter(|(_, it)| *it != "macvlan");
    let (key, value) = wrong_type.or(foreign).or_else(|| of("/ipam/type")).unwrap_or(("/type", &Value::Null));
    let key = key.trim_start_matches('/').replace('/', ".");
    let message = format!("{key} is {value}: not built in, which netplane.builtin asks for");
    Err(PluginError::new(code::UNSUPPORTED_FIELD, message))
}

/// Go's plugins take an empty value for an absent one.
fn is_set(value: &Value) -> bool {
    !(value.is_null() || *value == Value::Bool(false) || *value == Value::String(String::new()))
}

/// The parts of a configuration.
struct Parts {
    network: String,
    macvlan: macvlan::Config,
    ipam: Option<host_local::Config>,
    /// `runtimeConfig` of the capabilities `ips` and `mac`.
    ips: Vec<String>,
    mac: Option<String>,
}

impl Parts {
    fn parse(config: &Value) -> Result<Self, PluginError> {
        let wrong = |key: &str, error: serde_json::Error| {
            PluginError::new(code::INVALID_CONFIG, format!("macvlan configuration: {key}: {error}"))
        };
        let macvlan = macvlan::Config::deserialize(config).map_err(|it| wrong("plugin", it))?;
        let ipam = config.get("ipam").filter(|it| it.get("type").is_some());
        let ipam = ipam.map(host_local::Config::deserialize).transpose().map_err(|it| wrong("ipam", it))?;
        let network = config.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let ips = config.pointer("/runtimeConfig/ips").map(Vec::<String>::deserialize).transpose();
        let ips = ips.map_err(|it| wrong("runtimeConfig.ips", it))?.unwrap_or_default();
        let mac = config.pointer("/runtimeConfig/mac").and_then(Value::as_str).map(str::to_owned);
        if let Some(ipam) = &ipam {
            ipam.validate(&network).map_err(|it| ipam_error(&it))?;
        }
        Ok(Self { network, macvlan, ipam, ips, mac })
    }

    fn request<'a>(&'a self, call: &'a Call) -> Request<'a> {
        Request { network: &self.network, container_id: &call.container_id, interface: &call.interface }
    }
}

/// Checks a configuration before anything is done.
///
/// # Errors
/// Which key is wrong.
pub fn validate(config: &Value) -> Result<(), PluginError> {
    Parts::parse(config).map(drop)
}

/// The name of the master that a configuration means on this node.
///
/// # Errors
/// There is none.
pub fn master_name(config: &Value) -> Result<String, PluginError> {
    let parts = Parts::parse(config)?;
    let host = Netns::current().map_err(|it| netns_error(&it))?;
    let host = Netlink::open(&host).map_err(|it| PluginError::from_error(code::FAILED, &it))?;
    macvlan::master(&parts.macvlan, &host).map(|it| it.name).map_err(|it| macvlan_error(&it))
}

/// ADD. Addresses first, as they are what runs out; whatever fails gives everything back.
///
/// # Errors
/// As the parts say.
pub fn add(call: &Call, config: &Value) -> Result<CniResult, PluginError> {
    let parts = Parts::parse(config)?;
    let pod = open_netns(call)?;
    let allocations = match &parts.ipam {
        Some(ipam) => {
            host_local::allocate(ipam, parts.request(call), &parts.ips).map_err(|it| ipam_error(&it))?
        }
        None => Vec::new(),
    };
    let result = attach(call, &parts, &pod, &allocations);
    if result.is_err()
        && let Some(ipam) = &parts.ipam
    {
        give_back(host_local::release(ipam, parts.request(call)));
    }
    result
}

fn attach(
    call: &Call,
    parts: &Parts,
    pod: &Netns,
    allocations: &[Allocation],
) -> Result<CniResult, PluginError> {
    let host = Netns::current().map_err(|it| netns_error(&it))?;
    let host = Netlink::open(&host).map_err(|it| PluginError::from_error(code::FAILED, &it))?;
    let created = macvlan::create(&parts.macvlan, &host, pod, &call.interface, parts.mac.as_deref());
    let created = created.map_err(|it| macvlan_error(&it))?;
    let addresses: Vec<_> = allocations.iter().map(|it| it.address).collect();
    let routes = parts.ipam.as_ref().map(|it| it.routes(allocations)).unwrap_or_default();
    if let Err(error) = macvlan::configure(pod, &created, &addresses, &routes) {
        give_back(macvlan::delete(pod, &call.interface));
        return Err(macvlan_error(&error));
    }
    let interface = Interface {
        name: call.interface.clone(),
        mac: created.mac.to_string(),
        mtu: Some(created.link.mtu),
        sandbox: pod.path().display().to_string(),
        ..Interface::default()
    };
    let ip = |it: &Allocation| Ip { address: it.address, gateway: Some(it.gateway), interface: Some(0) };
    let route = |(dst, gw): (ipnet::IpNet, Option<IpAddr>)| Route { dst, gw, more: serde_json::Map::new() };
    Ok(CniResult {
        interfaces: vec![interface],
        ips: allocations.iter().map(ip).collect(),
        routes: routes.into_iter().map(route).collect(),
        dns: parts.macvlan.dns.clone(),
    })
}

/// DEL. What is gone is done.
///
/// # Errors
/// Something is there that cannot be removed.
pub fn del(call: &Call, config: &Value) -> Result<(), PluginError> {
    let parts = Parts::parse(config)?;
    let removed = match open_netns(call) {
        Ok(pod) => macvlan::delete(&pod, &call.interface).map_err(|it| macvlan_error(&it)),
        // The namespace took the device with it.
        Err(_) => Ok(()),
    };
    if let Some(ipam) = &parts.ipam {
        host_local::release(ipam, parts.request(call)).map_err(|it| ipam_error(&it))?;
    }
    removed
}

/// CHECK: the device is there as the result says, and its addresses are still its own.
///
/// # Errors
/// What is not as it was.
pub fn check(call: &Call, config: &Value, previous: Option<&CniResult>) -> Result<(), PluginError> {
    let parts = Parts::parse(config)?;
    let missing =
        |what: String| Err(PluginError::new(code::FAILED, format!("interface {}: {what}", call.interface)));
    let previous = previous.cloned().unwrap_or_default();
    let pod = Netlink::open(&open_netns(call)?).map_err(|it| PluginError::from_error(code::FAILED, &it))?;
    let netlink = |it| PluginError::from_error(code::FAILED, &it as &crate::netlink::socket::NetlinkError);
    let Some(link) = pod.link(&call.interface).map_err(netlink)? else {
        return missing("it is not in the container".to_owned());
    };
    let Some((index, interface)) = previous.container_interface() else {
        return missing("prevResult has no interface in the container".to_owned());
    };
    let mac = link.mac.map(|it| it.to_string()).unwrap_or_default();
    if !interface.mac.is_empty() && mac != interface.mac.to_lowercase() {
        return missing(format!("its MAC is {mac}, was {}", interface.mac));
    }
    let addresses = pod.addresses().map_err(netlink)?;
    let held = match &parts.ipam {
        Some(ipam) => host_local::held(ipam, parts.request(call)).map_err(|it| ipam_error(&it))?,
        None => Vec::new(),
    };
    for ip in previous.ips.iter().filter(|it| it.interface.is_none_or(|at| at == index)) {
        if !addresses.iter().any(|it| it.index == link.index && it.address == ip.address) {
            return missing(format!("its address {} is gone", ip.address));
        }
        if parts.ipam.is_some() && !held.contains(&ip.address.addr()) {
            return missing(format!("its address {} is not reserved any more", ip.address));
        }
    }
    let routes = pod.routes().map_err(netlink)?;
    for route in &previous.routes {
        // By destination only, as the reference plugins: of two networks with a default route one has it.
        if !routes.iter().any(|it| it.destination == route.dst) {
            return missing(format!("its route to {} is gone", route.dst));
        }
    }
    Ok(())
}

/// STATUS: the master is there, and there are addresses left.
///
/// # Errors
/// 51 without the master, as pods on it are cut off then; 50 without addresses.
pub fn status(config: &Value) -> Result<(), PluginError> {
    let parts = Parts::parse(config)?;
    master_name(config).map_err(|it| PluginError { code: code::LIMITED, ..it })?;
    let Some(ipam) = &parts.ipam else { return Ok(()) };
    audit::available(ipam, &parts.network)
        .map_err(|it| PluginError { code: code::NOT_AVAILABLE, ..ipam_error(&it) })
}

/// Giving back after a failure: a second failure is told in the log, the first one is the answer.
fn give_back<E: std::error::Error>(result: Result<(), E>) {
    if let Err(error) = result {
        tracing::warn!(%error, "could not give back what a failed ADD had taken");
    }
}

pub(super) fn open_netns(call: &Call) -> Result<Netns, PluginError> {
    let Some(path) = call.netns.as_deref().filter(|it| !it.as_os_str().is_empty()) else {
        return Err(PluginError::new(code::ENVIRONMENT, "CNI_NETNS is not set"));
    };
    Netns::open(path).map_err(|it| netns_error(&it))
}

fn netns_error(error: &NetnsError) -> PluginError {
    let code = match error {
        NetnsError::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            code::UNKNOWN_CONTAINER
        }
        NetnsError::NotANamespace { .. } => code::ENVIRONMENT,
        _ => code::FAILED,
    };
    PluginError::from_error(code, error)
}

fn macvlan_error(error: &MacvlanError) -> PluginError {
    let code = match error {
        MacvlanError::UnknownMaster { .. }
        | MacvlanError::NoMaster
        | MacvlanError::Mtu { .. }
        | MacvlanError::Mac(_) => code::INVALID_CONFIG,
        _ => code::FAILED,
    };
    PluginError::from_error(code, error)
}

fn ipam_error(error: &HostLocalError) -> PluginError {
    let code = match error {
        HostLocalError::Store(_) => code::IO,
        HostLocalError::Exhausted { .. } | HostLocalError::InUse { .. } | HostLocalError::Twice { .. } => {
            code::FAILED
        }
        _ => code::INVALID_CONFIG,
    };
    PluginError::from_error(code, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_for_the_process_itself() {
        for (config, expected) in [
            (json!({"type": "macvlan", "ipam": {"type": "host-local"}}), true),
            (json!({"type": "macvlan"}), true),
            (
                json!({"type": "macvlan", "promisc": false, "ipam": {"type": "host-local", "resolvConf": ""}}),
                true,
            ),
            (json!({"type": "macvlan", "ipam": {"type": "dhcp"}}), false),
            (json!({"type": "ipvlan", "ipam": {"type": "host-local"}}), false),
            (json!({"type": "macvlan", "netplane": {"builtin": false}}), false),
            (json!({"type": "macvlan", "linkInContainer": true}), false),
            (
                json!({"type": "macvlan", "ipam": {"type": "host-local", "resolvConf": "/etc/resolv.conf"}}),
                false,
            ),
        ] {
            assert_eq!(is_builtin(&config), expected, "{config}");
        }
    }
}
