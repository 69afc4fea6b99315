//! The client: batches of changes in order, errors with the session that they are about.

use crate::v1::sessions_client::SessionsClient;
use crate::v1::{
    ApplyRequest, Change, DescribeRequest, DescribeResponse, GetRequest, ListRequest, Session, SessionState,
    Sweep, WatchRequest, WatchResponse, change,
};
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status, Streaming};

/// Changes in one request of a bulk load.
pub const BATCH: usize = 500;

/// Largest answer taken: a batch of sessions.
const MAX_ANSWER: usize = 16 << 20;

/// A change that was refused; the others of the batch are carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The session's id; empty for a sweep.
    pub id: String,
    pub code: Code,
    /// What is wrong, with the names of the objects.
    pub message: String,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to the agent at {}", socket.display())]
    Connect { socket: PathBuf, source: tonic::transport::Error },
    #[error("{}", .0.message())]
    Call(#[from] Status),
    /// The agent has closed the stream with requests unanswered: it may have done any of them.
    #[error("the agent has ended the stream; {unanswered} changes are not answered")]
    Ended { unanswered: usize },
}

/// A connection to the agent. An empty `pod` means the pod that the caller is in; root on the node names one.
#[derive(Clone, Debug)]
pub struct Client {
    inner: SessionsClient<Channel>,
}

impl Client {
    /// # Errors
    /// Nobody listens on the socket.
    pub async fn connect(socket: impl AsRef<Path>) -> Result<Self, Error> {
        let socket = socket.as_ref().to_owned();
        let path = socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is for HTTP's sake; the connector knows the socket.
        let channel = Endpoint::from_static("http://netplane").connect_with_connector(connector).await;
        let channel = channel.map_err(|source| Error::Connect { socket, source })?;
        Ok(Self { inner: SessionsClient::new(channel).max_decoding_message_size(MAX_ANSWER) })
    }

    /// The generated client, for calls that are not here.
    pub fn inner(&mut self) -> &mut SessionsClient<Channel> {
        &mut self.inner
    }

    /// Who the caller is and what it may use.
    ///
    /// # Errors
    /// The agent's.
    pub async fn describe(&mut self, pod: &str) -> Result<DescribeResponse, Error> {
        Ok(self.inner.describe(DescribeRequest { pod: pod.to_owned() }).await?.into_inner())
    }

    /// Makes sessions what is given. Returns what was refused.
    ///
    /// # Errors
    /// The connection broke or the caller may not do this at all.
    pub async fn put(
        &mut self,
        pod: &str,
        generation: u64,
        sessions: impl IntoIterator<Item = Session, IntoIter: Send + 'static>,
    ) -> Result<Vec<Refused>, Error> {
        let changes = sessions.into_iter().map(|it| Change { change: Some(change::Change::Put(it)) });
        Ok(self.apply(pod, generation, changes).await?.1)
    }

    /// Removes sessions by id. Returns how many there were, and what was refused.
    ///
    /// # Errors
    /// As for [`Client::put`].
    pub async fn delete(
        &mut self,
        pod: &str,
        ids: impl IntoIterator<Item = String, IntoIter: Send + 'static>,
    ) -> Result<(u32, Vec<Refused>), Error> {
        let changes = ids.into_iter().map(|it| Change { change: Some(change::Change::Delete(it)) });
        self.apply(pod, 0, changes).await
    }

    /// Removes all sessions of the pod that are not of this generation. Returns how many.
    ///
    /// # Errors
    /// As for [`Client::put`].
    pub async fn sweep(&mut self, pod: &str, generation: u64) -> Result<u32, Error> {
        let change = Change { change: Some(change::Change::Sweep(Sweep {})) };
        let (removed, refused) = self.apply(pod, generation, [change]).await?;
        match refused.into_iter().next() {
            Some(it) => Err(Status::new(it.code, it.message).into()),
            None => Ok(removed),
        }
    }

    /// Changes in order, in batches of [`BATCH`].
    ///
    /// # Errors
    /// As for [`Client::put`].
    pub async fn apply(
        &mut self,
        pod: &str,
        generation: u64,
        changes: impl IntoIterator<Item = Change, IntoIter: Send + 'static>,
    ) -> Result<(u32, Vec<Refused>), Error> {
        let (send, requests) = tokio::sync::mpsc::channel::<ApplyRequest>(4);
        let requests = tonic::codegen::tokio_stream::wrappers::ReceiverStream::new(requests);
        let mut changes = changes.into_iter().peekable();
        let mut answers = self.inner.apply(requests).await?.into_inner();
        let (mut removed, mut refused) = (0, Vec::new());
        let mut waiting: std::collections::VecDeque<Vec<String>> = std::collections::VecDeque::new();
        loop {
            while changes.peek().is_some() && waiting.len() < 4 {
                let batch: Vec<Change> = changes.by_ref().take(BATCH).collect();
                waiting.push_back(batch.iter().map(id_of).collect());
                let request = ApplyRequest { pod: pod.to_owned(), generation, changes: batch };
                if send.send(request).await.is_err() {
                    break;
                }
            }
            let Some(ids) = waiting.front() else { return Ok((removed, refused)) };
            let Some(answer) = answers.message().await? else {
                return Err(Error::Ended { unanswered: waiting.iter().map(Vec::len).sum() });
            };
            for (id, result) in ids.iter().zip(answer.results) {
                removed += result.removed;
                if result.code != 0 {
                    let code = Code::from(result.code);
                    refused.push(Refused { id: id.clone(), code, message: result.message });
                }
            }
            waiting.pop_front();
        }
    }

    /// One session.
    ///
    /// # Errors
    /// There is none with this id, or it is another pod's.
    pub async fn get(&mut self, pod: &str, id: &str) -> Result<SessionState, Error> {
        let request = GetRequest { pod: pod.to_owned(), id: id.to_owned() };
        Ok(self.inner.get(request).await?.into_inner())
    }

    /// All sessions of a pod.
    ///
    /// # Errors
    /// The agent's.
    pub async fn list(&mut self, pod: &str) -> Result<Vec<SessionState>, Error> {
        let mut answers = self.inner.list(ListRequest { pod: pod.to_owned() }).await?.into_inner();
        let mut sessions = Vec::new();
        while let Some(answer) = answers.message().await? {
            sessions.extend(answer.sessions);
        }
        Ok(sessions)
    }

    /// What happens to a pod's sessions from now on.
    ///
    /// # Errors
    /// The agent's.
    pub async fn watch(&mut self, pod: &str) -> Result<Streaming<WatchResponse>, Error> {
        Ok(self.inner.watch(WatchRequest { pod: pod.to_owned() }).await?.into_inner())
    }
}

fn id_of(change: &Change) -> String {
    match &change.change {
        Some(change::Change::Put(session)) => session.id.clone(),
        Some(change::Change::Delete(id)) => id.clone(),
        Some(change::Change::Sweep(_)) | None => String::new(),
    }
}
