//! The session API: gRPC on a Unix socket of its own, which pods mount. Whoever calls is identified by the kernel
//! (`caller`, `cgroup`); the loop decides and does (`core::sessions`).

pub(super) mod caller;
mod cgroup;
pub(super) mod journal;
mod places;
mod service;

use super::{AgentError, Event, start_thread};
use caller::Caller;
use futures::Stream;
use netplane_client::v1::{self, sessions_server::SessionsServer};
use places::Places;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc, oneshot};
use tonic::Status;
use tonic::transport::server::Connected;

/// Largest request taken.
const MAX_REQUEST: usize = 16 << 20;

/// A question to the loop.
#[derive(Debug)]
pub(crate) struct Call {
    pub(super) caller: Caller,
    /// As in the request: may be empty.
    pub(super) pod: String,
    pub(super) what: What,
}

/// What is asked, and where the answer goes.
#[derive(Debug)]
pub(crate) enum What {
    Apply(v1::ApplyRequest, Reply<v1::ApplyResponse>),
    Get(String, Reply<v1::SessionState>),
    /// At most so many sessions from a handle on; and the handle to go on with.
    List(u32, Reply<(Vec<v1::SessionState>, Option<u32>)>),
    Describe(Reply<v1::DescribeResponse>),
    /// With what is to be kept for as long as the watch lasts.
    Watch(Reply<(String, broadcast::Receiver<Happened>, Arc<()>)>),
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Status>>;

/// An event of a pod's sessions.
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    pub(super) pod: String,
    pub(super) event: v1::watch_response::Event,
}

/// Listens, and starts the thread. It ends with the process.
pub(super) fn start(path: &Path, events: mpsc::UnboundedSender<Event>) -> Result<(), AgentError> {
    let failed =
        |source: io::Error| AgentError::Io { operation: format!("listen on {}", path.display()), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    // Everybody may connect: what they may do is decided by who they are.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed)?;
    start_thread("sessions", move || {
        if let Err(error) = runtime.block_on(serve(listener, events)) {
            tracing::error!(%error, "the session API is closed");
        }
    })
}

async fn serve(
    listener: UnixListener,
    events: mpsc::UnboundedSender<Event>,
) -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let service = SessionsServer::new(service::Service::new(events)).max_decoding_message_size(MAX_REQUEST);
    tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming(listener)).await?;
    Ok(())
}

/// Connections, each with its caller. One that fails does not end the others; one too many is closed.
fn incoming(listener: tokio::net::UnixListener) -> impl Stream<Item = io::Result<Identified>> {
    futures::stream::unfold((listener, Places::default()), |(listener, mut places)| async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let caller = Caller::of(&stream);
                    tracing::debug!(?caller, "session API");
                    if let Some(place) = places.take(&caller) {
                        let identified = Identified { stream, caller, _place: place };
                        return Some((Ok(identified), (listener, places)));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a caller of the session API was not let in");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    })
}

/// A connection of somebody.
struct Identified {
    stream: UnixStream,
    caller: Caller,
    _place: OwnedSemaphorePermit,
}

impl Connected for Identified {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Identified {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Identified {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
