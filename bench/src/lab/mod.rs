//! A lab: a node with two masters, a gNB host and a data-network host, in network namespaces of their
//! own. Nothing of the host is touched, and all is removed when the lab is dropped, on a panic and, where
//! [`signals::Listener::clean_up_and_exit`] was called, on Ctrl-C.
//!
//! ```text
//!   gNB host               node                                  data-network host
//!   ┌───────────────┐      ┌──────────────────────────────┐      ┌────────────────────────┐
//!   │ ue0 (TUN)     │      │      ┌── pod ──────────┐     │      │ lo 10.50.0.1           │
//!   │ 10.60.0.0/16  │      │      │ eth0  net1 net2 │     │      │                        │
//!   │ n3 10.30.0.10─┼──────┼─ n3 ─┼────────┘   └────┼─ n6 ┼──────┼─n6 10.40.0.1           │
//!   └───────────────┘ veth │      └─────────────────┘     │ veth └────────────────────────┘
//!                          │ mgmt (goes nowhere)          │
//!                          └──────────────────────────────┘
//! ```

pub mod cgroup;
pub mod command;

pub(crate) mod undo;

pub mod signals;

pub mod namespace;

pub mod pair;

pub mod process;

pub mod cni;

pub mod apiserver;

pub mod containerd;

pub mod nads;

pub mod endpoint;

pub mod gtp;

pub mod users;

pub mod capture;

pub mod checksums;

pub mod tshark;

pub mod wires;

pub mod upf_pod;

pub mod polled;

pub mod traffic;

#[cfg(test)]
mod tests;

pub use namespace::Namespace;
pub use process::Process;

use anyhow::{Context, Result, bail, ensure};
use command::UNSHARE;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use undo::{Undo, UndoStack};

/// The gNB host's address on N3.
pub const GNB: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 10);
/// The data-network host's address on N6: the gateway of the pods.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 40, 0, 1);
/// The server in the data network, behind the gateway.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 1);

/// Bytes of IP packet on the masters' wires, as everywhere on Ethernet.
pub const MTU: u16 = 1500;
/// Bytes of the users' largest IP packet: what the tunnel's headers leave of [`MTU`], that is less IPv4
/// (20), UDP (8), GTP-U (8), its optional fields (4) and the PDU Session Container (4).
pub const UE_MTU: u16 = MTU - 44;

/// A lab that stands.
#[derive(Debug)]
pub struct Lab {
    // Namespaces are closed before the folder goes: fields drop in this order, after `Drop`.
    pub gnb: Namespace,
    pub node: Namespace,
    pub dn: Namespace,
    /// The pod's sandbox, empty until the plugin attaches it.
    pub pod: Namespace,
    folder: PathBuf,
    netplane: PathBuf,
    undo: UndoStack,
}

impl Lab {
    /// Builds the lab. `netplane` is the binary under test.
    ///
    /// # Errors
    /// Not root, a tool is missing, or the kernel refuses something; nothing is left then.
    pub fn new(netplane: &Path) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the lab makes network namespaces and loads BPF programs: run it as root"
        );
        ensure!(netplane.is_file(), "{} is not a file: build netplane first", netplane.display());
        let undo = UndoStack::new();
        // If anything fails from here on, this undoes what has been made.
        let guard = UndoGuard(Some(undo.clone()));
        let lab = Self::build(netplane.to_owned(), undo)?;
        guard.disarm();
        Ok(lab)
    }

    fn build(netplane: PathBuf, undo: UndoStack) -> Result<Self> {
        let prefix = prefix();
        let folder = undo.make(|| {
            let folder =
                tempfile::Builder::new().prefix(&format!("netplane-lab-{prefix}-")).tempdir()?.keep();
            Ok((folder.clone(), Undo::Directory(folder)))
        })?;
        let bpffs = folder.join("bpf");
        for path in ["bpf", "nads", "run", "var-lib/netplane/attachments", "var-lib/cni"] {
            std::fs::create_dir_all(folder.join(path))?;
        }
        undo.make(|| {
            let none = None::<&str>;
            nix::mount::mount(Some("bpf"), &bpffs, Some("bpf"), nix::mount::MsFlags::empty(), none)
                .with_context(|| format!("mount a BPF file system on {}", bpffs.display()))?;
            Ok(((), Undo::Mount(bpffs.clone())))
        })?;
        let namespace = |role: &str| Namespace::create(format!("{prefix}-{role}"), &undo);
        let (gnb, node) = (namespace("gnb")?, namespace("node")?);
        let (dn, pod) = (namespace("dn")?, namespace("upf")?);
        let lab = Self { gnb, node, dn, pod, folder, netplane, undo };
        lab.wire(&lab.gnb, "n3", &format!("{GNB}/24"))?;
        lab.wire(&lab.dn, "n6", &format!("{GATEWAY}/24"))?;
        lab.dn.ip(&format!("address add {SERVER}/32 dev lo"))?;
        // With both ends on the node: not every kernel has dummy interfaces.
        lab.node
            .ip("link add mgmt type veth peer name mgmt-peer\nlink set mgmt up\nlink set mgmt-peer up")?;
        Ok(lab)
    }

    /// A veth pair of one name: its one end on the node is a master, the other end is the host's.
    fn wire(&self, host: &Namespace, interface: &str, address: &str) -> Result<()> {
        let host_name = host.name();
        self.node.ip(&format!(
            "link add {interface} mtu {MTU} type veth peer name {interface} mtu {MTU} netns {host_name}\n\
             link set {interface} up"
        ))?;
        host.ip(&format!("address add {address} dev {interface}\nlink set {interface} up"))?;
        for end in [&self.node, host] {
            as_on_a_wire(end, interface)?;
        }
        // XDP redirects into a veth only when its peer polls (NAPI), which GRO switches on; else the
        // kernel drops the frames silently.
        host.ethtool(interface, &["gro", "on"])
    }

    /// A master that was removed is there again, as it was at first: new devices with the same names and, on the
    /// host's end, the same address.
    ///
    /// # Errors
    /// The kernel refuses; or it is neither `n3` nor `n6`.
    pub fn wire_again(&self, master: &str) -> Result<()> {
        match master {
            "n3" => self.wire(&self.gnb, "n3", &format!("{GNB}/24")),
            "n6" => self.wire(&self.dn, "n6", &format!("{GATEWAY}/24")),
            other => bail!("the lab has no master {other}"),
        }
    }

    /// Another network namespace, for one more pod; it goes with the lab.
    ///
    /// # Errors
    /// The kernel refuses, or the lab has one of this role.
    pub fn namespace(&self, role: &str) -> Result<Namespace> {
        Namespace::create(format!("{}-{role}", self.name()), &self.undo)
    }

    /// The lab's folder: NADs, records, logs, captures.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where NADs are put.
    pub fn nad_dir(&self) -> PathBuf {
        self.folder.join("nads")
    }

    /// What the plugin sees as /var/lib: records and reserved addresses are below it.
    pub fn var_lib(&self) -> PathBuf {
        self.folder.join("var-lib")
    }

    pub fn record_dir(&self) -> PathBuf {
        self.var_lib().join("netplane/attachments")
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("run/agent.sock")
    }

    /// The folder of the agent's socket for sessions, which pods mount.
    pub fn session_folder(&self) -> PathBuf {
        self.folder.join("run/sessions")
    }

    /// Where the agent pins; the BPF file system is mounted one level above.
    pub fn bpffs(&self) -> PathBuf {
        self.folder.join("bpf/netplane")
    }

    /// Unique on this machine while the lab stands.
    pub fn name(&self) -> &str {
        self.node.name().trim_end_matches("-node")
    }

    /// The binary under test.
    pub fn binary(&self) -> &Path {
        &self.netplane
    }

    /// The binary under test, as a command in the node's namespace.
    pub fn netplane(&self) -> Command {
        self.node.command(&self.netplane)
    }

    /// The binary under test as the runtime calls it as a plugin: in the node's namespace, and in a mount
    /// namespace where /var/lib is the lab's, so that NADs work as they are (host-local keeps its
    /// addresses in /var/lib/cni unless a NAD says otherwise) and no address is taken from the host's.
    pub fn plugin(&self) -> Result<Command> {
        if !UNSHARE.is_installed() {
            return Err(UNSHARE.explain(std::io::ErrorKind::NotFound.into()));
        }
        let mut command = self.node.command(UNSHARE.program);
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c"]);
        command.arg("mount --bind \"$0\" /var/lib && exec \"$@\"");
        command.arg(self.var_lib()).arg(&self.netplane);
        Ok(command)
    }

    /// Starts the agent in the node's namespace. Its log is in the lab's folder.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_agent(&self) -> Result<Process> {
        self.start_agent_with(&[])
    }

    /// As [`Lab::start_agent`], with more arguments.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_agent_with(&self, more: &[&str]) -> Result<Process> {
        let mut command = self.netplane();
        command.arg("agent").args(self.agent_arguments()).args(more);
        self.spawn("agent", command)
    }

    /// As [`Lab::start_agent`], run by another program, such as strace.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_agent_under(&self, under: &[&str]) -> Result<Process> {
        let (program, arguments) = under.split_first().context("no program")?;
        let mut command = self.node.command(program);
        command.args(arguments).arg(&self.netplane).arg("agent").args(self.agent_arguments());
        self.spawn("agent", command)
    }

    /// Takes the fast path off: `netplane agent --detach` removes programs, links and maps.
    ///
    /// # Errors
    /// It fails.
    pub fn detach_agent(&self) -> Result<()> {
        let mut command = self.netplane();
        command.arg("agent").args(self.agent_arguments()).arg("--detach");
        command::NSENTER.output(&mut command, "")?;
        Ok(())
    }

    fn agent_arguments(&self) -> Vec<std::ffi::OsString> {
        let paths = [
            ("--nad-dir", self.nad_dir()),
            ("--record-dir", self.record_dir()),
            ("--socket", self.socket()),
            ("--bpffs", self.bpffs()),
        ];
        paths.into_iter().flat_map(|(flag, path)| [flag.into(), path.into()]).collect()
    }

    /// What `netplane status --json` says.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn status(&self) -> Result<serde_json::Value> {
        let mut command = self.netplane();
        command.args(["status", "--json", "--socket"]).arg(self.socket());
        let text = command::NSENTER.output(&mut command, "")?;
        serde_json::from_str(&text).context("netplane status --json")
    }

    /// Starts a process that is killed with the lab, with its output in the lab's folder.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        Process::spawn(name, command, &self.folder.join(format!("{name}.log")), &self.undo)
    }

    /// Copies NAD files to where netplane looks for them, as `kubectl apply -f` would put them into a
    /// cluster.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn apply(&self, files: &[PathBuf]) -> Result<()> {
        for file in files {
            let name = file.file_name().with_context(|| format!("{} is not a file", file.display()))?;
            let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
            self.write_nad(&name.to_string_lossy(), &text)?;
        }
        Ok(())
    }

    /// Puts a NAD in place in one step, so that no reader sees half a file.
    ///
    /// # Errors
    /// The folder is gone or full.
    pub fn write_nad(&self, name: &str, text: &[u8]) -> Result<()> {
        let partial = self.folder.join("nad.partial");
        std::fs::write(&partial, text)?;
        std::fs::rename(&partial, self.nad_dir().join(name)).with_context(|| format!("write NAD {name}"))
    }

    /// Commands by which a person looks around in the lab.
    pub fn look_around(&self) -> String {
        let [gnb, node, dn, pod] =
            [&self.gnb, &self.node, &self.dn, &self.pod].map(|it| it.path().display().to_string());
        let (netplane, socket, folder) =
            (self.netplane.display(), self.socket().display().to_string(), self.folder.display());
        let user = users::users(1)[0].ue;
        format!(
            "  nsenter --net={gnb} busybox ping -I {user} {SERVER}   a user, behind the gNB\n\
             \x20 nsenter --net={gnb} tcpdump -nvi n3                        N3, as the gNB sees it\n\
             \x20 nsenter --net={dn} tcpdump -nvi n6                         N6, as the data network sees it\n\
             \x20 nsenter --net={pod} ip -s address                         the pod\n\
             \x20 nsenter --net={node} ip -d link show n3                   a master, with its XDP program\n\
             \x20 {netplane} status --socket {socket}\n\
             \x20 {folder}   NADs, records, addresses, the agent's log, captures"
        )
    }

    /// Removes everything now, and says if something could not be removed.
    ///
    /// # Errors
    /// What is left, one line each.
    pub fn remove(self) -> Result<()> {
        let problems = self.undo.run();
        if !problems.is_empty() {
            bail!("the lab could not be removed entirely:\n{}", problems.join("\n"));
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Whoever wants to know what could not be removed calls `remove`.
        let _problems = self.undo.run();
    }
}

/// Frames as on a real wire. A veth passes skbs on as they are: with these offloads on, a native XDP program
/// would see unfinished checksums (CHECKSUM_PARTIAL) and segments larger than the MTU, and so would a capture.
fn as_on_a_wire(end: &Namespace, interface: &str) -> Result<()> {
    end.ethtool(interface, &["tx", "off", "tso", "off", "gso", "off", "sg", "off"])
}

/// Undoes on drop unless disarmed.
struct UndoGuard(Option<UndoStack>);

impl UndoGuard {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for UndoGuard {
    fn drop(&mut self) {
        if let Some(undo) = &self.0 {
            let _problems = undo.run();
        }
    }
}

/// Unique on this machine while this process lives: tests in one process have labs side by side.
fn prefix() -> String {
    static LABS: AtomicU32 = AtomicU32::new(0);
    let lab = LABS.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    if lab == 0 { format!("np{pid}") } else { format!("np{pid}.{lab}") }
}

/// Asks `probe` until it has an answer. `Err` from the probe ends it at once.
///
/// # Errors
/// The probe's, or that it had no answer within `limit`, naming `what`.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    // In a guest without KVM (`cargo xtask vm`) all takes longer, the verifier above all.
    let limit = if std::env::var_os("NETPLANE_GUEST").is_some() { 10 * limit } else { limit };
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
