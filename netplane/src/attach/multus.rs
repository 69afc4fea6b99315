//! What Multus left of the pods that it attached: its file of delegates for each container in `cniDir`, and
//! libcni's results in the folder `results` there. Read only to take such pods down, or to check them.

use super::AttachError;
use super::detach;
use super::perform::Container;
use super::places::Source;
use super::plan::{self, Overrides};
use super::record::{Attachment, AttachmentRecord};
use super::store::is_absent;
use crate::nad::NetworkName;
use crate::plugins::result::CniResult;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Multus's `cniDir` unless it is configured.
const DEFAULT_DIR: &str = "/var/lib/cni/multus";

/// Meta-plugins, whose own entries in a folder of results are not delegates'.
const META: [&str; 3] = ["multus", "multus-shim", "netplane"];

/// Where Multus may have left something.
#[derive(Clone, Debug)]
pub struct MultusCaches {
    dirs: Vec<PathBuf>,
}

/// What it left of one container.
#[derive(Debug)]
pub struct Left {
    /// As if we had attached it.
    pub record: AttachmentRecord,
    /// Its delegates were not readable: there may be more than libcni's results tell.
    pub incomplete: bool,
    /// `CNI_ARGS` of the ADD.
    args: String,
    /// What goes when all is down, in this order.
    files: Vec<PathBuf>,
}

/// One element of Multus's file, as far as it is needed.
#[derive(Deserialize)]
struct Kept {
    /// `NAMESPACE/NAME` of the NAD; empty without one.
    #[serde(default, rename = "Name")]
    name: String,
    #[serde(default, rename = "ifnameRequest")]
    interface: String,
    #[serde(default, rename = "macRequest")]
    mac: String,
    #[serde(default, rename = "ipRequest", deserialize_with = "or_default")]
    ips: Vec<String>,
    #[serde(default, rename = "infinibandGUIDRequest")]
    infiniband_guid: String,
    #[serde(default, rename = "deviceID")]
    device_id: String,
    /// The configuration, a plugin's or a list's, in base64.
    #[serde(rename = "Bytes")]
    config: String,
}

/// libcni's `cniCacheV1`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    kind: String,
    container_id: String,
    /// In base64.
    config: String,
    if_name: String,
    network_name: String,
    #[serde(default)]
    netns: PathBuf,
    #[serde(default, deserialize_with = "or_default")]
    cni_args: Vec<(String, String)>,
    #[serde(default, deserialize_with = "or_default")]
    capability_args: Map<String, Value>,
    #[serde(default)]
    result: Value,
}

impl MultusCaches {
    /// `cni_dir`: ours, which is Multus's where its configuration is used on.
    pub fn new(cni_dir: &Path) -> Self {
        Self { dirs: dirs(cni_dir) }
    }

    /// What Multus left of a container. A file of delegates that is damaged is set aside.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn find(&self, container: &Container) -> Result<Option<Left>, AttachError> {
        for dir in &self.dirs {
            let path = dir.join(&container.call.container_id);
            let delegates = match read(&path)? {
                None => None,
                Some(text) => match serde_json::from_str::<Vec<Kept>>(&text) {
                    Ok(delegates) => Some(Ok(delegates)),
                    Err(error) => {
                        set_aside(&path, &container.call.container_id, &error)?;
                        Some(Err(()))
                    }
                },
            };
            let left = match delegates {
                Some(Ok(delegates)) => Some(of_delegates(dir, path, container, delegates)?),
                damaged => of_results(dir, container, damaged.is_some())?,
            };
            if left.is_some() {
                return Ok(left);
            }
        }
        Ok(None)
    }

    /// The containers of which Multus has left something.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub fn containers(&self) -> Result<BTreeSet<String>, AttachError> {
        let mut containers = BTreeSet::new();
        for dir in &self.dirs {
            for path in list(dir)? {
                let name = path.file_name().and_then(|it| it.to_str()).filter(|it| !it.contains('@'));
                let is_its = |text: String| serde_json::from_str::<Vec<Kept>>(&text).is_ok();
                if let Some(name) = name
                    && read(&path)?.is_some_and(is_its)
                {
                    containers.insert(name.to_owned());
                }
            }
            for path in list(&dir.join("results"))? {
                containers.extend(delegate_at(&path)?.map(|it| it.container_id));
            }
        }
        Ok(containers)
    }
}

impl Left {
    fn new(container: &Container, incomplete: bool) -> Self {
        let record = AttachmentRecord { complete: true, ..container.record(&[]) };
        Self { record, incomplete, args: String::new(), files: Vec::new() }
    }

    /// Adds what is known from elsewhere of interfaces that are not here.
    pub fn extend(&mut self, other: &AttachmentRecord) {
        let ours: BTreeSet<_> = self.record.attachments.iter().map(|it| it.interface.clone()).collect();
        let fresh = other.attachments.iter().filter(|it| !ours.contains(&it.interface)).cloned();
        self.record.attachments.extend(fresh);
    }

    /// The container with what is known of it from here: GC has only its name.
    pub fn container(&self, container: &Container) -> Container {
        let mut container = container.at(&self.record);
        if container.call.args.is_empty() {
            container.call.args.clone_from(&self.args);
        }
        container
    }

    /// DEL, in reverse order; the files go when all is down.
    ///
    /// # Errors
    /// What could not be taken down, or removed.
    pub fn take_down(&self, container: &Container) -> Result<(), AttachError> {
        detach::take_down(&self.container(container), &self.record)?;
        for path in &self.files {
            match fs::remove_file(path) {
                Err(source) if !is_absent(&source) => {
                    return Err(AttachError::File { operation: "remove", path: path.clone(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, container: &Container, found: Attached) {
        let Attached { label, config, interface, default, mut runtime, cached } = found;
        if let Some((path, cached)) = &cached {
            runtime.extend(cached.capability_args.clone());
            if self.record.netns.as_os_str().is_empty() {
                self.record.netns.clone_from(&cached.netns);
            }
            let pairs = cached.cni_args.iter().map(|(key, value)| format!("{key}={value}"));
            self.args = pairs.collect::<Vec<_>>().join(";");
            self.files.push(path.clone());
        }
        let name = name_of(&config);
        let source = Source {
            network: NetworkName::try_from(label.clone()).ok(),
            label: if label.is_empty() { name } else { label },
            config: config.to_string(),
            name: String::new(),
            chained: false,
            resource: None,
        };
        let overrides = Overrides { runtime, ..Overrides::default() };
        let plan = |source: &Source| plan::delegate(source, interface.clone(), default, &overrides);
        let planned = plan(&source).or_else(|error| {
            tracing::warn!(%error, "the program that has attached it shall take it down");
            plan(&Source { config: without_builtin(config).to_string(), ..source.clone() })
        });
        let delegate = match planned {
            Ok(delegate) => delegate,
            Err(error) => {
                // No plugin can be called with this, by Multus neither.
                tracing::error!(%error, interface, "cannot take down what Multus attached");
                self.incomplete = true;
                return;
            }
        };
        let version = delegate.version;
        let result = cached.and_then(|(_, it)| CniResult::from_json(&it.result, version).ok());
        let begun = container.record(&[delegate]).attachments;
        self.record
            .attachments
            .extend(begun.into_iter().map(|it| Attachment { result: result.clone(), ..it }));
    }
}

/// Where Multus's files may be.
pub(super) fn dirs(cni_dir: &Path) -> Vec<PathBuf> {
    let mut dirs = vec![cni_dir.to_owned()];
    if cni_dir != Path::new(DEFAULT_DIR) {
        dirs.push(DEFAULT_DIR.into());
    }
    dirs
}

/// One delegate, from either file.
struct Attached {
    label: String,
    config: Value,
    interface: String,
    default: bool,
    /// By capability.
    runtime: Map<String, Value>,
    cached: Option<(PathBuf, Cached)>,
}

fn of_delegates(
    dir: &Path,
    path: PathBuf,
    container: &Container,
    delegates: Vec<Kept>,
) -> Result<Left, AttachError> {
    let mut left = Left::new(container, false);
    let id = &container.call.container_id;
    for (number, kept) in delegates.into_iter().enumerate() {
        let interface = match (kept.interface.as_str(), number) {
            ("", 0) => container.call.interface.clone(),
            ("", _) => format!("net{number}"),
            (asked, _) => asked.to_owned(),
        };
        let Some(config) = decode(&kept.config) else {
            tracing::error!(path = %path.display(), interface, "no configuration can be read");
            left.incomplete = true;
            continue;
        };
        let cached = dir.join("results").join(format!("{}-{id}-{interface}", name_of(&config)));
        let cached = cached_at(&cached)?.filter(|it| it.container_id == *id).map(|it| (cached, it));
        let asked = [
            ("mac", json!(kept.mac)),
            ("ips", json!(kept.ips)),
            ("infinibandGUID", json!(kept.infiniband_guid)),
            ("deviceID", json!(kept.device_id)),
        ];
        let said = asked.into_iter().filter(|(_, it)| *it != json!("") && *it != json!([]));
        let runtime = said.map(|(capability, it)| (capability.to_owned(), it)).collect();
        let (label, default) = (kept.name, number == 0);
        left.add(container, Attached { label, config, interface, default, runtime, cached });
    }
    // Last: as long as it is there, another DEL knows all.
    left.files.push(path);
    Ok(left)
}

/// From libcni's results alone: Multus removes its own file even where a plugin's DEL has failed.
fn of_results(dir: &Path, container: &Container, damaged: bool) -> Result<Option<Left>, AttachError> {
    let mut found = Vec::new();
    for path in list(&dir.join("results"))? {
        let of_container = delegate_at(&path)?.filter(|it| it.container_id == container.call.container_id);
        let written = fs::metadata(&path).and_then(|it| it.modified()).ok();
        found.extend(of_container.map(|it| (it.if_name != container.call.interface, written, path, it)));
    }
    // In the order in which they were attached, the default network first.
    found.sort_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2)));
    let mut left = Left::new(container, damaged);
    for (is_further, _, path, cached) in found {
        let (label, interface) = (cached.network_name.clone(), cached.if_name.clone());
        let (config, runtime) = (decode(&cached.config).unwrap_or_default(), Map::new());
        let (default, cached) = (!is_further, Some((path, cached)));
        left.add(container, Attached { label, config, interface, default, runtime, cached });
    }
    Ok((damaged || !left.files.is_empty()).then_some(left))
}

fn name_of(config: &Value) -> String {
    config.get("name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// As Go writes bytes in JSON.
fn decode(config: &str) -> Option<Value> {
    let config: Value = serde_json::from_slice(&STANDARD.decode(config).ok()?).ok()?;
    config.is_object().then_some(config)
}

fn without_builtin(mut config: Value) -> Value {
    let off = |plugin: &mut Value| {
        if plugin.is_object() {
            plugin["netplane"] = json!({ "builtin": false });
        }
    };
    match config.get_mut("plugins").and_then(Value::as_array_mut) {
        Some(plugins) => plugins.iter_mut().for_each(off),
        None => off(&mut config),
    }
    config
}

/// libcni's result in a file; none if it is no such file.
fn cached_at(path: &Path) -> Result<Option<Cached>, AttachError> {
    let cached = read(path)?.and_then(|it| serde_json::from_str::<Cached>(&it).ok());
    Ok(cached.filter(|it| it.kind == "cniCacheV1"))
}

/// The same, unless it is about a meta-plugin: `cniDir` may be where the runtime's own results are.
fn delegate_at(path: &Path) -> Result<Option<Cached>, AttachError> {
    let Some(cached) = cached_at(path)? else { return Ok(None) };
    let config = decode(&cached.config).unwrap_or_default();
    let plugins = config.get("plugins").and_then(Value::as_array).cloned().unwrap_or(vec![config]);
    let is_meta = |it: &Value| it.get("type").and_then(Value::as_str).is_some_and(|it| META.contains(&it));
    Ok((!plugins.iter().any(is_meta)).then_some(cached))
}

fn read(path: &Path) -> Result<Option<String>, AttachError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if is_absent(&error) || error.kind() == io::ErrorKind::IsADirectory => Ok(None),
        Err(source) => Err(AttachError::File { operation: "read", path: path.to_owned(), source }),
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, AttachError> {
    let failed = |source| AttachError::File { operation: "list", path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>().map_err(failed)?,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    Ok(entries.into_iter().map(|it| it.path()).collect())
}

fn set_aside(path: &Path, container: &str, error: &serde_json::Error) -> Result<(), AttachError> {
    let aside = path.with_file_name(format!("{container}@multus.corrupt"));
    tracing::warn!(%error, path = %path.display(), aside = %aside.display(), "Multus's file is damaged; set aside");
    fs::rename(path, &aside).map_err(|source| AttachError::File {
        operation: "set aside",
        path: path.to_owned(),
        source,
    })
}

/// Go writes an empty list or object as `null`.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
