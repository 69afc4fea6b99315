//! Where facts come from: directories, the node's own links, the pods' namespaces, the cluster. A source only
//! sends facts: always the whole of what it sees, so that a lost or repeated one does no harm.

pub mod cluster;
pub mod files;
pub mod links;
pub mod namespaces;
pub mod paths;
pub mod pods;
pub mod told;

use crate::attach::record::AttachmentRecord;
use crate::nad::dir::Loaded;
use crate::nad::{Nad, NetworkName};
use crate::netlink::link::Link;
use crate::netlink::observe::Snapshot;
use crate::world::{ContainerKey, Problem};
use paths::PathNews;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use told::Told;

/// What a source has to say.
#[derive(Clone, Debug)]
pub enum Fact {
    /// All NADs, or why the directory cannot be read.
    Nads(Result<Arc<Loaded>, String>),
    /// The cluster's NADs with fast-path metadata.
    ClusterNads(Arc<Vec<Nad>>),
    /// This node's pods with what `network-status` tells of them.
    Told(BTreeMap<NetworkName, Vec<Told>>),
    /// Where the pods of the search with this number are, as far as they were found.
    Located(u64, BTreeMap<ContainerKey, PathBuf>),
    /// A watch of the cluster, by what it is of, does not work; or works again.
    ClusterProblem(&'static str, Option<String>),
    /// All pods that run without the networks that they select.
    Unattached(Vec<Problem>),
    /// All complete attachment records by name, without what only DEL needs, and what is wrong with others.
    Records(Arc<BTreeMap<ContainerKey, AttachmentRecord>>, Vec<String>),
    /// All links of the node's own namespace.
    Masters(Vec<Link>),
    /// A container's namespace, or why it cannot be seen.
    Pod(ContainerKey, Result<Snapshot, String>),
    /// GTP-U paths that are in another state than before. Changes no table.
    Paths(Vec<PathNews>),
}

/// Where facts go. False: nobody listens any more.
pub type Send = Arc<dyn Fn(Fact) -> bool + std::marker::Send + Sync>;

/// Tells a source to end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// An error with its causes, as one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |it| it.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
