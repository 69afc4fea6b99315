//! The world has changed: the sessions of pods whose endpoints are not what they were are compiled anew, and those
//! of pods that have gone go.

use super::super::compile::Compilation;
use super::super::directory::Directory;
use super::super::endpoint::Endpoint;
use super::super::entries::{Belongings, Entries, Key};
use super::super::session::Placed;
use super::super::slots::Slots;
use super::super::tables::{Operation, Tables};
use super::super::{Compiled, World};
use super::edit::{delete, set};
use super::packed::Patterns;
use super::{Facts, Kept, Programmed};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What follows for the kernel and the journal.
#[derive(Debug, Default)]
pub struct Followed {
    /// To be carried out after next hops and routes are written and before any are removed.
    pub operations: Vec<Operation>,
    /// Sessions that are gone with their pods.
    pub gone: Vec<Kept>,
    /// Pods whose sessions were compiled.
    pub pods: Vec<String>,
}

impl Programmed {
    /// Compiles what has to be. `alive` has the pods of this node, with what tells one from a later one of its name.
    /// Entries that an earlier agent has left for these sessions are taken out of `current`.
    pub fn follow(
        &mut self,
        world: &World,
        slots: &mut Slots,
        compiled: &Compiled,
        current: &mut Tables,
        alive: &BTreeMap<String, String>,
    ) -> Followed {
        let mut followed = Followed::default();
        if self.is_empty() {
            return followed;
        }
        let mut this = Compilation::new(slots, world);
        let endpoints = this.endpoints(world);
        let directory = Directory::new(&endpoints);
        self.bury(alive, &mut followed);
        let mut now: HashMap<String, Vec<Facts>> =
            directory.pods().map(|(pod, endpoints)| (pod.clone(), facts(endpoints))).collect();
        let is_other = |pod: &super::PodSessions| {
            let now = now.get(&pod.name).map(Vec::as_slice).unwrap_or_default();
            !pod.ids.is_empty() && pod.facts.as_deref() != Some(now)
        };
        let changed: Vec<bool> = self.pods.iter().map(is_other).collect();
        if changed.iter().any(|it| *it) {
            let held = self.let_go(&changed, &endpoints);
            self.compile_again(&changed, (&mut this, world, &directory), compiled, current, &mut followed);
            let in_force: BTreeSet<u32> = held.iter().map(|(_, handle)| *handle).collect();
            let stale = held.into_iter().filter(|(key, _)| self.owners.get(key).is_none());
            followed.operations.extend(stale.map(|(key, _)| delete(key)));
            // Rules that no entry names any more; what they have counted stays.
            for handle in in_force.into_iter().filter(|it| !self.is_in_force(*it)) {
                let own = self.belongings(handle);
                let counted = Belongings { usages: own.usages.clone(), ..Belongings::default() };
                followed.operations.extend(own.delete_without(&counted));
            }
        }
        for (pod, _) in self.pods.iter_mut().zip(&changed).filter(|(_, changed)| **changed) {
            pod.facts = Some(now.remove(&pod.name).unwrap_or_default());
            followed.pods.push(pod.name.clone());
        }
        followed
    }

    fn is_in_force(&self, handle: u32) -> bool {
        self.record(handle).is_some_and(|it| it.is_in_tables)
    }

    /// Sessions of pods that are not there any more.
    fn bury(&mut self, alive: &BTreeMap<String, String>, followed: &mut Followed) {
        let is_dead = |it: &super::PodSessions| !it.ids.is_empty() && alive.get(&it.name) != Some(&it.uid);
        let dead: Vec<bool> = self.pods.iter().map(is_dead).collect();
        if dead.iter().any(|it| *it) {
            let records = &self.records;
            let of_dead = |handle: u32| {
                let record = usize::try_from(handle).ok().and_then(|it| records.get(it)?.as_ref());
                record.is_some_and(|it| dead[usize::from(it.pod)])
            };
            for (key, _) in self.owners.of(of_dead) {
                self.owners.remove(&key);
                followed.operations.push(delete(key));
            }
            for handle in (0..u32::try_from(self.records.len()).unwrap_or(u32::MAX)).filter(|it| of_dead(*it))
            {
                let left = self.belongings(handle);
                followed.operations.extend(left.delete_without(&Belongings::default()));
            }
            for (record, handle) in self.records.iter_mut().zip(0_u32..) {
                if record.as_ref().is_some_and(|it| dead[usize::from(it.pod)]) {
                    *record = None;
                    self.problems.remove(&handle);
                    self.free.insert(handle);
                    followed.gone.push(Kept { handle, ..Kept::default() });
                }
            }
            for (pod, _) in self.pods.iter_mut().zip(&dead).filter(|(_, dead)| **dead) {
                pod.ids.clear();
                pod.patterns = Patterns::default();
                pod.facts = None;
            }
        }
        // Also those without sessions, that a later one of the name is not taken for the same.
        for pod in self.pods.iter_mut().filter(|it| it.ids.is_empty()) {
            if let Some(uid) = alive.get(&pod.name) {
                pod.uid.clone_from(uid);
            }
        }
    }

    /// Takes the keys and needs of the changed pods' sessions from them.
    fn let_go(&mut self, changed: &[bool], endpoints: &[Endpoint<'_>]) -> Vec<(Key, u32)> {
        let records = &self.records;
        let of_changed = |handle: u32| {
            let record = usize::try_from(handle).ok().and_then(|it| records.get(it)?.as_ref());
            record.is_some_and(|it| changed[usize::from(it.pod)])
        };
        let held = self.owners.of(of_changed);
        held.iter().for_each(|(key, _)| self.owners.remove(key));
        let names: Vec<&str> =
            self.pods.iter().zip(changed).filter(|(_, it)| **it).map(|(it, _)| it.name.as_str()).collect();
        let mut of_others = Vec::new();
        for endpoint in endpoints {
            let pod = endpoint.attachment.pod.as_ref().map(ToString::to_string);
            let pod = pod.unwrap_or_else(|| endpoint.key.container.clone());
            if !names.contains(&pod.as_str()) {
                of_others.push(endpoint.key);
            }
        }
        self.demand.retain(|key, _| of_others.contains(&key));
        held
    }

    fn compile_again(
        &mut self,
        changed: &[bool],
        (this, world, directory): (&mut Compilation<'_>, &World, &Directory<'_, '_>),
        compiled: &Compiled,
        current: &mut Tables,
        followed: &mut Followed,
    ) {
        for handle in 0..u32::try_from(self.records.len()).unwrap_or(u32::MAX) {
            let Some(record) = self.record(handle).filter(|it| changed[usize::from(it.pod)]) else {
                continue;
            };
            let pod = self.pods[usize::from(record.pod)].name.clone();
            let placed = self.flat(record).map_err(|it| it.to_string());
            let problem = match &placed {
                Err(problem) => Some(problem.clone()),
                Ok(flat) => match Placed::find(world, directory, flat, &pod) {
                    Err(refusal) => Some(refusal.to_string()),
                    Ok(placed) => {
                        let keys = placed.keys();
                        let holder = keys.iter().find_map(|key| {
                            let is_static = key.is_in(&compiled.tables);
                            self.holder(&key).or(is_static.then(|| "a static session of a NAD".to_owned()))
                        });
                        let counters = self.counters(handle);
                        match (holder, placed.entries(this, &keys, counters)) {
                            (Some(holder), _) => Some(format!("what it needs is that of {holder}")),
                            (None, Err(refusal)) => Some(refusal.to_string()),
                            (None, Ok((entries, _))) => {
                                keys.iter().for_each(|it| self.owners.insert(it, handle));
                                self.need(&placed, true);
                                write(&entries, current, followed);
                                None
                            }
                        }
                    }
                },
            };
            if problem.is_some() {
                // What it has counted stays.
                let own = self.belongings(handle);
                current.usages.retain(|it| !own.usages.contains(it));
            }
            self.set_problem(handle, problem);
        }
    }

    fn set_problem(&mut self, handle: u32, problem: Option<String>) {
        if let Some(record) = self.record_mut(handle) {
            record.is_in_tables = problem.is_none();
        }
        match problem {
            Some(problem) => drop(self.problems.insert(handle, problem.into())),
            None => drop(self.problems.remove(&handle)),
        }
    }

    /// An operation of a session has failed: it is tried again with the next change of the world.
    pub fn failed(&mut self, operation: &Operation, message: &str) {
        let key = match operation {
            Operation::SetUplink { key, .. } => Key::Uplink(*key),
            Operation::SetUplink6 { key, .. } => Key::Uplink6(*key),
            Operation::SetDownlink4 { key, .. } => Key::Downlink4(*key),
            Operation::SetDownlink6 { key, .. } => Key::Downlink6(*key),
            Operation::SetFramed { key, .. } => Key::Framed(*key),
            _ => return,
        };
        let Some(handle) = self.owners.get(&key) else { return };
        let Some(pod) = self.record(handle).map(|it| usize::from(it.pod)) else { return };
        self.set_problem(handle, Some(message.to_owned()));
        self.pods[pod].facts = None;
    }
}

pub(super) fn facts<'e>(endpoints: impl Iterator<Item = &'e Endpoint<'e>>) -> Vec<Facts> {
    endpoints.map(Facts::new).collect()
}

/// Entries into the kernel, unless an earlier agent has left just these.
fn write(entries: &Entries, current: &mut Tables, followed: &mut Followed) {
    // Their counters go on: a session that is new here was put before.
    for operation in set(entries, Some(entries)) {
        let is_there = match &operation {
            Operation::SetUplink { key, entry, .. } => current.uplink.remove(key).as_ref() == Some(entry),
            Operation::SetUplink6 { key, entry, .. } => current.uplink6.remove(key).as_ref() == Some(entry),
            Operation::SetDownlink4 { key, entry, .. } => {
                current.downlink4.remove(key).as_ref() == Some(entry)
            }
            Operation::SetDownlink6 { key, entry, .. } => {
                current.downlink6.remove(key).as_ref() == Some(entry)
            }
            Operation::SetFramed { key, user } => current.framed.remove(key) == Some(*user),
            Operation::StartMeter { key } => current.meters.remove(key),
            Operation::StartUsage { key, .. } => current.usages.remove(key),
            Operation::SetRule { key, rule } => current.rules.remove(key).as_ref() == Some(&**rule),
            _ => false,
        };
        if !is_there {
            followed.operations.push(operation);
        }
    }
}
