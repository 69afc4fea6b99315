//! Ctrl-C and its like: everything is removed before the process ends.

use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::fs::File;
use std::io::Read;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// The pipe's writing end, for the handler.
static PIPE: AtomicI32 = AtomicI32::new(-1);

/// What ends a program from outside.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Waits for a signal; see [`listen`].
pub struct Listener(File);

extern "C" fn note(signal: libc::c_int) {
    let byte = [u8::try_from(signal).unwrap_or(0)];
    // SAFETY: write(2) may be called in a signal handler; the buffer lives through the call.
    unsafe { libc::write(PIPE.load(Ordering::Relaxed), byte.as_ptr().cast(), 1) };
}

/// Takes SIGINT, SIGTERM and SIGHUP. By handlers and not by a mask: children inherit a mask, and
/// handlers are reset when they start.
///
/// # Errors
/// No file descriptors left.
pub fn listen() -> Result<Listener> {
    let (reader, writer): (OwnedFd, OwnedFd) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("pipe for signals")?;
    PIPE.store(writer.into_raw_fd(), Ordering::Relaxed);
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in SIGNALS {
        // SAFETY: the handler calls only write(2) and touches nothing but an atomic.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("handler of {signal}"))?;
    }
    Ok(Listener(File::from(reader)))
}

impl Listener {
    /// Waits for the next signal and returns its number.
    ///
    /// # Errors
    /// The pipe cannot be read.
    pub fn wait(&mut self) -> Result<i32> {
        let mut byte = [0];
        self.0.read_exact(&mut byte).context("wait for a signal")?;
        Ok(i32::from(byte[0]))
    }

    /// From now on, a signal removes all labs of this process and ends it, with the status that shells
    /// give such an end. `farewell` is called first.
    pub fn clean_up_and_exit(mut self, farewell: impl Fn() + Send + 'static) {
        std::thread::spawn(move || {
            let signal = self.wait().unwrap_or(0);
            farewell();
            super::undo::run_all_and_exit(128 + signal);
        });
    }
}
