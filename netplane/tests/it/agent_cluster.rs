//! The agent that follows a cluster: what its socket knows of pods and NADs, through outages and renewed
//! tokens, and what the plugin makes of it.

use crate::agent::{forwarding, lab, problems, sandbox, until};
use netplane::nad::dir;
use netplane_bench::lab::apiserver::{ApiServer, Fault, Options, TOKEN, nad, pod};
use netplane_bench::lab::{Lab, Process, wait_for};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const NODE: &str = "node-1";

/// An API server in the node's namespace.
pub(crate) fn api_server(lab: &Lab) -> ApiServer {
    let started = lab.node.run(|| ApiServer::start(&Options::default())).expect("the node's namespace");
    started.expect("an API server")
}

pub(crate) fn start(lab: &Lab, server: &ApiServer) -> Process {
    start_with(lab, server, &[])
}

fn start_with(lab: &Lab, server: &ApiServer, more: &[&str]) -> Process {
    let kubeconfig = server.kubeconfig();
    let kubeconfig = kubeconfig.to_str().expect("UTF-8");
    let cluster = ["--kubeconfig", kubeconfig, "--node-name", NODE];
    lab.start_agent_with(&[&cluster, more].concat()).expect("an agent")
}

/// GET on the agent's socket: the status, and the object if there is one.
fn ask(lab: &Lab, path: &str) -> Option<(u16, Value)> {
    let mut stream = UnixStream::connect(lab.socket()).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: netplane\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let code = text.split(' ').nth(1)?.parse().ok()?;
    let body = text.split_once("\r\n\r\n")?.1;
    Some((code, serde_json::from_str(body).unwrap_or_default()))
}

/// Waits for an answer.
#[track_caller]
pub(crate) fn until_answer(
    lab: &Lab,
    agent: &Process,
    path: &str,
    wanted: impl Fn(u16, &Value) -> bool,
) -> Value {
    let probe = || Ok(ask(lab, path).filter(|(code, object)| wanted(*code, object)));
    let what = format!("answer to {path}");
    let found = wait_for(&what, LIMIT, probe);
    found.unwrap_or_else(|error| panic!("{error}: {:?}\n{}", ask(lab, path), agent.log_tail())).1
}

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";

#[test]
fn pods_of_this_node_and_all_nads_are_known_as_they_change() {
    let lab = lab();
    let server = api_server(&lab);
    let annotations = json!({
        NETWORKS: "n3", "k8s.v1.cni.cncf.io/network-status": "[]",
        "kubectl.kubernetes.io/last-applied-configuration": "long",
    });
    let mine = server.put(pod("core", "upf-0", NODE, &annotations)).expect("a pod");
    server.put(pod("core", "smf-0", "node-2", &json!({}))).expect("a pod");
    let config = json!({ "type": "macvlan" });
    server.put(nad("core", "n3", &config)).expect("a NAD");
    let agent = start(&lab, &server);

    let found = until_answer(&lab, &agent, "/v1/pods/core/upf-0", |code, _| code == 200);
    assert_eq!(found, json!({ "uid": mine["metadata"]["uid"], "annotations": { NETWORKS: "n3" } }));
    let found = until_answer(&lab, &agent, "/v1/networks/core/n3", |code, _| code == 200);
    assert_eq!(found, json!({ "config": config.to_string(), "annotations": {} }));
    for unknown in ["/v1/pods/core/smf-0", "/v1/pods/core/absent", "/v1/networks/core/absent"] {
        assert_eq!(ask(&lab, unknown).map(|it| it.0), Some(404), "{unknown}");
    }

    server.put(pod("core", "upf-0", NODE, &json!({ NETWORKS: "n6" }))).expect("a pod");
    until_answer(&lab, &agent, "/v1/pods/core/upf-0", |_, it| it["annotations"][NETWORKS] == "n6");
    // Scheduled to this node only now.
    server.put(pod("core", "smf-0", NODE, &json!({}))).expect("a pod");
    until_answer(&lab, &agent, "/v1/pods/core/smf-0", |code, _| code == 200);
    assert!(server.delete("pods", "core", "upf-0"));
    until_answer(&lab, &agent, "/v1/pods/core/upf-0", |code, _| code == 404);
    assert!(server.delete("network-attachment-definitions", "core", "n3"));
    until_answer(&lab, &agent, "/v1/networks/core/n3", |code, _| code == 404);
    let asked = server.journal();
    let of_pods: Vec<_> = asked.iter().filter(|it| it.path.ends_with("/pods")).collect();
    assert!(of_pods.iter().all(|it| it.query.contains("spec.nodeName%3Dnode-1")), "{of_pods:?}");
    agent.terminate().expect("a clean end");
}

#[test]
fn an_agent_says_so_while_it_does_not_know_yet() {
    let lab = lab();
    let server = api_server(&lab);
    server.put(pod("core", "upf-0", NODE, &json!({}))).expect("a pod");
    server.fail(1000, "list", "", Fault::Answer { code: 503, retry_after: None });
    let agent = start(&lab, &server);
    until_answer(&lab, &agent, "/v1/pods/core/upf-0", |code, _| code == 503);
    assert_eq!(ask(&lab, "/v1/networks/core/n3").map(|it| it.0), Some(503));
    let status = until(&lab, &agent, "a problem for each watch", |it| problems(it).len() == 2);
    // Its pins, if there were any, would be left as they are.
    assert_eq!(status["ready"], false);
    assert!(problems(&status)[0].starts_with("watch of the cluster's "), "{:?}", problems(&status));
    server.clear_faults();
    until_answer(&lab, &agent, "/v1/pods/core/upf-0", |code, _| code == 200);
    until(&lab, &agent, "all is well", |it| it["ready"] == true && problems(it).is_empty());
    agent.terminate().expect("a clean end");
}

#[test]
fn what_is_known_outlives_an_outage_and_is_brought_up_to_date() {
    let lab = lab();
    let server = api_server(&lab);
    server.put(pod("core", "upf-0", NODE, &json!({ NETWORKS: "n3" }))).expect("a pod");
    let agent = start(&lab, &server);
    until_answer(&lab, &agent, "/v1/pods/core/upf-0", |code, _| code == 200);
    server.down().expect("down");
    until(&lab, &agent, "the outage is seen", |it| !problems(it).is_empty());
    assert_eq!(ask(&lab, "/v1/pods/core/upf-0").map(|it| it.0), Some(200));
    server.put(pod("core", "upf-0", NODE, &json!({ NETWORKS: "n6" }))).expect("a pod");
    server.compact();
    server.up().expect("up");
    until_answer(&lab, &agent, "/v1/pods/core/upf-0", |_, it| it["annotations"][NETWORKS] == "n6");
    // Cut in the middle of an event, and told that its version is too old: each time it catches up.
    server.cut_watches();
    server.put(pod("core", "upf-0", NODE, &json!({ NETWORKS: "n7" }))).expect("a pod");
    until_answer(&lab, &agent, "/v1/pods/core/upf-0", |_, it| it["annotations"][NETWORKS] == "n7");
    server.expire_watches();
    assert!(server.delete("pods", "core", "upf-0"));
    until_answer(&lab, &agent, "/v1/pods/core/upf-0", |code, _| code == 404);
    until(&lab, &agent, "all is well", |it| problems(it).is_empty());
    agent.terminate().expect("a clean end");
}

#[test]
fn renewed_credentials_are_read_and_without_them_nothing_is_claimed() {
    let lab = lab();
    let server = api_server(&lab);
    server.put(pod("core", "upf-0", NODE, &json!({}))).expect("a pod");
    let agent = start(&lab, &server);
    until_answer(&lab, &agent, "/v1/pods/core/upf-0", |code, _| code == 200);
    server.set_tokens(Some(&["renewed"]));
    server.end_watches();
    // Others may have a token that is valid, and would be told what is old.
    until_answer(&lab, &agent, "/v1/pods/core/upf-0", |code, _| code == 503);
    let status = until(&lab, &agent, "both are refused", |it| problems(it).len() == 2);
    assert!(problems(&status).iter().all(|it| it.contains("Unauthorized")), "{:?}", problems(&status));
    server.write_kubeconfig(&server.kubeconfig(), Some("renewed")).expect("a kubeconfig");
    until_answer(&lab, &agent, "/v1/pods/core/upf-0", |code, _| code == 200);
    // The authority as well.
    server.rotate_ca().expect("another authority");
    server.put(pod("core", "upf-1", NODE, &json!({}))).expect("a pod");
    until_answer(&lab, &agent, "/v1/pods/core/upf-1", |code, _| code == 200);
    agent.terminate().expect("a clean end");
}

/// In a mount namespace that shows the agent what kubelet mounts into a pod.
#[test]
fn in_cluster_is_the_pods_service_account() {
    let lab = lab();
    let server = api_server(&lab);
    server.put(pod("core", "upf-0", NODE, &json!({}))).expect("a pod");
    let account = lab.folder().join("account");
    server.write_service_account(&account, TOKEN, "netplane").expect("a service account");
    let mut command = lab.node.command("unshare");
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c"]);
    let places = "/run/secrets/kubernetes.io";
    command.arg(format!(
        "mount -t tmpfs none /run && mkdir -p {places} && ln -s \"$0\" {places}/serviceaccount && exec \"$@\""
    ));
    command.arg(&account).arg(lab.binary()).args(["agent", "--kubeconfig", "in-cluster"]);
    command.arg("--socket").arg(lab.socket()).arg("--bpffs").arg(lab.bpffs());
    command.arg("--nad-dir").arg(lab.nad_dir()).arg("--record-dir").arg(lab.record_dir());
    let address = server.address();
    command.env("KUBERNETES_SERVICE_HOST", address.ip().to_string());
    command.env("KUBERNETES_SERVICE_PORT", address.port().to_string()).env("NODE_NAME", NODE);
    let agent = lab.spawn("agent", command).expect("an agent");
    until_answer(&lab, &agent, "/v1/pods/core/upf-0", |code, _| code == 200);
    // Kubelet renews the token in place; the folder is a link to what it has written.
    server.set_tokens(Some(&["renewed"]));
    server.end_watches();
    until(&lab, &agent, "both are refused", |it| problems(it).len() == 2);
    std::fs::write(account.join("token"), "renewed").expect("a token");
    until_answer(&lab, &agent, "/v1/pods/core/upf-0", |code, _| code == 200);
    agent.terminate().expect("a clean end");
}

/// Puts the lab's NAD files into the cluster instead.
fn move_nads(lab: &Lab, server: &ApiServer) {
    for (path, found) in dir::load(&lab.nad_dir()).expect("NADs").nads {
        let config: Value = serde_json::from_str(&found.config).expect("JSON");
        let mut object = nad(&found.name.namespace, &found.name.name, &config);
        object["metadata"]["annotations"] = json!(found.annotations);
        server.put(object).expect("a NAD");
        std::fs::remove_file(path).expect("removed");
    }
}

#[test]
fn nads_of_the_cluster_feed_the_fast_path() {
    let lab = lab();
    sandbox(&lab).add(&lab).expect("attached");
    let server = api_server(&lab);
    move_nads(&lab, &server);
    let agent = start(&lab, &server);
    until(&lab, &agent, "sessions forward", |it| forwarding(it, 3));
    // Without the cluster a new agent knows too little to take anything down.
    agent.kill().expect("kill -9");
    server.down().expect("down");
    let agent = start(&lab, &server);
    let status = until(&lab, &agent, "it says so", |it| !problems(it).is_empty());
    assert_eq!(status["ready"], false);
    let links = lab.node.ip_json(&["link", "show", "n3"]).expect("the master");
    assert!(links[0].pointer("/xdp/prog/id").is_some(), "{links:?}");
    server.up().expect("up");
    until(&lab, &agent, "sessions forward again", |it| forwarding(it, 3));
    assert!(server.delete("network-attachment-definitions", "core", "n3"));
    until(&lab, &agent, "no sessions", |it| it["sessions"].as_array().is_some_and(Vec::is_empty));
    agent.terminate().expect("a clean end");
}

/// A pod in the cluster, and the plugin called for it with nothing but cluster and agent to ask.
pub(crate) struct Caller<'a> {
    lab: &'a Lab,
    configuration: Value,
    uid: String,
}

impl<'a> Caller<'a> {
    pub(crate) fn new(lab: &'a Lab, server: &ApiServer) -> Self {
        move_nads(lab, server);
        let known = server.put(pod("core", "upf-0", NODE, &json!({ NETWORKS: "n3, n6" }))).expect("a pod");
        let configuration = json!({
            "cniVersion": "1.1.0", "name": "test", "type": "netplane",
            "clusterNetwork": "core/default-network",
            "kubeconfig": server.kubeconfig(), "agentSocket": lab.socket(),
        });
        let uid = known["metadata"]["uid"].as_str().expect("a UID").to_owned();
        Self { lab, configuration, uid }
    }

    /// An agent that knows all that the plugin will ask for.
    pub(crate) fn agent(&self, server: &ApiServer) -> Process {
        self.agent_with(server, &[])
    }

    pub(crate) fn agent_with(&self, server: &ApiServer, more: &[&str]) -> Process {
        let agent = start_with(self.lab, server, more);
        for path in ["/v1/pods/core/upf-0", "/v1/networks/core/n6", "/v1/networks/core/default-network"] {
            until_answer(self.lab, &agent, path, |code, _| code == 200);
        }
        agent
    }

    /// The pod selects these networks from now on, and the agent knows.
    pub(crate) fn select(&self, server: &ApiServer, agent: &Process, networks: &str) {
        server.put(pod("core", "upf-0", NODE, &json!({ NETWORKS: networks }))).expect("a pod");
        until_answer(self.lab, agent, "/v1/pods/core/upf-0", |_, it| it["annotations"][NETWORKS] == networks);
    }

    #[track_caller]
    pub(crate) fn call(&self, verb: &str, agent: &Process) {
        let output = self.run(verb);
        assert!(output.status.success(), "{verb}: {output:?}\n{}", agent.log_tail());
    }

    pub(crate) fn run(&self, verb: &str) -> Output {
        let mut command = self.lab.plugin().expect("unshare");
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", "sandbox").env("CNI_IFNAME", "eth0");
        command.env("CNI_NETNS", self.lab.pod.path()).env("CNI_PATH", "/opt/cni/bin");
        let pod = "IgnoreUnknown=1;K8S_POD_NAMESPACE=core;K8S_POD_NAME=upf-0";
        command.env("CNI_ARGS", format!("{pod};K8S_POD_UID={}", self.uid));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the plugin starts");
        write!(child.stdin.take().expect("stdin"), "{}", self.configuration).expect("read");
        child.wait_with_output().expect("it ends")
    }
}

/// The interfaces in the pod's `network-status`.
fn reported(server: &ApiServer) -> Vec<String> {
    let pod = server.get("pods", "core", "upf-0").expect("the pod");
    let text = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"].as_str().unwrap_or("[]");
    let status: Vec<Value> = serde_json::from_str(text).expect("a list");
    status.iter().filter_map(|it| it["interface"].as_str().map(str::to_owned)).collect()
}

#[track_caller]
pub(crate) fn until_reported(server: &ApiServer, agent: &Process) {
    let wanted = ["eth0", "net1", "net2"];
    let probe = || Ok((reported(server) == wanted).then_some(()));
    wait_for("network-status", LIMIT, probe).unwrap_or_else(|error| panic!("{error}\n{}", agent.log_tail()));
}

#[test]
fn with_the_agent_the_plugin_reads_nothing_from_the_api_server() {
    let lab = lab();
    let server = api_server(&lab);
    let caller = Caller::new(&lab, &server);
    let agent = caller.agent(&server);
    server.take_journal();
    caller.call("ADD", &agent);
    let interfaces = lab.pod.interfaces().expect("interfaces");
    for wanted in ["eth0", "net1", "net2"] {
        assert!(interfaces.iter().any(|it| it == wanted), "{interfaces:?}");
    }
    until_reported(&server, &agent);
    wait_for("events", LIMIT, || Ok((server.all("events").len() == 3).then_some(()))).expect("one for each");
    assert_eq!((server.count("get", ""), server.count("patch", "/status")), (0, 1), "{:?}", server.journal());
    caller.call("DEL", &agent);
    agent.terminate().expect("a clean end");
}

#[test]
fn an_add_in_an_outage_is_reported_afterwards_even_by_another_agent() {
    let lab = lab();
    let server = api_server(&lab);
    let caller = Caller::new(&lab, &server);
    let agent = caller.agent(&server);
    server.down().expect("down");
    caller.call("ADD", &agent);
    agent.kill().expect("kill -9");
    assert_eq!(reported(&server), Vec::<String>::new());
    server.up().expect("up");
    let agent = caller.agent(&server);
    until_reported(&server, &agent);
    caller.call("DEL", &agent);

    // What has been detached before it could be said is not said.
    server.put(pod("core", "upf-0", NODE, &json!({ NETWORKS: "n3, n6" }))).expect("without a status");
    server.down().expect("down");
    caller.call("ADD", &agent);
    caller.call("DEL", &agent);
    server.up().expect("up");
    let said = || Ok(agent.log_tail().contains("detached or attached anew meanwhile").then_some(()));
    wait_for("the report is given up", LIMIT, said).unwrap_or_else(|it| panic!("{it}\n{}", agent.log_tail()));
    assert_eq!(reported(&server), Vec::<String>::new());
    agent.terminate().expect("a clean end");
}
