//! The loop's side of the session API: who may touch what, and changes carried out one after the other.

use super::buffers::Buffers;
use super::usage::Usages;
use super::{Core, choose, usage};
use crate::agent::sessions::caller::Caller;
use crate::agent::sessions::{Call, Happened, What};
use crate::dataplane::{Kernel, KernelError, TABLE_FULL};
use crate::sources::chain;
use crate::world::end_marker::EndMarker;
use crate::world::programmed::{Editor, Kept, Planned, edit};
use crate::world::tables::{Operation, Tables};
use crate::world::{EndpointView, Kind, NetworkView, Problem, Refusal, buffering};
use netplane_client::v1::watch_response::Event as Watched;
use netplane_client::v1::{self, GtpuEventKind};
use netplane_client::v1::{
    ApplyRequest, ApplyResponse, Change, DescribeResponse, Endpoint, Result as Outcome, Session,
    SessionState, State, UsageReport, Volume, change,
};
use netplane_common::map::{Counter, EventKind, GtpuEvent, UsageKey};
use netplane_common::wire::ip;
use std::collections::BTreeMap;
use std::io;
use tonic::{Code, Status};

/// Sessions in one answer of a list.
const PAGE: usize = 500;

/// Pods of this node by what a caller's cgroup tells.
#[derive(Debug, Default)]
pub(super) struct Identities {
    /// Pod by UID, and by sandbox.
    by_uid: BTreeMap<String, String>,
    by_container: BTreeMap<String, String>,
    /// What tells a pod from a later one of its name.
    pub(super) alive: BTreeMap<String, String>,
}

impl Identities {
    /// Adds a record's pod; outside of Kubernetes a container is its own.
    pub(super) fn add(&mut self, pod: String, uid: Option<&str>, container: &str) {
        if let Some(uid) = uid.filter(|it| !it.is_empty()) {
            self.by_uid.insert(uid.to_owned(), pod.clone());
        }
        self.by_container.insert(container.to_owned(), pod.clone());
        let uid = uid.filter(|it| !it.is_empty()).unwrap_or(container);
        self.alive.insert(pod, uid.to_owned());
    }

    /// Adds a pod that somebody else has attached: only root of the node can name it.
    pub(super) fn add_beside(&mut self, pod: String) {
        self.alive.insert(pod.clone(), pod);
    }

    /// The pod whose sessions a call is about, and its UID.
    fn pod(&self, caller: &Caller, asked: &str) -> Result<(String, String), Status> {
        let own = match caller {
            Caller::Nobody(why) => return Err(Status::permission_denied(why)),
            Caller::Node if asked.is_empty() => {
                return Err(Status::invalid_argument("pod: is missing: root of the node names one"));
            }
            Caller::Node => asked.to_owned(),
            Caller::Pod { uid, container } => {
                let by_uid = uid.as_ref().and_then(|it| self.by_uid.get(it));
                let by_container = || container.as_ref().and_then(|it| self.by_container.get(it));
                // A UID that is not known is not made up for by a container's identifier.
                let own = if uid.is_some() { by_uid } else { by_container() };
                let named = uid.as_ref().or(container.as_ref()).map_or("", String::as_str);
                let own = own.cloned().ok_or_else(|| {
                    let message = format!("the caller is in pod {named}, which netplane has not attached");
                    Status::permission_denied(message)
                })?;
                if !asked.is_empty() && asked != own {
                    let message = format!("pod {own} may not touch the sessions of pod {asked}");
                    return Err(Status::permission_denied(message));
                }
                own
            }
        };
        let uid = self.alive.get(&own);
        let uid =
            uid.ok_or_else(|| Status::not_found(format!("pod {own} has no attachment on this node")))?;
        Ok((own, uid.clone()))
    }
}

/// The pod as callers know it, of how an endpoint names it.
pub(super) fn name_of(shown: &str) -> &str {
    shown.strip_prefix("pod ").or(shown.strip_prefix("container ")).unwrap_or(shown)
}

impl<K: Kernel> Core<K> {
    /// Answers a call of the session API. A caller that has gone does not want to know any more.
    pub(in crate::agent) fn call(&mut self, call: Call) {
        if self.stale {
            self.reconcile();
        }
        let pod = if self.ground.is_firm() {
            self.identities.pod(&call.caller, &call.pod)
        } else {
            Err(Status::unavailable("the agent does not know its pods yet"))
        };
        match call.what {
            What::Apply(_, reply) if self.takes_over => {
                let message = "the agent has not taken over its predecessor's tables yet";
                drop(reply.send(Err(Status::unavailable(message))));
            }
            What::Apply(request, reply) => {
                drop(reply.send(pod.map(|(pod, uid)| self.apply((&pod, &uid), request))));
            }
            What::Get(id, reply) => drop(reply.send(pod.and_then(|(pod, _)| self.get(&pod, &id)))),
            What::List(from, reply) => drop(reply.send(pod.map(|(pod, _)| self.list(&pod, from)))),
            What::Describe(reply) => drop(reply.send(pod.map(|(pod, _)| self.describe(pod)))),
            What::Watch(reply) => {
                let watch = pod.map(|(pod, _)| {
                    let held = self.usages.watch(&pod);
                    (pod, self.happened.subscribe(), held)
                });
                drop(reply.send(watch));
            }
        }
    }

    fn apply(&mut self, pod: (&str, &str), request: ApplyRequest) -> ApplyResponse {
        // What is on its way to be kept is of the sessions as they are.
        self.take_in();
        let (results, watched) = self.change(|editor, hands| {
            let one = |it: Change| hands.change(editor, pod, request.generation, it);
            let results = request.changes.into_iter().map(one).collect();
            (results, std::mem::take(&mut hands.watched))
        });
        if self.happened.receiver_count() > 0 {
            for event in watched {
                let _ = self.happened.send(Happened { pod: pod.0.to_owned(), event });
            }
        }
        self.buffer();
        ApplyResponse { results }
    }

    /// Changes sessions, and does what follows.
    pub(super) fn change<R>(
        &mut self,
        change: impl FnOnce(&mut Editor<'_, '_, '_, '_, '_>, &mut Hands<'_, K>) -> R,
    ) -> R {
        let Self { kernel, world, slots, compiled, programmed, current, usages, buffers, .. } = self;
        let (mut kept, mut markers) = (Vec::<Kept>::new(), Vec::new());
        let (result, found) = edit(world, slots, compiled, programmed, |editor| {
            let (kept, markers) = (&mut kept, &mut markers);
            let (watched, reports) = (Vec::new(), Vec::new());
            let mut hands = Hands { kernel, current, usages, buffers, kept, watched, markers, reports };
            change(editor, &mut hands)
        });
        // What was found on the way is part of what is compiled, as the next compilation will find.
        self.compiled.tables.next_hops.extend(found.tables.next_hops);
        self.compiled.tables.routes.extend(found.tables.routes);
        self.compiled.tables.routers.extend(found.tables.routers);
        self.compiled.tables.peers.extend(found.tables.peers);
        self.compiled.scopes.extend(found.scopes);
        let wanted_more = !found.wanted.is_subset(&self.compiled.wanted);
        self.compiled.wanted.extend(found.wanted);
        self.write_down(kept);
        self.end_markers(&markers);
        if wanted_more {
            self.ask_for_neighbours();
        }
        result
    }

    /// Tells those who watch the pod of a message to one of its endpoints.
    pub(super) fn tell(&self, it: &GtpuEvent) {
        if self.happened.receiver_count() == 0 {
            return;
        }
        let kind = [
            (EventKind::UnknownTeid, GtpuEventKind::UnknownTeid),
            (EventKind::EndMarker, GtpuEventKind::EndMarker),
            (EventKind::ErrorIndication, GtpuEventKind::ErrorIndication),
            (EventKind::EchoResponse, GtpuEventKind::EchoResponse),
        ];
        let kind = kind.iter().find(|(kind, _)| *kind as u32 == it.kind).map(|(_, kind)| *kind);
        let is_network = |view: &&NetworkView| view.index.map(u32::from) == Some(it.network);
        let network = self.compiled.networks.iter().find(is_network).map(|it| &it.name);
        let Some((kind, network)) = kind.zip(network) else { return };
        let local = ip::unmapped(it.local);
        let has = |view: &&EndpointView| {
            view.network == *network && view.addresses.iter().any(|address| address.addr() == local)
        };
        let Some(endpoint) = self.compiled.endpoints.iter().find(has) else { return };
        let pod = name_of(&endpoint.pod).to_owned();
        let event = Watched::Gtpu(v1::GtpuEvent {
            kind: kind.into(),
            network_instance: network.to_string(),
            local_address: local.to_string(),
            peer_address: ip::unmapped(it.peer).to_string(),
            teid: it.teid.get(),
        });
        let _ = self.happened.send(Happened { pod, event });
    }

    /// For the next agent. While that fails, the sessions are forwarded, and a problem says what a restart would lose.
    pub(super) fn write_down(&mut self, kept: Vec<Kept>) {
        self.edits += kept.len();
        let Some(journal) = &mut self.journal else { return };
        let mut written = journal.add(kept);
        if written.is_ok() && journal.is_long() {
            written = journal.shorten(self.programmed.kept());
        }
        self.is_written_down(written);
    }

    /// Writes down what could not be written before, all anew.
    pub(super) fn catch_up_journal(&mut self) {
        let Some(journal) = self.journal.as_mut().filter(|it| it.is_behind) else { return };
        let written = journal.shorten(self.programmed.kept());
        self.is_written_down(written);
    }

    fn is_written_down(&mut self, written: io::Result<()>) {
        let is_behind = self.journal.as_ref().is_some_and(|it| it.is_behind);
        let Err(error) = written else {
            if !is_behind {
                self.source_problems.remove("journal");
            }
            return;
        };
        let so = if is_behind {
            "the newest changes are forwarded, and the next agent will not know of them; tried again each second"
        } else {
            "it is complete, but cannot be made shorter"
        };
        let message = format!("{error}: {so}");
        let problem = Problem { object: "journal of sessions".to_owned(), message };
        if self.source_problems.insert("journal", vec![problem.clone()]).is_none() {
            tracing::error!(%error, "sessions are not written down");
        }
    }

    fn get(&mut self, pod: &str, id: &str) -> Result<SessionState, Status> {
        let handle = self.programmed.handle(pod, id);
        let handle = handle.ok_or_else(|| Status::not_found(format!("pod {pod} has no session {id}")))?;
        Ok(self.states(&[handle]).pop().unwrap_or_default())
    }

    fn list(&mut self, pod: &str, from: u32) -> (Vec<SessionState>, Option<u32>) {
        let mut handles = self.programmed.handles(pod);
        handles.retain(|it| *it >= from);
        handles.sort_unstable();
        let next = handles.get(PAGE).copied();
        handles.truncate(PAGE);
        (self.states(&handles), next)
    }

    fn states(&mut self, handles: &[u32]) -> Vec<SessionState> {
        let Self { world, slots, compiled, programmed, .. } = self;
        let (resolved, _) = edit(world, slots, compiled, programmed, |editor| {
            handles.iter().map(|it| editor.resolved(*it)).collect::<Vec<_>>()
        });
        let mut states = Vec::new();
        for (handle, resolved) in handles.iter().zip(resolved) {
            let Some(shown) = self.programmed.show(*handle) else { continue };
            let mut usage = Vec::new();
            let now = self.kernel.clock();
            for urr in &shown.session.urrs {
                let used = self.kernel.usage(&UsageKey { session: *handle, urr: urr.id });
                let used = used.ok().flatten().map(|it| usage::in_all(&shown.session.id, urr, it, now));
                usage.extend(used);
            }
            let counters = self.kernel.session_counters(&[shown.uplink, shown.downlink]).unwrap_or_default();
            let state = match resolved {
                Some(true) => State::Forwarding,
                Some(false) => State::NextHopUnresolved,
                None => State::NotProgrammed,
            };
            states.push(SessionState {
                session: Some(shown.session),
                generation: shown.generation,
                state: state.into(),
                reason: shown.problem.unwrap_or_default(),
                uplink: counters.first().map(volume),
                downlink: counters.get(1).map(volume),
                usage,
            });
        }
        states
    }

    fn describe(&mut self, pod: String) -> DescribeResponse {
        let (sessions, generation) = self.programmed.summary(&pod);
        let shown = format!("pod {pod}");
        let own = self
            .compiled
            .endpoints
            .iter()
            .filter(|it| it.pod == shown || it.pod.strip_prefix("container ") == Some(pod.as_str()));
        let endpoints = own.map(|it| Endpoint {
            network_instance: it.network.to_string(),
            interface: it.interface.clone(),
            addresses: it.addresses.iter().map(ToString::to_string).collect(),
            failed_peers: self.paths.failed(&it.network.to_string(), &it.interface, &it.pod),
        });
        let capacity = self.programmed.limits.counters / 2;
        DescribeResponse {
            instance: self.journal.as_ref().map(|it| it.instance.clone()).unwrap_or_default(),
            generation,
            sessions,
            quota: self.programmed.limits.per_pod.min(capacity),
            endpoints: endpoints.collect(),
            pod,
            capacity,
        }
    }
}

/// What a change needs to be carried out.
pub(super) struct Hands<'h, K> {
    pub(super) kernel: &'h mut K,
    pub(super) current: &'h mut Tables,
    usages: &'h mut Usages,
    pub(super) buffers: &'h mut Buffers,
    kept: &'h mut Vec<Kept>,
    watched: Vec<Watched>,
    markers: &'h mut Vec<EndMarker>,
    /// Of URRs that the change at hand removes.
    reports: Vec<UsageReport>,
}

impl<K: Kernel> Hands<'_, K> {
    fn change(
        &mut self,
        editor: &mut Editor<'_, '_, '_, '_, '_>,
        pod: (&str, &str),
        generation: u64,
        change: Change,
    ) -> Outcome {
        let mut created_pdrs = Vec::new();
        let done = match change.change {
            None => Err(Refusal::new(Kind::InvalidArgument, "change: is neither put nor delete nor sweep")),
            Some(change::Change::Put(session)) => self.put(editor, pod, generation, session).map(|session| {
                created_pdrs = choose::given(&session);
                self.watched.push(Watched::Put(session.id));
                0
            }),
            Some(change::Change::Delete(id)) => match editor.programmed().handle(pod.0, &id) {
                None => Ok(0),
                Some(handle) => self.remove(editor, &[handle]),
            },
            Some(change::Change::Sweep(_)) => {
                let programmed = editor.programmed();
                let mut old = programmed.handles(pod.0);
                old.retain(|it| programmed.generation(*it) != Some(generation));
                self.remove(editor, &old)
            }
        };
        match done {
            Ok(removed) => {
                let usage_reports = std::mem::take(&mut self.reports);
                let of_watch = usage_reports.iter().cloned().map(Watched::UsageReport);
                self.watched.extend(of_watch);
                Outcome { removed, usage_reports, created_pdrs, ..Outcome::default() }
            }
            Err(refusal) => Outcome {
                code: code(refusal.kind).into(),
                message: refusal.to_string(),
                ..Outcome::default()
            },
        }
    }

    /// Returns the session as it is.
    fn put(
        &mut self,
        editor: &mut Editor<'_, '_, '_, '_, '_>,
        pod: (&str, &str),
        generation: u64,
        mut session: Session,
    ) -> Result<Session, Refusal> {
        let handle = editor.programmed().handle(pod.0, &session.id);
        let old = handle.and_then(|it| editor.programmed().of_handle(it));
        let old = old.map(|(_, it)| it).unwrap_or_default();
        let asked = session.clone();
        let mut tries = choose::tries(&session, &old);
        let planned = loop {
            session.clone_from(&asked);
            choose::give(&mut session, &old)?;
            tries -= 1;
            let is_held = handle.is_some_and(|it| self.buffers.must_hold(it, &session));
            match editor.put(pod, generation, &session, (self.current, is_held)) {
                Ok(it) if tries > 0 && !choose::is_indexed(self.kernel, &it) => {}
                Err(it) if tries > 0 && matches!(it.kind, Kind::AlreadyExists | Kind::PermissionDenied) => {}
                other => break (other?, is_held),
            }
        };
        let (planned, is_held) = planned;
        if !buffering(&session).is_empty() {
            self.kernel.start_buffering().map_err(|it| refused(&it))?;
        }
        self.carry_out(editor, planned)?;
        if let Some(handle) = editor.programmed().handle(pod.0, &session.id) {
            self.limit(handle, &old, &session);
            self.buffers.changed(handle, &session, is_held);
        }
        Ok(session)
    }

    /// Gives the URRs of a session that was put their limits.
    fn limit(&mut self, handle: u32, old: &Session, new: &Session) {
        for urr in &new.urrs {
            let key = UsageKey { session: handle, urr: urr.id };
            let before = old.urrs.iter().find(|it| it.id == urr.id);
            let Ok(Some(used)) = self.kernel.usage(&key) else { continue };
            // What is there is another URR's where no PDR had this one before.
            let before = before.filter(|it| old.pdrs.iter().any(|pdr| pdr.urr_ids.contains(&it.id)));
            let limits = usage::limits(urr, before, used, self.kernel.clock());
            let operation = Operation::SetLimits { key, limits: Box::new(limits) };
            for (_, error) in self.kernel.apply(&[operation]) {
                tracing::error!(%error, "limits of a usage");
            }
            self.usages.follow(key, urr);
        }
    }

    /// No packet counts any more for what goes.
    fn last_reports(&mut self, editor: &Editor<'_, '_, '_, '_, '_>, planned: &Planned) {
        for operation in &planned.after {
            let Operation::DeleteUsage { key } = operation else { continue };
            self.usages.forget(key);
            let Some((_, session)) = editor.programmed().of_handle(key.session) else { continue };
            let Some(urr) = session.urrs.iter().find(|it| it.id == key.urr) else { continue };
            if let Ok(Some(used)) = self.kernel.usage(key) {
                self.reports.push(usage::last_report(&session.id, urr, used, self.kernel.clock()));
            }
        }
    }

    fn remove(&mut self, editor: &mut Editor<'_, '_, '_, '_, '_>, handles: &[u32]) -> Result<u32, Refusal> {
        let mut removed = 0;
        for handle in handles {
            let id = editor.programmed().show(*handle).map(|it| it.session.id).unwrap_or_default();
            if let Some(planned) = editor.delete(*handle) {
                self.carry_out(editor, planned)?;
                self.buffers.discard(self.kernel, *handle);
                self.watched.push(Watched::Deleted(id));
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// All of it or nothing.
    pub(super) fn carry_out(
        &mut self,
        editor: &mut Editor<'_, '_, '_, '_, '_>,
        planned: Planned,
    ) -> Result<(), Refusal> {
        let failures = self.kernel.apply(&planned.base);
        for (index, operation) in planned.base.iter().enumerate() {
            if !failures.iter().any(|(failed, _)| *failed == index) {
                self.current.apply(operation);
            }
        }
        if let Some((_, error)) = failures.first() {
            return Err(refused(error));
        }
        let failures = self.kernel.apply(&planned.operations);
        if let Some((_, error)) = failures.first() {
            for (_, error) in self.kernel.apply(&Editor::undo(&planned)) {
                tracing::error!(error = chain(&error), "a refused session is not undone");
            }
            return Err(refused(error));
        }
        // The old tunnel's element stays in `current` until the next compilation.
        self.markers.extend(planned.end_marker(self.current));
        self.markers.extend(self.buffers.carried_out(&planned, self.current));
        self.last_reports(editor, &planned);
        for (_, error) in self.kernel.apply(&planned.after) {
            tracing::error!(error = chain(&error), "rules of a session are left");
        }
        self.kept.push(editor.commit(planned));
        Ok(())
    }
}

pub(super) fn volume(counter: &Counter) -> Volume {
    Volume { packets: counter.packets, bytes: counter.bytes }
}

fn refused(error: &KernelError) -> Refusal {
    let message = format!("{error}: {}", chain(&*error.source));
    match error.remedy.as_deref() {
        Some(TABLE_FULL) => Refusal::new(Kind::ResourceExhausted, format!("{message} ({TABLE_FULL})")),
        _ => Refusal::new(Kind::Unavailable, message),
    }
}

fn code(kind: Kind) -> Code {
    match kind {
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Unavailable => Code::Unavailable,
    }
}
