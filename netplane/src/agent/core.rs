//! The loop's state: the world, what is in the kernel, and what is wrong.

mod buffers;
mod choose;
mod paths;
mod sessions;
mod upkeep;
mod usage;

pub(super) use self::buffers::BufferLimits;
use self::buffers::Buffers;
use self::paths::Paths;
use self::sessions::Identities;
use self::usage::Usages;
use super::beside::Beside;
use super::ground::Ground;
use super::lost::Growth;
use super::memory;
use super::metrics::Metrics;
use super::observers::Observers;
use super::probe::Probe;
use super::scrape::{self, Scraped};
use super::sessions::Happened;
use super::sessions::journal::Journal;
use super::status::{SessionState, Status};
use super::top::{EndpointTraffic, Top};
use super::totals::Totals;
use super::trace::{self, Query, Traced};
use super::{AgentError, status};
use crate::attach::record::{AttachmentRecord, PodRef};
use crate::dataplane::{Kernel, KernelError, Raised};
use crate::nad::dir::Loaded;
use crate::nad::fast_path::{FAST_PATH_ANNOTATION, FastPath};
use crate::nad::{Nad, NetworkName};
use crate::netlink::observe::Snapshot;
use crate::sources::{Fact, chain};
use crate::world::end_marker::of_operations;
use crate::world::programmed::{Followed, Limits, Programmed, edit};
use crate::world::tables::{Operation, Tables};
use crate::world::{
    Attachment, AttachmentKey, Compiled, ContainerKey, Problem, Slots, WantedNeighbour, World,
    compile_beside, diff,
};
use netplane_common::map::{EventKind, UsageKey};
use netplane_common::wire::ip;
use prometheus_client::registry::Registry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// Events of sessions that a slow watcher may be behind.
const EVENTS: usize = 1024;

/// Failed operations are tried again after this long, then after twice that, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Everything the loop knows.
pub(super) struct Core<K> {
    kernel: K,
    /// Something forwards already that nothing was changed of yet.
    takes_over: bool,
    observers: Observers,
    ground: Ground,
    /// NADs of the directory, and those of the cluster with metadata.
    nad_files: Arc<Loaded>,
    cluster_nads: Arc<Vec<Nad>>,
    /// Attachment records, and pods without.
    records: Arc<BTreeMap<ContainerKey, AttachmentRecord>>,
    beside: Beside,
    world: World,
    slots: Slots,
    /// The tables in the kernel.
    current: Tables,
    compiled: Compiled,
    /// Problems of sources, of metadata and of the kernel.
    source_problems: BTreeMap<&'static str, Vec<Problem>>,
    kernel_problems: Vec<Problem>,
    /// Containers whose namespace cannot be seen, and why.
    unseen: BTreeMap<ContainerKey, String>,
    retry: Option<(Instant, Duration)>,
    asked: BTreeSet<(ContainerKey, u32, IpAddr)>,
    metrics: Arc<Metrics>,
    totals: Totals,
    losses: Growth,
    pub(super) probe: Probe,
    pub(super) most_session_series: Option<usize>,
    /// The sessions of the API, whose pods they are, and where they are written down.
    programmed: Programmed,
    identities: Identities,
    journal: Option<Journal>,
    happened: broadcast::Sender<Happened>,
    usages: Usages,
    buffers: Buffers,
    paths: Paths,
    /// Operations of theirs that wait for the reconcile to be carried out.
    of_sessions: Vec<Operation>,
    /// Sessions written down since memory was given back.
    edits: usize,
    /// When this agent began, until that is over.
    start: Option<Instant>,
    /// The world has changed since the last reconcile.
    stale: bool,
    /// Grace periods since all session entries were found by an index.
    settling: usize,
}

impl<K: Kernel> Core<K> {
    pub(super) fn new(
        mut kernel: K,
        observers: Observers,
        follows_cluster: bool,
        metrics: Arc<Metrics>,
    ) -> Result<Self, AgentError> {
        let left = kernel.read_back()?;
        let slots = Slots::seed(&left.tables);
        let takes_over = !left.in_force || !left.tables.masters.is_empty();
        let current = if left.in_force { left.tables } else { Tables::default() };
        let taken_over = current.uplink.len() + current.downlink4.len() + current.downlink6.len();
        if taken_over > 0 {
            tracing::info!(entries = taken_over, masters = current.masters.len(), "took over the data plane");
        }
        Ok(Self {
            kernel,
            takes_over,
            observers,
            ground: Ground::new(follows_cluster),
            nad_files: Arc::default(),
            cluster_nads: Arc::default(),
            records: Arc::default(),
            beside: Beside::default(),
            world: World::default(),
            slots,
            current,
            compiled: Compiled::default(),
            source_problems: BTreeMap::new(),
            kernel_problems: Vec::new(),
            unseen: BTreeMap::new(),
            retry: None,
            asked: BTreeSet::new(),
            metrics,
            totals: Totals::default(),
            losses: Growth::default(),
            probe: Probe::default(),
            most_session_series: None,
            programmed: Programmed::default(),
            identities: Identities::default(),
            journal: None,
            happened: broadcast::Sender::new(EVENTS),
            usages: Usages::default(),
            buffers: Buffers::default(),
            paths: Paths::default(),
            of_sessions: Vec::new(),
            edits: 0,
            start: Some(Instant::now()),
            stale: true,
            settling: 0,
        })
    }

    /// Opens the journal: its sessions are those that an earlier agent has left in the tables.
    pub(super) fn take_over_sessions(
        &mut self,
        journal: &Path,
        per_pod: u32,
        buffers: BufferLimits,
    ) -> Result<(), AgentError> {
        self.buffers.limits = buffers;
        self.programmed.limits = Limits { counters: self.kernel.session_counters_len(), per_pod };
        let opened = Journal::open(journal, |it| self.programmed.restore(it));
        let operation = format!("read {}", journal.display());
        self.journal = Some(opened.map_err(|source| AgentError::Io { operation, source })?);
        let programmed = &self.programmed;
        let is_theirs = |handle| programmed.generation(handle).is_some();
        // An agent that was killed in the middle of a request has left entries of sessions that are not written
        // down. They go, and their counters, from the end of the table, are no static sessions', which begin at zero.
        let half = programmed.limits.counters / 2;
        let is_of_api = |it| it >= half || programmed.limits.holder(it).is_some_and(is_theirs);
        self.slots.release_counters(is_of_api);
        let handles: Vec<u32> = self.programmed.kept().map(|it| it.handle).collect();
        for handle in handles {
            let session = self.programmed.of_handle(handle).map(|(_, it)| it).unwrap_or_default();
            for urr in &session.urrs {
                self.usages.follow(UsageKey { session: handle, urr: urr.id }, urr);
            }
        }
        self.buffer_again();
        Ok(())
    }

    /// Takes in a fact. Nothing happens until `reconcile`. Whether the world may be another now.
    pub(super) fn fact(&mut self, fact: Fact) -> bool {
        if let Fact::Paths(news) = fact {
            self.path_news(news);
            return false;
        }
        self.stale = true;
        match fact {
            Fact::Paths(_) => {}
            Fact::Nads(Ok(loaded)) => {
                self.ground.nads();
                self.nad_files = loaded;
                self.nads();
            }
            Fact::Nads(Err(error)) => {
                // Known NADs stay in force: a directory that cannot be read says nothing about them.
                self.ground.nads();
                let problem = Problem { object: "NAD directory".to_owned(), message: error };
                self.source_problems.insert("nads", vec![problem]);
            }
            Fact::ClusterNads(nads) => {
                self.ground.cluster();
                self.cluster_nads = nads;
                self.nads();
            }
            Fact::ClusterProblem(what, None) => drop(self.source_problems.remove(what)),
            Fact::ClusterProblem(what, Some(message)) => {
                self.metrics.api_error(what);
                let problem = Problem { object: format!("watch of the cluster's {what}"), message };
                self.source_problems.insert(what, vec![problem]);
            }
            Fact::Unattached(problems) => drop(self.source_problems.insert("unattached", problems)),
            Fact::Records(records, problems) => {
                self.ground.records(records.keys());
                self.records = records;
                self.attachments();
                let problem = |message| Problem { object: "attachment records".to_owned(), message };
                self.source_problems.insert("records", problems.into_iter().map(problem).collect());
            }
            Fact::Told(told) => {
                self.beside.told(told);
                self.attachments();
            }
            Fact::Located(number, located) => {
                if self.beside.located(number, located) {
                    self.ground.located();
                }
                self.attachments();
            }
            Fact::Masters(links) => {
                self.ground.masters();
                self.world.masters = links.into_iter().map(|it| (it.name.clone(), it)).collect();
            }
            Fact::Pod(container, snapshot) => {
                self.ground.pod(&container);
                self.pod(container, snapshot);
            }
        }
        true
    }

    /// A namespace that cannot be seen is a problem for as long as its record says that it is there.
    fn pod(&mut self, container: ContainerKey, snapshot: Result<Snapshot, String>) {
        match snapshot {
            Ok(snapshot) => {
                self.unseen.remove(&container);
                self.world.pods.insert(container, snapshot);
            }
            Err(error) => {
                self.world.pods.remove(&container);
                if self.unseen.get(&container) != Some(&error) {
                    tracing::warn!(error, container, "the container's namespace cannot be seen");
                    self.unseen.insert(container, error);
                }
            }
        }
    }

    /// Metadata that is wrong is a problem, and its last good version stays in force. As for the plugin, the
    /// directory goes before the cluster.
    fn nads(&mut self) {
        let loaded = &self.nad_files;
        let mut problems: Vec<_> = loaded
            .problems
            .iter()
            .map(|it| Problem { object: format!("file {}", it.path.display()), message: it.message.clone() })
            .collect();
        let mut networks: BTreeMap<NetworkName, FastPath> = BTreeMap::new();
        let in_files = |name: &NetworkName| loaded.nads.iter().any(|(_, it)| it.name == *name);
        let of_cluster = self.cluster_nads.iter().filter(|it| !in_files(&it.name));
        for nad in loaded.nads.iter().map(|(_, nad)| nad).chain(of_cluster) {
            let Some(annotation) = nad.annotations.get(FAST_PATH_ANNOTATION) else { continue };
            match FastPath::parse(annotation) {
                Ok(fast_path) => drop(networks.insert(nad.name.clone(), fast_path)),
                Err(wrong) => {
                    let object = format!("NAD {}", nad.name);
                    let problem =
                        |it: &dyn ToString| Problem { object: object.clone(), message: it.to_string() };
                    problems.extend(wrong.iter().map(|it| problem(it)));
                    if let Some(good) = self.world.networks.get(&nad.name) {
                        networks.insert(nad.name.clone(), good.clone());
                    }
                }
            }
        }
        // A file that cannot be read any more may hold a NAD that is in force.
        if !loaded.problems.is_empty() {
            for (name, good) in &self.world.networks {
                networks.entry(name.clone()).or_insert_with(|| good.clone());
            }
        }
        self.world.networks = networks;
        self.source_problems.insert("nads", problems);
        self.attachments();
    }

    /// Attachments of the records, and of pods that have none; and their namespaces are followed.
    fn attachments(&mut self) {
        if !self.ground.can_search() {
            return;
        }
        let name = |it: &AttachmentRecord| it.pod.as_ref().map(pod_name);
        let recorded = self.records.values().filter_map(name).collect();
        let networks = self.world.networks.keys().cloned().collect();
        self.beside.search(&networks, &recorded, &self.observers);
        let nads: Vec<&Nad> =
            self.nad_files.nads.iter().map(|(_, nad)| nad).chain(&*self.cluster_nads).collect();
        self.world.attachments = self.beside.attachments(&nads);
        self.identities = Identities::default();
        for pod in self.world.attachments.values().filter_map(|it| it.pod.as_ref()) {
            self.identities.add_beside(pod.to_string());
        }
        for (container, record) in &*self.records {
            let pod = record.pod.as_ref().map(pod_name);
            let uid = record.pod.as_ref().and_then(|it| it.uid.as_deref());
            let name = pod.as_ref().map_or_else(|| container.clone(), ToString::to_string);
            self.identities.add(name, uid, &record.container_id);
            for attachment in &record.attachments {
                let Some(network) = attachment.network.clone() else { continue };
                let key =
                    AttachmentKey { container: container.clone(), interface: attachment.interface.clone() };
                let (pod, master) = (pod.clone(), attachment.master.clone());
                self.world.attachments.insert(key, Attachment { network, pod, master });
            }
        }
        let records = self.records.iter();
        let mut wanted: BTreeMap<_, _> =
            records.map(|(container, record)| (container.clone(), record.netns.clone())).collect();
        wanted.extend(self.beside.namespaces());
        self.ground.records(wanted.keys());
        self.world.pods.retain(|container, _| wanted.contains_key(container));
        self.unseen.retain(|container, _| wanted.contains_key(container));
        self.observers.follow(&wanted);
    }

    /// Makes the kernel have what the world wants.
    pub(super) fn reconcile(&mut self) {
        if !self.ground.is_firm() {
            return;
        }
        let begun = Instant::now();
        self.stale = false;
        let was_taken_over = self.takes_over;
        let followed = self.programmed.follow(
            &self.world,
            &mut self.slots,
            &self.compiled,
            &mut self.current,
            &self.identities.alive,
        );
        let Followed { operations, gone, pods } = followed;
        self.of_sessions.extend(operations);
        self.discard_buffered(gone.iter().map(|it| it.handle));
        self.write_down(gone);
        if !pods.is_empty() {
            tracing::info!(?pods, "their endpoints are others: their sessions were compiled again");
        }
        self.compiled = compile_beside(&self.world, &mut self.slots, &self.programmed);
        self.paths.is_stale = true;
        self.probe.want(self.compiled.tables.masters.keys().copied().collect());
        if self.takes_over {
            let unresolved = self.compiled.wanted.iter().any(|it| !it.resolved);
            if unresolved && self.ground.waits_for_neighbours() {
                self.ask_for_neighbours();
                return;
            }
            self.takes_over = false;
        }
        let of_sessions = std::mem::take(&mut self.of_sessions);
        let (operations, of_sessions) = diff::diff_around(&self.current, &self.compiled.tables, of_sessions);
        let asked = self.compiled.sessions.iter().filter(|it| it.end_marker).filter_map(|it| it.downlink);
        let asked = asked.collect();
        let markers = of_operations(&self.current, &self.compiled.tables, &operations, &asked);
        let failures = self.kernel.apply(&operations);
        let failed: BTreeMap<usize, &KernelError> =
            failures.iter().map(|(index, error)| (*index, error)).collect();
        for (index, operation) in operations.iter().enumerate() {
            match (failed.get(&index), of_sessions.contains(&index)) {
                (Some(error), true) => self.programmed.failed(operation, &chain(&*error.source)),
                (None, false) => self.current.apply(operation),
                _ => {}
            }
        }
        let done = markers.into_iter().filter(|(_, index)| !failed.contains_key(index));
        let done: Vec<_> = done.map(|(marker, _)| marker).collect();
        self.end_markers(&done);
        self.remember_failures(&failures);
        self.metrics.reconciled(begun.elapsed(), failures.len());
        if !operations.is_empty() {
            let (operations, failed) = (operations.len(), failures.len());
            tracing::info!(operations, failed, sessions = self.compiled.sessions.len(), "reconciled");
        }
        let many = operations.len() >= memory::MANY;
        drop(operations);
        self.ask_for_neighbours();
        if many || was_taken_over {
            memory::give_back();
        }
    }

    fn remember_failures(&mut self, failures: &[(usize, KernelError)]) {
        let problem = |error: &KernelError| Problem {
            object: error.operation.clone(),
            message: match &error.remedy {
                Some(remedy) => format!("{} ({remedy})", chain(&*error.source)),
                None => chain(&*error.source),
            },
        };
        let problems: Vec<_> = failures.iter().map(|(_, error)| problem(error)).collect();
        for new in problems.iter().filter(|it| !self.kernel_problems.contains(it)) {
            tracing::error!(object = new.object, "{}", new.message);
        }
        self.kernel_problems = problems;
        self.retry = match (failures.is_empty(), self.retry) {
            (true, _) => None,
            (false, None) => Some((Instant::now() + FIRST_RETRY, FIRST_RETRY)),
            (false, Some((_, last))) => {
                let pause = (last * 2).min(LAST_RETRY);
                Some((Instant::now() + pause, pause))
            }
        };
    }

    /// Each neighbour once when it is first wanted: the kernel then keeps it. Unresolved ones again with
    /// every tick.
    fn ask_for_neighbours(&mut self) {
        let key = |it: &WantedNeighbour| (it.from.container.clone(), it.ifindex, it.address);
        let wanted: BTreeSet<_> = self.compiled.wanted.iter().map(key).collect();
        for (container, ifindex, address) in wanted.difference(&self.asked) {
            self.observers.resolve(container, *ifindex, *address);
        }
        self.asked = wanted;
    }

    /// What has to be looked after when nothing happens.
    pub(super) fn tick(&mut self) {
        for wanted in self.compiled.wanted.iter().filter(|it| !it.resolved) {
            self.observers.resolve(&wanted.from.container, wanted.ifindex, wanted.address);
        }
        self.follow_paths();
        self.observe_losses();
        self.observe_pins();
        self.give_memory_back();
        self.catch_up_journal();
        let due = self.forget_what_is_undone() || self.retry.is_some_and(|(at, _)| Instant::now() >= at);
        // The ground may have become firm by patience alone.
        if due || self.takes_over || self.compiled == Compiled::default() {
            self.reconcile();
        }
    }

    /// Neighbours that packets have asked for, each once, and what watchers want to know.
    pub(super) fn drain_events(&mut self) {
        self.buffer();
        let mut wanted = BTreeSet::new();
        let mut messages = BTreeSet::new();
        for raised in self.kernel.drain_events() {
            match raised {
                Raised::Event(it) if it.kind == EventKind::NeighbourWanted as u32 => {
                    wanted.insert((it.scope, ip::unmapped(it.address)));
                }
                Raised::Event(it) if it.kind == EventKind::UsageReached as u32 => {
                    self.usages.reached(UsageKey { session: it.scope, urr: it.address[0].get() });
                }
                Raised::Event(_) => {}
                Raised::Gtpu(it) => drop(messages.insert(it)),
            }
        }
        messages.iter().for_each(|it| self.tell(it));
        self.report_usage();
        for (scope, address) in wanted {
            if let Some((from, ifindex)) = self.compiled.scopes.get(&scope) {
                self.observers.resolve(&from.container, *ifindex, address);
            }
        }
    }

    /// Readable when packets are to be kept.
    pub(super) fn wakes(&self) -> Option<OwnedFd> {
        self.kernel.wakes()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ground.is_firm() && !self.takes_over
    }

    /// Metrics of what is here.
    pub(super) fn scrape(&mut self) -> Registry {
        let problems = self.problems();
        let shown = self.most_session_series.unwrap_or(0);
        let ready = self.is_ready();
        let mut status =
            status::gather(&mut self.kernel, &self.compiled, (ready, problems, self.probe.devices()), shown);
        status.programmed.buffered_packets = self.buffers.len();
        self.paths.show(&mut status);
        let state = |it: bool| if it { SessionState::Forwarding } else { SessionState::NextHopUnresolved };
        let sessions = self.compiled.sessions.iter().map(|it| (&it.network, state(it.resolved)));
        let nothing = BTreeMap::new();
        let forwarded = self.totals.get(&mut self.kernel, &self.compiled).unwrap_or_else(|error| {
            let message = chain(&*error.source);
            status.problems.push(Problem { object: error.operation, message });
            &nothing
        });
        scrape::registry(&Scraped {
            status: &status,
            forwarded,
            sessions: scrape::count_sessions(sessions),
            tables: &self.current,
            statistics: &self.kernel.statistics(),
            most_sessions: self.most_session_series,
        })
    }

    /// What becomes of a packet, by the tables that are in the kernel.
    pub(super) fn trace(&mut self, query: &Query) -> Result<Vec<Traced>, String> {
        let Self { world, slots, compiled, programmed, current, .. } = self;
        let (mut tables, mut views) = (current.clone(), compiled.clone());
        // Of the API's sessions, those that it is about.
        edit(world, slots, compiled, programmed, |editor| {
            editor.show_matching((query.teid, query.ue), &mut tables, &mut views.sessions);
        });
        trace::trace(&views, &tables, query)
    }

    pub(super) fn top(&mut self) -> Top {
        let (problems, ready) = (self.problems(), self.is_ready());
        let mut status =
            status::gather(&mut self.kernel, &self.compiled, (ready, problems, self.probe.devices()), 0);
        let endpoints = match self.totals.get(&mut self.kernel, &self.compiled) {
            Ok(forwarded) => forwarded.iter().map(|((network, pod), it)| EndpointTraffic {
                network: network.clone(),
                pod: pod.clone(),
                uplink: it.uplink.into(),
                downlink: it.downlink.into(),
            }),
            Err(error) => {
                let message = chain(&*error.source);
                status.problems.push(Problem { object: error.operation, message });
                return Top { status, ..Top::default() };
            }
        };
        let endpoints = endpoints.collect();
        let busiest = &self.totals.busiest;
        Top {
            status,
            sessions: self.compiled.sessions.len() + self.programmed.len(),
            endpoints,
            busiest: busiest.sessions.clone(),
            seconds: busiest.between.as_secs_f64(),
            reading: busiest.reading,
        }
    }

    pub(super) fn status(&mut self) -> Status {
        let problems = self.problems();
        let ready = self.is_ready();
        let mut status = status::gather(
            &mut self.kernel,
            &self.compiled,
            (ready, problems, self.probe.devices()),
            usize::MAX,
        );
        status.programmed.sessions = self.programmed.len();
        status.programmed.buffered_packets = self.buffers.len();
        self.paths.show(&mut status);
        status
    }

    fn problems(&self) -> Vec<Problem> {
        let problems = self.source_problems.values().flatten().chain(&self.compiled.problems);
        let unseen = self.unseen.iter().map(|(container, error)| Problem {
            object: format!("container {container}"),
            message: error.clone(),
        });
        let masters = &self.compiled.tables.masters;
        let name = |it| masters.get(&it).map_or_else(|| format!("interface {it}"), |it| it.name.clone());
        let lost = self.losses.problems(name);
        let paths = self.paths.problems();
        problems.chain(&self.kernel_problems).cloned().chain(unseen).chain(lost).chain(paths).collect()
    }
}

fn pod_name(pod: &PodRef) -> NetworkName {
    NetworkName { namespace: pod.namespace.clone(), name: pod.name.clone() }
}
