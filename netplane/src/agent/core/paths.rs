//! GTP-U paths as the loop sees them: which are to be asked, what is known of them, and who is told.

use super::Core;
use super::sessions::name_of;
use crate::agent::sessions::Happened;
use crate::agent::status::{PathsStatus, Status};
use crate::dataplane::Kernel;
use crate::sources::paths::{PathNews, PathState};
use crate::world::paths::{self, MOST_PEERS};
use crate::world::{AttachmentKey, Problem};
use netplane_client::v1::watch_response::Event as Watched;
use netplane_client::v1::{RemoteGtpuPeer, UserPlanePathFailureReport, UserPlanePathRecoveryReport};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Paths in use, and their states.
#[derive(Debug, Default)]
pub(super) struct Paths {
    wanted: BTreeMap<AttachmentKey, paths::Paths>,
    /// Those that were answered or given up.
    states: BTreeMap<(AttachmentKey, IpAddr), PathState>,
    /// Failures by network, since the agent began.
    failures: BTreeMap<String, u64>,
    /// The world was compiled since they were looked at.
    pub(super) is_stale: bool,
    /// What [`crate::world::programmed::Programmed::peers_changed`] was then.
    seen: u64,
}

impl Paths {
    /// Takes in a state. Returns the pod that is to be told of a failure or a recovery, and the peer: nothing is said
    /// of a path that is first seen to be up, nor of one that nobody uses any more.
    fn take(&mut self, news: PathNews) -> Option<(String, PathState, RemoteGtpuPeer)> {
        let PathNews { endpoint, peer, state } = news;
        let wanted = self.wanted.get(&endpoint)?;
        let local = wanted.peers.get(&peer)?;
        let old = if state == PathState::Unknown {
            self.states.remove(&(endpoint, peer))
        } else {
            self.states.insert((endpoint, peer), state)
        };
        let old = old.unwrap_or_default();
        let is_news =
            state != old && (state == PathState::Down || (old, state) == (PathState::Down, PathState::Up));
        if !is_news {
            return None;
        }
        if state == PathState::Down {
            *self.failures.entry(wanted.network.to_string()).or_default() += 1;
        }
        let peer = RemoteGtpuPeer {
            address: peer.to_string(),
            network_instance: wanted.network.to_string(),
            local_address: local.to_string(),
        };
        Some((name_of(&wanted.pod).to_owned(), state, peer))
    }

    fn want(&mut self, wanted: BTreeMap<AttachmentKey, paths::Paths>) {
        let is_same = |(key, peer): &(AttachmentKey, IpAddr)| {
            let local = |it: &BTreeMap<AttachmentKey, paths::Paths>| it.get(key)?.peers.get(peer).copied();
            local(&wanted).is_some() && local(&wanted) == local(&self.wanted)
        };
        self.states.retain(|it, _| is_same(it));
        for it in wanted.values() {
            // There from the start: a rate needs the zero before the first one.
            self.failures.entry(it.network.to_string()).or_default();
        }
        self.wanted = wanted;
    }

    fn down<'p>(&'p self, endpoint: &'p AttachmentKey) -> impl Iterator<Item = String> + 'p {
        let own =
            self.states.iter().filter(move |((key, _), state)| key == endpoint && **state == PathState::Down);
        own.map(|((_, peer), _)| peer.to_string())
    }

    /// Of an endpoint's peers, those that have failed.
    pub(super) fn failed(&self, network: &str, interface: &str, pod: &str) -> Vec<String> {
        let is_it = |(key, it): &(&AttachmentKey, &paths::Paths)| {
            key.interface == interface && it.pod == pod && it.network.to_string() == network
        };
        self.wanted.iter().find(is_it).map(|(key, _)| self.down(key).collect()).unwrap_or_default()
    }

    /// Adds to endpoints what is known of their paths.
    pub(super) fn show(&self, status: &mut Status) {
        for (key, it) in &self.wanted {
            let network = it.network.to_string();
            let is_it = |endpoint: &&mut crate::agent::status::EndpointStatus| {
                endpoint.pod == it.pod && endpoint.network == network && endpoint.interface == key.interface
            };
            let Some(endpoint) = status.endpoints.iter_mut().find(is_it) else { continue };
            let down: Vec<String> = self.down(key).collect();
            let known =
                it.peers.keys().filter(|peer| self.states.contains_key(&(key.clone(), **peer))).count();
            let (up, unknown) = (known - down.len(), it.peers.len() - known);
            endpoint.paths = Some(PathsStatus { up, unknown, down });
        }
        for network in &mut status.networks {
            network.path_failures = self.failures.get(&network.name).copied();
        }
    }

    /// Peers that are not asked.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let many = self.wanted.iter().filter(|(_, it)| it.left_out > 0);
        let problem = |(key, it): (&AttachmentKey, &paths::Paths)| Problem {
            object: format!("{}, interface {}", it.pod, key.interface),
            message: format!(
                "{} GTP-U peers of {} are not asked whether they are there: {MOST_PEERS} at most are",
                it.left_out, it.network
            ),
        };
        many.map(problem).collect()
    }
}

impl<K: Kernel> Core<K> {
    /// Has those peers asked that sessions use now.
    pub(super) fn follow_paths(&mut self) {
        let changed = self.programmed.peers_changed();
        if self.stale || !(self.paths.is_stale || changed != self.paths.seen) {
            return;
        }
        (self.paths.is_stale, self.paths.seen) = (false, changed);
        let wanted = paths::wanted(&self.world, &self.compiled, &self.programmed);
        if !wanted.is_empty() || !self.paths.wanted.is_empty() {
            // Also where they are the same: a pod may have another namespace.
            self.observers.ask_peers(&wanted);
            self.paths.want(wanted);
        }
    }

    /// Paths have failed or recovered: those who watch their pods are told, of all at once.
    pub(super) fn path_news(&mut self, news: Vec<PathNews>) {
        let mut told: BTreeMap<(String, PathState), Vec<RemoteGtpuPeer>> = BTreeMap::new();
        for (pod, state, peer) in news.into_iter().filter_map(|it| self.paths.take(it)) {
            let (network, local) = (&peer.network_instance, &peer.local_address);
            tracing::info!(pod, network, local, peer = peer.address, ?state, "a GTP-U path");
            told.entry((pod, state)).or_default().push(peer);
        }
        for ((pod, state), remote_gtpu_peers) in told {
            let event = match state {
                PathState::Down => {
                    Watched::UserPlanePathFailure(UserPlanePathFailureReport { remote_gtpu_peers })
                }
                _ => Watched::UserPlanePathRecovery(UserPlanePathRecoveryReport { remote_gtpu_peers }),
            };
            // Nobody watches: that is no error.
            let _ = self.happened.send(Happened { pod, event });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nad::fast_path::PathCheck;
    use std::time::Duration;

    fn key(interface: &str) -> AttachmentKey {
        AttachmentKey { container: "c".to_owned(), interface: interface.to_owned() }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn wanted(peers: &[&str], local: &str) -> BTreeMap<AttachmentKey, paths::Paths> {
        let second = Duration::from_secs(1);
        let paths = paths::Paths {
            network: "core/n3".to_owned().try_into().expect("a name"),
            pod: "pod core/upf-0".to_owned(),
            check: PathCheck { interval: second * 60, timeout: second, requests: 1 },
            peers: peers.iter().map(|it| (address(it), address(local))).collect(),
            left_out: 0,
        };
        BTreeMap::from([(key("net1"), paths)])
    }

    #[test]
    fn failures_and_recoveries_are_told_and_nothing_else_is() {
        let mut paths = Paths::default();
        paths.want(wanted(&["10.30.0.10", "10.30.0.11"], "10.30.0.50"));
        let mut take = |peer: &str, state| {
            let news = PathNews { endpoint: key("net1"), peer: address(peer), state };
            let told = paths.take(news);
            (told.map(|(pod, state, peer)| (pod, state, peer.address)), paths.failures["core/n3"])
        };
        let told = |state| Some(("core/upf-0".to_owned(), state, "10.30.0.10".to_owned()));
        assert_eq!(take("10.30.0.10", PathState::Up), (None, 0), "the agent has just started");
        assert_eq!(take("10.30.0.10", PathState::Down), (told(PathState::Down), 1));
        assert_eq!(take("10.30.0.10", PathState::Down), (None, 1));
        assert_eq!(take("10.30.0.10", PathState::Up), (told(PathState::Up), 1));
        assert_eq!(take("10.30.0.12", PathState::Down), (None, 1), "no session uses it");
        assert_eq!(take("10.30.0.10", PathState::Down), (told(PathState::Down), 2));
        assert_eq!(paths.failed("core/n3", "net1", "pod core/upf-0"), ["10.30.0.10"]);
        assert_eq!(paths.failed("core/n3", "net2", "pod core/upf-0"), [""; 0]);
        // From another address it is another path.
        paths.want(wanted(&["10.30.0.10"], "10.30.0.51"));
        assert_eq!(paths.failed("core/n3", "net1", "pod core/upf-0"), [""; 0]);
    }
}
