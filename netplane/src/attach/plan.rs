//! What an ADD is to do, as plain data: which delegates, in which order, under which names, each with its
//! complete configuration. Everything that can be known to be wrong is found here, before any effect.

mod device;
mod plugin;

pub use device::{Device, InfoFile};

use super::AttachError;
use super::places::Source;
use crate::devices::info_file::InfoFiles;
use crate::nad::NetworkName;
use crate::nad::selection::NetworkSelection;
use crate::plugins::version::Version;
use crate::plugins::{PluginError, code};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// One delegate: a plugin, or a list of plugins that are called one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Delegate {
    /// The NAD; absent for a default network that is a file.
    pub network: Option<NetworkName>,
    /// How errors name it.
    pub label: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// Whether it is the pod's default network.
    pub default: bool,
    /// Its first plugin gets an empty `prevResult`, as one behind others.
    pub chained: bool,
    pub version: Version,
    /// `disableCheck` of a list.
    pub disable_check: bool,
    /// `disableGC` of a list.
    pub disable_gc: bool,
    /// Complete plugin configurations, in the order of the list.
    pub plugins: Vec<Value>,
    /// Gateways of the default route, if this network is to have it.
    pub default_route: Option<Vec<IpAddr>>,
    /// Where its plugins tell of its device.
    pub info_file: Option<InfoFile>,
    /// What is passed over, for the log and for events on the pod.
    pub warnings: Vec<Warning>,
}

/// What asks more of a delegate than its configuration says.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// What the pod asks for, as `runtimeConfig` by capability.
    pub runtime: Map<String, Value>,
    /// What the runtime passes for the default network, by capability; it goes before the pod's.
    pub passed: Map<String, Value>,
    pub cni_args: Option<Map<String, Value>>,
    pub default_route: Option<Vec<IpAddr>>,
    /// The device that kubelet gave the pod for this network: `deviceID` and `pciBusID` of every plugin.
    pub device: Option<Device>,
    /// Where device information is.
    pub info_files: Option<InfoFiles>,
    /// What was wrong with the selection already.
    pub warnings: Vec<Warning>,
}

impl Overrides {
    /// Capabilities by the names of the CNI conventions.
    pub fn of_selection(selection: &NetworkSelection) -> Self {
        let mut runtime = Map::new();
        let mut ask = |capability: &str, value: Option<Value>| {
            if let Some(value) = value {
                runtime.insert(capability.to_owned(), value);
            }
        };
        ask("ips", selection.ips.as_ref().filter(|it| !it.is_empty()).map(|it| json!(it)));
        ask("mac", selection.mac.as_ref().map(|it| json!(it)));
        ask("infinibandGUID", selection.infiniband_guid.as_ref().map(|it| json!(it)));
        let ports = &selection.port_mappings;
        ask("portMappings", (!ports.is_empty()).then(|| json!(ports)));
        ask("bandwidth", selection.bandwidth.map(|it| json!(it)));
        ask("deviceID", selection.device_id.as_ref().map(|it| json!(it)));
        let mut cni_args = selection.cni_args.clone();
        if let Some(claim) = &selection.ipam_claim {
            // No capability has this name; `args.cni` is what reaches every plugin and its IPAM.
            cni_args.get_or_insert_default().insert(IPAM_CLAIM.to_owned(), json!(claim));
        }
        let empty = selection.ips.as_ref().is_some_and(Vec::is_empty);
        let network = selection.network.to_string();
        Self {
            runtime,
            cni_args,
            default_route: selection.default_route.clone(),
            warnings: empty.then_some(Warning::NoAddresses { network }).into_iter().collect(),
            ..Self::default()
        }
    }
}

/// The selection's key, and the one in `args.cni`.
const IPAM_CLAIM: &str = "ipam-claim-reference";

/// What Multus passes over in silence and the standard forbids. Clusters rely on the former: it is an error
/// with `strictSelections` only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// NPWG standard §4.1.2.1.3, .4, .7, .8, .10.
    #[error("network {network}: {capability} is asked for, and no plugin of it has that capability")]
    NoCapability { network: String, capability: String },
    /// §4.1.2.1.3.
    #[error("network {network}: ips is an empty list")]
    NoAddresses { network: String },
    /// §4.1.2.1.9.
    #[error("network {network}: default-route is asked for on network {other}, too")]
    TwoDefaultRoutes { network: String, other: String },
    /// The standard is silent; plugins that need a device fail by themselves.
    #[error("network {network}: the pod has no device of resource {resource} left for it ({looked})")]
    NoDevice { network: String, resource: String, looked: String },
}

/// Makes a delegate out of a configuration and what is asked of it.
///
/// # Errors
/// What is wrong with the configuration, by key.
pub fn delegate(
    source: &Source,
    interface: String,
    default: bool,
    overrides: &Overrides,
) -> Result<Delegate, AttachError> {
    let config: Value = serde_json::from_str(&source.config)
        .map_err(|error| source.wrong("spec.config", format!("is not JSON: {error}")))?;
    let config = config.as_object().ok_or_else(|| source.wrong("spec.config", "is not a JSON object"))?;
    let version = version(source, config)?;
    let name = config.get("name").and_then(Value::as_str).filter(|it| !it.is_empty()).unwrap_or(&source.name);
    if name.is_empty() {
        return Err(source.wrong("name", "is missing"));
    }
    let plugins = plugin::of_config(source, config)?;
    if overrides.cni_args.is_some() && !plugins.iter().all(plugin::takes_args) {
        return Err(source.wrong("args", "must be an object, and its cni, too: cni-args go into it"));
    }
    let known_as = source.network.as_ref().map_or_else(|| name.to_owned(), ToString::to_string);
    let info_file = device::info_file(overrides, &known_as, &interface, &plugins);
    let mut overrides = overrides.clone();
    device::pass(&mut overrides, info_file.as_ref(), &source.label);
    let mut warnings = overrides.warnings.clone();
    let lacking = overrides.runtime.keys().filter(|it| !plugins.iter().any(|has| plugin::has(has, it)));
    warnings.extend(lacking.map(|it| {
        let (network, capability) = (source.label.clone(), it.clone());
        Warning::NoCapability { network, capability }
    }));
    let complete = |it| plugin::complete(it, name, version, &overrides);
    let plugins: Vec<_> = plugins.into_iter().map(complete).collect();
    for plugin in &plugins {
        plugin::check(source, plugin)?;
    }
    Ok(Delegate {
        network: source.network.clone(),
        label: source.label.clone(),
        interface,
        default,
        chained: source.chained,
        version,
        // Plugins check the interface of their name, and a chain has none of its own.
        disable_check: source.chained || config.get("disableCheck") == Some(&json!(true)),
        disable_gc: config.get("disableGC") == Some(&json!(true)),
        plugins,
        default_route: overrides.default_route,
        info_file,
        warnings,
    })
}

/// The version that its plugins are called in: the newest known one of `cniVersions` (CNI specification
/// 1.1.0, section 1) and `cniVersion`.
fn version(source: &Source, config: &Map<String, Value>) -> Result<Version, AttachError> {
    let listed = config.get("cniVersions").and_then(Value::as_array).into_iter().flatten();
    let newest = listed.filter_map(|it| it.as_str().and_then(Version::parse)).max();
    let single = match config.get("cniVersion").and_then(Value::as_str) {
        None | Some("") => None,
        Some(name) => match Version::parse(name) {
            None if newest.is_none() => {
                let supported = Version::supported().join(", ");
                let problem = format!("cniVersion: \"{name}\" is not supported (supported: {supported})");
                let error = PluginError::new(code::INCOMPATIBLE_VERSION, problem);
                return Err(AttachError::Delegate { network: source.label.clone(), error });
            }
            known => known,
        },
    };
    Ok(newest.max(single).unwrap_or(Version::UNSAID))
}

/// A network that is wanted beside the default one.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub source: Source,
    /// The interface name that the pod asks for.
    pub interface: Option<String>,
    pub overrides: Overrides,
}

/// The default network's delegate, and those of these networks behind it. Their interfaces are `net1`, `net2`,
/// … by position, unless a name is asked for.
///
/// # Errors
/// Two interfaces of one name, two default routes, or a configuration that is wrong.
pub fn delegates(default: Option<Delegate>, wanted: &[Wanted]) -> Result<Vec<Delegate>, AttachError> {
    let mut used: BTreeSet<String> = default.iter().map(|it| it.interface.clone()).collect();
    let mut delegates: Vec<Delegate> = default.into_iter().collect();
    for (number, wanted) in (1..).zip(wanted) {
        let interface = wanted.interface.clone().unwrap_or_else(|| format!("net{number}"));
        let interface = if wanted.source.chained { unused(interface, number, &used) } else { interface };
        if !used.insert(interface.clone()) {
            return Err(AttachError::NameTwice { network: wanted.source.label.clone(), interface });
        }
        let mut delegate = delegate(&wanted.source, interface, false, &wanted.overrides)?;
        delegate.warnings.extend(second_default_route(&delegates, &delegate)?);
        delegates.push(delegate);
    }
    Ok(delegates)
}

/// A chain of no network makes no interface: its name must not stand in the way of one that is asked for.
fn unused(interface: String, number: usize, used: &BTreeSet<String>) -> String {
    let mut names = std::iter::once(interface).chain((number..).map(|it| format!("net{it}")));
    names.find(|it| !used.contains(it)).unwrap_or_default()
}

/// One network only may ask for the default route (NPWG standard §4.1.2.1.9). Multus lets one have IPv4's and
/// another one IPv6's.
fn second_default_route(before: &[Delegate], delegate: &Delegate) -> Result<Option<Warning>, AttachError> {
    let Some(own) = &delegate.default_route else { return Ok(None) };
    let has_v4 = |gateways: &[IpAddr]| gateways.iter().any(IpAddr::is_ipv4);
    let has_v6 = |gateways: &[IpAddr]| gateways.iter().any(IpAddr::is_ipv6);
    let mut warning = None;
    for other in before {
        let Some(gateways) = &other.default_route else { continue };
        let (network, other) = (delegate.label.clone(), other.label.clone());
        let clash = own.is_empty()
            || gateways.is_empty()
            || (has_v4(own) && has_v4(gateways))
            || (has_v6(own) && has_v6(gateways));
        if clash {
            return Err(AttachError::DefaultRoutes { network, other });
        }
        warning = Some(Warning::TwoDefaultRoutes { network, other });
    }
    Ok(warning)
}

#[cfg(test)]
mod tests;
