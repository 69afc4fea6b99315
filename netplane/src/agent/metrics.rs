//! The agent's metrics: what happened goes in, OpenMetrics text comes out at `GET /metrics`. Without TLS and
//! without questions who asks; on TCP nothing but this is answered.

use super::AgentError;
use crate::cluster::cache::{PodEvent, REASONS};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

/// Of OpenMetrics 1.0; Prometheus asks for it, too.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A plugin of another version may know reasons that the agent does not.
const OTHER: &str = "other";

type Reason = [(&'static str, &'static str); 1];

/// All counters, from zero with each start of the agent.
pub(super) struct Metrics {
    registry: Registry,
    attach_events: Family<Reason, Counter>,
    statuses: Counter,
    unattached: Gauge,
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
        Self { registry, attach_events, statuses, unattached }
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

/// Answers to `GET /metrics`.
pub(super) fn router(metrics: Arc<Metrics>) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state(metrics)
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
pub(super) async fn serve(listener: Option<TcpListener>, metrics: Arc<Metrics>) {
    let Some(listener) = listener else { return };
    let served = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => axum::serve(listener, router(metrics)).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!(%error, "metrics cannot be had over TCP any more");
    }
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> Result<impl IntoResponse, StatusCode> {
    let mut text = String::new();
    encode(&mut text, &metrics.registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, TEXT)], text))
}
