//! The CNI protocol: environment and stdin in, one JSON document on stdout out.

mod checked;
mod config;
mod device;
mod error;
mod known;
mod log;
mod log_file;
mod networks;
mod pod;
mod readiness;
mod request;
mod status;
mod turn;

pub use checked::{Checked, check_configuration};

use crate::attach::detach;
use crate::attach::gc;
use crate::attach::multus::MultusCaches;
use crate::attach::perform::{self, Container};
use crate::attach::record::PodRef;
use crate::attach::store::{Found, RecordStore};
use crate::cluster::Cluster;
use crate::plugins::Call;
use crate::plugins::result::CniResult;
use crate::plugins::version::Version;
use config::Config;
use error::CniError;
use networks::Networks;
use pod::Pod;
use request::{Command, Request};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::Instant;

/// Runs the plugin as a container runtime calls it. The only writer of stdout.
pub fn run() -> ExitCode {
    // First of all, and kept to the end: a call that waits has hardly any memory of its own.
    let takes_turns = std::env::var_os("CNI_COMMAND").is_some_and(|it| it == "ADD" || it == "DEL");
    let _turn = takes_turns.then(turn::take);
    // What fits in is read at once.
    let mut stdin = Vec::with_capacity(16 << 10);
    let read = std::io::stdin().read_to_end(&mut stdin);
    log::start(&stdin);
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    // Around every line of the log: several calls write to one file.
    let call = tracing::error_span!(
        "cni",
        command = env("CNI_COMMAND"),
        container = env("CNI_CONTAINERID"),
        interface = env("CNI_IFNAME"),
        args = env("CNI_ARGS"),
    );
    let _entered = call.entered();
    tracing::info!("begins");
    let (answer, records) = match read {
        Ok(_) => answer(&|name| std::env::var_os(name), &stdin),
        Err(source) => (Err((Version::NEWEST.name().to_owned(), CniError::stdin(&source))), None),
    };
    let (text, code) = match answer {
        Ok(value) => {
            let text = value.map(|it| it.to_string()).unwrap_or_default();
            tracing::info!(result = text, "done");
            (text, ExitCode::SUCCESS)
        }
        Err((version, error)) => {
            tracing::error!(code = error.code, message = error.message, details = error.details);
            (error.to_json(&version).to_string(), ExitCode::FAILURE)
        }
    };
    // A runtime that does not listen any more has no use for an error either.
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    if let Some(records) = records {
        // All has been said: who reads it need not wait for the disk.
        for stream in [0, 1, 2] {
            let _ = nix::unistd::close(stream);
        }
        records.settle();
    }
    code
}

/// The answer, or an error with the version to write it in.
type Answer = Result<Option<Value>, (String, CniError)>;

/// The answer, and what is to be settled when it is out.
fn answer(env: &dyn Fn(&str) -> Option<OsString>, stdin: &[u8]) -> (Answer, Option<RecordStore>) {
    let mut records = None;
    (answer_with(env, stdin, &mut records), records)
}

fn answer_with(
    env: &dyn Fn(&str) -> Option<OsString>,
    stdin: &[u8],
    records: &mut Option<RecordStore>,
) -> Answer {
    let asked = serde_json::from_slice::<Value>(stdin).ok();
    let asked = asked.as_ref().and_then(|it| it.get("cniVersion")?.as_str()).filter(|it| !it.is_empty());
    let fallback = asked.unwrap_or(Version::NEWEST.name()).to_owned();
    let with_version = |error| (fallback.clone(), error);
    let request = Request::read(env).map_err(with_version)?;
    if request.command == Command::Version {
        return Ok(Some(json!({
            "cniVersion": fallback,
            "supportedVersions": Version::supported(),
        })));
    }
    let config = Config::read(stdin).map_err(with_version)?;
    let records = records.insert(RecordStore::new(&config.cni_dir));
    dispatch(&request, &config, records).map_err(with_version)
}

fn dispatch(request: &Request, config: &Config, records: &RecordStore) -> Result<Option<Value>, CniError> {
    match request.command {
        Command::Add => return add(request, config, records).map(Some),
        Command::Del => del(request, config, records)?,
        Command::Check => check(request, config, records)?,
        Command::Status => status::status(request, config, &cluster(config))?,
        Command::Gc => gc(request, config, records)?,
        Command::Version => {}
    }
    Ok(None)
}

fn add(request: &Request, config: &Config, records: &RecordStore) -> Result<Value, CniError> {
    let previous = config.previous.as_ref().map(|it| CniResult::from_json(it, config.version));
    let previous = previous.transpose().map_err(CniError::previous)?;
    if let Some(file) = &config.readiness_file {
        readiness::wait(file, readiness::PATIENCE)?;
    }
    let begun = Instant::now();
    let cluster = cluster(config);
    let Some(pod) = Pod::read(request, config, &cluster)? else {
        // As Multus does: the runtime is about to find out by itself.
        tracing::warn!("the pod is gone; nothing is attached");
        return Ok(CniResult::default().to_json(config.version));
    };
    if matches!(records.load(&request.container_id, &request.interface), Ok(Found::Damaged)) {
        pod.report_damage(&cluster, request);
    }
    let container = container(request, config);
    let networks = Networks::new(request, config, &pod, &cluster);
    let attached = networks.attach(&cluster, &container, records);
    let attached = attached.inspect_err(|error| pod.report_failure(&cluster, request, error, begun))?;
    if let Err(error) = pod.report(&cluster, &attached, begun) {
        perform::undo(&container, &attached.record, records);
        return Err(error.into());
    }
    let attachments = &attached.record.attachments;
    let has_default = attachments.iter().any(|it| it.default);
    // Behind other plugins in a list, and with no default network of its own, theirs is the result.
    let mut previous = previous.filter(|_| !has_default);
    if attachments.iter().any(|it| it.default_route.is_some()) {
        // Their interfaces have lost it to the network that asked for it.
        previous.iter_mut().for_each(|it| it.routes.retain(|route| !route.is_default()));
    }
    let result = previous.unwrap_or(attached.result);
    Ok(result.to_json(config.version))
}

fn cluster(config: &Config) -> Cluster {
    Cluster::new(config.kubeconfig.as_deref(), config.agent_socket.as_deref())
}

fn del(request: &Request, config: &Config, records: &RecordStore) -> Result<(), CniError> {
    let container = container(request, config);
    let _lock = records.lock(&request.container_id, &request.interface, config.delegate_timeout)?;
    match records.load(&request.container_id, &request.interface)? {
        Found::Record(record) if config.retry_delete_on_error => {
            Ok(detach::detach(&container, &record, records)?)
        }
        Found::Record(record) => Ok(detach::detach_or_forget(&container, &record, records)?),
        Found::Nothing => {
            // What a save that was cut off has left.
            records.remove(&request.container_id, &request.interface)?;
            let Some(mut left) = MultusCaches::new(&config.cni_dir).find(&container)? else { return Ok(()) };
            if left.incomplete {
                left.extend(&container.record(&networks::guess(request, config, &cluster(config))));
            }
            Ok(left.take_down(&container)?)
        }
        Found::Damaged => {
            let guessed = networks::guess(request, config, &cluster(config));
            let record = detach::made_up(&container, &guessed, records)?;
            Ok(detach::detach(&container, &record, records)?)
        }
    }
}

fn check(request: &Request, config: &Config, records: &RecordStore) -> Result<(), CniError> {
    config.allow("CHECK", Version::V0_4_0)?;
    let previous = config.previous.as_ref().map(|it| CniResult::from_json(it, config.version));
    let previous = previous.transpose().map_err(CniError::previous)?;
    let previous = previous.ok_or_else(CniError::no_previous)?;
    let mut container = container(request, config);
    let mut record = match records.load(&request.container_id, &request.interface)? {
        Found::Record(record) => *record,
        Found::Nothing | Found::Damaged => {
            let left = MultusCaches::new(&config.cni_dir).find(&container)?;
            let left = left.ok_or_else(|| CniError::unknown_container(&request.container_id))?;
            container = left.container(&container);
            left.record
        }
    };
    if !record.complete {
        return Err(CniError::unknown_container(&request.container_id));
    }
    // The plugins behind this one in a list may have changed the default network's result, and theirs rules.
    if let Some(default) = record.attachments.iter_mut().find(|it| it.default) {
        default.result = Some(previous);
    }
    Ok(detach::check(&container, &record)?)
}

fn gc(request: &Request, config: &Config, records: &RecordStore) -> Result<(), CniError> {
    config.allow("GC", Version::V1_1_0)?;
    let valid = config.valid_attachments()?;
    let valid = valid.into_iter().map(|it| (it.container_id, it.ifname)).collect();
    let (known, unknown) = known::all(config, &cluster(config));
    let multus = MultusCaches::new(&config.cni_dir);
    let collected = gc::collect(&container(request, config), &valid, &known, records, &multus);
    let errors: Vec<_> = collected.err().map(CniError::from).into_iter().chain(unknown).collect();
    CniError::of_all(errors).map_or(Ok(()), Err)
}

fn container(request: &Request, config: &Config) -> Container {
    let arg = |name: &str| request.args.get(name).cloned();
    let pod = arg("K8S_POD_NAMESPACE").zip(arg("K8S_POD_NAME"));
    let pod = pod.map(|(namespace, name)| PodRef { namespace, name, uid: arg("K8S_POD_UID") });
    let mut path = request.path.clone();
    path.extend(config.bin_dir.clone());
    let call = Call {
        container_id: request.container_id.clone(),
        netns: request.netns.clone(),
        interface: request.interface.clone(),
        args: request.delegate_args.clone(),
        path,
        timeout: config.delegate_timeout,
    };
    Container { call, pod }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(env: &[(&str, &str)], stdin: &str) -> Result<Option<Value>, (String, CniError)> {
        let get =
            |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        answer(&get, stdin.as_bytes()).0
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
        assert_eq!(answer["supportedVersions"], json!(Version::supported()));
        for (stdin, version) in [("", "1.1.0"), ("{}", "1.1.0"), (r#"{"cniVersion":"9.0.0"}"#, "9.0.0")] {
            let answer = call(&[("CNI_COMMAND", "VERSION")], stdin).expect("an answer").expect("JSON");
            assert_eq!(answer["cniVersion"], version, "a runtime of any age may ask");
        }
    }

    #[test]
    fn errors_have_the_codes_of_the_specification() {
        let (_, code, message) = error(&[("CNI_COMMAND", "ADD"), ("CNI_PATH", "/x")], "{}");
        assert_eq!(code, 4);
        assert!(message.contains("CNI_CONTAINERID, CNI_IFNAME, CNI_NETNS"), "{message}");
        for verb in ["STATUS", "GC"] {
            let (_, code, message) = error(&[("CNI_COMMAND", verb)], r#"{"cniVersion":"1.1.0"}"#);
            assert_eq!((code, message.as_str()), (4, "missing in the environment: CNI_PATH"));
        }
        let (_, code, message) = error(&[("CNI_COMMAND", "JUMP")], "{}");
        assert_eq!(code, 4);
        assert!(message.contains("\"JUMP\""), "{message}");
        assert_eq!(error(&ADD, "{").1, 6);
        let bytes = std::os::unix::ffi::OsStringExt::from_vec(vec![b'/', 0xff]);
        let env = |name: &str| (name == "CNI_NETNS").then(|| OsString::clone(&bytes));
        let (_, wrong) = answer(&env, b"{}").0.expect_err("not UTF-8");
        assert_eq!((wrong.code, wrong.message.as_str()), (4, "CNI_NETNS is \"/\\xFF\", not UTF-8"));
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
