//! Errors as CNI writes them, and the one place that gives them their codes.

use crate::attach::AttachError;
use crate::cluster::ClusterError;
use crate::devices::DeviceError;
use crate::plugins::version::Version;
use crate::plugins::{PluginError, code};
use serde_json::{Value, json};
use std::error::Error;
use std::path::Path;
use std::time::Duration;

/// CNI specification 1.1.0, section 5, "Error".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CniError {
    pub(super) code: u32,
    pub(super) message: String,
    pub(super) details: String,
    /// A NAD is not there: the pod's event says so.
    pub(super) no_network: bool,
}

impl CniError {
    fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new(), no_network: false }
    }

    pub(super) fn environment(problem: String) -> Self {
        Self::new(code::ENVIRONMENT, problem)
    }

    pub(super) fn config(problem: impl Into<String>) -> Self {
        Self::new(code::INVALID_CONFIG, problem)
    }

    pub(super) fn nothing_to_attach() -> Self {
        Self::config(
            "nothing to attach: neither clusterNetwork nor delegates is set, and the pod selects no network",
        )
    }

    pub(super) fn not_json(error: &serde_json::Error) -> Self {
        Self::new(code::DECODING, format!("stdin is not JSON: {error}"))
    }

    pub(super) fn not_ready_yet(file: &Path, waited: Duration) -> Self {
        let waited = waited.as_secs();
        let file = file.display();
        let message = format!(
            "the default network is not ready: readinessindicatorfile {file} is not there after {waited} s"
        );
        Self::new(code::TRY_AGAIN, message)
    }

    pub(super) fn not_ready(file: &Path) -> Self {
        let file = file.display();
        let message = format!("the default network is not ready: readinessindicatorfile {file} is not there");
        Self::new(code::NOT_AVAILABLE, message)
    }

    pub(super) fn stdin(error: &std::io::Error) -> Self {
        Self::new(code::IO, format!("cannot read stdin: {error}"))
    }

    pub(super) fn version(name: &str) -> Self {
        let supported = Version::supported().join(", ");
        Self::new(
            code::INCOMPATIBLE_VERSION,
            format!("cniVersion \"{name}\" is not supported (supported: {supported})"),
        )
    }

    pub(super) fn command_of_later_version(command: &str, since: Version, asked: Version) -> Self {
        Self::new(
            code::INCOMPATIBLE_VERSION,
            format!("{command} came with CNI {}, this is {}", since.name(), asked.name()),
        )
    }

    pub(super) fn previous(error: PluginError) -> Self {
        let message = format!("prevResult: {}", error.message);
        Self { details: error.details, ..Self::new(error.code, message) }
    }

    /// STATUS: what is not ready, and why; a plugin that says so in its own words keeps its code.
    pub(super) fn not_available(error: impl Into<Self>) -> Self {
        Self { code: code::NOT_AVAILABLE, ..error.into() }
    }

    pub(super) fn no_agent(socket: &Path) -> Self {
        let problem = format!("agentSocket is {}: no agent answers there", socket.display());
        Self::new(code::NOT_AVAILABLE, problem)
    }

    /// Of a network's plugin.
    pub(super) fn plugin(network: &str, error: PluginError) -> Self {
        AttachError::Delegate { network: network.to_owned(), error }.into()
    }

    pub(super) fn no_previous() -> Self {
        Self::config("prevResult is missing: CHECK compares with it")
    }

    pub(super) fn unknown_container(id: &str) -> Self {
        Self::new(code::UNKNOWN_CONTAINER, format!("container {id} is not attached"))
    }

    /// In the version that was asked for; the fields are the same in all.
    pub(super) fn to_json(&self, version: &str) -> Value {
        let mut value = json!({ "cniVersion": version, "code": self.code, "msg": self.message });
        if !self.details.is_empty() {
            value["details"] = json!(self.details);
        }
        value
    }
}

impl From<&AttachError> for CniError {
    fn from(error: &AttachError) -> Self {
        let code = match error {
            AttachError::Delegate { error, .. }
            | AttachError::DefaultRoute { error, .. }
            | AttachError::Container(error) => error.code,
            AttachError::Device { error, .. } => match error {
                // Kubelet may answer the next time.
                DeviceError::Deadline { .. } | DeviceError::Kubelet { .. } => code::TRY_AGAIN,
                DeviceError::Cluster(error) => code_of(error),
                DeviceError::NoUid { .. } => code::ENVIRONMENT,
                DeviceError::NoKubelet { .. } | DeviceError::Checkpoint { .. } => code::IO,
            },
            AttachError::Several(errors) => {
                let all = Self::of_all(errors.iter().map(Self::from).collect());
                return all.unwrap_or_else(|| Self::new(code::FAILED, error.to_string()));
            }
            AttachError::Taken { .. } => code::FAILED,
            AttachError::Busy(_) => code::TRY_AGAIN,
            AttachError::File { .. } | AttachError::Nads(_) => code::IO,
            AttachError::Selection(_)
            | AttachError::NoNad { .. }
            | AttachError::NoClusterNetwork { .. }
            | AttachError::Config { .. }
            | AttachError::Isolated { .. }
            | AttachError::DefaultRoutes { .. }
            | AttachError::NameTwice { .. }
            | AttachError::Strict(_)
            | AttachError::Twice { .. } => code::INVALID_CONFIG,
        };
        let details = match error {
            AttachError::Delegate { error, .. }
            | AttachError::DefaultRoute { error, .. }
            | AttachError::Container(error) => error.details.clone(),
            other => {
                other.source().map(|it| PluginError::from_error(code, it)).map(joined).unwrap_or_default()
            }
        };
        let no_network = matches!(error, AttachError::NoNad { .. });
        Self { details, no_network, ..Self::new(code, error.to_string()) }
    }
}

impl From<ClusterError> for CniError {
    fn from(error: ClusterError) -> Self {
        Self::new(code_of(&error), error.to_string())
    }
}

fn code_of(error: &ClusterError) -> u32 {
    match error {
        error if error.is_transient() => code::TRY_AGAIN,
        ClusterError::Kubeconfig { .. } => code::INVALID_CONFIG,
        ClusterError::Name { .. } => code::ENVIRONMENT,
        _ => code::FAILED,
    }
}

impl CniError {
    /// Several at once have the code that all of them have.
    pub(super) fn of_all(errors: Vec<Self>) -> Option<Self> {
        let mut codes = errors.iter().map(|it| it.code);
        let first = codes.next()?;
        let code = if codes.all(|it| it == first) { first } else { code::FAILED };
        let join = |text: fn(&Self) -> &str| {
            errors.iter().map(text).filter(|it| !it.is_empty()).collect::<Vec<_>>().join("; ")
        };
        Some(Self { details: join(|it| &it.details), ..Self::new(code, join(|it| &it.message)) })
    }
}

impl From<AttachError> for CniError {
    fn from(error: AttachError) -> Self {
        Self::from(&error)
    }
}

fn joined(error: PluginError) -> String {
    if error.details.is_empty() { error.message } else { format!("{}: {}", error.message, error.details) }
}
