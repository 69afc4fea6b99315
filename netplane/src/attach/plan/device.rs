//! A delegate's device: how plugins get it, and the files that say more of it.

use super::Overrides;
use super::plugin::has;
use crate::devices::info_file::{self, InfoFiles};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// The capability by which plugins get a device that is not in their configuration.
const DEVICE_ID: &str = "deviceID";

/// A device that kubelet gave the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The NAD's resource name.
    pub resource: String,
    /// As the device plugin named it: a PCI address for SR-IOV.
    pub id: String,
}

/// Files of device information of one attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoFile {
    /// The device plugin's; absent if kubelet gave no device.
    pub from: Option<PathBuf>,
    /// The CNI plugins'.
    pub to: PathBuf,
}

/// The file of device information, if the attachment can have any: by its device, or by a plugin that writes
/// it (device-info-spec §5.1.1; Multus wants a device in any case).
pub(super) fn info_file(
    overrides: &Overrides,
    network: &str,
    interface: &str,
    plugins: &[Map<String, Value>],
) -> Option<InfoFile> {
    let InfoFiles { dir, container_id } = overrides.info_files.as_ref()?;
    let asked = overrides.device.is_some() || overrides.runtime.contains_key(DEVICE_ID);
    let wanted = asked || plugins.iter().any(|it| has(it, info_file::CAPABILITY));
    wanted.then(|| InfoFile {
        from: overrides.device.as_ref().map(|it| info_file::of_device(dir, &it.resource, &it.id)),
        to: info_file::of_attachment(dir, network, container_id, interface),
    })
}

/// Puts the device and its file among what is passed by capability.
pub(super) fn pass(overrides: &mut Overrides, info_file: Option<&InfoFile>, network: &str) {
    if let Some(device) = &overrides.device {
        // As with Multus, and rightly: what kubelet did not give the pod may be another pod's.
        if let Some(asked) = overrides.runtime.remove(DEVICE_ID) {
            tracing::warn!(network, %asked, given = device.id, "the pod's deviceID is not the device it gets");
        }
        overrides.passed.insert(DEVICE_ID.to_owned(), json!(device.id));
    }
    if let Some(file) = info_file {
        overrides.passed.insert(info_file::CAPABILITY.to_owned(), json!(file.to));
    }
}
