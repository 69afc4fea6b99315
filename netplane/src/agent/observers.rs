//! The threads that follow the pods' namespaces, one for each container with a record, and the one that
//! asks their kernels for neighbours.

use super::{AgentError, Options, start_thread};
use crate::sources::namespaces::{Requests, Search, Wanted};
use crate::sources::paths::{Asked, Paths};
use crate::sources::pods::{self, Resolve};
use crate::sources::{self, Stop};
use crate::world::end_marker::EndMarker;
use crate::world::{self, AttachmentKey, ContainerKey};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// As long as a driver may take for what it has in hand, and much less than users feel.
const IN_FLIGHT: Duration = Duration::from_millis(10);

/// Who is followed.
pub(super) struct Observers {
    facts: sources::Send,
    followed: BTreeMap<ContainerKey, (PathBuf, Stop)>,
    resolver: Sender<Resolve>,
    /// Where a cluster is followed: looks for pods that have no record.
    search: Option<Requests>,
    /// The thread that asks GTP-U peers, from the first one on.
    paths: Option<Paths>,
    stop: Stop,
}

impl Observers {
    pub(super) fn new(facts: sources::Send, options: &Options, stop: &Stop) -> Self {
        let (resolver, requests) = channel();
        if let Err(error) = start_thread("resolver", move || pods::resolve(&requests)) {
            tracing::error!(error = sources::chain(&error), "neighbours will not be asked for");
        }
        let search = options.cluster.as_ref().map(|_| {
            let (requests, search) = Search::new(&options.netns_dir);
            let (send, until) = (facts.clone(), stop.clone());
            if let Err(error) = start_thread("namespaces", move || search.run(&send, &until)) {
                tracing::error!(error = sources::chain(&error), "pods without a record will not be found");
            }
            requests
        });
        Self { facts, followed: BTreeMap::new(), resolver, search, paths: None, stop: stop.clone() }
    }

    /// Follows exactly these containers.
    pub(super) fn follow(&mut self, wanted: &BTreeMap<ContainerKey, PathBuf>) {
        let gone: Vec<_> = self
            .followed
            .iter()
            .filter(|(container, (netns, _))| wanted.get(*container) != Some(netns))
            .map(|(container, _)| container.clone())
            .collect();
        for container in gone {
            if let Some((_, stop)) = self.followed.remove(&container) {
                stop.stop();
            }
            let _ = self.resolver.send(Resolve::Forget(container));
        }
        for (container, netns) in wanted {
            if !self.followed.contains_key(container) {
                self.start(container, netns);
            }
        }
    }

    /// Looks for these pods' namespaces.
    pub(super) fn search(&self, wanted: Wanted) {
        if let Some(search) = &self.search {
            search.want(wanted);
        }
    }

    fn start(&mut self, container: &ContainerKey, netns: &Path) {
        let stop = Stop::default();
        let (name, path, send, until) =
            (container.clone(), netns.to_owned(), self.facts.clone(), stop.clone());
        match start_thread("pod", move || pods::follow(&name, &path, &send, &until)) {
            Ok(()) => drop(self.followed.insert(container.clone(), (netns.to_owned(), stop))),
            Err(error) => tracing::error!(error = sources::chain(&error), container, "is not followed"),
        }
    }

    /// Asks the kernel of a followed container for a neighbour.
    pub(super) fn resolve(&self, container: &ContainerKey, ifindex: u32, address: IpAddr) {
        if let Some((netns, _)) = self.followed.get(container) {
            let (container, netns) = (container.clone(), netns.clone());
            let _ = self.resolver.send(Resolve::Neighbour { container, netns, ifindex, address });
        }
    }
}

impl Observers {
    /// Has a followed container tell a peer that a tunnel has ended. A packet that met the old entry may still be on
    /// its way through the driver: this one comes after it.
    pub(super) fn end_marker(&self, container: &ContainerKey, marker: EndMarker) {
        if let Some((netns, _)) = self.followed.get(container) {
            let (container, netns, due) = (container.clone(), netns.clone(), Instant::now() + IN_FLIGHT);
            let _ = self.resolver.send(Resolve::EndMarker { container, netns, marker, due });
        }
    }
}

impl Observers {
    /// Has the peers of these endpoints asked, and no others.
    pub(super) fn ask_peers(&mut self, wanted: &BTreeMap<AttachmentKey, world::paths::Paths>) {
        if self.paths.is_none() && wanted.values().any(|it| !it.peers.is_empty()) {
            match self.start_paths() {
                Ok(paths) => self.paths = Some(paths),
                Err(error) => {
                    tracing::error!(error = sources::chain(&error), "GTP-U peers will not be asked")
                }
            }
        }
        let Some(paths) = &self.paths else { return };
        let asked = |(key, it): (&AttachmentKey, &world::paths::Paths)| {
            let (netns, _) = self.followed.get(&key.container)?;
            let (interface, peers) = (key.interface.clone(), it.peers.clone());
            Some((key.clone(), Asked { netns: netns.clone(), interface, check: it.check, peers }))
        };
        paths.want(wanted.iter().filter_map(asked).collect());
    }

    fn start_paths(&self) -> Result<Paths, AgentError> {
        let failed = |source| AgentError::Io { operation: "make a descriptor".to_owned(), source };
        let paths = Paths::new().map_err(failed)?;
        let (thread, send, stop) = (paths.clone(), self.facts.clone(), self.stop.clone());
        start_thread("paths", move || thread.run(&send, &stop))?;
        Ok(paths)
    }
}

impl Drop for Observers {
    fn drop(&mut self) {
        self.followed.values().for_each(|(_, stop)| stop.stop());
    }
}
