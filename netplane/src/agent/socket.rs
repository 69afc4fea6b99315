//! The agent's socket: HTTP on a Unix socket that only root may open. `GET /v1/status` is what there is so
//! far; the session API will be in the same router.

use super::status::Status;
use super::{AgentError, Event};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

/// Listens on `path` in the background. The caller holds the lock, so a socket that is there is a dead
/// agent's.
pub(super) fn serve(path: &Path, events: mpsc::UnboundedSender<Event>) -> Result<(), AgentError> {
    let failed =
        |source: io::Error| AgentError::Io { operation: format!("listen on {}", path.display()), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let router = Router::new().route("/v1/status", get(status)).with_state(events);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the agent's socket is closed");
        }
    });
    Ok(())
}

async fn status(State(events): State<mpsc::UnboundedSender<Event>>) -> Result<Json<Status>, StatusCode> {
    let (reply, answer) = oneshot::channel();
    events.send(Event::Status(reply)).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    answer.await.map(Json).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}
