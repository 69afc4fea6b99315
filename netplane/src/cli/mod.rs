//! What a person calls: arguments in, text or JSON out.

mod agent;
mod install;
mod lint;
mod of_network;
mod session;
mod status;
mod top;
mod trace;

use crate::cluster::Access;
use clap::{Args, Parser, Subcommand};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Secondary networks for pods, and GTP-U without NAT. With CNI_COMMAND set: a CNI plugin.
#[derive(Parser)]
#[command(version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the node agent.
    Agent(AgentArguments),
    /// Put plugin, kubeconfig and configuration on a node and keep them current, as Multus's thin entrypoint.
    Install(Box<install::InstallArguments>),
    /// Show what the agent forwards, and what is wrong.
    Status(StatusArguments),
    /// Show networks, endpoints and the busiest sessions as they change.
    Top(TopArguments),
    /// Tell which entry, which next hop and which verdict a packet would get.
    Trace(TraceArguments),
    /// Program sessions, as a UPF does.
    Session(session::SessionArguments),
    /// Check files with NADs, pods and what makes pods, and CNI configurations, before they are applied.
    Lint {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Fail for warnings, too: what Multus passes over in silence, and `strictSelections` refuses.
        #[arg(long)]
        strict: bool,
    },
}

#[derive(Args)]
struct AgentArguments {
    /// NADs: the files that one would `kubectl apply`.
    #[arg(long, default_value = "/etc/netplane/nads")]
    nad_dir: PathBuf,
    /// Attachment records; the `cniDir` of the plugin's configuration.
    #[arg(long, default_value = crate::attach::record::DEFAULT_RECORD_DIR)]
    record_dir: PathBuf,
    /// Where the runtime keeps pods' network namespaces: pods of the cluster that something else than netplane
    /// has attached are looked for there.
    #[arg(long, default_value = "/run/netns")]
    netns_dir: PathBuf,
    #[arg(long, default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Where pods program sessions: in a folder of its own, which is mounted into them. If not given, it is
    /// `sessions/sessions.sock` beside the other socket.
    #[arg(long)]
    session_socket: Option<PathBuf>,
    /// Sessions that fit into the tables, of all pods together.
    #[arg(long, value_name = "NUMBER", default_value_t = crate::dataplane::DEFAULT_SESSIONS)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    max_sessions: u32,
    /// Filters of sessions with rules that fit into the tables, and as many meters and usages.
    #[arg(long, value_name = "NUMBER", default_value_t = crate::dataplane::DEFAULT_RULES)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    max_rules: u32,
    /// Sessions that one pod may have through the session API; all that fit, if not given.
    #[arg(long, value_name = "NUMBER")]
    max_sessions_per_pod: Option<u32>,
    /// Packets that are kept for one session whose FARs buffer (BUFF).
    #[arg(long, value_name = "NUMBER", default_value_t = 256)]
    max_buffered_packets: usize,
    /// Memory for packets that are kept, of all sessions together.
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    max_buffered_mib: usize,
    /// Answer `GET /metrics` on TCP, too: without TLS, to everybody who gets there.
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// Series for each of this many sessions at most, besides those for endpoints.
    #[arg(long, value_name = "MOST")]
    metrics_sessions: Option<usize>,
    /// Follow a cluster's pods and NADs: a kubeconfig file, or `in-cluster` for the pod's service account.
    #[arg(long, value_name = "FILE|in-cluster")]
    kubeconfig: Option<Access>,
    /// The pods' `spec.nodeName` here; the host's name in lower case, if not given.
    #[arg(long, env = "NODE_NAME")]
    node_name: Option<String>,
    /// Seconds that a pod may run without the networks that it selects before that is said on it.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    unattached_after: u64,
    /// Folder of the pins, on a BPF file system; one is mounted if there is none.
    #[arg(long, default_value = "/sys/fs/bpf/netplane")]
    bpffs: PathBuf,
    /// Remove programs, maps and pins, and exit: nothing is forwarded any more.
    #[arg(long)]
    detach: bool,
    /// error, warn, info, debug, trace, or a filter as in RUST_LOG.
    #[arg(long, default_value = "info")]
    log_level: String,
}

#[derive(Args)]
struct StatusArguments {
    #[arg(long, default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Everything, for a program.
    #[arg(long)]
    json: bool,
    /// Only what concerns this network: NAMESPACE/NAME of a NAD.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    network: Option<String>,
}

#[derive(Args)]
struct TopArguments {
    #[arg(long, default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    interval: f64,
}

#[derive(Args)]
struct TraceArguments {
    /// An uplink G-PDU of this tunnel, and what its session sends to the user.
    #[arg(long, value_parser = trace::teid)]
    teid: Option<u32>,
    /// Packets to this user; with --teid: from it, in place of the session's own.
    #[arg(long, value_name = "ADDRESS")]
    ue: Option<std::net::IpAddr>,
    /// The user's correspondent.
    #[arg(long, value_name = "ADDRESS")]
    to: Option<std::net::IpAddr>,
    #[arg(long, default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    let range = 0.2..=3600.0;
    let seconds = text.parse::<f64>().ok().filter(|it| range.contains(it));
    seconds.ok_or_else(|| "should be seconds from 0.2 to 3600".to_owned())
}

const DEFAULT_SOCKET: &str = "/run/netplane/agent.sock";

/// Logs go to stderr: stdout is the CNI protocol's, and `--json`'s. `RUST_LOG` overrides `default`.
pub fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_ansi(colours).with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Runs the command line.
#[expect(clippy::print_stderr, reason = "the error is for the person who called")]
pub fn run() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Agent(arguments) => agent::run(&arguments),
        Command::Install(arguments) => install::run(*arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Trace(arguments) => trace::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Session(arguments) => session::run(arguments),
        Command::Lint { files, strict } => lint::run(&files, strict),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netplane: {error:#}");
            ExitCode::FAILURE
        }
    }
}
