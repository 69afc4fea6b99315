//! Carries out a plan: each delegate in turn, the record ahead of every effect, and everything undone in
//! reverse order when one fails.

use super::AttachError;
use super::default_route::Wish;
use super::detach;
use super::device_info;
use super::plan::{Delegate, Warning};
use super::record::{Attachment, AttachmentRecord, PodRef, RECORD_VERSION};
use super::store::{Found, RecordStore};
use super::to_multus;
use crate::netlink::netns::Netns;
use crate::plugins::result::CniResult;
use crate::plugins::{self, Call, Verb};
use serde_json::Value;

/// For which container.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its parameters; `interface` is the default network's (`CNI_IFNAME` of the ADD).
    pub call: Call,
    pub pod: Option<PodRef>,
}

impl Container {
    /// The container as a record has it: in its own namespace, unless that is gone.
    pub fn at(&self, record: &AttachmentRecord) -> Self {
        let netns = Some(record.netns.clone()).filter(|it| Netns::open(it).is_ok());
        let call =
            Call { container_id: record.container_id.clone(), netns, ..self.call_for(&record.interface) };
        Self { call, pod: record.pod.clone() }
    }

    /// Another container of which nothing else is known.
    pub(super) fn named(&self, container_id: &str, interface: &str) -> Self {
        let call = Call {
            container_id: container_id.to_owned(),
            netns: None,
            args: String::new(),
            ..self.call_for(interface)
        };
        Self { call, pod: None }
    }

    /// A record of these delegates as they are before they have done anything.
    pub fn record(&self, delegates: &[Delegate]) -> AttachmentRecord {
        AttachmentRecord {
            version: RECORD_VERSION,
            container_id: self.call.container_id.clone(),
            interface: self.call.interface.clone(),
            netns: self.call.netns.clone().unwrap_or_default(),
            pod: self.pod.clone(),
            complete: false,
            attachments: delegates.iter().map(begun).collect(),
        }
    }

    /// The parameters for one delegate.
    pub(super) fn call_for(&self, interface: &str) -> Call {
        Call { interface: interface.to_owned(), ..self.call.clone() }
    }
}

/// What an ADD has made.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The default network's, or without one all results together.
    pub result: CniResult,
    pub record: AttachmentRecord,
    /// What was passed over, of all delegates.
    pub warnings: Vec<Warning>,
}

/// Attaches the first delegates, then those that `rest` returns: what is still to be fetched for them can be
/// fetched meanwhile. Without anything to wait for, all are first, and all are checked before any effect.
///
/// # Errors
/// The first failure, also of `rest`; nothing is left of what was attached before it.
pub fn perform<E: From<AttachError>>(
    container: &Container,
    first: Vec<Delegate>,
    rest: impl FnOnce() -> Result<Vec<Delegate>, E>,
    records: &RecordStore,
) -> Result<Attached, E> {
    let call = &container.call;
    records.make()?;
    let _lock = records.lock(&call.container_id, &call.interface, call.timeout)?;
    match records.load(&call.container_id, &call.interface)? {
        Found::Nothing => {}
        Found::Record(left) if left.complete => {
            let (container_id, interface) = (call.container_id.clone(), call.interface.clone());
            return Err(AttachError::Twice { container_id, interface }.into());
        }
        Found::Record(left) => {
            tracing::warn!(
                container = call.container_id,
                "an earlier ADD was cut off; taking down what it left"
            );
            detach::detach(&container.at(&left), &left, records)?;
        }
        Found::Damaged => {
            // All must be known first: with an error here the damaged record stays for DEL.
            let mut all = first;
            all.extend(rest()?);
            let left = detach::made_up(container, &all, records)?;
            detach::detach(container, &left, records)?;
            return begin(container, all, || Ok(Vec::new()), records);
        }
    }
    begin(container, first, rest, records)
}

/// The same for a container that has nothing yet.
fn begin<E: From<AttachError>>(
    container: &Container,
    first: Vec<Delegate>,
    rest: impl FnOnce() -> Result<Vec<Delegate>, E>,
    records: &RecordStore,
) -> Result<Attached, E> {
    check_container(container, &first)?;
    let mut record = container.record(&[]);
    match attach_all(container, first, rest, records, &mut record) {
        Ok(delegates) => {
            let result = combined(&delegates, &record);
            let warnings = delegates.into_iter().flat_map(|it| it.warnings).collect();
            Ok(Attached { result, record, warnings })
        }
        Err(error) => {
            undo(container, &record, records);
            Err(error)
        }
    }
}

/// Takes down what a failed ADD has made. What does not go stays in the record for DEL: the failure is the
/// answer, and not this.
pub fn undo(container: &Container, record: &AttachmentRecord, records: &RecordStore) {
    if let Err(error) = detach::detach(container, record, records) {
        tracing::error!(%error, "could not take down all that a failed ADD had made");
    }
}

/// What would be found out too late: an interface that is there already would be removed by the DEL that
/// undoes the plugin's failure, and a plugin that is not there cannot undo anything.
fn check_container(container: &Container, delegates: &[Delegate]) -> Result<(), AttachError> {
    if delegates.is_empty() {
        return Ok(());
    }
    let taken = plugins::interfaces(&container.call).map_err(AttachError::Container)?;
    for delegate in delegates {
        let network = || delegate.label.clone();
        if taken.contains(&delegate.interface) {
            let interface = delegate.interface.clone();
            return Err(AttachError::Taken { network: network(), interface });
        }
        for plugin in &delegate.plugins {
            plugins::look_up(&container.call, plugin)
                .map_err(|error| AttachError::Delegate { network: network(), error })?;
        }
    }
    Ok(())
}

/// All delegates in turn. Returns them.
fn attach_all<E: From<AttachError>>(
    container: &Container,
    mut delegates: Vec<Delegate>,
    rest: impl FnOnce() -> Result<Vec<Delegate>, E>,
    records: &RecordStore,
    record: &mut AttachmentRecord,
) -> Result<Vec<Delegate>, E> {
    let mut wish = Wish::of(&delegates);
    for delegate in &delegates {
        attach(container, delegate, records, record)?;
        wish.as_ref().map_or(Ok(()), |it| it.clear(container))?;
    }
    let rest = rest()?;
    check_container(container, &rest)?;
    if !rest.is_empty() {
        wish = Wish::of(delegates.iter().chain(&rest));
        wish.as_ref().map_or(Ok(()), |it| it.clear(container))?;
    }
    for delegate in &rest {
        attach(container, delegate, records, record)?;
        wish.as_ref().map_or(Ok(()), |it| it.clear(container))?;
    }
    delegates.extend(rest);
    wish.map_or(Ok(()), |it| it.fulfil(container, record))?;
    record.complete = true;
    records.save(record, true)?;
    to_multus::leave(records.folder(), record);
    Ok(delegates)
}

fn begun(delegate: &Delegate) -> Attachment {
    Attachment {
        network: delegate.network.clone(),
        label: delegate.label.clone(),
        interface: delegate.interface.clone(),
        default: delegate.default,
        disable_check: delegate.disable_check,
        disable_gc: delegate.disable_gc,
        default_route: delegate.default_route.clone(),
        device_info: None,
        device_info_file: delegate.info_file.as_ref().map(|it| it.to.clone()),
        plugins: delegate.plugins.clone(),
        result: None,
        mac: None,
        ips: Vec::new(),
        master: None,
    }
}

/// One delegate. When it fails it has been undone already, and its attachment is out of the record.
fn attach(
    container: &Container,
    delegate: &Delegate,
    records: &RecordStore,
    record: &mut AttachmentRecord,
) -> Result<(), AttachError> {
    // With the results of those before it.
    record.attachments.push(begun(delegate));
    records.save(record, false)?;
    let call = container.call_for(&delegate.interface);
    device_info::offer(delegate);
    let mut result = delegate.chained.then(CniResult::default);
    for (at, plugin) in delegate.plugins.iter().enumerate() {
        match plugins::run(Verb::Add, &call, plugin, result.as_ref()) {
            Ok(next) => result = next.or(result),
            Err(error) => {
                let error = device_info::explain(delegate, error);
                // The failed plugin too, unless it cleans up after itself: it may have done half.
                let failed = if plugins::builtin::is_builtin(plugin) { at } else { at + 1 };
                let begun = delegate.plugins.get(..failed).unwrap_or_default();
                if !detach::run_plugins(&call, begun, result.as_ref()).is_empty() {
                    return Err(AttachError::Delegate { network: delegate.label.clone(), error });
                }
                let begun = record.attachments.pop();
                device_info::forget(begun.as_ref().and_then(|it| it.device_info_file.as_deref()));
                return Err(AttachError::Delegate { network: delegate.label.clone(), error });
            }
        }
    }
    tracing::info!(network = delegate.label, interface = delegate.interface, "attached");
    if let Some(attachment) = record.attachments.last_mut() {
        let result = result.unwrap_or_default();
        let inside = result.container_interface();
        attachment.mac = inside.map(|(_, it)| it.mac.clone()).filter(|it| !it.is_empty());
        attachment.ips = result.container_ips().map(|it| it.address.addr()).collect();
        attachment.master = master_of(delegate, container);
        attachment.device_info = device_info::collect(delegate);
        attachment.result = Some(result);
    }
    Ok(())
}

/// The master that the agent attaches to: as configured, else as the built-in plugin finds it.
fn master_of(delegate: &Delegate, container: &Container) -> Option<String> {
    // Not a name on the node: `linkInContainer`.
    let inside = |plugin: &Value| plugin.get("linkInContainer") == Some(&Value::Bool(true));
    let configured =
        |plugin: &Value| plugin.get("master")?.as_str().filter(|_| !inside(plugin)).map(str::to_owned);
    let configured = delegate.plugins.iter().find_map(configured).filter(|it| !it.is_empty());
    configured.or_else(|| {
        let builtin = delegate.plugins.iter().find(|it| plugins::builtin::is_builtin(it))?;
        plugins::builtin::master_name(builtin)
            .inspect_err(|error| tracing::warn!(%error, container = container.call.container_id, "master"))
            .ok()
            .flatten()
    })
}

fn combined(delegates: &[Delegate], record: &AttachmentRecord) -> CniResult {
    let results = || record.attachments.iter().filter_map(|it| it.result.as_ref());
    if delegates.iter().any(|it| it.default) {
        let default = record.attachments.iter().find(|it| it.default).and_then(|it| it.result.clone());
        return default.unwrap_or_default();
    }
    let mut all = CniResult::default();
    results().for_each(|it| all.append(it));
    all
}
