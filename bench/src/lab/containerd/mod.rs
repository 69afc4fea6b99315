//! containerd on the lab's node: CRI calls as kubelet makes them, and the plugin called by it.
//!
//! It runs in namespaces of its own. The network namespace is the node's. The PID namespace takes every
//! shim and container with it when its first process is killed, so that nothing survives a failed test;
//! the mount namespace has the lab's /var/lib and an empty /run, so that sandboxes' network namespaces,
//! shims' sockets and host-local's addresses are the lab's.

pub mod container;

pub mod cri;

pub mod kubelet;

mod image;

use super::command::{BUSYBOX, NSENTER, Tool, UNSHARE};
use super::undo::Undo;
use super::{Lab, Namespace, Process, wait_for};
use anyhow::{Context, Result, ensure};
use container::{ContainerConfig, ContainerMetadata, ContainerSecurity, ImageSpec, LinuxContainer, Mount};
use cri::{Cri, LinuxConfig, Metadata, SandboxConfig};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const CONTAINERD: Tool = Tool { program: "containerd", package: "containerd" };
const RUNC: Tool = Tool { program: "runc", package: "runc" };
const CTR: Tool = Tool { program: "ctr", package: "containerd" };

/// Where Debian's containernetworking-plugins are.
const PLUGINS: &str = "/usr/lib/cni";

/// On a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A containerd and what is needed to call it.
#[derive(Debug)]
pub struct Containerd<'a> {
    lab: &'a Lab,
    folder: PathBuf,
    /// The first process of its PID namespace, as the host numbers it.
    init: u32,
    daemon: Process,
    cri: Cri,
    cgroup: String,
}

/// A pod as kubelet knows it.
#[derive(Clone, Copy, Debug)]
pub struct PodSpec<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub annotations: &'a [(&'a str, &'a str)],
    /// As the API server has it; nothing: made of the name.
    pub uid: Option<&'a str>,
}

/// A sandbox that runs.
#[derive(Debug)]
pub struct Pod {
    pub id: String,
    /// As containerd tells kubelet.
    pub ip: Ipv4Addr,
    /// Held open as long as this value: drop it before asking what a stop has left.
    pub namespace: Namespace,
}

impl<'a> Containerd<'a> {
    /// Starts it with `configuration` as its one CNI configuration file. `netplane` and Debian's plugins
    /// are in its CNI_PATH.
    ///
    /// # Errors
    /// Something is not installed, or containerd does not come up: with the end of its log.
    pub fn start(lab: &'a Lab, configuration: &Value) -> Result<Self> {
        for tool in [CONTAINERD, RUNC, CTR, UNSHARE] {
            ensure!(tool.is_installed(), tool.explain(std::io::ErrorKind::NotFound.into()));
        }
        ensure!(
            Path::new(PLUGINS).join("bridge").is_file(),
            "no plugins in {PLUGINS}; remedy: apt-get install containernetworking-plugins"
        );
        let folder = lab.folder().join("containerd");
        for path in ["bin", "net.d", "image"] {
            std::fs::create_dir_all(folder.join(path))?;
        }
        for plugin in std::fs::read_dir(PLUGINS)? {
            let plugin = plugin?;
            std::os::unix::fs::symlink(plugin.path(), folder.join("bin").join(plugin.file_name()))?;
        }
        std::os::unix::fs::symlink(lab.binary(), folder.join("bin/netplane"))?;
        std::fs::write(folder.join("net.d/00-netplane.conf"), configuration.to_string())?;
        let cgroup = format!("netplane-{}", lab.name());
        std::fs::write(folder.join("config.toml"), daemon_configuration(&folder))?;
        let init = start_init(lab, &folder, &cgroup)?;
        let daemon = start_daemon(lab, &folder, init)?;
        let cri = connect(&folder, &daemon)?;
        let archive = image::make(&folder.join("image"))?;
        let mut import = inside(init, CTR.program);
        import.arg("--address").arg(socket(&folder));
        import.args(["--namespace", "k8s.io", "images", "import", "--snapshotter", "native"]).arg(archive);
        CTR.output(&mut import, "")?;
        Ok(Self { lab, folder, init, daemon, cri, cgroup })
    }

    /// `kill -9` of the daemon and a new one; sandboxes go on.
    ///
    /// # Errors
    /// The new one does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.kill(&self.daemon)?;
        self.daemon = start_daemon(self.lab, &self.folder, self.init)?;
        self.cri = connect(&self.folder, &self.daemon)?;
        Ok(())
    }

    /// RunPodSandbox, as kubelet does for a pod that was scheduled.
    ///
    /// # Errors
    /// containerd's or the plugin's.
    pub fn run(&self, pod: PodSpec<'_>) -> Result<Pod> {
        let id = self.run_sandbox(pod)?;
        let path = self.netns(&id)?;
        let status = self.cri.status(&id)?;
        let ip = status.status.and_then(|it| it.network).map(|it| it.ip).unwrap_or_default();
        let ip = ip.parse().with_context(|| format!("the pod's address is \"{ip}\""))?;
        Ok(Pod { id, ip, namespace: Namespace::open(pod.name, &path)? })
    }

    /// RunPodSandbox alone. Returns the sandbox's id.
    ///
    /// # Errors
    /// containerd's or the plugin's.
    pub fn run_sandbox(&self, pod: PodSpec<'_>) -> Result<String> {
        self.cri.run(self.sandbox_config(pod))
    }

    /// Starts a container without any privilege in a sandbox: it sleeps, and finds the node's programs where they
    /// are, the binary under test at `/netplane`, and folders of the node at other places. Returns its id.
    ///
    /// # Errors
    /// containerd's or runc's.
    pub fn run_container(
        &self,
        sandbox: &str,
        pod: PodSpec<'_>,
        folders: &[(&Path, &str)],
    ) -> Result<String> {
        let own = |host: &Path, at: &str| Mount {
            container_path: at.to_owned(),
            host_path: host.display().to_string(),
            ..Mount::default()
        };
        let libraries = ["/usr", "/lib", "/lib64"].map(|it| std::fs::canonicalize(it).map(|path| (path, it)));
        let mut mounts = vec![own(self.lab.binary(), "/netplane")];
        for (path, at) in libraries.into_iter().flatten() {
            mounts.push(Mount { readonly: true, ..own(&path, at) });
        }
        mounts.extend(folders.iter().map(|(host, at)| own(host, at)));
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "upf".to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: image::NAME.to_owned() }),
            mounts,
            linux: Some(LinuxContainer {
                security: Some(ContainerSecurity { no_new_privs: true, ..ContainerSecurity::default() }),
            }),
            ..ContainerConfig::default()
        };
        self.cri.run_container(sandbox, self.sandbox_config(pod), config)
    }

    /// As kubelet with the cgroupfs driver names it.
    fn sandbox_config(&self, pod: PodSpec<'_>) -> SandboxConfig {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let uid = pod.uid.map_or_else(|| format!("uid-of-{}", pod.name), str::to_owned);
        let cgroup_parent = format!("/{}/kubepods/besteffort/pod{uid}", self.cgroup);
        SandboxConfig {
            metadata: Some(Metadata {
                name: pod.name.to_owned(),
                uid,
                namespace: pod.namespace.to_owned(),
                attempt: 0,
            }),
            hostname: pod.name.to_owned(),
            annotations: pod.annotations.iter().map(own).collect::<HashMap<_, _>>(),
            linux: Some(LinuxConfig { cgroup_parent, security: None }),
            ..SandboxConfig::default()
        }
    }

    /// The folder of its CNI configurations.
    pub fn conf_dir(&self) -> PathBuf {
        self.folder.join("net.d")
    }

    /// The folder of its CNI plugins.
    pub fn bin_dir(&self) -> PathBuf {
        self.folder.join("bin")
    }

    /// The other calls of CRI.
    pub fn cri(&self) -> &Cri {
        &self.cri
    }

    /// The network namespace of a sandbox, as a path of the host.
    ///
    /// # Errors
    /// There is no such sandbox.
    pub fn netns(&self, id: &str) -> Result<PathBuf> {
        let status = self.cri.status(id)?;
        let info: Value = serde_json::from_str(status.info.get("info").context("no info of the sandbox")?)?;
        let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().context("no namespaces")?;
        let network = namespaces.iter().find(|it| it["type"] == "network").context("no network namespace")?;
        let path = network["path"].as_str().context("a path")?;
        // /var/run is a link to /run, which would be followed out of the mount namespace.
        let path = path.strip_prefix("/var").unwrap_or(path);
        Ok(PathBuf::from(format!("/proc/{}/root{path}", self.init)))
    }

    /// Names of the network namespaces that the runtime has made and not removed.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn namespaces(&self) -> Result<Vec<String>> {
        match std::fs::read_dir(format!("/proc/{}/root/run/netns", self.init)) {
            Ok(entries) => entries.map(|it| Ok(it?.file_name().to_string_lossy().into_owned())).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// A command where containerd and its plugins run.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        inside(self.init, program)
    }

    /// The agent, where containerd and its plugins run.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_agent(&self) -> Result<Process> {
        self.start_agent_with(&[])
    }

    /// As [`Containerd::start_agent`], with more arguments.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_agent_with(&self, more: &[&str]) -> Result<Process> {
        let mut command = self.command(self.lab.binary());
        command.arg("agent").args(self.lab.agent_arguments()).args(more);
        self.lab.spawn("agent", command)
    }

    /// `kill -9` of a program that [`Containerd::command`] has started: nsenter has forked it.
    ///
    /// # Errors
    /// It has ended by itself.
    pub fn kill(&self, process: &Process) -> Result<()> {
        let program = child_of(process.id())?;
        kill(Pid::from_raw(i32::try_from(program)?), Signal::SIGKILL).context("kill -9")?;
        wait_for("its end", PATIENCE, || process.status()).map(drop)
    }

    /// The end of its log, for messages.
    pub fn log_tail(&self) -> String {
        self.daemon.log_tail()
    }
}

/// The first process of the namespaces, which sets them up and takes in what loses its parent.
fn start_init(lab: &Lab, folder: &Path, cgroup: &str) -> Result<u32> {
    /// `$0` is the lab's /var/lib, `$1` where the agent's socket is, `$2` the file that says when all is set up.
    /// What is mounted on the host's /run/netns would be found before ours by those who read the list of mounts.
    const SCRIPT: &str = "mount --bind \"$0\" /var/lib || exit; while umount -l /run/netns 2>&-; do :; done; \
                          mount -t tmpfs none /run && mount --make-shared /run && mkdir /run/netns /run/netplane \
                          && mount --bind \"$1\" /run/netplane && : > \"$2\" && while :; do busybox sleep 3600; done";
    let ready = folder.join("ready");
    let mut command = lab.node.command(UNSHARE.program);
    command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["--", BUSYBOX.program, "sh", "-c", SCRIPT]).arg(lab.var_lib());
    command.arg(lab.folder().join("run")).arg(&ready);
    // Undone after the processes in them have ended.
    lab.undo.make(|| Ok(((), Undo::Cgroups(cgroup.to_owned()))))?;
    let process = lab.spawn("containerd-init", command)?;
    wait_for("containerd's namespaces", PATIENCE, || {
        ensure!(process.status()?.is_none(), "cannot set them up\n{}", process.log_tail());
        Ok(ready.exists().then_some(()))
    })?;
    child_of(process.id())
}

fn start_daemon(lab: &Lab, folder: &Path, init: u32) -> Result<Process> {
    let mut command = inside(init, CONTAINERD.program);
    command.arg("--config").arg(folder.join("config.toml"));
    lab.spawn("containerd", command)
}

fn connect(folder: &Path, daemon: &Process) -> Result<Cri> {
    wait_for("containerd", PATIENCE, || {
        ensure!(daemon.status()?.is_none(), "containerd has ended\n{}", daemon.log_tail());
        // Its socket is there before CRI is.
        Ok(Cri::connect(&socket(folder)).and_then(|cri| cri.list().map(|_| cri)).ok())
    })
    .with_context(|| daemon.log_tail())
}

/// A command in all namespaces of `init`.
fn inside(init: u32, program: impl AsRef<OsStr>) -> Command {
    let mut command = NSENTER.command();
    command.args(["--target", &init.to_string(), "--mount", "--net", "--pid", "--"]).arg(program);
    command
}

fn child_of(pid: u32) -> Result<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let child = children.split_whitespace().next().with_context(|| format!("{path} is empty"))?;
    child.parse().with_context(|| format!("{path}: {child}"))
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("containerd.sock")
}

/// Version 2 is what containerd 1.6 and later read.
fn daemon_configuration(folder: &Path) -> String {
    let folder = folder.display();
    let image = image::NAME;
    format!(
        r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.overlayfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt",
]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{folder}/bin"
    conf_dir = "{folder}/net.d"
"#
    )
}
