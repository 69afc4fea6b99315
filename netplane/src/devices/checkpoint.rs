//! The device manager's checkpoint: kubelet's own file of which devices it gave to whom. Its two layouts:
//! device IDs as a list (before Kubernetes 1.20), and by NUMA node.

use super::{Allocation, DeviceError, Pod, add_container};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

#[derive(Deserialize)]
struct File {
    #[serde(rename = "Data")]
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "PodDeviceEntries", default)]
    entries: Option<Vec<Entry>>,
}

/// One container's devices of one resource.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    #[serde(rename = "ResourceName")]
    resource: String,
    #[serde(rename = "DeviceIDs", default)]
    ids: Option<Ids>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    List(Vec<String>),
    /// By NUMA node; -1 where the device plugin says nothing of it.
    PerNode(BTreeMap<String, Option<Vec<String>>>),
}

impl Ids {
    fn all(self) -> Vec<String> {
        match self {
            Self::List(ids) => ids,
            Self::PerNode(nodes) => nodes.into_values().flatten().flatten().collect(),
        }
    }
}

/// What the file has for the pod; `None` if there is no file.
pub(super) fn read(path: &Path, pod: &Pod) -> Result<Option<Allocation>, DeviceError> {
    let failed = |problem: String| DeviceError::Checkpoint { path: path.to_owned(), problem };
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(format!("cannot be read: {error}"))),
    };
    let file: File =
        serde_json::from_slice(&text).map_err(|error| failed(format!("is no checkpoint: {error}")))?;
    let Some(uid) = &pod.uid else {
        return Err(DeviceError::NoUid { path: path.to_owned() });
    };
    let mut allocation = Allocation::new();
    let entries = file.data.entries.unwrap_or_default();
    for entry in entries.into_iter().filter(|it| it.pod_uid == *uid) {
        let ids = entry.ids.map(Ids::all).unwrap_or_default();
        add_container(&mut allocation, std::iter::once((entry.resource, ids)));
    }
    Ok(Some(allocation))
}

#[cfg(test)]
mod tests {
    use super::super::tests::pod;
    use super::*;

    fn parse(text: &str) -> Result<Option<Allocation>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("checkpoint");
        std::fs::write(&path, text).expect("written");
        read(&path, &pod()).map_err(|it| it.to_string())
    }

    fn file(ids: [&str; 3]) -> String {
        let [first, second, other] = ids;
        format!(
            r#"{{"Data":{{"PodDeviceEntries":[
            {{"PodUID":"u-1","ContainerName":"a","ResourceName":"intel.com/vf","DeviceIDs":{first},"AllocResp":"CkQ="}},
            {{"PodUID":"other","ContainerName":"a","ResourceName":"intel.com/vf","DeviceIDs":{other},"AllocResp":""}},
            {{"PodUID":"u-1","ContainerName":"b","ResourceName":"intel.com/vf","DeviceIDs":{second},"AllocResp":""}},
            {{"PodUID":"u-1","ContainerName":"b","ResourceName":"intel.com/none","DeviceIDs":null,"AllocResp":""}}],
            "RegisteredDevices":{{"intel.com/vf":["0000:03:02.0","0000:03:02.1"]}}}},"Checksum":3145722862}}"#
        )
    }

    #[test]
    fn both_layouts_say_the_same() {
        let list = file([r#"["0000:03:02.3","0000:03:02.0"]"#, r#"["0000:03:02.1"]"#, r#"["0000:03:02.7"]"#]);
        let nodes = file([
            r#"{"0":["0000:03:02.3"],"1":["0000:03:02.0"]}"#,
            r#"{"-1":["0000:03:02.1"],"0":null}"#,
            r#"{"0":["0000:03:02.7"]}"#,
        ]);
        for text in [list, nodes] {
            let allocation = parse(&text).expect("a checkpoint").expect("a file");
            let ids: Vec<_> = allocation["intel.com/vf"].iter().map(String::as_str).collect();
            // Sorted in one container, and the next container's behind.
            assert_eq!(ids, ["0000:03:02.0", "0000:03:02.3", "0000:03:02.1"]);
            assert!(allocation["intel.com/none"].is_empty());
        }
    }

    #[test]
    fn an_empty_checkpoint_is_one() {
        let empty = r#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":1}"#;
        assert_eq!(parse(empty), Ok(Some(Allocation::new())));
    }

    #[test]
    fn damage_is_named() {
        for text in ["", "{", "[]", r#"{"Data":{"PodDeviceEntries":[{"PodUID":"u-1"}]}}"#] {
            let error = parse(text).expect_err(text);
            assert!(error.contains("/checkpoint: is no checkpoint: "), "{error}");
        }
    }

    #[test]
    fn without_a_uid_nothing_can_be_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("checkpoint");
        std::fs::write(&path, r#"{"Data":{}}"#).expect("written");
        let error = read(&path, &Pod { uid: None, ..pod() }).expect_err("no UID").to_string();
        assert!(error.contains("K8S_POD_UID"), "{error}");
    }
}
