//! Where a session's endpoints are found.

use super::endpoint::Endpoint;
use crate::nad::NetworkName;
use crate::nad::fast_path::{StaticSession, Target};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The endpoints of this node by pod and network. Outside Kubernetes a container is its own pod.
pub(super) struct Directory<'e, 'w> {
    by_pod: BTreeMap<String, BTreeMap<&'w NetworkName, &'e Endpoint<'w>>>,
    by_network: BTreeMap<&'w NetworkName, Vec<String>>,
}

impl<'e, 'w> Directory<'e, 'w> {
    pub(super) fn new(endpoints: &'e [Endpoint<'w>]) -> Self {
        let mut this = Self { by_pod: BTreeMap::new(), by_network: BTreeMap::new() };
        for endpoint in endpoints {
            let pod = match &endpoint.attachment.pod {
                Some(pod) => pod.to_string(),
                None => endpoint.key.container.clone(),
            };
            // Of two attachments to one network the first one is used.
            this.by_pod.entry(pod.clone()).or_default().entry(endpoint.network()).or_insert(endpoint);
            let pods = this.by_network.entry(endpoint.network()).or_default();
            if !pods.contains(&pod) {
                pods.push(pod);
            }
        }
        this
    }

    pub(super) fn endpoint(&self, pod: &str, network: &NetworkName) -> Option<&'e Endpoint<'w>> {
        self.by_pod.get(pod)?.get(network).copied()
    }

    /// The pod of a session: the named one, or the only one that has all its networks. `Ok(None)`: it is
    /// not on this node.
    pub(super) fn pod(
        &self,
        session: &StaticSession,
        access: &NetworkName,
    ) -> Result<Option<String>, String> {
        let here = self.by_network.get(access).map(Vec::as_slice).unwrap_or_default();
        if let Some(pod) = &session.pod {
            let pod = pod.to_string();
            return Ok(here.contains(&pod).then_some(pod));
        }
        let needed = session.uplink.as_ref().map(|it| match &it.to {
            Target::Data(network) | Target::Relay { network, .. } => network,
        });
        let mut with_all = here.iter().filter(|pod| needed.is_none_or(|it| self.endpoint(pod, it).is_some()));
        match (with_all.next(), with_all.next()) {
            (Some(first), Some(second)) => {
                Err(format!("\"pod\" is left out, and both {first} and {second} have its networks"))
            }
            (Some(only), None) => Ok(Some(only.clone())),
            // A pod that has the access network alone: the missing one is worth a word.
            (None, _) => Ok(here.first().cloned()),
        }
    }

    /// Names of the pods that have endpoints here, each with them.
    pub(super) fn pods(
        &self,
    ) -> impl Iterator<Item = (&String, impl Iterator<Item = &'e Endpoint<'w>> + Clone + '_)> + '_ {
        self.by_pod.iter().map(|(pod, endpoints)| (pod, endpoints.values().copied()))
    }

    /// Whose address this is on a network.
    pub(super) fn holder(&self, network: &NetworkName, address: IpAddr) -> Option<&str> {
        let has = |it: &&Endpoint<'_>| it.addresses().iter().any(|it| it.addr() == address);
        let pods = self.by_pod.iter();
        pods.filter(|(_, it)| it.get(network).copied().as_ref().is_some_and(has))
            .map(|(pod, _)| pod.as_str())
            .next()
    }
}
