//! The network selection annotation `k8s.v1.cni.cncf.io/networks` (NPWG standard §4.1), short and JSON.
//! Text in, typed and checked selections out; what a network's plugins make of them is `attach::plan`'s.

mod entry;

use super::NetworkName;
use serde::Serialize;
use serde_json::{Map, Value};
use std::net::IpAddr;

/// The annotation that selects a pod's networks.
pub const NETWORKS_ANNOTATION: &str = "k8s.v1.cni.cncf.io/networks";

/// The annotation that puts a NAD in place of the configuration's default network (Multus).
pub const DEFAULT_NETWORK_ANNOTATION: &str = "v1.multus-cni.io/default-network";

/// Longest interface name, without its final zero byte (`IFNAMSIZ` of linux/if.h).
const MAX_INTERFACE_NAME: usize = 15;

/// One selected network.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkSelection {
    pub network: NetworkName,
    /// The name asked for; else `net1`, `net2`, ….
    pub interface: Option<String>,
    /// Addresses asked for, with or without prefix length (§4.1.2.1.3). Present and empty is against the
    /// standard, and nothing to Multus.
    pub ips: Option<Vec<String>>,
    /// §4.1.2.1.4.
    pub mac: Option<String>,
    /// `infiniband-guid` (§4.1.2.1.10).
    pub infiniband_guid: Option<String>,
    /// `portMappings` (§4.1.2.1.7).
    pub port_mappings: Vec<PortMapping>,
    /// §4.1.2.1.8.
    pub bandwidth: Option<Bandwidth>,
    /// `deviceID`: not in the standard, Multus's.
    pub device_id: Option<String>,
    /// `cni-args`: merged over the NAD's `args.cni` (§4.1.2.1.6).
    pub cni_args: Option<Map<String, Value>>,
    /// `ipam-claim-reference`: the IPAMClaim with the addresses (§4.1.2.1.11).
    pub ipam_claim: Option<String>,
    /// Gateways of the default route, if this network is to have it: one of each family at most
    /// (§4.1.2.1.9).
    pub default_route: Option<Vec<IpAddr>>,
}

/// One port of the node that leads to the pod, as the capability `portMappings` has it (CNI conventions).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// 0: none; the portmap plugin passes over it.
    pub host_port: u16,
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// Limits as the capability `bandwidth` has them (CNI conventions). A direction without a rate is not
/// limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// Into the pod, in bits per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_rate: Option<u64>,
    /// In bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_burst: Option<u64>,
    /// Out of the pod, in bits per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_rate: Option<u64>,
    /// In bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_burst: Option<u64>,
}

/// What is wrong with the annotation.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    #[error("annotation {NETWORKS_ANNOTATION}: not a JSON list of selections")]
    Json(#[source] serde_json::Error),
    #[error("annotation {NETWORKS_ANNOTATION}: \"{entry}\": {problem}")]
    Entry { entry: String, problem: String },
    /// `entry` is the network's name, or its number from 1 where that is what is missing.
    #[error("annotation {NETWORKS_ANNOTATION}: entry {entry}: {key}: {problem}")]
    Key { entry: String, key: &'static str, problem: String },
}

/// Reads the annotation of a pod in `pod_namespace`, which is where networks without a namespace are.
///
/// # Errors
/// Which entry and key is wrong, and what would be right.
pub fn parse(annotation: &str, pod_namespace: &str) -> Result<Vec<NetworkSelection>, SelectionError> {
    match Form::of(annotation)? {
        Form::Json(entries) => {
            (1..).zip(&entries).map(|(number, it)| entry::read(number, it, pod_namespace)).collect()
        }
        Form::Short(entries) => entries.into_iter().map(|it| from_short(it, pod_namespace)).collect(),
    }
}

/// All that is wrong with the annotation, and not only the first thing; and what can be read of it.
pub fn check(annotation: &str, pod_namespace: &str) -> (Vec<NetworkSelection>, Vec<SelectionError>) {
    let entries: Vec<Result<_, Vec<_>>> = match Form::of(annotation) {
        Err(error) => return (Vec::new(), vec![error]),
        Ok(Form::Json(entries)) => {
            (1..).zip(&entries).map(|(number, it)| entry::check(number, it, pod_namespace)).collect()
        }
        Ok(Form::Short(entries)) => {
            entries.into_iter().map(|it| from_short(it, pod_namespace).map_err(|it| vec![it])).collect()
        }
    };
    let (mut selections, mut errors) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry {
            Ok(selection) => selections.push(selection),
            Err(wrong) => errors.extend(wrong),
        }
    }
    (selections, errors)
}

/// Keys of the JSON form that nobody reads, by entry (from 1): misspelt, or of a later standard.
pub fn unknown_keys(annotation: &str) -> Vec<(usize, String)> {
    let Ok(Form::Json(entries)) = Form::of(annotation) else { return Vec::new() };
    let of_entry =
        |(number, entry)| entry::unknown_keys(entry).into_iter().map(move |it| (number, it.to_owned()));
    (1..).zip(&entries).flat_map(of_entry).collect()
}

/// The two forms of the annotation.
enum Form<'a> {
    Json(Vec<Map<String, Value>>),
    Short(Vec<&'a str>),
}

impl<'a> Form<'a> {
    fn of(annotation: &'a str) -> Result<Self, SelectionError> {
        let annotation = annotation.trim();
        if annotation.is_empty() {
            return Ok(Self::Short(Vec::new()));
        }
        // As Multus tells the forms apart: none of these is in a name.
        if annotation.contains(['[', '{', '"']) {
            return serde_json::from_str(annotation).map(Self::Json).map_err(SelectionError::Json);
        }
        Ok(Self::Short(annotation.split(',').map(str::trim).collect()))
    }
}

/// `[namespace/]name[@interface]`.
fn from_short(entry: &str, pod_namespace: &str) -> Result<NetworkSelection, SelectionError> {
    let wrong = |problem: String| SelectionError::Entry { entry: entry.to_owned(), problem };
    let (network, interface) = match entry.split_once('@') {
        Some((network, interface)) => (network, Some(interface.to_owned())),
        None => (entry, None),
    };
    let (namespace, name) = network.split_once('/').unwrap_or((pod_namespace, network));
    for part in [namespace, name] {
        if let Some(problem) = name_problem(part) {
            return Err(wrong(format!("{problem}; the form is [NAMESPACE/]NAME[@INTERFACE]")));
        }
    }
    if let Some(problem) = interface.as_deref().and_then(interface_problem) {
        return Err(wrong(problem));
    }
    let network = NetworkName { namespace: namespace.to_owned(), name: name.to_owned() };
    Ok(NetworkSelection { interface, ..NetworkSelection::of(network) })
}

impl NetworkSelection {
    /// A network and nothing more.
    fn of(network: NetworkName) -> Self {
        Self {
            network,
            interface: None,
            ips: None,
            mac: None,
            infiniband_guid: None,
            port_mappings: Vec::new(),
            bandwidth: None,
            device_id: None,
            cni_args: None,
            ipam_claim: None,
            default_route: None,
        }
    }
}

fn name_problem(name: &str) -> Option<String> {
    let sound =
        !name.is_empty() && name.chars().all(|it| it.is_ascii_alphanumeric() || it == '-' || it == '.');
    (!sound).then(|| format!("\"{name}\" is no Kubernetes name"))
}

/// Why a name cannot be an interface's (CNI specification §2, `dev_valid_name` of the kernel).
pub fn interface_problem(name: &str) -> Option<String> {
    let wrong_character = |it: char| it == '/' || it == ':' || it.is_whitespace() || it.is_control();
    if name.is_empty() || name.len() > MAX_INTERFACE_NAME {
        Some(format!("interface name \"{name}\" must have 1 to {MAX_INTERFACE_NAME} bytes"))
    } else if name == "." || name == ".." || name.contains(wrong_character) {
        Some(format!("interface name \"{name}\" must not be . or .. and not contain /, : or white space"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
