//! The plugin with an agent at its socket: this side of the protocol, against a server that speaks the other.

use super::Stage;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use netplane::cluster::cache::PodReport;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

type Shared = Arc<Mutex<Known>>;

/// What the agent knows and is told.
#[derive(Default)]
struct Known {
    /// By path below `/v1/`.
    objects: BTreeMap<String, Value>,
    takes_reports: bool,
    reports: Vec<PodReport>,
}

/// An agent at a socket in the stage's folder; it ends with the value.
struct Agent {
    known: Shared,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    fn start(socket: &std::path::Path) -> Self {
        let known = Shared::default();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = {
            let _inside = runtime.enter();
            tokio::net::UnixListener::bind(socket).expect("a socket")
        };
        let router = Router::new()
            .route("/v1/pods/{namespace}/{name}", get(object))
            .route("/v1/networks/{namespace}/{name}", get(object))
            .route("/v1/pods/{namespace}/{name}/report", post(report))
            .with_state(known.clone());
        let serve = async {
            axum::serve(listener, router).with_graceful_shutdown(async { drop(stopped.await) }).await
        };
        let thread = std::thread::spawn(move || drop(runtime.block_on(serve)));
        Self { known, stop: Some(stop), thread: Some(thread) }
    }

    fn knows(&self, path: &str, object: Value) {
        self.known.lock().expect("no panic").objects.insert(path.to_owned(), object);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn object(State(known): State<Shared>, uri: axum::http::Uri) -> Response {
    let path = uri.path().trim_start_matches("/v1/");
    match known.lock().expect("no panic").objects.get(path) {
        Some(object) => Json(object.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn report(
    State(known): State<Shared>,
    Path(_pod): Path<(String, String)>,
    Json(report): Json<PodReport>,
) -> StatusCode {
    let mut known = known.lock().expect("no panic");
    if !known.takes_reports {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    known.reports.push(report);
    StatusCode::ACCEPTED
}

/// A stage whose agent knows pod and NADs as the API server has them.
fn stage() -> (Stage, Agent, Value) {
    let mut stage = Stage::selecting("n3");
    let socket = stage.node.folder().join("agent.sock");
    let agent = Agent::start(&socket);
    let uid = stage.uid();
    stage.pass_uid(&uid);
    agent.knows(
        "pods/core/upf-0",
        json!({ "uid": uid, "annotations": { "k8s.v1.cni.cncf.io/networks": "n3" } }),
    );
    for name in ["default-network", "n3"] {
        let nad = stage.server.get("network-attachment-definitions", "core", name).expect("a NAD");
        agent.knows(&format!("networks/core/{name}"), json!({ "config": nad["spec"]["config"] }));
    }
    let mut configuration = stage.configuration();
    configuration["agentSocket"] = json!(socket);
    (stage, agent, configuration)
}

#[test]
fn with_an_agent_the_api_server_is_not_asked() {
    let (stage, agent, configuration) = stage();
    agent.known.lock().expect("no panic").takes_reports = true;
    stage.add(&configuration);
    assert_eq!(stage.pod.interfaces(), ["eth0", "net1"]);
    assert!(stage.server.journal().is_empty(), "{:?}", stage.server.journal());
    let known = agent.known.lock().expect("no panic");
    let [report] = known.reports.as_slice() else { panic!("one report: {:?}", known.reports) };
    assert_eq!(report.uid.as_deref(), Some(stage.uid().as_str()));
    assert_eq!((report.container_id.as_str(), report.interface.as_str()), (stage.pod.name.as_str(), "eth0"));
    let status: Value =
        serde_json::from_str(report.network_status.as_deref().expect("a status")).expect("JSON");
    assert_eq!(status[1]["ips"], json!(["10.30.0.2"]));
    assert_eq!(report.events.len(), 2);
}

#[test]
fn what_the_agent_does_not_take_the_plugin_writes() {
    let (stage, _agent, configuration) = stage();
    stage.add(&configuration);
    assert_eq!(stage.requests(), ["patch pods/upf-0/status"]);
    assert!(stage.status().is_some());
}

#[test]
fn what_the_agent_does_not_know_the_api_server_does() {
    let (stage, agent, configuration) = stage();
    agent.known.lock().expect("no panic").objects.remove("networks/core/n3");
    stage.add(&configuration);
    assert_eq!(stage.requests(), ["get network-attachment-definitions/n3", "patch pods/upf-0/status"]);
}

#[test]
fn an_agent_that_is_behind_is_not_believed() {
    let (stage, agent, configuration) = stage();
    // The predecessor of the pod, with other networks.
    agent.knows(
        "pods/core/upf-0",
        json!({ "uid": "old", "annotations": { "k8s.v1.cni.cncf.io/networks": "n6" } }),
    );
    stage.add(&configuration);
    assert!(stage.pod.ip("address show net1").contains("10.30.0.2/24"));
    assert!(stage.requests().contains(&"get pods/upf-0".to_owned()));
}

#[test]
fn without_its_agent_the_plugin_goes_to_the_api_server() {
    let (stage, agent, mut configuration) = stage();
    drop(agent);
    stage.add(&configuration);
    assert!(stage.requests().contains(&"get pods/upf-0".to_owned()));
    stage.call("DEL", &configuration).expect("detached");
    // One that takes connections and never answers.
    let stuck = stage.node.folder().join("stuck.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&stuck).expect("a socket");
    configuration["agentSocket"] = json!(stuck);
    stage.add(&configuration);
    assert_eq!(stage.pod.interfaces(), ["eth0", "net1"]);
    assert!(stage.status().is_some());
}

#[test]
fn an_agent_that_does_not_answer_is_named_where_nobody_else_can_be_asked() {
    let (stage, agent, mut configuration) = stage();
    let stuck = stage.node.folder().join("stuck.sock");
    let listener = std::os::unix::net::UnixListener::bind(&stuck).expect("a socket");
    let (socket, kubeconfig) = (configuration["agentSocket"].clone(), configuration["kubeconfig"].take());
    configuration["agentSocket"] = json!(stuck);
    let mut by_runtime = configuration.clone();
    by_runtime["runtimeConfig"] =
        json!({ "io.kubernetes.cri.pod-annotations": { "k8s.v1.cni.cncf.io/networks": "n3" } });
    // Without its networks the pod must not run, whatever they are.
    for (configuration, what) in
        [(&configuration, "pod core/upf-0: "), (&by_runtime, "network core/default-network: ")]
    {
        let (code, message) = stage.add_fails(configuration);
        let expected =
            format!("{what}no answer from the agent at {}: no answer within 1000 ms", stuck.display());
        assert!(message.starts_with(&expected), "{message}");
        assert_eq!(code, 11, "it may answer later");
    }
    drop(listener);
    let (code, message) = stage.add_fails(&configuration);
    assert!(message.contains(&stuck.display().to_string()) && message.contains("refused"), "{message}");
    assert_eq!(code, 11);
    // With all at hand nobody needs it.
    let nads = stage.node.folder().join("nads");
    for name in ["default-network", "n3"] {
        let nad = stage.server.get("network-attachment-definitions", "core", name).expect("a NAD");
        std::fs::write(nads.join(format!("{name}.json")), nad.to_string()).expect("written");
    }
    by_runtime["nadDir"] = json!(nads);
    stage.add(&by_runtime);
    stage.call("DEL", &configuration).expect("detached");
    // One that answers has said that there is no such network.
    configuration["agentSocket"] = socket.clone();
    agent.known.lock().expect("no panic").objects.remove("networks/core/n3");
    let (code, message) = stage.add_fails(&configuration);
    let expected = format!(
        "network core/n3: no such NAD in the cluster of the agent at {}",
        socket.as_str().expect("a path")
    );
    assert!(message.starts_with(&expected), "{message}");
    assert_eq!(code, 7);
    assert!(stage.server.journal().is_empty(), "nobody was asked: {kubeconfig}");
}
