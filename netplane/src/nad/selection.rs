//! The network selection annotation `k8s.v1.cni.cncf.io/networks` (NPWG standard §4.1), short and JSON.

use super::NetworkName;
use serde::Deserialize;
use std::net::IpAddr;

/// The annotation that selects a pod's networks.
pub const NETWORKS_ANNOTATION: &str = "k8s.v1.cni.cncf.io/networks";

/// Longest interface name, without its final zero byte (`IFNAMSIZ` of linux/if.h).
const MAX_INTERFACE_NAME: usize = 15;

/// One selected network.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkSelection {
    pub network: NetworkName,
    /// The name asked for; else `net1`, `net2`, ….
    pub interface: Option<String>,
    /// Addresses asked for, with or without prefix length (§4.1.2.1.3).
    pub ips: Vec<String>,
    pub mac: Option<String>,
    /// `cni-args`: merged over the NAD's `args.cni` (§4.1.2.1.6).
    pub cni_args: Option<serde_json::Map<String, serde_json::Value>>,
    /// Gateways of the default route, if this network is to have it (§4.1.2.1.9).
    pub default_route: Option<Vec<IpAddr>>,
}

/// What is wrong with the annotation.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    #[error("annotation {NETWORKS_ANNOTATION}: not a JSON list of selections")]
    Json(#[source] serde_json::Error),
    #[error("annotation {NETWORKS_ANNOTATION}: \"{entry}\": {problem}")]
    Entry { entry: String, problem: String },
}

/// A selection of the JSON form. Keys with a dot are somebody's own (§4.1.2.1); others are ignored as
/// Multus does.
#[derive(Deserialize)]
struct Json {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    interface: Option<String>,
    /// The name of `interface` in older versions of Multus.
    #[serde(default, rename = "interfaceRequest")]
    interface_request: Option<String>,
    #[serde(default)]
    ips: Option<Vec<String>>,
    #[serde(default)]
    mac: Option<String>,
    #[serde(default, rename = "cni-args")]
    cni_args: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(default, rename = "default-route")]
    default_route: Option<Vec<IpAddr>>,
}

/// Reads the annotation of a pod in `pod_namespace`, which is where networks without a namespace are.
///
/// # Errors
/// Which entry is wrong, and what would be right.
pub fn parse(annotation: &str, pod_namespace: &str) -> Result<Vec<NetworkSelection>, SelectionError> {
    let annotation = annotation.trim();
    if annotation.is_empty() {
        return Ok(Vec::new());
    }
    if annotation.starts_with(['[', '{']) {
        let entries: Vec<Json> = serde_json::from_str(annotation).map_err(SelectionError::Json)?;
        return entries.into_iter().map(|it| from_json(it, pod_namespace)).collect();
    }
    annotation.split(',').map(|it| from_short(it.trim(), pod_namespace)).collect()
}

fn from_json(json: Json, pod_namespace: &str) -> Result<NetworkSelection, SelectionError> {
    let namespace = json.namespace.filter(|it| !it.is_empty()).unwrap_or_else(|| pod_namespace.to_owned());
    let interface = json.interface.or(json.interface_request).filter(|it| !it.is_empty());
    let entry = json.name.clone();
    let mut selection = selection(&entry, namespace, json.name, interface)?;
    selection.ips = json.ips.unwrap_or_default();
    selection.mac = json.mac.filter(|it| !it.is_empty());
    selection.cni_args = json.cni_args;
    selection.default_route = json.default_route;
    Ok(selection)
}

/// `[namespace/]name[@interface]`.
fn from_short(entry: &str, pod_namespace: &str) -> Result<NetworkSelection, SelectionError> {
    let (network, interface) = match entry.split_once('@') {
        Some((network, interface)) => (network, Some(interface.to_owned())),
        None => (entry, None),
    };
    let (namespace, name) = network.split_once('/').unwrap_or((pod_namespace, network));
    selection(entry, namespace.to_owned(), name.to_owned(), interface)
}

fn selection(
    entry: &str,
    namespace: String,
    name: String,
    interface: Option<String>,
) -> Result<NetworkSelection, SelectionError> {
    let wrong = |problem: String| SelectionError::Entry { entry: entry.to_owned(), problem };
    let network = NetworkName { namespace, name };
    for part in [&network.namespace, &network.name] {
        let sound =
            !part.is_empty() && part.chars().all(|it| it.is_ascii_alphanumeric() || it == '-' || it == '.');
        if !sound {
            return Err(wrong(format!(
                "\"{part}\" is no Kubernetes name; the form is [NAMESPACE/]NAME[@INTERFACE]"
            )));
        }
    }
    if let Some(problem) = interface.as_deref().and_then(interface_problem) {
        return Err(wrong(problem));
    }
    Ok(NetworkSelection {
        network,
        interface,
        ips: Vec::new(),
        mac: None,
        cni_args: None,
        default_route: None,
    })
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
mod tests {
    use super::*;

    #[test]
    fn short_form() {
        let selections = parse("n3, other/n6@data0 ,n3", "core").expect("three selections");
        let shown: Vec<_> =
            selections.iter().map(|it| (it.network.to_string(), it.interface.as_deref())).collect();
        assert_eq!(
            shown,
            [
                ("core/n3".to_owned(), None),
                ("other/n6".to_owned(), Some("data0")),
                ("core/n3".to_owned(), None)
            ]
        );
        assert_eq!(parse("  ", "core").expect("nothing"), []);
    }

    #[test]
    fn json_form() {
        let selections = parse(
            r#"[{"name":"n3","interface":"a"},
                {"name":"n6","namespace":"other","interfaceRequest":"b","ips":["10.40.0.7/24"],
                 "mac":"02:00:00:00:00:01","cni-args":{"k":1},"default-route":["10.40.0.1"],"example.com/x":1}]"#,
            "core",
        )
        .expect("two selections");
        assert_eq!(selections[0].interface.as_deref(), Some("a"));
        let second = &selections[1];
        assert_eq!(second.network.to_string(), "other/n6");
        assert_eq!(second.interface.as_deref(), Some("b"));
        assert_eq!(second.ips, ["10.40.0.7/24"]);
        assert_eq!(second.default_route, Some(vec!["10.40.0.1".parse().expect("an address")]));
    }

    #[test]
    fn wrong_entries_are_named() {
        for (annotation, part) in [
            ("n3@", "must have 1 to 15 bytes"),
            ("n3@a/b", "\"a/b\""),
            ("n3@abcdefghijklmnop", "abcdefghijklmnop"),
            ("a b", "\"a b\" is no Kubernetes name"),
            ("n3,,n6", "\"\" is no Kubernetes name"),
            ("[{\"interface\":\"x\"}]", "not a JSON list"),
        ] {
            let error = parse(annotation, "core").expect_err(annotation).to_string();
            assert!(error.contains(part), "{annotation}: {error}");
        }
    }
}
