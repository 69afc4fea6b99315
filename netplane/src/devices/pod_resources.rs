//! Kubelet's pod-resources API (`v1.PodResourcesLister`), gRPC over its Unix socket. Messages carry the
//! fields that are used; protobuf skips the others.

use super::{Allocation, DeviceError, Pod, add_container};
use crate::cluster::chain;
use hyper_util::rt::TokioIo;
use prost::Message;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};

/// `v1.PodResourcesLister/Get`: one pod's (Kubernetes 1.27; on by default since 1.34).
pub const GET: &str = "/v1.PodResourcesLister/Get";
/// `v1.PodResourcesLister/List`: all pods'.
pub const LIST: &str = "/v1.PodResourcesLister/List";

/// Longest answer: a node's worth of pods. Multus's.
const MAX_ANSWER: usize = 16 << 20;

#[derive(Clone, PartialEq, Message)]
pub struct GetPodResourcesRequest {
    #[prost(string, tag = "1")]
    pub pod_name: String,
    #[prost(string, tag = "2")]
    pub pod_namespace: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetPodResourcesResponse {
    #[prost(message, optional, tag = "1")]
    pub pod_resources: Option<PodResources>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListPodResourcesRequest {}

#[derive(Clone, PartialEq, Message)]
pub struct ListPodResourcesResponse {
    #[prost(message, repeated, tag = "1")]
    pub pod_resources: Vec<PodResources>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PodResources {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(message, repeated, tag = "3")]
    pub containers: Vec<ContainerResources>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerResources {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, repeated, tag = "2")]
    pub devices: Vec<ContainerDevices>,
    #[prost(message, repeated, tag = "5")]
    pub dynamic_resources: Vec<DynamicResource>,
}

/// Devices of one resource; a resource may come several times, by NUMA node.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerDevices {
    #[prost(string, tag = "1")]
    pub resource_name: String,
    #[prost(string, repeated, tag = "2")]
    pub device_ids: Vec<String>,
}

/// A ResourceClaim that the container uses (Kubernetes 1.27; on by default since 1.34).
#[derive(Clone, PartialEq, Message)]
pub struct DynamicResource {
    #[prost(string, tag = "2")]
    pub claim_name: String,
    #[prost(string, tag = "3")]
    pub claim_namespace: String,
}

/// What the pod has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Resources {
    pub(super) allocation: Allocation,
    /// Names of its ResourceClaims, each once, in the order of its containers.
    pub(super) claims: Vec<String>,
}

/// What kubelet says that the pod has; `None` if nobody listens on the socket.
///
/// # Errors
/// No answer in time, or none that can be read.
pub(super) fn ask(socket: &Path, pod: &Pod, deadline: Duration) -> Result<Option<Resources>, DeviceError> {
    let failed =
        |operation, problem: String| DeviceError::Kubelet { socket: socket.to_owned(), operation, problem };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed("start a runtime", error.to_string()))?;
    let answer = async {
        let Some(stream) = connect(socket).await.map_err(|error| failed("connect", error.to_string()))?
        else {
            return Ok(None);
        };
        let channel = channel(stream).await.map_err(|error| failed("connect", chain(&error)))?;
        let pods = pods(channel, pod).await;
        let pods = pods.map_err(|status| failed("list the pods' resources", chain(&status)))?;
        Ok(Some(resources(pods, pod)))
    };
    runtime.block_on(async {
        let timed_out = |_| DeviceError::Deadline { socket: socket.to_owned(), deadline };
        tokio::time::timeout(deadline, answer).await.map_err(timed_out)?
    })
}

async fn connect(socket: &Path) -> io::Result<Option<UnixStream>> {
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return Ok(Some(stream)),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                // unix(7): as many callers as kubelet lets wait are waiting already.
                io::ErrorKind::WouldBlock => tokio::time::sleep(Duration::from_millis(20)).await,
                _ => return Err(error),
            },
        }
    }
}

async fn channel(stream: UnixStream) -> Result<Channel, tonic::transport::Error> {
    let stream = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_: Uri| {
        // Once only: a connection that kubelet closes is not made anew.
        let stream = stream.lock().ok().and_then(|mut it| it.take());
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted)) }
    });
    // The address is for HTTP's sake; the connector knows the socket.
    Endpoint::from_static("http://kubelet").connect_with_connector(connector).await
}

/// The pod alone where kubelet can do that, else all pods.
async fn pods(channel: Channel, pod: &Pod) -> Result<Vec<PodResources>, tonic::Status> {
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
    let request = GetPodResourcesRequest { pod_name: pod.name.clone(), pod_namespace: pod.namespace.clone() };
    match call::<_, GetPodResourcesResponse>(&mut client, GET, request).await {
        Ok(answer) => Ok(answer.pod_resources.into_iter().collect()),
        // Not implemented, or switched off, which kubelet says with the code for everything.
        Err(status) => {
            tracing::debug!(%status, "kubelet does not tell of one pod; asking for all");
            let all: ListPodResourcesResponse = call(&mut client, LIST, ListPodResourcesRequest {}).await?;
            Ok(all.pod_resources)
        }
    }
}

async fn call<Q, A>(
    client: &mut tonic::client::Grpc<Channel>,
    method: &'static str,
    request: Q,
) -> Result<A, tonic::Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    client.ready().await.map_err(|error| tonic::Status::unavailable(chain(&error)))?;
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    let path = PathAndQuery::from_static(method);
    client.unary(tonic::Request::new(request), path, codec).await.map(tonic::Response::into_inner)
}

fn resources(pods: Vec<PodResources>, pod: &Pod) -> Resources {
    let mut resources = Resources::default();
    let own = pods.into_iter().filter(|it| it.name == pod.name && it.namespace == pod.namespace);
    for container in own.flat_map(|it| it.containers) {
        let devices = container.devices.into_iter().map(|it| (it.resource_name, it.device_ids));
        add_container(&mut resources.allocation, devices);
        for claim in container.dynamic_resources {
            if claim.claim_namespace == pod.namespace && !resources.claims.contains(&claim.claim_name) {
                resources.claims.push(claim.claim_name);
            }
        }
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::super::tests::pod;
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    /// A field of a message or string, as protobuf writes it.
    fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).expect("short");
        assert!(length < 128, "one byte of length");
        [&[tag << 3 | 2, length], bytes].concat()
    }

    #[test]
    fn messages_are_those_of_kubelets_api() {
        // kubelet/pkg/apis/podresources/v1/api.proto, with fields that are not read here.
        let topology = field(3, &field(1, &[8, 1]));
        let ids = [field(2, b"0000:03:02.3"), field(2, b"0000:03:02.0")].concat();
        let devices = [field(1, b"intel.com/vf"), ids, topology].concat();
        let container = [
            field(1, b"c"),
            field(2, &devices),
            vec![3 << 3, 7],
            field(
                5,
                &[
                    field(1, b"class"),
                    field(2, b"claim"),
                    field(3, b"core"),
                    field(4, &field(1, &field(1, b"cdi"))),
                ]
                .concat(),
            ),
        ];
        let own = [field(1, b"upf-0"), field(2, b"core"), field(3, &container.concat())].concat();
        let answer = GetPodResourcesResponse::decode(field(1, &own).as_slice()).expect("an answer");
        let pod_resources = answer.pod_resources.expect("a pod");
        let resources = resources(vec![pod_resources], &pod());
        assert_eq!(resources.claims, ["claim"]);
        let ids: Vec<_> = resources.allocation["intel.com/vf"].iter().map(String::as_str).collect();
        assert_eq!(ids, ["0000:03:02.0", "0000:03:02.3"]);
        let all = ListPodResourcesResponse::decode([field(1, &own), field(1, &own)].concat().as_slice());
        assert_eq!(all.expect("an answer").pod_resources.len(), 2);
        let request =
            GetPodResourcesRequest { pod_name: "upf-0".to_owned(), pod_namespace: "core".to_owned() };
        assert_eq!(request.encode_to_vec(), [field(1, b"upf-0"), field(2, b"core")].concat());
    }

    #[test]
    fn containers_come_in_order_each_sorted_and_other_pods_not_at_all() {
        let devices = |resource: &str, ids: &[&str]| ContainerDevices {
            resource_name: resource.to_owned(),
            device_ids: ids.iter().map(|it| (*it).to_owned()).collect(),
        };
        let container = |devices: Vec<_>| ContainerResources {
            name: String::new(),
            devices,
            dynamic_resources: Vec::new(),
        };
        let of = |name: &str, namespace: &str, containers: Vec<_>| PodResources {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            containers,
        };
        let first = container(vec![devices("x", &["9"]), devices("y", &["7"]), devices("x", &["3"])]);
        let claim = |namespace: &str, name: &str| DynamicResource {
            claim_name: name.to_owned(),
            claim_namespace: namespace.to_owned(),
        };
        let claims = vec![claim("core", "b"), claim("other", "c"), claim("core", "a")];
        let first = ContainerResources { dynamic_resources: claims.clone(), ..first };
        let second = container(vec![devices("x", &["5", "1"])]);
        let second = ContainerResources { dynamic_resources: claims, ..second };
        let stranger = || vec![container(vec![devices("x", &["0"])])];
        let pods = vec![
            of("upf-0", "other", stranger()),
            of("upf-0", "core", vec![first, second]),
            of("upf-1", "core", stranger()),
        ];
        let Resources { allocation, claims } = resources(pods, &pod());
        assert_eq!(claims, ["b", "a"]);
        assert_eq!(allocation["x"], ["3", "9", "1", "5"]);
        assert_eq!(allocation["y"], ["7"]);
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("kubelet.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        let error = std::thread::scope(|scope| {
            // It accepts, listens for as long as somebody talks, and never says a word.
            scope.spawn(|| {
                let (mut caller, _) = listener.accept().expect("a caller");
                let _ = caller.read_to_end(&mut Vec::new());
            });
            ask(&socket, &pod(), Duration::from_millis(300)).expect_err("silence")
        });
        let text = error.to_string();
        assert!(matches!(error, DeviceError::Deadline { .. }), "{text}");
        assert!(text.contains("kubelet.sock: no answer within 0.3 s"), "{text}");
    }

    #[test]
    fn garbage_is_an_error_that_names_the_socket() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("kubelet.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut caller, _) = listener.accept().expect("a caller");
                let _ = caller.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\nwho are you?");
            });
            ask(&socket, &pod(), Duration::from_secs(60)).expect_err("garbage")
        });
        let text = error.to_string();
        assert!(matches!(error, DeviceError::Kubelet { .. }), "{text}");
        assert!(text.contains("kubelet.sock: cannot "), "{text}");
    }
}
