//! Which pod a process is in, by the path of its cgroup: the kernel keeps it, and no process without privilege on
//! the node gets out of the one that kubelet and the runtime have put it into. What lies below is the container's
//! own to name, so the outermost match counts.

/// What the paths say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// UID of the pod, as Kubernetes writes it.
    pub(super) pod_uid: Option<String>,
    /// Identifier of the outermost container or sandbox.
    pub(super) container: Option<String>,
}

impl Found {
    /// Neither in a pod nor in a container.
    pub(super) fn is_node(&self) -> bool {
        self.pod_uid.is_none() && self.container.is_none()
    }
}

/// Length of a container's identifier in containerd, CRI-O and Docker: SHA-256 in hexadecimal.
const CONTAINER_ID: usize = 64;

/// Reads `/proc/PID/cgroup` (cgroups(7)): one line in version 2, one for each hierarchy in version 1.
///
/// # Errors
/// The hierarchies disagree.
pub(super) fn find(text: &str) -> Result<Found, String> {
    let mut found = Found::default();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(2);
        let Some(path) = parts.next() else { continue };
        let here = in_path(path);
        merge(&mut found.pod_uid, here.pod_uid, "pods")?;
        merge(&mut found.container, here.container, "containers")?;
    }
    Ok(found)
}

fn merge(known: &mut Option<String>, new: Option<String>, what: &str) -> Result<(), String> {
    match (&*known, new) {
        (Some(known), Some(new)) if *known != new => {
            Err(format!("its cgroups are of two {what}: {known}, {new}"))
        }
        (None, Some(new)) => {
            *known = Some(new);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn in_path(path: &str) -> Found {
    let mut found = Found::default();
    // Under a cgroup namespace of our own the upper names are hidden.
    let mut below_kubepods = path.starts_with("/..");
    for component in path.split('/') {
        below_kubepods |= component.contains("kubepods");
        if found.pod_uid.is_none() && below_kubepods {
            found.pod_uid = pod_uid(component);
        }
        if found.container.is_none() {
            found.container = container(component);
        }
    }
    found
}

/// `podUID` of the cgroupfs driver; `kubepods-burstable-podUID.slice` of systemd's, where dashes are underscores,
/// and `kubepods-burstable-podUID.slice:cri-containerd:ID` where containerd has not been told of systemd.
fn pod_uid(component: &str) -> Option<String> {
    let component = component.split(':').next().unwrap_or_default();
    let uid = match component.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod").filter(|(before, _)| before.contains("kubepods"))?.1,
        None => component.strip_prefix("pod")?,
    };
    (!uid.is_empty()).then(|| uid.replace('_', "-"))
}

/// Bare, or with the runtime's name: `cri-containerd-ID.scope`, `crio-ID.scope`, `…:cri-containerd:ID`.
fn container(component: &str) -> Option<String> {
    let is_id = |it: &&str| it.len() == CONTAINER_ID && it.bytes().all(|it| it.is_ascii_hexdigit());
    component.split(['-', ':', '.']).find(is_id).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "8f1c2a34-5b6d-4e7f-8a9b-0c1d2e3f4a5b";
    const ID: &str = "4dbc1d1e9f3a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9001122334";

    fn pod(text: &str) -> (Option<String>, Option<String>) {
        let found = find(text).expect("one pod");
        (found.pod_uid, found.container)
    }

    #[test]
    fn forms_of_kubelet_and_the_runtimes() {
        let under = UID.replace('-', "_");
        let forms = [
            format!("0::/kubepods/burstable/pod{UID}/{ID}"),
            format!("0::/kubepods/pod{UID}/{ID}"),
            format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{ID}.scope"
            ),
            format!("0::/kubepods.slice/kubepods-pod{under}.slice/crio-{ID}.scope"),
            format!("0::/kubepods.slice/kubepods-pod{under}.slice/crio-{ID}.scope/container"),
            format!(
                "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{under}.slice/cri-containerd-{ID}.scope/init.scope"
            ),
            format!(
                "0::/system.slice/containerd.service/kubepods-burstable-pod{under}.slice:cri-containerd:{ID}"
            ),
            format!("0::/../../kubepods-besteffort-pod{under}.slice/cri-containerd-{ID}.scope"),
            format!("0::/../../pod{UID}/{ID}"),
            format!(
                "12:pids:/kubepods/burstable/pod{UID}/{ID}\n11:rdma:/\n1:name=systemd:/kubepods/burstable/pod{UID}/{ID}\n0::/"
            ),
            format!("4:memory:/docker/kind/kubelet/kubepods/burstable/pod{UID}/{ID}"),
        ];
        for form in forms {
            assert_eq!(pod(&form), (Some(UID.to_owned()), Some(ID.to_owned())), "{form}");
        }
    }

    #[test]
    fn a_container_cannot_name_itself_another_pod() {
        let other = "00000000-0000-0000-0000-000000000001";
        let inside = format!("0::/kubepods/burstable/pod{UID}/{ID}/kubepods/pod{other}");
        assert_eq!(pod(&inside).0.as_deref(), Some(UID));
        let slice = format!(
            "0::/kubepods.slice/kubepods-pod{}.slice/cri-containerd-{ID}.scope/kubepods-pod{}.slice",
            UID.replace('-', "_"),
            other.replace('-', "_"),
        );
        assert_eq!(pod(&slice).0.as_deref(), Some(UID));
        let two = format!("2:cpu:/kubepods/pod{UID}/{ID}\n1:memory:/kubepods/pod{other}/{ID}");
        assert!(find(&two).expect_err("two pods").contains("two pods"));
    }

    #[test]
    fn outside_of_all_pods() {
        for form in
            ["0::/", "0::/user.slice/user-0.slice/session-1.scope", "0::/podruntime.slice/kubelet.service"]
        {
            assert!(find(form).expect("a path").is_node(), "{form}");
        }
        let docker = format!("0::/system.slice/docker-{ID}.scope");
        assert_eq!(pod(&docker), (None, Some(ID.to_owned())), "in a container that is no pod's");
    }
}
