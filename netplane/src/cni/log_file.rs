//! A log file that many short-lived processes write to at once, and rotate: lines in, files of bounded size
//! and number out. A file that cannot be written loses its lines and stops nobody.

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;

/// In the names of old files, in UTC: `multus-2026-11-24T02-39-20.123.log`, as lumberjack names Multus's.
const TIME: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// Another process may rotate each time we look.
const ATTEMPTS: u32 = 64;

/// When a file is put aside, and what becomes of those that were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rotation {
    /// In bytes.
    pub(super) max_size: u64,
    pub(super) max_age: Option<Duration>,
    pub(super) max_backups: Option<usize>,
    pub(super) compress: bool,
}

/// The file. Writers hold a shared lock on it for each line; who rotates holds an exclusive one from the
/// renaming until the old file is compressed, so that no line is written to a file that is read or gone.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    open: Mutex<Option<File>>,
}

impl LogFile {
    pub(super) fn new(path: PathBuf, rotation: Rotation) -> Self {
        Self { path, rotation, open: Mutex::new(None) }
    }

    fn append(&self, line: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..ATTEMPTS {
            let mut file = match open.take() {
                Some(file) => file,
                None => create(&self.path)?,
            };
            // Before the lock, too: else one would wait for the compression of an old file.
            if !is_at(&file, &self.path)? {
                continue;
            }
            file.lock_shared()?;
            if !is_at(&file, &self.path)? {
                continue;
            }
            let size = file.metadata()?.len();
            if size == 0 || size.saturating_add(line.len() as u64) <= self.rotation.max_size {
                file.write_all(line)?;
                file.unlock()?;
                *open = Some(file);
                return Ok(());
            }
            file.unlock()?;
            self.rotate(&file)?;
        }
        Err(io::Error::other("the log file is rotated all the time"))
    }

    /// Puts the file aside, unless another process has done so.
    fn rotate(&self, file: &File) -> io::Result<()> {
        file.lock()?;
        if !is_at(file, &self.path)? {
            return Ok(());
        }
        let aside = self.backup_name();
        fs::rename(&self.path, &aside)?;
        // What goes wrong from here on is for the next rotation to repair.
        if self.rotation.compress {
            let _ = compress(&aside);
        }
        let _ = self.tidy();
        Ok(())
    }

    /// A name that is not taken. Rotations come one after the other: nobody takes it before us.
    fn backup_name(&self) -> PathBuf {
        let mut time = Timestamp::now();
        loop {
            let (prefix, suffix) = self.around_time();
            let name = format!("{prefix}{}{suffix}", time.strftime(TIME));
            let path = self.path.with_file_name(&name);
            if !path.exists() && !compressed(&path).exists() {
                return path;
            }
            time += SignedDuration::from_millis(1);
        }
    }

    /// `multus-` and `.log`.
    fn around_time(&self) -> (String, String) {
        let text = |it: Option<&std::ffi::OsStr>| it.unwrap_or_default().to_string_lossy().into_owned();
        let extension = self.path.extension().map(|it| format!(".{}", it.to_string_lossy()));
        (format!("{}-", text(self.path.file_stem())), extension.unwrap_or_default())
    }

    /// The files that were put aside, newest first.
    fn backups(&self) -> io::Result<Vec<(Timestamp, PathBuf)>> {
        let (prefix, suffix) = self.around_time();
        let folder = self.path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut backups = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let plain = name.strip_suffix(".gz").unwrap_or(&name);
            let time = plain.strip_prefix(&prefix).and_then(|it| it.strip_suffix(&suffix));
            let time = time.and_then(|it| DateTime::strptime(TIME, it).ok());
            let time = time.and_then(|it| it.to_zoned(TimeZone::UTC).ok());
            backups.extend(time.map(|it| (it.timestamp(), folder.join(&name))));
        }
        backups.sort();
        backups.reverse();
        Ok(backups)
    }

    /// Removes what is too much or too old, and compresses what a process that was killed has left.
    fn tidy(&self) -> io::Result<()> {
        let now = Timestamp::now();
        for (number, (time, path)) in self.backups()?.into_iter().enumerate() {
            let age = now.duration_since(time);
            let old = self.rotation.max_age.is_some_and(|it| age.unsigned_abs() > it && age.is_positive());
            if old || self.rotation.max_backups.is_some_and(|it| number >= it) {
                fs::remove_file(&path)?;
            } else if self.rotation.compress && path.extension().is_none_or(|it| it != "gz") {
                let file = File::open(&path)?;
                // Else somebody is at it.
                if file.try_lock().is_ok() {
                    compress(&path)?;
                }
            }
        }
        Ok(())
    }
}

fn create(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    match (open(), path.parent()) {
        (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
            open()
        }
        (file, _) => file,
    }
}

/// Whether the open file is the one that has the name now.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

/// Replaces a file by its compressed form, which is there as a whole or not at all.
fn compress(path: &Path) -> io::Result<()> {
    let target = compressed(path);
    let unfinished = target.with_extension("gz-unfinished");
    let mut source = File::open(path)?;
    let output = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    let mut encoder = GzEncoder::new(BufWriter::new(output), Compression::fast());
    let written = io::copy(&mut source, &mut encoder).and_then(|_| encoder.finish()?.flush());
    let done = written.and_then(|()| fs::rename(&unfinished, &target)).and_then(|()| fs::remove_file(path));
    if done.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    done
}

/// One call of `write` for each event: that is how the subscriber's layers do it.
impl Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.append(line).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

#[cfg(test)]
mod tests;
