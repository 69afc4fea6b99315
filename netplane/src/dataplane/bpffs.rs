//! The folder of pins on a BPF file system. What is here outlives the agent: programs go on
//! forwarding, and the next agent takes over from exactly this.
//!
//! ```text
//! BPFFS/v3/maps/UPLINK …      one file a map
//! BPFFS/v3/links/4            one file a master, by interface index (bpffs refuses dots in names)
//! ```

use super::KernelError;
use netplane_common::map::LAYOUT_VERSION;
use nix::mount::{MsFlags, mount};
use std::io;
use std::path::{Path, PathBuf};

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Where the kernel's BPF file system is mounted everywhere.
const DEFAULT_MOUNT: &str = "/sys/fs/bpf";

/// The pins of this layout version.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Makes the folders, and mounts a BPF file system if there is none.
    pub(super) fn open(root: &Path) -> Result<Self, KernelError> {
        let failed = |source: io::Error| KernelError {
            operation: format!("prepare {} on a BPF file system", root.display()),
            remedy: Some(
                "run as root (CAP_SYS_ADMIN mounts, CAP_BPF pins), with CONFIG_BPF_SYSCALL".to_owned(),
            ),
            source: Box::new(source),
        };
        mount_if_missing(root).map_err(failed)?;
        let this = Self { root: root.to_owned() };
        this.refuse_newer_layouts()?;
        for folder in [this.maps(), this.links()] {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        Ok(this)
    }

    fn version(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT_VERSION}"))
    }

    fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(super) fn link(&self, ifindex: u32) -> PathBuf {
        self.links().join(ifindex.to_string())
    }

    /// Interface indices that have a pinned link.
    pub(super) fn linked(&self) -> Result<Vec<u32>, KernelError> {
        let failed = |source: io::Error| KernelError {
            operation: format!("list {}", self.links().display()),
            remedy: None,
            source: Box::new(source),
        };
        let mut indices = Vec::new();
        for entry in std::fs::read_dir(self.links()).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            indices.extend(name.to_str().and_then(|it| it.parse::<u32>().ok()));
        }
        indices.sort_unstable();
        Ok(indices)
    }

    /// Removes all pins of this layout. Links that nobody else holds are detached by that.
    pub(super) fn remove(&self) -> Result<(), KernelError> {
        match std::fs::remove_dir_all(self.version()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(KernelError {
                operation: format!("remove the pins under {}", self.version().display()),
                remedy: None,
                source: Box::new(error),
            }),
            _ => Ok(()),
        }
    }

    /// A newer netplane's pins forward with rules that this one cannot read.
    fn refuse_newer_layouts(&self) -> Result<(), KernelError> {
        let Ok(entries) = std::fs::read_dir(&self.root) else {
            return Ok(());
        };
        let newer = entries
            .flatten()
            .filter_map(|it| it.file_name().to_str()?.strip_prefix('v')?.parse::<u32>().ok())
            .find(|version| *version > LAYOUT_VERSION);
        match newer {
            None => Ok(()),
            Some(version) => Err(KernelError {
                operation: format!("take over the pins under {}", self.root.display()),
                remedy: Some(
                    "start the newer netplane, or stop it with `netplane agent --detach`".to_owned(),
                ),
                source: format!("they have layout {version}, this netplane knows up to {LAYOUT_VERSION}")
                    .into(),
            }),
        }
    }
}

fn is_bpffs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|it| it.filesystem_type().0 == BPF_FS_MAGIC)
}

/// Mounts where everybody expects it for a folder under `/sys/fs/bpf`, else on the folder itself.
fn mount_if_missing(root: &Path) -> io::Result<()> {
    let existing = root.ancestors().find(|it| it.exists()).unwrap_or(Path::new("/"));
    if is_bpffs(existing) {
        return Ok(());
    }
    let target = if root.starts_with(DEFAULT_MOUNT) { Path::new(DEFAULT_MOUNT) } else { root };
    std::fs::create_dir_all(target)?;
    let nothing: Option<&str> = None;
    mount(Some("bpffs"), target, Some("bpf"), MsFlags::empty(), nothing)?;
    tracing::info!(path = %target.display(), "mounted a BPF file system");
    Ok(())
}
