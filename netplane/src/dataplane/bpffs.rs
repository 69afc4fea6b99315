//! The folder of pins on a BPF file system. What is here outlives the agent: programs go on
//! forwarding, and the next agent takes over from exactly this.
//!
//! ```text
//! BPFFS/v3/maps/UPLINK …      one file a map
//! BPFFS/v3/links/4            one file a master with XDP, by interface index (bpffs refuses dots in names)
//! BPFFS/v3/links/tc-4         the same for TC; `local-4` beside XDP, `wire-9` the offload wire
//! BPFFS/v3/filters/tc-4       a folder where there is no link but a filter on clsact
//! BPFFS/v3/offloads/4/rx-gro  a folder: this was on, and is off while netplane is attached
//! BPFFS/v3/tracing/xdp_exception …  one file a tracepoint
//! ```
//!
//! Folders of older layouts are an older agent's, see [`super::upgrade`].

use super::KernelError;
use netplane_common::map::LAYOUT_VERSION;
use nix::mount::{MsFlags, mount};
use std::io;
use std::path::{Path, PathBuf};

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Where the kernel's BPF file system is mounted everywhere.
const DEFAULT_MOUNT: &str = "/sys/fs/bpf";

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hook {
    Xdp,
    /// In place of XDP.
    Tc,
    /// Beside XDP.
    Local,
    /// At the far end of the offload wire.
    Wire,
}

impl Hook {
    pub(super) const TC: [Self; 3] = [Self::Tc, Self::Local, Self::Wire];

    fn prefix(self) -> &'static str {
        match self {
            Self::Xdp => "",
            Self::Tc => "tc-",
            Self::Local => "local-",
            Self::Wire => "wire-",
        }
    }

    fn file(self, ifindex: u32) -> String {
        format!("{}{ifindex}", self.prefix())
    }
}

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
        for folder in [this.maps(), this.links(), this.filters(), this.all_offloads(), this.all_tracing()] {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        Ok(this)
    }

    /// Whether the pins are where they were made. The agent's descriptors hold programs and maps without them, so
    /// a file system that is unmounted takes the fast path away only when the agent ends.
    pub(super) fn check(&self) -> Result<(), KernelError> {
        // A map that is in every layout, for somebody may have mounted an empty one.
        if is_bpffs(&self.root) && self.map("UPLINK").exists() {
            return Ok(());
        }
        Err(KernelError {
            operation: format!("pins in {}", self.version().display()),
            remedy: Some(
                "packets are forwarded as long as this agent runs; restart it, and it mounts and pins anew: pods \
                 have the packets until it is ready"
                    .to_owned(),
            ),
            source: "they are gone, or their BPF file system was unmounted".into(),
        })
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

    fn filters(&self) -> PathBuf {
        self.version().join("filters")
    }

    fn all_offloads(&self) -> PathBuf {
        self.version().join("offloads")
    }

    fn all_tracing(&self) -> PathBuf {
        self.version().join("tracing")
    }

    pub(super) fn tracing(&self, tracepoint: &str) -> PathBuf {
        self.all_tracing().join(tracepoint)
    }

    /// Detaches the program from a tracepoint, if there is one.
    pub(super) fn stop_tracing(&self, tracepoint: &str) -> Result<(), KernelError> {
        gone(&self.tracing(tracepoint), |it| std::fs::remove_file(it))
    }

    pub(super) fn link(&self, hook: Hook, ifindex: u32) -> PathBuf {
        self.links().join(hook.file(ifindex))
    }

    /// Interface indices that have a pinned link.
    pub(super) fn linked(&self, hook: Hook) -> Result<Vec<u32>, KernelError> {
        indices(&self.links(), hook)
    }

    /// Removes a link's pin, if there is one.
    pub(super) fn unlink(&self, hook: Hook, ifindex: u32) -> Result<(), KernelError> {
        gone(&self.link(hook, ifindex), |it| std::fs::remove_file(it))
    }

    /// Interface indices with a filter on clsact.
    pub(super) fn filters_on(&self, hook: Hook) -> Result<Vec<u32>, KernelError> {
        indices(&self.filters(), hook)
    }

    /// Remembers that a filter is there.
    pub(super) fn mark(&self, hook: Hook, ifindex: u32) -> Result<(), KernelError> {
        make(&self.filters().join(hook.file(ifindex)))
    }

    pub(super) fn unmark(&self, hook: Hook, ifindex: u32) -> Result<(), KernelError> {
        gone(&self.filters().join(hook.file(ifindex)), |it| std::fs::remove_dir(it))
    }

    /// Masters on which a program forwards, by whatever hook.
    pub(super) fn masters(&self) -> Result<Vec<u32>, KernelError> {
        let mut masters =
            [self.linked(Hook::Xdp)?, self.linked(Hook::Tc)?, self.filters_on(Hook::Tc)?].concat();
        masters.sort_unstable();
        masters.dedup();
        Ok(masters)
    }

    /// Remembers that a switch of a device was on.
    pub(super) fn remember_offload(&self, ifindex: u32, feature: &str) -> Result<(), KernelError> {
        make(&self.all_offloads().join(ifindex.to_string()).join(feature))
    }

    /// Switches of a device that were on.
    pub(super) fn offloads(&self, ifindex: u32) -> Result<Vec<String>, KernelError> {
        names(&self.all_offloads().join(ifindex.to_string()))
    }

    /// Devices of which any are remembered.
    pub(super) fn with_offloads(&self) -> Result<Vec<u32>, KernelError> {
        indices(&self.all_offloads(), Hook::Xdp)
    }

    pub(super) fn forget_offload(&self, ifindex: u32, feature: &str) -> Result<(), KernelError> {
        let device = self.all_offloads().join(ifindex.to_string());
        gone(&device.join(feature), |it| std::fs::remove_dir(it))?;
        // With its last one the device is forgotten; before that it is not empty.
        let _last = std::fs::remove_dir(device);
        Ok(())
    }

    /// Removes all pins, of older layouts too. Links that nobody else holds are detached by that.
    pub(super) fn remove(&self) -> Result<(), KernelError> {
        self.older().iter().try_for_each(Older::remove)?;
        gone(&self.version(), |it| std::fs::remove_dir_all(it))
    }

    /// The pins of older layouts, the newest of them first.
    pub(super) fn older(&self) -> Vec<Older> {
        let older = |version| Older { version, root: self.root.join(format!("v{version}")) };
        let mut all: Vec<_> =
            versions(&self.root).into_iter().filter(|it| *it < LAYOUT_VERSION).map(older).collect();
        all.sort_by_key(|it| std::cmp::Reverse(it.version));
        all
    }

    /// Forgets a map. A program that has it keeps it.
    pub(super) fn forget_map(&self, name: &str) -> Result<(), KernelError> {
        gone(&self.map(name), |it| std::fs::remove_file(it))
    }

    /// A newer netplane's pins forward with rules that this one cannot read.
    fn refuse_newer_layouts(&self) -> Result<(), KernelError> {
        let newer = versions(&self.root).into_iter().find(|version| *version > LAYOUT_VERSION);
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

/// The pins of one older layout. Until layout 2 there were links of XDP only.
#[derive(Clone, Debug)]
pub(super) struct Older {
    pub(super) version: u32,
    root: PathBuf,
}

impl Older {
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    pub(super) fn link(&self, ifindex: u32) -> PathBuf {
        self.root.join("links").join(Hook::Xdp.file(ifindex))
    }

    /// Interface indices that have a pinned link.
    pub(super) fn linked(&self) -> Result<Vec<u32>, KernelError> {
        indices(&self.root.join("links"), Hook::Xdp)
    }

    pub(super) fn unlink(&self, ifindex: u32) -> Result<(), KernelError> {
        gone(&self.link(ifindex), |it| std::fs::remove_file(it))
    }

    /// Links first, so that whoever finds the rest finds nothing that forwards.
    pub(super) fn remove(&self) -> Result<(), KernelError> {
        gone(&self.root.join("links"), |it| std::fs::remove_dir_all(it))?;
        gone(&self.root, |it| std::fs::remove_dir_all(it))
    }
}

/// Layout versions that have a folder.
fn versions(root: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    entries.filter_map(|it| it.file_name().to_str()?.strip_prefix('v')?.parse().ok()).collect()
}

/// Names in a folder, sorted; none if it is not there.
fn names(folder: &Path) -> Result<Vec<String>, KernelError> {
    let failed = |source: io::Error| KernelError {
        operation: format!("list {}", folder.display()),
        remedy: None,
        source: Box::new(source),
    };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

fn indices(folder: &Path, hook: Hook) -> Result<Vec<u32>, KernelError> {
    let index = |it: String| it.strip_prefix(hook.prefix())?.parse().ok();
    Ok(names(folder)?.into_iter().filter_map(index).collect())
}

fn make(folder: &Path) -> Result<(), KernelError> {
    std::fs::create_dir_all(folder).map_err(|source| KernelError {
        operation: format!("make {}", folder.display()),
        remedy: None,
        source: Box::new(source),
    })
}

/// Removes a pin that may not be there.
fn gone(path: &Path, remove: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), KernelError> {
    match remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(KernelError {
            operation: format!("remove the pin {}", path.display()),
            remedy: None,
            source: Box::new(error),
        }),
        _ => Ok(()),
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
