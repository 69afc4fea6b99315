//! Attachment records on disk: written to a temporary file and renamed, so that a reader sees the old one or
//! the new one whatever happens; and the lock of a container's interface.

use super::AttachError;
use super::record::{AttachmentRecord, RECORD_VERSION};
use super::settle::Unsettled;
use crate::plugins::lock::{self, FileLock, LockError};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The folder of records.
#[derive(Clone, Debug)]
pub struct RecordStore {
    folder: PathBuf,
    unsettled: Unsettled,
}

/// What there is for a container's interface.
#[derive(Debug, PartialEq)]
pub enum Found {
    Record(Box<AttachmentRecord>),
    Nothing,
    /// There is one, and it cannot be understood.
    Damaged,
}

impl RecordStore {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), unsettled: Unsettled::default() }
    }

    /// What was saved for good and removed outlives a power cut, too, in a moment: a child waits for the disk.
    /// To be called last, with all locks given back and stdin, stdout and stderr closed: the child has
    /// what this process has.
    pub fn settle(&self) {
        self.unsettled.settle();
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the record of a container's interface is, if there is one.
    pub fn path(&self, container_id: &str, interface: &str) -> PathBuf {
        self.folder.join(format!("{}.json", stem(container_id, interface)))
    }

    /// Keeps others from the same container and interface until it is dropped: a runtime that was started
    /// anew may ask for DEL while the ADD that it does not know of any more is still at work. Plugins that
    /// are run inherit the lock, so it is not free before the last of them has ended, whatever became of us.
    /// None: the folder cannot be written, or is not there; that is no reason not to take down.
    ///
    /// # Errors
    /// Somebody else is at work for the whole of `at_most`.
    pub fn lock(
        &self,
        container_id: &str,
        interface: &str,
        at_most: Duration,
    ) -> Result<Option<RecordLock>, AttachError> {
        let path = self.folder.join(format!("{}.lock", stem(container_id, interface)));
        match lock::exclusive(&path, at_most) {
            Ok(lock) => {
                if let Err(error) = fcntl(&*lock, FcntlArg::F_SETFD(FdFlag::empty())) {
                    tracing::warn!(%error, "plugins will not inherit the lock");
                }
                Ok(Some(RecordLock { path, _lock: lock }))
            }
            Err(LockError::File { operation, path, source }) => {
                if !is_absent(&source) {
                    tracing::warn!(error = %source, path = %path.display(), operation, "no lock");
                }
                Ok(None)
            }
            Err(held @ LockError::Held { .. }) => Err(AttachError::Busy(held)),
        }
    }

    /// Makes the folder.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(&self) -> Result<(), AttachError> {
        let failed = |source| AttachError::File { operation: "make", path: self.folder.clone(), source };
        fs::create_dir_all(&self.folder).map_err(failed)
    }

    /// The record of a container's interface. A damaged one stays where it is until another takes its place: whoever
    /// comes next has to know that there is something to take down.
    ///
    /// # Errors
    /// It cannot be read, or is of a newer version.
    pub fn load(&self, container_id: &str, interface: &str) -> Result<Found, AttachError> {
        read(&self.path(container_id, interface))
    }

    /// Keeps a damaged record as `*.corrupt` as well, for people. Its own name is for what is saved next, or gone with
    /// [`remove`](Self::remove).
    pub(super) fn set_aside(&self, container_id: &str, interface: &str) {
        let path = self.path(container_id, interface);
        let aside = path.with_extension("corrupt");
        let _ = fs::remove_file(&aside);
        match fs::hard_link(&path, &aside) {
            Ok(()) => {
                tracing::warn!(path = %path.display(), aside = %aside.display(), "damaged record set aside");
            }
            Err(error) => tracing::warn!(%error, path = %path.display(), "a damaged record is not kept"),
        }
    }

    /// Writes a record in place of the old one. It is there after everything but a power cut; `durable`: after
    /// [`settle`](Self::settle), after a power cut as well.
    ///
    /// # Errors
    /// The folder or the file cannot be written; the old record is unchanged then.
    pub fn save(&self, record: &AttachmentRecord, durable: bool) -> Result<(), AttachError> {
        let path = self.path(&record.container_id, &record.interface);
        let failed = |source| AttachError::File { operation: "write", path: path.clone(), source };
        // Not `.json`: readers of the folder pass over it.
        let temporary = path.with_extension("tmp");
        let written = write(&temporary, record).and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        if durable {
            self.unsettled.add(&self.folder, Some(&path));
        }
        written.map_err(failed)
    }

    /// Removes a record, and what a process that died while it wrote one has left. One that is not there is
    /// no error.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, container_id: &str, interface: &str) -> Result<(), AttachError> {
        let path = self.path(container_id, interface);
        let _ = fs::remove_file(path.with_extension("tmp"));
        match fs::remove_file(&path) {
            // On a read-only disk that is the answer for files that are not there, too.
            Err(source) if fs::symlink_metadata(&path).is_ok() => {
                Err(AttachError::File { operation: "remove", path, source })
            }
            Err(_) => Ok(()),
            // Else a power cut could bring it back, and the agent would see a pod that is gone.
            Ok(()) => {
                self.unsettled.add(&self.folder, None);
                Ok(())
            }
        }
    }

    /// All records, for GC. Damaged ones are left out, and what cannot be read is an error beside the rest.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn all(&self) -> Result<AllRecords, AttachError> {
        let mut all = AllRecords::default();
        for path in self.files(&["json"])? {
            match read(&path) {
                Ok(Found::Record(record)) => all.records.push(*record),
                Ok(Found::Nothing | Found::Damaged) => {}
                Err(error) => all.errors.push(error),
            }
        }
        Ok(all)
    }

    /// Removes what is damaged or was set aside, half-written files and locks that nobody holds, but for
    /// containers and interfaces in `valid`. What fails is returned.
    pub fn sweep(&self, valid: &BTreeSet<(String, String)>) -> Vec<AttachError> {
        let paths = match self.files(&["corrupt", "tmp", "lock", "json"]) {
            Ok(paths) => paths,
            Err(error) => return vec![error],
        };
        let mut errors = Vec::new();
        for path in paths {
            let Some((id, interface)) = names(&path) else { continue };
            if valid.contains(&(id.to_owned(), interface.to_owned())) {
                continue;
            }
            if path.extension().is_some_and(|it| it == "lock") {
                // Its file goes with it.
                drop(self.lock(id, interface, Duration::ZERO));
                continue;
            }
            if path.extension().is_some_and(|it| it == "json") && !matches!(read(&path), Ok(Found::Damaged)) {
                continue;
            }
            if let Err(source) = fs::remove_file(&path)
                && !is_absent(&source)
            {
                errors.push(AttachError::File { operation: "remove", path, source });
            }
        }
        errors
    }

    /// Files of the folder by extension, in order.
    fn files(&self, extensions: &[&str]) -> Result<Vec<PathBuf>, AttachError> {
        let failed = |source| AttachError::File { operation: "list", path: self.folder.clone(), source };
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>().map_err(failed)?,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(source) => return Err(failed(source)),
        };
        let extension = |it: &Path| it.extension().and_then(|it| it.to_str()).map(str::to_owned);
        let mut paths: Vec<_> = entries.into_iter().map(|it| it.path()).collect();
        paths.retain(|it| extension(it).is_some_and(|it| extensions.contains(&it.as_str())));
        paths.retain(|it| names(it).is_some());
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

/// Whether a file cannot be there, as not even its folder is.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A lock of [`RecordStore::lock`]. Its file goes with it.
#[derive(Debug)]
pub struct RecordLock {
    path: PathBuf,
    _lock: FileLock,
}

impl Drop for RecordLock {
    fn drop(&mut self) {
        // Whoever has it open and waits looks whether it is still there.
        let _ = fs::remove_file(&self.path);
    }
}

/// What a container's interface is called among files. Neither has an `@` where it would be taken for the
/// one between them: the container's name has none at all.
fn stem(container_id: &str, interface: &str) -> String {
    format!("{container_id}@{interface}")
}

/// What the attachment whose record this file is called is known by; none for other files, which may be
/// somebody else's: Multus's `cniDir` may be ours, too.
pub fn key(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_suffix(".json").filter(|_| names(path).is_some())
}

/// Container and interface that a file is about.
fn names(path: &Path) -> Option<(&str, &str)> {
    path.file_stem()?.to_str()?.split_once('@')
}

fn read(path: &Path) -> Result<Found, AttachError> {
    let failed = |operation, source| AttachError::File { operation, path: path.to_owned(), source };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if is_absent(&error) => return Ok(Found::Nothing),
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
            tracing::warn!(%error, path = %path.display(), "damaged record");
            Ok(Found::Damaged)
        }
    }
}

fn write(path: &Path, record: &AttachmentRecord) -> io::Result<()> {
    // For root only: configurations of plugins may hold secrets.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec(record)?)
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
        store.make().expect("made");
        assert_eq!(store.load("abc", "eth0").expect("nothing"), Found::Nothing);
        store.save(&record(), true).expect("saved");
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
        fs::write(folder.path().join("abc@eth0.json"), "{\"version\":1,\"cont").expect("a file");
        assert_eq!(store.load("abc", "eth0").expect("seen"), Found::Damaged);
        assert_eq!(store.all().expect("listed").records, []);
        store.sweep(&BTreeSet::from([("abc".to_owned(), "eth0".to_owned())]));
        for _ in 0..2 {
            store.set_aside("abc", "eth0");
            assert_eq!(
                store.load("abc", "eth0").expect("seen"),
                Found::Damaged,
                "until another is in its place"
            );
        }
        store.save(&record(), false).expect("saved");
        let aside = fs::read_to_string(folder.path().join("abc@eth0.corrupt")).expect("set aside");
        assert_eq!(aside, "{\"version\":1,\"cont", "and not what was saved over it");
    }

    #[test]
    fn a_newer_record_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = RecordStore::new(folder.path());
        fs::write(folder.path().join("abc@eth0.json"), "{\"version\":99}").expect("a file");
        assert!(store.load("abc", "eth0").is_err());
        store.save(&AttachmentRecord { container_id: "abd".to_owned(), ..record() }, false).expect("saved");
        let all = store.all().expect("listed");
        assert_eq!((all.records.len(), all.errors.len()), (1, 1), "the others are read all the same");
        assert!(folder.path().join("abc@eth0.json").exists());
    }

    #[test]
    fn containers_and_interfaces_with_hyphens_and_dots_have_records_of_their_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = RecordStore::new(folder.path());
        let pairs = [("a", "b-c"), ("a-b", "c"), ("a", "b.c"), ("a.b", "c"), ("a", "b@c"), ("a", "x.json")];
        let of = |(id, interface): (&str, &str)| AttachmentRecord {
            container_id: id.to_owned(),
            interface: interface.to_owned(),
            ..record()
        };
        for pair in pairs {
            store.save(&of(pair), false).expect("saved");
        }
        assert_eq!(store.all().expect("listed").records.len(), pairs.len());
        for (at, pair) in pairs.into_iter().enumerate() {
            let found = store.load(pair.0, pair.1).expect("loaded");
            assert_eq!(found, Found::Record(Box::new(of(pair))), "{pair:?}");
            store.remove(pair.0, pair.1).expect("removed");
            assert_eq!(store.all().expect("listed").records.len(), pairs.len() - at - 1);
        }
    }

    #[test]
    fn a_record_of_a_later_netplane_is_read_as_long_as_its_version_is_ours() {
        let text = serde_json::to_string(&record()).expect("JSON").replace('{', r#"{"later":{"x":[1]},"#);
        let text = text.replace(
            "\"attachments\":[]",
            r#""attachments":[{"label":"n","interface":"net1",
            "plugins":[{"type":"t","own":1}],"later":true}]"#,
        );
        let Ok(read) = parse(&text) else { panic!("unknown keys are passed over: {text}") };
        assert_eq!(read.attachments[0].plugins[0]["own"], 1, "a plugin's keys are kept");
    }

    #[test]
    fn what_a_save_that_was_cut_off_has_left_goes_with_the_record() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = RecordStore::new(folder.path());
        fs::write(folder.path().join("abc@eth0.tmp"), "{").expect("a file");
        store.remove("abc", "eth0").expect("removed");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn what_is_not_called_like_a_record_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("theirs.json"), "no JSON").expect("a file");
        assert_eq!(RecordStore::new(folder.path()).all().expect("listed").records, []);
        assert!(folder.path().join("theirs.json").exists());
    }
}
