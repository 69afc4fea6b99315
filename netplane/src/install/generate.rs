//! The meta-plugin's configuration, made from the default network's. Pure: values in, values out.

use super::InstallError;
use super::master::Master;
use crate::plugins::version::Version;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The network's name, as Multus has it: runtimes keep results of attached pods under it.
const NETWORK_NAME: &str = "multus-cni-network";
/// By this capability containerd passes the pod's annotations, which saves asking the API server.
const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// What goes into the configuration besides the default network. Multus's flags of the same names.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What the default network's version must be.
    pub cni_version: Option<String>,
    /// Take `cni_version` whatever the default network's is.
    pub force_cni_version: bool,
    /// The default network's name in place of `multus-cni-network`.
    pub override_network_name: bool,
    pub namespace_isolation: bool,
    pub global_namespaces: Option<String>,
    pub log_to_stderr: bool,
    pub log_level: Option<String>,
    pub log_file: Option<String>,
    pub bin_dir: Option<String>,
    pub conf_dir: Option<String>,
    pub readiness_indicator_file: Option<String>,
    /// Any other key of the configuration.
    pub further: Map<String, Value>,
}

/// The configuration of netplane itself.
#[derive(Clone, Debug)]
pub(super) struct Generated {
    pub(super) version: Version,
    name: String,
    plugin: Map<String, Value>,
}

impl Generated {
    /// As a `.conf`: one plugin.
    pub(super) fn conf(&self) -> Vec<u8> {
        let mut conf = self.plugin.clone();
        conf.insert("cniVersion".to_owned(), self.version.name().into());
        conf.insert("name".to_owned(), self.name.clone().into());
        text(&conf.into())
    }

    /// As a `.conflist` of one plugin; since CNI 1.0.0 there is nothing else.
    pub(super) fn list(&self) -> Vec<u8> {
        text(&json!({ "cniVersion": self.version.name(), "name": self.name, "plugins": [self.plugin] }))
    }
}

fn text(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Wraps `master`.
///
/// # Errors
/// A key of `master` that is needed is missing or of the wrong kind: the error names file, key and value.
pub(super) fn generate(
    settings: &Settings,
    master: &Master,
    kubeconfig: Option<&Path>,
) -> Result<Generated, InstallError> {
    let wrong = |problem| InstallError::Configuration { path: master.original.clone(), problem };
    let mut delegate = master.config.clone();
    let version = version(settings, &delegate).map_err(wrong)?;
    if settings.force_cni_version || !delegate.contains_key("cniVersion") {
        delegate.insert("cniVersion".to_owned(), version.name().into());
    }
    let name = match (settings.override_network_name, delegate.get("name")) {
        (false, _) => NETWORK_NAME.to_owned(),
        (true, Some(Value::String(name))) if !name.is_empty() => name.clone(),
        (true, name) => {
            let is = name.map_or("missing".to_owned(), Value::to_string);
            return Err(wrong(format!("name is {is}, --override-network-name needs one")));
        }
    };
    let mut plugin = Map::new();
    let mut put = |key: &str, value: Value| drop(plugin.insert(key.to_owned(), value));
    put("type", "netplane".into());
    put("capabilities", capabilities(&delegate).map_err(wrong)?.into());
    put("delegates", json!([delegate]));
    if let Some(kubeconfig) = kubeconfig {
        put("kubeconfig", kubeconfig.display().to_string().into());
    }
    if settings.namespace_isolation {
        put("namespaceIsolation", true.into());
    }
    if !settings.log_to_stderr {
        put("logToStderr", false.into());
    }
    for (key, value) in [
        ("globalNamespaces", &settings.global_namespaces),
        ("logLevel", &settings.log_level),
        ("logFile", &settings.log_file),
        ("binDir", &settings.bin_dir),
        ("confDir", &settings.conf_dir),
        ("readinessindicatorfile", &settings.readiness_indicator_file),
    ] {
        if let Some(value) = value {
            put(key, value.clone().into());
        }
    }
    plugin.extend(settings.further.clone());
    Ok(Generated { version, name, plugin })
}

fn version(settings: &Settings, delegate: &Map<String, Value>) -> Result<Version, String> {
    let name = match (delegate.get("cniVersion"), &settings.cni_version) {
        (_, Some(given)) if settings.force_cni_version => given,
        (Some(Value::String(own)), None) => own,
        (Some(Value::String(own)), Some(given)) if own == given => own,
        (Some(Value::String(own)), Some(given)) => {
            return Err(format!("cniVersion is \"{own}\", --cni-version asks for \"{given}\""));
        }
        (Some(other), _) => return Err(format!("cniVersion is {other}, should be a string")),
        (None, Some(given)) => given,
        (None, None) => return Err("cniVersion is missing: set it there, or with --cni-version".to_owned()),
    };
    let known = || Version::supported().join(", ");
    Version::parse(name).ok_or_else(|| format!("cniVersion is \"{name}\", should be one of {}", known()))
}

/// All capabilities that the configuration, or a plugin of its list, has. What one of them wants must reach
/// the meta-plugin, which hands it on.
fn capabilities(delegate: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut all = Map::from_iter([(POD_ANNOTATIONS.to_owned(), true.into())]);
    let mut collect = |place: &str, plugin: Option<&Value>| {
        let Some(capabilities) = plugin.filter(|it| !it.is_null()) else { return Ok(()) };
        let wrong = |key: &str, value: &Value, kind: &str| {
            Err(format!("{place}capabilities{key} is {value}, should be {kind}"))
        };
        let Value::Object(capabilities) = capabilities else {
            return wrong("", capabilities, "an object");
        };
        for (key, value) in capabilities {
            match value {
                Value::Bool(true) => drop(all.insert(key.clone(), true.into())),
                Value::Bool(false) => {}
                other => return wrong(&format!(".{key}"), other, "true or false"),
            }
        }
        Ok(())
    };
    match delegate.get("plugins") {
        None => collect("", delegate.get("capabilities"))?,
        Some(Value::Array(plugins)) => {
            for (number, plugin) in plugins.iter().enumerate() {
                collect(&format!("plugins[{number}]."), plugin.get("capabilities"))?;
            }
        }
        Some(other) => return Err(format!("plugins is {other}, should be a list")),
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(config: Value) -> Master {
        let Value::Object(config) = config else { unreachable!("an object") };
        Master { original: "/net.d/10-a.conflist".into(), is_aside: false, config }
    }

    fn list() -> Value {
        json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": [
            { "type": "ptp", "capabilities": { "ips": true, "mac": false } },
            { "type": "portmap", "capabilities": { "portMappings": true, "ips": false } },
        ] })
    }

    fn settings() -> Settings {
        Settings { log_to_stderr: true, ..Settings::default() }
    }

    fn conf(settings: &Settings, config: Value) -> Value {
        let kubeconfig = Path::new("/etc/cni/net.d/multus.d/multus.kubeconfig");
        let generated = generate(settings, &master(config), Some(kubeconfig)).expect("generated");
        serde_json::from_slice(&generated.conf()).expect("JSON")
    }

    fn error(settings: &Settings, config: Value) -> String {
        generate(settings, &master(config), None).expect_err("wrong").to_string()
    }

    #[test]
    fn the_default_network_is_wrapped_as_it_is() {
        assert_eq!(
            conf(&settings(), list()),
            json!({
                "cniVersion": "1.0.0", "name": "multus-cni-network", "type": "netplane",
                "capabilities": { POD_ANNOTATIONS: true, "ips": true, "portMappings": true },
                "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig", "delegates": [list()],
            })
        );
        let generated = generate(&settings(), &master(list()), None).expect("generated");
        let as_list: Value = serde_json::from_slice(&generated.list()).expect("JSON");
        assert_eq!((&as_list["cniVersion"], &as_list["name"]), (&json!("1.0.0"), &json!(NETWORK_NAME)));
        assert_eq!(as_list["plugins"][0]["delegates"], json!([list()]));
        assert!(as_list["plugins"][0].get("kubeconfig").is_none());
    }

    #[test]
    fn each_flag_has_its_key() {
        let some = |it: &str| Some(it.to_owned());
        let all = Settings {
            cni_version: None,
            force_cni_version: false,
            override_network_name: true,
            namespace_isolation: true,
            global_namespaces: some("default,infra"),
            log_to_stderr: false,
            log_level: some("debug"),
            log_file: some("/var/log/multus.log"),
            bin_dir: some("/opt/more"),
            conf_dir: some("/etc/more"),
            readiness_indicator_file: some("/run/ready"),
            further: Map::from_iter([("systemNamespaces".to_owned(), json!(["infra"]))]),
        };
        let conf = conf(&all, json!({ "cniVersion": "0.4.0", "name": "pods", "type": "bridge" }));
        for (key, value) in [
            ("name", json!("pods")),
            ("namespaceIsolation", json!(true)),
            ("globalNamespaces", json!("default,infra")),
            ("logToStderr", json!(false)),
            ("logLevel", json!("debug")),
            ("logFile", json!("/var/log/multus.log")),
            ("binDir", json!("/opt/more")),
            ("confDir", json!("/etc/more")),
            ("readinessindicatorfile", json!("/run/ready")),
            ("systemNamespaces", json!(["infra"])),
        ] {
            assert_eq!(conf[key], value, "{key}");
        }
    }

    #[test]
    fn versions_agree_or_are_forced() {
        let asked = |version: &str, force| Settings {
            cni_version: Some(version.to_owned()),
            force_cni_version: force,
            ..settings()
        };
        assert_eq!(conf(&asked("1.0.0", false), list())["cniVersion"], "1.0.0");
        let told = error(&asked("0.4.0", false), list());
        assert!(
            told.contains("10-a.conflist") && told.contains("\"1.0.0\"") && told.contains("\"0.4.0\""),
            "{told}"
        );
        let forced = conf(&asked("0.4.0", true), list());
        assert_eq!(
            (&forced["cniVersion"], &forced["delegates"][0]["cniVersion"]),
            (&json!("0.4.0"), &json!("0.4.0"))
        );
        let without = json!({ "type": "bridge" });
        assert!(error(&settings(), without.clone()).contains("cniVersion is missing"));
        assert_eq!(conf(&asked("0.3.1", false), without)["delegates"][0]["cniVersion"], "0.3.1");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let named = Settings { override_network_name: true, ..settings() };
        for (settings, config, told) in [
            (&settings(), json!({ "cniVersion": 1, "type": "x" }), "cniVersion is 1"),
            (&settings(), json!({ "cniVersion": "9.9.9", "type": "x" }), "\"9.9.9\""),
            (&named, json!({ "cniVersion": "1.0.0", "type": "x" }), "name is missing"),
            (&named, json!({ "cniVersion": "1.0.0", "type": "x", "name": 7 }), "name is 7"),
            (&settings(), json!({ "cniVersion": "1.0.0", "plugins": 7 }), "plugins is 7"),
            (
                &settings(),
                json!({ "cniVersion": "1.0.0", "plugins": [{}, { "capabilities": { "mac": "yes" } }] }),
                "plugins[1].capabilities.mac is \"yes\"",
            ),
            (
                &settings(),
                json!({ "cniVersion": "1.0.0", "type": "x", "capabilities": [] }),
                "capabilities is []",
            ),
        ] {
            let error = error(settings, config);
            assert!(error.contains(told) && error.contains("10-a.conflist"), "{error}");
        }
    }
}
