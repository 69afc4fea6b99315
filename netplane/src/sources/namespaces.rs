//! Which network namespace is whose, for pods that have no attachment record: the one among the runtime's
//! (`/run/netns`) that has the interfaces which `network-status` tells of, by name and MAC.

use super::files::is_change;
use super::{Fact, Send, Stop, chain};
use crate::netlink::Mac;
use crate::netlink::netns::{Netns, NetnsId};
use crate::netlink::socket::Netlink;
use crate::world::ContainerKey;
use notify::{RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Changes that are closer together are one: pods start by the hundred.
const SETTLE: Duration = Duration::from_millis(50);
/// How long to wait before what was not found is looked for again, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// What identifies a pod's namespace: all of these interfaces are in it.
pub type Interfaces = Vec<(String, Mac)>;

/// Whom to look for, all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Counts the requests; an answer has its request's.
    pub number: u64,
    pub pods: BTreeMap<ContainerKey, Interfaces>,
}

/// What the search waits for.
enum Wake {
    Wanted(Wanted),
    /// The folder has changed.
    Look,
}

/// The asking end.
pub struct Requests(Sender<Wake>);

impl Requests {
    /// From now on these are looked for. Nobody listens any more: the agent is ending.
    pub fn want(&self, wanted: Wanted) {
        let _ = self.0.send(Wake::Wanted(wanted));
    }
}

/// A search to be run on a thread of its own.
pub struct Search {
    folder: PathBuf,
    wake: Sender<Wake>,
    woken: Receiver<Wake>,
}

impl Search {
    /// In the runtime's folder of namespaces. It need not be there yet.
    pub fn new(folder: &Path) -> (Requests, Self) {
        let (wake, woken) = channel();
        (Requests(wake.clone()), Self { folder: folder.to_owned(), wake, woken })
    }

    /// Answers each request, and again when the answer changes, until stopped.
    pub fn run(&self, send: &Send, stop: &Stop) {
        let wake = self.wake.clone();
        let mut watcher = notify::recommended_watcher(move |event| {
            if is_change(&event) {
                let _ = wake.send(Wake::Look);
            }
        })
        .ok();
        let mut is_watched = false;
        let mut wanted = Wanted::default();
        let (mut found, mut last) = (Found::default(), None);
        let mut pause = FIRST_PAUSE;
        while !stop.is_stopped() {
            let watch =
                |it: &mut notify::RecommendedWatcher| it.watch(&self.folder, RecursiveMode::NonRecursive);
            is_watched = is_watched || watcher.as_mut().is_some_and(|it| watch(it).is_ok());
            let all = found.look(&self.folder, &wanted.pods);
            let answer = (wanted.number, found.paths());
            if wanted.number > 0 && last.as_ref() != Some(&answer) {
                if !send(Fact::Located(answer.0, answer.1.clone())) {
                    return;
                }
                last = Some(answer);
            }
            let most = if all && is_watched { LAST_PAUSE } else { pause };
            pause = (pause * 2).min(LAST_PAUSE);
            if self.wait(most, &mut wanted) {
                pause = FIRST_PAUSE;
            }
        }
    }

    /// Whether something has happened.
    fn wait(&self, most: Duration, wanted: &mut Wanted) -> bool {
        let mut timeout = most;
        let mut happened = false;
        loop {
            match self.woken.recv_timeout(timeout) {
                Ok(Wake::Wanted(new)) => *wanted = new,
                Ok(Wake::Look) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return happened,
            }
            (happened, timeout) = (true, SETTLE);
        }
    }
}

/// Who was found where.
#[derive(Debug, Default)]
struct Found(BTreeMap<ContainerKey, (PathBuf, NetnsId, Interfaces)>);

impl Found {
    fn paths(&self) -> BTreeMap<ContainerKey, PathBuf> {
        self.0.iter().map(|(pod, (path, _, _))| (pod.clone(), path.clone())).collect()
    }

    /// Keeps who is where he was, and looks for the others in the namespaces that are nobody's. True: all are
    /// found. A namespace is one pod's: who claims another one's interfaces is not believed.
    fn look(&mut self, folder: &Path, wanted: &BTreeMap<ContainerKey, Interfaces>) -> bool {
        self.0.retain(|pod, (path, id, interfaces)| {
            wanted.get(pod) == Some(interfaces) && Netns::open(&**path).is_ok_and(|it| it.id() == *id)
        });
        let missing: Vec<_> = wanted.iter().filter(|(pod, _)| !self.0.contains_key(*pod)).collect();
        if missing.is_empty() {
            return true;
        }
        let taken: BTreeSet<NetnsId> = self.0.values().map(|(_, id, _)| *id).collect();
        let mut free = Vec::new();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            // One that is on its way up or down is no namespace.
            let Ok(netns) = Netns::open(entry.path()) else { continue };
            if taken.contains(&netns.id()) {
                continue;
            }
            match interfaces(&netns) {
                Ok(interfaces) => free.push((netns.path().to_owned(), netns.id(), interfaces)),
                Err(error) => tracing::debug!(error, path = %netns.path().display(), "cannot look into it"),
            }
        }
        let mut all = true;
        for (pod, interfaces) in missing {
            let is = |it: &(PathBuf, NetnsId, BTreeSet<(String, Mac)>)| {
                interfaces.iter().all(|one| it.2.contains(one))
            };
            match free.iter().position(is) {
                Some(at) => {
                    let (path, id, _) = free.swap_remove(at);
                    self.0.insert(pod.clone(), (path, id, interfaces.clone()));
                }
                None => all = false,
            }
        }
        all
    }
}

fn interfaces(netns: &Netns) -> Result<BTreeSet<(String, Mac)>, String> {
    let netlink = Netlink::open(netns).map_err(|it| chain(&it))?;
    let links = netlink.links().map_err(|it| chain(&it))?;
    Ok(links.into_iter().filter_map(|it| Some((it.name, it.mac?))).collect())
}
