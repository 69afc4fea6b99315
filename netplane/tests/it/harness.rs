//! A node and its pods as named network namespaces of one test, and the plugin called in them. All goes
//! with the value, also on a panic.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// A node with the masters `n3` and `n6`, and folders of its own.
pub(crate) struct Node {
    prefix: String,
    folder: tempfile::TempDir,
    pods: u32,
    /// `CNI_ARGS` of every call.
    pub(crate) args: String,
    /// Results of ADD by container: a runtime keeps them for CHECK and DEL.
    results: Mutex<BTreeMap<String, Value>>,
}

impl Node {
    pub(crate) fn new() -> Self {
        static NODES: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("nt{}x{}", std::process::id(), NODES.fetch_add(1, Ordering::Relaxed));
        let args = "K8S_POD_NAMESPACE=core;K8S_POD_NAME=upf-0".to_owned();
        let node = Self {
            prefix,
            folder: tempfile::tempdir().expect("a folder"),
            pods: 0,
            args,
            results: Mutex::default(),
        };
        run("ip", &["netns", "add", &node.name()]);
        for master in ["n3", "n6"] {
            node.ip(&format!("link add {master} type veth peer name {master}p"));
            node.ip(&format!("link set {master} up"));
            node.ip(&format!("link set {master}p up"));
        }
        std::fs::create_dir(node.folder.path().join("nads")).expect("a folder");
        node
    }

    fn name(&self) -> String {
        format!("{}-node", self.prefix)
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        ip_in(&self.name(), arguments)
    }

    /// Runs a program in the node's namespace.
    pub(crate) fn exec(&self, command: &str) -> Result<String, String> {
        exec_in(&self.name(), command)
    }

    /// Its network namespace.
    pub(crate) fn netns(&self) -> PathBuf {
        Path::new("/run/netns").join(self.name())
    }

    /// A folder for what else a test needs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.folder.path().join("records")
    }

    pub(crate) fn ipam(&self) -> PathBuf {
        self.folder.path().join("ipam")
    }

    pub(crate) fn nads(&self) -> PathBuf {
        self.folder.path().join("nads")
    }

    /// A NAD `core/NAME` with this `spec.config`.
    pub(crate) fn nad(&self, name: &str, config: &Value) {
        let nad = json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": { "name": name, "namespace": "core" },
            "spec": { "config": config.to_string() },
        });
        std::fs::write(self.nads().join(format!("{name}.json")), nad.to_string()).expect("a NAD");
    }

    /// macvlan on a master with host-local addresses in this node's folder.
    pub(crate) fn macvlan(&self, master: &str, subnet: &str) -> Value {
        json!({
            "cniVersion": "1.1.0", "type": "macvlan", "master": master, "mode": "bridge",
            "ipam": { "type": "host-local", "dataDir": self.ipam(), "subnet": subnet },
        })
    }

    /// The networks that most tests use.
    pub(crate) fn usual_nads(&self) {
        self.nad("default-network", &self.macvlan("n3", "10.20.0.0/24"));
        self.nad("n3", &self.macvlan("n3", "10.30.0.0/24"));
        let mut n6 = self.macvlan("n6", "10.40.0.0/24");
        n6["ipam"]["routes"] = json!([{ "dst": "0.0.0.0/0" }]);
        self.nad("n6", &n6);
    }

    pub(crate) fn pod(&mut self) -> Pod {
        self.pods += 1;
        let name = format!("{}-pod{}", self.prefix, self.pods);
        run("ip", &["netns", "add", &name]);
        Pod { name }
    }

    /// The plugin's configuration in a version.
    pub(crate) fn configuration(&self, version: &str, networks: &str) -> Value {
        json!({
            "cniVersion": version, "name": "test", "type": "netplane",
            "nadDir": self.nads(), "cniDir": self.records(), "clusterNetwork": "core/default-network",
            "runtimeConfig": { "io.kubernetes.cri.pod-annotations": { "k8s.v1.cni.cncf.io/networks": networks } },
        })
    }

    /// Calls the plugin on this node as a runtime does: CHECK and DEL come with the result of the last ADD,
    /// unless the configuration has one already.
    pub(crate) fn call(&self, verb: &str, pod: &Pod, configuration: &Value) -> Result<Option<Value>, Value> {
        let mut configuration = configuration.clone();
        if matches!(verb, "CHECK" | "DEL")
            && configuration.get("prevResult").is_none()
            && let Some(result) = self.results.lock().expect("no panic").get(&pod.name)
        {
            configuration["prevResult"] = result.clone();
        }
        let answer = self.call_in(verb, &pod.name, &pod.path(), &configuration.to_string());
        if let ("ADD", Ok(Some(result))) = (verb, &answer) {
            self.results.lock().expect("no panic").insert(pod.name.clone(), result.clone());
        }
        answer
    }

    pub(crate) fn call_in(
        &self,
        verb: &str,
        container: &str,
        netns: &Path,
        stdin: &str,
    ) -> Result<Option<Value>, Value> {
        answer(&self.run_in(verb, container, netns, stdin, &[]))
    }

    /// One call, with everything that it prints. `env` goes over the usual environment; an empty value
    /// takes a variable out of it.
    pub(crate) fn run_in(
        &self,
        verb: &str,
        container: &str,
        netns: &Path,
        stdin: &str,
        env: &[(&str, &str)],
    ) -> Output {
        let mut command = self.command(verb, container, netns, &[]);
        for (name, value) in env {
            if value.is_empty() {
                command.env_remove(name)
            } else {
                command.env(name, value)
            };
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("nsenter is installed");
        child.stdin.take().expect("stdin").write_all(stdin.as_bytes()).expect("stdin is read");
        child.wait_with_output().expect("it ends")
    }
}

impl Node {
    /// One call to be made on this node, `under` another program.
    pub(crate) fn command(&self, verb: &str, container: &str, netns: &Path, under: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name())).args(under);
        command.arg(env!("CARGO_BIN_EXE_netplane"));
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", container).env("CNI_IFNAME", "eth0");
        command.env("CNI_NETNS", netns).env("CNI_PATH", "/opt/cni/bin").env("CNI_ARGS", &self.args);
        command
    }
}

/// What was printed on stdout, by success.
pub(crate) fn answer(output: &Output) -> Result<Option<Value>, Value> {
    let printed = (!output.stdout.is_empty())
        .then(|| serde_json::from_slice(&output.stdout).expect("nothing but JSON on stdout"));
    if output.status.success() { Ok(printed) } else { Err(printed.expect("an error in JSON")) }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name()]).status();
    }
}

/// A pod's sandbox.
pub(crate) struct Pod {
    pub(crate) name: String,
}

impl Pod {
    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        ip_in(&self.name, arguments)
    }

    /// Runs a program in the pod's namespace.
    pub(crate) fn exec(&self, command: &str) -> Result<String, String> {
        exec_in(&self.name, command)
    }

    /// Names of its interfaces but `lo`.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let links: Value = serde_json::from_str(&self.ip("-j link show")).expect("JSON of ip");
        let names = links.as_array().into_iter().flatten().filter_map(|it| it["ifname"].as_str());
        names.filter(|it| *it != "lo").map(str::to_owned).collect()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// What the program prints; what it complains of, if it fails.
fn exec_in(namespace: &str, command: &str) -> Result<String, String> {
    let mut nsenter = Command::new("nsenter");
    nsenter.arg(format!("--net=/run/netns/{namespace}")).args(command.split_whitespace());
    let output = nsenter.output().expect("nsenter is installed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn ip_in(namespace: &str, arguments: &str) -> String {
    let mut all = vec!["-n", namespace];
    all.extend(arguments.split_whitespace());
    run("ip", &all)
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("iproute2 is installed");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names of the files in a folder and its folders; none if it is not there.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            names.extend(files(&entry.path()));
        } else {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names
}
