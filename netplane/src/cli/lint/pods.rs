//! Pods, and the templates of what makes pods: the annotations that select networks, and what the selected NADs
//! make of them, as far as they are among the files.

use super::tree::{Placed, Tree};
use super::{At, Document, Findings, Known};
use crate::attach::places::Source;
use crate::attach::plan::{self, Overrides, Wanted};
use crate::nad::selection::{self, DEFAULT_NETWORK_ANNOTATION, NETWORKS_ANNOTATION, NetworkSelection};

/// Where the pod's template is, by kind.
const TEMPLATES: [(&str, &[&str]); 7] = [
    ("Deployment", &["spec", "template"]),
    ("StatefulSet", &["spec", "template"]),
    ("DaemonSet", &["spec", "template"]),
    ("ReplicaSet", &["spec", "template"]),
    ("ReplicationController", &["spec", "template"]),
    ("Job", &["spec", "template"]),
    ("CronJob", &["spec", "jobTemplate", "spec", "template"]),
];

/// Checks the pod of a document, if it has one. Returns how many it has.
pub(super) fn check(document: &Document, known: &Known, findings: &mut Findings) -> usize {
    let content = &document.content.value;
    let kind = content.text(&["kind"]).unwrap_or_default();
    let pod = if kind == "Pod" {
        content
    } else {
        let template = TEMPLATES.iter().find(|(it, _)| *it == kind).and_then(|(_, path)| content.at(path));
        let Some(template) = template else { return 0 };
        &template.value
    };
    let namespace = content.text(&["metadata", "namespace"]).unwrap_or("default");
    let name = ["name", "generateName"].into_iter().find_map(|it| content.text(&["metadata", it]));
    let object = format!("{kind} {namespace}/{}", name.unwrap_or("?"));
    let at = document.at().named(&object);
    if kind != "Pod" {
        misplaced(content, at, findings);
    }
    let annotation = |name: &str| pod.at(&["metadata", "annotations", name]);
    // A pod of the node's own network has no sandbox that is attached.
    let on_host = pod.at(&["spec", "hostNetwork"]).is_some_and(|it| it.value.json() == true);
    for name in [DEFAULT_NETWORK_ANNOTATION, NETWORKS_ANNOTATION] {
        let Some(value) = annotation(name) else { continue };
        let at = at.of(value);
        if on_host {
            findings
                .warning(at, format!("annotation {name}: the pod has hostNetwork, so nothing is attached"));
        }
        let Some(text) = text(value) else {
            findings.error(at, format!("annotation {name}: is {}, should be a string", value.value.json()));
            continue;
        };
        let one = name == DEFAULT_NETWORK_ANNOTATION;
        networks(text, namespace, one, at, known, findings);
    }
    1
}

fn text(value: &Placed) -> Option<&str> {
    match &value.value {
        Tree::Scalar(serde_json::Value::String(text)) => Some(text),
        _ => None,
    }
}

/// On the Deployment itself nobody reads the annotation: its pods have the template's.
fn misplaced(content: &Tree, at: At<'_>, findings: &mut Findings) {
    for name in [NETWORKS_ANNOTATION, DEFAULT_NETWORK_ANNOTATION] {
        if let Some(value) = content.at(&["metadata", "annotations", name]) {
            let message =
                format!("annotation {name}: has no effect here, it belongs into the template's metadata");
            findings.warning(at.of(value), message);
        }
    }
}

/// One annotation. `one`: it is to name a single NAD, which takes the default network's place.
fn networks(text: &str, namespace: &str, one: bool, at: At<'_>, known: &Known, findings: &mut Findings) {
    // Multus looks for the default network in its own namespace.
    let namespace_of_names = if one { "kube-system" } else { namespace };
    let (selections, errors) = selection::check(text, namespace_of_names);
    let sound = errors.is_empty();
    for error in errors {
        let cause = std::error::Error::source(&error).map(|it| format!(": {it}")).unwrap_or_default();
        findings.error(at, format!("{error}{cause}"));
    }
    for (entry, key) in selection::unknown_keys(text) {
        let message = format!(
            "annotation {NETWORKS_ANNOTATION}: entry {entry}: {key}: no key of the standard, and ignored"
        );
        findings.warning(at, message);
    }
    if one && sound && selections.len() != 1 {
        findings
            .error(at, format!("annotation {DEFAULT_NETWORK_ANNOTATION}: is \"{text}\", should be one NAD"));
    }
    let mut wanted = Vec::new();
    for selection in &selections {
        let network = &selection.network;
        if !one && known.isolation.as_ref().is_some_and(|it| it.forbids(namespace, &network.namespace)) {
            let message = "namespaceIsolation is set and its namespace is not in globalNamespaces";
            findings.error(at, format!("network {network}: pods of {namespace} may not use it: {message}"));
        }
        wanted.extend(found(selection, at, known, findings));
    }
    let mut alone_is_well = sound && wanted.len() == selections.len();
    for it in &wanted {
        let interface = it.interface.clone().unwrap_or_else(|| "net1".to_owned());
        match plan::delegate(&it.source, interface, false, &it.overrides) {
            Ok(delegate) => {
                for warning in delegate.warnings {
                    findings.warning(at, format!("{warning} (passed over, as Multus does)"));
                }
            }
            Err(error) => {
                // What is wrong with the NAD itself has been said there.
                alone_is_well = false;
                let own = plan::delegate(&it.source, "net1".to_owned(), false, &Overrides::default());
                if own.is_ok() {
                    findings.error(at, error);
                }
            }
        }
    }
    if alone_is_well && !one {
        together(&wanted, at, findings);
    }
}

/// What one selection may ask for, and two may not.
fn together(wanted: &[Wanted], at: At<'_>, findings: &mut Findings) {
    let of_each = |it: &Wanted| {
        plan::delegate(&it.source, "net1".to_owned(), false, &it.overrides)
            .map(|it| it.warnings)
            .unwrap_or_default()
    };
    match plan::delegates(None, wanted) {
        Err(error) => findings.error(at, error),
        Ok(delegates) => {
            let said: Vec<_> = wanted.iter().flat_map(of_each).collect();
            let more = delegates.into_iter().flat_map(|it| it.warnings).filter(|it| !said.contains(it));
            more.for_each(|it| findings.warning(at, format!("{it} (passed over, as Multus does)")));
        }
    }
}

/// The NAD of a selection, if it is among the files and has its configuration itself.
fn found(selection: &NetworkSelection, at: At<'_>, known: &Known, findings: &mut Findings) -> Option<Wanted> {
    let nad = known.nads.iter().find(|it| it.name == selection.network);
    if nad.is_none() && !known.nads.is_empty() {
        findings.warning(at, format!("network {}: no such NAD in these files", selection.network));
    }
    let nad = nad.filter(|it| !it.config.trim().is_empty())?;
    Some(Wanted {
        source: Source::of_nad(nad),
        interface: selection.interface.clone(),
        overrides: Overrides::of_selection(selection),
    })
}
