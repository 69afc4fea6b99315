//! The configuration of the default network: the first by name in a folder, or the one that is named.
//! Configurations of meta-plugins are passed over: wrapped, they would call themselves.

use super::InstallError;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What Multus's own files begin with; netplane's are the same.
pub(super) const OWN_PREFIX: &str = "00-multus.conf";
/// Types of meta-plugins.
const META_PLUGINS: [&str; 3] = ["netplane", "multus", "multus-shim"];
/// What is put behind the name of a file that was renamed, as Multus does.
const ASIDE: &str = ".old";

/// The default network's configuration.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Master {
    /// Where it is, or was before it was renamed.
    pub(super) original: PathBuf,
    /// It has been renamed.
    pub(super) is_aside: bool,
    pub(super) config: Map<String, Value>,
}

impl Master {
    /// Where it goes when it is renamed.
    pub(super) fn aside(&self) -> PathBuf {
        let mut aside = self.original.clone().into_os_string();
        aside.push(ASIDE);
        aside.into()
    }
}

/// Finds it; none: not there yet. With `renamed`, a file that was renamed counts under its old name, until
/// there is one of that name again.
pub(super) fn find(folder: &Path, name: Option<&str>, renamed: bool) -> Result<Option<Master>, InstallError> {
    for (candidate, is_aside) in candidates(folder, renamed)? {
        let wanted = match name {
            Some(name) => candidate == name,
            None => !candidate.starts_with(OWN_PREFIX) && is_configuration(&candidate),
        };
        if !wanted {
            continue;
        }
        let mut master = Master { original: folder.join(&candidate), is_aside, config: Map::new() };
        let path = if is_aside { master.aside() } else { master.original.clone() };
        match read(&path)? {
            // Gone since the folder was read.
            None => {}
            Some(config) if is_meta_plugin(&config) => {
                if name.is_some() {
                    let problem = format!("calls {}, should be a default network", shown(&config));
                    return Err(InstallError::Configuration { path, problem });
                }
                tracing::debug!(path = %path.display(), "passed over: it is a meta-plugin's");
            }
            Some(config) => {
                master.config = config;
                return Ok(Some(master));
            }
        }
    }
    Ok(None)
}

/// Names in their order, and whether each stands for a renamed file.
fn candidates(folder: &Path, renamed: bool) -> Result<BTreeMap<String, bool>, InstallError> {
    let failed = InstallError::file("list", folder);
    let mut names = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !entry.path().is_file() {
            continue;
        }
        if let Some(original) = name.strip_suffix(ASIDE).filter(|_| renamed) {
            names.entry(original.to_owned()).or_insert(true);
        }
        names.insert(name, false);
    }
    Ok(names)
}

/// Multus's choice. Runtimes also load `.json`, which then has to be named.
fn is_configuration(name: &str) -> bool {
    [".conf", ".conflist"].iter().any(|it| name.ends_with(it))
}

fn read(path: &Path) -> Result<Option<Map<String, Value>>, InstallError> {
    match fs::read(path) {
        Ok(bytes) => parse(path, &bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(InstallError::file("read", path)(error)),
    }
}

/// The text of a configuration or a list of them.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>, InstallError> {
    let wrong = |problem| InstallError::Configuration { path: path.to_owned(), problem };
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(config)) if program(&config).is_some() => Ok(config),
        Ok(Value::Object(_)) => {
            Err(wrong("neither type nor plugins[0].type: no CNI configuration".to_owned()))
        }
        Ok(other) => Err(wrong(format!("is {other}, should be a JSON object"))),
        Err(error) => Err(wrong(format!("is not JSON: {error}"))),
    }
}

/// What a configuration calls first.
pub(super) fn program(config: &Map<String, Value>) -> Option<&str> {
    let first = config.get("plugins").and_then(|it| it.get(0)?.get("type"));
    config.get("type").or(first)?.as_str()
}

fn shown(config: &Map<String, Value>) -> &str {
    program(config).unwrap_or("nothing")
}

fn is_meta_plugin(config: &Map<String, Value>) -> bool {
    program(config).is_some_and(|it| META_PLUGINS.contains(&it))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, content) in files {
            fs::write(folder.path().join(name), content).expect("a file");
        }
        folder
    }

    fn found(files: &[(&str, &str)], name: Option<&str>, renamed: bool) -> Option<String> {
        let folder = folder(files);
        let master = find(folder.path(), name, renamed).expect("searched")?;
        let path = if master.is_aside { master.aside() } else { master.original };
        path.file_name().map(|it| it.to_string_lossy().into_owned())
    }

    const BRIDGE: &str = r#"{"type":"bridge"}"#;
    const LIST: &str = r#"{"plugins":[{"type":"ptp"}]}"#;

    #[test]
    fn the_first_by_name_that_is_no_meta_plugins() {
        let meta = r#"{"plugins":[{"type":"multus"}]}"#;
        let files = [
            ("00-multus.conf", BRIDGE),
            ("00-multus.conflist.new", "x"),
            ("05-old.conflist", meta),
            ("06-ours.conf", r#"{"type":"netplane"}"#),
            ("07-runtime.json", BRIDGE),
            ("10-b.conflist", LIST),
            ("20-a.conf", BRIDGE),
        ];
        assert_eq!(found(&files, None, false).as_deref(), Some("10-b.conflist"));
        assert_eq!(found(&files, Some("20-a.conf"), false).as_deref(), Some("20-a.conf"));
        assert_eq!(found(&files, Some("07-runtime.json"), false).as_deref(), Some("07-runtime.json"));
        assert_eq!(found(&files, Some("30-none.conf"), false), None);
        assert_eq!(found(&files[..5], None, false), None);
        let folder = folder(&files);
        let error = find(folder.path(), Some("06-ours.conf"), false).expect_err("it would call itself");
        assert!(error.to_string().contains("06-ours.conf: calls netplane"), "{error}");
    }

    #[test]
    fn a_renamed_file_counts_under_its_old_name() {
        let files = [("10-a.conf.old", BRIDGE), ("20-b.conf", BRIDGE)];
        assert_eq!(found(&files, None, true).as_deref(), Some("10-a.conf.old"));
        assert_eq!(found(&files, Some("10-a.conf"), true).as_deref(), Some("10-a.conf.old"));
        assert_eq!(found(&files, None, false).as_deref(), Some("20-b.conf"));
        let both = [("10-a.conf.old", BRIDGE), ("10-a.conf", LIST)];
        assert_eq!(found(&both, None, true).as_deref(), Some("10-a.conf"));
    }

    #[test]
    fn what_is_wrong_with_the_first_is_told_and_it_is_not_passed_over() {
        for (content, told) in [
            ("", "not JSON"),
            (r#"{"type":"bri"#, "not JSON"),
            ("[]", "JSON object"),
            (r#"{"name":"x"}"#, "type"),
        ] {
            let folder = folder(&[("10-a.conf", content), ("20-b.conf", BRIDGE)]);
            let error = find(folder.path(), None, false).expect_err("broken").to_string();
            assert!(error.contains("10-a.conf") && error.contains(told), "{error}");
        }
    }
}
