//! Changes of single sessions: each compiles its own session and nothing else. A change is planned, carried out by
//! whoever has the kernel, and then committed; or undone, where the kernel has refused it.

use super::super::compile::{Compilation, SessionView, half};
use super::super::diff::writes;
use super::super::directory::Directory;
use super::super::end_marker::EndMarker;
use super::super::entries::{Belongings, Entries, Key};
use super::super::flat::Flat;
use super::super::refusal::{Kind, Refusal};
use super::super::rules;
use super::super::session::{Placed, taken, user_names};
use super::super::slots::Slots;
use super::super::tables::{Operation, Tables};
use super::super::{Compiled, World};
use super::follow::facts;
use super::{Kept, Programmed, Record};
use netplane_client::v1::Session;
use netplane_common::map::{Rule, RuleKey, SessionAction, UsageKey, UsageLimits};
use prost::Message;
use std::net::IpAddr;

/// Sessions in a world that stands still.
pub struct Editor<'p, 'c, 'e, 'w, 's> {
    programmed: &'p mut Programmed,
    compiled: &'c Compiled,
    directory: &'e Directory<'e, 'w>,
    world: &'w World,
    this: Compilation<'s>,
    /// Next hops, routes and routers that were looked at.
    seen: [usize; 3],
}

/// Opens the sessions for changes. `compiled` is of this same world. Returns what `change` does, and what was found
/// on the way that belongs to `compiled` now.
pub fn edit<R>(
    world: &World,
    slots: &mut Slots,
    compiled: &Compiled,
    programmed: &mut Programmed,
    change: impl FnOnce(&mut Editor<'_, '_, '_, '_, '_>) -> R,
) -> (R, Compiled) {
    let mut this = Compilation::new(slots, world);
    let endpoints = this.endpoints(world);
    this.out.problems.clear();
    let directory = Directory::new(&endpoints);
    let mut editor = Editor { programmed, compiled, directory: &directory, world, this, seen: [0; 3] };
    let result = change(&mut editor);
    (result, editor.this.out)
}

/// A change that is ready to be carried out.
#[derive(Debug)]
pub struct Planned {
    /// What the session's entries refer to; stays also if the session is refused.
    pub base: Vec<Operation>,
    pub operations: Vec<Operation>,
    /// What nothing refers to any more when these are done.
    pub after: Vec<Operation>,
    handle: u32,
    pod: (String, String),
    /// `None`: it goes.
    new: Option<New>,
    old: Option<(Flat, Entries)>,
}

#[derive(Debug)]
struct New {
    id: String,
    generation: u64,
    session: Box<[u8]>,
    flat: Flat,
    entries: Entries,
    turn: bool,
    is_held: bool,
}

impl Planned {
    /// What the old peer is to be told once the change is in the kernel. `current` are the tables there, with what
    /// the new entries refer to.
    pub fn end_marker(&self, current: &Tables) -> Option<EndMarker> {
        let new = self.new.as_ref()?;
        let tunnel = new.flat.downlink.as_ref().and_then(|it| it.tunnel.as_ref());
        tunnel.filter(|it| it.end_marker)?;
        let (_, old) = self.old.as_ref()?;
        EndMarker::between((&old.downlink?, current), (&new.entries.downlink?, current))
    }

    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// What the peer would be told whose session buffers from now on.
    pub fn falls_idle(&self, current: &Tables) -> Option<EndMarker> {
        let new = self.new.as_ref()?.entries.downlink?;
        let (_, old) = self.old.as_ref().filter(|_| new.action == SessionAction::Buffer as u8)?;
        EndMarker::of(&old.downlink?, current)
    }

    /// The tunnel into which the session forwards from now on, and whether the one before is to be told.
    pub fn forwards(&self, current: &Tables) -> Option<(EndMarker, bool)> {
        let new = self.new.as_ref()?;
        let tunnel = new.flat.downlink.as_ref().and_then(|it| it.tunnel.as_ref())?;
        Some((EndMarker::of(&new.entries.downlink?, current)?, tunnel.end_marker))
    }
}

impl Editor<'_, '_, '_, '_, '_> {
    pub fn programmed(&self) -> &Programmed {
        self.programmed
    }

    /// Makes a session of a pod what is given, or all of that but what it would forward to the user, which is held
    /// back. `current` are the tables in the kernel.
    ///
    /// # Errors
    /// It cannot be, it is not the pod's to have, or there is no room; nothing has changed.
    pub fn put(
        &mut self,
        pod: (&str, &str),
        generation: u64,
        session: &Session,
        (current, is_held): (&Tables, bool),
    ) -> Result<Planned, Refusal> {
        let flat = rules::flat(session, is_held)?;
        let existing = self.programmed.handle(pod.0, &session.id);
        let handle = match existing {
            Some(handle) => handle,
            None => self.room(pod.0)?,
        };
        let placed = Placed::find(self.world, self.directory, &flat, pod.0)?;
        let keys = placed.keys();
        for key in keys.iter() {
            self.must_be_free(pod.0, &flat, &key, handle)?;
        }
        let old = existing.and_then(|it| self.entries_of(it, pod.0));
        let mut counters = self.programmed.counters(handle);
        counters.sets.turn = existing.is_some() && !counters.sets.turn;
        let (entries, _) = placed.entries(&mut self.this, &keys, counters)?;
        let mut operations = set(&entries, old.as_ref().map(|(_, it)| it));
        let belonged = existing.map(|it| self.programmed.belongings(it)).unwrap_or_default();
        let after = belonged.delete_without(&entries.belongings);
        let stale = old.iter().flat_map(|(_, it)| it.keys.iter());
        operations.extend(stale.filter(|it| !keys.iter().any(|key| key == *it)).map(delete));
        let session_bytes = session.encode_to_vec().into();
        let turn = counters.sets.turn;
        let id = session.id.clone();
        let new = New { id, generation, session: session_bytes, flat, entries, turn, is_held };
        let base = self.base(current);
        let pod = (pod.0.to_owned(), pod.1.to_owned());
        Ok(Planned { base, operations, after, handle, pod, new: Some(new), old })
    }

    /// Lets a session that is held go on.
    ///
    /// # Errors
    /// As for [`Editor::put`].
    pub fn go_on(&mut self, handle: u32, current: &Tables) -> Option<Result<Planned, Refusal>> {
        let record = self.programmed.record(handle).filter(|it| it.is_held)?;
        let pod = &self.programmed.pods[usize::from(record.pod)];
        let (name, uid) = (pod.name.clone(), pod.uid.clone());
        let (generation, session) = (record.generation, self.programmed.decode(record));
        Some(self.put((&name, &uid), generation, &session, (current, false)))
    }

    /// Removes a session; `None` if there is none with this handle.
    pub fn delete(&mut self, handle: u32) -> Option<Planned> {
        let record = self.programmed.record(handle)?;
        let pod = &self.programmed.pods[usize::from(record.pod)];
        let pod = (pod.name.clone(), pod.uid.clone());
        let old = self.entries_of(handle, &pod.0);
        let operations = old.iter().flat_map(|(_, it)| it.keys.iter()).map(delete).collect();
        let after = self.programmed.belongings(handle).delete_without(&Belongings::default());
        Some(Planned { base: Vec::new(), operations, after, handle, pod, new: None, old })
    }

    /// What has been planned is in the kernel. Returns what the journal must say.
    pub fn commit(&mut self, planned: Planned) -> Kept {
        let programmed = &mut *self.programmed;
        let pod = programmed.pod_index(&planned.pod.0, &planned.pod.1);
        if let Some((flat, entries)) = &planned.old {
            programmed.free_keys(&entries.keys);
            if let Ok(placed) = Placed::find(self.world, self.directory, flat, &planned.pod.0) {
                programmed.need(&placed, false);
            }
        }
        let place = usize::try_from(planned.handle).unwrap_or(usize::MAX);
        let Some(new) = planned.new else {
            let record = programmed.records.get_mut(place).and_then(Option::take);
            if let Some(record) = record {
                programmed.forget(&record, planned.handle);
            }
            let (pod, uid) = planned.pod;
            return Kept { handle: planned.handle, pod, uid, ..Kept::default() };
        };
        new.entries.keys.iter().for_each(|it| programmed.owners.insert(it, planned.handle));
        if let Ok(placed) = Placed::find(self.world, self.directory, &new.flat, &planned.pod.0) {
            programmed.need(&placed, true);
        }
        let New { generation, session, turn, is_held, .. } = new;
        let packed = programmed.pods[usize::from(pod)].patterns.pack(&session);
        let record = Record { pod, generation, session: packed, is_in_tables: true, turn, is_held };
        let kept = programmed.keep(planned.handle, &record, session.into());
        programmed.problems.remove(&planned.handle);
        if place >= programmed.records.len() {
            programmed.records.push(None);
        }
        programmed.free.remove(&planned.handle);
        programmed.records[place] = Some(record);
        if programmed.pods[usize::from(pod)].ids.is_empty() {
            let mut pods = self.directory.pods();
            let own = pods.find(|(name, _)| **name == planned.pod.0);
            programmed.pods[usize::from(pod)].facts = own.map(|(_, endpoints)| facts(endpoints));
        }
        let entry = (programmed.hash(&new.id), planned.handle);
        programmed.pods[usize::from(pod)].ids.insert(entry);
        kept
    }

    /// The kernel has refused it: the operations that make the session what it was.
    pub fn undo(planned: &Planned) -> Vec<Operation> {
        let old = planned.old.as_ref().map(|(_, it)| it);
        let is_old = |key: &Key| old.is_some_and(|it| it.keys.iter().any(|it| it == *key));
        let new = planned.new.iter().flat_map(|it| it.entries.keys.iter());
        let mut operations: Vec<_> = new.filter(|it| !is_old(it)).map(delete).collect();
        operations.extend(old.iter().flat_map(|it| set(it, Some(it))));
        let nothing = Belongings::default();
        let kept = old.map_or(&nothing, |it| &it.belongings);
        let new = planned.new.iter().flat_map(|it| it.entries.belongings.delete_without(kept));
        operations.extend(new);
        operations
    }

    /// Whether all next hops of a session are resolved; `None` if it is not in the tables.
    pub fn resolved(&mut self, handle: u32) -> Option<bool> {
        let record = self.programmed.record(handle)?;
        if !record.is_in_tables {
            return None;
        }
        let pod = self.programmed.pods[usize::from(record.pod)].name.clone();
        let flat = self.programmed.flat(record).ok()?;
        let placed = Placed::find(self.world, self.directory, &flat, &pod).ok()?;
        let counters = self.programmed.counters(handle);
        placed.entries(&mut self.this, &placed.keys(), counters).ok().map(|(_, resolved)| resolved)
    }

    /// Adds the sessions with this TEID or user to tables and views, as static ones are there.
    pub fn show_matching(
        &mut self,
        (teid, ue): (Option<u32>, Option<IpAddr>),
        tables: &mut Tables,
        views: &mut Vec<SessionView>,
    ) {
        let matches = |key: &Key| match (key, ue) {
            (Key::Uplink(it), _) => Some(it.teid.get()) == teid,
            (Key::Uplink6(it), _) => Some(it.teid.get()) == teid,
            (Key::Downlink4(it), Some(IpAddr::V4(ue))) => it.ue == ue.into(),
            (Key::Downlink6(it), Some(IpAddr::V6(ue))) => it.ue == half(ue),
            (Key::Framed(it), Some(ue)) => it.prefix.contains(&ue),
            _ => false,
        };
        let mut handles = self.programmed.owners.handles(matches);
        handles.sort_unstable();
        handles.dedup();
        for handle in handles {
            let Some(record) = self.programmed.record(handle) else { continue };
            let pod = self.programmed.pods[usize::from(record.pod)].name.clone();
            let name = self.programmed.id(record);
            let Some((flat, entries)) = self.entries_of(handle, &pod) else { continue };
            entries.insert(tables);
            let Ok(placed) = Placed::find(self.world, self.directory, &flat, &pod) else { continue };
            let Some(network) = placed.access.or(placed.data).map(|it| it.network().clone()) else {
                continue;
            };
            let counters = self.programmed.counters(handle);
            let tunnel = flat.downlink.as_ref().and_then(|it| it.tunnel.as_ref());
            views.push(SessionView {
                name,
                network,
                pod: format!("pod {pod}"),
                ue: user_names(&flat),
                teid: flat.uplink.as_ref().map(|it| it.teid),
                peer: tunnel.map(|it| format!("{} TEID {:#x}", it.peer, it.teid)),
                uplink: flat.uplink.as_ref().map(|_| counters.uplink),
                downlink: flat.downlink.as_ref().map(|_| counters.downlink),
                end_marker: tunnel.is_some_and(|it| it.end_marker),
                resolved: self.resolved(handle).unwrap_or(false),
            });
        }
    }

    /// A handle for one session more of a pod.
    fn room(&self, pod: &str) -> Result<u32, Refusal> {
        let limits = self.programmed.limits;
        let sessions = self.programmed.sessions_of(pod);
        if sessions >= limits.per_pod {
            let message = format!("pod {pod} has {sessions} sessions, which is its quota");
            return Err(Refusal::new(Kind::ResourceExhausted, message));
        }
        let next = u32::try_from(self.programmed.records.len()).unwrap_or(u32::MAX);
        let handle = self.programmed.free.first().copied().unwrap_or(next);
        let taken = self.this.slots.counters.reached();
        if handle.saturating_add(1).saturating_mul(2).saturating_add(taken) > limits.counters {
            let most = limits.counters / 2;
            let message =
                format!("the node has room for {most} sessions and they are taken (--max-sessions)");
            return Err(Refusal::new(Kind::ResourceExhausted, message));
        }
        Ok(handle)
    }

    fn must_be_free(&self, pod: &str, flat: &Flat, key: &Key, handle: u32) -> Result<(), Refusal> {
        if let Some(other) = self.programmed.owners.conflict(key, Some(handle)) {
            let owner = self.programmed.name_of(other).unwrap_or_else(|| "another session".to_owned());
            let refusal = taken(flat, key, &owner);
            let record = self.programmed.record(other);
            let of = record.map(|it| self.programmed.pods[usize::from(it.pod)].name.as_str());
            let is_own = of == Some(pod);
            return Err(if is_own { refusal } else { refusal.of_kind(Kind::PermissionDenied) });
        }
        let is_static = key.is_in(&self.compiled.tables);
        if is_static { Err(taken(flat, key, "a static session of a NAD")) } else { Ok(()) }
    }

    /// A session's entries as they are in the tables.
    fn entries_of(&mut self, handle: u32, pod: &str) -> Option<(Flat, Entries)> {
        let record = self.programmed.record(handle).filter(|it| it.is_in_tables)?;
        let flat = self.programmed.flat(record).ok()?;
        let placed = Placed::find(self.world, self.directory, &flat, pod).ok()?;
        let counters = self.programmed.counters(handle);
        let (entries, _) = placed.entries(&mut self.this, &placed.keys(), counters).ok()?;
        Some((flat, entries))
    }

    /// What entries refer to and is not in the kernel yet.
    fn base(&mut self, current: &Tables) -> Vec<Operation> {
        let found = &self.this.out.tables;
        let seen = [found.next_hops.len(), found.routes.len(), found.routers.len()];
        if seen == self.seen {
            return Vec::new();
        }
        self.seen = seen;
        let mut operations = Vec::new();
        writes(current, found, &mut operations);
        operations
    }
}

/// Writes entries. Counters of a direction that was not there start at zero.
pub(super) fn set(entries: &Entries, old: Option<&Entries>) -> Vec<Operation> {
    let mut operations = Vec::with_capacity(2);
    let belongings = &entries.belongings;
    operations.extend(belongings.meters.iter().map(|key| Operation::StartMeter { key: *key }));
    let usage = |key: &UsageKey| Operation::StartUsage { key: *key, limits: Box::new(UsageLimits::NONE) };
    operations.extend(belongings.usages.iter().map(usage));
    let rule = |(key, rule): (&RuleKey, &Rule)| Operation::SetRule { key: *key, rule: Box::new(*rule) };
    operations.extend(entries.rules.iter().map(rule));
    let was_up = old.is_some_and(|it| it.uplink.is_some() || it.uplink6.is_some());
    let was_down = old.is_some_and(|it| it.downlink.is_some());
    let mut new_counter = !was_up;
    if let Some((key, entry)) = entries.keys.uplink.zip(entries.uplink) {
        operations.push(Operation::SetUplink { key, entry, new_counter: std::mem::take(&mut new_counter) });
    }
    if let Some((key, entry)) = entries.keys.uplink6.zip(entries.uplink6) {
        operations.push(Operation::SetUplink6 { key, entry, new_counter });
    }
    let mut new_counter = !was_down;
    if let Some((key, entry)) = entries.keys.downlink4.zip(entries.downlink) {
        operations.push(Operation::SetDownlink4 {
            key,
            entry,
            new_counter: std::mem::take(&mut new_counter),
        });
    }
    if let Some((key, entry)) = entries.keys.downlink6.zip(entries.downlink) {
        operations.push(Operation::SetDownlink6 { key, entry, new_counter });
    }
    operations
        .extend(entries.framed.iter().map(|(key, user)| Operation::SetFramed { key: *key, user: *user }));
    operations
}

pub(super) fn delete(key: Key) -> Operation {
    match key {
        Key::Uplink(key) => Operation::DeleteUplink { key },
        Key::Uplink6(key) => Operation::DeleteUplink6 { key },
        Key::Downlink4(key) => Operation::DeleteDownlink4 { key },
        Key::Downlink6(key) => Operation::DeleteDownlink6 { key },
        Key::Framed(key) => Operation::DeleteFramed { key },
    }
}
