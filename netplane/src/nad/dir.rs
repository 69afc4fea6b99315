//! NADs from a directory: the very files that one would `kubectl apply`.

use super::{Nad, NetworkName};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

const KIND: &str = "NetworkAttachmentDefinition";
const API_VERSION: &str = "k8s.cni.cncf.io/v1";

/// The directory itself cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the NAD directory {}", path.display())]
pub struct NadDirError {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// A file or document that is no NAD; the others are loaded all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: document {document}: {message}", path.display())]
pub struct NadProblem {
    pub path: PathBuf,
    /// Number of the YAML document in its file, from 1.
    pub document: usize,
    pub message: String,
}

/// What a directory holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// In the order of file names, each with the file it is from.
    pub nads: Vec<(PathBuf, Nad)>,
    pub problems: Vec<NadProblem>,
}

/// Loads all `*.yaml`, `*.yml` and `*.json` files. Objects of other kinds are passed over.
///
/// # Errors
/// The directory cannot be read. What is wrong with one file is a problem in the result.
pub fn load(dir: &Path) -> Result<Loaded, NadDirError> {
    let failed = |source| NadDirError { path: dir.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().and_then(|it| it.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) {
            paths.push(path);
        }
    }
    paths.sort();
    let mut loaded = Loaded::default();
    for path in paths {
        load_file(&path, &mut loaded);
    }
    Ok(loaded)
}

/// Loads the documents of one file into `loaded`.
pub fn load_file(path: &Path, loaded: &mut Loaded) {
    let mut problem = |document, message: String| {
        loaded.problems.push(NadProblem { path: path.to_owned(), document, message });
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return problem(1, format!("cannot be read: {error}")),
    };
    let documents: Vec<serde_json::Value> = match serde_saphyr::from_multiple(&text) {
        Ok(documents) => documents,
        Err(error) => return problem(1, format!("is not YAML or JSON: {error}")),
    };
    for (number, document) in (1..).zip(documents) {
        match parse(document) {
            Ok(None) => {}
            Ok(Some(nad)) if loaded.nads.iter().any(|(_, other)| other.name == nad.name) => {
                let message = format!("NAD {} is defined twice; the first one counts", nad.name);
                loaded.problems.push(NadProblem { path: path.to_owned(), document: number, message });
            }
            Ok(Some(nad)) => loaded.nads.push((path.to_owned(), nad)),
            Err(message) => {
                loaded.problems.push(NadProblem { path: path.to_owned(), document: number, message });
            }
        }
    }
}

/// The parts of the object that are read; everything else is Kubernetes's.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    api_version: String,
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default)]
    config: String,
}

/// A NAD out of one document; nothing for an object of another kind.
///
/// # Errors
/// What is wrong with it.
pub fn parse(document: serde_json::Value) -> Result<Option<Nad>, String> {
    if document.get("kind").and_then(serde_json::Value::as_str) != Some(KIND) {
        return Ok(None);
    }
    let object: Object = serde_json::from_value(document).map_err(|it| format!("{KIND}: {it}"))?;
    if object.api_version != API_VERSION {
        return Err(format!("{KIND}: apiVersion is \"{}\", should be \"{API_VERSION}\"", object.api_version));
    }
    let namespace = object.metadata.namespace.unwrap_or_else(|| "default".to_owned());
    let text = format!("{namespace}/{}", object.metadata.name);
    let name = NetworkName::try_from(text).map_err(|it| format!("{KIND}: metadata: {it}"))?;
    let annotations = object.metadata.annotations.unwrap_or_default();
    Ok(Some(Nad { name, annotations, config: object.spec.config }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(files: &[(&str, &str)]) -> Loaded {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).expect("a file");
        }
        load(folder.path()).expect("a directory")
    }

    const N3: &str = r#"
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata:
  name: n3
  namespace: core
  annotations:
    netplane.dev/fast-path: |
      { "role": "access" }
spec:
  config: |
    { "type": "macvlan", "master": "n3" }
"#;

    #[test]
    fn yaml_and_json_with_several_documents() {
        let json = r#"{"apiVersion":"k8s.cni.cncf.io/v1","kind":"NetworkAttachmentDefinition","metadata":{"name":"b"}}"#;
        let two = format!("{N3}---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: x }}\n");
        let loaded = load_text(&[("a.yaml", &two), ("b.json", json), ("c.txt", "kind: nonsense")]);
        assert_eq!(loaded.problems, []);
        let names: Vec<_> = loaded.nads.iter().map(|(_, nad)| nad.name.to_string()).collect();
        assert_eq!(names, ["core/n3", "default/b"]);
        let (_, n3) = loaded.nads.first().expect("n3");
        assert_eq!(
            n3.annotations.get("netplane.dev/fast-path").map(|it| it.trim()),
            Some("{ \"role\": \"access\" }")
        );
        assert!(n3.config.contains("macvlan"));
    }

    #[test]
    fn one_bad_file_hides_no_other() {
        let wrong_version = N3.replace("cncf.io/v1", "cncf.io/v7").replace("name: n3", "name: n7");
        let loaded = load_text(&[
            ("1.yaml", "a: [unclosed"),
            ("2.yaml", &wrong_version),
            ("3.yaml", N3),
            ("4.yaml", N3),
            ("5.yaml", "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\n"),
        ]);
        assert_eq!(loaded.nads.len(), 1);
        let messages: Vec<_> = loaded.problems.iter().map(ToString::to_string).collect();
        assert_eq!(messages.len(), 4, "{messages:?}");
        assert!(messages[0].contains("1.yaml") && messages[0].contains("not YAML"));
        assert!(messages[1].contains("should be \"k8s.cni.cncf.io/v1\""));
        assert!(messages[2].contains("core/n3 is defined twice"));
        assert!(messages[3].contains("metadata"));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = load(Path::new("/nonexistent/nads")).expect_err("no directory");
        assert_eq!(error.to_string(), "cannot read the NAD directory /nonexistent/nads");
    }
}
