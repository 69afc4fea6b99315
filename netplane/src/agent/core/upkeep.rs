//! What the loop looks after besides facts: what was lost, what somebody has undone, and peers that are told of it.

use super::super::memory;
use super::Core;
use crate::dataplane::Kernel;
use crate::netlink::observe::Snapshot;
use crate::sources::chain;
use crate::world::Problem;
use crate::world::end_marker::EndMarker;
use std::time::{Duration, Instant};

/// What is done once is done after this long.
const START: Duration = Duration::from_secs(10);

/// Grace periods for which many entries have waited.
const MANY_ROUNDS: usize = 8;

impl<K: Kernel> Core<K> {
    /// After many sessions that were programmed: what carried them here is free. And once the start is over: what only
    /// it needed.
    pub(super) fn give_memory_back(&mut self) {
        let is_over = self.is_ready() && self.start.is_some_and(|it| it.elapsed() >= START);
        if self.edits >= memory::MANY || is_over {
            self.edits = 0;
            self.start = self.start.filter(|_| !is_over);
            memory::give_back();
        }
    }

    /// Whether a grace period is wanted.
    pub(in super::super) fn begin_to_settle(&mut self) -> bool {
        let wanted = !self.takes_over && self.kernel.begin_to_settle();
        if wanted {
            self.settling += 1;
        } else if std::mem::take(&mut self.settling) > MANY_ROUNDS {
            memory::give_back();
        }
        wanted
    }

    /// It is over.
    pub(in super::super) fn settle(&mut self) {
        self.kernel.settle();
    }

    /// Counts what the kernel has lost since the last time.
    pub(super) fn observe_losses(&mut self) {
        match self.kernel.lost() {
            Ok(lost) => {
                self.source_problems.remove("losses");
                self.losses.observe(&lost, Instant::now());
            }
            Err(error) => {
                let problem = Problem { message: chain(&*error.source), object: error.operation };
                self.source_problems.insert("losses", vec![problem]);
            }
        }
    }

    /// What is pinned forwards without an agent; what has lost its pins does not.
    pub(super) fn observe_pins(&mut self) {
        match self.kernel.pinned() {
            Ok(()) => drop(self.source_problems.remove("pins")),
            Err(error) => {
                let remedy = error.remedy.map(|it| format!(": {it}")).unwrap_or_default();
                let message = format!("{}{remedy}", chain(&*error.source));
                let problem = Problem { object: error.operation, message };
                self.source_problems.insert("pins", vec![problem]);
            }
        }
    }

    /// Whether anything is to be made so again: a link that somebody has detached, a device that was taken out of
    /// the device map, a master that may be native after all.
    pub(super) fn forget_what_is_undone(&mut self) -> bool {
        if self.takes_over {
            return false;
        }
        let changed = self.kernel.changed(&self.current);
        changed.iter().for_each(|it| self.current.apply(it));
        !changed.is_empty()
    }

    /// Tells peers that their tunnels have ended, from the endpoints that had them.
    pub(super) fn end_markers(&self, markers: &[EndMarker]) {
        for marker in markers {
            let is_own = |pod: &Snapshot| {
                let own =
                    |link: u32| pod.links.iter().any(|it| it.index == link && it.mac == Some(marker.mac));
                pod.addresses.iter().any(|it| it.address.addr() == marker.local && own(it.index))
            };
            match self.world.pods.iter().find(|(_, pod)| is_own(pod)) {
                Some((container, _)) => self.observers.end_marker(container, *marker),
                None => tracing::warn!(?marker, "no End Marker: its endpoint is gone"),
            }
        }
    }
}
