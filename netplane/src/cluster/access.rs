//! How one who stays reaches the API server: the agent, for its watches. Files are read anew for each client,
//! since tokens and authorities are renewed in place.

use super::ClusterError;
use super::api::Api;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where kubelet puts the service account of a pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// `--kubeconfig` of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// A kubeconfig file.
    Kubeconfig(PathBuf),
    /// The pod's service account, and the address that kubelet puts into its environment.
    InCluster,
}

impl FromStr for Access {
    type Err = Infallible;

    /// `in-cluster`, or else the path of a file.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "in-cluster" { Self::InCluster } else { Self::Kubeconfig(text.into()) })
    }
}

impl Access {
    /// A client with the credentials as they are now. Nothing is connected yet; needs a runtime around it.
    ///
    /// # Errors
    /// A file cannot be read or says something else than it should.
    pub fn connect(&self) -> Result<kube::Client, ClusterError> {
        Ok(self.open()?.client)
    }

    pub(super) fn open(&self) -> Result<Api, ClusterError> {
        match self {
            Self::Kubeconfig(path) => Api::open(path),
            Self::InCluster => Api::open_in_cluster(Path::new(SERVICE_ACCOUNT)),
        }
    }
}
