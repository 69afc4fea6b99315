//! Plans and carries out attachments: selections, names, delegates, record, rollback.

pub mod conf_dir;
mod default_route;
pub mod detach;
mod device_info;
pub mod gc;
pub mod multus;
pub mod perform;
pub mod places;
pub mod plan;
pub mod record;
mod settle;
pub mod status;
pub mod store;
mod to_multus;

use crate::devices::DeviceError;
use crate::nad::dir::NadDirError;
use crate::nad::selection::SelectionError;
use crate::plugins::PluginError;
use std::path::PathBuf;

/// Why an attachment was not made, or not taken down.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Nads(#[from] NadDirError),
    #[error(transparent)]
    Selection(#[from] SelectionError),
    #[error("network {network}: no such NAD in {places}")]
    NoNad { network: String, places: String },
    #[error(
        "network {network}: pods of namespace {pod} may not use it: namespaceIsolation is set and its \
         namespace is not in globalNamespaces"
    )]
    Isolated { network: String, pod: String },
    #[error("network \"{network}\": neither a NAD, nor a name in {}, nor a file or directory", conf_dir.display())]
    NoClusterNetwork { network: String, conf_dir: PathBuf },
    #[error("network {network}: {key}: {problem}")]
    Config { network: String, key: &'static str, problem: String },
    #[error("network {network}: interface {interface} is asked for twice")]
    NameTwice { network: String, interface: String },
    #[error("network {network}: default-route is asked for on network {other}, too; only one can have it")]
    DefaultRoutes { network: String, other: String },
    #[error("{0} (strictSelections)")]
    Strict(plan::Warning),
    #[error("container {container_id} is attached already as {interface}; DEL comes first")]
    Twice { container_id: String, interface: String },
    #[error("network {network}: interface {interface} is already in the container")]
    Taken { network: String, interface: String },
    #[error("{0}")]
    Container(PluginError),
    #[error("network {network}: {error}")]
    Delegate { network: String, error: PluginError },
    #[error("network {network}: resource {resource}: {error}")]
    Device { network: String, resource: String, error: DeviceError },
    #[error("cannot {operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    /// Something is at work on the same container and interface.
    #[error("{0}")]
    Busy(crate::plugins::lock::LockError),
    #[error("network {network}: default route: {error}")]
    DefaultRoute { network: String, error: PluginError },
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<AttachError>),
}

impl AttachError {
    /// One error out of what went wrong one after the other.
    pub fn of_all(mut errors: Vec<Self>) -> Self {
        match errors.pop() {
            Some(only) if errors.is_empty() => only,
            last => {
                errors.extend(last);
                Self::Several(errors)
            }
        }
    }
}
