//! Why the API server could not be asked or told something: each names the server, the object, and what to
//! look at.

use std::path::PathBuf;

/// What went wrong between the plugin and the cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    #[error("kubeconfig {}: {problem}", path.display())]
    Kubeconfig { path: PathBuf, problem: String },
    /// Nothing that a server said: not reached, not within the deadline, or cut off.
    #[error(
        "{what}: no answer from {server} ({tries} tries): {problem}; check that the API server is up and that \
         \"server\" and the certificate authority in kubeconfig {} are right",
        kubeconfig.display()
    )]
    Unreachable { server: String, what: String, problem: String, tries: u32, kubeconfig: PathBuf },
    /// The agent, and nobody else is there to ask.
    #[error(
        "{what}: no answer from the agent at {}: {problem}; check that it runs and is ready, or set kubeconfig",
        socket.display()
    )]
    Agent { socket: PathBuf, what: String, problem: String },
    /// 401.
    #[error(
        "{what}: {server} says 401: {credentials} is not valid; it may have expired: check what renews it"
    )]
    Unauthorized { server: String, what: String, credentials: String },
    /// 403.
    #[error("{what}: {server} says 403: {message}; check the ClusterRole of the service account")]
    Forbidden { server: String, what: String, message: String },
    /// Any other refusal.
    #[error("{what}: {server} says {code}: {message}")]
    Refused { server: String, what: String, code: u16, message: String },
    #[error("pod {pod}: {server} has it with UID {found}, the runtime asks for UID {asked}: it was replaced")]
    Replaced { server: String, pod: String, found: String, asked: String },
    #[error("{what}: {server} answers what is no such object: {problem}")]
    Answer { server: String, what: String, problem: String },
    #[error("pod {namespace}/{name} in CNI_ARGS: not a name that a pod can have")]
    Name { namespace: String, name: String },
    #[error("cannot start the cluster client: {0}")]
    Runtime(String),
}

impl ClusterError {
    /// The status that the server answered with, as far as callers tell them apart.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Unauthorized { .. } => Some(401),
            Self::Forbidden { .. } => Some(403),
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the same call may well work in a while (CNI specification 1.1.0, error code 11).
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Agent { .. } => true,
            Self::Refused { code, .. } => is_transient_status(*code),
            _ => false,
        }
    }
}

/// Statuses that Kubernetes' API conventions say to try again after.
pub(super) fn is_transient_status(code: u16) -> bool {
    code == 429 || code >= 500
}

/// An error and its causes in one line, each said once.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
