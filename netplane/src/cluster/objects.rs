//! Reading pods and NADs from the API server, and writing what an ADD did: `network-status` and events.

use super::api::Api;
use super::cache::PodEvent;
use super::error::ClusterError;
use super::{Pod, PodName};
use crate::nad::status::NETWORK_STATUS_ANNOTATION;
use crate::nad::{Nad, NetworkName};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};

/// `reportingComponent` and `source.component` of events: what dashboards and scripts of a cluster that ran
/// Multus select by.
const COMPONENT: &str = "multus";

/// How often a write is tried against somebody else's writes.
const MOST_CONFLICTS: u32 = 5;

/// Of an event's name, which has 253 characters at most and ends in a dot and 16 digits.
const LONGEST_PREFIX: usize = 236;

/// Whether a pod runs, and with which networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// It has an address and containers that run, and nobody has written what it is attached to.
    WithoutNetworks,
    /// It has a `network-status`, or it is in the node's own network.
    OtherwiseAttached,
    /// It has no sandbox yet, has ended, is about to go, or is another pod by now.
    No,
}

impl Running {
    fn of(pod: &DynamicObject, uid: Option<&str>) -> Self {
        let at = |pointer: &str| pod.data.pointer(pointer);
        let annotations = pod.metadata.annotations.as_ref();
        let is_same = uid.is_none_or(|it| pod.metadata.uid.as_deref() == Some(it));
        if !is_same || pod.metadata.deletion_timestamp.is_some() {
            return Self::No;
        }
        if at("/spec/hostNetwork") == Some(&Value::Bool(true))
            || annotations.is_some_and(|it| it.contains_key(NETWORK_STATUS_ANNOTATION))
        {
            return Self::OtherwiseAttached;
        }
        // Kubelet writes the address when the sandbox is there, and with it the networks are.
        let has_address = at("/status/podIP").and_then(Value::as_str).is_some_and(|it| !it.is_empty());
        let is_running = at("/status/phase") == Some(&json!("Running"));
        if has_address && is_running { Self::WithoutNetworks } else { Self::No }
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Yes,
    /// The pod was deleted meanwhile: there is nothing to write to.
    PodGone,
}

impl Api {
    pub(super) fn pods(&self, namespace: &str) -> kube::Api<DynamicObject> {
        let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Pod"), "pods");
        kube::Api::namespaced_with(self.client.clone(), namespace, &kind)
    }

    /// The pod's metadata; `None` where there is no such pod.
    pub(super) async fn pod(&self, pod: &PodName) -> Result<Option<Pod>, ClusterError> {
        let pods = self.pods(&pod.namespace);
        let found = self.call(&format!("GET pod {pod}"), || pods.get_metadata_opt(&pod.name)).await?;
        Ok(found.map(|it| Pod {
            annotations: it.metadata.annotations.unwrap_or_default(),
            uid: it.metadata.uid.unwrap_or_default(),
        }))
    }

    /// Whether the pod runs without networks.
    pub(super) async fn running(&self, pod: &PodName) -> Result<Running, ClusterError> {
        let pods = self.pods(&pod.namespace);
        let found = self.call(&format!("GET pod {pod}"), || pods.get_opt(&pod.name)).await?;
        Ok(found.map_or(Running::No, |it| Running::of(&it, pod.uid.as_deref())))
    }

    /// A NAD; `None` where there is none.
    pub(super) async fn network(&self, name: &NetworkName) -> Result<Option<Nad>, ClusterError> {
        let kind = GroupVersionKind::gvk("k8s.cni.cncf.io", "v1", "NetworkAttachmentDefinition");
        let kind = ApiResource::from_gvk_with_plural(&kind, "network-attachment-definitions");
        let networks: kube::Api<DynamicObject> =
            kube::Api::namespaced_with(self.client.clone(), &name.namespace, &kind);
        let what = format!("GET network-attachment-definition {name}");
        let Some(found) = self.call(&what, || networks.get_opt(&name.name)).await? else { return Ok(None) };
        let config = match found.data.pointer("/spec/config") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(config)) => config.clone(),
            Some(other) => {
                let problem = format!("spec.config is {other}, should be a string");
                return Err(ClusterError::Answer { server: self.server(), what, problem });
            }
        };
        let annotations = found.metadata.annotations.unwrap_or_default();
        Ok(Some(Nad { name: name.clone(), annotations, config }))
    }

    /// Writes the pod's `network-status`: a merge patch of that one annotation through the subresource
    /// `status`, with the UID as the precondition. Where only Multus's ClusterRole is there, which has no
    /// `patch`, the way that Multus goes: read, and update with the version that was read.
    pub(super) async fn write_status(
        &self,
        pod: &PodName,
        uid: Option<&str>,
        status: &str,
    ) -> Result<Written, ClusterError> {
        let pods = self.pods(&pod.namespace);
        let what = format!("PATCH pod {pod} (network-status)");
        let mut uid = uid.map(str::to_owned);
        let mut conflicts = 0;
        loop {
            let mut metadata = json!({ "annotations": { NETWORK_STATUS_ANNOTATION: status } });
            if let Some(uid) = &uid {
                metadata["uid"] = json!(uid);
            }
            let patch = Patch::Merge(json!({ "metadata": metadata }));
            let parameters = PatchParams::default();
            let patched =
                self.call(&what, || pods.patch_subresource("status", &pod.name, &parameters, &patch)).await;
            let Err(error) = patched else { return Ok(Written::Yes) };
            match error.status() {
                Some(404) => return Ok(Written::PodGone),
                Some(403) => return self.update_status(pod, uid.as_deref(), status).await,
                // Either somebody else's write, or the precondition; 422 is how a changed UID is refused.
                Some(code @ (409 | 422)) => {
                    conflicts += 1;
                    let Some(found) = self.pod(pod).await? else { return Ok(Written::PodGone) };
                    let same = uid.as_deref().is_none_or(|it| it == found.uid);
                    if conflicts == MOST_CONFLICTS || (same && code == 422) {
                        return Err(error);
                    }
                    uid = Some(self.same_pod(pod, uid.as_deref(), &found)?);
                }
                _ => return Err(error),
            }
        }
    }

    async fn update_status(
        &self,
        pod: &PodName,
        uid: Option<&str>,
        status: &str,
    ) -> Result<Written, ClusterError> {
        let pods = self.pods(&pod.namespace);
        let (read, write) = (format!("GET pod {pod}"), format!("PUT pod {pod} (network-status)"));
        for conflicts in 1.. {
            let found = self.call(&read, || pods.get_opt(&pod.name)).await?;
            let Some(mut object) = found else { return Ok(Written::PodGone) };
            let annotations = object.metadata.annotations.get_or_insert_default();
            let known = Pod {
                annotations: annotations.clone(),
                uid: object.metadata.uid.clone().unwrap_or_default(),
            };
            annotations.insert(NETWORK_STATUS_ANNOTATION.to_owned(), status.to_owned());
            self.same_pod(pod, uid, &known)?;
            let parameters = PostParams::default();
            let updated = self
                .call(&write, || pods.replace_subresource("status", &pod.name, &parameters, &object))
                .await;
            let Err(error) = updated else { return Ok(Written::Yes) };
            match error.status() {
                Some(404) => return Ok(Written::PodGone),
                Some(409) if conflicts < MOST_CONFLICTS => {}
                _ => return Err(error),
            }
        }
        unreachable!("the loop ends with the conflicts")
    }

    /// The UID to write with: the one that is asked for, or another for a static pod, whose mirror has its
    /// own.
    ///
    /// # Errors
    /// Another pod has the name by now.
    pub(super) fn same_pod(
        &self,
        pod: &PodName,
        asked: Option<&str>,
        found: &Pod,
    ) -> Result<String, ClusterError> {
        match asked {
            Some(asked) if asked != found.uid && !found.is_static() => Err(ClusterError::Replaced {
                server: self.server(),
                pod: pod.to_string(),
                found: found.uid.clone(),
                asked: asked.to_owned(),
            }),
            _ => Ok(found.uid.clone()),
        }
    }

    /// Posts one event on the pod. Its name is made of what it says and of `key`, so that it is there once
    /// however often it is posted.
    pub(super) async fn post_event(
        &self,
        pod: &PodName,
        uid: Option<&str>,
        key: &str,
        event: &PodEvent,
    ) -> Result<(), ClusterError> {
        let object = event_object(pod, uid, event, key);
        let events: kube::Api<Event> = kube::Api::namespaced(self.client.clone(), &pod.namespace);
        let what = format!("POST event {} on pod {pod}", event.reason);
        let parameters = PostParams::default();
        match self.call(&what, || events.create(&parameters, &object)).await {
            // The server had taken it before, and the answer was lost.
            Err(error) if error.status() == Some(409) => Ok(()),
            posted => posted.map(drop),
        }
    }
}

/// As client-go's recorder makes them: `core/v1`, named after the pod.
fn event_object(pod: &PodName, uid: Option<&str>, event: &PodEvent, key: &str) -> Event {
    let now = Timestamp::now();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|it| it.trim().to_owned());
    // Not random: the hasher's own keys are fixed.
    let mut hasher = DefaultHasher::new();
    (key, uid, &event.reason, &event.message).hash(&mut hasher);
    let prefix: String = pod.name.chars().take(LONGEST_PREFIX).collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}.{:016x}", hasher.finish())),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: uid.map(str::to_owned),
            ..ObjectReference::default()
        },
        type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(event.reason.clone()),
        message: Some(event.message.chars().take(1024).collect()),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host }),
        reporting_component: Some(COMPONENT.to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        ..Event::default()
    }
}
