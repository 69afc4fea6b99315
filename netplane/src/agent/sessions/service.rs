//! gRPC towards the callers: each request becomes a call to the loop, one after the other on each stream.

use super::caller::Caller;
use super::{Call, Event, Happened, Reply, What};
use futures::{Stream, StreamExt, stream};
use netplane_client::v1::sessions_server::Sessions;
use netplane_client::v1::{
    ApplyRequest, ApplyResponse, DescribeRequest, DescribeResponse, GetRequest, ListRequest, ListResponse,
    SessionState, WatchRequest, WatchResponse, watch_response,
};
use std::pin::Pin;
use tokio::sync::{broadcast, mpsc, oneshot};
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What is served.
pub(super) struct Service {
    events: mpsc::UnboundedSender<Event>,
}

impl Service {
    pub(super) fn new(events: mpsc::UnboundedSender<Event>) -> Self {
        Self { events }
    }
}

/// Who calls, and where to.
#[derive(Clone)]
struct Line {
    events: mpsc::UnboundedSender<Event>,
    caller: Caller,
}

impl Line {
    async fn ask<T>(&self, pod: String, what: impl FnOnce(Reply<T>) -> What) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let call = Call { caller: self.caller.clone(), pod, what: what(reply) };
        let stopped = || Status::unavailable("the agent stops");
        self.events.send(Event::Sessions(Box::new(call))).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Service {
    fn line<T>(&self, request: &Request<T>) -> Line {
        let nobody = || Caller::Nobody("the caller is not known".to_owned());
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or_else(nobody);
        Line { events: self.events.clone(), caller }
    }
}

#[tonic::async_trait]
impl Sessions for Service {
    type ApplyStream = Answers<ApplyResponse>;
    type ListStream = Answers<ListResponse>;
    type WatchStream = Answers<WatchResponse>;

    async fn apply(
        &self,
        request: Request<Streaming<ApplyRequest>>,
    ) -> Result<Response<Self::ApplyStream>, Status> {
        let line = self.line(&request);
        let requests = request.into_inner();
        let answers = stream::try_unfold((line, requests), |(line, mut requests)| async {
            let Some(mut request) = requests.message().await? else { return Ok(None) };
            let pod = std::mem::take(&mut request.pod);
            let answer = line.ask(pod, |reply| What::Apply(request, reply)).await?;
            Ok(Some((answer, (line, requests))))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<SessionState>, Status> {
        let line = self.line(&request);
        let GetRequest { pod, id } = request.into_inner();
        line.ask(pod, |reply| What::Get(id, reply)).await.map(Response::new)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let line = self.line(&request);
        let ListRequest { pod } = request.into_inner();
        let answers = stream::try_unfold((line, Some(0)), move |(line, from)| {
            let pod = pod.clone();
            async move {
                let Some(from) = from else { return Ok(None) };
                let (sessions, next) = line.ask(pod, |reply| What::List(from, reply)).await?;
                Ok(Some((ListResponse { sessions }, (line, next))))
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        let line = self.line(&request);
        line.ask(request.into_inner().pod, What::Describe).await.map(Response::new)
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let line = self.line(&request);
        let watch = line.ask(request.into_inner().pod, What::Watch).await?;
        let answers = stream::unfold(watch, |(pod, mut events, held)| async {
            let event = next(&pod, &mut events).await?;
            Some((Ok(WatchResponse { event: Some(event) }), (pod, events, held)))
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// The next event of a pod; a watcher that is too slow is told how many it has missed.
async fn next(pod: &str, events: &mut broadcast::Receiver<Happened>) -> Option<watch_response::Event> {
    loop {
        match events.recv().await {
            Ok(happened) if happened.pod == pod => return Some(happened.event),
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(lost)) => return Some(watch_response::Event::Lost(lost)),
            Err(broadcast::error::RecvError::Closed) => return None,
        }
    }
}
