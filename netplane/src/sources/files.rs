//! The NAD directory and the folder of attachment records. Changes are noticed at once, and every few seconds the
//! files' times and sizes are looked at in any case: a watch that misses something costs seconds, not correctness,
//! and files that are as they were are not read again.

use super::{Fact, Send, Stop, chain};
use crate::attach::record::AttachmentRecord;
use crate::attach::store::{Unreadable, key, parse};
use crate::nad::dir::{self, Loaded};
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecursiveMode, Watcher};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How long a change that the watch has missed may go unnoticed.
const LOOK: Duration = Duration::from_secs(2);
/// Changes that are closer together are one.
const SETTLE: Duration = Duration::from_millis(10);

pub(crate) type Records = (BTreeMap<String, AttachmentRecord>, Vec<String>);

/// Sends both folders' contents now and after each change, until stopped. Without a directory there are no
/// NADs where they may come from elsewhere (`optional`); else that is said.
pub fn run(nad_dir: &Path, optional: bool, record_dir: &Path, send: &Send, stop: &Stop) {
    let (wake, woken) = channel();
    let mut watcher = notify::recommended_watcher(move |event| {
        if is_change(&event) {
            wake.send(()).unwrap_or_default();
        }
    })
    .ok();
    let mut watched: Vec<PathBuf> = Vec::new();
    let mut last_nads: Option<Result<Arc<Loaded>, String>> = None;
    let mut last_records = None;
    let mut last_print = None;
    while !stop.is_stopped() {
        // A folder that appears later is watched from then on.
        for folder in [nad_dir, record_dir] {
            if let Some(watcher) = watcher.as_mut().filter(|_| !watched.iter().any(|it| it == folder))
                && watcher.watch(folder, RecursiveMode::NonRecursive).is_ok()
            {
                watched.push(folder.to_owned());
            }
        }
        // Taken before the files are read: what changes meanwhile is seen as another one.
        let print = [fingerprint(nad_dir), fingerprint(record_dir)];
        if last_print.as_ref() == Some(&print) {
            wait(&woken, &mut last_print);
            continue;
        }
        last_print = Some(print);
        let nads = match dir::load(nad_dir) {
            Err(error) if optional && error.source.kind() == ErrorKind::NotFound => Ok(Arc::default()),
            other => other.map(Arc::new).map_err(|error| chain(&error)),
        };
        if last_nads.as_ref() != Some(&nads) {
            last_nads = Some(nads.clone());
            if !send(Fact::Nads(nads)) {
                return;
            }
        }
        let (mut records, problems) = read_records(record_dir);
        records.values_mut().for_each(forget_what_only_del_needs);
        let records = (Arc::new(records), problems);
        if last_records.as_ref() != Some(&records) {
            last_records = Some(records.clone());
            if !send(Fact::Records(records.0, records.1)) {
                return;
            }
        }
        wait(&woken, &mut last_print);
    }
}

/// Configurations and results are most of a record, and nothing to the agent.
fn forget_what_only_del_needs(record: &mut AttachmentRecord) {
    for it in &mut record.attachments {
        it.plugins = Vec::new();
        it.result = None;
    }
}

/// Name, inode, size and time of change of each file; nothing where the folder cannot be read.
type Fingerprint = Option<Vec<(OsString, u64, u64, i64, i64)>>;

/// Waits for a change. One that the watch tells of counts whatever the files look like.
fn wait(woken: &Receiver<()>, last: &mut Option<[Fingerprint; 2]>) {
    match woken.recv_timeout(LOOK) {
        Ok(()) => {
            while woken.recv_timeout(SETTLE).is_ok() {}
            *last = None;
        }
        Err(RecvTimeoutError::Timeout) => {}
        // Without a watch: by the clock alone.
        Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK),
    }
}

/// What tells a folder's files from what they were: a replaced file has another inode, a written one another time.
fn fingerprint(folder: &Path) -> Fingerprint {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        // Following links: a ConfigMap's files are such.
        let Ok(it) = std::fs::metadata(entry.path()) else { continue };
        files.push((entry.file_name(), it.ino(), it.len(), it.mtime(), it.mtime_nsec()));
    }
    files.sort_unstable();
    Some(files)
}

/// Whether a watch tells of a change. Reading is an event for inotify, too: taken for a change, whoever reads
/// what has changed wakes itself for ever.
pub(crate) fn is_change(event: &notify::Result<Event>) -> bool {
    match event.as_ref().map(|it| it.kind) {
        Ok(EventKind::Access(access)) => access == AccessKind::Close(AccessMode::Write),
        // An error may stand for changes that were lost.
        Ok(_) | Err(_) => true,
    }
}

/// Complete records by name. A folder that is not there yet has none.
pub(crate) fn read_records(folder: &Path) -> Records {
    let (mut records, mut problems) = Records::default();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return (records, problems),
        Err(error) => return (records, vec![format!("cannot read {}: {error}", folder.display())]),
    };
    for path in entries.flatten().map(|it| it.path()) {
        let Some(name) = key(&path) else { continue };
        // Removed since the folder was read: that is the next round's news.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        match parse(&text) {
            Ok(record) if record.complete => drop(records.insert(name.to_owned(), record)),
            Ok(_) => {}
            Err(Unreadable::Newer(version)) => {
                problems
                    .push(format!("{} has version {version}: written by a newer netplane", path.display()));
            }
            Err(Unreadable::Damaged(error)) => {
                problems.push(format!("{} is damaged: {error}", path.display()))
            }
        }
    }
    problems.sort();
    (records, problems)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::Fact;
    use std::time::Instant;

    #[test]
    fn reading_does_not_wake_the_reader() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("a.json"), "{}").expect("a file");
        let (sender, opened) = channel();
        let mut watcher = notify::recommended_watcher(sender).expect("a watcher");
        watcher.watch(folder.path(), RecursiveMode::NonRecursive).expect("watched");
        let (stop, (facts, received)) = (Stop::default(), channel());
        let send: Send = Arc::new(move |fact: Fact| facts.send(fact).is_ok());
        std::thread::scope(|scope| {
            scope.spawn(|| run(folder.path(), false, folder.path(), &send, &stop));
            for _ in 0..2 {
                received.recv().expect("NADs, then records");
            }
            // All is looked at every two seconds; in between there is nothing.
            let since = Instant::now();
            let limit = Duration::from_secs(20);
            let pause = LOOK / 4;
            while opened.recv_timeout(pause).is_ok() && since.elapsed() < limit {}
            stop.stop();
            assert!(since.elapsed() < limit, "it reads all the time");
        });
    }
}
