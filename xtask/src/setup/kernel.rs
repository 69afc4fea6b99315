//! Kernels for guests: Debian's, fetched and unpacked into the cache. None is installed.

use super::{debian, lock, remove, say};
use crate::vm::{Kernel, SERIES, Series, kernels, numbers};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use xtask::process::{read, shown};
use xtask::toolchain::on_path;

/// What a guest of namespaces and veth pairs never has: sound, and drivers of devices but those of networks
/// without hardware, virtio, and the character devices beside them. It leaves a tenth.
const LEFT_OUT: [&str; 6] = [
    "*/System.map-*",
    "*/usr/share",
    "*/kernel/sound",
    "*/kernel/drivers/[abd-mo-uw-z]*",
    "*/kernel/drivers/net/ethernet",
    "*/kernel/drivers/net/wireless",
];

/// # Errors
/// A kernel is missing and cannot be fetched.
pub(super) fn provide() -> Result<()> {
    for series in SERIES {
        if let Ok(kernel) = series.find() {
            say(&format!("kernel {} for guests: {}", series.0, kernel.release));
        } else if on_path("apt-get").is_none() || std::env::consts::ARCH != "x86_64" {
            say(&format!(
                "kernel {} for guests: only on Debian, amd64; `cargo xtask test` will miss it",
                series.0
            ));
        } else {
            let kernel = fetch(series)?;
            say(&format!("kernel {} for guests: {}", series.0, kernel.release));
        }
    }
    Ok(())
}

fn fetch(series: Series) -> Result<Kernel> {
    let folder = kernels()?;
    let _lock = lock(&folder)?;
    // Another set-up may have been quicker.
    if let Ok(kernel) = series.find() {
        return Ok(kernel);
    }
    let release = match newest(series)? {
        Some(release) => release,
        None => {
            debian::update()?;
            newest(series)?.with_context(|| {
                format!(
                    "this system's package archives have no kernel {}\nremedy: enable the archives `main` of \
                     Debian 12 (bookworm), with the security suite, then apt-get update",
                    series.0
                )
            })?
        }
    };
    // The name, when it is complete.
    let (partial, place) = (folder.join("partial"), folder.join(&release));
    remove(&partial)?;
    let archives = partial.join("debs");
    fs::create_dir_all(&archives).with_context(|| format!("make folder {}", archives.display()))?;
    say(&format!("downloads kernel {release} (about 100 MB) into {}", place.display()));
    let package = [format!("linux-image-{release}")];
    // An index of yesterday names files that the archive no longer has.
    if debian::download(&package, &archives).is_err() {
        debian::update()?;
        debian::download(&package, &archives)?;
    }
    let entries = fs::read_dir(&archives).with_context(|| format!("read {}", archives.display()))?;
    for entry in entries {
        unpack(&entry.with_context(|| format!("read {}", archives.display()))?.path(), &partial)?;
    }
    remove(&archives)?;
    // Debian 13 has it below /usr, where depmod and modprobe do not look in another root.
    let merged = partial.join("usr/lib");
    if merged.is_dir() {
        fs::rename(&merged, partial.join("lib")).context("move usr/lib/modules to lib/modules")?;
    }
    read(Command::new("depmod").arg("--basedir").arg(&partial).arg(&release))?;
    fs::rename(&partial, &place).with_context(|| format!("move {} into place", place.display()))?;
    series.find()
}

/// The newest release of a series that can be fetched.
fn newest(series: Series) -> Result<Option<String>> {
    let packages = debian::names(&format!("linux-image-{}.", series.0))?;
    let mut releases: Vec<_> = packages.iter().filter_map(|it| series.release_of(it)).collect();
    releases.sort_by_key(|it| std::cmp::Reverse(numbers(it)));
    let known = releases.into_iter().find(|it| debian::is_known(&format!("linux-image-{it}")));
    Ok(known.map(str::to_owned))
}

/// Unpacks what a guest may need of an archive.
fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    let mut reader = Command::new("dpkg-deb");
    reader.arg("--fsys-tarfile").arg(archive).stdout(Stdio::piped());
    let mut child = reader.spawn().with_context(|| format!("start `{}`", shown(&reader)))?;
    let tar = child.stdout.take().context("stdout is piped")?;
    let mut writer = Command::new("tar");
    writer.arg("-x").args(LEFT_OUT.map(|it| format!("--exclude={it}"))).arg("-C").arg(folder).stdin(tar);
    let status = writer.status().with_context(|| format!("start `{}`", shown(&writer)))?;
    ensure!(status.success(), "`{}` failed ({status})", shown(&writer));
    let status = child.wait().with_context(|| format!("wait for `{}`", shown(&reader)))?;
    ensure!(status.success(), "`{}` failed ({status})", shown(&reader));
    Ok(())
}
