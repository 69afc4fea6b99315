//! The meta-plugin's configuration on stdin. Keys, meanings and defaults are Multus's; `nadDir` is ours.

use super::error::CniError;
use crate::attach::AttachError;
use crate::attach::conf_dir::is_network_name;
use crate::attach::places::{Places, Source};
use crate::attach::record::DEFAULT_RECORD_DIR;
use crate::devices::{DEFAULT_KUBELET_DIR, info_file};
use crate::plugins::DEFAULT_TIMEOUT;
use crate::plugins::version::Version;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// The capability by which containerd passes a pod's annotations.
const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// The upper bound of `delegateTimeout`.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// Keys that a runtime or CNI itself has in every configuration.
const CNI_KEYS: [&str; 9] = [
    "name",
    "type",
    "cniVersions",
    "disableCheck",
    "disableGC",
    "args",
    "ipam",
    "dns",
    "cni.dev/attachments",
];

/// The configuration, checked. Keys that are not here are for later or for others, and ignored.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) version: Version,
    pub(super) nad_dir: Option<PathBuf>,
    pub(super) kubeconfig: Option<PathBuf>,
    pub(super) agent_socket: Option<PathBuf>,
    pub(super) cni_dir: PathBuf,
    pub(super) conf_dir: PathBuf,
    pub(super) bin_dir: Option<PathBuf>,
    /// Own keys: kubelet's directory, and that of device information files.
    pub(super) kubelet_dir: PathBuf,
    pub(super) device_info_dir: PathBuf,
    pub(super) default_networks: Vec<String>,
    pub(super) system_namespaces: Vec<String>,
    pub(super) multus_namespace: String,
    pub(super) cluster_network: Option<String>,
    pub(super) delegates: Vec<Value>,
    /// What the runtime passes, by capability: for the default network (NPWG standard §7.5).
    pub(super) runtime_config: Map<String, Value>,
    /// Own key: selections are read as the standard says, and not as Multus does.
    pub(super) strict_selections: bool,
    /// `retryDeleteOnError`: DEL fails until all is down. Else what never came up is forgotten.
    pub(super) retry_delete_on_error: bool,
    /// `type`: the name under which we are called.
    pub(super) kind: String,
    /// `readinessindicatorfile`: there when the default network is ready.
    pub(super) readiness_file: Option<PathBuf>,
    /// `auxiliaryCNIChainName`: a folder of plugins that are called for every pod, at the end.
    pub(super) auxiliary_chain: Option<String>,
    namespace_isolation: bool,
    global_namespaces: String,
    pub(super) previous: Option<Value>,
    valid_attachments: Option<Vec<ValidAttachment>>,
    /// How long a delegate's plugin may take for one call.
    pub(super) delegate_timeout: Duration,
}

/// What GC is to leave alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub(super) container_id: String,
    pub(super) ifname: String,
}

/// As it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    nad_dir: Option<PathBuf>,
    #[serde(default)]
    kubeconfig: Option<PathBuf>,
    /// Ours: the agent's.
    #[serde(default)]
    agent_socket: Option<PathBuf>,
    #[serde(default)]
    cni_dir: Option<PathBuf>,
    #[serde(default)]
    conf_dir: Option<PathBuf>,
    #[serde(default)]
    bin_dir: Option<PathBuf>,
    #[serde(default)]
    kubelet_dir: Option<PathBuf>,
    #[serde(default)]
    device_info_dir: Option<PathBuf>,
    #[serde(default)]
    cluster_network: Option<String>,
    #[serde(default)]
    default_networks: Option<Vec<String>>,
    #[serde(default)]
    system_namespaces: Option<Vec<String>>,
    #[serde(default)]
    multus_namespace: Option<String>,
    #[serde(default)]
    delegates: Option<Vec<Value>>,
    #[serde(default)]
    runtime_config: Option<Map<String, Value>>,
    #[serde(default)]
    strict_selections: Option<bool>,
    #[serde(default)]
    namespace_isolation: Option<bool>,
    /// All in lower case, as Multus has it.
    #[serde(default, rename = "readinessindicatorfile")]
    readiness_file: Option<PathBuf>,
    #[serde(default, rename = "auxiliaryCNIChainName")]
    auxiliary_chain: Option<String>,
    #[serde(default)]
    retry_delete_on_error: Option<bool>,
    /// For the runtime: which capabilities it may pass in `runtimeConfig`.
    #[serde(default, rename = "capabilities")]
    _capabilities: Option<Map<String, Value>>,
    #[serde(flatten)]
    _log: super::log::Settings,
    /// Separated by commas.
    #[serde(default)]
    global_namespaces: Option<String>,
    #[serde(default)]
    prev_result: Option<Value>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<ValidAttachment>>,
    /// Seconds; ours, as Multus waits for ever.
    #[serde(default)]
    delegate_timeout: Option<f64>,
    /// `name`, `type` and what nobody here knows.
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl Config {
    pub(super) fn read(stdin: &[u8]) -> Result<Self, CniError> {
        let value: Value = serde_json::from_slice(stdin).map_err(|it| CniError::not_json(&it))?;
        let object =
            value.as_object().ok_or_else(|| CniError::config("the configuration is not a JSON object"))?;
        let raw = read_by_key(object)?;
        for key in raw.others.keys().filter(|it| !CNI_KEYS.contains(&it.as_str())) {
            tracing::debug!(key, "not a key of netplane: ignored");
        }
        let version = match raw.cni_version.as_deref() {
            None | Some("") => Version::UNSAID,
            Some(name) => Version::parse(name).ok_or_else(|| CniError::version(name))?,
        };
        let or = |given: Option<PathBuf>, default: &str| given.unwrap_or_else(|| PathBuf::from(default));
        Ok(Self {
            version,
            nad_dir: raw.nad_dir,
            kubeconfig: raw.kubeconfig.filter(|it| !it.as_os_str().is_empty()),
            agent_socket: raw.agent_socket.filter(|it| !it.as_os_str().is_empty()),
            cni_dir: or(raw.cni_dir, DEFAULT_RECORD_DIR),
            conf_dir: or(raw.conf_dir, "/etc/cni/multus/net.d"),
            bin_dir: raw.bin_dir,
            kubelet_dir: or(raw.kubelet_dir, DEFAULT_KUBELET_DIR),
            device_info_dir: or(raw.device_info_dir, info_file::DEFAULT_DIR),
            default_networks: raw.default_networks.unwrap_or_default(),
            system_namespaces: raw.system_namespaces.unwrap_or_else(|| vec!["kube-system".to_owned()]),
            multus_namespace: raw.multus_namespace.unwrap_or_else(|| "kube-system".to_owned()),
            cluster_network: raw.cluster_network.filter(|it| !it.is_empty()),
            delegates: raw.delegates.unwrap_or_default(),
            runtime_config: raw.runtime_config.unwrap_or_default(),
            strict_selections: raw.strict_selections.unwrap_or_default(),
            retry_delete_on_error: raw.retry_delete_on_error.unwrap_or_default(),
            kind: raw.others.get("type").and_then(Value::as_str).unwrap_or_default().to_owned(),
            readiness_file: raw.readiness_file.filter(|it| !it.as_os_str().is_empty()),
            auxiliary_chain: raw.auxiliary_chain.filter(|it| !it.is_empty()).map(chain_name).transpose()?,
            namespace_isolation: raw.namespace_isolation.unwrap_or_default(),
            // Multus's `defaultNonIsolatedNamespace`.
            global_namespaces: raw
                .global_namespaces
                .filter(|it| !it.is_empty())
                .unwrap_or_else(|| "default".to_owned()),
            previous: raw.prev_result,
            valid_attachments: raw.valid_attachments,
            delegate_timeout: raw.delegate_timeout.map_or(Ok(DEFAULT_TIMEOUT), timeout)?,
        })
    }

    /// The networks that the configuration has for every pod, the default network first: `clusterNetwork`,
    /// else all of `delegates`.
    pub(super) fn cluster_networks(&self, places: &Places<'_>) -> Result<Vec<Source>, AttachError> {
        if let Some(name) = &self.cluster_network {
            return places.cluster_network(name).map(|it| vec![it]);
        }
        let delegates = self.delegates.iter().enumerate();
        let source =
            |(number, it): (_, &Value)| Source::unnamed(format!("delegates[{number}]"), it.to_string());
        Ok(delegates.map(source).collect())
    }

    /// The pod's annotations, where the runtime passes them.
    pub(super) fn pod_annotations(&self) -> Result<Option<BTreeMap<String, String>>, CniError> {
        let Some(passed) = self.runtime_config.get(POD_ANNOTATIONS).filter(|it| !it.is_null()) else {
            return Ok(None);
        };
        BTreeMap::deserialize(passed).map(Some).map_err(|error| {
            CniError::config(format!("runtimeConfig: {POD_ANNOTATIONS} is {passed}: {error}"))
        })
    }

    /// Whether pods of `pod` may not use NADs of `network` (`namespaceIsolation`).
    pub(super) fn isolates(&self, pod: &str, network: &str) -> bool {
        let global = || self.global_namespaces.split(',').any(|it| it.trim() == network);
        self.namespace_isolation && pod != network && !global()
    }

    /// What GC is to leave alone.
    ///
    /// # Errors
    /// The runtime has not said: that cannot mean "nothing".
    pub(super) fn valid_attachments(&self) -> Result<BTreeSet<ValidAttachment>, CniError> {
        let valid = self.valid_attachments.clone().map(BTreeSet::from_iter);
        valid.ok_or_else(|| CniError::config("cni.dev/valid-attachments is missing: GC needs it"))
    }

    /// # Errors
    /// The command came with a later version than the one that is asked for.
    pub(super) fn allow(&self, command: &str, since: Version) -> Result<(), CniError> {
        if self.version >= since {
            return Ok(());
        }
        Err(CniError::command_of_later_version(command, since, self.version))
    }
}

/// `delegateTimeout`.
fn timeout(seconds: f64) -> Result<Duration, CniError> {
    let time = Duration::try_from_secs_f64(seconds).ok();
    time.filter(|it| !it.is_zero() && *it <= LONGEST_TIMEOUT).ok_or_else(|| {
        let longest = LONGEST_TIMEOUT.as_secs();
        CniError::config(format!(
            "delegateTimeout is {seconds}: should be seconds, more than 0, up to {longest}"
        ))
    })
}

/// `auxiliaryCNIChainName`.
fn chain_name(name: String) -> Result<String, CniError> {
    if is_network_name(&name) {
        return Ok(name);
    }
    let form = "a network's name: letters, digits, _ . - only, a letter or digit first";
    Err(CniError::config(format!("auxiliaryCNIChainName is \"{name}\", should be {form}")))
}

/// Every key whose value is of a wrong type, with what is wrong.
pub(super) fn problems_by_key(object: &Map<String, Value>) -> Vec<(String, String)> {
    let problem = |(key, value): (&String, &Value)| {
        let error = serde_json::from_value::<Raw>(single(key, value)).err()?;
        Some((key.clone(), format!("{key} is {value}: {error}")))
    };
    object.iter().filter_map(problem).collect()
}

/// Keys that neither CNI nor netplane reads.
pub(super) fn unknown_keys(object: &Map<String, Value>) -> Vec<String> {
    let others = serde_json::from_value::<Raw>(Value::Object(object.clone())).map(|it| it.others);
    let others = others.unwrap_or_default().into_iter().map(|(key, _)| key);
    others.filter(|it| !CNI_KEYS.contains(&it.as_str())).collect()
}

/// A configuration with one key.
fn single(key: &str, value: &Value) -> Value {
    Value::Object(Map::from_iter([(key.to_owned(), value.clone())]))
}

/// Reads the configuration; an error names the key and its value.
fn read_by_key(object: &Map<String, Value>) -> Result<Raw, CniError> {
    let read = serde_json::from_value(Value::Object(object.clone()));
    read.map_err(|error| {
        // serde does not say which key it was at: try them one by one.
        let culprit =
            object.iter().find(|(key, value)| serde_json::from_value::<Raw>(single(key, value)).is_err());
        let problem = culprit.map_or(error.to_string(), |(key, value)| format!("{key} is {value}: {error}"));
        CniError::config(problem)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn isolation_lets_own_and_global_namespaces_through() {
        let read = |global: &str| {
            let text = format!(
                r#"{{"cniVersion":"1.0.0","namespaceIsolation":true,"globalNamespaces":"{global}"}}"#
            );
            Config::read(text.as_bytes()).expect("a configuration")
        };
        let unsaid = read("");
        assert!(!unsaid.isolates("core", "core") && !unsaid.isolates("core", "default"));
        assert!(unsaid.isolates("core", "infra"));
        let said = read("shared, infra");
        assert!(!said.isolates("core", "infra") && said.isolates("core", "default"));
        let off = Config::read(br#"{"cniVersion":"1.0.0"}"#).expect("a configuration");
        assert!(!off.isolates("core", "infra"));
    }
}
