//! The plugin's side of the agent's socket: one exchange of requests on one connection, within a deadline.
//! An agent that is not there, not ready or stuck is no error: the caller does without.

use super::cache::{CachedNetwork, CachedPod, PodReport, STATUS_PATH, network_path, pod_path, report_path};
use crate::nad::NetworkName;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::UnixStream;

/// For all requests of one exchange. The agent answers from memory; one that takes longer is stuck, and the
/// pod must not wait for it.
const DEADLINE: Duration = Duration::from_secs(1);

/// No pod or NAD is larger in etcd (1.5 MiB is its limit for a request).
const LONGEST_ANSWER: usize = 2 << 20;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The agent at its socket.
pub(super) struct Agent {
    socket: PathBuf,
    /// It failed once, and is not waited for again.
    lost: AtomicBool,
    /// Why it did not say what it was asked.
    trouble: OnceLock<String>,
}

impl Agent {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), lost: AtomicBool::new(false), trouble: OnceLock::new() }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Why it did not say what it was asked: it does not answer, or does not know yet. None: it has answered, be it
    /// that there is no such object.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.get().map(String::as_str)
    }

    /// Whether it answers at all.
    pub(super) async fn is_up(&self) -> bool {
        let answers = self.exchange(vec![get(STATUS_PATH)]).await.unwrap_or_default();
        answers.first().is_some_and(|(status, _)| status.is_success())
    }

    /// The pod, if the agent knows it.
    pub(super) async fn pod(&self, namespace: &str, name: &str) -> Option<CachedPod> {
        let answers = self.exchange(vec![get(&pod_path(namespace, name))]).await?;
        answers.first().and_then(|it| self.read(it))
    }

    /// The networks, each if the agent knows it.
    pub(super) async fn networks(&self, names: &[NetworkName]) -> Vec<Option<CachedNetwork>> {
        let requests = names.iter().map(|it| get(&network_path(it))).collect();
        match self.exchange(requests).await {
            Some(answers) => answers.iter().map(|it| self.read(it)).collect(),
            None => names.iter().map(|_| None).collect(),
        }
    }

    /// Hands a report over. Whether the agent has taken it.
    pub(super) async fn report(&self, namespace: &str, name: &str, report: &PodReport) -> bool {
        let Ok(body) = serde_json::to_vec(report) else { return false };
        let request = Request::post(report_path(namespace, name)).header("host", "netplane");
        let request = request.header("content-type", "application/json").body(Full::from(body));
        let answers = self.exchange(vec![request]).await.unwrap_or_default();
        answers.first().is_some_and(|(status, _)| *status == StatusCode::ACCEPTED)
    }

    /// What an answer says; `None` for anything but 200, and for what cannot be read.
    fn read<T: DeserializeOwned>(&self, (status, body): &(StatusCode, Bytes)) -> Option<T> {
        if *status != StatusCode::OK {
            if *status != StatusCode::NOT_FOUND {
                self.trouble
                    .get_or_init(|| format!("it says {status}: it does not know what is in the cluster"));
            }
            return None;
        }
        serde_json::from_slice(body)
            .inspect_err(|error| {
                tracing::warn!(%error, socket = %self.socket.display(), "the agent's answer is of another version");
                self.trouble.get_or_init(|| format!("its answer is of another version: {error}"));
            })
            .ok()
    }

    /// Sends the requests one after the other. `None`, and a line in the log, when that does not work out.
    async fn exchange(
        &self,
        requests: Vec<Result<Request<Full<Bytes>>, hyper::http::Error>>,
    ) -> Option<Vec<(StatusCode, Bytes)>> {
        if self.lost.load(Ordering::Relaxed) {
            return None;
        }
        let failure: Failure = match tokio::time::timeout(DEADLINE, self.try_exchange(requests)).await {
            Ok(Ok(answers)) => return Some(answers),
            Ok(Err(failure)) => failure,
            Err(_) => format!("no answer within {} ms", DEADLINE.as_millis()).into(),
        };
        self.lost.store(true, Ordering::Relaxed);
        tracing::warn!(error = %failure, socket = %self.socket.display(), "doing without the agent");
        self.trouble.get_or_init(|| super::chain(&*failure));
        None
    }

    async fn try_exchange(
        &self,
        requests: Vec<Result<Request<Full<Bytes>>, hyper::http::Error>>,
    ) -> Result<Vec<(StatusCode, Bytes)>, Failure> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let exchange = async {
            let mut answers = Vec::with_capacity(requests.len());
            for request in requests {
                sender.ready().await?;
                let response = sender.send_request(request?).await?;
                let status = response.status();
                let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await?.to_bytes();
                answers.push((status, body));
            }
            Ok(answers)
        };
        tokio::select! {
            // The last answer counts, also where the agent closes the connection right behind it.
            biased;
            answers = exchange => answers,
            ended = connection => {
                ended?;
                Err("the agent closed the connection".into())
            }
        }
    }
}

fn get(path: &str) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    Request::get(path).header("host", "netplane").body(Full::default())
}
