//! Files put into place: written beside their place, synced, renamed. Whoever reads the folder sees the old
//! file or the new one, whole, whatever happens to the writer. Several processes may write to one folder.

use super::InstallError;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long another writer may hold a folder. Copying the binary takes longest.
const PATIENCE: Duration = Duration::from_secs(30);

/// The lock of a folder, given back on drop, also by the kernel after `kill -9`.
pub(super) struct FolderLock(File);

/// Waits for the folder's lock.
pub(super) fn lock(folder: &Path) -> Result<FolderLock, InstallError> {
    let failed = InstallError::file("lock", folder);
    let file = File::open(folder).map_err(&failed)?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(FolderLock(file)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) if since.elapsed() > PATIENCE => {
                let problem = format!("another process has held its lock for {} s", PATIENCE.as_secs());
                return Err(failed(io::Error::other(problem)));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

impl FolderLock {
    /// Puts a file into place; `write` fills it.
    pub(super) fn place(
        &self,
        path: &Path,
        mode: u32,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), InstallError> {
        let temporary = temporary(path);
        let placed = fill(&temporary, mode, write).and_then(|()| fs::rename(&temporary, path));
        if placed.is_err() {
            // Best effort: the next writer removes it as well.
            let _ = fs::remove_file(&temporary);
        }
        placed.and_then(|()| self.0.sync_all()).map_err(InstallError::file("write", path))
    }

    /// Removes a file. One that is not there is no error.
    pub(super) fn remove(&self, path: &Path) -> Result<(), InstallError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.and_then(|()| self.0.sync_all()).map_err(InstallError::file("remove", path)),
        }
    }
}

/// Not an extension that runtimes load; one for each name, so that what `kill -9` leaves is found again.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.netplane-new"))
}

fn fill(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The umask has no say.
    file.set_permissions(Permissions::from_mode(mode))?;
    write(&mut file)?;
    file.sync_all()
}

/// Puts `content` into place where it is not there already. True: it was not.
pub(super) fn place_if_changed(path: &Path, mode: u32, content: &[u8]) -> Result<bool, InstallError> {
    if is_there(path, mode, content) && !is_unfinished(path) {
        return Ok(false);
    }
    let folder = lock(path.parent().unwrap_or(Path::new(".")))?;
    folder.place(path, mode, |file| file.write_all(content))?;
    Ok(true)
}

/// Whether a writer was killed here: the next one clears that up.
pub(super) fn is_unfinished(path: &Path) -> bool {
    temporary(path).exists()
}

fn is_there(path: &Path, mode: u32, content: &[u8]) -> bool {
    let same_mode = fs::metadata(path).is_ok_and(|it| it.permissions().mode() & 0o7777 == mode);
    same_mode && fs::read(path).is_ok_and(|it| it == content)
}

/// A folder that others may look into.
pub(super) fn make_folder(path: &Path) -> Result<(), InstallError> {
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(InstallError::file("make", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.conf");
        // As left by a writer that was killed.
        fs::write(temporary(&path), "half").expect("a file");
        assert!(place_if_changed(&path, 0o600, b"one").expect("placed"));
        assert!(!place_if_changed(&path, 0o600, b"one").expect("as it was"));
        assert!(place_if_changed(&path, 0o640, b"one").expect("another mode"));
        assert!(place_if_changed(&path, 0o640, b"two").expect("another content"));
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
    }

    #[test]
    fn what_cannot_be_filled_leaves_the_old_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.conf");
        fs::write(&path, "old").expect("a file");
        let lock = lock(folder.path()).expect("locked");
        let error = lock.place(&path, 0o600, |file| {
            file.write_all(b"ne")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert!(error.expect_err("full").to_string().contains("a.conf"));
        assert_eq!(fs::read(&path).expect("read"), b"old");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
    }
}
