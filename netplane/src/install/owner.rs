//! Which of several installs on one node is in charge: the one that started last and still lives. Pods of a
//! DaemonSet overlap while it is updated; the old one must neither write over what the new one wrote nor
//! clean it up.

use super::InstallError;
use super::place::{FolderLock, lock};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file whose lock the one in charge holds.
const NAME: &str = "netplane-install.lock";

/// A claim. The file's lock is let go by the kernel when the process ends, in whatever way.
pub(super) struct Owner {
    folder: PathBuf,
    file: File,
}

impl Owner {
    /// Takes charge, from whoever has it.
    pub(super) fn claim(folder: PathBuf) -> Result<Self, InstallError> {
        let guard = lock(&folder)?;
        let file = put(&folder)?;
        drop(guard);
        Ok(Self { folder, file })
    }

    /// Whether this process is in charge. It is again when the one that took over is gone.
    pub(super) fn is_in_charge(&mut self) -> Result<bool, InstallError> {
        if self.is_mine()? {
            return Ok(true);
        }
        let _guard = lock(&self.folder)?;
        let path = self.folder.join(NAME);
        match File::open(&path) {
            Ok(theirs) if theirs.try_lock().is_err() => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(InstallError::file("open", &path)(error)),
        }
        self.file = put(&self.folder)?;
        Ok(true)
    }

    fn is_mine(&self) -> Result<bool, InstallError> {
        let path = self.folder.join(NAME);
        let mine = self.file.metadata().map_err(InstallError::file("look at", &path))?;
        match fs::metadata(&path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (mine.dev(), mine.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(InstallError::file("look at", &path)(error)),
        }
    }

    /// The folder's lock, while which nobody else can take charge; none if somebody has.
    pub(super) fn lock_if_mine(&self) -> Result<Option<FolderLock>, InstallError> {
        let guard = lock(&self.folder)?;
        Ok(self.is_mine()?.then_some(guard))
    }

    /// Gives up charge, and the folder if nothing else is in it.
    pub(super) fn leave(self, guard: FolderLock) {
        if let Err(error) = guard.remove(&self.folder.join(NAME)) {
            tracing::warn!(error = super::chain(&error), "not removed");
        }
        // Other people's files may be there.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// A new file, locked before it can be seen under its name.
fn put(folder: &Path) -> Result<File, InstallError> {
    let path = folder.join(NAME);
    let temporary = super::place::temporary(&path);
    let put = || {
        let _ = fs::remove_file(&temporary);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.lock()?;
        fs::rename(&temporary, &path)?;
        Ok(file)
    };
    put().map_err(InstallError::file("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_is_in_charge_until_it_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut old = Owner::claim(folder.path().into()).expect("claimed");
        assert!(old.is_in_charge().expect("known"));
        let mut new = Owner::claim(folder.path().into()).expect("claimed");
        assert!(new.is_in_charge().expect("known") && !old.is_in_charge().expect("known"));
        assert!(old.lock_if_mine().expect("known").is_none());
        // As after `kill -9`: the lock is gone, the file is there.
        drop(new);
        assert!(old.is_in_charge().expect("known"));
        let guard = old.lock_if_mine().expect("known").expect("it is mine");
        old.leave(guard);
        assert!(!folder.path().exists());
    }
}
