//! Where a network's configuration is: a NAD, or a file of the CNI configuration directory.

use super::{AttachError, conf_dir};
use crate::devices::RESOURCE_NAME_ANNOTATION;
use crate::nad::{Nad, NetworkName};
use crate::plugins::version::Version;
use serde_json::json;
use std::path::Path;

/// A network configuration and where it is from.
#[derive(Clone, Debug)]
pub struct Source {
    pub network: Option<NetworkName>,
    pub label: String,
    /// A plugin's configuration or a list's.
    pub config: String,
    /// Put in where the configuration has none (NPWG standard §3.4.2).
    pub name: String,
    /// Its first plugin is called as one behind others, with an empty result of theirs.
    pub chained: bool,
    /// The resource whose devices the network needs.
    pub resource: Option<String>,
}

impl Source {
    pub fn of_nad(nad: &Nad) -> Self {
        Self {
            network: Some(nad.name.clone()),
            label: nad.name.to_string(),
            config: nad.config.clone(),
            name: nad.name.name.clone(),
            chained: false,
            resource: nad.annotations.get(RESOURCE_NAME_ANNOTATION).filter(|it| !it.is_empty()).cloned(),
        }
    }

    /// A configuration that is no NAD; it has its name itself.
    pub fn unnamed(label: String, config: String) -> Self {
        Self { network: None, label, config, name: String::new(), chained: false, resource: None }
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
            let found = conf_dir::named(self.conf_dir, &nad.name.name)?;
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
        if let Some(config) = conf_dir::named(self.conf_dir, text)? {
            return Ok(Source::unnamed(text.to_owned(), config));
        }
        let path = Path::new(text);
        let found = match path.metadata() {
            Ok(metadata) if metadata.is_dir() => conf_dir::first(path)?,
            Ok(_) => Some(conf_dir::file(path)?),
            Err(_) => None,
        };
        let config = found.ok_or_else(|| AttachError::NoClusterNetwork {
            network: text.to_owned(),
            conf_dir: self.conf_dir.to_owned(),
        })?;
        Ok(Source::unnamed(text.to_owned(), config))
    }

    /// `auxiliaryCNIChainName`: the plugins in the folder of that name, next to the file of `cluster_network` if
    /// that is a path, else in `confDir`. They are a list of their own. None: there are none.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn auxiliary_chain(
        &self,
        name: &str,
        cluster_network: Option<&str>,
        version: Version,
    ) -> Result<Option<Source>, AttachError> {
        let cluster_network = cluster_network.map(Path::new).filter(|it| it.is_absolute());
        let dir = match cluster_network {
            Some(dir) if dir.is_dir() => dir,
            Some(file) => file.parent().unwrap_or(self.conf_dir),
            None => self.conf_dir,
        };
        let plugins = conf_dir::chain(dir, name)?;
        if plugins.is_empty() {
            return Ok(None);
        }
        let config = json!({ "cniVersion": version.name(), "name": name, "plugins": plugins });
        let label = format!("{name} (auxiliaryCNIChainName)");
        Ok(Some(Source { chained: true, ..Source::unnamed(label, config.to_string()) }))
    }
}

/// The NAD that a `clusterNetwork` could be; none for a path.
pub fn nad_name(text: &str, namespace: &str) -> Option<NetworkName> {
    let text = if text.contains('/') { text.to_owned() } else { format!("{namespace}/{text}") };
    NetworkName::try_from(text).ok()
}
