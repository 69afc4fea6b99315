//! When to look again: a folder has changed, a signal came, or it has been a while.

use super::InstallError;
use crate::sources::files::is_change;
use nix::sys::signal::{SigSet, Signal};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Changes that are closer together are one.
const SETTLE: Duration = Duration::from_millis(5);
/// But no more than so many.
const MOST: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    Look,
    Stop,
}

/// Folder watches and signals on one channel.
pub(super) struct Events {
    woken: Receiver<Wake>,
    /// Kept, so that the channel stays open where nothing can be watched.
    _wake: Sender<Wake>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

impl Events {
    /// From now on SIGTERM and SIGINT are events. To be called before the process has other threads.
    pub(super) fn start() -> Result<Self, InstallError> {
        let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
        // Blocked signals reach also a process that is the first of its PID namespace, as in a container.
        signals.thread_block().map_err(|errno| InstallError::Signals(errno.into()))?;
        let (wake, woken) = channel();
        let stop = wake.clone();
        std::thread::spawn(move || {
            while signals.wait().is_ok() {
                if stop.send(Wake::Stop).is_err() {
                    break;
                }
            }
        });
        let notify = wake.clone();
        let watcher = notify::recommended_watcher(move |event| {
            if is_change(&event) {
                // Nobody listens: the process is ending.
                let _ = notify.send(Wake::Look);
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "no folder can be watched: looking by the clock alone");
        }
        Ok(Self { woken, _wake: wake, watcher: watcher.ok(), watched: BTreeSet::new() })
    }

    /// Watches folders that are not watched yet. One that cannot be is looked at by the clock.
    pub(super) fn watch(&mut self, folders: &[&Path]) {
        let Some(watcher) = &mut self.watcher else { return };
        for folder in folders {
            if !folder.is_dir() {
                // Its watch went with it.
                self.watched.remove(*folder);
            } else if !self.watched.contains(*folder)
                && watcher.watch(folder, RecursiveMode::NonRecursive).is_ok()
            {
                self.watched.insert((*folder).to_owned());
            }
        }
    }

    /// Waits for an event, or the interval.
    pub(super) fn wait(&self, interval: Duration) -> Wake {
        match self.woken.recv_timeout(interval) {
            Ok(Wake::Look) => {}
            Ok(Wake::Stop) => return Wake::Stop,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Wake::Look,
        }
        // Where changes never end, they are looked at in between.
        for _ in 0..MOST {
            match self.woken.recv_timeout(SETTLE) {
                Ok(Wake::Look) => {}
                Ok(Wake::Stop) => return Wake::Stop,
                Err(_) => break,
            }
        }
        Wake::Look
    }
}
