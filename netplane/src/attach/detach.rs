//! Taking down, and checking: from the record alone, without pod, NAD or API.

use super::AttachError;
use super::device_info;
use super::multus::MultusCaches;
use super::perform::Container;
use super::plan::Delegate;
use super::record::{Attachment, AttachmentRecord};
use super::store::RecordStore;
use super::to_multus;
use crate::plugins::result::CniResult;
use crate::plugins::version::Version;
use crate::plugins::{self, Call, PluginError, Verb};
use serde_json::Value;

/// DEL: every attachment in reverse order. Goes on after errors, and keeps the record until all is down,
/// so that a second DEL does what the first one could not.
///
/// # Errors
/// What could not be taken down.
pub fn detach(
    container: &Container,
    record: &AttachmentRecord,
    records: &RecordStore,
) -> Result<(), AttachError> {
    take_down(container, record)?;
    to_multus::forget(records.folder(), &record.container_id);
    records.remove(&record.container_id, &record.interface)
}

/// The same, wherever it is known from.
pub(super) fn take_down(container: &Container, record: &AttachmentRecord) -> Result<(), AttachError> {
    let mut errors = Vec::new();
    // Those with further plugins in a list go in their place: the later plugins' DELs come first.
    let alone = record.attachments.iter().filter_map(|it| match it.plugins.as_slice() {
        [plugin] => Some((it.interface.as_str(), plugin)),
        _ => None,
    });
    if let Err(error) = plugins::builtin::remove_devices(&container.call, &alone.collect::<Vec<_>>()) {
        // Each attachment's own DEL tries again, and says whose it is.
        tracing::warn!(%error, "cannot remove the devices together");
    }
    for attachment in record.attachments.iter().rev() {
        let call = container.call_for(&attachment.interface);
        let failed = run_plugins(&call, &attachment.plugins, attachment.result.as_ref());
        if failed.is_empty() {
            device_info::forget(attachment.device_info_file.as_deref());
        }
        let named = |error| AttachError::Delegate { network: attachment.label.clone(), error };
        errors.extend(failed.into_iter().map(named));
    }
    if errors.is_empty() { Ok(()) } else { Err(AttachError::of_all(errors)) }
}

/// The record in place of one that is damaged, which is set aside: what the same request makes now is the best guess at
/// what it made, and a file for Multus beside it knows better.
///
/// # Errors
/// The file for Multus cannot be read.
pub fn made_up(
    container: &Container,
    guessed: &[Delegate],
    records: &RecordStore,
) -> Result<AttachmentRecord, AttachError> {
    let mut record = container.record(guessed);
    if let Some(mut left) = MultusCaches::new(records.folder()).find(container)? {
        left.extend(&record);
        record = AttachmentRecord { complete: false, ..left.record };
    }
    records.set_aside(&record.container_id, &record.interface);
    // What cannot be taken down now is to be known the next time.
    if let Err(error) = records.save(&record, false) {
        tracing::warn!(%error, "another DEL will not know of this one's errors");
    }
    Ok(record)
}

/// As [`detach`], but what never came up is tried and then forgotten. Its plugin refused to add it, perhaps for
/// a configuration that it refuses to delete with as well: the pod could not be removed for ever.
///
/// # Errors
/// What could not be taken down of that which had come up.
pub fn detach_or_forget(
    container: &Container,
    record: &AttachmentRecord,
    records: &RecordStore,
) -> Result<(), AttachError> {
    let (up, begun): (Vec<_>, Vec<_>) =
        record.attachments.iter().cloned().partition(|it| it.result.is_some());
    for attachment in begun.iter().rev() {
        let call = container.call_for(&attachment.interface);
        for error in run_plugins(&call, &attachment.plugins, None) {
            tracing::warn!(%error, network = attachment.label, "never came up, and is forgotten");
        }
        device_info::forget(attachment.device_info_file.as_deref());
    }
    detach(container, &AttachmentRecord { attachments: up, ..record.clone() }, records)
}

/// DEL of a delegate's plugins in reverse order. All are called; what failed is returned.
pub(super) fn run_plugins(call: &Call, plugins: &[Value], result: Option<&CniResult>) -> Vec<PluginError> {
    let mut errors = Vec::new();
    for plugin in plugins.iter().rev() {
        if let Err(error) = plugins::run(Verb::Del, call, plugin, result) {
            tracing::warn!(%error, interface = call.interface, "DEL");
            errors.push(error);
        }
    }
    errors
}

/// CHECK: each delegate with its result.
///
/// # Errors
/// The first thing that is not as it was.
pub fn check(container: &Container, record: &AttachmentRecord) -> Result<(), AttachError> {
    for attachment in &record.attachments {
        check_one(container, attachment)
            .map_err(|error| AttachError::Delegate { network: attachment.label.clone(), error })?;
    }
    Ok(())
}

fn check_one(container: &Container, attachment: &Attachment) -> Result<(), PluginError> {
    let call = container.call_for(&attachment.interface);
    for plugin in &attachment.plugins {
        // A program that is called in an older version refuses a command that came later.
        if attachment.disable_check || !Version::of_config(plugin).has_check() {
            continue;
        }
        plugins::run(Verb::Check, &call, plugin, attachment.result.as_ref())?;
    }
    Ok(())
}
