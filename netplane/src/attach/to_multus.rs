//! The way back to Multus: on a node where Multus has been, its file of delegates is written beside the
//! record, so that Multus's DEL knows what to take down. Never read here.

use super::multus;
use super::record::{Attachment, AttachmentRecord};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Writes Multus's file for a container, where Multus has left its folder of results. What fails is told in
/// the log: nothing here needs it.
pub(super) fn leave(cni_dir: &Path, record: &AttachmentRecord) {
    let dirs = multus::dirs(cni_dir);
    let Some(dir) = dirs.iter().find(|it| it.join("results").is_dir()) else { return };
    let (path, temporary) = files(dir, &record.container_id);
    // Multus takes the first for the default network, under the runtime's name unless it has one of its own.
    let delegates: Vec<_> = record.attachments.iter().map(delegate).collect();
    let text = Value::Array(delegates).to_string();
    let written = write(&temporary, text.as_bytes()).and_then(|()| fs::rename(&temporary, &path));
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        tracing::warn!(%error, path = %path.display(), "Multus would not know of this pod");
    }
}

/// Removes it, before the record goes.
pub(super) fn forget(cni_dir: &Path, container_id: &str) {
    for dir in multus::dirs(cni_dir) {
        let (path, temporary) = files(&dir, container_id);
        for path in [path, temporary] {
            match fs::remove_file(&path) {
                Err(error) if fs::symlink_metadata(&path).is_ok() => {
                    tracing::warn!(%error, path = %path.display(), "Multus's file stays");
                }
                _ => {}
            }
        }
    }
}

/// The file, and what it is called until it is complete.
fn files(dir: &Path, container_id: &str) -> (PathBuf, PathBuf) {
    (dir.join(container_id), dir.join(format!("{container_id}@multus.tmp")))
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    // For root only: configurations of plugins may hold secrets.
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file?.write_all(text)
}

/// One element, with the names of Multus's fields. `Bytes` is what its DEL calls the plugins with.
fn delegate(attachment: &Attachment) -> Value {
    let first = attachment.plugins.first().cloned().unwrap_or_default();
    let (name, version) = (&first["name"], &first["cniVersion"]);
    let list = json!({ "cniVersion": version, "name": name, "plugins": attachment.plugins });
    let is_list = attachment.plugins.len() > 1;
    let config = if is_list { &list } else { &first };
    let none = json!({ "cniVersion": "", "name": "", "plugins": null });
    json!({
        "Conf": { "cniVersion": version, "name": name, "type": if is_list { &none["name"] } else { &first["type"] } },
        "ConfList": if is_list { &list } else { &none },
        "Name": attachment.network.as_ref().map(ToString::to_string).unwrap_or_default(),
        "ifnameRequest": attachment.interface,
        "IsFilterV4Gateway": false,
        "IsFilterV6Gateway": false,
        "Bytes": STANDARD.encode(config.to_string()),
    })
}
