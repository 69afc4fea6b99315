//! The pod that a call is for: where its annotations come from, and what is said on it afterwards.

use super::config::Config;
use super::error::CniError;
use super::request::{NETWORKS_ARG, Request};
use crate::attach::perform::Attached;
use crate::attach::plan::Warning;
use crate::attach::status;
use crate::cluster::cache::{
    DAMAGED_RECORD, FAILED_ADD_INTERFACE, NO_NETWORK_FOUND, PodEvent, PodReport, SELECTION_PASSED_OVER,
};
use crate::cluster::{self, Cluster, ClusterError, PodName};
use std::collections::BTreeMap;
use std::time::Instant;

/// A pod, or a container outside Kubernetes.
pub(super) struct Pod {
    name: Option<PodName>,
    annotations: BTreeMap<String, String>,
    /// Of the object in the API, where it is known.
    uid: Option<String>,
}

impl Pod {
    /// Asks the agent, then looks at what the runtime passes, then asks the API server: the first one that
    /// knows. `None`: there is no such pod any more.
    pub(super) fn read(
        request: &Request,
        config: &Config,
        cluster: &Cluster,
    ) -> Result<Option<Self>, CniError> {
        let arg = |name: &str| request.args.get(name).cloned();
        let name = arg("K8S_POD_NAMESPACE").zip(arg("K8S_POD_NAME"));
        let name = name.map(|(namespace, name)| PodName { namespace, name, uid: arg("K8S_POD_UID") });
        let passed = config.pod_annotations()?;
        let Some(pod) = &name else {
            let annotations = passed.unwrap_or_default();
            return Ok(Some(Self { name, annotations, uid: None }));
        };
        if let Some(found) = cluster.cached_pod(pod)? {
            return Ok(Some(Self { name, annotations: found.annotations, uid: Some(found.uid) }));
        }
        if let Some(annotations) = passed {
            // The runtime's UID of a static pod is not its mirror's.
            let uid = pod.uid.clone().filter(|_| !cluster::is_static(&annotations));
            return Ok(Some(Self { name, annotations, uid }));
        }
        if !cluster.has_api() {
            if !request.args.contains_key(NETWORKS_ARG) {
                // It may select networks that it would run without.
                cluster.heard(&format!("pod {pod}"))?;
            }
            let uid = pod.uid.clone();
            return Ok(Some(Self { name, annotations: BTreeMap::new(), uid }));
        }
        let found = cluster.pod(pod)?;
        Ok(found.map(|it| Self { name, annotations: it.annotations, uid: Some(it.uid) }))
    }

    /// A pod of which nothing is known any more.
    pub(super) fn unknown() -> Self {
        Self { name: None, annotations: BTreeMap::new(), uid: None }
    }

    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    /// Says on the pod what was attached, and what was passed over.
    pub(super) fn report(
        &self,
        cluster: &Cluster,
        attached: &Attached,
        begun: Instant,
    ) -> Result<(), ClusterError> {
        let Some(name) = &self.name else { return Ok(()) };
        let mut report = status::report(&attached.record, self.uid.clone());
        // Where resource names are for the scheduler only, no device is what everybody expects.
        let told = attached.warnings.iter().filter(|it| !matches!(it, Warning::NoDevice { .. }));
        report.events.extend(told.map(|it| warning(SELECTION_PASSED_OVER, it.to_string())));
        report.milliseconds = milliseconds(begun);
        cluster.report(name, &report)
    }

    /// Says on the pod that nothing was attached. That this could not be said is a line in the log.
    pub(super) fn report_failure(
        &self,
        cluster: &Cluster,
        request: &Request,
        error: &CniError,
        begun: Instant,
    ) {
        let reason = if error.no_network { NO_NETWORK_FOUND } else { FAILED_ADD_INTERFACE };
        self.tell(cluster, request, warning(reason, error.message.clone()), milliseconds(begun));
    }

    /// Says on the pod that DEL, or a second ADD, goes by a guess: what plugins keep elsewhere may be left. That this could not
    /// be said is a line in the log.
    pub(super) fn report_damage(&self, cluster: &Cluster, request: &Request) {
        let message = format!(
            "The record of {} is damaged and set aside; its networks are detached by what annotations and \
             NADs say now",
            request.interface
        );
        self.tell(cluster, request, warning(DAMAGED_RECORD, message), None);
    }

    fn tell(&self, cluster: &Cluster, request: &Request, event: PodEvent, milliseconds: Option<u64>) {
        let Some(name) = &self.name else { return };
        let report = PodReport {
            container_id: request.container_id.clone(),
            interface: request.interface.clone(),
            uid: self.uid.clone(),
            network_status: None,
            events: vec![event],
            milliseconds,
        };
        if let Err(error) = cluster.report(name, &report) {
            tracing::warn!(%error, "event");
        }
    }
}

fn milliseconds(begun: Instant) -> Option<u64> {
    u64::try_from(begun.elapsed().as_millis()).ok()
}

fn warning(reason: &str, message: String) -> PodEvent {
    PodEvent { warning: true, reason: reason.to_owned(), message }
}
