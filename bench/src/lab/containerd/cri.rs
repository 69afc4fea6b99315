//! The part of CRI that kubelet needs for a pod's sandbox (`runtime.v1.RuntimeService`), over containerd's
//! socket. Messages carry the fields that are used; protobuf skips the others.

use super::container::SandboxSecurity;
use anyhow::{Context, Result, anyhow, ensure};
use hyper_util::rt::TokioIo;
use prost::Message;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};

/// Longest call: kubelet's default is two minutes.
const DEADLINE: Duration = Duration::from_secs(120);

/// `PodSandboxMetadata`.
#[derive(Clone, PartialEq, Message)]
pub struct Metadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
    #[prost(uint32, tag = "4")]
    pub attempt: u32,
}

/// `PodSandboxConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct SandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    pub hostname: String,
    /// Where its containers' logs go.
    #[prost(string, tag = "3")]
    pub log_directory: String,
    #[prost(map = "string, string", tag = "7")]
    pub annotations: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxConfig>,
}

/// `LinuxPodSandboxConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxConfig {
    #[prost(string, tag = "1")]
    pub cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    pub security: Option<SandboxSecurity>,
}

#[derive(Clone, PartialEq, Message)]
struct RunRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<SandboxConfig>,
}

/// Requests and answers that hold nothing but a sandbox's id.
#[derive(Clone, PartialEq, Message)]
struct SandboxId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bool, tag = "2")]
    verbose: bool,
}

/// `PodSandboxStatusResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct SandboxStatus {
    #[prost(message, optional, tag = "1")]
    pub status: Option<State>,
    /// The runtime's own words, as JSON by topic.
    #[prost(map = "string, string", tag = "2")]
    pub info: HashMap<String, String>,
}

/// `PodSandboxStatus`.
#[derive(Clone, PartialEq, Message)]
pub struct State {
    #[prost(message, optional, tag = "5")]
    pub network: Option<Network>,
}

/// `PodSandboxNetworkStatus`: what kubelet writes to the pod's status.
#[derive(Clone, PartialEq, Message)]
pub struct Network {
    #[prost(string, tag = "1")]
    pub ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatusRequest {
    #[prost(bool, tag = "1")]
    verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

/// `RuntimeCondition`.
#[derive(Clone, PartialEq, Message)]
struct Condition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    status: bool,
    #[prost(string, tag = "4")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct List {
    #[prost(message, repeated, tag = "1")]
    items: Vec<SandboxId>,
}

/// A client of one containerd. Calls block; several threads may call at once.
#[derive(Debug)]
pub struct Cri {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Cri {
    /// # Errors
    /// Nobody listens on the socket.
    pub fn connect(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let path: PathBuf = socket.to_owned();
        // The address is for HTTP's sake; the connector knows the socket.
        let endpoint = Endpoint::from_static("http://containerd").timeout(DEADLINE);
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = runtime.block_on(endpoint.connect_with_connector(connector));
        let channel = channel.with_context(|| format!("connect to {}", socket.display()))?;
        Ok(Self { runtime, channel })
    }

    pub(super) fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path = PathAndQuery::from_maybe_shared(format!("/runtime.v1.RuntimeService/{method}"))?;
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        let answer = self.runtime.block_on(async {
            client.ready().await.map_err(|error| anyhow!("{method}: {error}"))?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            let answer = client.unary(tonic::Request::new(request), path, codec).await;
            answer.map_err(|status| anyhow!("{method}: {}", status.message()))
        })?;
        Ok(answer.into_inner())
    }

    /// Makes a sandbox, with its network. Returns its id.
    ///
    /// # Errors
    /// containerd's, with what the plugin said.
    pub fn run(&self, config: SandboxConfig) -> Result<String> {
        let answer: SandboxId = self.call("RunPodSandbox", RunRequest { config: Some(config) })?;
        Ok(answer.id)
    }

    /// Ends a sandbox's processes and takes its network down. Once more is no error.
    ///
    /// # Errors
    /// containerd's, with what the plugin said.
    pub fn stop(&self, id: &str) -> Result<()> {
        self.call::<_, Empty>("StopPodSandbox", SandboxId { id: id.to_owned() }).map(drop)
    }

    /// Removes a sandbox that was stopped.
    ///
    /// # Errors
    /// containerd's.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.call::<_, Empty>("RemovePodSandbox", SandboxId { id: id.to_owned() }).map(drop)
    }

    /// # Errors
    /// containerd's.
    pub fn status(&self, id: &str) -> Result<SandboxStatus> {
        self.call("PodSandboxStatus", StatusRequest { id: id.to_owned(), verbose: true })
    }

    /// The CNI configurations that are loaded, as containerd tells them. kubelet makes a node NotReady
    /// where this is an error.
    ///
    /// # Errors
    /// containerd's, or the condition `NetworkReady` is false: with why.
    pub fn network(&self) -> Result<String> {
        let mut answer: RuntimeStatusAnswer = self.call("Status", RuntimeStatusRequest { verbose: true })?;
        let conditions = answer.status.unwrap_or_default().conditions;
        let ready = conditions.into_iter().find(|it| it.kind == "NetworkReady").unwrap_or_default();
        ensure!(ready.status, "not NetworkReady: {}", ready.message);
        answer.info.remove("cniconfig").context("no cniconfig in the status")
    }

    /// The ids of all sandboxes.
    ///
    /// # Errors
    /// containerd's.
    pub fn list(&self) -> Result<Vec<String>> {
        let list: List = self.call("ListPodSandbox", Empty {})?;
        Ok(list.items.into_iter().map(|it| it.id).collect())
    }
}
