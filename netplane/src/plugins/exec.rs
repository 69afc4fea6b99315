//! Running a plugin that is a program of its own (CNI specification, section 2 "Execution Protocol").

use super::result::CniResult;
use super::version::Version;
use super::{Call, PluginError, Verb, code};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// More than any result; what is longer is not one.
const MAX_OUTPUT: u64 = 1 << 20;

/// Runs the program that `config` names.
///
/// # Errors
/// It is not there, cannot be run, or says that it failed; its code and message are kept.
pub fn run(
    verb: Verb,
    call: &Call,
    config: &Value,
    previous: Option<&CniResult>,
) -> Result<Option<CniResult>, PluginError> {
    let kind = config.get("type").and_then(Value::as_str).unwrap_or_default();
    let program = find(kind, &call.path)?;
    let mut config = config.clone();
    if let Some(previous) = previous {
        let version = config.get("cniVersion").and_then(Value::as_str).and_then(Version::parse);
        config["prevResult"] = previous.to_json(version.unwrap_or(Version::NEWEST));
    }
    let output = execute(&program, verb, call, &config)?;
    if verb != Verb::Add {
        return Ok(None);
    }
    let value: Value = serde_json::from_slice(&output).map_err(|error| {
        let message = format!("plugin {kind} printed no JSON: {error}");
        PluginError { code: code::DECODING, message, details: excerpt(&output) }
    })?;
    CniResult::from_json(&value).map(Some)
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

fn execute(program: &Path, verb: Verb, call: &Call, config: &Value) -> Result<Vec<u8>, PluginError> {
    let failed = |what: &str, error: io::Error| {
        PluginError::new(code::IO, format!("cannot {what} {}: {error}", program.display()))
    };
    let path = std::env::join_paths(&call.path).unwrap_or_default();
    let mut command = Command::new(program);
    command
        .env("CNI_COMMAND", verb.name())
        .env("CNI_CONTAINERID", &call.container_id)
        .env("CNI_NETNS", call.netns.as_deref().unwrap_or(Path::new("")))
        .env("CNI_IFNAME", &call.interface)
        .env("CNI_ARGS", &call.args)
        .env("CNI_PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut child = spawn(&mut command).map_err(|error| failed("run", error))?;
    let mut stdin = child.stdin.take();
    let mut stdout = child.stdout.take();
    let mut output = Vec::new();
    // Written on a thread of its own: a plugin that talks before it listens must not block both.
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A plugin that does not read its configuration says by its result what it thinks of that.
            let _ = stdin.take().map(|mut it| it.write_all(config.to_string().as_bytes()));
        });
        match stdout.take() {
            Some(stdout) => stdout.take(MAX_OUTPUT).read_to_end(&mut output).map(drop),
            None => Ok(()),
        }
    })
    .map_err(|error| failed("read from", error))?;
    let status = child.wait().map_err(|error| failed("wait for", error))?;
    if status.success() { Ok(output) } else { Err(error_of(program, status, &output)) }
}

/// Starts the program, after a while where an installer is just writing it (`ETXTBSY`).
fn spawn(command: &mut Command) -> io::Result<Child> {
    for _ in 0..5 {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(100));
            }
            done => return done,
        }
    }
    command.spawn()
}

/// The error that the plugin printed, else one that says how it ended.
fn error_of(program: &Path, status: std::process::ExitStatus, output: &[u8]) -> PluginError {
    let printed: Option<Value> = serde_json::from_slice(output).ok();
    let text = |key: &str| printed.as_ref()?.get(key)?.as_str().map(str::to_owned);
    let code = printed.as_ref().and_then(|it| it.get("code")?.as_u64()).and_then(|it| u32::try_from(it).ok());
    match (code, text("msg")) {
        (Some(code), Some(message)) => {
            PluginError { code, message, details: text("details").unwrap_or_default() }
        }
        _ => PluginError {
            code: code::FAILED,
            message: format!("{} ended with {status} and no CNI error", program.display()),
            details: excerpt(output),
        },
    }
}

fn excerpt(output: &[u8]) -> String {
    String::from_utf8_lossy(output).chars().take(200).collect()
}
