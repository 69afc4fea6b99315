//! What kubelet makes of a pod's manifest: its containers for the runtime, with arguments, environment, mounts
//! and security context as they are written there, and kubelet's own defaults.

use super::Containerd;
use super::container::{
    Capabilities, ContainerConfig, ContainerMetadata, ContainerSecurity, ImageSpec, KeyValue, LinuxContainer,
    Mount, NODE, NamespaceOptions, Number, SandboxSecurity, SecurityProfile,
};
use super::cri::{LinuxConfig, Metadata, SandboxConfig};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What kubelet hides from containers that are not privileged.
const MASKED: [&str; 6] =
    ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"];
/// What it makes read-only for them.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A pod of the node's network namespace, from a DaemonSet.
#[derive(Debug)]
pub struct NodePod<'a> {
    /// `spec.template.spec`.
    pub spec: &'a Value,
    pub name: &'a str,
    /// Of the ConfigMaps by name.
    pub config: BTreeMap<&'a str, &'a Value>,
    /// `spec.nodeName`.
    pub node: &'a str,
    /// Variables that kubelet adds: where the API server is.
    pub services: Vec<(String, String)>,
    /// The service account's folder, if it has one.
    pub account: Option<PathBuf>,
    /// What stands for folders of the node: hostPath and real folder. Others are as they are named.
    pub places: Vec<(&'a str, PathBuf)>,
}

/// It runs.
#[derive(Debug)]
pub struct Running {
    pub sandbox: String,
    /// Ids by the containers' names.
    pub containers: BTreeMap<String, String>,
    logs: PathBuf,
}

impl Running {
    /// What a container has logged, in the runtime's form.
    pub fn log(&self, container: &str) -> String {
        let path = self.logs.join(format!("{container}.log"));
        std::fs::read_to_string(&path).unwrap_or_else(|error| format!("{}: {error}", path.display()))
    }
}

impl Containerd<'_> {
    /// Imports an image archive, as `ctr images import` does for a person.
    ///
    /// # Errors
    /// containerd's.
    pub fn import(&self, archive: &Path) -> Result<String> {
        let mut import = self.command(super::CTR.program);
        import.arg("--address").arg(super::socket(&self.folder));
        import.args(["--namespace", "k8s.io", "images", "import", "--snapshotter", "native"]).arg(archive);
        super::CTR.output(&mut import, "")
    }

    /// Runs a DaemonSet's pod.
    ///
    /// # Errors
    /// The manifest says something that this does not know; containerd's, runc's.
    pub fn run_node_pod(&self, pod: &NodePod<'_>) -> Result<Running> {
        anyhow::ensure!(pod.spec["hostNetwork"] == true, "only pods of the node's network are known here");
        let logs = self.folder.join("logs").join(pod.name);
        std::fs::create_dir_all(&logs)?;
        let namespaces = NamespaceOptions { network: NODE, pid: 1, ipc: 0 };
        let sandbox_config = SandboxConfig {
            metadata: Some(Metadata {
                name: pod.name.to_owned(),
                uid: format!("uid-of-{}", pod.name),
                namespace: "netplane-system".to_owned(),
                attempt: 0,
            }),
            log_directory: logs.display().to_string(),
            linux: Some(LinuxConfig {
                cgroup_parent: format!("/{}", self.cgroup),
                security: Some(SandboxSecurity { namespaces: Some(namespaces.clone()) }),
            }),
            ..SandboxConfig::default()
        };
        let sandbox = self.cri.run(sandbox_config.clone())?;
        let mut containers = BTreeMap::new();
        for container in pod.spec["containers"].as_array().context("containers")? {
            let name = text(&container["name"])?;
            let mut config = pod.container(container)?;
            if let Some(security) = config.linux.as_mut().and_then(|it| it.security.as_mut()) {
                security.namespaces = Some(namespaces.clone());
            }
            let id = self.cri.run_container(&sandbox, sandbox_config.clone(), config);
            containers.insert(name.clone(), id.with_context(|| format!("container {name}"))?);
        }
        Ok(Running { sandbox, containers, logs })
    }
}

impl NodePod<'_> {
    fn container(&self, container: &Value) -> Result<ContainerConfig> {
        let name = text(&container["name"])?;
        let environment = self.environment(container)?;
        let expanded = |list: &Value| -> Result<Vec<String>> {
            let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter().map(|it| Ok(expand(&text(it)?, &environment))).collect()
        };
        Ok(ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.clone(), attempt: 0 }),
            image: Some(ImageSpec { image: text(&container["image"])? }),
            command: expanded(&container["command"])?,
            args: expanded(&container["args"])?,
            envs: environment.into_iter().map(|(key, value)| KeyValue { key, value }).collect(),
            mounts: self.mounts(container)?,
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainer { security: Some(security(&container["securityContext"])?) }),
        })
    }

    fn environment(&self, container: &Value) -> Result<Vec<(String, String)>> {
        let mut all = self.services.clone();
        for from in container["envFrom"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let name = text(&from["configMapRef"]["name"])?;
            let config = self.config.get(name.as_str()).with_context(|| format!("no ConfigMap {name}"))?;
            for (key, value) in config["data"].as_object().context("data")? {
                all.push((key.clone(), text(value)?));
            }
        }
        for variable in container["env"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let value = match variable.pointer("/valueFrom/fieldRef/fieldPath").and_then(Value::as_str) {
                Some("spec.nodeName") => self.node.to_owned(),
                Some(other) => bail!("env from {other}"),
                None => text(&variable["value"])?,
            };
            all.push((text(&variable["name"])?, value));
        }
        Ok(all)
    }

    fn mounts(&self, container: &Value) -> Result<Vec<Mount>> {
        let volumes = self.spec["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut mounts = Vec::new();
        for mount in container["volumeMounts"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let volume = volumes.iter().find(|it| it["name"] == mount["name"]).context("no such volume")?;
            let path = text(&volume["hostPath"]["path"])?;
            let place = self.places.iter().find(|(known, _)| *known == path);
            let place = place.map_or_else(|| PathBuf::from(&path), |(_, real)| real.clone());
            mounts.push(Mount {
                container_path: text(&mount["mountPath"])?,
                host_path: place.display().to_string(),
                readonly: mount["readOnly"] == true,
                propagation: match mount["mountPropagation"].as_str() {
                    None | Some("None") => 0,
                    Some("HostToContainer") => 1,
                    Some(other) => bail!("mountPropagation {other}"),
                },
            });
        }
        if let Some(account) = &self.account {
            mounts.push(Mount {
                container_path: "/var/run/secrets/kubernetes.io/serviceaccount".to_owned(),
                host_path: account.display().to_string(),
                readonly: true,
                propagation: 0,
            });
        }
        Ok(mounts)
    }
}

fn security(context: &Value) -> Result<ContainerSecurity> {
    let list = |value: &Value| -> Result<Vec<String>> {
        value.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(text).collect()
    };
    let owned = |paths: &[&str]| paths.iter().map(|it| (*it).to_owned()).collect();
    anyhow::ensure!(context["privileged"] != true, "no privileged containers here");
    Ok(ContainerSecurity {
        capabilities: Some(Capabilities {
            add: list(&context["capabilities"]["add"])?,
            drop: list(&context["capabilities"]["drop"])?,
        }),
        namespaces: None,
        run_as_user: context["runAsUser"].as_i64().map(|value| Number { value }),
        readonly_rootfs: context["readOnlyRootFilesystem"] == true,
        no_new_privs: context["allowPrivilegeEscalation"] == false,
        masked_paths: owned(&MASKED),
        readonly_paths: owned(&READ_ONLY),
        seccomp: match context["seccompProfile"]["type"].as_str() {
            Some("RuntimeDefault") => Some(SecurityProfile { profile: 0 }),
            other => bail!("seccompProfile {other:?}"),
        },
    })
}

/// `$(NAME)` as kubelet puts it in: what is not known stays.
fn expand(text: &str, environment: &[(String, String)]) -> String {
    environment.iter().fold(text.to_owned(), |text, (key, value)| text.replace(&format!("$({key})"), value))
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("{value} should be a string"))
}
