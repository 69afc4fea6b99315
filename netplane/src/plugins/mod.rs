//! Plugins: macvlan and host-local inside the process, with the configuration keys and the state on disk
//! of the reference plugins, so that both can be used on one node; and running any other plugin. Results
//! of both are one type, whatever version they were in.

pub mod builtin;
mod convert;
pub mod exec;
pub mod ipam;
mod lenient;
pub mod lock;
pub mod macvlan;
mod process;
pub mod result;
pub mod version;

use crate::netlink::socket::Netlink;
use std::path::PathBuf;
use std::time::Duration;

/// One plugin's failure as CNI sees it (CNI specification 1.1.0, section 5, "Error").
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PluginError {
    /// 1 … 99 are the specification's; 100 and above the plugin's own.
    pub code: u32,
    pub message: String,
    pub details: String,
}

/// Codes of the specification.
pub mod code {
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    pub const UNSUPPORTED_FIELD: u32 = 2;
    pub const UNKNOWN_CONTAINER: u32 = 3;
    pub const ENVIRONMENT: u32 = 4;
    pub const IO: u32 = 5;
    pub const DECODING: u32 = 6;
    pub const INVALID_CONFIG: u32 = 7;
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: no ADD would succeed.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: no ADD would succeed, and containers that are attached may be cut off.
    pub const LIMITED: u32 = 51;
    /// Our own: the work itself failed.
    pub const FAILED: u32 = 100;
}

impl PluginError {
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    /// From an error and its causes.
    pub fn from_error(code: u32, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut causes = std::iter::successors(error.source(), |it| it.source());
        let details = causes.by_ref().map(ToString::to_string).collect::<Vec<_>>().join(": ");
        Self { code, message: error.to_string(), details }
    }
}

/// For whom a plugin is called: the parameters of CNI that are the same for each plugin of an attachment.
#[derive(Clone, Debug)]
pub struct Call {
    pub container_id: String,
    /// `CNI_NETNS`; may be missing on DEL.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME` of this attachment.
    pub interface: String,
    /// `CNI_ARGS` as it came.
    pub args: String,
    /// `CNI_PATH`.
    pub path: Vec<PathBuf>,
    /// How long a plugin that is a program may take.
    pub timeout: Duration,
}

/// [`Call::timeout`] unless the configuration's `delegateTimeout` says otherwise. Longer than any plugin
/// needs that will answer at all (dhcp's longest wait is a minute), shorter than kubelet's patience.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// What a plugin is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
    Check,
    Status,
    Gc,
}

impl Verb {
    /// `CNI_COMMAND`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
        }
    }

    /// Whether it is about one container; STATUS and GC are about a network.
    const fn is_of_container(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

/// Whether there is such a plugin at all.
///
/// # Errors
/// No program has the name that the configuration gives.
pub fn look_up(call: &Call, config: &serde_json::Value) -> Result<(), PluginError> {
    if builtin::is_builtin(config) {
        return Ok(());
    }
    let kind = config.get("type").and_then(serde_json::Value::as_str).unwrap_or_default();
    exec::find(kind, &call.path).map(drop)
}

/// The names of the interfaces in the container.
///
/// # Errors
/// Its namespace cannot be opened or read.
pub fn interfaces(call: &Call) -> Result<Vec<String>, PluginError> {
    let netlink = Netlink::open(&builtin::open_netns(call)?);
    let netlink = netlink.map_err(|it| PluginError::from_error(code::FAILED, &it))?;
    let links = netlink.links().map_err(|it| PluginError::from_error(code::FAILED, &it))?;
    Ok(links.into_iter().map(|it| it.name).collect())
}

/// Runs one plugin, built-in or not. `config` is complete but for `prevResult`.
///
/// # Errors
/// The plugin's own error. After a failed ADD of a built-in plugin nothing is left behind.
pub fn run(
    verb: Verb,
    call: &Call,
    config: &serde_json::Value,
    previous: Option<&result::CniResult>,
) -> Result<Option<result::CniResult>, PluginError> {
    if builtin::is_builtin(config) {
        match verb {
            Verb::Add => builtin::add(call, config).map(Some),
            Verb::Del => builtin::del(call, config).map(|()| None),
            Verb::Check => builtin::check(call, config, previous).map(|()| None),
            Verb::Status => builtin::status(config).map(|()| None),
            // Its addresses are in host-local's store, which `ipam::gc` goes through.
            Verb::Gc => Ok(None),
        }
    } else {
        exec::run(verb, call, config, previous)
    }
}
