//! `netplane lint`: every problem of NADs, of pods and what makes pods, and of CNI configurations, each with its
//! place; and what Multus passes over in silence.

mod configuration;
mod pods;
mod tree;

use crate::attach::places::Source;
use crate::attach::plan::{self, Overrides};
use crate::nad::fast_path::{FAST_PATH_ANNOTATION, FastPath};
use crate::nad::{Nad, dir};
use anyhow::{Result, bail};
use configuration::Isolation;
use serde_saphyr::Location;
use std::path::{Path, PathBuf};
use tree::{Placed, Tree, place};

/// Where something is: a file, a document in it, and an object there.
#[derive(Clone, Copy)]
struct At<'a> {
    path: &'a Path,
    /// From 1.
    document: usize,
    location: Location,
    object: &'a str,
}

impl<'a> At<'a> {
    /// A value of the same object.
    fn of(self, value: &Placed) -> Self {
        Self { location: value.referenced, ..self }
    }

    fn named(self, object: &'a str) -> Self {
        Self { object, ..self }
    }
}

/// What was found, as it is printed.
#[derive(Default)]
struct Findings {
    errors: Vec<String>,
    /// What works, but not as it looks: an error with `strictSelections`.
    warnings: Vec<String>,
}

impl Findings {
    fn error(&mut self, at: At<'_>, message: impl std::fmt::Display) {
        self.errors.push(line(at, "", &message));
    }

    fn warning(&mut self, at: At<'_>, message: impl std::fmt::Display) {
        self.warnings.push(line(at, "warning: ", &message));
    }
}

/// `FILE:LINE:COLUMN: document N: OBJECT: MESSAGE`, as editors and CI jump to it.
fn line(at: At<'_>, kind: &str, message: &dyn std::fmt::Display) -> String {
    let place = place(at.location).map(|(line, column)| format!(":{line}:{column}")).unwrap_or_default();
    let object = if at.object.is_empty() { String::new() } else { format!("{}: ", at.object) };
    format!("{}{place}: document {}: {kind}{object}{message}", at.path.display(), at.document)
}

/// One document of a file.
struct Document {
    path: PathBuf,
    number: usize,
    content: Placed,
}

impl Document {
    fn at(&self) -> At<'_> {
        let location = self.content.referenced;
        At { path: &self.path, document: self.number, location, object: "" }
    }
}

/// What the files have, by kind, with what all of it is checked against.
#[derive(Default)]
struct Known {
    nads: Vec<Nad>,
    isolation: Option<Isolation>,
}

#[expect(clippy::print_stdout, reason = "the findings are what this command is for")]
pub(super) fn run(files: &[PathBuf], strict: bool) -> Result<()> {
    let mut findings = Findings::default();
    let documents: Vec<_> = files.iter().flat_map(|it| read(it, &mut findings)).collect();
    let mut known = Known::default();
    let (mut pods, mut configurations) = (0, 0);
    for document in &documents {
        let Tree::Map(_) = document.content.value else { continue };
        if configuration::is_one(&document.content.value) {
            configurations += 1;
            known.isolation = configuration::check(document, &mut findings).or(known.isolation);
        } else {
            nad(document, &mut known, &mut findings);
        }
    }
    for document in &documents {
        pods += pods::check(document, &known, &mut findings);
    }
    let Findings { errors, warnings } = findings;
    errors.iter().chain(&warnings).for_each(|it| println!("{it}"));
    let count = errors.len() + if strict { warnings.len() } else { 0 };
    if count > 0 {
        bail!("{count} problems");
    }
    let (nads, files) = (known.nads.len(), files.len());
    let warned = if warnings.is_empty() { String::new() } else { format!(", {} warnings", warnings.len()) };
    println!(
        "{nads} NADs, {pods} pods and {configurations} configurations in {files} files: no problems{warned}"
    );
    Ok(())
}

/// The documents of a file; those in a `List` each by itself.
fn read(path: &Path, findings: &mut Findings) -> Vec<Document> {
    let at = At { path, document: 1, location: Location::UNKNOWN, object: "" };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            findings.error(at, format!("cannot be read: {error}"));
            return Vec::new();
        }
    };
    let documents = match tree::documents(&text) {
        Ok(documents) => documents,
        Err(error) => {
            let at = At { location: error.location().unwrap_or(Location::UNKNOWN), ..at };
            findings.error(at, format!("is not YAML or JSON: {error}"));
            return Vec::new();
        }
    };
    let document = |(number, content)| Document { path: path.to_owned(), number, content };
    (1..)
        .zip(documents)
        .flat_map(|(number, it)| items(it).into_iter().map(move |it| (number, it)))
        .map(document)
        .collect()
}

/// What `kubectl get -o yaml` wraps around several objects.
fn items(content: Placed) -> Vec<Placed> {
    let is_list = content.value.text(&["kind"]) == Some("List");
    match content.value.get("items").map(|it| &it.value) {
        Some(Tree::List(items)) if is_list => items.clone(),
        _ => vec![content],
    }
}

/// Takes in a NAD, if this is one.
fn nad(document: &Document, known: &mut Known, findings: &mut Findings) {
    let content = &document.content.value;
    let nad = match dir::parse(content.json()) {
        Ok(None) => return,
        Ok(Some(nad)) => nad,
        Err(message) => return findings.error(document.at(), message),
    };
    let object = format!("NAD {}", nad.name);
    let at = document.at().named(&object);
    if known.nads.iter().any(|it| it.name == nad.name) {
        return findings.error(at, "is defined twice; the first one counts");
    }
    if let Some(config) = content.at(&["spec", "config"]) {
        // An empty one stands for a file of the node.
        if !nad.config.trim().is_empty()
            && let Err(error) =
                plan::delegate(&Source::of_nad(&nad), "net1".to_owned(), false, &Overrides::default())
        {
            findings.error(at.of(config), without_network(&error.to_string(), &nad.name.to_string()));
        }
    }
    if let Some(annotation) = content.at(&["metadata", "annotations", FAST_PATH_ANNOTATION]) {
        let text = nad.annotations.get(FAST_PATH_ANNOTATION).map_or("", String::as_str);
        for problem in FastPath::parse(text).err().unwrap_or_default() {
            findings.error(at.of(annotation), format!("{FAST_PATH_ANNOTATION}: {problem}"));
        }
    }
    known.nads.push(nad);
}

/// Errors of the plan name the network; here the object does.
fn without_network<'a>(message: &'a str, network: &str) -> &'a str {
    message.strip_prefix(&format!("network {network}: ")).unwrap_or(message)
}
