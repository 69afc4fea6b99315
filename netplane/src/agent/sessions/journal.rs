//! What has been programmed, for the next agent: a file that is appended to after the kernel has a change and
//! before the caller hears of it, and written anew when half of it is old. Like the pins it is gone after a reboot,
//! which the instance's identifier tells.

use crate::world::programmed::Kept;
use prost::Message;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file that is smaller is not worth the work.
const SMALL: u64 = 1 << 20;

/// An element of the file, behind its length.
#[derive(Clone, PartialEq, Message)]
struct Line {
    /// The first one: which journal this is.
    #[prost(string, tag = "1")]
    instance: String,
    #[prost(message, optional, tag = "2")]
    session: Option<Kept>,
}

/// The journal, open for more.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    pub(crate) instance: String,
    /// Bytes in the file, and how many there were when it was last written anew.
    length: u64,
    base: u64,
    /// Changes could not be written, and are not in the file.
    pub(crate) is_behind: bool,
}

impl Journal {
    /// Opens the journal, or begins one. What it says of each session is handed to `restore`, the last word last.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(crate) fn open(path: &Path, mut restore: impl FnMut(Kept)) -> io::Result<Self> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(mut file) => drop(file.read_to_end(&mut bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut rest = bytes.as_slice();
        let mut instance = String::new();
        let mut sound = 0;
        // What an agent that was killed has not written to its end is left out: nobody was told of it.
        while let Ok(line) = Line::decode_length_delimited(&mut rest) {
            sound = bytes.len() - rest.len();
            if !line.instance.is_empty() {
                instance = line.instance;
            }
            if let Some(session) = line.session {
                restore(session);
            }
            if rest.is_empty() {
                break;
            }
        }
        if instance.is_empty() {
            return Self::begin(path, &new_instance()?, std::iter::empty());
        }
        let file = OpenOptions::new().append(true).open(path)?;
        let length = u64::try_from(sound).unwrap_or(0);
        file.set_len(length)?;
        Ok(Self { path: path.to_owned(), file, instance, length, base: length, is_behind: false })
    }

    /// Writes the file anew, beside the old one and then in its place.
    fn begin(path: &Path, instance: &str, sessions: impl Iterator<Item = Kept>) -> io::Result<Self> {
        let beside = path.with_extension("new");
        let begun = Self::write_anew(path, &beside, instance, sessions);
        if begun.is_err() {
            // It may be what fills the disk.
            let _ = fs::remove_file(&beside);
        }
        begun
    }

    fn write_anew(
        path: &Path,
        beside: &Path,
        instance: &str,
        sessions: impl Iterator<Item = Kept>,
    ) -> io::Result<Self> {
        let mut bytes =
            Line { instance: instance.to_owned(), session: None }.encode_length_delimited_to_vec();
        let mut file = File::create(beside)?;
        let mut length = 0;
        for session in sessions {
            let line = Line { instance: String::new(), session: Some(session) };
            // A vector has room for everything.
            let _ = line.encode_length_delimited(&mut bytes);
            if bytes.len() > 1 << 16 {
                file.write_all(&bytes)?;
                length += bytes.len();
                bytes.clear();
            }
        }
        file.write_all(&bytes)?;
        length += bytes.len();
        fs::rename(beside, path)?;
        let length = u64::try_from(length).unwrap_or(0);
        Ok(Self {
            path: path.to_owned(),
            file,
            instance: instance.to_owned(),
            length,
            base: length,
            is_behind: false,
        })
    }

    /// Adds what has changed.
    ///
    /// # Errors
    /// The file cannot be written; nothing of these changes is in it.
    pub(crate) fn add(&mut self, changes: Vec<Kept>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for session in changes {
            let line = Line { instance: String::new(), session: Some(session) };
            let _ = line.encode_length_delimited(&mut bytes);
        }
        if !bytes.is_empty() {
            if let Err(error) = self.file.write_all(&bytes) {
                self.is_behind = true;
                // A full disk takes the first part. Whatever came behind half a line would be lost to the next agent.
                self.file.set_len(self.length)?;
                self.file.seek(SeekFrom::Start(self.length))?;
                return Err(error);
            }
            self.length += u64::try_from(bytes.len()).unwrap_or(0);
        }
        Ok(())
    }

    /// Whether more than half of the file is old.
    pub(crate) fn is_long(&self) -> bool {
        self.length > SMALL.max(self.base * 2)
    }

    /// Leaves out what is old.
    ///
    /// # Errors
    /// The file cannot be written; the old one stays.
    pub(crate) fn shorten(&mut self, sessions: impl Iterator<Item = Kept>) -> io::Result<()> {
        *self = Self::begin(&self.path, &self.instance, sessions)?;
        Ok(())
    }
}

fn new_instance() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use std::collections::BTreeMap;

    fn kept(handle: u32, generation: u64) -> Kept {
        Kept { handle, pod: "core/upf-0".to_owned(), generation, session: vec![7; 30], ..Kept::default() }
    }

    fn read(path: &Path) -> (Journal, BTreeMap<u32, Kept>) {
        let mut sessions = BTreeMap::new();
        let journal = Journal::open(path, |it| {
            if it.session.is_empty() {
                sessions.remove(&it.handle)
            } else {
                sessions.insert(it.handle, it)
            };
        });
        (journal.expect("a journal"), sessions)
    }

    #[test]
    fn the_last_word_counts_and_half_a_line_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sessions.journal");
        let (mut journal, sessions) = read(&path);
        assert!(sessions.is_empty() && !journal.instance.is_empty());
        let gone = Kept { handle: 1, ..Kept::default() };
        journal.add(vec![kept(0, 1), kept(1, 1), kept(0, 2), gone]).expect("written");
        let instance = journal.instance.clone();
        let whole = fs::read(&path).expect("the file");
        journal.add(vec![kept(5, 5)]).expect("written");
        let longer = fs::read(&path).expect("the file");
        for cut in whole.len()..longer.len() {
            fs::write(&path, &longer[..cut]).expect("cut");
            let (journal, sessions) = read(&path);
            assert_eq!((journal.instance, sessions.len()), (instance.clone(), 1), "cut at {cut}");
            assert_eq!(sessions[&0], kept(0, 2));
            assert_eq!(fs::read(&path).expect("the file"), whole, "the rest is cut off");
        }
    }

    #[test]
    fn a_long_journal_is_written_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sessions.journal");
        let (mut journal, _) = read(&path);
        for generation in 0..30_000 {
            journal.add(vec![kept(0, generation)]).expect("written");
        }
        assert!(journal.is_long());
        journal.shorten([kept(0, 9)].into_iter()).expect("written anew");
        journal.add(vec![kept(3, 1)]).expect("written");
        assert!(!journal.is_long() && fs::metadata(&path).expect("a file").len() < 1000);
        let (again, sessions) = read(&path);
        assert_eq!((again.instance, sessions.len()), (journal.instance, 2));
    }

    #[test]
    fn a_full_disk_loses_what_it_refuses_and_no_more() {
        let small = tempfile::tempdir().expect("a folder");
        let size: Option<&str> = Some("size=64k");
        let private = || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
            mount(Some("small"), small.path(), Some("tmpfs"), MsFlags::empty(), size)
        };
        // A thread of its own has the mount for itself; it goes with the thread.
        let test = || {
            private().expect("a small file system");
            let path = small.path().join("sessions.journal");
            let (mut journal, _) = read(&path);
            let mut generation = 0;
            let full = loop {
                generation += 1;
                if let Err(error) = journal.add((0..100).map(|it| kept(it, generation)).collect()) {
                    break error;
                }
            };
            assert_eq!((full.kind(), journal.is_behind), (io::ErrorKind::StorageFull, true));
            let (_, sessions) = read(&path);
            assert_eq!(sessions.len(), 100);
            assert!(sessions.values().all(|it| it.generation == generation - 1), "the last that was taken");
            // No room for a second file either, and none is left behind.
            let many = (0..2000).map(|it| kept(it, generation));
            let error = journal.shorten(many).expect_err("full");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            assert!(!path.with_extension("new").exists());
            // Room again: the same journal goes on, behind the last whole line.
            journal.shorten([kept(0, generation)].into_iter()).expect("there is room for one");
            journal.add(vec![kept(1, generation)]).expect("there is room");
            assert!(!journal.is_behind);
            assert_eq!(read(&path).1.len(), 2);
        };
        std::thread::scope(|scope| scope.spawn(test).join().expect("the test"));
    }
}
