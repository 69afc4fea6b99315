//! The threads that follow the pods' namespaces, ask their kernels for neighbours, and look for namespaces.

use super::{AgentError, Options, start_thread};
use crate::sources::namespaces::{Requests, Search, Wanted};
use crate::sources::paths::{Asked, Paths};
use crate::sources::pods::{self, Followers, Orders, Resolve};
use crate::sources::{self, Stop};
use crate::world::end_marker::EndMarker;
use crate::world::{self, AttachmentKey, ContainerKey};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// As long as a driver may take for what it has in hand, and much less than users feel.
const IN_FLIGHT: Duration = Duration::from_millis(10);

/// Who is followed.
pub(super) struct Observers {
    facts: sources::Send,
    followed: BTreeMap<ContainerKey, PathBuf>,
    follower: Orders,
    resolver: Sender<Resolve>,
    /// Where a cluster is followed: looks for pods that have no record.
    search: Option<Requests>,
    /// The thread that asks GTP-U peers, from the first one on.
    paths: Option<Paths>,
    stop: Stop,
}

impl Observers {
    /// Starts the threads.
    ///
    /// # Errors
    /// The namespaces cannot be followed.
    pub(super) fn new(facts: sources::Send, options: &Options, stop: &Stop) -> Result<Self, AgentError> {
        let operation = || "follow the pods' namespaces".to_owned();
        let (follower, followers) =
            Followers::new().map_err(|source| AgentError::Io { operation: operation(), source })?;
        let send = facts.clone();
        start_thread("pods", move || followers.run(&send))?;
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
        Ok(Self {
            facts,
            followed: BTreeMap::new(),
            follower,
            resolver,
            search,
            paths: None,
            stop: stop.clone(),
        })
    }

    /// Follows exactly these containers.
    pub(super) fn follow(&mut self, wanted: &BTreeMap<ContainerKey, PathBuf>) {
        let gone: Vec<_> = self
            .followed
            .iter()
            .filter(|(container, netns)| wanted.get(*container) != Some(netns))
            .map(|(container, _)| container.clone())
            .collect();
        for container in gone {
            self.followed.remove(&container);
            self.follower.forget(&container);
            let _ = self.resolver.send(Resolve::Forget(container));
        }
        for (container, netns) in wanted {
            if !self.followed.contains_key(container) {
                self.followed.insert(container.clone(), netns.clone());
                self.follower.follow(container, netns);
            }
        }
    }

    /// Looks for these pods' namespaces.
    pub(super) fn search(&self, wanted: Wanted) {
        if let Some(search) = &self.search {
            search.want(wanted);
        }
    }

    /// Asks the kernel of a followed container for a neighbour.
    pub(super) fn resolve(&self, container: &ContainerKey, ifindex: u32, address: IpAddr) {
        if let Some(netns) = self.followed.get(container) {
            let (container, netns) = (container.clone(), netns.clone());
            let _ = self.resolver.send(Resolve::Neighbour { container, netns, ifindex, address });
        }
    }
}

impl Observers {
    /// Has a followed container tell a peer that a tunnel has ended. A packet that met the old entry may still be on
    /// its way through the driver: this one comes after it.
    pub(super) fn end_marker(&self, container: &ContainerKey, marker: EndMarker) {
        if let Some(netns) = self.followed.get(container) {
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
            let netns = self.followed.get(&key.container)?;
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
