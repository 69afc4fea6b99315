//! The API server of the end-to-end test: the double, or a real one that `NETPLANE_KUBECONFIG` names. Either is
//! outside of the lab; what runs on the lab's node reaches it by a port of the node's loopback.

use super::manifests::kubectl;
use netplane_bench::lab::Lab;
use netplane_bench::lab::apiserver::{ApiServer, Options, TOKEN};
use serde_json::Value;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A kubeconfig of a real API server.
const REAL: &str = "NETPLANE_KUBECONFIG";

pub(super) struct Api {
    kubeconfig: PathBuf,
    double: Option<ApiServer>,
    /// On the lab's node.
    address: SocketAddr,
    node: String,
    folder: tempfile::TempDir,
}

impl Api {
    pub(super) fn start(lab: &Lab) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let node = format!("node-of-{}", lab.name());
        let (kubeconfig, double) = match std::env::var_os(REAL) {
            Some(path) => (PathBuf::from(path), None),
            None => {
                let double = ApiServer::start(&Options::default()).expect("an API server");
                (double.kubeconfig(), Some(double))
            }
        };
        let server = view(&kubeconfig, "{.clusters[0].cluster.server}");
        let (_, place) = server.split_once("://").expect("a URL");
        let place = place.trim_end_matches('/').to_owned();
        let listener = lab.node.run(|| TcpListener::bind("127.0.0.1:0")).expect("the node's namespace");
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        // Ends with the tests' process.
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(&place) else { continue };
                forward(&near, &far);
            }
        });
        Self { kubeconfig, double, address, node, folder }
    }

    pub(super) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The node's name, of this test alone.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// What kubelet mounts for a service account.
    pub(super) fn write_service_account(&self, folder: &Path, namespace: &str, name: &str) {
        if let Some(double) = &self.double {
            return double.write_service_account(folder, TOKEN, namespace).expect("a service account");
        }
        std::fs::create_dir_all(folder).expect("a folder");
        let token = self.kubectl(&["create", "token", name, "-n", namespace]);
        std::fs::write(folder.join("token"), token.trim()).expect("written");
        std::fs::write(folder.join("namespace"), namespace).expect("written");
        let ca = view(&self.kubeconfig, "{.clusters[0].cluster.certificate-authority-data}");
        std::fs::write(self.folder.path().join("ca.base64"), ca).expect("written");
        let decoded = Command::new("base64").arg("-d").arg(self.folder.path().join("ca.base64")).output();
        std::fs::write(folder.join("ca.crt"), decoded.expect("base64 runs").stdout).expect("written");
    }

    /// Creates a pod. Returns its UID.
    pub(super) fn create_pod(&self, pod: &Value) -> String {
        let (namespace, name) = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        kubectl(&self.kubeconfig, &["apply", "--validate=false", "-f", "-"], std::slice::from_ref(pod));
        self.kubectl(&["get", "pod", name, "-n", namespace, "-o", "jsonpath={.metadata.uid}"])
    }

    pub(super) fn network_status(&self, namespace: &str, name: &str) -> Option<String> {
        let path = r"jsonpath={.metadata.annotations.k8s\.v1\.cni\.cncf\.io/network-status}";
        let status = self.kubectl(&["get", "pod", name, "-n", namespace, "-o", path]);
        Some(status).filter(|it| !it.is_empty())
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(&self.kubeconfig, arguments, &[])
    }
}

impl Drop for Api {
    /// What a real cluster would keep.
    fn drop(&mut self) {
        if self.double.is_none() {
            for arguments in [
                ["delete", "namespace", "core", "--wait=false"],
                ["delete", "namespace", "netplane-system", "--wait=false"],
            ] {
                let mut command = Command::new("kubectl");
                let command = command.env("KUBECONFIG", &self.kubeconfig).args(arguments);
                let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
            }
        }
    }
}

fn view(kubeconfig: &Path, path: &str) -> String {
    let path = format!("jsonpath={path}");
    kubectl(kubeconfig, &["config", "view", "--raw", "--minify", "-o", &path], &[])
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// Both ways, until one side ends.
fn forward(near: &TcpStream, far: &TcpStream) {
    for (from, to) in [(near, far), (far, near)] {
        let (mut from, mut to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    }
}
