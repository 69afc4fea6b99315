//! The agent's metrics: what happened goes in, OpenMetrics text comes out at `GET /metrics`, with what the loop
//! knows at that moment; and whether it is well at `GET /healthz` and `/readyz`. Without TLS and without questions
//! who asks; on TCP nothing but this is answered.

use super::limit::Limited;
use super::{AgentError, Event};
use crate::cluster::cache::{PodEvent, REASONS};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Of OpenMetrics 1.0; Prometheus asks for it, too.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is asked of the API server.
const WATCHES: [&str; 3] = ["pods", "networks", "reports"];

/// A plugin of another version may know reasons that the agent does not.
const OTHER: &str = "other";

/// How long the loop may take for an answer: a reconcile of very many sessions takes seconds.
const PATIENCE: Duration = Duration::from_secs(8);

/// Upper bounds in seconds: 5 ms to 10 s for attaching, 1 ms to 8 s for a reconcile.
fn of_attaching() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.0, 12))
}

fn of_reconciles() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 14))
}

type Reason = [(&'static str, &'static str); 1];

/// All counters, from zero with each start of the agent.
pub(super) struct Metrics {
    registry: Registry,
    attach_events: Family<Reason, Counter>,
    statuses: Counter,
    unattached: Gauge,
    attaching: Family<Reason, Histogram, fn() -> Histogram>,
    reconciles: Histogram,
    failed_operations: Counter,
    api_errors: Family<Reason, Counter>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("netplane");
        let attach_events = Family::<Reason, Counter>::default();
        // There from the start: a rate needs the zero before the first one.
        for reason in REASONS {
            drop(attach_events.get_or_create(&[("reason", reason)]));
        }
        let help = "Events on pods that the plugin reported, by reason";
        registry.register("attach_events", help, attach_events.clone());
        let statuses = Counter::default();
        let help = "Times that the agent wrote a pod's network-status";
        registry.register("network_status_written", help, statuses.clone());
        let unattached = Gauge::default();
        let help = "Pods of this node that run without the networks that they select";
        registry.register("unattached_pods", help, unattached.clone());
        let attaching = Family::<Reason, Histogram, fn() -> Histogram>::new_with_constructor(of_attaching);
        let help = "Seconds that the plugin took for an ADD, as it reported";
        registry.register("attach_duration_seconds", help, attaching.clone());
        let reconciles = of_reconciles();
        let help = "Seconds from the agent's facts to the kernel's tables";
        registry.register("reconcile_duration_seconds", help, reconciles.clone());
        let failed_operations = Counter::default();
        let help = "Operations on tables and masters that the kernel refused";
        registry.register("operations_failed", help, failed_operations.clone());
        let api_errors = Family::<Reason, Counter>::default();
        for what in WATCHES {
            drop(api_errors.get_or_create(&[("what", what)]));
        }
        let help = "Times that a watch failed, or a report could not be written at once";
        registry.register("api_errors", help, api_errors.clone());
        Self {
            registry,
            attach_events,
            statuses,
            unattached,
            attaching,
            reconciles,
            failed_operations,
            api_errors,
        }
    }

    /// An ADD has taken so long.
    pub(super) fn attached(&self, took: Duration, ok: bool) {
        let result = if ok { "attached" } else { "failed" };
        self.attaching.get_or_create(&[("result", result)]).observe(took.as_secs_f64());
    }

    /// A reconcile has ended.
    pub(super) fn reconciled(&self, took: Duration, failed: usize) {
        self.reconciles.observe(took.as_secs_f64());
        self.failed_operations.inc_by(failed as u64);
    }

    /// A request of this kind has failed.
    pub(super) fn api_error(&self, what: &'static str) {
        self.api_errors.get_or_create(&[("what", what)]).inc();
    }

    /// Events of a report.
    pub(super) fn events(&self, events: &[PodEvent]) {
        for event in events {
            let reason = REASONS.into_iter().find(|it| *it == event.reason).unwrap_or(OTHER);
            self.attach_events.get_or_create(&[("reason", reason)]).inc();
        }
    }

    /// So many pods run without their networks now.
    pub(super) fn unattached(&self, pods: usize) {
        self.unattached.set(i64::try_from(pods).unwrap_or(i64::MAX));
    }

    /// A `network-status` is in the cluster.
    pub(super) fn status_written(&self) {
        self.statuses.inc();
    }
}

/// What a scrape needs: what has been counted, and the way to the loop.
type Sources = (Arc<Metrics>, mpsc::UnboundedSender<Event>);

/// Answers to `GET /metrics`, `/healthz` and `/readyz`.
pub(super) fn router(metrics: Arc<Metrics>, events: mpsc::UnboundedSender<Event>) -> Router {
    let router = Router::new().route("/metrics", get(scrape));
    router.route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state((metrics, events))
}

/// Listens on TCP.
pub(super) fn bind(address: SocketAddr) -> Result<TcpListener, AgentError> {
    let failed =
        |source: io::Error| AgentError::Io { operation: format!("listen on {address} (--metrics)"), source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Answers for ever, if there is a listener.
pub(super) async fn serve(
    listener: Option<TcpListener>,
    metrics: Arc<Metrics>,
    events: mpsc::UnboundedSender<Event>,
) {
    let Some(listener) = listener else { return };
    let served = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => axum::serve(Limited::new(listener), router(metrics, events)).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!(%error, "metrics cannot be had over TCP any more");
    }
}

/// Asks the loop.
async fn ask<T>(sources: &Sources, question: impl FnOnce(oneshot::Sender<T>) -> Event) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    sources.1.send(question(reply)).ok()?;
    tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()
}

/// Without the loop's part where it does not answer in time: `netplane_ready` is absent then.
async fn scrape(State(sources): State<Sources>) -> Result<impl IntoResponse, StatusCode> {
    let of_loop = ask(&sources, Event::Scrape).await;
    let mut text = String::new();
    let encoded = encode_registry(&mut text, &sources.0.registry)
        .and_then(|()| of_loop.map_or(Ok(()), |it| encode_registry(&mut text, &it)))
        .and_then(|()| encode_registry(&mut text, &of_process()))
        .and_then(|()| encode_eof(&mut text));
    encoded.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, TEXT)], text))
}

/// 200 as long as the loop turns.
async fn healthz(State(sources): State<Sources>) -> (StatusCode, &'static str) {
    match ask(&sources, Event::Health).await {
        Some(_) => (StatusCode::OK, "ok\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the agent's loop does not answer\n"),
    }
}

/// 200 when every source has spoken.
async fn readyz(State(sources): State<Sources>) -> (StatusCode, &'static str) {
    match ask(&sources, Event::Health).await {
        Some(true) => (StatusCode::OK, "ok\n"),
        Some(false) => (StatusCode::SERVICE_UNAVAILABLE, "still learning what is on this node\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the agent's loop does not answer\n"),
    }
}

/// Of this process, under the names that every exporter has.
fn of_process() -> Registry {
    let mut registry = Registry::with_prefix("process");
    if let Some((memory, seconds)) = resources() {
        let help = "Resident memory, without what the kernel keeps in maps";
        registry.register("resident_memory_bytes", help, ConstGauge::new(memory));
        let cpu = Counter::<f64, AtomicU64>::default();
        cpu.inc_by(seconds);
        registry.register("cpu_seconds", "User and system time", cpu);
    }
    registry
}

/// Resident bytes and seconds of CPU: proc(5), /proc/pid/stat, fields 24, 14 and 15.
fn resources() -> Option<(i64, f64)> {
    /// What the kernel shows ticks in, on every architecture.
    const TICKS: f64 = 100.0;
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u32>().ok();
    let page = i64::try_from(rustix::param::page_size()).ok()?;
    Some((i64::from(field(24)?) * page, f64::from(field(14)?.wrapping_add(field(15)?)) / TICKS))
}
