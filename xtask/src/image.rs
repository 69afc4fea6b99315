//! The container image, made without a container engine: one layer with one static program and its licences, in
//! an archive that is an OCI image layout (image-spec 1.1) and what `docker load` reads, both.

use crate::process::read;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The image's name in the manifests of `deploy/`, as CRI completes it, without the tag.
pub const NAME: &str = "docker.io/library/netplane";

/// `PT_INTERP` of elf.h: a program with such a header needs a dynamic linker.
const PT_INTERP: u32 = 3;

/// Writes the image of `binary` as `NAME:version` to `archive`. The same binary makes the same bytes.
///
/// # Errors
/// The binary needs a dynamic linker; `tar`, `strip` or `sha256sum` is missing; a file cannot be written.
pub fn write(binary: &Path, version: &str, archive: &Path) -> Result<()> {
    let elf = fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
    ensure!(
        is_static(&elf).with_context(|| format!("{} is no ELF file", binary.display()))?,
        "{} needs a dynamic linker, and the image has none: build it with -C target-feature=+crt-static",
        binary.display()
    );
    drop(elf);
    let stage = archive.with_extension("stage");
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("remove {}", stage.display()))?;
    }
    let image = stage.join("image");
    fs::create_dir_all(image.join("blobs/sha256"))
        .with_context(|| format!("make a folder in {}", stage.display()))?;
    let layer = layer(binary, &stage)?;
    let layer = blob(&image, &layer)?;
    let config = config(version, &layer)?;
    let config = blob(&image, &text_file(&stage, "config.json", &config)?)?;
    let manifest = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":{},\"layers\":[{}]}}",
        config.descriptor("application/vnd.oci.image.config.v1+json", ""),
        layer.descriptor("application/vnd.oci.image.layer.v1.tar", ""),
    );
    let manifest = blob(&image, &text_file(&stage, "manifest.json", &manifest)?)?;
    // containerd takes the whole name, others the tag.
    let names = format!(
        ",\"annotations\":{{\"io.containerd.image.name\":\"{NAME}:{version}\",\"org.opencontainers.image.ref.name\":\"{version}\"}}"
    );
    let index = format!(
        "{{\"schemaVersion\":2,\"manifests\":[{}]}}",
        manifest.descriptor("application/vnd.oci.image.manifest.v1+json", &names)
    );
    text_file(&image, "index.json", &index)?;
    text_file(&image, "oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}")?;
    let docker = format!(
        "[{{\"Config\":\"blobs/sha256/{}\",\"RepoTags\":[\"{NAME}:{version}\"],\"Layers\":[\"blobs/sha256/{}\"]}}]",
        config.digest, layer.digest
    );
    text_file(&image, "manifest.json", &docker)?;
    tar(&image, archive)?;
    fs::remove_dir_all(&stage).with_context(|| format!("remove {}", stage.display()))
}

/// The layer's files, as a tar archive.
fn layer(binary: &Path, stage: &Path) -> Result<PathBuf> {
    let root = stage.join("root");
    let failed = || format!("write to {}", root.display());
    for folder in ["run", "var", "tmp", "licenses"] {
        fs::create_dir_all(root.join(folder)).with_context(failed)?;
    }
    // Runtimes name pods' namespaces /var/run/netns/….
    std::os::unix::fs::symlink("../run", root.join("var/run")).with_context(failed)?;
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        fs::copy(crate::root().join(name), root.join("licenses").join(name)).with_context(failed)?;
    }
    let program = root.join("netplane");
    // Lines of the sources are of no use to whoever has not the sources; names of functions stay.
    read(Command::new("strip").arg("--strip-debug").arg("-o").arg(&program).arg(binary))
        .context("remedy: apt-get install binutils")?;
    set_mode(&program, 0o755)?;
    let layer = stage.join("layer.tar");
    tar(&root, &layer)?;
    Ok(layer)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}

fn config(version: &str, layer: &Blob) -> Result<String> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no image for {other}"),
    };
    let labels = format!(
        "\"org.opencontainers.image.title\":\"netplane\",\"org.opencontainers.image.version\":\"{version}\",\
         \"org.opencontainers.image.licenses\":\"MIT OR Apache-2.0\",\
         \"org.opencontainers.image.source\":\"{}\"",
        env!("CARGO_PKG_REPOSITORY")
    );
    Ok(format!(
        "{{\"architecture\":\"{architecture}\",\"os\":\"linux\",\
         \"config\":{{\"User\":\"0\",\"Entrypoint\":[\"/netplane\"],\"Labels\":{{{labels}}}}},\
         \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"sha256:{}\"]}}}}",
        layer.digest
    ))
}

/// A file among the image's blobs.
struct Blob {
    /// SHA-256 in hex.
    digest: String,
    /// In bytes.
    size: u64,
}

impl Blob {
    fn descriptor(&self, media_type: &str, more: &str) -> String {
        let (digest, size) = (&self.digest, self.size);
        format!("{{\"mediaType\":\"{media_type}\",\"digest\":\"sha256:{digest}\",\"size\":{size}{more}}}")
    }
}

fn blob(image: &Path, file: &Path) -> Result<Blob> {
    let said = read(Command::new("sha256sum").arg(file))?;
    let digest = said.split_whitespace().next().context("sha256sum printed nothing")?.to_owned();
    let size = fs::metadata(file).with_context(|| format!("look at {}", file.display()))?.len();
    let place = image.join("blobs/sha256").join(&digest);
    fs::rename(file, &place).with_context(|| format!("write {}", place.display()))?;
    Ok(Blob { digest, size })
}

fn text_file(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Neither the order of a folder nor the time or the user is in the archive.
fn tar(folder: &Path, archive: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]);
    command.args(["--mode=u+rwX,go+rX,go-w", "--format=ustar", "-C"]).arg(folder);
    command.arg("-cf").arg(archive).arg(".");
    read(&mut command).map(drop)
}

/// Whether no program header asks for a dynamic linker. Nothing: no 64-bit little-endian ELF file.
fn is_static(elf: &[u8]) -> Option<bool> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let field = elf.get(at..at + bytes)?;
        usize::try_from(field.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))).ok()
    };
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    // e_phoff, e_phentsize, e_phnum.
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let mut kinds = (0..count).map(|it| number(table + it * size, 4));
    Some(!kinds.any(|it| it == Some(PT_INTERP as usize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_dynamic_linker_is_told_from_one_without() {
        let mut elf = vec![0; 64 + 2 * 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (elf[32], elf[54], elf[56]) = (64, 56, 2);
        assert_eq!(is_static(&elf), Some(true));
        elf[64 + 56] = 3;
        assert_eq!(is_static(&elf), Some(false));
        assert_eq!(is_static(b"#!/bin/sh\n"), None);
    }
}
