//! Device information around a delegate's calls: offered before ADD, collected after it, gone after DEL. None
//! of it is worth a pod's network: what goes wrong is in the log, as with Multus.

use super::plan::{Delegate, Warning};
use crate::devices::info_file;
use crate::nad::device_info::DeviceInfo;
use crate::plugins::PluginError;
use std::path::Path;

/// Gives the plugins what the device plugin says of the device.
pub(super) fn offer(delegate: &Delegate) {
    let Some(file) = &delegate.info_file else { return };
    // A container of the same name may have left one.
    forget(Some(&file.to));
    let copied = file.from.as_ref().map(|from| info_file::copy(from, &file.to));
    match copied.transpose() {
        Ok(None | Some(true)) => {}
        Ok(Some(false)) => tracing::debug!(network = delegate.label, "the device plugin says nothing"),
        Err(error) => tracing::warn!(%error, network = delegate.label, "passed over"),
    }
}

/// What the device plugin or the CNI plugins say of the device.
pub(super) fn collect(delegate: &Delegate) -> Option<DeviceInfo> {
    let file = delegate.info_file.as_ref()?;
    let loaded = info_file::load(&file.to);
    loaded.inspect_err(|error| tracing::warn!(%error, network = delegate.label, "passed over")).ok().flatten()
}

/// Removes the plugins' file.
pub(super) fn forget(file: Option<&Path>) {
    if let Some(Err(error)) = file.map(info_file::remove) {
        tracing::warn!(%error, "left behind");
    }
}

/// Adds to a plugin's failure that it had no device: its own words for that are seldom clear.
pub(super) fn explain(delegate: &Delegate, mut error: PluginError) -> PluginError {
    for warning in delegate.warnings.iter().filter(|it| matches!(it, Warning::NoDevice { .. })) {
        let gap = if error.details.is_empty() { "" } else { "; " };
        error.details.push_str(&format!("{gap}{warning}"));
    }
    error
}
