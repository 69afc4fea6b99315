//! What an ADD is to do, as plain data: which delegates, in which order, under which names, each with its
//! complete configuration. Everything that can be known to be wrong is found here, before any effect.

use super::AttachError;
use crate::nad::selection::NetworkSelection;
use crate::nad::{Nad, NetworkName};
use crate::plugins::version::Version;
use crate::plugins::{builtin, code};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// One delegate: a plugin, or a list of plugins that are called one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Delegate {
    /// The NAD; absent for a default network that is a file.
    pub network: Option<NetworkName>,
    /// How errors name it.
    pub label: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// Whether it is the pod's default network.
    pub default: bool,
    pub version: Version,
    /// `disableCheck` of a list.
    pub disable_check: bool,
    /// Complete plugin configurations, in the order of the list.
    pub plugins: Vec<Value>,
    /// Gateways of the default route, if this network is to have it.
    pub default_route: Option<Vec<IpAddr>>,
}

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

    fn wrong(&self, key: &'static str, problem: impl Into<String>) -> AttachError {
        AttachError::Config { network: self.label.clone(), key, problem: problem.into() }
    }
}

/// Where configurations are looked for.
#[derive(Clone, Debug)]
pub struct Places<'a> {
    pub nad_dir: Option<&'a Path>,
    pub nads: &'a [Nad],
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
            dir: self.nad_dir.map_or_else(|| PathBuf::from("nadDir, which is not set"), Path::to_owned),
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
        let (namespace, name) = text.split_once('/').unwrap_or((self.namespace, text));
        let name = NetworkName { namespace: namespace.to_owned(), name: name.to_owned() };
        if self.nad(&name).is_some() {
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

/// The pod's part of a delegate's configuration.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `runtimeConfig` by capability.
    pub runtime: Map<String, Value>,
    pub cni_args: Option<Map<String, Value>>,
    pub default_route: Option<Vec<IpAddr>>,
}

impl Overrides {
    pub fn of_selection(selection: &NetworkSelection) -> Self {
        let mut runtime = Map::new();
        if !selection.ips.is_empty() {
            runtime.insert("ips".to_owned(), json!(selection.ips));
        }
        if let Some(mac) = &selection.mac {
            runtime.insert("mac".to_owned(), json!(mac));
        }
        Self { runtime, cni_args: selection.cni_args.clone(), default_route: selection.default_route.clone() }
    }
}

/// Makes a delegate out of a configuration and the pod's part.
///
/// # Errors
/// What is wrong with the configuration, by key.
pub fn delegate(
    source: &Source,
    interface: String,
    default: bool,
    overrides: &Overrides,
) -> Result<Delegate, AttachError> {
    let config: Value = serde_json::from_str(&source.config)
        .map_err(|error| source.wrong("spec.config", format!("is not JSON: {error}")))?;
    let config = config.as_object().ok_or_else(|| source.wrong("spec.config", "is not a JSON object"))?;
    let version = match config.get("cniVersion").and_then(Value::as_str) {
        None => Version::V0_4_0,
        Some(name) => Version::parse(name).ok_or_else(|| {
            let supported = Version::supported().join(", ");
            source.wrong("cniVersion", format!("\"{name}\" is not supported (supported: {supported})"))
        })?,
    };
    let name = config.get("name").and_then(Value::as_str).filter(|it| !it.is_empty()).unwrap_or(&source.name);
    if name.is_empty() {
        return Err(source.wrong("name", "is missing"));
    }
    let plugins = match config.get("plugins") {
        None => vec![config.clone()],
        Some(plugins) => {
            let plugins = plugins.as_array().filter(|it| !it.is_empty());
            let plugins = plugins.ok_or_else(|| source.wrong("plugins", "must be a list of plugins"))?;
            let object = |it: &Value| it.as_object().cloned();
            plugins
                .iter()
                .map(object)
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| source.wrong("plugins", "must hold objects"))?
        }
    };
    let plugins: Vec<_> = plugins.into_iter().map(|it| plugin(it, name, version, overrides)).collect();
    for plugin in &plugins {
        if plugin.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(source.wrong("type", "is missing: which plugin?"));
        }
        if builtin::is_builtin(plugin) {
            builtin::validate(plugin).map_err(|error| match error.code {
                code::INVALID_CONFIG => source.wrong("spec.config", error.message),
                _ => AttachError::Delegate { network: source.label.clone(), error },
            })?;
        }
    }
    Ok(Delegate {
        network: source.network.clone(),
        label: source.label.clone(),
        interface,
        default,
        version,
        disable_check: config.get("disableCheck") == Some(&json!(true)),
        plugins,
        default_route: overrides.default_route.clone(),
    })
}

/// A plugin's complete configuration: the list's name and version, what the pod asks for as far as the
/// plugin has the capability, and the pod's `cni-args` over the NAD's.
fn plugin(mut config: Map<String, Value>, name: &str, version: Version, overrides: &Overrides) -> Value {
    config.insert("name".to_owned(), json!(name));
    config.insert("cniVersion".to_owned(), json!(version.name()));
    let has =
        |capability: &str| config.get("capabilities").and_then(|it| it.get(capability)) == Some(&json!(true));
    let runtime: Map<_, _> = overrides
        .runtime
        .iter()
        .filter(|(key, _)| has(key))
        .map(|(key, it)| (key.clone(), it.clone()))
        .collect();
    // Section 4 of the specification: `capabilities` is the runtime's, `runtimeConfig` is made from it.
    config.remove("capabilities");
    config.remove("runtimeConfig");
    if !runtime.is_empty() {
        config.insert("runtimeConfig".to_owned(), Value::Object(runtime));
    }
    if let Some(cni_args) = &overrides.cni_args {
        let args = config.entry("args").or_insert_with(|| json!({}));
        let mut cni = args.get("cni").and_then(Value::as_object).cloned().unwrap_or_default();
        cni.extend(cni_args.iter().map(|(key, it)| (key.clone(), it.clone())));
        if let Some(args) = args.as_object_mut() {
            args.insert("cni".to_owned(), Value::Object(cni));
        }
    }
    Value::Object(config)
}

/// The names of the selections' interfaces: `net1`, `net2`, … by position, unless one is asked for.
///
/// # Errors
/// Two of one name, or the default network's.
pub fn names(selections: &[NetworkSelection], taken: &[String]) -> Result<Vec<String>, AttachError> {
    let mut used: BTreeSet<String> = taken.iter().cloned().collect();
    let mut names = Vec::new();
    for (number, selection) in (1..).zip(selections) {
        let name = selection.interface.clone().unwrap_or_else(|| format!("net{number}"));
        if !used.insert(name.clone()) {
            return Err(AttachError::NameTwice { network: selection.network.to_string(), interface: name });
        }
        names.push(name);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nad::selection;

    fn source(config: &str) -> Source {
        Source {
            network: None,
            label: "core/n3".to_owned(),
            config: config.to_owned(),
            name: "n3".to_owned(),
        }
    }

    fn plan(config: &str, selection: &str) -> Result<Delegate, AttachError> {
        let selection = selection::parse(selection, "core").expect("a selection");
        delegate(&source(config), "net1".to_owned(), false, &Overrides::of_selection(&selection[0]))
    }

    #[test]
    fn name_and_version_go_into_each_plugin() {
        let delegate = plan(
            r#"{"cniVersion":"1.0.0","plugins":[{"type":"bridge"},{"type":"tuning","name":"other"}]}"#,
            "n3",
        )
        .expect("a list");
        assert_eq!(delegate.version, Version::V1_0_0);
        for plugin in &delegate.plugins {
            assert_eq!((&plugin["name"], &plugin["cniVersion"]), (&json!("n3"), &json!("1.0.0")));
        }
    }

    #[test]
    fn what_the_pod_asks_for_goes_to_plugins_with_the_capability() {
        let delegate = plan(
            r#"{"plugins":[{"type":"a","capabilities":{"ips":true},"args":{"cni":{"x":1,"y":1}}},{"type":"b"}]}"#,
            r#"[{"name":"n3","ips":["10.30.0.9/24"],"mac":"02:00:00:00:00:01","cni-args":{"y":2}}]"#,
        )
        .expect("a list");
        assert_eq!(delegate.plugins[0]["runtimeConfig"], json!({"ips": ["10.30.0.9/24"]}));
        assert_eq!(delegate.plugins[0]["args"]["cni"], json!({"x": 1, "y": 2}));
        assert_eq!(delegate.plugins[1].get("runtimeConfig"), None);
        assert_eq!(delegate.plugins[1]["args"]["cni"], json!({"y": 2}));
    }

    #[test]
    fn wrong_configurations_are_named_by_key() {
        for (config, part) in [
            ("{", "core/n3: spec.config: is not JSON"),
            ("[]", "not a JSON object"),
            (r#"{"cniVersion":"9.9.9","type":"a"}"#, "cniVersion: \"9.9.9\" is not supported"),
            (r#"{"name":"x"}"#, "type: is missing"),
            (r#"{"plugins":[]}"#, "plugins: must be a list"),
            (r#"{"type":"macvlan","ipam":{"type":"host-local"}}"#, "neither \"subnet\" nor \"ranges\""),
            (r#"{"type":"macvlan","mode":"sideways"}"#, "sideways"),
        ] {
            let error = plan(config, "n3").expect_err(config).to_string();
            assert!(error.contains(part), "{config}: {error}");
        }
    }

    #[test]
    fn names_by_position_and_no_name_twice() {
        let parse = |text| selection::parse(text, "core").expect("selections");
        let taken = ["eth0".to_owned()];
        assert_eq!(names(&parse("a,b@x,c"), &taken).expect("names"), ["net1", "x", "net3"]);
        assert!(names(&parse("a@eth0"), &taken).is_err());
        assert!(names(&parse("a@net2,b"), &taken).is_err());
    }
}
