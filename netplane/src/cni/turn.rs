//! Turns: so many calls are at work on a node at a time. After a reboot a runtime starts one for each pod, in its own
//! memory, and a process that has only begun needs half of what one at work does.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
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
    loop {
        for turn in (own..TURNS).chain(0..own) {
            if fcntl(&file, FcntlArg::F_OFD_SETLK(&lock(turn))).is_ok() {
                return Some(Turn { _file: file });
            }
        }
        if Instant::now() >= until {
            return None;
        }
        // The kernel wakes who waits for this one; after a second another one may be free.
        match with_ticks(|| fcntl(&file, FcntlArg::F_OFD_SETLKW(&lock(own)))) {
            Ok(_) => return Some(Turn { _file: file }),
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
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

/// Runs something that waits, and ends it with `EINTR` each second.
fn with_ticks<T>(wait: impl FnOnce() -> T) -> T {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing at all.
    let before = unsafe { sigaction(Signal::SIGALRM, &action) };
    tick(1);
    let done = wait();
    tick(0);
    if let Ok(before) = before {
        // SAFETY: as it was before.
        let _ = unsafe { sigaction(Signal::SIGALRM, &before) };
    }
    done
}

/// SIGALRM after so many seconds and again after each; 0: not any more.
fn tick(seconds: libc::time_t) {
    let second = libc::timeval { tv_sec: seconds, tv_usec: 0 };
    let timer = libc::itimerval { it_interval: second, it_value: second };
    // SAFETY: the struct is read, and none is written.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
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
