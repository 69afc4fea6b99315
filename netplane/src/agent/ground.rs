//! Whether enough is known to act: an agent that starts over pins must not take down what it has only not
//! heard of yet.

use crate::world::ContainerKey;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a container's namespace may take to be seen for the first time.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long neighbours are waited for before the first change to what an earlier agent left: it may know them,
/// and packets flow.
const NEIGHBOURS: Duration = Duration::from_secs(2);

/// What has been heard so far.
#[derive(Debug)]
pub(super) struct Ground {
    nads: bool,
    /// The cluster's NADs; from the start where no cluster is followed.
    cluster: bool,
    masters: bool,
    /// Pods that somebody else attached were looked for once; from the start where no cluster is followed.
    located: bool,
    /// When each container was first heard of; absent until the records were read.
    containers: Option<BTreeMap<ContainerKey, Instant>>,
    seen: BTreeSet<ContainerKey>,
    /// Since when only neighbours are waited for.
    complete: Option<Instant>,
}

impl Ground {
    pub(super) fn new(follows_cluster: bool) -> Self {
        Self {
            nads: false,
            cluster: !follows_cluster,
            masters: false,
            located: !follows_cluster,
            containers: None,
            seen: BTreeSet::new(),
            complete: None,
        }
    }

    pub(super) fn cluster(&mut self) {
        self.cluster = true;
    }

    pub(super) fn located(&mut self) {
        self.located = true;
    }

    /// Whether it is known which pods to look for, by networks and records.
    pub(super) fn can_search(&self) -> bool {
        self.nads && self.cluster && self.containers.is_some()
    }

    pub(super) fn nads(&mut self) {
        self.nads = true;
    }

    pub(super) fn masters(&mut self) {
        self.masters = true;
    }

    pub(super) fn records<'a>(&mut self, containers: impl Iterator<Item = &'a ContainerKey>) {
        let old = self.containers.take().unwrap_or_default();
        let now = Instant::now();
        let since = |it: &ContainerKey| (it.clone(), old.get(it).copied().unwrap_or(now));
        self.containers = Some(containers.map(since).collect());
    }

    pub(super) fn pod(&mut self, container: &ContainerKey) {
        self.seen.insert(container.clone());
    }

    /// Whether neighbours that are not resolved are worth waiting for.
    pub(super) fn waits_for_neighbours(&mut self) -> bool {
        self.complete.get_or_insert_with(Instant::now).elapsed() < NEIGHBOURS
    }

    /// Whether every source has spoken.
    pub(super) fn is_firm(&self) -> bool {
        let seen = |(container, since): (&ContainerKey, &Instant)| {
            self.seen.contains(container) || since.elapsed() > PATIENCE
        };
        self.nads
            && self.cluster
            && self.masters
            && self.located
            && self.containers.as_ref().is_some_and(|it| it.iter().all(seen))
    }
}
