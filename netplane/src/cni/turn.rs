//! Turns: so many calls are at work on a node at a time. After a reboot a runtime starts one for each pod, in its own
//! memory, and a process that has only begun needs half of what one at work does.

use nix::fcntl::{FcntlArg, fcntl};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// In memory, and gone with a reboot, as locks are.
const FILE: &str = "/run/netplane/turns";

/// More than processors, as a call waits for the kernel, for plugins and for the cluster.
const TURNS: u32 = 32;

/// Then it is done without: what is in the way may be plugins that hang.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks for a free turn: first, and at most. Who waits is many, so that a free turn is found at once.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LAST_PAUSE: Duration = Duration::from_millis(32);

/// A turn, until it is dropped or the process has ended, however. A child that waits for the disk has it, too,
/// and so is counted.
#[derive(Debug)]
pub(super) struct Turn {
    _file: File,
}

/// Waits for a turn. None: there was none to be had in time, or there is no such file; the call goes on in any
/// case.
pub(super) fn take() -> Option<Turn> {
    take_of(Path::new(FILE), PATIENCE)
}

fn take_of(path: &Path, patience: Duration) -> Option<Turn> {
    let file = open(path).ok()?;
    let own = std::process::id() % TURNS;
    let until = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    loop {
        for turn in (own..TURNS).chain(0..own) {
            if fcntl(&file, FcntlArg::F_OFD_SETLK(&lock(turn))).is_ok() {
                return Some(Turn { _file: file });
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        // Not by waiting for one of them: its holder may hang while others come and go.
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

fn open(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    open().or_else(|_| {
        std::fs::create_dir_all(path.parent().unwrap_or(path))?;
        open()
    })
}

/// One byte of the file. Of this open file, and not of this process: a child keeps it.
fn lock(turn: u32) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: turn.into(),
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_turns_and_a_dead_process_gives_its_own_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("made/turns");
        let mut turns: Vec<_> = (0..TURNS).filter_map(|_| take_of(&path, Duration::ZERO)).collect();
        assert_eq!(turns.len(), 32);
        assert!(take_of(&path, Duration::ZERO).is_none(), "all are taken");
        assert!(take_of(&path, Duration::from_millis(1)).is_none(), "and are waited for with a bound");
        drop(turns.pop());
        assert!(take_of(&path, Duration::ZERO).is_some());
        let folder = folder.path().join("a-file");
        std::fs::write(&folder, "").expect("a file");
        assert!(take_of(&folder.join("turns"), PATIENCE).is_none(), "no file, no turns");
    }
}
