//! One plugin's configuration on its way from the network's to the one that the plugin is called with.

use super::Overrides;
use crate::attach::AttachError;
use crate::attach::places::Source;
use crate::plugins::version::Version;
use crate::plugins::{builtin, code};
use serde_json::{Map, Value, json};

/// The plugins of a network: those of its list, else the configuration itself.
pub(super) fn of_config(
    source: &Source,
    config: &Map<String, Value>,
) -> Result<Vec<Map<String, Value>>, AttachError> {
    let Some(plugins) = config.get("plugins") else {
        return Ok(vec![config.clone()]);
    };
    let plugins = plugins.as_array().filter(|it| !it.is_empty());
    let plugins = plugins.ok_or_else(|| source.wrong("plugins", "must be a list of plugins"))?;
    let objects = plugins.iter().map(|it| it.as_object().cloned()).collect::<Option<Vec<_>>>();
    objects.ok_or_else(|| source.wrong("plugins", "must hold objects"))
}

/// Whether a plugin has a capability.
pub(super) fn has(plugin: &Map<String, Value>, capability: &str) -> bool {
    plugin.get("capabilities").and_then(|it| it.get(capability)) == Some(&json!(true))
}

/// Whether `cni-args` can be put in.
pub(super) fn takes_args(plugin: &Map<String, Value>) -> bool {
    let sound = |it: Option<&Value>| it.is_none_or(|it| it.is_object() || it.is_null());
    let args = plugin.get("args");
    sound(args) && sound(args.and_then(|it| it.get("cni")))
}

/// The complete configuration: the list's name and version, what the pod and the runtime ask for as far as
/// the plugin has the capability, the pod's `cni-args` over the network's, and the device.
pub(super) fn complete(
    mut config: Map<String, Value>,
    name: &str,
    version: Version,
    overrides: &Overrides,
) -> Value {
    config.insert("name".to_owned(), json!(name));
    config.insert("cniVersion".to_owned(), json!(version.name()));
    let asked = overrides.runtime.iter().chain(&overrides.passed).filter(|(key, _)| has(&config, key));
    let runtime: Map<_, _> = asked.map(|(key, it)| (key.clone(), it.clone())).collect();
    // Section 4 of the specification: `capabilities` is the runtime's, `runtimeConfig` is made from it.
    config.remove("capabilities");
    config.remove("runtimeConfig");
    if !runtime.is_empty() {
        config.insert("runtimeConfig".to_owned(), Value::Object(runtime));
    }
    if let Some(cni_args) = &overrides.cni_args {
        put_args(&mut config, cni_args);
    }
    if let Some(device) = &overrides.device {
        put_device(&mut config, &device.id);
    }
    Value::Object(config)
}

/// `args.cni` as it was, with the pod's over it (NPWG standard §4.1.2.1.6).
fn put_args(config: &mut Map<String, Value>, cni_args: &Map<String, Value>) {
    let args = config.entry("args").or_insert(Value::Null);
    if args.is_null() {
        *args = json!({});
    }
    if let Some(args) = args.as_object_mut() {
        let mut cni = args.get("cni").and_then(Value::as_object).cloned().unwrap_or_default();
        cni.extend(cni_args.iter().map(|(key, it)| (key.clone(), it.clone())));
        args.insert("cni".to_owned(), Value::Object(cni));
    }
}

/// Both names under which plugins look for their device.
fn put_device(config: &mut Map<String, Value>, device: &str) {
    for key in ["deviceID", "pciBusID"] {
        config.insert(key.to_owned(), json!(device));
    }
}

/// What can be known to be wrong before the plugin is called.
pub(super) fn check(source: &Source, plugin: &Value) -> Result<(), AttachError> {
    if plugin.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(source.wrong("type", "is missing: which plugin?"));
    }
    builtin::check_demand(plugin)
        .map_err(|error| AttachError::Delegate { network: source.label.clone(), error })?;
    if builtin::is_builtin(plugin) {
        builtin::validate(plugin).map_err(|error| match error.code {
            code::INVALID_CONFIG => source.wrong("spec.config", error.message),
            _ => AttachError::Delegate { network: source.label.clone(), error },
        })?;
    }
    Ok(())
}
