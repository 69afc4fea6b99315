//! Which networks a pod gets: the default network, `defaultNetworks`, then its own selections in order.

use super::config::Config;
use super::error::CniError;
use super::request::{NETWORKS_ARG, Request};
use crate::attach::AttachError;
use crate::attach::places::{Places, Source};
use crate::attach::plan::{self, Delegate, Overrides, Wanted};
use crate::nad::Nad;
use crate::nad::dir;
use crate::nad::selection::{self, NETWORKS_ANNOTATION, NetworkSelection};

/// The annotation that puts a NAD in place of the configuration's default network (Multus).
const DEFAULT_NETWORK_ANNOTATION: &str = "v1.multus-cni.io/default-network";

/// All delegates of an ADD, in their order.
pub(super) fn delegates(request: &Request, config: &Config) -> Result<Vec<Delegate>, CniError> {
    let nads = load_nads(config)?;
    let places = places(config, &nads);
    let namespace = request.args.get("K8S_POD_NAMESPACE").map_or("default", String::as_str);
    let mut cluster = cluster_networks(config, &places)?.into_iter();
    let default = cluster.next().map(|first| {
        // What the runtime asks for is the default network's only (NPWG standard §7.5).
        let overrides = Overrides { passed: config.runtime_config.clone(), ..first.overrides };
        plan::delegate(&first.source, request.interface.clone(), true, &overrides)
    });
    let mut wanted: Vec<_> = cluster.collect();
    if !config.system_namespaces.iter().any(|it| it == namespace) {
        for name in &config.default_networks {
            wanted.push(plain(places.cluster_network(name)?));
        }
    }
    let annotation = match config.annotation(NETWORKS_ANNOTATION)? {
        Some(annotation) => annotation,
        None => request.args.get(NETWORKS_ARG).map_or("", String::as_str),
    };
    for selection in selection::parse(annotation, namespace).map_err(AttachError::from)? {
        let network = &selection.network;
        if config.isolates(namespace, &network.namespace) {
            let (network, pod) = (network.to_string(), namespace.to_owned());
            return Err(AttachError::Isolated { network, pod }.into());
        }
        wanted.push(selected(&places, &selection)?);
    }
    let delegates = plan::delegates(default.transpose()?, &wanted)?;
    if delegates.is_empty() {
        return Err(CniError::nothing_to_attach());
    }
    for warning in delegates.iter().flat_map(|it| &it.warnings) {
        if config.strict_selections {
            return Err(AttachError::Strict(warning.clone()).into());
        }
        tracing::warn!(%warning, "passed over, as Multus does; strictSelections makes it an error");
    }
    Ok(delegates)
}

/// STATUS: whether the default network could be attached as far as its configuration goes.
pub(super) fn check_default(config: &Config) -> Result<(), CniError> {
    let nads = load_nads(config)?;
    for source in config.cluster_networks(&places(config, &nads))? {
        plan::delegate(&source, "eth0".to_owned(), true, &Overrides::default())?;
    }
    Ok(())
}

/// The default network, and with `delegates` whatever else is in that list.
fn cluster_networks(config: &Config, places: &Places<'_>) -> Result<Vec<Wanted>, CniError> {
    let Some(annotation) = config.annotation(DEFAULT_NETWORK_ANNOTATION)? else {
        return Ok(config.cluster_networks(places)?.into_iter().map(plain).collect());
    };
    let selections = selection::parse(annotation, &config.multus_namespace).map_err(AttachError::from)?;
    let [selection] = selections.as_slice() else {
        let problem =
            format!("annotation {DEFAULT_NETWORK_ANNOTATION} is \"{annotation}\", should be one NAD");
        return Err(CniError::config(problem));
    };
    // Not subject to `namespaceIsolation`, as with Multus: it is for the cluster's own namespace.
    Ok(vec![selected(places, selection)?])
}

fn plain(source: Source) -> Wanted {
    Wanted { source, interface: None, overrides: Overrides::default() }
}

fn selected(places: &Places<'_>, selection: &NetworkSelection) -> Result<Wanted, AttachError> {
    Ok(Wanted {
        source: places.selected(&selection.network)?,
        interface: selection.interface.clone(),
        overrides: Overrides::of_selection(selection),
    })
}

fn load_nads(config: &Config) -> Result<Vec<Nad>, CniError> {
    let Some(folder) = &config.nad_dir else {
        return Ok(Vec::new());
    };
    let loaded = dir::load(folder).map_err(AttachError::from)?;
    for problem in &loaded.problems {
        tracing::warn!(%problem, "passed over");
    }
    Ok(loaded.nads.into_iter().map(|(_, nad)| nad).collect())
}

fn places<'a>(config: &'a Config, nads: &'a [Nad]) -> Places<'a> {
    Places {
        nad_dir: config.nad_dir.as_deref(),
        nads,
        conf_dir: &config.conf_dir,
        namespace: &config.multus_namespace,
    }
}
