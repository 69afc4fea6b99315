//! The CNI protocol: environment and stdin in, one JSON document on stdout out.

mod config;
mod error;
mod request;

use crate::attach::detach;
use crate::attach::perform::{Container, perform};
use crate::attach::plan::{self, Delegate, Overrides, Places};
use crate::attach::record::PodRef;
use crate::attach::store::RecordStore;
use crate::nad::dir;
use crate::nad::selection;
use crate::plugins::Call;
use crate::plugins::version::Version;
use config::Config;
use error::CniError;
use request::{Command, Request};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::process::ExitCode;

/// Runs the plugin as a container runtime calls it. The only writer of stdout.
pub fn run() -> ExitCode {
    let mut stdin = Vec::new();
    let read = std::io::stdin().read_to_end(&mut stdin);
    let answer = match read {
        Ok(_) => answer(&|name| std::env::var(name).ok(), &stdin),
        Err(source) => Err((Version::NEWEST.name().to_owned(), CniError::stdin(&source))),
    };
    let (text, code) = match answer {
        Ok(None) => (String::new(), ExitCode::SUCCESS),
        Ok(Some(value)) => (value.to_string(), ExitCode::SUCCESS),
        Err((version, error)) => {
            tracing::error!(code = error.code, message = error.message, details = error.details);
            (error.to_json(&version).to_string(), ExitCode::FAILURE)
        }
    };
    // A runtime that does not listen any more has no use for an error either.
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}

/// The answer, or an error with the version to write it in.
fn answer(env: &dyn Fn(&str) -> Option<String>, stdin: &[u8]) -> Result<Option<Value>, (String, CniError)> {
    let asked = serde_json::from_slice::<Value>(stdin).ok();
    let asked = asked.as_ref().and_then(|it| it.get("cniVersion")?.as_str()).map(str::to_owned);
    let fallback = asked.clone().unwrap_or_else(|| Version::NEWEST.name().to_owned());
    let with_version = |error| (fallback.clone(), error);
    let request = Request::read(env).map_err(with_version)?;
    if request.command == Command::Version {
        return Ok(Some(json!({
            "cniVersion": fallback,
            "supportedVersions": Version::supported(),
        })));
    }
    let config = Config::read(stdin).map_err(with_version)?;
    dispatch(&request, &config).map_err(with_version)
}

fn dispatch(request: &Request, config: &Config) -> Result<Option<Value>, CniError> {
    let records = RecordStore::new(&config.cni_dir);
    let container = container(request, config);
    let load = || records.load(&request.container_id, &request.interface);
    match request.command {
        Command::Add => {
            let delegates = delegates(request, config)?;
            let result = perform(&container, &delegates, &records)?;
            Ok(Some(result.to_json(config.version)))
        }
        Command::Del => {
            // Without a record there is nothing that this plugin made, or all is down already.
            if let Some(record) = load()? {
                detach::detach(&container, &record, &records)?;
            }
            Ok(None)
        }
        Command::Check => {
            config.allow_check()?;
            let record = load()?.filter(|it| it.complete);
            let record = record.ok_or_else(|| CniError::unknown_container(&request.container_id))?;
            detach::check(&container, &record)?;
            Ok(None)
        }
        Command::Status => {
            delegates_of_node(config)?;
            Ok(None)
        }
        Command::Version => Ok(None),
    }
}

fn container(request: &Request, config: &Config) -> Container {
    let arg = |name: &str| request.args.get(name).filter(|it| !it.is_empty()).cloned();
    let pod = arg("K8S_POD_NAMESPACE").zip(arg("K8S_POD_NAME"));
    let pod = pod.map(|(namespace, name)| PodRef { namespace, name, uid: arg("K8S_POD_UID") });
    let mut path = request.path.clone();
    path.extend(config.bin_dir.clone());
    let call = Call {
        container_id: request.container_id.clone(),
        netns: request.netns.clone(),
        interface: request.interface.clone(),
        args: request.raw_args.clone(),
        path,
    };
    Container { call, pod }
}

/// All delegates of an ADD: default network, `defaultNetworks`, the pod's selections in order.
fn delegates(request: &Request, config: &Config) -> Result<Vec<Delegate>, CniError> {
    let nads = load_nads(config)?;
    let places = places(config, &nads);
    let namespace = request.args.get("K8S_POD_NAMESPACE").map_or("default", String::as_str);
    let mut delegates = Vec::new();
    if let Some(source) = config.default_network(&places)? {
        let overrides = Overrides { runtime: config.runtime_for_default(), ..Overrides::default() };
        delegates.push(plan::delegate(&source, request.interface.clone(), true, &overrides)?);
    }
    let annotation = config.networks_annotation().or_else(|| request.args.get("K8S_POD_NETWORKS").cloned());
    let mut selections = Vec::new();
    if !config.system_namespaces.iter().any(|it| it == namespace) {
        for name in &config.default_networks {
            selections.extend(
                selection::parse(name, &config.multus_namespace).map_err(crate::attach::AttachError::from)?,
            );
        }
    }
    let annotation = annotation.unwrap_or_default();
    selections.extend(selection::parse(&annotation, namespace).map_err(crate::attach::AttachError::from)?);
    let taken: Vec<_> = delegates.iter().map(|it: &Delegate| it.interface.clone()).collect();
    let names = plan::names(&selections, &taken)?;
    for (selection, name) in selections.iter().zip(names) {
        let source = places.selected(&selection.network)?;
        delegates.push(plan::delegate(&source, name, false, &Overrides::of_selection(selection))?);
    }
    if delegates.is_empty() {
        return Err(CniError::nothing_to_attach());
    }
    Ok(delegates)
}

/// STATUS: whether the default network could be attached as far as its configuration goes.
fn delegates_of_node(config: &Config) -> Result<(), CniError> {
    let nads = load_nads(config)?;
    if let Some(source) = config.default_network(&places(config, &nads))? {
        plan::delegate(&source, "eth0".to_owned(), true, &Overrides::default())?;
    }
    Ok(())
}

fn load_nads(config: &Config) -> Result<Vec<crate::nad::Nad>, CniError> {
    let Some(folder) = &config.nad_dir else {
        return Ok(Vec::new());
    };
    let loaded = dir::load(folder).map_err(crate::attach::AttachError::from)?;
    for problem in &loaded.problems {
        tracing::warn!(%problem, "passed over");
    }
    Ok(loaded.nads.into_iter().map(|(_, nad)| nad).collect())
}

fn places<'a>(config: &'a Config, nads: &'a [crate::nad::Nad]) -> Places<'a> {
    Places {
        nad_dir: config.nad_dir.as_deref(),
        nads,
        conf_dir: &config.conf_dir,
        namespace: &config.multus_namespace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(env: &[(&str, &str)], stdin: &str) -> Result<Option<Value>, (String, CniError)> {
        let get = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        answer(&get, stdin.as_bytes())
    }

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "abc"),
        ("CNI_NETNS", "/nonexistent"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];

    fn error(env: &[(&str, &str)], stdin: &str) -> (String, u32, String) {
        let (version, error) = call(env, stdin).expect_err("an error");
        (version, error.code, error.message)
    }

    #[test]
    fn version_needs_nothing() {
        let answer = call(&[("CNI_COMMAND", "VERSION")], r#"{"cniVersion":"1.0.0"}"#).expect("an answer");
        let answer = answer.expect("JSON");
        assert_eq!(answer["cniVersion"], "1.0.0");
        assert_eq!(answer["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    }

    #[test]
    fn errors_have_the_codes_of_the_specification() {
        let (_, code, message) = error(&[("CNI_COMMAND", "ADD"), ("CNI_PATH", "/x")], "{}");
        assert_eq!(code, 4);
        assert!(message.contains("CNI_CONTAINERID, CNI_IFNAME, CNI_NETNS"), "{message}");
        let (_, code, message) = error(&[("CNI_COMMAND", "JUMP")], "{}");
        assert_eq!(code, 4);
        assert!(message.contains("\"JUMP\""), "{message}");
        assert_eq!(error(&ADD, "{").1, 6);
        let (version, code, message) = error(&ADD, r#"{"cniVersion":"9.0.0","name":"x","type":"netplane"}"#);
        assert_eq!((version.as_str(), code), ("9.0.0", 1));
        assert!(message.contains("1.1.0"), "{message}");
        let (version, code, message) =
            error(&ADD, r#"{"cniVersion":"0.4.0","name":"x","type":"netplane","nadDir":7}"#);
        assert_eq!((version.as_str(), code), ("0.4.0", 7));
        assert!(message.contains("nadDir"), "{message}");
        let nothing = r#"{"cniVersion":"1.1.0","name":"x","type":"netplane"}"#;
        assert_eq!(error(&ADD, nothing).1, 7);
    }

    #[test]
    fn names_of_containers_and_interfaces_are_checked() {
        for (name, value) in
            [("CNI_CONTAINERID", "../x"), ("CNI_IFNAME", "a/b"), ("CNI_IFNAME", "0123456789abcdef")]
        {
            let env: Vec<_> =
                ADD.iter().map(|(key, old)| (*key, if *key == name { value } else { *old })).collect();
            let (_, code, message) = error(&env, "{}");
            assert_eq!(code, 4);
            assert!(message.contains(name) && message.contains(value), "{message}");
        }
    }

    #[test]
    fn del_of_what_was_never_attached_succeeds() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = json!({"cniVersion": "1.1.0", "name": "x", "type": "netplane", "cniDir": folder.path()});
        let env: Vec<_> =
            ADD.iter().map(|(key, it)| (*key, if *key == "CNI_COMMAND" { "DEL" } else { *it })).collect();
        assert_eq!(call(&env, &config.to_string()).expect("done"), None);
    }
}
