//! Pods that somebody else attached, Multus for one: known by their `network-status` in the cluster, and looked
//! for among the runtime's namespaces. Those that have an attachment record of ours are not among them.

use super::observers::Observers;
use crate::nad::{Nad, NetworkName};
use crate::plugins::builtin;
use crate::sources::namespaces::{Interfaces, Wanted};
use crate::sources::told::Told;
use crate::world::{Attachment, AttachmentKey, ContainerKey};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Beside {
    told: Option<BTreeMap<NetworkName, Vec<Told>>>,
    wanted: Wanted,
    located: BTreeMap<ContainerKey, PathBuf>,
    answered: u64,
}

impl Beside {
    /// All pods of the node with a `network-status`.
    pub(super) fn told(&mut self, told: BTreeMap<NetworkName, Vec<Told>>) {
        self.told = Some(told);
    }

    /// Looks for the pods that count now: those on networks of the fast path that have no record.
    pub(super) fn search(
        &mut self,
        networks: &BTreeSet<NetworkName>,
        recorded: &BTreeSet<NetworkName>,
        observers: &Observers,
    ) {
        let Some(told) = &self.told else { return };
        let others = told.iter().filter(|(pod, _)| !recorded.contains(*pod));
        let counts = |it: &&Vec<Told>| it.iter().any(|it| networks.contains(&it.network));
        let interfaces =
            |it: &Vec<Told>| -> Interfaces { it.iter().map(|it| (it.interface.clone(), it.mac)).collect() };
        let others = others.filter(|(_, told)| counts(told));
        let pods = others.map(|(pod, told)| (pod.to_string(), interfaces(told))).collect();
        if self.wanted.number == 0 || self.wanted.pods != pods {
            self.wanted = Wanted { number: self.wanted.number + 1, pods };
            observers.search(self.wanted.clone());
        }
    }

    /// An answer. False: to a question that is not the last one.
    pub(super) fn located(&mut self, number: u64, located: BTreeMap<ContainerKey, PathBuf>) -> bool {
        self.answered = number;
        self.located = located;
        number == self.wanted.number
    }

    /// Their namespaces.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = (ContainerKey, PathBuf)> {
        let wanted = self.located.iter().filter(|(pod, _)| self.wanted.pods.contains_key(*pod));
        wanted.map(|(pod, path)| (pod.clone(), path.clone()))
    }

    /// Their attachments, with the masters that the NADs name.
    pub(super) fn attachments(&self, nads: &[&Nad]) -> BTreeMap<AttachmentKey, Attachment> {
        let mut attachments = BTreeMap::new();
        for (pod, told) in self.told.iter().flatten() {
            let container = pod.to_string();
            if !self.located.contains_key(&container) || !self.wanted.pods.contains_key(&container) {
                continue;
            }
            for it in told {
                let key = AttachmentKey { container: container.clone(), interface: it.interface.clone() };
                let nad = nads.iter().find(|nad| nad.name == it.network);
                let master = nad.and_then(|nad| master(&nad.config));
                let (network, pod) = (it.network.clone(), Some(pod.clone()));
                attachments.insert(key, Attachment { network, pod, master });
            }
        }
        attachments
    }
}

/// The master that a configuration or list names; without a name, that of the node's default route, as macvlan
/// has it.
fn master(config: &str) -> Option<String> {
    let config: Value = serde_json::from_str(config).ok()?;
    let plugins = config["plugins"].as_array().map_or(std::slice::from_ref(&config), Vec::as_slice);
    let named = plugins.iter().find_map(|it| it["master"].as_str()).filter(|it| !it.is_empty());
    named.map(str::to_owned).or_else(|| {
        let plugin = plugins.iter().find(|it| builtin::is_builtin(it))?;
        builtin::master_name(plugin).ok().flatten()
    })
}
