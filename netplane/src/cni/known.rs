//! The networks that the configuration knows without a pod: for STATUS and GC.

use super::config::Config;
use super::error::CniError;
use super::networks::{default_name, load_nads, places, refuse_ourselves};
use crate::attach::places::{Source, nad_name};
use crate::attach::plan::{self, Delegate, Overrides};
use crate::cluster::Cluster;
use crate::nad::{Nad, NetworkName};

/// The networks that every pod gets whatever it selects, the default network first.
///
/// # Errors
/// One is not there, or its configuration is wrong.
pub(super) fn of_every_pod(config: &Config, cluster: &Cluster) -> Result<Vec<Delegate>, CniError> {
    let mut nads = load_nads(config)?;
    fetch(&mut nads, default_name(config), cluster)?;
    let plan = |(at, source): (usize, Source)| {
        let delegate = plan::delegate(&source, "eth0".to_owned(), at == 0, &Overrides::default())?;
        refuse_ourselves(&delegate, config).map(|()| delegate)
    };
    config.cluster_networks(&places(config, &nads))?.into_iter().enumerate().map(plan).collect()
}

/// All that the configuration names and all NADs of `nadDir`, and what kept it from knowing the default
/// network. Another one that is wrong has no attachments, and is passed over.
pub(super) fn all(config: &Config, cluster: &Cluster) -> (Vec<Delegate>, Option<CniError>) {
    let (mut delegates, error) = match of_every_pod(config, cluster) {
        Ok(delegates) => (delegates, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let mut nads = load_nads(config).unwrap_or_default();
    let names = config.default_networks.iter().filter_map(|it| nad_name(it, &config.multus_namespace));
    if let Err(error) = fetch(&mut nads, names, cluster) {
        tracing::warn!(error = error.message, "GC passes over defaultNetworks");
    }
    let places = places(config, &nads);
    let networks = config.default_networks.iter().map(|it| places.cluster_network(it));
    let networks = networks.chain(nads.iter().map(|it| places.selected(&it.name)));
    let plan = |source| plan::delegate(&source, "net1".to_owned(), false, &Overrides::default());
    for delegate in networks.map(|it| it.and_then(plan)) {
        match delegate {
            Ok(delegate) => delegates.push(delegate),
            Err(error) => tracing::warn!(%error, "GC passes over a network"),
        }
    }
    (delegates, error)
}

/// Those of the API server beside those of the directory.
fn fetch(
    nads: &mut Vec<Nad>,
    names: impl IntoIterator<Item = NetworkName>,
    cluster: &Cluster,
) -> Result<(), CniError> {
    let mut names: Vec<_> = names.into_iter().collect();
    names.retain(|name| !nads.iter().any(|it| it.name == *name));
    nads.extend(cluster.networks(&names)?);
    Ok(())
}
