//! What an ADD did, said on its pod: `network-status` and events, once by the plugin, or by the agent until it
//! is written.

use super::access::Access;
use super::api::Api;
use super::cache::{PodEvent, PodReport};
use super::error::ClusterError;
use super::objects::{Running, Written};
use super::{MOST_CONNECTIONS, PodName};
use futures::StreamExt;
use kube::runtime::watcher::DefaultBackoff;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How much longer than for `network-status` the events may take.
const EVENTS_GRACE: Duration = Duration::from_millis(500);

/// Should the backoff ever end; it does not.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Writes `network-status` and posts the events at the same time.
pub(super) async fn write(api: &Api, pod: &PodName, report: &PodReport) -> Result<Written, ClusterError> {
    let uid = report.uid.as_deref();
    let key = format!("{} {}", report.container_id, report.interface);
    let events: Vec<_> = report.events.iter().map(|event| post(api, pod, uid, &key, event)).collect();
    let events = futures::stream::iter(events).buffer_unordered(MOST_CONNECTIONS).collect::<Vec<()>>();
    let status = async {
        let Some(status) = &report.network_status else { return Ok(Written::Yes) };
        api.write_status(pod, uid, status).await
    };
    let (mut events, mut status) = (pin!(events), pin!(status));
    tokio::select! {
        biased;
        written = &mut status => {
            if tokio::time::timeout(EVENTS_GRACE, events).await.is_err() {
                tracing::warn!(%pod, "the events take too long; the pod does not wait for them");
            }
            written
        }
        _ = &mut events => status.await,
    }
}

async fn post(api: &Api, pod: &PodName, uid: Option<&str>, key: &str, event: &PodEvent) {
    if let Err(error) = api.post_event(pod, uid, key, event).await {
        tracing::warn!(%error, "event");
    }
}

/// Writes reports for as long as it takes, on connections that stay.
pub struct Reporter {
    access: Access,
    /// Opened when it is needed, and anew after a failure: credentials are renewed in place.
    api: Mutex<Option<Arc<Api>>>,
    /// Pods that are written at a time. Those that pause take none.
    turns: Semaphore,
}

impl Reporter {
    pub fn new(access: Access) -> Self {
        Self { access, api: Mutex::new(None), turns: Semaphore::new(MOST_CONNECTIONS) }
    }

    /// Tries until the status is written, the pod is gone or another, or it is not `wanted` any more. Events
    /// are posted along with it, and however often that is, they are there once. True: it is written.
    /// `failed` is called after each try that has not worked.
    pub async fn write(
        &self,
        pod: &PodName,
        report: &PodReport,
        wanted: impl Fn() -> bool,
        failed: impl Fn(),
    ) -> bool {
        let mut backoff = DefaultBackoff::default();
        while wanted() {
            let error = match self.try_once(pod, report).await {
                Ok(Written::Yes) => return true,
                Ok(Written::PodGone) => return false,
                Err(error @ (ClusterError::Replaced { .. } | ClusterError::Name { .. })) => {
                    tracing::info!(%error, "network-status is not written");
                    return false;
                }
                Err(error) => error,
            };
            failed();
            self.api.lock().unwrap_or_else(PoisonError::into_inner).take();
            let pause = backoff.next().unwrap_or(LONGEST_PAUSE);
            tracing::warn!(%error, ?pause, "network-status is written later");
            tokio::time::sleep(pause).await;
        }
        tracing::info!(%pod, "network-status is not written: detached or attached anew meanwhile");
        false
    }

    async fn try_once(&self, pod: &PodName, report: &PodReport) -> Result<Written, ClusterError> {
        super::check_name(pod)?;
        // Never closed, so a turn comes.
        let _turn = self.turns.acquire().await;
        write(&*self.api()?, pod, report).await
    }

    /// Whether a pod runs without networks; asked once.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub async fn running(&self, pod: &PodName) -> Result<Running, ClusterError> {
        super::check_name(pod)?;
        let answer = self.api()?.running(pod).await;
        if answer.is_err() {
            self.api.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        answer
    }

    /// The connection that there is, or a new one.
    fn api(&self) -> Result<Arc<Api>, ClusterError> {
        let known = self.api.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(api) = known {
            return Ok(api);
        }
        let mut api = self.access.open()?;
        // The next try is ours, if it is still wanted then.
        api.tries = 1;
        let api = Arc::new(api);
        self.api.lock().unwrap_or_else(PoisonError::into_inner).replace(api.clone());
        Ok(api)
    }
}
