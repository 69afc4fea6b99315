//! A pod's devices: which ones kubelet gave it for a resource name, and the files in which device plugins
//! and CNI plugins tell each other about them. Asks kubelet's socket, reads kubelet's checkpoint; touches
//! nothing but device information files.

mod checkpoint;
pub mod info_file;
pub mod pod_resources;

use crate::cluster::claims::{Claim, ClaimedDevice};
use crate::cluster::{Cluster, ClusterError, PodName};
use pod_resources::Resources;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

/// The NAD's annotation that names a resource (NPWG standard §3.3, Multus).
pub const RESOURCE_NAME_ANNOTATION: &str = "k8s.v1.cni.cncf.io/resourceName";

/// Where kubelet's files are unless the configuration's `kubeletDir` says otherwise.
pub const DEFAULT_KUBELET_DIR: &str = "/var/lib/kubelet";

/// How long kubelet may take, from connecting to the last answer. Multus's.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Whose devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    /// The checkpoint knows pods by nothing else.
    pub uid: Option<String>,
}

/// Device IDs by resource name. Within one container sorted, containers one after the other in kubelet's
/// order: as Multus counts, so that the same pod gets the same devices in the same places.
pub type Allocation = BTreeMap<String, VecDeque<String>>;

/// Why it is not known what a pod has.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("neither kubelet's socket {} nor its checkpoint {} is there", socket.display(), checkpoint.display())]
    NoKubelet { socket: PathBuf, checkpoint: PathBuf },
    #[error("kubelet's socket {}: no answer within {} s", socket.display(), deadline.as_secs_f32())]
    Deadline { socket: PathBuf, deadline: Duration },
    #[error("kubelet's socket {}: cannot {operation}: {problem}", socket.display())]
    Kubelet { socket: PathBuf, operation: &'static str, problem: String },
    #[error("kubelet's checkpoint {}: {problem}", path.display())]
    Checkpoint { path: PathBuf, problem: String },
    #[error(
        "kubelet's checkpoint {} knows pods by their UID, and K8S_POD_UID is not in CNI_ARGS",
        path.display()
    )]
    NoUid { path: PathBuf },
    #[error("ResourceClaims: {0}")]
    Cluster(Box<ClusterError>),
}

/// Kubelet's files on this node.
#[derive(Clone, Debug)]
pub struct Kubelet {
    dir: PathBuf,
    deadline: Duration,
}

impl Kubelet {
    pub fn new(dir: impl Into<PathBuf>, deadline: Duration) -> Self {
        Self { dir: dir.into(), deadline }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("pod-resources/kubelet.sock")
    }

    fn checkpoint(&self) -> PathBuf {
        self.dir.join("device-plugins/kubelet_internal_checkpoint")
    }

    /// What kubelet gave the pod: from its socket, else from its checkpoint. A socket that answers wrongly or
    /// not at all is an error and no reason to look further: kubelet is there and knows better.
    fn ask(&self, pod: &Pod) -> Result<Found, DeviceError> {
        let (socket, checkpoint) = (self.socket(), self.checkpoint());
        let found = |allocation, claims, looked| Found {
            allocation,
            claims,
            looked,
            known: BTreeSet::new(),
            next: Ask::Claims,
        };
        if let Some(Resources { allocation, claims }) = pod_resources::ask(&socket, pod, self.deadline)? {
            return Ok(found(allocation, claims, format!("kubelet's socket {}", socket.display())));
        }
        match checkpoint::read(&checkpoint, pod)? {
            Some(allocation) => {
                let looked = format!("kubelet's checkpoint {}", checkpoint.display());
                Ok(found(allocation, Vec::new(), looked))
            }
            None => Err(DeviceError::NoKubelet { socket, checkpoint }),
        }
    }
}

/// What is known of a pod's devices so far.
#[derive(Debug)]
struct Found {
    /// What is left of it.
    allocation: Allocation,
    /// ResourceClaims that kubelet knows of.
    claims: Vec<String>,
    /// Where was looked, for people.
    looked: String,
    /// Devices of claims: the same claim may be found twice.
    known: BTreeSet<(String, String)>,
    next: Ask,
}

/// Where to look when kubelet's devices do not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// The ResourceClaims that kubelet names: that needs no look at the pod.
    Claims,
    /// Those that the pod's status names.
    Pod,
    Nobody,
}

impl Found {
    fn take(&mut self, resource: &str) -> Option<String> {
        self.allocation.get_mut(resource).and_then(VecDeque::pop_front)
    }

    /// Looks further, in the cluster.
    fn look_further(&mut self, cluster: &Cluster, pod: &Pod) -> Result<(), ClusterError> {
        let claims = match self.next {
            Ask::Claims => {
                self.next = Ask::Pod;
                let claim = |name: String| Claim { name, ..Claim::default() };
                std::mem::take(&mut self.claims).into_iter().map(claim).collect()
            }
            Ask::Pod | Ask::Nobody => {
                self.next = Ask::Nobody;
                let Pod { namespace, name, uid } = pod.clone();
                let claims = cluster.claims_of(&PodName { namespace, name, uid })?;
                let names: Vec<_> = claims.iter().map(|it| it.name.as_str()).collect();
                self.looked.push_str(&match names.as_slice() {
                    [] => " and for ResourceClaims of the pod, which has none".to_owned(),
                    names => format!(" and ResourceClaims {}", names.join(", ")),
                });
                claims
            }
        };
        for ClaimedDevice { resource, id } in cluster.claimed_devices(&pod.namespace, &claims)? {
            if self.known.insert((resource.clone(), id.clone())) {
                self.allocation.entry(resource).or_default().push_back(id);
            }
        }
        Ok(())
    }
}

/// A pod's devices, handed out one after the other. Kubelet is asked when the first one is wanted, and the
/// cluster when kubelet has none.
pub struct Devices<'a> {
    kubelet: Kubelet,
    cluster: &'a Cluster,
    pod: Pod,
    found: Option<Found>,
}

/// What there is for one attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Its ID, as the device plugin named it: a PCI address for SR-IOV.
    Device(String),
    /// The pod has none, or fewer than it has attachments. Where was looked.
    None(String),
}

impl<'a> Devices<'a> {
    pub fn new(kubelet: Kubelet, cluster: &'a Cluster, pod: Pod) -> Self {
        Self { kubelet, cluster, pod, found: None }
    }

    /// The next unused device of a resource: a device plugin's, else a ResourceClaim's.
    ///
    /// # Errors
    /// Kubelet or the API server could not be asked.
    pub fn next(&mut self, resource: &str) -> Result<Next, DeviceError> {
        let found = match &mut self.found {
            Some(found) => found,
            none => none.insert(self.kubelet.ask(&self.pod)?),
        };
        loop {
            if let Some(device) = found.take(resource) {
                return Ok(Next::Device(device));
            }
            if !self.cluster.has_api() || found.next == Ask::Nobody {
                return Ok(Next::None(found.looked.clone()));
            }
            match found.look_further(self.cluster, &self.pod) {
                Ok(()) => {}
                // Multus's ClusterRole of old does not let anybody look at claims, and pods need not have any.
                Err(error @ ClusterError::Forbidden { .. }) => found.looked.push_str(&format!("; {error}")),
                Err(error) => return Err(DeviceError::Cluster(Box::new(error))),
            }
        }
    }
}

/// Adds what one container has: `devices` by resource name, a name may come several times.
fn add_container(allocation: &mut Allocation, devices: impl Iterator<Item = (String, Vec<String>)>) {
    let mut own: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (resource, ids) in devices {
        own.entry(resource).or_default().extend(ids);
    }
    for (resource, mut ids) in own {
        ids.sort();
        allocation.entry(resource).or_default().extend(ids);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    pub(super) fn pod() -> Pod {
        Pod { namespace: "core".to_owned(), name: "upf-0".to_owned(), uid: Some("u-1".to_owned()) }
    }

    fn checkpoint(dir: &Path, text: &str) {
        let folder = dir.join("device-plugins");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("kubelet_internal_checkpoint"), text).expect("written");
    }

    const ENTRIES: &str = r#"{"Data":{"PodDeviceEntries":[
        {"PodUID":"u-1","ResourceName":"a/x","DeviceIDs":["2","1"]},
        {"PodUID":"u-1","ResourceName":"a/x","DeviceIDs":["0"]}]}}"#;

    #[test]
    fn each_device_is_handed_out_once_and_kubelet_is_asked_once() {
        let folder = tempfile::tempdir().expect("a folder");
        checkpoint(folder.path(), ENTRIES);
        let cluster = Cluster::new(None, None);
        let mut devices = Devices::new(Kubelet::new(folder.path(), DEADLINE), &cluster, pod());
        let mut next = |resource: &str| devices.next(resource).expect("known");
        assert_eq!(next("a/x"), Next::Device("1".to_owned()));
        std::fs::remove_dir_all(folder.path().join("device-plugins")).expect("removed");
        assert_eq!(next("a/x"), Next::Device("2".to_owned()));
        assert_eq!(next("a/x"), Next::Device("0".to_owned()));
        for resource in ["a/x", "a/y"] {
            let Next::None(looked) = next(resource) else { panic!("{resource}: a device from nowhere") };
            assert!(looked.starts_with("kubelet's checkpoint /"), "{looked}");
        }
    }

    #[test]
    fn nowhere_to_look_names_both_places() {
        let folder = tempfile::tempdir().expect("a folder");
        let cluster = Cluster::new(None, None);
        let mut devices = Devices::new(Kubelet::new(folder.path(), DEADLINE), &cluster, pod());
        let error = devices.next("a/x").expect_err("no kubelet").to_string();
        assert!(error.contains("pod-resources/kubelet.sock"), "{error}");
        assert!(error.contains("device-plugins/kubelet_internal_checkpoint"), "{error}");
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_no_socket() {
        let folder = tempfile::tempdir().expect("a folder");
        checkpoint(folder.path(), ENTRIES);
        let socket = folder.path().join("pod-resources/kubelet.sock");
        std::fs::create_dir(folder.path().join("pod-resources")).expect("a folder");
        drop(std::os::unix::net::UnixListener::bind(&socket).expect("bound"));
        let cluster = Cluster::new(None, None);
        let mut devices = Devices::new(Kubelet::new(folder.path(), DEADLINE), &cluster, pod());
        assert_eq!(devices.next("a/x").expect("the checkpoint"), Next::Device("1".to_owned()));
    }
}
