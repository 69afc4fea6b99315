//! The plugin's way to the cluster: pods, NADs, `network-status` and events, by the agent's socket where it
//! answers, else by the API server. Calls come in blocking and go out on one thread; nothing is set up
//! before it is needed, for most calls of the plugin need none of it. The only room of the plugin with kube.

mod access;
mod agent;
mod api;
pub mod cache;
pub mod claims;
mod error;
mod names;
mod objects;
mod report;

pub use access::Access;
pub use error::{ClusterError, chain};
pub use objects::Running;
pub use report::Reporter;

use crate::nad::{Nad, NetworkName};
use agent::Agent;
use api::Api;
use cache::{PodReport, is_object_name};
use futures::StreamExt;
use objects::Written;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tokio::runtime::Runtime;

/// Connections to the API server at a time: each costs the server a TLS handshake, and pods start by the
/// hundred.
const MOST_CONNECTIONS: usize = 4;

/// Where a pod is from, other than `api`, its UID in the API server is another than the runtime's: the
/// kubelet's file or URL. Multus asks the same annotation.
const CONFIG_SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";

/// Which pod: `K8S_POD_NAMESPACE`, `K8S_POD_NAME` and, where the runtime passes it, `K8S_POD_UID`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
    pub uid: Option<String>,
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod as far as attaching needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub annotations: BTreeMap<String, String>,
    /// `metadata.uid`.
    pub uid: String,
}

impl Pod {
    fn is_static(&self) -> bool {
        is_static(&self.annotations)
    }
}

/// Whether a pod with these annotations is the kubelet's own, and its object in the API only a mirror.
pub fn is_static(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(CONFIG_SOURCE_ANNOTATION).is_some_and(|it| it != "api")
}

/// The cluster, as far as the configuration says where it is.
pub struct Cluster {
    agent: Option<Agent>,
    kubeconfig: Option<PathBuf>,
    runtime: OnceLock<Runtime>,
    api: OnceLock<Api>,
}

impl Cluster {
    /// Touches nothing yet.
    pub fn new(kubeconfig: Option<&Path>, agent_socket: Option<&Path>) -> Self {
        Self {
            agent: agent_socket.map(Agent::new),
            kubeconfig: kubeconfig.map(Path::to_owned),
            runtime: OnceLock::new(),
            api: OnceLock::new(),
        }
    }

    /// Whether there is an API server to ask.
    pub fn has_api(&self) -> bool {
        self.kubeconfig.is_some()
    }

    /// Whether the agent answers; `None` where the configuration has none.
    ///
    /// # Errors
    /// The client cannot be started.
    pub fn agent_is_up(&self) -> Result<Option<bool>, ClusterError> {
        let Some(agent) = &self.agent else { return Ok(None) };
        Ok(Some(self.runtime()?.block_on(agent.is_up())))
    }

    /// Why the agent did not say what it was asked, where nobody else is there to ask.
    ///
    /// # Errors
    /// There is such a reason: it may answer later.
    pub fn heard(&self, what: &str) -> Result<(), ClusterError> {
        let Some(agent) = self.agent.as_ref().filter(|_| !self.has_api()) else { return Ok(()) };
        let Some(problem) = agent.trouble() else { return Ok(()) };
        let (what, problem) = (what.to_owned(), problem.to_owned());
        Err(ClusterError::Agent { what, socket: agent.socket().to_owned(), problem })
    }

    /// Whether there is anybody to ask at all.
    pub fn is_there(&self) -> bool {
        self.agent.is_some() || self.has_api()
    }

    /// The pod from the agent's cache, if there is an agent that knows just this pod.
    ///
    /// # Errors
    /// The client cannot be started; or the name cannot be a pod's.
    pub fn cached_pod(&self, pod: &PodName) -> Result<Option<Pod>, ClusterError> {
        let Some(agent) = &self.agent else { return Ok(None) };
        check_name(pod)?;
        let found = self.runtime()?.block_on(agent.pod(&pod.namespace, &pod.name));
        let found = found.map(|it| Pod { annotations: it.annotations, uid: it.uid });
        // A pod of a StatefulSet has its predecessor's name; a watch may be behind.
        Ok(found.filter(|it| pod.uid.as_ref().is_none_or(|uid| *uid == it.uid) || it.is_static()))
    }

    /// The pod from the API server; `None` where there is no such pod any more, or no API server.
    ///
    /// # Errors
    /// The server cannot be asked, or has another pod of the name.
    pub fn pod(&self, pod: &PodName) -> Result<Option<Pod>, ClusterError> {
        check_name(pod)?;
        let Some(path) = &self.kubeconfig else { return Ok(None) };
        let runtime = self.runtime()?;
        runtime.block_on(async {
            let api = self.api(path)?;
            let found = api.pod(pod).await?;
            found.map(|it| api.same_pod(pod, pod.uid.as_deref(), &it).map(|_| it)).transpose()
        })
    }

    /// The NADs of these names, as far as there are such: from the agent's cache, else from the API server,
    /// all at once.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub fn networks(&self, names: &[NetworkName]) -> Result<Vec<Nad>, ClusterError> {
        let possible = |it: &&NetworkName| is_object_name(&it.namespace) && is_object_name(&it.name);
        let names: Vec<_> = names.iter().filter(possible).cloned().collect();
        if names.is_empty() || !self.is_there() {
            return Ok(Vec::new());
        }
        self.runtime()?.block_on(async {
            let cached = match &self.agent {
                Some(agent) => agent.networks(&names).await,
                None => vec![None; names.len()],
            };
            let (mut nads, mut missing) = (Vec::new(), Vec::new());
            for (name, cached) in names.into_iter().zip(cached) {
                match cached {
                    Some(it) => nads.push(Nad { name, annotations: it.annotations, config: it.config }),
                    None => missing.push(name),
                }
            }
            let (Some(path), false) = (&self.kubeconfig, missing.is_empty()) else { return Ok(nads) };
            let api = self.api(path)?;
            let requests = missing.iter().map(|it| api.network(it));
            let mut answers = futures::stream::iter(requests).buffered(MOST_CONNECTIONS);
            while let Some(answer) = answers.next().await {
                nads.extend(answer?);
            }
            Ok(nads)
        })
    }

    /// Says on the pod what an ADD did. The agent takes it where it answers; else `network-status` is
    /// written, and the events posted at the same time, as far as that takes no longer than
    /// [`EVENTS_GRACE`] more. A pod that is gone is no error, as with Multus.
    ///
    /// # Errors
    /// `network-status` could not be written. Events that could not be posted are a line in the log.
    pub fn report(&self, pod: &PodName, report: &PodReport) -> Result<(), ClusterError> {
        if !self.is_there() {
            return Ok(());
        }
        check_name(pod)?;
        self.runtime()?.block_on(async {
            if let Some(agent) = &self.agent
                && agent.report(&pod.namespace, &pod.name, report).await
            {
                return Ok(());
            }
            let Some(path) = &self.kubeconfig else { return Ok(()) };
            if report::write(self.api(path)?, pod, report).await? == Written::PodGone {
                tracing::warn!(%pod, "the pod is gone; its network-status is not written");
            }
            Ok(())
        })
    }

    fn runtime(&self) -> Result<&Runtime, ClusterError> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|it| ClusterError::Runtime(it.to_string()))?;
        Ok(self.runtime.get_or_init(|| runtime))
    }

    /// Read anew by each call of the plugin: tokens are renewed, authorities rotated.
    fn api(&self, path: &Path) -> Result<&Api, ClusterError> {
        if let Some(api) = self.api.get() {
            return Ok(api);
        }
        let api = Api::open(path)?;
        Ok(self.api.get_or_init(|| api))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A name server that does not answer keeps a thread for long after the deadline.
            runtime.shutdown_background();
        }
    }
}

fn check_name(pod: &PodName) -> Result<(), ClusterError> {
    if is_object_name(&pod.namespace) && is_object_name(&pod.name) {
        return Ok(());
    }
    Err(ClusterError::Name { namespace: pod.namespace.clone(), name: pod.name.clone() })
}
