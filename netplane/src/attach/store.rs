//! Attachment records on disk: written to a temporary file, synced and renamed, so that a reader sees the
//! old one or the new one whatever happens.

use super::AttachError;
use super::record::{AttachmentRecord, RECORD_VERSION};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The folder of records.
#[derive(Clone, Debug)]
pub struct RecordStore {
    folder: PathBuf,
}

/// What there is for a container's interface.
#[derive(Debug, PartialEq)]
pub enum Found {
    Record(Box<AttachmentRecord>),
    Nothing,
    /// The record was damaged, and is now called `*.corrupt`: it must not stand in the way of DEL for ever.
    SetAside,
}

impl RecordStore {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn path(&self, container_id: &str, interface: &str) -> PathBuf {
        self.folder.join(format!("{container_id}-{interface}.json"))
    }

    /// The record of a container's interface. A damaged one is set aside, with a warning.
    ///
    /// # Errors
    /// It cannot be read, or is of a newer version.
    pub fn load(&self, container_id: &str, interface: &str) -> Result<Found, AttachError> {
        match read(&self.path(container_id, interface))? {
            // "a" with "b-c" and "a-b" with "c" have one file name; they are not each other's.
            Found::Record(it) if it.container_id != container_id || it.interface != interface => {
                Ok(Found::Nothing)
            }
            found => Ok(found),
        }
    }

    /// Writes a record in place of the old one.
    ///
    /// # Errors
    /// The folder or the file cannot be written; the old record is unchanged then.
    pub fn save(&self, record: &AttachmentRecord) -> Result<(), AttachError> {
        let path = self.path(&record.container_id, &record.interface);
        let failed = |source| AttachError::File { operation: "write", path: path.clone(), source };
        fs::create_dir_all(&self.folder).map_err(failed)?;
        // Not `.json`: readers of the folder pass over it.
        let temporary = path.with_extension("tmp");
        let written = write_synced(&temporary, record).and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.map_err(failed)?;
        sync_folder(&self.folder).map_err(failed)
    }

    /// Removes a record. One that is not there is no error.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, container_id: &str, interface: &str) -> Result<(), AttachError> {
        let path = self.path(container_id, interface);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(AttachError::File { operation: "remove", path, source })
            }
            Err(_) => Ok(()),
            // Else a power cut could bring it back, and the agent would see a pod that is gone.
            Ok(()) => sync_folder(&self.folder).map_err(|source| AttachError::File {
                operation: "remove",
                path,
                source,
            }),
        }
    }

    /// All records, for GC. Damaged ones are set aside, and what cannot be read is an error beside the rest.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn all(&self) -> Result<AllRecords, AttachError> {
        let mut all = AllRecords::default();
        for path in self.files(&["json"])? {
            match read(&path) {
                Ok(Found::Record(record)) => all.records.push(*record),
                Ok(Found::Nothing | Found::SetAside) => {}
                Err(error) => all.errors.push(error),
            }
        }
        Ok(all)
    }

    /// Removes what was set aside and half-written files, but for containers and interfaces in `valid`.
    /// What fails is returned.
    pub fn sweep(&self, valid: &BTreeSet<(String, String)>) -> Vec<AttachError> {
        let paths = match self.files(&["corrupt", "tmp"]) {
            Ok(paths) => paths,
            Err(error) => return vec![error],
        };
        let kept: BTreeSet<_> = valid.iter().map(|(id, interface)| format!("{id}-{interface}")).collect();
        let stem = |path: &Path| path.file_stem().and_then(|it| it.to_str()).map(str::to_owned);
        let stale = paths.into_iter().filter(|path| !stem(path).is_some_and(|it| kept.contains(&it)));
        let remove = |path: PathBuf| match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Some(AttachError::File { operation: "remove", path, source })
            }
            _ => None,
        };
        stale.filter_map(remove).collect()
    }

    /// Files of the folder by extension, in order.
    fn files(&self, extensions: &[&str]) -> Result<Vec<PathBuf>, AttachError> {
        let failed = |source| AttachError::File { operation: "list", path: self.folder.clone(), source };
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>().map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed(source)),
        };
        let extension = |it: &Path| it.extension().and_then(|it| it.to_str()).map(str::to_owned);
        let mut paths: Vec<_> = entries.into_iter().map(|it| it.path()).collect();
        paths.retain(|it| extension(it).is_some_and(|it| extensions.contains(&it.as_str())));
        paths.sort();
        Ok(paths)
    }
}

/// What is in a folder of records.
#[derive(Debug, Default)]
pub struct AllRecords {
    pub records: Vec<AttachmentRecord>,
    /// One for each that could not be read.
    pub errors: Vec<AttachError>,
}

fn read(path: &Path) -> Result<Found, AttachError> {
    let failed = |operation, source| AttachError::File { operation, path: path.to_owned(), source };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        // Bytes that are no text are damage as well.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
        Err(source) => return Err(failed("read", source)),
    };
    match parse(&text) {
        Ok(record) => Ok(Found::Record(Box::new(record))),
        Err(Unreadable::Newer(version)) => {
            let message = format!("it has version {version}, this netplane knows up to {RECORD_VERSION}");
            Err(failed("use", io::Error::other(message)))
        }
        Err(Unreadable::Damaged(error)) => {
            let aside = path.with_extension("corrupt");
            tracing::warn!(%error, path = %path.display(), aside = %aside.display(), "damaged record set aside");
            fs::rename(path, &aside).map_err(|source| failed("set aside", source))?;
            Ok(Found::SetAside)
        }
    }
}

fn write_synced(path: &Path, record: &AttachmentRecord) -> io::Result<()> {
    // For root only: configurations of plugins may hold secrets.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    serde_json::to_writer(&mut file, record)?;
    file.flush()?;
    file.sync_all()
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Why a record's text is not used.
pub enum Unreadable {
    Newer(u32),
    Damaged(serde_json::Error),
}

/// Reads a record's text.
///
/// # Errors
/// It is damaged, or of a newer version.
pub fn parse(text: &str) -> Result<AttachmentRecord, Unreadable> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_str(text).map_err(Unreadable::Damaged)?;
    if version > RECORD_VERSION {
        return Err(Unreadable::Newer(version));
    }
    serde_json::from_str(text).map_err(Unreadable::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> AttachmentRecord {
        AttachmentRecord {
            version: RECORD_VERSION,
            container_id: "abc".to_owned(),
            interface: "eth0".to_owned(),
            netns: "/run/netns/x".into(),
            pod: None,
            complete: true,
            attachments: Vec::new(),
        }
    }

    #[test]
    fn saved_loaded_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = RecordStore::new(folder.path().join("made"));
        assert_eq!(store.load("abc", "eth0").expect("nothing"), Found::Nothing);
        store.save(&record()).expect("saved");
        assert_eq!(store.load("abc", "eth0").expect("loaded"), Found::Record(Box::new(record())));
        assert_eq!(store.all().expect("listed").records, [record()]);
        store.remove("abc", "eth0").expect("removed");
        store.remove("abc", "eth0").expect("removed twice");
        assert_eq!(store.load("abc", "eth0").expect("nothing"), Found::Nothing);
        assert_eq!(store.all().expect("listed").records, []);
    }

    #[test]
    fn a_truncated_record_is_set_aside() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = RecordStore::new(folder.path());
        fs::write(folder.path().join("abc-eth0.json"), "{\"version\":1,\"cont").expect("a file");
        assert_eq!(store.load("abc", "eth0").expect("set aside"), Found::SetAside);
        assert!(folder.path().join("abc-eth0.corrupt").exists());
    }

    #[test]
    fn a_newer_record_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = RecordStore::new(folder.path());
        fs::write(folder.path().join("abc-eth0.json"), "{\"version\":99}").expect("a file");
        assert!(store.load("abc", "eth0").is_err());
        store.save(&AttachmentRecord { container_id: "abd".to_owned(), ..record() }).expect("saved");
        let all = store.all().expect("listed");
        assert_eq!((all.records.len(), all.errors.len()), (1, 1), "the others are read all the same");
        assert!(folder.path().join("abc-eth0.json").exists());
    }
}
