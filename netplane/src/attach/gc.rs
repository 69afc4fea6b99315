//! GC: what the runtime does not know any more is taken down, its networks' plugins are told what is valid,
//! and addresses that nobody has come back. Everything is tried, and all that failed is told.

use super::AttachError;
use super::detach;
use super::multus::MultusCaches;
use super::perform::Container;
use super::plan::Delegate;
use super::record::AttachmentRecord;
use super::store::{AllRecords, RecordStore};
use crate::netlink::netns::Netns;
use crate::plugins::ipam::audit::{Keep, Pool};
use crate::plugins::version::Version;
use crate::plugins::{self, PluginError, Verb, builtin, code};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Container and interface, as the runtime knows them.
pub type Valid = BTreeSet<(String, String)>;

/// Takes down what `valid` does not name. `known` are the networks of the configuration; those that only
/// records know are found in them.
///
/// # Errors
/// All that failed; everything else has been done.
pub fn collect(
    container: &Container,
    valid: &Valid,
    known: &[Delegate],
    records: &RecordStore,
    multus: &MultusCaches,
) -> Result<(), AttachError> {
    let AllRecords { records: mut all, mut errors } = records.all()?;
    let recorded: BTreeSet<_> = all.iter().map(|it| it.container_id.clone()).collect();
    for id in multus.containers()?.difference(&recorded) {
        errors.extend(of_multus(container, id, valid, multus, &mut all).err());
    }
    let networks = networks(known, &all);
    let is_valid = |it: &AttachmentRecord| valid.contains(&(it.container_id.clone(), it.interface.clone()));
    let (kept, stale): (Vec<_>, Vec<_>) = all.into_iter().partition(is_valid);
    for record in &stale {
        let lock = records.lock(&record.container_id, &record.interface, container.call.timeout);
        let detached = lock.and_then(|_lock| detach::detach(&container.at(record), record, records));
        errors.extend(detached.err());
    }
    let holdings = Holdings::new(valid, &kept);
    for (name, network) in networks.iter().filter(|(_, it)| !it.disabled) {
        let (kept, known) = (holdings.of(name, network.default), holdings.all_are_known(network.default));
        for plugin in network.programs() {
            if !known {
                tracing::warn!(
                    network = name,
                    "GC left out: the interfaces of some containers are not known"
                );
            } else if kept.is_empty()
                && !network.default
                && plugins::look_up(&container.call, plugin).is_err()
            {
                // A NAD for other nodes: a plugin that is not here has nothing here.
                tracing::debug!(network = name, "GC left out: no such plugin on this node");
            } else if let Err(error) = tell(container, plugin, &kept) {
                errors.push(AttachError::Delegate { network: network.label.clone(), error });
            }
        }
        errors.extend(network.give_back(&kept, &holdings.unknown));
    }
    errors.extend(records.sweep(valid));
    if errors.is_empty() { Ok(()) } else { Err(AttachError::of_all(errors)) }
}

/// A container that Multus attached: one that is valid is known from now on, else it is taken down.
fn of_multus(
    container: &Container,
    id: &str,
    valid: &Valid,
    multus: &MultusCaches,
    known: &mut Vec<AttachmentRecord>,
) -> Result<(), AttachError> {
    let interface = valid.iter().find(|(it, _)| it == id).map(|(_, interface)| interface.clone());
    let is_valid = interface.is_some();
    // Its own name is not written down anywhere; it is the runtime's, and all runtimes use this one.
    let interface = interface.unwrap_or_else(|| "eth0".to_owned());
    let container = container.named(id, &interface);
    let Some(left) = multus.find(&container)? else { return Ok(()) };
    if is_valid {
        if !left.incomplete {
            known.push(left.record);
        }
        return Ok(());
    }
    // There may be another runtime on this node, whose pods are not in this one's list.
    if left.record.netns.as_os_str().is_empty() || Netns::open(&left.record.netns).is_ok() {
        tracing::debug!(
            container = id,
            "attached by Multus, unknown to the runtime, and perhaps alive: left"
        );
        return Ok(());
    }
    left.take_down(&container)
}

/// Network configurations of one name.
struct Network {
    label: String,
    /// Whether it is the default network of the configuration.
    default: bool,
    /// `disableGC` (CNI specification 1.1.0, section 1).
    disabled: bool,
    plugins: Vec<Value>,
}

impl Network {
    fn add(&mut self, plugin: &Value) {
        // What one pod asked for is not the network's.
        let mut plugin = plugin.clone();
        plugin.as_object_mut().map(|it| it.remove("runtimeConfig"));
        if !self.plugins.contains(&plugin) {
            self.plugins.push(plugin);
        }
    }

    /// Those that know GC; it would be an error of version to older ones.
    fn programs(&self) -> impl Iterator<Item = &Value> {
        self.plugins.iter().filter(|it| !builtin::is_builtin(it) && Version::of_config(it).has_status())
    }

    /// Addresses of host-local. Its store is the same whoever uses it, and plugins called in versions before
    /// 1.1.0 never clean theirs.
    fn give_back(&self, kept: &Valid, unknown: &BTreeSet<String>) -> Vec<AttachError> {
        let keep = Keep { attachments: kept.clone(), containers: unknown.clone() };
        let pools: BTreeSet<_> = self.plugins.iter().filter_map(Pool::of).collect();
        let collect = |pool: &Pool| match pool.collect(&keep) {
            Ok(freed) => {
                freed
                    .iter()
                    .for_each(|address| tracing::warn!(%address, network = pool.network, "given back"));
                None
            }
            Err(error) => {
                let error = PluginError::from_error(code::IO, &error);
                Some(AttachError::Delegate { network: self.label.clone(), error })
            }
        };
        pools.iter().filter_map(collect).collect()
    }
}

/// By `name`, which is what plugins keep their state by. The configuration's go first: a record has what a
/// pod asked for mixed in.
fn networks(known: &[Delegate], records: &[AttachmentRecord]) -> BTreeMap<String, Network> {
    let mut networks = BTreeMap::new();
    for delegate in known {
        for plugin in &delegate.plugins {
            let network = entry(&mut networks, plugin, &delegate.label);
            network.default |= delegate.default;
            network.disabled |= delegate.disable_gc;
            network.add(plugin);
        }
    }
    let named: BTreeSet<String> = networks.keys().cloned().collect();
    for attachment in records.iter().flat_map(|it| &it.attachments) {
        for plugin in attachment.plugins.iter().filter(|it| !named.contains(name_of(it))) {
            let network = entry(&mut networks, plugin, &attachment.label);
            network.disabled |= attachment.disable_gc;
            network.add(plugin);
        }
    }
    networks
}

fn entry<'a>(networks: &'a mut BTreeMap<String, Network>, plugin: &Value, label: &str) -> &'a mut Network {
    let label = label.to_owned();
    let fresh = || Network { label, default: false, disabled: false, plugins: Vec::new() };
    networks.entry(name_of(plugin).to_owned()).or_insert_with(fresh)
}

fn name_of(plugin: &Value) -> &str {
    plugin.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// Who has what on which network.
struct Holdings {
    by_network: BTreeMap<String, Valid>,
    /// Attached before netplane was here, or with a record that cannot be read: the runtime has named one
    /// of their interfaces, and nobody knows the others.
    unknown: BTreeSet<String>,
    runtime: Valid,
}

impl Holdings {
    fn new(valid: &Valid, records: &[AttachmentRecord]) -> Self {
        let mut by_network: BTreeMap<String, Valid> = BTreeMap::new();
        let mut recorded = Valid::new();
        for record in records {
            recorded.insert((record.container_id.clone(), record.interface.clone()));
            for attachment in &record.attachments {
                let held = (record.container_id.clone(), attachment.interface.clone());
                for plugin in &attachment.plugins {
                    by_network.entry(name_of(plugin).to_owned()).or_default().insert(held.clone());
                }
            }
        }
        let runtime: Valid = valid.difference(&recorded).cloned().collect();
        let unknown = runtime.iter().map(|(container, _)| container.clone()).collect();
        Self { by_network, unknown, runtime }
    }

    /// The attachments of a network that are to stay; the runtime's own names are the default network's.
    fn of(&self, name: &str, default: bool) -> Valid {
        let mut held = self.by_network.get(name).cloned().unwrap_or_default();
        if default {
            held.extend(self.runtime.iter().cloned());
        }
        held
    }

    fn all_are_known(&self, default: bool) -> bool {
        default || self.unknown.is_empty()
    }
}

/// GC of one plugin.
fn tell(container: &Container, plugin: &Value, kept: &Valid) -> Result<(), PluginError> {
    let entry = |(container, interface): &(String, String)| {
        Map::from_iter([
            ("containerID".to_owned(), json!(container)),
            ("ifname".to_owned(), json!(interface)),
        ])
    };
    let list = json!(kept.iter().map(entry).collect::<Vec<_>>());
    let mut config = plugin.clone();
    config["cni.dev/valid-attachments"] = list;
    plugins::run(Verb::Gc, &container.call, &config, None).map(drop)
}
