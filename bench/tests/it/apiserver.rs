//! The API server double as a real client sees it: objects, versions, watches.

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, Status};
use kube::{Api, Client, Config, Error};
use netplane_bench::lab::apiserver::{ApiServer, Options, nad, pod};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

pub(crate) fn start() -> ApiServer {
    ApiServer::start(&Options::default()).expect("the server starts")
}

/// A client by a kubeconfig file, without retries of its own.
pub(crate) async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.expect("a configuration");
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

/// Runs a client's part, with a deadline.
pub(crate) fn run<T>(part: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limit = Duration::from_secs(60);
    runtime.block_on(async { tokio::time::timeout(limit, part).await.expect("done in time") })
}

pub(crate) fn refused(error: Error) -> Box<Status> {
    match error {
        Error::Api(status) => status,
        other => panic!("no Status object: {other:?}"),
    }
}

fn a_pod(name: &str) -> Pod {
    serde_json::from_value(pod("default", name, "n1", &json!({ "a": "1" }))).expect("a pod")
}

fn annotation(pod: &Pod, key: &str) -> Option<String> {
    pod.metadata.annotations.as_ref()?.get(key).cloned()
}

fn networks(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("k8s.cni.cncf.io", "v1", "NetworkAttachmentDefinition");
    let resource = ApiResource::from_gvk_with_plural(&kind, "network-attachment-definitions");
    Api::namespaced_with(client.clone(), "default", &resource)
}

#[test]
fn a_stale_replace_is_a_conflict_and_a_fresh_one_is_not() {
    let server = start();
    run(async {
        let pods: Api<Pod> = Api::default_namespaced(client(&server.kubeconfig()).await);
        let created = pods.create(&PostParams::default(), &a_pod("p")).await.expect("created");
        let mut changed = created.clone();
        changed.metadata.annotations = Some([("a".to_owned(), "2".to_owned())].into());
        let newer = pods.replace("p", &PostParams::default(), &changed).await.expect("replaced");
        assert_ne!(newer.metadata.resource_version, created.metadata.resource_version);
        assert_eq!(newer.metadata.uid, created.metadata.uid);
        let error = pods.replace("p", &PostParams::default(), &created).await.expect_err("stale");
        let status = refused(error);
        assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
        assert!(status.message.contains("the object has been modified"), "{}", status.message);
    });
}

#[test]
fn a_patch_with_another_version_or_uid_fails_and_changes_nothing() {
    let server = start();
    server.put(pod("default", "p", "n1", &json!({}))).expect("a pod");
    run(async {
        let pods: Api<Pod> = Api::default_namespaced(client(&server.kubeconfig()).await);
        let params = PatchParams::default();
        let with = |key: &str, value: &str| {
            let metadata = json!({ key: value, "annotations": { "b": "2" } });
            Patch::Merge(json!({ "metadata": metadata }))
        };
        let status =
            refused(pods.patch("p", &params, &with("resourceVersion", "1")).await.expect_err("stale"));
        assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
        let status = refused(pods.patch("p", &params, &with("uid", "other")).await.expect_err("other"));
        assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
        assert!(status.message.contains("field is immutable"), "{}", status.message);
        let found = pods.get("p").await.expect("the pod");
        assert_eq!(annotation(&found, "b"), None);
        let uid = found.metadata.uid.expect("a UID");
        let patched = pods.patch("p", &params, &with("uid", &uid)).await.expect("patched");
        assert_eq!(annotation(&patched, "b").as_deref(), Some("2"));
    });
}

#[test]
fn status_and_the_rest_are_written_apart() {
    let server = start();
    server.put(pod("default", "p", "n1", &json!({ "a": "1" }))).expect("a pod");
    run(async {
        let pods: Api<Pod> = Api::default_namespaced(client(&server.kubeconfig()).await);
        let patch = json!({
            "metadata": { "annotations": { "b": "2" } },
            "spec": { "nodeName": "n2" },
            "status": { "phase": "Running" },
        });
        let params = PatchParams::default();
        pods.patch_status("p", &params, &Patch::Strategic(&patch)).await.expect("patched");
        let found = server.get("pods", "default", "p").expect("the pod");
        assert_eq!(found["status"]["phase"], "Running");
        // A pod's annotations may be written by way of its status: network-status is.
        assert_eq!(found["metadata"]["annotations"], json!({ "a": "1", "b": "2" }));
        assert_eq!(found["spec"]["nodeName"], "n1");
        let patch = json!({ "status": { "phase": "Failed" } });
        pods.patch("p", &params, &Patch::Merge(&patch)).await.expect("patched");
        assert_eq!(server.get("pods", "default", "p").expect("the pod")["status"]["phase"], "Running");
        let error = networks(&client(&server.kubeconfig()).await)
            .patch_status("n", &params, &Patch::Merge(&patch))
            .await
            .expect_err("NADs have no status");
        assert_eq!(refused(error).code, 404);
    });
}

#[test]
fn lists_are_selected_and_paged_from_one_state() {
    let server = start();
    for name in ["a", "b", "c", "d"] {
        server.put(pod("default", name, if name == "d" { "n2" } else { "n1" }, &json!({}))).expect("a pod");
    }
    server.put(pod("other", "a", "n1", &json!({}))).expect("a pod");
    run(async {
        let client = client(&server.kubeconfig()).await;
        let pods: Api<Pod> = Api::all(client.clone());
        let params = ListParams::default().fields("spec.nodeName=n1");
        assert_eq!(pods.list(&params).await.expect("a list").items.len(), 4);
        let error = networks(&client).list(&params).await.expect_err("NADs have no such field");
        assert_eq!(refused(error).code, 400);

        let pods: Api<Pod> = Api::default_namespaced(client);
        let page = ListParams::default().limit(3);
        let first = pods.list(&page).await.expect("a page");
        assert_eq!((first.items.len(), first.metadata.remaining_item_count), (3, Some(1)));
        // Gone meanwhile, but not from the list that was begun.
        assert!(server.delete("pods", "default", "d"));
        let token = first.metadata.continue_.expect("a token");
        let second = pods.list(&page.clone().continue_token(&token)).await.expect("a page");
        let names: Vec<_> = second.items.iter().filter_map(|it| it.metadata.name.as_deref()).collect();
        assert_eq!((names, second.metadata.continue_), (vec!["d"], None));
        server.compact();
        let status = refused(pods.list(&page.continue_token(&token)).await.expect_err("too old"));
        assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    });
}

#[test]
fn deleting_asks_for_the_uid_and_waits_for_finalizers() {
    let server = start();
    let mut held = pod("default", "p", "n1", &json!({}));
    held["metadata"]["finalizers"] = json!(["example.org/hold"]);
    server.put(held).expect("a pod");
    run(async {
        let pods: Api<Pod> = Api::default_namespaced(client(&server.kubeconfig()).await);
        let preconditions = Preconditions { uid: Some("other".to_owned()), resource_version: None };
        let other = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        assert_eq!(refused(pods.delete("p", &other).await.expect_err("another UID")).code, 409);
        pods.delete("p", &DeleteParams::default()).await.expect("marked");
        assert!(pods.get("p").await.expect("still there").metadata.deletion_timestamp.is_some());
        let patch = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        pods.patch("p", &PatchParams::default(), &patch).await.expect("let go");
        let status = refused(pods.get("p").await.expect_err("gone"));
        assert_eq!((status.code, status.message.as_str()), (404, "pods \"p\" not found"));
    });
}

/// What a watch says of a pod: the kind of event, its name, its version.
fn told(event: WatchEvent<Pod>) -> (&'static str, String) {
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap_or_default();
    match event {
        WatchEvent::Added(pod) => ("added", name(&pod)),
        WatchEvent::Modified(pod) => ("modified", name(&pod)),
        WatchEvent::Deleted(pod) => ("deleted", name(&pod)),
        WatchEvent::Bookmark(it) => ("bookmark", it.metadata.resource_version),
        WatchEvent::Error(status) => ("error", format!("{} {}", status.code, status.reason)),
    }
}

#[test]
fn a_watch_tells_what_comes_to_match_and_what_ceases_to() {
    let server = start();
    let since = server.version().to_string();
    for (name, node) in [("a", "n1"), ("b", "n2")] {
        server.put(pod("default", name, node, &json!({}))).expect("a pod");
    }
    run(async {
        let pods: Api<Pod> = Api::all(client(&server.kubeconfig()).await);
        let params = WatchParams::default().fields("spec.nodeName=n1");
        let mut events = pods.watch(&params, &since).await.expect("a watch").boxed().map_ok(told);
        let mut next = async || events.next().await.expect("an event").expect("readable");
        assert_eq!(next().await, ("added", "a".to_owned()));
        server.put(pod("default", "a", "n1", &json!({ "x": "y" }))).expect("a pod");
        assert_eq!(next().await, ("modified", "a".to_owned()));
        server.put(pod("default", "b", "n1", &json!({}))).expect("a pod");
        assert_eq!(next().await, ("added", "b".to_owned()));
        server.put(pod("default", "a", "n2", &json!({}))).expect("a pod");
        assert_eq!(next().await, ("deleted", "a".to_owned()));
        let version = server.bump();
        server.bookmark();
        assert_eq!(next().await, ("bookmark", version.to_string()));
        assert_eq!(server.watches("pods"), 1);
    });
}

#[test]
fn a_watch_from_a_forgotten_version_is_told_so() {
    let server = start();
    let since = server.version().to_string();
    server.bump();
    server.compact();
    run(async {
        let pods: Api<Pod> = Api::all(client(&server.kubeconfig()).await);
        let events = pods.watch(&WatchParams::default(), &since).await.expect("a watch");
        let events: Vec<_> = events.map_ok(told).try_collect().await.expect("an end");
        assert_eq!(events, [("error", "410 Expired".to_owned())]);
    });
}

#[test]
fn objects_of_custom_resources_are_kept_and_namespaces_must_exist() {
    let server = start();
    run(async {
        let client = client(&server.kubeconfig()).await;
        let object = nad("default", "n", &json!({ "cniVersion": "1.0.0", "type": "macvlan" }));
        let object: DynamicObject = serde_json::from_value(object).expect("a NAD");
        let created = networks(&client).create(&PostParams::default(), &object).await.expect("created");
        assert_eq!(created.metadata.generation, Some(1));
        let status =
            refused(networks(&client).create(&PostParams::default(), &object).await.expect_err("twice"));
        assert_eq!((status.code, status.reason.as_str()), (409, "AlreadyExists"));
        let patch = Patch::Merge(json!({ "spec": { "config": "{}" } }));
        let patched = networks(&client).patch("n", &PatchParams::default(), &patch).await.expect("patched");
        assert_eq!(patched.metadata.generation, Some(2));

        let pods: Api<Pod> = Api::namespaced(client.clone(), "nowhere");
        let mut pod = a_pod("p");
        pod.metadata.namespace = Some("nowhere".to_owned());
        let status = refused(pods.create(&PostParams::default(), &pod).await.expect_err("no namespace"));
        assert_eq!((status.code, status.message.as_str()), (404, "namespaces \"nowhere\" not found"));
        let all: Api<Namespace> = Api::all(client);
        assert!(all.get("default").await.is_ok());
    });
}

#[test]
fn an_event_is_the_same_in_both_groups() {
    let server = start();
    let event: Value = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": { "name": "e", "namespace": "default" },
        "eventTime": "2026-01-01T00:00:00.000000Z", "reason": "AddedInterface", "type": "Normal",
        "note": "Add net1", "reportingController": "netplane", "reportingInstance": "n1", "action": "Add",
        "regarding": { "kind": "Pod", "name": "p", "namespace": "default" },
    });
    run(async {
        let client = client(&server.kubeconfig()).await;
        let new: Api<k8s_openapi::api::events::v1::Event> = Api::default_namespaced(client.clone());
        let event = serde_json::from_value(event).expect("an event");
        let created = new.create(&PostParams::default(), &event).await.expect("created");
        assert_eq!(created.note.as_deref(), Some("Add net1"));
        let old: Api<k8s_openapi::api::core::v1::Event> = Api::default_namespaced(client);
        let params = ListParams::default().fields("involvedObject.name=p");
        let found = old.list(&params).await.expect("a list").items.pop().expect("the event");
        assert_eq!(found.message.as_deref(), Some("Add net1"));
        assert_eq!(found.reporting_component.as_deref(), Some("netplane"));
        assert_eq!(found.involved_object.name.as_deref(), Some("p"));
    });
}
