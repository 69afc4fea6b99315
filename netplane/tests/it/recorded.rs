//! Plugins that write down their calls, for tests of what plugins are called with.

use crate::harness::{Node, Pod, files};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A node with the plugins `one` and `two`, which write down their calls, a NAD `chain` of both as a list,
/// and a NAD `single` of `one`.
pub(crate) struct Recorded {
    pub(crate) node: Node,
    folder: tempfile::TempDir,
}

impl Recorded {
    pub(crate) fn new() -> Self {
        let recorded = Self { node: Node::new(), folder: tempfile::tempdir().expect("a folder") };
        recorded.plugin("one");
        recorded.plugin("two");
        let chain = json!({"cniVersion": "1.0.0", "plugins": [
            {"type": "one", "capabilities": {"ips": true}, "args": {"cni": {"a": 1}}},
            {"type": "two", "capabilities": {"mac": true}},
        ]});
        recorded.node.nad("chain", &chain);
        recorded.node.nad("single", &json!({"cniVersion": "0.4.0", "type": "one"}));
        recorded
    }

    /// A plugin that writes each call to `calls/NUMBER-VERB-INTERFACE-TYPE`, and answers with one address
    /// or, where a file `fail-VERB-INTERFACE-TYPE` is there, with what is in it.
    pub(crate) fn plugin(&self, name: &str) {
        let script = format!(
            r#"#!/bin/sh
cd {folder}; mkdir -p calls; key=$CNI_COMMAND-$CNI_IFNAME-{name}
cat > "calls/$(printf %02d $(ls calls | wc -l))-$key"
echo "$CNI_ARGS" > args; echo "$CNI_NETNS" > netns; env > env
[ ! -e "fail-$key" ] || {{ cat "fail-$key"; exit 1; }}
[ $CNI_COMMAND != ADD ] || echo '{{"cniVersion": "0.4.0", "interfaces": [{{"name": "'$CNI_IFNAME'",
  "mac": "02:00:00:00:00:01", "sandbox": "'$CNI_NETNS'"}}], "ips": [{{"version": "4", "interface": 0,
  "address": "10.0.0.7/24"}}], "dns": {{"domain": "{name}"}}}}'
"#,
            folder = self.folder.path().display()
        );
        let file = self.path(name);
        std::fs::write(&file, script).expect("written");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("executable");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn configuration(&self, version: &str, networks: &str) -> Value {
        let mut configuration = self.node.configuration(version, networks);
        configuration["binDir"] = json!(self.folder.path());
        configuration["clusterNetwork"] = json!("");
        configuration
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        let mut calls = files(&self.path("calls"));
        calls.sort_unstable();
        calls.into_iter().map(|name| name[3..].to_owned()).collect()
    }

    /// The configuration that came with a call.
    pub(crate) fn given(&self, call: &str) -> Value {
        let name = files(&self.path("calls")).into_iter().find(|name| name.ends_with(call));
        let text = std::fs::read_to_string(self.path("calls").join(name.expect("the call"))).expect("read");
        serde_json::from_str(&text).expect("JSON")
    }

    pub(crate) fn add(&self, pod: &Pod, configuration: &Value) -> Value {
        self.node.call("ADD", pod, configuration).expect("attached").expect("a result")
    }

    pub(crate) fn del(&self, pod: &Pod, configuration: &Value) {
        self.node.call("DEL", pod, configuration).expect("detached");
    }

    pub(crate) fn records(&self) -> Vec<String> {
        files(&self.node.records())
    }
}

pub(crate) fn message(error: &Value) -> &str {
    error["msg"].as_str().expect("a message")
}
