//! What an ADD is to do, as plain data: which delegates, in which order, under which names, each with its
//! complete configuration. Everything that can be known to be wrong is found here, before any effect.

use super::AttachError;
use super::places::Source;
use crate::nad::NetworkName;
use crate::nad::selection::NetworkSelection;
use crate::plugins::version::Version;
use crate::plugins::{builtin, code};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

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
    if overrides.cni_args.is_some() {
        let sound = |it: Option<&Value>| it.is_none_or(|it| it.is_object() || it.is_null());
        let args = |it: &Map<String, Value>| {
            sound(it.get("args")) && sound(it.get("args").and_then(|it| it.get("cni")))
        };
        if !plugins.iter().all(args) {
            return Err(source.wrong("args", "must be an object, and its cni, too: cni-args go into it"));
        }
    }
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
    for capability in overrides.runtime.keys().filter(|_| !default) {
        if !plugins.iter().any(|it| it.get("runtimeConfig").is_some_and(|it| it.get(capability).is_some())) {
            // NPWG standard §4.1.2.1.3 fails here; Multus passes over it, and clusters rely on that.
            tracing::warn!(
                network = source.label,
                capability,
                "the pod asks for what no plugin of the network can do"
            );
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
        let args = config
            .entry("args")
            .and_modify(|it| {
                if it.is_null() {
                    *it = json!({})
                }
            })
            .or_insert_with(|| json!({}));
        let mut cni = args.get("cni").and_then(Value::as_object).cloned().unwrap_or_default();
        cni.extend(cni_args.iter().map(|(key, it)| (key.clone(), it.clone())));
        if let Some(args) = args.as_object_mut() {
            args.insert("cni".to_owned(), Value::Object(cni));
        }
    }
    Value::Object(config)
}

/// A network that is wanted beside the default one.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub source: Source,
    /// The interface name that the pod asks for.
    pub interface: Option<String>,
    pub overrides: Overrides,
}

/// The delegates of these networks. Their interfaces are `net1`, `net2`, … by position, unless a name is
/// asked for; `taken` is the default network's.
///
/// # Errors
/// Two interfaces of one name, two default routes, or a configuration that is wrong.
pub fn delegates(wanted: &[Wanted], taken: Option<&str>) -> Result<Vec<Delegate>, AttachError> {
    let mut used: BTreeSet<String> = taken.map(str::to_owned).into_iter().collect();
    let mut delegates: Vec<Delegate> = Vec::new();
    for (number, wanted) in (1..).zip(wanted) {
        let network = || wanted.source.label.clone();
        let interface = wanted.interface.clone().unwrap_or_else(|| format!("net{number}"));
        if !used.insert(interface.clone()) {
            return Err(AttachError::NameTwice { network: network(), interface });
        }
        let delegate = delegate(&wanted.source, interface, false, &wanted.overrides)?;
        // NPWG standard §4.1.2.1.9.
        if let Some(other) = delegates.iter().find(|it| it.default_route.is_some())
            && delegate.default_route.is_some()
        {
            return Err(AttachError::DefaultRoutes { network: network(), other: other.label.clone() });
        }
        delegates.push(delegate);
    }
    Ok(delegates)
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

    fn planned(annotation: &str, taken: Option<&str>) -> Result<Vec<String>, String> {
        let selections = selection::parse(annotation, "core").expect("selections");
        let wanted = |selection: &NetworkSelection| Wanted {
            source: source(r#"{"type":"bridge"}"#),
            interface: selection.interface.clone(),
            overrides: Overrides::of_selection(selection),
        };
        let delegates = delegates(&selections.iter().map(wanted).collect::<Vec<_>>(), taken);
        let names = |delegates: Vec<Delegate>| delegates.into_iter().map(|it| it.interface).collect();
        delegates.map(names).map_err(|error| error.to_string())
    }

    #[test]
    fn names_by_position_and_no_name_twice() {
        let names = planned("a,b@x,c", Some("eth0")).expect("names");
        assert_eq!(names, ["net1", "x", "net3"]);
        assert_eq!(planned("a,a", None).expect("one network twice"), ["net1", "net2"]);
        assert!(planned("a@eth0", Some("eth0")).is_err());
        assert!(planned("a@net2,b", None).is_err());
    }

    #[test]
    fn one_default_route_only() {
        let two = r#"[{"name":"a","default-route":["10.0.0.1"]},{"name":"b","default-route":[]}]"#;
        let error = planned(two, None).expect_err("two");
        assert!(error.contains("only one can have it"), "{error}");
    }

    #[test]
    fn args_that_are_no_object_are_named() {
        let error = plan(r#"{"type":"a","args":7}"#, r#"[{"name":"n3","cni-args":{"y":2}}]"#);
        let error = error.expect_err("no object").to_string();
        assert!(error.contains("core/n3: args: must be an object"), "{error}");
    }
}
