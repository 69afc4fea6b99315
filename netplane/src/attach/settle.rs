//! Waiting for the disk when the answer is out: what a call has written and removed is synced by a child that
//! nobody waits for.

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, fork, fsync};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Files and folders whose state the disk does not have yet. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsettled(Arc<Mutex<BTreeSet<CString>>>);

impl Unsettled {
    /// A folder, and a file in it.
    pub(super) fn add(&self, folder: &Path, file: Option<&Path>) {
        let mut paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let paths_of = [Some(folder), file].into_iter().flatten();
        // A path with a zero byte would not have been written.
        paths.extend(paths_of.filter_map(|it| CString::new(it.as_os_str().as_bytes()).ok()));
    }

    /// Starts the child, and returns at once. Without one (there are too many processes) the disk is waited for
    /// here.
    pub(super) fn settle(&self) {
        let paths = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if paths.is_empty() {
            return;
        }
        // SAFETY: the child makes system calls on strings that are there already, and ends by `_exit`.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { .. }) => {}
            Ok(ForkResult::Child) => {
                sync(&paths);
                // SAFETY: ends this process; destructors and buffers are the parent's to run and write.
                unsafe { libc::_exit(0) }
            }
            Err(error) => {
                tracing::debug!(%error, "no child to wait for the disk");
                sync(&paths);
            }
        }
    }
}

/// From the last to the first: files before their folders. What is gone again needs nothing.
fn sync(paths: &BTreeSet<CString>) {
    for path in paths.iter().rev() {
        if let Ok(file) = open(path.as_c_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            let _ = fsync(&file);
        }
    }
}
