//! `netplane install` as a process: a folder stands for the node, and one for the service account as kubelet
//! mounts it. No root needed but where a pod is attached.

mod cluster;
mod follow;
mod killed;
mod leave;
mod pods;
mod whole;

use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const CONF: &str = "00-multus.conf";
const LIST: &str = "00-multus.conflist";
const MASTER: &str = "10-default.conflist";
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

/// A node's folders as a DaemonSet mounts them.
struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { folder: tempfile::tempdir().expect("a folder") };
        for name in ["bin", "net.d", "account"] {
            fs::create_dir(host.path(name)).expect("a folder");
        }
        host.rotate("token-0", CERTIFICATE);
        for name in ["token", "ca.crt"] {
            symlink(format!("..data/{name}"), host.path("account").join(name)).expect("a link");
        }
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn net_d(&self, name: &str) -> PathBuf {
        self.path("net.d").join(name)
    }

    fn kubeconfig(&self) -> String {
        fs::read_to_string(self.net_d("multus.d/multus.kubeconfig")).unwrap_or_default()
    }

    /// As kubelet does: all files into a new folder, then `..data` is swapped.
    fn rotate(&self, token: &str, authority: &str) {
        let account = self.path("account");
        let old = fs::read_link(account.join("..data")).ok();
        let name = format!("..{token}");
        fs::create_dir(account.join(&name)).expect("a folder");
        fs::write(account.join(&name).join("token"), token).expect("a token");
        fs::write(account.join(&name).join("ca.crt"), authority).expect("a CA");
        symlink(&name, account.join("..data_tmp")).expect("a link");
        fs::rename(account.join("..data_tmp"), account.join("..data")).expect("swapped");
        if let Some(old) = old {
            fs::remove_dir_all(account.join(old)).expect("removed");
        }
    }

    /// Writes a configuration as careful installers do.
    fn write(&self, name: &str, config: &Value) {
        let temporary = self.path("incoming");
        fs::write(&temporary, config.to_string()).expect("a configuration");
        fs::rename(&temporary, self.net_d(name)).expect("in place");
    }

    /// A default network that bears a mark.
    fn master(&self, name: &str, version: &str, mark: u64) {
        self.write(name, &marked(version, mark));
    }

    /// Over the old content, where a second file has no room.
    fn write_in_place(&self, name: &str, mark: u64) {
        fs::write(self.net_d(name), marked("0.4.0", mark).to_string()).expect("a configuration");
    }

    fn read(&self, name: &str) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.net_d(name)).ok()?).ok()
    }

    /// The mark of the default network in the configuration that a runtime takes now.
    fn mark(&self) -> Option<u64> {
        mark(&runtime_view(&self.path("net.d")).ok()?.1)
    }

    /// The command without waiting for anything, but the binary's copy.
    fn command(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netplane"));
        command.arg("install");
        for (flag, name) in [
            ("--cni-bin-dir", "bin"),
            ("--cni-conf-dir", "net.d"),
            ("--service-account-dir", "account"),
            ("--multus-cni-conf-dir", "networks"),
        ] {
            command.arg(flag).arg(self.path(name));
        }
        command.args(flags).env_clear();
        command.env("KUBERNETES_SERVICE_HOST", "fd00::1").env("KUBERNETES_SERVICE_PORT", "6443");
        command
    }

    fn start(&self, flags: &[&str]) -> Install {
        let mut all = vec!["--skip-multus-binary-copy"];
        all.extend(flags);
        Install::start(self.command(&all), self.path(&format!("log{:?}", Instant::now())))
    }

    /// Runs to the end: what is on stderr, and whether it succeeded.
    fn once(&self, flags: &[&str]) -> (bool, String) {
        let output = self.command(flags).arg("--one-shot").output().expect("it runs");
        assert!(output.stdout.is_empty(), "stdout is not for logs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What is in the folder that a runtime reads, without folders.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("net.d")).expect("listed").flatten();
        let files = entries.filter(|it| it.path().is_file());
        let mut names: Vec<_> = files.map(|it| it.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn marked(version: &str, mark: u64) -> Value {
    // Long enough that a write in pieces would be seen.
    let filling = "x".repeat(20_000);
    json!({ "cniVersion": version, "name": "pods", "mark": mark, "filling": filling,
        "plugins": [{ "type": "ptp" }, { "type": "portmap", "capabilities": { "portMappings": true } }] })
}

fn mark(plugin: &Value) -> Option<u64> {
    plugin["delegates"][0]["mark"].as_u64()
}

/// What libcni and kubelet's runtimes do: the first by name of `.conf`, `.conflist` and `.json`. Gives its
/// name and its (first) plugin.
fn runtime_view(folder: &Path) -> Result<(String, Value), String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|it| it.to_string())? {
        let name = entry.map_err(|it| it.to_string())?.file_name().to_string_lossy().into_owned();
        if [".conf", ".conflist", ".json"].iter().any(|it| name.ends_with(it)) {
            names.push(name);
        }
    }
    names.sort();
    let name = names.into_iter().next().ok_or("no configuration")?;
    let bytes = fs::read(folder.join(&name)).map_err(|it| format!("{name}: {it}"))?;
    let config: Value = serde_json::from_slice(&bytes).map_err(|it| format!("{name}: {it}"))?;
    let plugin = if name.ends_with(".conflist") { config["plugins"][0].clone() } else { config };
    if plugin["type"].is_string() { Ok((name, plugin)) } else { Err(format!("{name}: no type")) }
}

/// A process, with its log. Killed on drop.
struct Install {
    child: Child,
    log: PathBuf,
}

impl Install {
    fn start(mut command: Command, log: PathBuf) -> Self {
        let file = fs::File::create(&log).expect("a log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().expect("it runs");
        Self { child, log }
    }

    fn log(&self) -> String {
        let mut text = String::new();
        let _ = fs::File::open(&self.log).and_then(|mut it| it.read_to_string(&mut text));
        text
    }

    #[track_caller]
    fn until(&mut self, what: &str, wanted: impl Fn() -> bool) {
        until(&format!("{what}\n{}", self.log.display()), || {
            let ended = self.child.try_wait().expect("known");
            assert!(ended.is_none(), "it ended ({ended:?}) before {what}: {}", self.log());
            wanted()
        });
    }

    fn until_logged(&mut self, text: &str) {
        let log = self.log.clone();
        self.until(text, || fs::read_to_string(&log).unwrap_or_default().contains(text));
    }

    fn signal(&self, signal: &str) {
        signal_to(self.child.id(), signal);
    }

    /// Tells it to stop, and waits.
    fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.wait().expect("it ends")
    }
}

impl Drop for Install {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal_to(pid: u32, signal: &str) {
    let status = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status();
    assert!(status.expect("kill is there").success());
}

#[track_caller]
fn until(what: &str, mut wanted: impl FnMut() -> bool) {
    let since = Instant::now();
    while !wanted() {
        assert!(since.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
