//! A pod's devices: which ones kubelet gave it for a resource name, and the files in which device plugins
//! and CNI plugins tell each other about them. Asks kubelet's socket, reads kubelet's checkpoint; touches
//! nothing but device information files.

mod checkpoint;
pub mod info_file;
pub mod pod_resources;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
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
    fn allocation(&self, pod: &Pod) -> Result<Found, DeviceError> {
        let (socket, checkpoint) = (self.socket(), self.checkpoint());
        if let Some(allocation) = pod_resources::ask(&socket, pod, self.deadline)? {
            return Ok(Found { allocation, place: Place::Socket(socket) });
        }
        match checkpoint::read(&checkpoint, pod)? {
            Some(allocation) => Ok(Found { allocation, place: Place::Checkpoint(checkpoint) }),
            None => Err(DeviceError::NoKubelet { socket, checkpoint }),
        }
    }
}

/// Where was looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Socket(PathBuf),
    Checkpoint(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |f: &mut fmt::Formatter<'_>, what: &str, path: &Path| {
            write!(f, "kubelet's {what} {}", path.display())
        };
        match self {
            Self::Socket(path) => show(f, "socket", path),
            Self::Checkpoint(path) => show(f, "checkpoint", path),
        }
    }
}

#[derive(Debug)]
struct Found {
    allocation: Allocation,
    place: Place,
}

/// A pod's devices, handed out one after the other. Kubelet is asked when the first one is wanted.
#[derive(Debug)]
pub struct Devices {
    kubelet: Kubelet,
    pod: Pod,
    found: Option<Found>,
}

/// What there is for one attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Its ID, as the device plugin named it: a PCI address for SR-IOV.
    Device(String),
    /// Kubelet gave the pod none, or fewer than it has attachments.
    None(Place),
}

impl Devices {
    pub fn new(kubelet: Kubelet, pod: Pod) -> Self {
        Self { kubelet, pod, found: None }
    }

    /// The next unused device of a resource.
    ///
    /// # Errors
    /// Kubelet could not be asked.
    pub fn next(&mut self, resource: &str) -> Result<Next, DeviceError> {
        let found = match &mut self.found {
            Some(found) => found,
            none => none.insert(self.kubelet.allocation(&self.pod)?),
        };
        let next = found.allocation.get_mut(resource).and_then(VecDeque::pop_front);
        Ok(next.map_or_else(|| Next::None(found.place.clone()), Next::Device))
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
        let mut devices = Devices::new(Kubelet::new(folder.path(), DEADLINE), pod());
        let mut next = |resource: &str| devices.next(resource).expect("known");
        assert_eq!(next("a/x"), Next::Device("1".to_owned()));
        std::fs::remove_dir_all(folder.path().join("device-plugins")).expect("removed");
        assert_eq!(next("a/x"), Next::Device("2".to_owned()));
        assert_eq!(next("a/x"), Next::Device("0".to_owned()));
        for resource in ["a/x", "a/y"] {
            let Next::None(place) = next(resource) else { panic!("{resource}: a device from nowhere") };
            assert!(place.to_string().starts_with("kubelet's checkpoint /"), "{place}");
        }
    }

    #[test]
    fn nowhere_to_look_names_both_places() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut devices = Devices::new(Kubelet::new(folder.path(), DEADLINE), pod());
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
        let mut devices = Devices::new(Kubelet::new(folder.path(), DEADLINE), pod());
        assert_eq!(devices.next("a/x").expect("the checkpoint"), Next::Device("1".to_owned()));
    }
}
