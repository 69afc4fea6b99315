//! Which networks a pod gets: the default network, `defaultNetworks`, then its own selections in order. Their
//! NADs come from `nadDir`, and what is not there from the cluster.

use super::config::Config;
use super::device::Giver;
use super::error::CniError;
use super::pod::Pod;
use super::request::{NETWORKS_ARG, Request};
use crate::attach::AttachError;
use crate::attach::perform::{self, Attached, Container};
use crate::attach::places::{Places, Source, nad_name};
use crate::attach::plan::{self, Delegate, Overrides, Wanted};
use crate::attach::store::RecordStore;
use crate::cluster::{Cluster, ClusterError};
use crate::nad::dir;
use crate::nad::selection::{self, DEFAULT_NETWORK_ANNOTATION, NETWORKS_ANNOTATION, NetworkSelection};
use crate::nad::{Nad, NetworkName};
use std::cell::RefCell;

/// The networks of one ADD.
pub(super) struct Networks<'a> {
    request: &'a Request,
    config: &'a Config,
    pod: &'a Pod,
    devices: RefCell<Giver<'a>>,
}

/// The default network, and with `delegates` whatever else is in that list.
struct ClusterNetworks {
    default: Option<Delegate>,
    more: Vec<Wanted>,
}

impl<'a> Networks<'a> {
    pub(super) fn new(request: &'a Request, config: &'a Config, pod: &'a Pod, cluster: &'a Cluster) -> Self {
        Self { request, config, pod, devices: RefCell::new(Giver::new(request, config, cluster)) }
    }

    /// Attaches them. NADs that must be fetched are fetched all at once, while the default network is being
    /// attached if that one is known without them.
    pub(super) fn attach(
        &self,
        cluster: &Cluster,
        container: &Container,
        records: &RecordStore,
    ) -> Result<Attached, CniError> {
        let mut nads = load_nads(self.config)?;
        let missing = |names: Vec<NetworkName>, nads: &[Nad]| {
            names.into_iter().filter(|name| !nads.iter().any(|it| it.name == *name)).collect::<Vec<_>>()
        };
        let of_default = missing(self.default_names()?, &nads);
        let of_others = missing(self.other_names()?, &nads);
        if of_default.is_empty() && !of_others.is_empty() && cluster.is_there() {
            let early = self.cluster_networks(&places(self.config, &nads))?;
            if early.default.is_some() {
                return self.attach_while_fetching(early, nads, &of_others, cluster, container, records);
            }
        }
        nads.extend(fetch(cluster, &[of_default, of_others].concat())?);
        let places = places(self.config, &nads);
        let delegates = self.delegates(self.cluster_networks(&places)?, &places)?;
        perform::perform(container, delegates, || Ok(Vec::new()), records)
    }

    fn attach_while_fetching(
        &self,
        early: ClusterNetworks,
        mut nads: Vec<Nad>,
        missing: &[NetworkName],
        cluster: &Cluster,
        container: &Container,
        records: &RecordStore,
    ) -> Result<Attached, CniError> {
        let ask = || fetch(cluster, missing);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("nads".to_owned()).spawn_scoped(scope, ask);
            let fetched = || -> Result<Vec<Nad>, ClusterError> {
                match thread {
                    Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    Err(_) => ask(),
                }
            };
            let first = early.default.clone().into_iter().collect();
            let rest = || {
                nads.extend(fetched()?);
                let delegates = self.delegates(early, &places(self.config, &nads))?;
                Ok(delegates.into_iter().filter(|it| !it.default).collect())
            };
            perform::perform(container, first, rest, records)
        })
    }

    /// What is wanted beside the default network, in its order; or why one of them is not to be had.
    fn wanted(&self, more: Vec<Wanted>, places: &Places<'_>) -> Vec<Result<Wanted, CniError>> {
        let config = self.config;
        let plain = |it: Result<Source, AttachError>| it.map(plain).map_err(CniError::from);
        let mut wanted: Vec<_> = more.into_iter().map(Ok).collect();
        let everybodys = self.default_networks().iter().map(|it| plain(places.cluster_network(it)));
        wanted.extend(everybodys);
        match self.selections() {
            Ok(selections) => wanted.extend(selections.iter().map(|it| self.selected(it, places))),
            Err(error) => wanted.push(Err(error.into())),
        }
        if let Some(name) = &config.auxiliary_chain {
            let cluster_network = config.cluster_network.as_deref();
            let chain = places.auxiliary_chain(name, cluster_network, config.version);
            wanted.extend(chain.transpose().map(plain));
        }
        wanted
    }

    fn selected(&self, selection: &NetworkSelection, places: &Places<'_>) -> Result<Wanted, CniError> {
        let network = &selection.network;
        if self.config.isolates(self.namespace(), &network.namespace) {
            let (network, pod) = (network.to_string(), self.namespace().to_owned());
            return Err(AttachError::Isolated { network, pod }.into());
        }
        Ok(selected(places, selection)?)
    }

    /// All delegates in their order.
    fn delegates(&self, cluster: ClusterNetworks, places: &Places<'_>) -> Result<Vec<Delegate>, CniError> {
        let config = self.config;
        let wanted = self.wanted(cluster.more, places).into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut devices = self.devices.borrow_mut();
        let wanted = wanted.into_iter().map(|it| devices.give(it)).collect::<Result<Vec<_>, _>>()?;
        let delegates = plan::delegates(cluster.default, &wanted)?;
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

    /// The same without those of which something is wrong. The others keep the names that they have by position.
    fn those_known(&self, places: &Places<'_>) -> Vec<Delegate> {
        let mut known = Vec::new();
        let more = self.cluster_networks(places).map(|it| {
            known.extend(it.default);
            it.more
        });
        for (number, wanted) in (1..).zip(self.wanted(more.unwrap_or_default(), places)) {
            let Ok(Wanted { source, interface, overrides }) = wanted else { continue };
            let interface = interface.unwrap_or_else(|| format!("net{number}"));
            known.extend(plan::delegate(&source, interface, false, &overrides));
        }
        known
    }

    fn cluster_networks(&self, places: &Places<'_>) -> Result<ClusterNetworks, CniError> {
        // Not subject to `namespaceIsolation`, as with Multus: it is for the cluster's own namespace.
        let mut networks = match self.default_selection()? {
            None => self.config.cluster_networks(places)?.into_iter().map(plain).collect(),
            Some(selection) => vec![selected(places, &selection)?],
        }
        .into_iter();
        let default = networks.next().map(|first| {
            // What the runtime asks for is the default network's only (NPWG standard §7.5).
            let Wanted { source, overrides, .. } = self.devices.borrow_mut().give(first)?;
            let overrides = Overrides { passed: self.config.runtime_config.clone(), ..overrides };
            let delegate = plan::delegate(&source, self.request.interface.clone(), true, &overrides)?;
            refuse_ourselves(&delegate, self.config).map(|()| delegate)
        });
        Ok(ClusterNetworks { default: default.transpose()?, more: networks.collect() })
    }

    fn namespace(&self) -> &str {
        self.request.args.get("K8S_POD_NAMESPACE").map_or("default", String::as_str)
    }

    fn default_networks(&self) -> &[String] {
        let system = self.config.system_namespaces.iter().any(|it| it == self.namespace());
        if system { &[] } else { &self.config.default_networks }
    }

    fn selections(&self) -> Result<Vec<NetworkSelection>, AttachError> {
        let annotation = match self.pod.annotation(NETWORKS_ANNOTATION) {
            Some(annotation) => annotation,
            None => self.request.args.get(NETWORKS_ARG).map_or("", String::as_str),
        };
        Ok(selection::parse(annotation, self.namespace())?)
    }

    fn default_selection(&self) -> Result<Option<NetworkSelection>, CniError> {
        let Some(annotation) = self.pod.annotation(DEFAULT_NETWORK_ANNOTATION) else { return Ok(None) };
        let mut selections =
            selection::parse(annotation, &self.config.multus_namespace).map_err(AttachError::from)?;
        match (selections.pop(), selections.is_empty()) {
            (Some(only), true) => Ok(Some(only)),
            _ => {
                let should = "should be one NAD";
                let problem =
                    format!("annotation {DEFAULT_NETWORK_ANNOTATION} is \"{annotation}\", {should}");
                Err(CniError::config(problem))
            }
        }
    }

    /// The NADs that may be the default network.
    fn default_names(&self) -> Result<Vec<NetworkName>, CniError> {
        if let Some(selection) = self.default_selection()? {
            return Ok(vec![selection.network]);
        }
        Ok(default_name(self.config).into_iter().collect())
    }

    /// The NADs of all others.
    fn other_names(&self) -> Result<Vec<NetworkName>, CniError> {
        let namespace = &self.config.multus_namespace;
        let mut names: Vec<_> =
            self.default_networks().iter().filter_map(|it| nad_name(it, namespace)).collect();
        for network in self.selections()?.into_iter().map(|it| it.network) {
            // One that the pod may not use is not fetched, either.
            if !self.config.isolates(self.namespace(), &network.namespace) {
                names.push(network);
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }
}

pub(super) fn default_name(config: &Config) -> Option<NetworkName> {
    config.cluster_network.as_ref().and_then(|it| nad_name(it, &config.multus_namespace))
}

/// What an ADD would attach now, for a DEL whose record is lost: as far as it is known, for what is not detached
/// now is not known later.
pub(super) fn guess(request: &Request, config: &Config, cluster: &Cluster) -> Vec<Delegate> {
    let warn =
        |error: CniError| tracing::warn!(error = error.message, "not all is known of what to take down");
    let pod = match Pod::read(request, config, cluster) {
        Ok(Some(pod)) => {
            pod.report_damage(cluster, request);
            pod
        }
        Ok(None) => Pod::unknown(),
        Err(error) => {
            warn(error);
            Pod::unknown()
        }
    };
    let networks = Networks::new(request, config, &pod, cluster);
    let mut nads = load_nads(config).unwrap_or_default();
    let mut names = networks.default_names().unwrap_or_default();
    names.extend(networks.other_names().unwrap_or_default());
    names.retain(|name| !nads.iter().any(|it| it.name == *name));
    match cluster.networks(&names) {
        Ok(fetched) => nads.extend(fetched),
        Err(error) => warn(error.into()),
    }
    let places = places(config, &nads);
    let all = networks.cluster_networks(&places).and_then(|it| networks.delegates(it, &places));
    all.unwrap_or_else(|error| {
        warn(error);
        // Anew: devices are handed out once.
        Networks::new(request, config, &pod, cluster).those_known(&places)
    })
}

/// `clusterNetwork` may be a directory with our own configuration in it, perhaps as the first file: each call
/// would make another one, without end.
pub(super) fn refuse_ourselves(default: &Delegate, config: &Config) -> Result<(), CniError> {
    let mut kinds = default.plugins.iter().filter_map(|it| it.get("type")?.as_str());
    if default.network.is_none() && kinds.any(|it| it == config.kind) {
        let problem = format!("network {}: type is \"{}\", which is this plugin", default.label, config.kind);
        return Err(CniError::config(problem));
    }
    Ok(())
}

/// NADs that the cluster has. One that only an agent could know of is missing if that one does not answer.
fn fetch(cluster: &Cluster, names: &[NetworkName]) -> Result<Vec<Nad>, ClusterError> {
    let nads = cluster.networks(names)?;
    match names.iter().find(|name| !nads.iter().any(|it| it.name == **name)) {
        Some(missing) => cluster.heard(&format!("network {missing}")).map(|()| nads),
        None => Ok(nads),
    }
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

pub(super) fn load_nads(config: &Config) -> Result<Vec<Nad>, CniError> {
    let Some(folder) = &config.nad_dir else {
        return Ok(Vec::new());
    };
    let loaded = dir::load(folder).map_err(AttachError::from)?;
    for problem in &loaded.problems {
        tracing::warn!(%problem, "passed over");
    }
    Ok(loaded.nads.into_iter().map(|(_, nad)| nad).collect())
}

pub(super) fn places<'a>(config: &'a Config, nads: &'a [Nad]) -> Places<'a> {
    let mut from = Vec::new();
    from.extend(config.nad_dir.as_ref().map(|it| it.display().to_string()));
    from.extend(
        config.agent_socket.as_ref().map(|it| format!("the cluster of the agent at {}", it.display())),
    );
    from.extend(config.kubeconfig.as_ref().map(|it| format!("the cluster of {}", it.display())));
    if from.is_empty() {
        from.push("nadDir and kubeconfig, which are not set".to_owned());
    }
    Places {
        nads,
        nads_from: from.join(" and "),
        conf_dir: &config.conf_dir,
        namespace: &config.multus_namespace,
    }
}
