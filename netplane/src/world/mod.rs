//! What the node should forward: networks, attachments and observations as plain data, and the pure
//! functions that compile them into tables and find the difference to the tables in force.

mod compile;
pub mod diff;
mod directory;
pub mod end_marker;
mod endpoint;
mod entries;
mod flat;
mod lookup;
pub mod paths;
pub mod programmed;
mod refusal;
mod rules;
mod sdf;
mod session;
mod slots;
pub mod tables;
#[cfg(test)]
mod tests;

pub use compile::{
    Compiled, EndpointView, NetworkView, Problem, SessionView, WantedNeighbour, compile, compile_beside,
};
pub use lookup::Lookup;
pub use refusal::{Kind, Refusal};
pub use rules::{Buffering, buffering};
pub use slots::Slots;

use crate::nad::NetworkName;
use crate::nad::fast_path::FastPath;
use crate::netlink::link::Link;
use crate::netlink::observe::Snapshot;
use std::collections::BTreeMap;

/// Which container's attachments: the attachment record's name.
pub type ContainerKey = String;

/// All facts of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Networks with fast-path metadata that is in force.
    pub networks: BTreeMap<NetworkName, FastPath>,
    pub attachments: BTreeMap<AttachmentKey, Attachment>,
    /// Links of the node's own namespace by name.
    pub masters: BTreeMap<String, Link>,
    /// What was seen in each container's namespace; absent until it was looked at.
    pub pods: BTreeMap<ContainerKey, Snapshot>,
}

/// One interface of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentKey {
    pub container: ContainerKey,
    pub interface: String,
}

/// An attachment to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub network: NetworkName,
    /// `namespace/name`; absent outside Kubernetes.
    pub pod: Option<NetworkName>,
    pub master: Option<String>,
}
