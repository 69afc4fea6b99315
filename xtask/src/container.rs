//! `image`: the container image of the release binary, as an archive.

use anyhow::{Result, bail};
use std::ffi::OsString;
use std::path::PathBuf;
use xtask::process::run as execute;
use xtask::{image, root, target_dir};

pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let archive = match arguments {
        [] => target_dir().join("image").join(format!("netplane-{version}.tar")),
        [path] => std::env::current_dir()?.join(PathBuf::from(path)),
        _ => bail!("`cargo xtask image` takes one path at most: the archive's"),
    };
    if let Some(folder) = archive.parent() {
        std::fs::create_dir_all(folder)?;
    }
    eprintln!("image: the release binary of {}", root().display());
    execute(crate::cargo().args(["build", "--locked", "--release", "--package", "netplane"]))?;
    image::write(&target_dir().join("release/netplane"), version, &archive)?;
    eprintln!("image: {} is {}:{version}", archive.display(), image::NAME);
    eprintln!("image: ctr --namespace k8s.io images import, docker load or podman load take it");
    Ok(())
}
