//! `netplane agent`.

use super::AgentArguments;
use crate::agent::{self, AgentError, Options};
use crate::dataplane::{BpfKernel, Kernel, KernelError};
use crate::sources::cluster::Place;
use anyhow::{Context, Result, anyhow};
use std::time::Duration;

pub(super) fn run(arguments: &AgentArguments) -> Result<()> {
    // kube logs each failed request on its own, beside what we say of it.
    let level = &arguments.log_level;
    let quiet = if level.contains("kube_client") { "" } else { ",kube_client=off" };
    super::log_to_stderr(&format!("{level}{quiet}"));
    if arguments.detach {
        let mut kernel = BpfKernel::open(&arguments.bpffs).map_err(with_remedy)?;
        kernel.detach_all().map_err(with_remedy)?;
        return match std::fs::remove_file(agent::journal(&arguments.socket)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        };
    }
    let cluster = match arguments.kubeconfig.clone() {
        Some(access) => Some(Place { access, node: node_name(arguments)? }),
        None => None,
    };
    let options = Options {
        nad_dir: arguments.nad_dir.clone(),
        record_dir: arguments.record_dir.clone(),
        netns_dir: arguments.netns_dir.clone(),
        socket: arguments.socket.clone(),
        session_socket: arguments
            .session_socket
            .clone()
            .unwrap_or_else(|| arguments.socket.with_file_name("sessions/sessions.sock")),
        sessions_per_pod: arguments.max_sessions_per_pod.unwrap_or(u32::MAX),
        buffered_packets: arguments.max_buffered_packets,
        buffered_bytes: arguments.max_buffered_mib << 20,
        metrics: arguments.metrics,
        metrics_sessions: arguments.metrics_sessions,
        cluster,
        unattached_after: Duration::from_secs(arguments.unattached_after),
    };
    match agent::run(&options, || {
        BpfKernel::open_sized(&arguments.bpffs, arguments.max_sessions, arguments.max_rules)
    }) {
        Err(AgentError::Kernel(error)) => Err(with_remedy(error)),
        other => other.context("the agent stopped"),
    }
}

/// As kubelet names a node, if it is not told otherwise.
fn node_name(arguments: &AgentArguments) -> Result<String> {
    if let Some(name) = &arguments.node_name {
        return Ok(name.clone());
    }
    let path = "/proc/sys/kernel/hostname";
    let name = std::fs::read_to_string(path).with_context(|| format!("read {path}; give --node-name"))?;
    Ok(name.trim().to_lowercase())
}

fn with_remedy(error: KernelError) -> anyhow::Error {
    let remedy = error.remedy.clone();
    let error = anyhow!(error).context("the data plane cannot be used");
    match remedy {
        Some(remedy) => anyhow!("{error:#}\nremedy: {remedy}"),
        None => error,
    }
}
