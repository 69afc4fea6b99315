//! Waiting for the disk when the answer is out: what a call has written and removed is synced by a child that
//! nobody waits for.

use libc::{c_int, c_void};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::fsync;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
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
    ///
    /// The child has this process's memory and not a copy of it: nothing is copied for it, and the process ends
    /// without waiting for its memory to be given back, which is the child's to do.
    pub(super) fn settle(&self) {
        let paths = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if paths.is_empty() {
            return;
        }
        // Both outlive this process: nobody frees them.
        let paths = Box::leak(Box::new(paths));
        let end_of_stack = vec![0_u128; STACK].leak().as_mut_ptr_range().end;
        let flags = libc::CLONE_VM | libc::SIGCHLD;
        // SAFETY: stack and paths are the child's alone. It makes system calls and touches nothing else of this
        // process's, least of all the allocator. (nix's `clone` lends the child a part of its caller's stack.)
        let child = unsafe { libc::clone(child, end_of_stack.cast(), flags, ptr::from_mut(paths).cast()) };
        if let Err(error) = Errno::result(child) {
            tracing::debug!(%error, "no child to wait for the disk");
            sync(paths);
        }
    }
}

/// The child, which ends when this returns.
extern "C" fn child(paths: *mut c_void) -> c_int {
    // SAFETY: the paths that `settle` has leaked.
    sync(unsafe { &*paths.cast::<BTreeSet<CString>>() });
    0
}

/// Of the child, in words of 16 bytes, which is how it has to be aligned. So much that the allocator maps it, and
/// only what is touched takes memory.
const STACK: usize = (256 << 10) / 16;

/// From the last to the first: files before their folders. What is gone again needs nothing.
fn sync(paths: &BTreeSet<CString>) {
    for path in paths.iter().rev() {
        if let Ok(file) = open(path.as_c_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            let _ = fsync(&file);
        }
    }
}
