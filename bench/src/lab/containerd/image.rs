//! The image of the sandboxes' pause container: busybox in an archive that containerd imports, made here
//! because nothing can be pulled.

use crate::lab::command::{BUSYBOX, Tool};
use anyhow::{Context, Result};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The name by which containerd's configuration refers to it.
pub(super) const NAME: &str = "netplane.test/pause:1";

const TAR: Tool = Tool { program: "tar", package: "tar" };
const SHA256SUM: Tool = Tool { program: "sha256sum", package: "coreutils" };

/// Makes the image in `folder` in the form of `docker save`, and returns the archive's path.
///
/// # Errors
/// busybox is not installed, or the folder cannot be written.
pub(super) fn make(folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder.join("layer"))?;
    let busybox = BUSYBOX.path().ok_or_else(|| BUSYBOX.explain(std::io::ErrorKind::NotFound.into()))?;
    std::fs::copy(&busybox, folder.join("layer/busybox"))
        .with_context(|| format!("copy {}", busybox.display()))?;
    let folder_name = folder.to_str().context("a path in UTF-8")?;
    let layer = format!("{folder_name}/layer.tar");
    TAR.run(["-C", &format!("{folder_name}/layer"), "-cf", &layer, "busybox"])?;
    let sum = SHA256SUM.run([&layer])?;
    let digest = sum.split_whitespace().next().context("a checksum")?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": ["/busybox", "sleep", "86400"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let manifest = json!([{ "Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"] }]);
    std::fs::write(folder.join("manifest.json"), manifest.to_string())?;
    let archive = folder.join("pause.tar");
    let archive_name = archive.to_str().context("a path in UTF-8")?;
    TAR.run(["-C", folder_name, "-cf", archive_name, "manifest.json", "config.json", "layer.tar"])?;
    Ok(archive)
}
