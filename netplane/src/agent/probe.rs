//! What the masters are like, asked for every two seconds by a thread of its own: kernel and drivers answer under a
//! lock (RTNL) that others may hold for long, and the loop must not wait for that.

use super::{AgentError, start_thread};
use crate::netlink::device::Device;
use crate::sources::Stop;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(2);

/// The loop's end.
#[derive(Clone, Default)]
pub(super) struct Probe(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Others are wanted.
    wake: Condvar,
}

#[derive(Default)]
struct State {
    wanted: BTreeSet<u32>,
    /// By interface index; absent until it was looked at.
    known: BTreeMap<u32, Device>,
}

impl Probe {
    /// Starts the thread.
    ///
    /// # Errors
    /// There are no more threads.
    pub(super) fn start(stop: &Stop) -> Result<Self, AgentError> {
        let this = Self::default();
        let (probe, stop) = (this.clone(), stop.clone());
        start_thread("probe", move || probe.run(&stop))?;
        Ok(this)
    }

    /// From now on these.
    pub(super) fn want(&self, masters: BTreeSet<u32>) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.wanted != masters {
            state.known.retain(|it, _| masters.contains(it));
            state.wanted = masters;
            self.0.wake.notify_one();
        }
    }

    /// As they were a moment ago.
    pub(super) fn devices(&self) -> BTreeMap<u32, Device> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).known.clone()
    }

    fn run(&self, stop: &Stop) {
        while !stop.is_stopped() {
            let wanted = self.0.state.lock().unwrap_or_else(PoisonError::into_inner).wanted.clone();
            let probed: BTreeMap<_, _> = wanted.iter().map(|it| (*it, Device::probe(*it))).collect();
            let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.wanted == wanted {
                state.known = probed;
                drop(self.0.wake.wait_timeout(state, INTERVAL));
            }
        }
    }
}
