//! The agent's socket: HTTP on a Unix socket that only root may open. `GET /v1/status`, `/v1/top`, `/v1/trace`, `/metrics`, and what
//! the plugin asks for instead of the API server (`cluster/cache.rs`); the session API will be in the same router.

use super::limit::Limited;
use super::metrics::{self, Metrics};
use super::reports::Reports;
use super::status::Status;
use super::top::Top;
use super::trace::{Query, Traced};
use super::{AgentError, Event};
use crate::cluster::PodName;
use crate::cluster::cache::{CachedNetwork, CachedPod, PodReport, STATUS_PATH};
use crate::sources::cluster::{Found, View};
use axum::extract::{DefaultBodyLimit, Path as InPath, Query as InQuery, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Bytes of a report. A network-status of a hundred attachments is smaller; with a larger one the plugin writes for
/// itself, and those that wait for the API server take 32 MiB at most.
const LONGEST_REPORT: usize = 64 << 10;

/// Listens on `path`. The caller holds the lock, so a socket that is there is a dead agent's.
pub(super) fn bind(path: &Path) -> Result<UnixListener, AgentError> {
    let failed =
        |source: io::Error| AgentError::Io { operation: format!("listen on {}", path.display()), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// What can be asked. Without a cluster nothing of it is known: 404, as for what the watches do not know.
pub(super) fn router(
    events: mpsc::UnboundedSender<Event>,
    counters: Arc<Metrics>,
    cluster: Option<(Arc<View>, Arc<Reports>)>,
) -> Router {
    let router = Router::new()
        .route(STATUS_PATH, get(status))
        .route("/v1/top", get(top))
        .route("/v1/trace", get(trace))
        .with_state(events.clone());
    let router = router.merge(metrics::router(counters, events));
    let Some((view, reports)) = cluster else { return router };
    let cache = Router::new()
        .route("/v1/pods/{namespace}/{name}", get(pod))
        .route("/v1/networks/{namespace}/{name}", get(network));
    let taken = Router::new().route("/v1/pods/{namespace}/{name}/report", post(report));
    let taken = taken.layer(DefaultBodyLimit::max(LONGEST_REPORT));
    router.merge(cache.with_state(view)).merge(taken.with_state(reports))
}

/// Answers for ever.
pub(super) async fn serve(listener: UnixListener, router: Router) {
    let served = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => axum::serve(Limited::new(listener), router).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!(%error, "the agent's socket is closed");
    }
}

async fn status(State(events): State<mpsc::UnboundedSender<Event>>) -> Result<Json<Status>, StatusCode> {
    let (reply, answer) = oneshot::channel();
    events.send(Event::Status(reply)).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    answer.await.map(Json).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

async fn top(State(events): State<mpsc::UnboundedSender<Event>>) -> Result<Json<Top>, StatusCode> {
    let (reply, answer) = oneshot::channel();
    events.send(Event::Top(reply)).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    answer.await.map(Json).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

/// 404 with a text where there is nothing to tell.
async fn trace(
    State(events): State<mpsc::UnboundedSender<Event>>,
    InQuery(query): InQuery<Query>,
) -> Result<Json<Vec<Traced>>, (StatusCode, String)> {
    let gone = |_| (StatusCode::SERVICE_UNAVAILABLE, "the agent is ending".to_owned());
    let (reply, answer) = oneshot::channel();
    events.send(Event::Trace(query, reply)).map_err(|_| gone(()))?;
    let traced = answer.await.map_err(|_| gone(()))?;
    traced.map(Json).map_err(|why| (StatusCode::NOT_FOUND, why))
}

async fn pod(
    State(view): State<Arc<View>>,
    InPath((namespace, name)): InPath<(String, String)>,
) -> Result<Json<CachedPod>, StatusCode> {
    answer(view.pod(&namespace, &name))
}

async fn network(
    State(view): State<Arc<View>>,
    InPath((namespace, name)): InPath<(String, String)>,
) -> Result<Json<CachedNetwork>, StatusCode> {
    answer(view.network(&namespace, &name))
}

async fn report(
    State(reports): State<Arc<Reports>>,
    InPath((namespace, name)): InPath<(String, String)>,
    Json(report): Json<PodReport>,
) -> StatusCode {
    let pod = PodName { namespace, name, uid: report.uid.clone() };
    if reports.take(pod, report) { StatusCode::ACCEPTED } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn answer<T>(found: Found<T>) -> Result<Json<T>, StatusCode> {
    match found {
        Found::Yes(it) => Ok(Json(it)),
        Found::No => Err(StatusCode::NOT_FOUND),
        Found::NotYet => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}
