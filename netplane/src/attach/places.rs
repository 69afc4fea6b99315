//! Where a network's configuration is: a NAD, or a file of the CNI configuration directory.

use super::AttachError;
use crate::nad::{Nad, NetworkName};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A network configuration and where it is from.
#[derive(Clone, Debug)]
pub struct Source {
    pub network: Option<NetworkName>,
    pub label: String,
    /// A plugin's configuration or a list's.
    pub config: String,
    /// Put in where the configuration has none (NPWG standard §3.4.2).
    pub name: String,
}

impl Source {
    pub fn of_nad(nad: &Nad) -> Self {
        Self {
            network: Some(nad.name.clone()),
            label: nad.name.to_string(),
            config: nad.config.clone(),
            name: nad.name.name.clone(),
        }
    }

    pub(super) fn wrong(&self, key: &'static str, problem: impl Into<String>) -> AttachError {
        AttachError::Config { network: self.label.clone(), key, problem: problem.into() }
    }
}

/// Where configurations are looked for.
#[derive(Clone, Debug)]
pub struct Places<'a> {
    /// Those that there are, as far as they were asked for.
    pub nads: &'a [Nad],
    /// Where they are from, for errors.
    pub nads_from: String,
    /// `confDir`.
    pub conf_dir: &'a Path,
    /// `multusNamespace`.
    pub namespace: &'a str,
}

impl Places<'_> {
    fn nad(&self, name: &NetworkName) -> Option<&Nad> {
        self.nads.iter().find(|it| it.name == *name)
    }

    /// A NAD, which must be there.
    ///
    /// # Errors
    /// It is not; or its configuration is empty and no file has it.
    pub fn selected(&self, name: &NetworkName) -> Result<Source, AttachError> {
        let nad = self.nad(name).ok_or_else(|| AttachError::NoNad {
            network: name.to_string(),
            places: self.nads_from.clone(),
        })?;
        let mut source = Source::of_nad(nad);
        if source.config.trim().is_empty() {
            // NPWG standard §3.4.1: a file of that name, lists first.
            let found = configuration_named(self.conf_dir, &nad.name.name);
            source.config = found.ok_or_else(|| {
                let problem = format!("empty, and no file in {} has that name", self.conf_dir.display());
                source.wrong("spec.config", problem)
            })?;
        }
        Ok(source)
    }

    /// `clusterNetwork`: a NAD, a name in a file of `confDir`, a directory's first file, or a file.
    ///
    /// # Errors
    /// It is none of these.
    pub fn cluster_network(&self, text: &str) -> Result<Source, AttachError> {
        if let Some(name) = nad_name(text, self.namespace).filter(|it| self.nad(it).is_some()) {
            return self.selected(&name);
        }
        let path = Path::new(text);
        let config = configuration_named(self.conf_dir, text)
            .or_else(|| first_configuration(path))
            .or_else(|| std::fs::read_to_string(path).ok());
        let config = config.ok_or_else(|| AttachError::NoClusterNetwork {
            network: text.to_owned(),
            conf_dir: self.conf_dir.to_owned(),
        })?;
        Ok(Source { network: None, label: text.to_owned(), config, name: String::new() })
    }
}

/// The NAD that a `clusterNetwork` could be; none for a path.
pub fn nad_name(text: &str, namespace: &str) -> Option<NetworkName> {
    let text = if text.contains('/') { text.to_owned() } else { format!("{namespace}/{text}") };
    NetworkName::try_from(text).ok()
}

/// Files of a configuration directory by name, lists before single plugins.
fn configurations(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|it| it.path());
    let rank = |path: &Path| match path.extension().and_then(|it| it.to_str()) {
        Some("conflist") => Some(0),
        Some("conf" | "json") => Some(1),
        _ => None,
    };
    let mut paths: Vec<_> = entries.filter_map(|path| Some((rank(&path)?, path))).collect();
    paths.sort();
    paths.into_iter().map(|(_, path)| path).collect()
}

fn configuration_named(dir: &Path, name: &str) -> Option<String> {
    configurations(dir).into_iter().find_map(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        let config: Value = serde_json::from_str(&text).ok()?;
        (config.get("name").and_then(Value::as_str) == Some(name)).then_some(text)
    })
}

fn first_configuration(dir: &Path) -> Option<String> {
    let mut paths = configurations(dir);
    paths.sort();
    std::fs::read_to_string(paths.first()?).ok()
}
