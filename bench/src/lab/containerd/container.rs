//! Containers in sandboxes (`runtime.v1.RuntimeService`): the messages that kubelet sends for them, with the
//! fields that are used.

use super::cri::Cri;
use anyhow::{Result, ensure};
use prost::Message;

/// `NamespaceMode` NODE: the node's own.
pub const NODE: i32 = 2;

/// `NamespaceOption`.
#[derive(Clone, PartialEq, Message)]
pub struct NamespaceOptions {
    #[prost(int32, tag = "1")]
    pub network: i32,
    /// CONTAINER is 1, as kubelet has it by default.
    #[prost(int32, tag = "2")]
    pub pid: i32,
    #[prost(int32, tag = "3")]
    pub ipc: i32,
}

/// `LinuxSandboxSecurityContext`.
#[derive(Clone, PartialEq, Message)]
pub struct SandboxSecurity {
    #[prost(message, optional, tag = "1")]
    pub namespaces: Option<NamespaceOptions>,
}

/// `ContainerConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    pub image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    pub command: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub args: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    pub envs: Vec<KeyValue>,
    #[prost(message, repeated, tag = "7")]
    pub mounts: Vec<Mount>,
    /// Below the sandbox's `log_directory`.
    #[prost(string, tag = "11")]
    pub log_path: String,
    #[prost(message, optional, tag = "15")]
    pub linux: Option<LinuxContainer>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct ImageSpec {
    #[prost(string, tag = "1")]
    pub image: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    #[prost(string, tag = "1")]
    pub container_path: String,
    #[prost(string, tag = "2")]
    pub host_path: String,
    #[prost(bool, tag = "3")]
    pub readonly: bool,
    /// `MountPropagation`: 0 private, 1 from the host to the container, 2 both ways.
    #[prost(int32, tag = "5")]
    pub propagation: i32,
}

/// `LinuxContainerConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxContainer {
    #[prost(message, optional, tag = "2")]
    pub security: Option<ContainerSecurity>,
}

/// `LinuxContainerSecurityContext`.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerSecurity {
    #[prost(message, optional, tag = "1")]
    pub capabilities: Option<Capabilities>,
    #[prost(message, optional, tag = "3")]
    pub namespaces: Option<NamespaceOptions>,
    #[prost(message, optional, tag = "5")]
    pub run_as_user: Option<Number>,
    #[prost(bool, tag = "7")]
    pub readonly_rootfs: bool,
    #[prost(bool, tag = "11")]
    pub no_new_privs: bool,
    #[prost(string, repeated, tag = "13")]
    pub masked_paths: Vec<String>,
    #[prost(string, repeated, tag = "14")]
    pub readonly_paths: Vec<String>,
    #[prost(message, optional, tag = "15")]
    pub seccomp: Option<SecurityProfile>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Capabilities {
    #[prost(string, repeated, tag = "1")]
    pub add: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub drop: Vec<String>,
}

/// `Int64Value`.
#[derive(Clone, PartialEq, Message)]
pub struct Number {
    #[prost(int64, tag = "1")]
    pub value: i64,
}

/// `SecurityProfile`: 0 is the runtime's default, 1 none.
#[derive(Clone, PartialEq, Message)]
pub struct SecurityProfile {
    #[prost(int32, tag = "1")]
    pub profile: i32,
}

#[derive(Clone, PartialEq, Message)]
struct CreateRequest {
    #[prost(string, tag = "1")]
    sandbox: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<super::cri::SandboxConfig>,
}

/// Requests and answers that hold nothing but a container's id.
#[derive(Clone, PartialEq, Message)]
struct ContainerId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct StopRequest {
    #[prost(string, tag = "1")]
    id: String,
    /// Seconds between SIGTERM and SIGKILL.
    #[prost(int64, tag = "2")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<ContainerState>,
}

/// `ContainerStatus`.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerState {
    /// 0 created, 1 running, 2 exited.
    #[prost(int32, tag = "3")]
    pub state: i32,
    #[prost(int32, tag = "7")]
    pub exit_code: i32,
    #[prost(string, tag = "11")]
    pub message: String,
}

#[derive(Clone, PartialEq, Message)]
struct ExecRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, repeated, tag = "2")]
    command: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ExecAnswer {
    #[prost(bytes = "vec", tag = "1")]
    stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    exit_code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

impl Cri {
    /// Creates a container and starts it. Returns its id.
    ///
    /// # Errors
    /// containerd's or runc's.
    pub fn run_container(
        &self,
        sandbox: &str,
        sandbox_config: super::cri::SandboxConfig,
        config: ContainerConfig,
    ) -> Result<String> {
        let request = CreateRequest {
            sandbox: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let created: ContainerId = self.call("CreateContainer", request)?;
        self.call::<_, Nothing>("StartContainer", created.clone())?;
        Ok(created.id)
    }

    /// # Errors
    /// containerd's.
    pub fn container(&self, id: &str) -> Result<ContainerState> {
        let answer: StatusAnswer = self.call("ContainerStatus", ContainerId { id: id.to_owned() })?;
        Ok(answer.status.unwrap_or_default())
    }

    /// SIGTERM, and SIGKILL after so many seconds; then it is removed.
    ///
    /// # Errors
    /// containerd's.
    pub fn stop_container(&self, id: &str, grace: i64) -> Result<()> {
        self.call::<_, Nothing>("StopContainer", StopRequest { id: id.to_owned(), timeout: grace })?;
        self.call::<_, Nothing>("RemoveContainer", ContainerId { id: id.to_owned() }).map(drop)
    }

    /// Runs a program in a container, as a probe does, and returns what it printed.
    ///
    /// # Errors
    /// containerd's, or the program's: with what it complained of.
    pub fn exec(&self, id: &str, command: &[&str]) -> Result<String> {
        let command = command.iter().map(|it| (*it).to_owned()).collect();
        let answer: ExecAnswer =
            self.call("ExecSync", ExecRequest { id: id.to_owned(), command, timeout: 30 })?;
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        ensure!(answer.exit_code == 0, "exit code {}: {said}", answer.exit_code);
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }
}
