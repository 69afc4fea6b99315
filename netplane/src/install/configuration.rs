//! The configuration that the runtime reads: generated or copied, put into place, and taken back.

use super::generate::{Generated, generate};
use super::master::{self, Master};
use super::place::{is_unfinished, lock};
use super::{InstallError, Options, Source};
use crate::plugins::version::Version;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Multus's names. Being the first by name, they are what runtimes take; and a Multus that is installed
/// again writes over them and does not take them for a default network.
const CONF: &str = "00-multus.conf";
const LIST: &str = "00-multus.conflist";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    InPlace,
    NoDefaultNetwork,
    /// For somebody, as the log says.
    Waiting,
}

/// The files in the folder of configurations.
pub(super) struct Configuration<'a> {
    options: &'a Options,
    /// What was put into place last.
    placed: BTreeMap<PathBuf, Vec<u8>>,
    warned: bool,
}

impl<'a> Configuration<'a> {
    pub(super) fn new(options: &'a Options) -> Self {
        Self { options, placed: BTreeMap::new(), warned: false }
    }

    /// Makes it, or makes it anew where its source has changed.
    pub(super) fn renew(&mut self, kubeconfig: bool) -> Result<State, InstallError> {
        if self.options.skip_watch && !self.placed.is_empty() {
            return Ok(State::InPlace);
        }
        match &self.options.source {
            Source::Auto { folder, name, rename } => {
                let Some(master) = master::find(folder, name.as_deref(), *rename)? else {
                    return Ok(State::NoDefaultNetwork);
                };
                let kubeconfig = kubeconfig.then_some(self.options.kubeconfig_on_host.as_path());
                let generated = generate(&self.options.settings, &master, kubeconfig)?;
                let state = self.put(self.files(&generated))?;
                if *rename && !master.is_aside && state == State::InPlace {
                    put_aside(&master)?;
                }
                Ok(state)
            }
            Source::File(source) => {
                let content = fs::read(source).map_err(InstallError::file("read", source))?;
                master::parse(source, &content)?;
                let path = self.options.conf_dir.join(source.file_name().unwrap_or_default());
                self.put(BTreeMap::from_iter([(path, content)]))
            }
        }
    }

    /// The file for this version, and whatever other of ours is there: the two have an order, so an old one
    /// would rule; and a runtime that has just listed it must still find it.
    fn files(&self, generated: &Generated) -> BTreeMap<PathBuf, Vec<u8>> {
        let is_list = generated.version >= Version::V1_0_0;
        let [conf, list] = [CONF, LIST].map(|it| self.options.conf_dir.join(it));
        let mut files = BTreeMap::new();
        if !is_list || conf.exists() {
            files.insert(conf, generated.conf());
        }
        if is_list || list.exists() {
            files.insert(list, generated.list());
        }
        files
    }

    fn put(&mut self, files: BTreeMap<PathBuf, Vec<u8>>) -> Result<State, InstallError> {
        for (path, content) in &files {
            // Looked at once: what comes between two looks would be judged as what it is not.
            let there = fs::read(path).ok();
            if self.placed.contains_key(path) && is_of_another(path, there.as_deref(), content) {
                if !self.warned {
                    tracing::warn!(path = %path.display(), "now calls another plugin: left to whoever wrote it");
                }
                self.warned = true;
                return Ok(State::Waiting);
            }
            if there.as_ref() != Some(content) || is_unfinished(path) {
                let folder = lock(&self.options.conf_dir)?;
                folder.place(path, 0o600, |file| file.write_all(content))?;
                tracing::info!(path = %path.display(), "configuration written");
            }
        }
        self.warned = false;
        self.placed = files;
        Ok(State::InPlace)
    }

    /// Removes what is ours, after the default network's own configuration is back: so the runtime has one
    /// all the time.
    pub(super) fn clean(&self) -> Result<(), InstallError> {
        if let Source::Auto { folder, name, rename: true } = &self.options.source
            && let Some(master) = master::find(folder, name.as_deref(), true)?
            && master.is_aside
        {
            put_back(&master)?;
        }
        let conf_dir = lock(&self.options.conf_dir)?;
        for path in self.ours() {
            conf_dir.remove(&path)?;
            tracing::info!(path = %path.display(), "configuration removed");
        }
        Ok(())
    }

    /// Ours by what they call, also those of an earlier run; copies by their content.
    fn ours(&self) -> Vec<PathBuf> {
        match &self.options.source {
            Source::Auto { .. } => {
                let mut paths = Vec::from([CONF, LIST].map(|it| self.options.conf_dir.join(it)));
                let calls_netplane = |it: &PathBuf| {
                    fs::read(it).is_ok_and(|content| program(it, &content).as_deref() == Some("netplane"))
                };
                paths.retain(calls_netplane);
                paths
            }
            Source::File(_) => {
                let same = |(path, content): &(&PathBuf, &Vec<u8>)| {
                    fs::read(path).is_ok_and(|it| it == content.as_slice())
                };
                self.placed.iter().filter(same).map(|(path, _)| path.clone()).collect()
            }
        }
    }
}

/// What the configuration in a file calls; none if it is not sound.
fn program(path: &Path, content: &[u8]) -> Option<String> {
    let config = master::parse(path, content).ok()?;
    master::program(&config).map(str::to_owned)
}

/// Whether a sound configuration is there that calls something else than `content`: as after Multus has been
/// installed again.
fn is_of_another(path: &Path, there: Option<&[u8]>, content: &[u8]) -> bool {
    let there = there.and_then(|it| program(path, it));
    there.is_some() && there != program(path, content)
}

fn put_aside(master: &Master) -> Result<(), InstallError> {
    fs::rename(&master.original, master.aside()).map_err(InstallError::file("rename", &master.original))?;
    tracing::info!(path = %master.aside().display(), "the default network's configuration was renamed");
    Ok(())
}

/// Not over a file that its owner has written in the meantime. At once: were both names there for a moment,
/// and the process killed then, renaming one over the other would do nothing.
fn put_back(master: &Master) -> Result<(), InstallError> {
    let aside = master.aside();
    match renameat2(AT_FDCWD, &aside, AT_FDCWD, &master.original, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => {
            tracing::info!(path = %master.original.display(), "the default network's configuration is back")
        }
        Err(Errno::EEXIST) => fs::remove_file(&aside).map_err(InstallError::file("remove", &aside))?,
        Err(errno) => return Err(InstallError::file("put back", &master.original)(errno.into())),
    }
    Ok(())
}
