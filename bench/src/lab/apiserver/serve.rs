//! Listening, connections and HTTP: what stands between the sockets and [`super::api`].

use super::api::{self, Answer};
use super::faults::{Entry, Fault};
use super::route;
use super::shared::Shared;
use super::status::Failure;
use super::watch;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use hyper::{HeaderMap, Response};
use hyper_util::rt::TokioIo;
use std::future::pending;
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// What the test orders.
pub(super) enum Command {
    /// Refuse connections and close those that are open.
    Down(mpsc::Sender<Result<()>>),
    /// Listen again, on the same port.
    Up(mpsc::Sender<Result<()>>),
    /// Show another certificate from now on; open connections end.
    Tls(Arc<ServerConfig>, mpsc::Sender<Result<()>>),
}

/// The address, kept also while nobody listens.
pub(super) struct Place {
    /// Bound and never listening: the port stays ours. Both sockets share it by SO_REUSEPORT.
    _keeper: TcpSocket,
    pub(super) address: SocketAddr,
}

fn socket(address: SocketAddr) -> Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

impl Place {
    pub(super) fn take(address: SocketAddr) -> Result<Self> {
        let keeper = socket(address)?;
        Ok(Self { address: keeper.local_addr()?, _keeper: keeper })
    }

    pub(super) fn listen(&self) -> Result<TcpListener> {
        socket(self.address)?.listen(1024)
    }
}

/// Serves until nobody can send commands any more.
pub(super) async fn run(
    place: Place,
    listener: TcpListener,
    mut tls: Option<Arc<ServerConfig>>,
    mut commands: UnboundedReceiver<Command>,
    shared: Arc<Shared>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            Ok(stream) = accept(listener.as_ref()) => {
                number += 1;
                connections.spawn(serve(stream, tls.clone(), number, shared.clone()));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            command = commands.recv() => {
                let (result, reply) = match command {
                    None => return,
                    Some(Command::Down(reply)) => {
                        listener = None;
                        connections.shutdown().await;
                        (Ok(()), reply)
                    }
                    Some(Command::Up(reply)) if listener.is_some() => (Ok(()), reply),
                    Some(Command::Up(reply)) => {
                        (place.listen().map(|it| listener = Some(it)), reply)
                    }
                    Some(Command::Tls(config, reply)) => {
                        tls = Some(config);
                        connections.shutdown().await;
                        (Ok(()), reply)
                    }
                };
                let _ = reply.send(result);
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => pending().await,
    }
}

/// One connection, as its requests see it.
struct Connection {
    number: u64,
    shared: Arc<Shared>,
    socket: OwnedFd,
}

async fn serve(stream: TcpStream, tls: Option<Arc<ServerConfig>>, number: u64, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let Ok(socket) = stream.as_fd().try_clone_to_owned() else { return };
    let connection = Arc::new(Connection { number, shared, socket });
    match tls {
        None => http(stream, connection).await,
        Some(config) => {
            // A client that does not know this CA ends it here.
            if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                http(stream, connection).await;
            }
        }
    }
}

async fn http(stream: impl AsyncRead + AsyncWrite + Unpin, connection: Arc<Connection>) {
    let service = hyper::service::service_fn(|request| handle(connection.clone(), request));
    // How a client ends its connection is its own affair.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type Body = UnsyncBoxBody<Bytes, Error>;

fn cut() -> Error {
    Error::new(ErrorKind::ConnectionAborted, "the test wants no answer")
}

impl Connection {
    /// The connection's end will be a RST.
    fn reset(&self) -> Error {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        let _ = nix::sys::socket::setsockopt(&self.socket, nix::sys::socket::sockopt::Linger, &linger);
        cut()
    }
}

async fn handle(connection: Arc<Connection>, request: hyper::Request<Incoming>) -> Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(Error::other)?.to_bytes();
    let shared = &connection.shared;
    let text = head.uri.query().unwrap_or_default();
    let query = route::query(text);
    let (method, path) = (head.method.as_str(), head.uri.path());
    let verb = route::verb(method, path, &query);
    let number = shared.note(Entry {
        at: Instant::now(),
        verb,
        method: method.to_owned(),
        path: path.to_owned(),
        query: text.to_owned(),
        user_agent: header(&head.headers, &USER_AGENT).unwrap_or_default().to_owned(),
        connection: connection.number,
        code: None,
    });
    let fault = shared.fault(verb, path);
    tokio::time::sleep(shared.delay()).await;
    match fault {
        Some(Fault::Reset) => return Err(connection.reset()),
        Some(Fault::Hang) => pending::<()>().await,
        Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
        Some(Fault::Answer { code, retry_after }) => {
            shared.answered(number, code);
            return refuse(&Failure::ordered(code, retry_after));
        }
        Some(Fault::Text { code }) => {
            shared.answered(number, code);
            return reply(code, "text/plain", "upstream connect error\n");
        }
        Some(Fault::ResetAfter | Fault::HalfAnswer) | None => {}
    }
    let result = if shared.admits(header(&head.headers, &AUTHORIZATION)) {
        let content_type = header(&head.headers, &CONTENT_TYPE).unwrap_or_default();
        let content_type = content_type.split(';').next().unwrap_or_default().trim();
        let accept = header(&head.headers, &ACCEPT).unwrap_or_default();
        let metadata_only = accept.contains("as=PartialObjectMetadata");
        let request = api::Request { method, path, query: &query, content_type, metadata_only, body: &body };
        shared.change(|store| api::answer(store, &request))
    } else {
        Err(Failure::unauthorized())
    };
    let response = respond(result, shared)?;
    match fault {
        Some(Fault::ResetAfter) => Err(connection.reset()),
        Some(Fault::HalfAnswer) => half(response).await,
        _ => {
            shared.answered(number, response.status().as_u16());
            Ok(response)
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &hyper::header::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn respond(result: std::result::Result<Answer, Failure>, shared: &Arc<Shared>) -> Result<Response<Body>> {
    match result {
        Ok(Answer::Object(code, object)) => reply(code, "application/json", object.to_string()),
        Ok(Answer::Text(text)) => reply(200, "text/plain", text),
        Ok(Answer::Watch(opening)) => {
            let stream = watch::stream(opening, shared.clone()).map_ok(Frame::data);
            let body = StreamBody::new(stream).boxed_unsync();
            let response = Response::builder().header(CONTENT_TYPE, "application/json");
            response.body(body).map_err(Error::other)
        }
        Err(failure) => refuse(&failure),
    }
}

fn refuse(failure: &Failure) -> Result<Response<Body>> {
    let mut response = reply(failure.code, "application/json", failure.to_value().to_string())?;
    if let Some(seconds) = failure.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    Ok(response)
}

fn reply(code: u16, kind: &str, body: impl Into<Bytes>) -> Result<Response<Body>> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(code).header(CONTENT_TYPE, kind).body(body).map_err(Error::other)
}

/// The same answer, whose second half never comes.
async fn half(response: Response<Body>) -> Result<Response<Body>> {
    let (mut head, body) = response.into_parts();
    let whole = body.collect().await?.to_bytes();
    head.headers.insert(CONTENT_LENGTH, whole.len().into());
    let first = whole.slice(..whole.len() / 2);
    let end = futures::stream::once(async {
        // The first half is written out before the connection ends.
        tokio::task::yield_now().await;
        Err(cut())
    });
    let chunks = futures::stream::iter([Ok(Frame::data(first))]).chain(end);
    Ok(Response::from_parts(head, StreamBody::new(chunks).boxed_unsync()))
}
