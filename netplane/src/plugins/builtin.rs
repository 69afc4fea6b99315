//! macvlan with host-local addresses, as one plugin call without another process.

use super::ipam::host_local::{self, Allocation, HostLocalError, Request, RouteDetails};
use super::ipam::{StoreError, audit, resolv_conf};
use super::macvlan::{self, MacvlanError};
use super::result::{CniResult, Dns, Interface, Ip, Route};
use super::{Call, PluginError, code};
use crate::netlink::configure::Setup;
use crate::netlink::netns::{Netns, NetnsError};
use crate::netlink::route::{MAIN_TABLE, NewRoute};
use crate::netlink::socket::{Netlink, OpenError};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io;
use std::net::IpAddr;

/// Whether a configuration is for the process itself: macvlan with host-local or no addresses, unless
/// `"netplane": {"builtin": false}` asks for the programs.
pub fn is_builtin(config: &Value) -> bool {
    let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str);
    let ipam = text("/ipam/type").unwrap_or_default();
    text("/type") == Some("macvlan")
        && matches!(ipam, "" | "host-local")
        && config.pointer("/netplane/builtin") != Some(&Value::Bool(false))
}

/// `"netplane": {"builtin": true}` is for configurations that must not be run by a program.
///
/// # Errors
/// The key and the value that only a program knows (code 2).
pub fn check_demand(config: &Value) -> Result<(), PluginError> {
    if config.pointer("/netplane/builtin") != Some(&Value::Bool(true)) || is_builtin(config) {
        return Ok(());
    }
    let of = |pointer| config.pointer(pointer).unwrap_or(&Value::Null);
    let wrong_type = of("/type") != "macvlan";
    let (key, value) = if wrong_type { ("type", of("/type")) } else { ("ipam.type", of("/ipam/type")) };
    let message = format!("{key} is {value}: not built in, which netplane.builtin asks for");
    Err(PluginError::new(code::UNSUPPORTED_FIELD, message))
}

/// The parts of a configuration.
struct Parts {
    network: String,
    macvlan: macvlan::Config,
    ipam: Option<host_local::Config>,
    /// Addresses asked for, by `args.cni.ips` and the capability `ips`.
    ips: Vec<String>,
    /// MAC asked for, by `args.cni.mac` and before that by the capability `mac`.
    mac: Option<String>,
}

impl Parts {
    fn parse(config: &Value) -> Result<Self, PluginError> {
        let macvlan = macvlan::Config::deserialize(config);
        let macvlan = macvlan.map_err(|it| wrong("plugin", &it))?;
        let ipam = config.get("ipam").filter(|it| !it["type"].as_str().unwrap_or_default().is_empty());
        let mut ipam =
            ipam.map(host_local::Config::deserialize).transpose().map_err(|it| wrong("ipam", &it))?;
        let network = config.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(ipam) = &mut ipam {
            ipam.runtime_ranges = part(config, "/runtimeConfig/ipRanges")?;
            ipam.validate(&network).map_err(|it| ipam_error(&it))?;
        }
        let mut ips: Vec<String> = part(config, "/args/cni/ips")?;
        ips.extend(part::<Vec<String>>(config, "/runtimeConfig/ips")?);
        let mac: Option<String> = part(config, "/runtimeConfig/mac")?;
        let mac = mac.filter(|it| !it.is_empty()).or(part(config, "/args/cni/mac")?);
        Ok(Self { network, macvlan, ipam, ips, mac })
    }

    /// What `CNI_ARGS` ask for beside it: `IP` and `MAC`, where no capability gives another MAC.
    fn with_args(mut self, call: &Call) -> Self {
        let arg = |name: &str| {
            let pairs = call.args.split(';').filter_map(|it| it.split_once('='));
            pairs.into_iter().find(|(key, _)| *key == name).map(|(_, it)| it.to_owned())
        };
        if let Some(ip) = arg("IP").filter(|it| !it.is_empty()) {
            self.ips.insert(0, ip);
        }
        self.mac = self.mac.filter(|it| !it.is_empty()).or_else(|| arg("MAC"));
        self
    }

    fn request<'a>(&'a self, call: &'a Call) -> Request<'a> {
        Request {
            network: &self.network,
            container_id: &call.container_id,
            interface: &call.interface,
            wait: call.timeout,
        }
    }

    /// `dns` of the plugin, else what host-local reads from `resolvConf`.
    fn dns(&self) -> Result<Dns, PluginError> {
        let path = self.ipam.as_ref().and_then(|it| it.resolv_conf.as_deref());
        match path.filter(|it| self.macvlan.dns.is_empty() && !it.as_os_str().is_empty()) {
            None => Ok(self.macvlan.dns.clone()),
            Some(path) => resolv_conf::read(path).map_err(|error| {
                PluginError::new(
                    code::IO,
                    format!("ipam: resolvConf: cannot read {}: {error}", path.display()),
                )
            }),
        }
    }
}

/// A part of a configuration; nothing where it is absent or `null`.
fn part<T: Default + DeserializeOwned>(config: &Value, pointer: &str) -> Result<T, PluginError> {
    let value = config.pointer(pointer).filter(|it| !it.is_null());
    let read = value.map(T::deserialize).transpose();
    let key = pointer.trim_start_matches('/').replace('/', ".");
    read.map(Option::unwrap_or_default).map_err(|it| wrong(&key, &it))
}

fn wrong(key: &str, error: &serde_json::Error) -> PluginError {
    PluginError::new(code::INVALID_CONFIG, format!("macvlan configuration: {key}: {error}"))
}

/// Checks a configuration before anything is done.
///
/// # Errors
/// Which key is wrong.
pub fn validate(config: &Value) -> Result<(), PluginError> {
    Parts::parse(config).map(drop)
}

/// The name of the master that a configuration means on this node; `None`: it is in the container.
///
/// # Errors
/// There is none.
pub fn master_name(config: &Value) -> Result<Option<String>, PluginError> {
    let parts = Parts::parse(config)?;
    if parts.macvlan.link_in_container {
        return Ok(None);
    }
    let host = Netlink::here().map_err(|it| failed(&it))?;
    macvlan::master(&parts.macvlan, &host).map(|it| Some(it.name)).map_err(|it| macvlan_error(&it))
}

/// ADD. Addresses first, as they are what runs out; whatever fails gives everything back.
///
/// # Errors
/// As the parts say.
pub fn add(call: &Call, config: &Value) -> Result<CniResult, PluginError> {
    let parts = Parts::parse(config)?.with_args(call);
    let pod = open_netns(call)?;
    let dns = parts.dns()?;
    let allocations = match &parts.ipam {
        Some(ipam) => {
            host_local::allocate(ipam, parts.request(call), &parts.ips).map_err(|it| ipam_error(&it))?
        }
        None => Vec::new(),
    };
    let attached = attach(call, &parts, &pod, &allocations);
    if attached.is_err()
        && let Some(ipam) = &parts.ipam
    {
        give_back(host_local::release(ipam, parts.request(call)));
    }
    let ip = |it: &Allocation| Ip { address: it.address, gateway: Some(it.gateway), interface: Some(0) };
    let routes = parts.ipam.iter().flat_map(|it| &it.routes);
    Ok(CniResult {
        interfaces: vec![attached?],
        ips: allocations.iter().map(ip).collect(),
        routes: routes.map(result_route).collect(),
        dns,
    })
}

/// The device, up and with its addresses and routes.
fn attach(
    call: &Call,
    parts: &Parts,
    pod: &Netns,
    allocations: &[Allocation],
) -> Result<Interface, PluginError> {
    let inside = Netlink::open(pod).map_err(|it| failed(&it))?;
    let created = macvlan::create(&parts.macvlan, pod, &inside, &call.interface, parts.mac.as_deref());
    let created = created.map_err(|it| macvlan_error(&it))?;
    let routes = parts.ipam.iter().flat_map(|ipam| {
        ipam.routes.iter().map(|route| new_route(route, ipam.gateway_of(route, allocations)))
    });
    let setup = Setup {
        addresses: allocations.iter().map(|it| it.address).collect(),
        routes: routes.collect(),
        promiscuous: parts.macvlan.promisc,
    };
    if let Err(error) = macvlan::configure(pod, &inside, &created, &setup) {
        give_back(macvlan::delete(&inside, &[&call.interface]));
        return Err(macvlan_error(&error));
    }
    Ok(Interface {
        name: call.interface.clone(),
        mac: created.mac.to_string(),
        mtu: Some(created.link.mtu),
        sandbox: pod.path().display().to_string(),
        ..Interface::default()
    })
}

fn new_route(route: &host_local::Route, gateway: Option<IpAddr>) -> NewRoute {
    let RouteDetails { mtu, advmss, priority, table, scope } = route.details;
    NewRoute { destination: route.dst, gateway, mtu, advmss, priority, table, scope }
}

/// As it was asked for: a gateway that is the range's is not repeated.
fn result_route(route: &host_local::Route) -> Route {
    let more = match serde_json::to_value(route.details) {
        Ok(Value::Object(more)) => more,
        _ => serde_json::Map::new(),
    };
    Route { dst: route.dst, gw: route.gw, more }
}

/// Removes the devices of built-in attachments, given by interface and configuration, all at once: the
/// kernel's wait for one device is as long as for many. Their addresses are still reserved then, and
/// [`del`] gives them back.
///
/// # Errors
/// Something is there that cannot be removed.
pub fn remove_devices(call: &Call, attachments: &[(&str, &Value)]) -> Result<(), PluginError> {
    let built_in = attachments.iter().filter(|(_, config)| is_builtin(config));
    let names: Vec<_> = built_in.map(|(interface, _)| *interface).collect();
    // One that is alone is removed as fast by its DEL; without the namespace there is no device.
    let (2.., Ok(pod)) = (names.len(), open_netns(call)) else { return Ok(()) };
    let inside = Netlink::open(&pod).map_err(|it| failed(&it))?;
    macvlan::delete(&inside, &names).map_err(|it| macvlan_error(&it))
}

/// DEL. What is gone is done.
///
/// # Errors
/// Something is there that cannot be removed.
pub fn del(call: &Call, config: &Value) -> Result<(), PluginError> {
    let parts = Parts::parse(config)?;
    let removed = match open_netns(call) {
        Ok(pod) => Netlink::open(&pod)
            .map_err(|it| failed(&it))
            .and_then(|inside| macvlan::delete(&inside, &[&call.interface]).map_err(|it| macvlan_error(&it))),
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
    let pod = Netlink::open(&open_netns(call)?).map_err(|it| failed(&it))?;
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
    let routes = pod.destinations().map_err(netlink)?;
    for route in &previous.routes {
        let table = route.more.get("table").and_then(|it| u32::deserialize(it).ok()).unwrap_or(MAIN_TABLE);
        // By destination only, as the reference plugins: of two networks with a default route one has it.
        if !routes.contains(&(table, route.dst)) {
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

fn failed(error: &OpenError) -> PluginError {
    PluginError::from_error(code::FAILED, error)
}

fn macvlan_error(error: &MacvlanError) -> PluginError {
    let code = match error {
        MacvlanError::UnknownMaster { .. }
        | MacvlanError::NoMaster { .. }
        | MacvlanError::Mtu { .. }
        | MacvlanError::Mac(_) => code::INVALID_CONFIG,
        _ => code::FAILED,
    };
    PluginError::from_error(code, error)
}

fn ipam_error(error: &HostLocalError) -> PluginError {
    let code = match error {
        HostLocalError::Store(StoreError::File { .. }) => code::IO,
        HostLocalError::Store(StoreError::Lock(_)) => code::TRY_AGAIN,
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
            (json!({"type": "macvlan", "ipam": {"type": "dhcp"}}), false),
            (json!({"type": "ipvlan", "ipam": {"type": "host-local"}}), false),
            (json!({"type": "macvlan", "netplane": {"builtin": false}}), false),
            (json!({"type": "macvlan", "linkInContainer": true}), true),
        ] {
            assert_eq!(is_builtin(&config), expected, "{config}");
        }
    }
}
