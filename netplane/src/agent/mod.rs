//! The node agent: tasks, sockets, start, stop, hand-over. The only place that spawns.
//!
//! Facts come in over one channel, the world is compiled, the difference goes to the kernel. The loop is
//! the only one that touches the world and the kernel.

mod beside;
mod core;
mod front;
mod ground;
mod limit;
mod lock;
mod lost;
mod memory;
mod metrics;
mod observers;
mod probe;
mod reports;
mod scrape;
mod sessions;
mod socket;
pub mod status;
pub mod top;
mod totals;
pub mod trace;
mod unattached;

pub use lock::LockError;

use self::core::{BufferLimits, Core};
use crate::dataplane::{Kernel, KernelError};
use crate::netlink::netns::{Netns, NetnsError};
use crate::sources;
use crate::sources::cluster::Place;
use crate::sources::{Fact, Stop};
use lock::Lock;
use metrics::Metrics;
use observers::Observers;
use probe::Probe;
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// Where the agent finds and puts things.
#[derive(Clone, Debug)]
pub struct Options {
    pub nad_dir: PathBuf,
    pub record_dir: PathBuf,
    /// Where the runtime keeps pods' network namespaces.
    pub netns_dir: PathBuf,
    pub socket: PathBuf,
    /// Where pods program sessions.
    pub session_socket: PathBuf,
    /// Sessions that one pod may have.
    pub sessions_per_pod: u32,
    /// Packets that are kept for one session, and bytes of frames in all.
    pub buffered_packets: usize,
    pub buffered_bytes: usize,
    /// Where metrics can be had over TCP, besides the socket.
    pub metrics: Option<SocketAddr>,
    /// How many sessions have series of their own there; absent: none.
    pub metrics_sessions: Option<usize>,
    /// The cluster to follow, if any.
    pub cluster: Option<Place>,
    /// How long a pod may run without the networks that it selects before that is said.
    pub unattached_after: Duration,
}

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("cannot {operation}")]
    Io { operation: String, source: std::io::Error },
}

/// What the loop waits for.
pub(crate) enum Event {
    Fact(Fact),
    Status(oneshot::Sender<status::Status>),
    Top(oneshot::Sender<top::Top>),
    Trace(trace::Query, oneshot::Sender<Result<Vec<trace::Traced>, String>>),
    /// Metrics of what the loop knows.
    Scrape(oneshot::Sender<Registry>),
    /// Whether the agent is ready; no answer: the loop stands still.
    Health(oneshot::Sender<bool>),
    Sessions(Box<sessions::Call>),
}

/// Facts that come in within this time are one reconcile.
const COALESCE: Duration = Duration::from_millis(10);
/// Unresolved neighbours and failed operations are looked after this often.
const TICK: Duration = Duration::from_secs(1);
/// Session entries settle when no call has come for so long.
const QUIET: Duration = Duration::from_millis(50);
/// The packet programs' events are looked for this often: a flood of them is answered in turns.
const POLL: Duration = Duration::from_millis(100);

/// Runs until SIGTERM or SIGINT. What is in the kernel stays there and goes on forwarding.
///
/// # Errors
/// Another agent runs, or something that it needs cannot be had.
pub fn run<K: Kernel>(
    options: &Options,
    kernel: impl FnOnce() -> Result<K, KernelError>,
) -> Result<(), AgentError> {
    let io = |operation: &str| {
        let operation = operation.to_owned();
        move |source| AgentError::Io { operation, source }
    };
    memory::share();
    let _lock = Lock::take(&options.socket)?;
    let kernel = kernel()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(io("start the runtime"))?;
    let result = runtime.block_on(serve(options, kernel));
    let _ = std::fs::remove_file(&options.socket);
    let _ = std::fs::remove_file(&options.session_socket);
    result
}

async fn serve<K: Kernel>(options: &Options, kernel: K) -> Result<(), AgentError> {
    let io = |operation: &str| {
        let operation = operation.to_owned();
        move |source| AgentError::Io { operation, source }
    };
    let (send, events) = mpsc::unbounded_channel();
    let mut terminate = signal(SignalKind::terminate()).map_err(io("listen to SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io("listen to SIGINT"))?;
    let stop = Stop::default();
    let to_loop = send.clone();
    let facts: sources::Send = Arc::new(move |fact| to_loop.send(Event::Fact(fact)).is_ok());
    sessions::start(&options.session_socket, send.clone())?;
    let metrics = Arc::new(Metrics::new());
    front::start(options, send, facts.clone(), metrics.clone())?;
    start_sources(options, &facts, &stop)?;
    let observers = Observers::new(facts, options, &stop)?;
    let mut core = Core::new(kernel, observers, options.cluster.is_some(), metrics)?;
    core.probe = Probe::start(&stop)?;
    core.most_session_series = options.metrics_sessions;
    let buffers = BufferLimits { per_session: options.buffered_packets, bytes: options.buffered_bytes };
    core.take_over_sessions(&journal(&options.socket), options.sessions_per_pod, buffers)?;
    // The kernel's and the programs' types have been read.
    memory::give_back();
    tokio::select! {
        () = run_loop(&mut core, events) => {}
        _ = terminate.recv() => tracing::info!("SIGTERM: the data plane goes on without me"),
        _ = interrupt.recv() => tracing::info!("SIGINT: the data plane goes on without me"),
    }
    core.end();
    stop.stop();
    Ok(())
}

fn start_sources(options: &Options, facts: &sources::Send, stop: &Stop) -> Result<(), AgentError> {
    let (nads, records) = (options.nad_dir.clone(), options.record_dir.clone());
    let (send, until) = (facts.clone(), stop.clone());
    let optional = options.cluster.is_some();
    start_thread("files", move || sources::files::run(&nads, optional, &records, &send, &until))?;
    let own = Netns::current()?;
    let (send, until) = (facts.clone(), stop.clone());
    start_thread("links", move || {
        if let Err(error) = sources::links::run(&own, &send, &until) {
            tracing::error!(error, "the node's links cannot be watched");
        }
    })
}

/// Starts a thread for a source.
pub(crate) fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), AgentError> {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    started
        .map(drop)
        .map_err(|source| AgentError::Io { operation: format!("start the thread {name}"), source })
}

/// Where sessions are written down for the next agent, beside the socket: gone after a reboot, as the pins.
pub fn journal(socket: &Path) -> PathBuf {
    socket.with_file_name("sessions.journal")
}

#[expect(unsafe_code, reason = "tokio has no other way to wait for a descriptor")]
fn readable(fd: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open for as long as it is there, and nobody replaces this one.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.ok()
}

async fn run_loop<K: Kernel>(core: &mut Core<K>, mut events: mpsc::UnboundedReceiver<Event>) {
    let mut tick = tokio::time::interval(TICK);
    let mut poll = tokio::time::interval(POLL);
    // When the news of the world are acted upon: what comes in until then belongs to the same reconcile. A call of
    // the session API does not wait for that.
    let mut due: Option<tokio::time::Instant> = None;
    // Packets to be kept do not wait for the poll either.
    let mut packets: Option<AsyncFd<OwnedFd>> = None;
    // What the kernel is waited for before session entries are found by an index.
    let mut grace: Option<tokio::task::JoinHandle<()>> = None;
    let (mut called, mut settled) = (Instant::now(), Instant::now());
    loop {
        if packets.is_none() {
            packets = core.wakes().and_then(readable);
        }
        let woken = async {
            match &packets {
                Some(it) => it.readable().await.map(|mut it| it.clear_ready()),
                None => std::future::pending().await,
            }
        };
        let wait = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // A load goes before; but what changes all the time settles as well.
        let is_quiet = called.elapsed() >= QUIET || settled.elapsed() >= TICK;
        if grace.is_none() && is_quiet && core.begin_to_settle() {
            grace = Some(tokio::task::spawn_blocking(crate::dataplane::grace));
        }
        let over = async {
            match &mut grace {
                Some(it) => drop(it.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { return };
                if matches!(event, Event::Sessions(_)) {
                    called = Instant::now();
                }
                if handle(core, event) {
                    due = due.or_else(|| Some(tokio::time::Instant::now() + COALESCE));
                }
            }
            () = wait => {
                due = None;
                core.reconcile();
                core.buffer();
            }
            _ = woken => core.buffer(),
            () = over => {
                grace = None;
                core.settle();
                settled = Instant::now();
            }
            _ = poll.tick() => core.drain_events(),
            _ = tick.tick() => core.tick(),
        }
    }
}

/// Whether the world may be another now. A client that has gone does not want to know any more.
fn handle<K: Kernel>(core: &mut Core<K>, event: Event) -> bool {
    match event {
        Event::Fact(fact) => return core.fact(fact),
        Event::Sessions(call) => core.call(*call),
        Event::Status(reply) => drop(reply.send(core.status())),
        Event::Trace(query, reply) => drop(reply.send(core.trace(&query))),
        Event::Top(reply) => drop(reply.send(core.top())),
        Event::Scrape(reply) => drop(reply.send(core.scrape())),
        Event::Health(reply) => drop(reply.send(core.is_ready())),
    }
    false
}
