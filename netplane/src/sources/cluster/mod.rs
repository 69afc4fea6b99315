//! The cluster: the pods of this node and all NADs, by watches on the API server. What they know goes into
//! the [`View`] that the agent's socket answers from; NADs with fast-path metadata are facts as well.
//!
//! A watch that fails begins anew with a list and with credentials read afresh, after a pause with jitter.

mod view;

pub use view::{Found, View};

use super::{Fact, Send, told};
use crate::cluster::cache::{CachedNetwork, CachedPod};
use crate::cluster::{Access, ClusterError, chain};
use crate::nad::fast_path::FAST_PATH_ANNOTATION;
use crate::nad::status::NETWORK_STATUS_ANNOTATION;
use crate::nad::{Nad, NetworkName};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DynamicObject, ObjectMeta};
use kube::core::{ApiResource, GroupVersionKind, PartialObjectMeta};
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use view::{Known, PodEntry};

/// Which cluster, and which node this is.
#[derive(Clone, Debug)]
pub struct Place {
    pub access: Access,
    /// `spec.nodeName` of the pods that are followed.
    pub node: String,
}

/// Should the backoff ever end; it does not.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Annotations that nobody asks the agent for, and that are long.
const NOT_KEPT: [&str; 3] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    NETWORK_STATUS_ANNOTATION,
    "k8s.v1.cni.cncf.io/networks-status",
];

/// Follows pods and NADs, for ever. `pods_listed` is called whenever all pods are known anew.
pub async fn follow(place: &Place, view: &View, send: &Send, pods_listed: &dyn Fn()) {
    futures::join!(follow_pods(place, view, send, pods_listed), follow_networks(place, view, send));
}

async fn follow_pods(place: &Place, view: &View, send: &Send, pods_listed: &dyn Fn()) {
    let last = RefCell::new(None);
    let changed = |pods: &BTreeMap<NetworkName, PodEntry>| {
        let told = pods.iter().filter_map(|(name, it)| Some((name.clone(), it.told.clone()?)));
        let told: BTreeMap<_, _> = told.filter(|(_, it)| !it.is_empty()).collect();
        if last.borrow().as_ref() != Some(&told) {
            last.replace(Some(told.clone()));
            send(Fact::Told(told));
        }
    };
    let run = async || -> Failure {
        let client = match place.access.connect() {
            Ok(client) => client,
            Err(error) => return error.into(),
        };
        let of_node = watcher::Config::default().fields(&format!("spec.nodeName={}", place.node));
        let api = Api::<PartialObjectMeta<Pod>>::all(client);
        let listed = || {
            pods_listed();
            send(Fact::ClusterProblem("pods", None))
        };
        take(watcher::watcher(api, of_node), &view.pods, |it| pod(it.metadata), listed, changed).await
    };
    again_and_again("pods", &view.pods, send, run).await;
}

async fn follow_networks(place: &Place, view: &View, send: &Send) {
    let kind = GroupVersionKind::gvk("k8s.cni.cncf.io", "v1", "NetworkAttachmentDefinition");
    let resource = ApiResource::from_gvk_with_plural(&kind, "network-attachment-definitions");
    let last = RefCell::new(None);
    let changed = |networks: &BTreeMap<NetworkName, CachedNetwork>| {
        let nads: Arc<Vec<Nad>> = Arc::new(networks.iter().filter_map(fast_path).collect());
        if last.borrow().as_ref() != Some(&nads) {
            last.replace(Some(nads.clone()));
            send(Fact::ClusterNads(nads));
        }
    };
    let run = async || -> Failure {
        let client = match place.access.connect() {
            Ok(client) => client,
            Err(error) => return error.into(),
        };
        let api = Api::<DynamicObject>::all_with(client, &resource);
        let listed = || send(Fact::ClusterProblem("networks", None));
        let watch = watcher::watcher(api, watcher::Config::default());
        take(watch, &view.networks, network, listed, changed).await
    };
    again_and_again("networks", &view.networks, send, run).await;
}

/// Why a watch ended.
struct Failure {
    message: String,
    /// The server does not want us, so what is known from it may be old while others know better. An outage is
    /// different: nobody knows better then.
    refused: bool,
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        Self { message: error.to_string(), refused: true }
    }
}

impl From<watcher::Error> for Failure {
    fn from(error: watcher::Error) -> Self {
        use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
        let (refused, status) = match &error {
            InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status)) => {
                (matches!(status.code, 401 | 403 | 404), Some(status))
            }
            WatchError(status) => (false, Some(status)),
            InitialListFailed(cause) | WatchStartFailed(cause) | WatchFailed(cause) => {
                let outage = matches!(
                    cause,
                    kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_)
                );
                (!outage, None)
            }
            _ => (false, None),
        };
        let message = match status {
            Some(status) => format!("the API server says {}: {}", status.code, status.message),
            None => chain(&error),
        };
        Self { message, refused }
    }
}

/// Runs a watch whenever it has failed, with pauses that grow.
async fn again_and_again<K, V>(
    what: &'static str,
    known: &Known<K, V>,
    send: &Send,
    run: impl AsyncFn() -> Failure,
) {
    let mut backoff = DefaultBackoff::default();
    loop {
        let failure = run().await;
        if failure.refused {
            known.distrust();
        }
        let pause = backoff.next().unwrap_or(LONGEST_PAUSE);
        tracing::warn!(error = failure.message, ?pause, "the watch of the cluster's {what} begins anew");
        send(Fact::ClusterProblem(what, Some(failure.message)));
        tokio::time::sleep(pause).await;
    }
}

/// Takes in a watch's events until it fails. `listed` is called after each list, `changed` with each complete
/// state.
async fn take<T, K: Ord, V>(
    watch: impl Stream<Item = Result<Event<T>, watcher::Error>>,
    known: &Known<K, V>,
    entry: impl Fn(T) -> Option<(K, V)>,
    listed: impl Fn() -> bool,
    changed: impl Fn(&BTreeMap<K, V>),
) -> Failure {
    let mut watch = pin!(watch);
    let mut list = BTreeMap::new();
    while let Some(event) = watch.next().await {
        match event {
            Err(error) => return error.into(),
            Ok(Event::Init) => list.clear(),
            Ok(Event::InitApply(object)) => list.extend(entry(object)),
            Ok(Event::InitDone) => {
                known.replace(std::mem::take(&mut list), &changed);
                listed();
            }
            Ok(Event::Apply(object)) => {
                if let Some((key, value)) = entry(object) {
                    known.change(|it| drop(it.insert(key, value)), &changed);
                }
            }
            Ok(Event::Delete(object)) => {
                if let Some((key, _)) = entry(object) {
                    known.change(|it| drop(it.remove(&key)), &changed);
                }
            }
        }
    }
    Failure { message: "the watch has ended".to_owned(), refused: false }
}

fn annotations(metadata: &mut ObjectMeta) -> BTreeMap<String, String> {
    let mut annotations = metadata.annotations.take().unwrap_or_default();
    annotations.retain(|key, _| !NOT_KEPT.contains(&key.as_str()));
    annotations
}

fn pod(mut metadata: ObjectMeta) -> Option<(NetworkName, PodEntry)> {
    let status = metadata.annotations.as_ref().and_then(|it| it.get(NETWORK_STATUS_ANNOTATION));
    let told = status.map(|it| told::read(it));
    let annotations = annotations(&mut metadata);
    let name = NetworkName { namespace: metadata.namespace?, name: metadata.name? };
    Some((name, PodEntry { pod: CachedPod { uid: metadata.uid?, annotations }, told }))
}

/// A NAD; nothing where `spec.config` is no text: the plugin then asks the server and says so.
fn network(mut object: DynamicObject) -> Option<(NetworkName, CachedNetwork)> {
    let annotations = annotations(&mut object.metadata);
    let config = match object.data.pointer("/spec/config") {
        None | Some(serde_json::Value::Null) => "",
        Some(config) => config.as_str()?,
    };
    let name = NetworkName { namespace: object.metadata.namespace?, name: object.metadata.name? };
    Some((name, CachedNetwork { config: config.to_owned(), annotations }))
}

fn fast_path((name, network): (&NetworkName, &CachedNetwork)) -> Option<Nad> {
    let CachedNetwork { config, annotations } = network.clone();
    annotations.contains_key(FAST_PATH_ANNOTATION).then(|| Nad { name: name.clone(), annotations, config })
}
