//! The store on disk, laid out as the reference host-local plugin lays it out: a folder for each network,
//! in it a file for each address that holds `containerID CRLF interface`, the last address given out of
//! each range, and a lock file.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("ipam: cannot {operation} {}", path.display())]
pub struct StoreError {
    pub operation: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// The locked store of one network: nobody else, the reference plugin included, changes it meanwhile.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    _lock: Flock<File>,
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
    pub(super) fn open(data_dir: &Path, network: &str) -> Result<Self, StoreError> {
        let folder = data_dir.join(network);
        fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        let path = folder.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(failed("open", &path))?;
        // The kernel gives the lock back when its holder dies.
        let lock = Flock::lock(file, FlockArg::LockExclusive);
        let lock = lock.map_err(|(_, errno)| failed("lock", &path)(errno.into()))?;
        Ok(Self { folder, _lock: lock })
    }

    /// Opens the store only if there is one.
    pub(super) fn open_existing(data_dir: &Path, network: &str) -> Result<Option<Self>, StoreError> {
        if data_dir.join(network).is_dir() { Self::open(data_dir, network).map(Some) } else { Ok(None) }
    }

    /// Colons are not welcome in file names everywhere; on Linux the reference plugin keeps them.
    fn file(&self, address: IpAddr) -> PathBuf {
        self.folder.join(address.to_string())
    }

    /// Takes `address`, unless somebody has it. The file is complete or not there.
    pub(super) fn reserve(&self, address: IpAddr, owner: Owner<'_>) -> Result<bool, StoreError> {
        let path = self.file(address);
        let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(failed("make", &path)(error)),
        };
        if let Err(error) = file.write_all(owner.text().as_bytes()) {
            // A disk that is full: an empty file would hold the address for nobody.
            let _ = fs::remove_file(&path);
            return Err(failed("write", &path)(error));
        }
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

    /// All addresses that are taken, with what their files say: `containerID CRLF interface`.
    pub(super) fn taken(&self) -> Result<Vec<(IpAddr, String)>, StoreError> {
        let mut taken = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed("list", &self.folder))? {
            let path = entry.map_err(failed("list", &self.folder))?.path();
            let address = path.file_name().and_then(|it| it.to_str()).and_then(|it| it.parse().ok());
            let Some(address) = address else { continue };
            match fs::read_to_string(&path) {
                Ok(text) => taken.push((address, text)),
                Err(error) => return Err(failed("read", &path)(error)),
            }
        }
        Ok(taken)
    }

    /// The addresses that `owner` has.
    pub(super) fn addresses(&self, owner: Owner<'_>) -> Result<Vec<IpAddr>, StoreError> {
        let mut addresses = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed("list", &self.folder))? {
            let entry = entry.map_err(failed("list", &self.folder))?;
            let name = entry.file_name();
            let Some(address) = name.to_str().and_then(|it| it.parse().ok()) else { continue };
            if fs::read_to_string(entry.path()).is_ok_and(|text| owner.is_of(&text)) {
                addresses.push(address);
            }
        }
        Ok(addresses)
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
    move |source| StoreError { operation, path, source }
}
