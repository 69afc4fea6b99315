//! A stand-in for kubelet: its pod-resources API as gRPC over a real Unix socket, and its checkpoint, in a
//! directory of its own. Its codec is the crate's own; that its messages are kubelet's is a unit test's matter.

use netplane::devices::pod_resources::{
    ContainerDevices, ContainerResources, DynamicResource, GET, GetPodResourcesRequest,
    GetPodResourcesResponse, LIST, ListPodResourcesRequest, ListPodResourcesResponse, PodResources,
};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::Grpc;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// What it answers, and what it was asked.
#[derive(Debug)]
struct Answers {
    pods: Vec<PodResources>,
    /// The feature gate `KubeletPodResourcesGet`.
    get: bool,
    calls: Mutex<Vec<String>>,
}

/// A kubelet that serves until it is dropped.
pub(crate) struct Kubelet {
    folder: tempfile::TempDir,
    answers: Arc<Answers>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Kubelet {
    /// `get`: whether it knows the call for one pod, which is an option of kubelet's.
    pub(crate) fn serve(pods: Vec<PodResources>, get: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let answers = Arc::new(Answers { pods, get, calls: Mutex::default() });
        let socket = socket_in(folder.path());
        // Bound before the thread runs: callers can come at once.
        let listener = std::os::unix::net::UnixListener::bind(socket).expect("bound");
        listener.set_nonblocking(true).expect("a socket");
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&answers);
        let thread = std::thread::spawn(move || run(listener, shared, stopped));
        Self { folder, answers, stop: Some(stop), thread: Some(thread) }
    }

    /// `kubeletDir`.
    pub(crate) fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// The calls that it got.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.answers.calls.lock().expect("no panic").clone()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            panic!("the kubelet's thread panicked");
        }
    }
}

/// Where kubelet's socket is under its directory, with the folder made.
pub(crate) fn socket_in(dir: &Path) -> PathBuf {
    let folder = dir.join("pod-resources");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder.join("kubelet.sock")
}

/// Writes kubelet's checkpoint under its directory.
pub(crate) fn write_checkpoint(dir: &Path, text: &str) {
    let folder = dir.join("device-plugins");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("kubelet_internal_checkpoint"), text).expect("written");
}

/// A pod's resources: for each container its devices, as resource name and IDs.
pub(crate) fn pod(namespace: &str, name: &str, containers: &[&[(&str, &[&str])]]) -> PodResources {
    let devices = |(resource, ids): &(&str, &[&str])| ContainerDevices {
        resource_name: (*resource).to_owned(),
        device_ids: ids.iter().map(|it| (*it).to_owned()).collect(),
    };
    let container = |(number, it): (usize, &&[(&str, &[&str])])| ContainerResources {
        name: format!("c{number}"),
        devices: it.iter().map(devices).collect(),
        dynamic_resources: Vec::new(),
    };
    PodResources {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        containers: containers.iter().enumerate().map(container).collect(),
    }
}

/// The pod with ResourceClaims of its first container.
pub(crate) fn claiming(mut pod: PodResources, claims: &[&str]) -> PodResources {
    let claim = |name: &&str| DynamicResource {
        claim_name: (*name).to_owned(),
        claim_namespace: pod.namespace.clone(),
    };
    let claims = claims.iter().map(claim).collect();
    pod.containers.first_mut().expect("a container").dynamic_resources = claims;
    pod
}

fn run(listener: std::os::unix::net::UnixListener, answers: Arc<Answers>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = UnixListener::from_std(listener).expect("a socket");
        let incoming = futures::stream::unfold(listener, |listener| async {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        let service = tower::service_fn(move |request| answer(Arc::clone(&answers), request));
        let server = tonic::transport::Server::builder();
        let stopped = async { drop(stopped.await) };
        server.serve_with_incoming_shutdown(service, incoming, stopped).await.expect("served");
    });
}

async fn answer(
    answers: Arc<Answers>,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, Infallible> {
    let method = request.uri().path().to_owned();
    answers.calls.lock().expect("no panic").push(method.rsplit('/').next().unwrap_or_default().to_owned());
    Ok(match method.as_str() {
        GET => {
            let get = tower::service_fn(|it: Request<GetPodResourcesRequest>| {
                let answer = answers.get(it.get_ref());
                async { answer.map(Response::new) }
            });
            Grpc::new(ProstCodec::<GetPodResourcesResponse, _>::default()).unary(get, request).await
        }
        LIST => {
            let list = tower::service_fn(|_: Request<ListPodResourcesRequest>| {
                let pod_resources = answers.pods.clone();
                async { Ok::<_, Status>(Response::new(ListPodResourcesResponse { pod_resources })) }
            });
            Grpc::new(ProstCodec::<ListPodResourcesResponse, _>::default()).unary(list, request).await
        }
        other => Status::unimplemented(other).into_http(),
    })
}

impl Answers {
    /// With the codes that kubelet's errors have, which are not made for gRPC: unknown.
    fn get(&self, request: &GetPodResourcesRequest) -> Result<GetPodResourcesResponse, Status> {
        if !self.get {
            return Err(Status::unknown("PodResources API Get method disabled"));
        }
        let (name, namespace) = (&request.pod_name, &request.pod_namespace);
        let own = self.pods.iter().find(|it| it.name == *name && it.namespace == *namespace);
        let own = own.ok_or_else(|| Status::unknown(format!("pod {name} in {namespace} not found")))?;
        Ok(GetPodResourcesResponse { pod_resources: Some(own.clone()) })
    }
}
