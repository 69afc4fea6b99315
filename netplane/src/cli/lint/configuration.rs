//! CNI configuration files: the meta-plugin's own, key by key, and those of other plugins and lists.

use super::tree::{Placed, Tree};
use super::{At, Document, Findings};
use crate::attach::places::Source;
use crate::attach::plan::{self, Overrides};
use crate::cni::{self, Checked};

/// `type` of the meta-plugin: ours, and that under which an existing cluster may go on to call it.
const META_PLUGINS: [&str; 2] = ["netplane", "multus"];

/// `namespaceIsolation` of a configuration that has it.
pub(super) struct Isolation(Checked);

impl Isolation {
    pub(super) fn forbids(&self, pod: &str, network: &str) -> bool {
        self.0.isolates(pod, network)
    }
}

/// Whether a document is a CNI configuration and not an object of Kubernetes.
pub(super) fn is_one(content: &Tree) -> bool {
    let is_object = content.get("kind").is_some() || content.get("apiVersion").is_some();
    !is_object && (content.text(&["type"]).is_some() || content.get("plugins").is_some())
}

/// Checks it; returns what the meta-plugin's says of namespaces.
pub(super) fn check(document: &Document, findings: &mut Findings) -> Option<Isolation> {
    let content = &document.content;
    let name = content.value.text(&["name"]).unwrap_or("?");
    let object = format!("configuration {name}");
    let at = document.at().named(&object);
    if !document.path.extension().is_some_and(|it| it == "conf" || it == "conflist" || it == "json") {
        findings.warning(at, "runtimes read files that end in .conf, .conflist and .json only");
    }
    let plugins = match content.value.get("plugins").map(|it| &it.value) {
        Some(Tree::List(plugins)) => plugins.as_slice(),
        Some(_) => {
            findings.error(at, "plugins: must be a list of plugins");
            return None;
        }
        None => std::slice::from_ref(content),
    };
    let is_meta = |it: &&Placed| it.value.text(&["type"]).is_some_and(|it| META_PLUGINS.contains(&it));
    let Some(meta) = plugins.iter().find(is_meta) else {
        other(document, at, findings);
        return None;
    };
    meta_plugin(&meta.value, &content.value, at.of(meta), findings)
}

/// The configuration that the runtime makes: a list's name and version go into it.
fn meta_plugin(meta: &Tree, list: &Tree, at: At<'_>, findings: &mut Findings) -> Option<Isolation> {
    let mut config = meta.json();
    for key in ["name", "cniVersion"] {
        if let (Some(value), Some(config)) = (list.get(key), config.as_object_mut()) {
            config.insert(key.to_owned(), value.value.json());
        }
    }
    let checked = cni::check_configuration(&config);
    let at_key = |key: &str| meta.get(key).or_else(|| list.get(key)).map_or(at, |it| at.of(it));
    for (key, problem) in &checked.problems {
        findings.error(at_key(key), problem);
    }
    for key in &checked.unknown {
        findings.warning(at_key(key), format!("{key}: not a key of netplane, and ignored"));
    }
    Some(Isolation(checked))
}

/// Another plugin's, or a list without ours.
fn other(document: &Document, at: At<'_>, findings: &mut Findings) {
    let source = Source::unnamed("configuration".to_owned(), document.content.value.json().to_string());
    if let Err(error) = plan::delegate(&source, "eth0".to_owned(), true, &Overrides::default()) {
        let message = error.to_string();
        findings.error(at, super::without_network(&message, "configuration"));
    }
}
