//! One agent on a socket: a lock that the kernel gives back when its holder dies.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another netplane agent is running (it holds {})", path.display())]
    Held { path: PathBuf },
    #[error("cannot lock {}", path.display())]
    File { path: PathBuf, source: io::Error },
}

/// The lock, held until dropped.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl Lock {
    /// Takes the lock beside `socket`.
    pub(super) fn take(socket: &Path) -> Result<Self, LockError> {
        let path = socket.with_extension("lock");
        let failed = |source| LockError::File { path: path.clone(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self(lock)),
            Err((_, nix::Error::EWOULDBLOCK)) => Err(LockError::Held { path }),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}
