//! Network namespaces: opening, telling apart, and running code inside one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What went wrong with a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("cannot open network namespace {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} is not a network namespace", path.display())]
    NotANamespace { path: PathBuf },
    #[error("cannot enter network namespace {}", path.display())]
    Enter { path: PathBuf, source: io::Error },
    #[error("cannot start a thread for network namespace {}", path.display())]
    Thread { path: PathBuf, source: io::Error },
}

/// Identity of a namespace while it exists: device and inode of its nsfs file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsId {
    pub device: u64,
    pub inode: u64,
}

/// An open network namespace. It stays alive as long as this is held.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
    path: PathBuf,
    id: NetnsId,
}

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;

impl Netns {
    /// Opens the namespace at `path` (`/run/netns/NAME`, `/proc/PID/ns/net`).
    ///
    /// # Errors
    /// The path does not exist or is not a namespace.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, NetnsError> {
        let path = path.into();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(source) => return Err(NetnsError::Open { path, source }),
        };
        let kind = nix::sys::statfs::fstatfs(&file).map(|it| it.filesystem_type().0);
        match kind {
            Ok(NSFS_MAGIC) => {}
            Ok(_) => return Err(NetnsError::NotANamespace { path }),
            Err(errno) => return Err(NetnsError::Open { path, source: errno.into() }),
        }
        let id = match file.metadata() {
            Ok(metadata) => NetnsId { device: metadata.dev(), inode: metadata.ino() },
            Err(source) => return Err(NetnsError::Open { path, source }),
        };
        Ok(Self { file: Arc::new(file), path, id })
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn current() -> Result<Self, NetnsError> {
        // Not /proc/self: that is always the main thread's.
        Self::open("/proc/thread-self/ns/net")
    }

    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// The path it was opened by, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `f` inside the namespace, on a thread of its own, so that the caller's thread (perhaps a
    /// worker of a runtime) never leaves its namespace. Sockets that `f` opens stay in it.
    ///
    /// # Errors
    /// No thread, or no permission to enter (`CAP_SYS_ADMIN`).
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let enter = || {
            self.enter()?;
            Ok(f())
        };
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, enter)
                .map_err(|source| NetnsError::Thread { path: self.path.clone(), source })?
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Netns {
    /// Runs `f` inside the namespace, on the calling thread, which is back in its own one afterwards. For
    /// what takes a moment and starts nothing: a thread costs more than a socket.
    ///
    /// # Errors
    /// No permission to enter (`CAP_SYS_ADMIN`), or `/proc` is not mounted.
    pub fn visit<T>(&self, f: impl FnOnce() -> T) -> Result<T, NetnsError> {
        let home = Home(Self::current()?);
        self.enter()?;
        let result = f();
        drop(home);
        Ok(result)
    }

    fn enter(&self) -> Result<(), NetnsError> {
        nix::sched::setns(self.file.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)
            .map_err(|errno| NetnsError::Enter { path: self.path.clone(), source: errno.into() })
    }
}

/// The way back from a visit, also on a panic.
struct Home(Netns);

impl Drop for Home {
    fn drop(&mut self) {
        if self.0.enter().is_err() {
            // Whatever this thread did next would happen to somebody else's network.
            std::process::abort();
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
