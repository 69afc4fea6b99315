//! What the watches know, as the agent's socket is asked for it.

use crate::cluster::cache::{CachedNetwork, CachedPod};
use crate::nad::NetworkName;
use crate::sources::told::Told;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

/// Both watches' state.
#[derive(Debug, Default)]
pub struct View {
    /// By namespace and name.
    pub(super) pods: Known<NetworkName, PodEntry>,
    pub(super) networks: Known<NetworkName, CachedNetwork>,
}

/// A pod, and what its `network-status` tells, if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodEntry {
    pub(super) pod: CachedPod,
    pub(super) told: Option<Vec<Told>>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    Yes(T),
    /// There was none when the watch last heard.
    No,
    /// The watch has not caught up yet, or the server does not let it.
    NotYet,
}

impl View {
    pub fn pod(&self, namespace: &str, name: &str) -> Found<CachedPod> {
        match self.pods.get(&key(namespace, name)) {
            Found::Yes(entry) => Found::Yes(entry.pod),
            Found::No => Found::No,
            Found::NotYet => Found::NotYet,
        }
    }

    /// Whether this pod is known to have no `network-status`.
    pub fn lacks_status(&self, namespace: &str, name: &str) -> bool {
        matches!(self.pods.get(&key(namespace, name)), Found::Yes(entry) if entry.told.is_none())
    }

    /// Pods with one of these annotations and without a `network-status`; `None` while they are not known.
    pub fn pods_without_status(&self, annotations: &[&str]) -> Option<Vec<(NetworkName, CachedPod)>> {
        let is_one = |entry: &PodEntry| {
            let mut values = annotations.iter().filter_map(|it| entry.pod.annotations.get(*it));
            entry.told.is_none() && values.any(|it| !matches!(it.trim(), "" | "[]"))
        };
        let found = self.pods.filter(is_one)?;
        Some(found.into_iter().map(|(name, entry)| (name, entry.pod)).collect())
    }

    pub fn network(&self, namespace: &str, name: &str) -> Found<CachedNetwork> {
        self.networks.get(&key(namespace, name))
    }
}

fn key(namespace: &str, name: &str) -> NetworkName {
    NetworkName { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// The objects of one watch.
#[derive(Debug)]
pub(super) struct Known<K, V>(RwLock<Objects<K, V>>);

#[derive(Debug)]
struct Objects<K, V> {
    /// All were listed, and the server has not turned us away since.
    good: bool,
    objects: BTreeMap<K, V>,
}

impl<K, V> Default for Known<K, V> {
    fn default() -> Self {
        Self(RwLock::new(Objects { good: false, objects: BTreeMap::new() }))
    }
}

impl<K, V> Known<K, V> {
    /// What is known may be old, while others can know better.
    pub(super) fn distrust(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).good = false;
    }
}

impl<K: Ord, V> Known<K, V> {
    fn get(&self, key: &K) -> Found<V>
    where
        V: Clone,
    {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match known.objects.get(key) {
            _ if !known.good => Found::NotYet,
            Some(object) => Found::Yes(object.clone()),
            None => Found::No,
        }
    }

    /// The objects of which `is_one` is true.
    fn filter(&self, is_one: impl Fn(&V) -> bool) -> Option<Vec<(K, V)>>
    where
        K: Clone,
        V: Clone,
    {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = known.objects.iter().filter(|(_, it)| is_one(it));
        known.good.then(|| found.map(|(key, it)| (key.clone(), it.clone())).collect())
    }

    /// All objects, after a list.
    pub(super) fn replace(&self, objects: BTreeMap<K, V>, changed: impl Fn(&BTreeMap<K, V>)) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *known = Objects { good: true, objects };
        changed(&known.objects);
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut BTreeMap<K, V>), changed: impl Fn(&BTreeMap<K, V>)) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut known.objects);
        changed(&known.objects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_before_the_first_list_and_after_a_refusal() {
        let view = View::default();
        let upf = || CachedPod { uid: "u".to_owned(), annotations: BTreeMap::new() };
        let entry = PodEntry { pod: upf(), told: None };
        assert_eq!(view.pod("core", "upf-0"), Found::NotYet);
        view.pods.replace([(key("core", "upf-0"), entry)].into(), |_| {});
        assert_eq!(view.pod("core", "upf-0"), Found::Yes(upf()));
        assert_eq!(view.pod("core", "upf-1"), Found::No);
        assert!(view.lacks_status("core", "upf-0") && !view.lacks_status("core", "upf-1"));
        assert_eq!(view.network("core", "n3"), Found::NotYet);
        view.pods.distrust();
        assert_eq!(view.pod("core", "upf-0"), Found::NotYet);
        view.pods.replace(BTreeMap::new(), |_| {});
        assert_eq!(view.pod("core", "upf-0"), Found::No);
    }
}
