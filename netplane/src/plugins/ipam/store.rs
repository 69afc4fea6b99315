//! The store on disk, laid out as the reference host-local plugin lays it out: a folder for each network,
//! in it a file for each address that holds `containerID CRLF interface`, the last address given out of
//! each range, and a lock file.

use crate::plugins::lock::{self, FileLock, LockError};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to wait for the store where the call itself sets no bound. It is held for milliseconds.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(60);

/// Where a reservation is written before it gets its address's name. The lock makes one enough; what a dead
/// process has left is overwritten, or removed with the next address. The reference plugin, too, takes it
/// for an address of its owner and gives it back.
const RESERVING: &str = ".reserving";

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("ipam: cannot {operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("ipam: {0}")]
    Lock(LockError),
}

/// The locked store of one network: nobody else, the reference plugin included, changes it meanwhile.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    _lock: FileLock,
}

/// Who has an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner<'a> {
    pub(super) container_id: &'a str,
    pub(super) interface: &'a str,
}

impl Owner<'_> {
    fn text(self) -> String {
        format!("{}\r\n{}", self.container_id, self.interface)
    }

    /// Files of very old versions hold the container only.
    fn is_of(self, text: &str) -> bool {
        let text = text.trim();
        text == self.text() || text == self.container_id
    }
}

impl Store {
    /// Opens and locks the store of `network`; waits for others.
    pub(super) fn open(data_dir: &Path, network: &str, at_most: Duration) -> Result<Self, StoreError> {
        let folder = data_dir.join(network);
        fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        let lock = lock::exclusive(&folder.join("lock"), at_most).map_err(|error| match error {
            LockError::File { operation, path, source } => StoreError::File { operation, path, source },
            held @ LockError::Held { .. } => StoreError::Lock(held),
        })?;
        Ok(Self { folder, _lock: lock })
    }

    /// Opens the store only if there is one.
    pub(super) fn open_existing(
        data_dir: &Path,
        network: &str,
        at_most: Duration,
    ) -> Result<Option<Self>, StoreError> {
        if !data_dir.join(network).is_dir() {
            return Ok(None);
        }
        Self::open(data_dir, network, at_most).map(Some)
    }

    /// Colons are not welcome in file names everywhere; on Linux the reference plugin keeps them.
    fn file(&self, address: IpAddr) -> PathBuf {
        self.folder.join(address.to_string())
    }

    /// Takes `address`, unless somebody has it. The file is complete or not there. An empty one is what a
    /// process that died in between has left, or a disk that was full: nobody's.
    pub(super) fn reserve(&self, address: IpAddr, owner: Owner<'_>) -> Result<bool, StoreError> {
        let path = self.file(address);
        match fs::metadata(&path) {
            Ok(about) if about.len() > 0 => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", &path)(error)),
        }
        let new = self.folder.join(RESERVING);
        let written = fs::write(&new, owner.text()).and_then(|()| fs::rename(&new, &path));
        written.map_err(|error| {
            let _ = fs::remove_file(&new);
            failed("write", &path)(error)
        })?;
        Ok(true)
    }

    /// The address given out last from the range with this number.
    pub(super) fn last_reserved(&self, range: usize) -> Option<IpAddr> {
        fs::read_to_string(self.folder.join(format!("last_reserved_ip.{range}"))).ok()?.trim().parse().ok()
    }

    pub(super) fn set_last_reserved(&self, range: usize, address: IpAddr) -> Result<(), StoreError> {
        let path = self.folder.join(format!("last_reserved_ip.{range}"));
        fs::write(&path, address.to_string()).map_err(failed("write", &path))
    }

    /// All addresses that are taken, with what their files say: `containerID CRLF interface`. What is no
    /// text has an owner that nobody is.
    pub(super) fn taken(&self) -> Result<Vec<(IpAddr, String)>, StoreError> {
        let mut taken = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed("list", &self.folder))? {
            let path = entry.map_err(failed("list", &self.folder))?.path();
            let name = path.file_name().and_then(|it| it.to_str());
            if name == Some(RESERVING) {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
            let Some(address) = name.and_then(|it| it.parse().ok()) else { continue };
            let bytes = fs::read(&path).map_err(failed("read", &path))?;
            taken.push((address, String::from_utf8_lossy(&bytes).into_owned()));
        }
        Ok(taken)
    }

    /// The addresses that `owner` has.
    pub(super) fn addresses(&self, owner: Owner<'_>) -> Result<Vec<IpAddr>, StoreError> {
        let taken = self.taken()?.into_iter();
        Ok(taken.filter(|(_, text)| owner.is_of(text)).map(|(address, _)| address).collect())
    }

    pub(super) fn release(&self, address: IpAddr) -> Result<(), StoreError> {
        let path = self.file(address);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner<'_> = Owner { container_id: "a", interface: "net1" };

    fn store(folder: &Path) -> Store {
        Store::open(folder, "n3", LOCK_WAIT).expect("a store")
    }

    #[test]
    fn an_empty_file_is_nobodys_and_garbage_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(folder.path());
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        fs::write(folder.path().join("n3/10.0.0.1"), "").expect("a file");
        fs::write(folder.path().join("n3/10.0.0.2"), [0xff, 0xfe, 0]).expect("a file");
        assert!(store.reserve(address("10.0.0.1"), OWNER).expect("readable"));
        assert!(!store.reserve(address("10.0.0.2"), OWNER).expect("readable"));
        assert_eq!(store.addresses(OWNER).expect("readable"), [address("10.0.0.1")]);
        assert_eq!(store.taken().expect("readable").len(), 2, "GC sees both");
    }

    #[test]
    fn what_a_dead_process_was_writing_goes_with_the_next_look() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store(folder.path());
        let half = folder.path().join("n3").join(RESERVING);
        fs::write(&half, OWNER.text()).expect("a file");
        assert_eq!(store.addresses(OWNER).expect("readable"), Vec::<IpAddr>::new());
        assert!(!half.exists());
    }
}
