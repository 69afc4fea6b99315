//! Running a plugin that is a program of its own (CNI specification, section 2 "Execution Protocol").

use super::process::{self, Bounds, Ended, ProcessError};
use super::result::CniResult;
use super::version::Version;
use super::{Call, PluginError, Verb, code};
use serde::de::IgnoredAny;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes; more than any result.
const MAX_OUTPUT: usize = 1 << 20;

/// Runs the program that `config` names.
///
/// # Errors
/// It is not there, cannot be run, is not done in time, or says that it failed; its code and message are
/// kept.
pub fn run(
    verb: Verb,
    call: &Call,
    config: &Value,
    previous: Option<&CniResult>,
) -> Result<Option<CniResult>, PluginError> {
    let kind = config.get("type").and_then(Value::as_str).unwrap_or_default();
    let program = find(kind, &call.path)?;
    let version = Version::of_config(config);
    let mut config = config.clone();
    // DEL has it since the version that CHECK came with.
    if let Some(previous) = previous.filter(|_| verb != Verb::Del || version.has_check()) {
        config["prevResult"] = previous.to_json(version);
    }
    let ended = execute(&program, verb, call, &config)?;
    if !ended.status.success() {
        return Err(error_of(&program, &ended));
    }
    if verb != Verb::Add {
        return Ok(None);
    }
    let value: Value = serde_json::from_slice(&ended.stdout).map_err(|error| {
        let message = format!("plugin {kind} printed no JSON: {error}");
        PluginError { code: code::DECODING, message, details: excerpt(&ended.stdout) }
    })?;
    let result = CniResult::from_json(&value, version);
    result.map(Some).map_err(|it| PluginError { message: format!("plugin {kind}: {}", it.message), ..it })
}

/// The program of a plugin.
///
/// # Errors
/// The name is a path, or no folder of `CNI_PATH` has it.
pub fn find(kind: &str, path: &[PathBuf]) -> Result<PathBuf, PluginError> {
    if kind.is_empty() || kind.contains('/') {
        let message = format!("\"type\" is \"{kind}\", should be the name of a plugin");
        return Err(PluginError::new(code::INVALID_CONFIG, message));
    }
    let found = path.iter().map(|folder| folder.join(kind)).find(|it| it.is_file());
    found.ok_or_else(|| {
        let folders = path.iter().map(|it| it.display().to_string()).collect::<Vec<_>>().join(":");
        PluginError::new(code::INVALID_CONFIG, format!("no plugin \"{kind}\" in CNI_PATH ({folders})"))
    })
}

fn execute(program: &Path, verb: Verb, call: &Call, config: &Value) -> Result<Ended, PluginError> {
    let mut command = Command::new(program);
    command.env("CNI_COMMAND", verb.name());
    command.env("CNI_PATH", std::env::join_paths(&call.path).unwrap_or_default());
    let netns = call.netns.as_deref().unwrap_or(Path::new("")).as_os_str();
    let container = [
        ("CNI_CONTAINERID", call.container_id.as_ref()),
        ("CNI_NETNS", netns),
        ("CNI_IFNAME", call.interface.as_ref()),
        ("CNI_ARGS", call.args.as_ref()),
    ];
    for (name, value) in container {
        if verb.is_of_container() {
            command.env(name, value)
        } else {
            command.env_remove(name)
        };
    }
    let bounds = Bounds { time: call.timeout, output: MAX_OUTPUT };
    // What a plugin prints is a result or an error; the rest of the verbs have neither.
    let enough = |output: &[u8]| {
        (verb != Verb::Add && output.is_empty()) || serde_json::from_slice::<IgnoredAny>(output).is_ok()
    };
    process::run(&mut command, config.to_string().as_bytes(), bounds, enough).map_err(|error| {
        let (program, verb) = (program.display(), verb.name());
        match error {
            ProcessError::Start(error) => {
                PluginError::new(code::IO, format!("cannot run {program}: {error}"))
            }
            ProcessError::Talk(error) => {
                PluginError::new(code::IO, format!("cannot talk to {program}: {error}"))
            }
            ProcessError::Deadline => {
                let seconds = call.timeout.as_secs_f64();
                let message =
                    format!("{program} was not done with {verb} after {seconds} s (delegateTimeout); killed");
                PluginError::new(code::FAILED, message)
            }
            ProcessError::TooMuch => {
                let message = format!("{program} printed more than {MAX_OUTPUT} bytes for {verb}; killed");
                PluginError::new(code::DECODING, message)
            }
        }
    })
}

/// The error that the plugin printed, else one that says how it ended.
fn error_of(program: &Path, ended: &Ended) -> PluginError {
    let printed: Value = serde_json::from_slice(&ended.stdout).unwrap_or_default();
    let text = |key: &str| printed.get(key).and_then(Value::as_str).map(str::to_owned);
    let code = printed.get("code").and_then(Value::as_u64).and_then(|it| u32::try_from(it).ok());
    let how = || format!("{} ended with {} and no CNI error", program.display(), ended.status);
    match (code.filter(|it| *it != 0), text("msg").filter(|it| !it.is_empty())) {
        (None, None) => PluginError {
            code: code::FAILED,
            message: how(),
            // Most programs say on stderr why they end like that.
            details: excerpt(if ended.stdout.is_empty() { &ended.stderr } else { &ended.stdout }),
        },
        (code, message) => PluginError {
            code: code.unwrap_or(code::FAILED),
            message: message.unwrap_or_else(how),
            details: text("details").unwrap_or_default(),
        },
    }
}

fn excerpt(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim().chars().take(200).collect()
}
