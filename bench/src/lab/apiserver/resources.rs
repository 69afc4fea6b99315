//! The resources that the server double knows, and what discovery says about them.

use serde_json::{Value, json};

/// One resource of one group version. Where two serve the same objects (events), `stored` names the other.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) plural: &'static str,
    pub(super) singular: &'static str,
    pub(super) kind: &'static str,
    pub(super) short: &'static [&'static str],
    pub(super) namespaced: bool,
    /// Has `/status`: what is written there and what is written without it keep off each other.
    pub(super) status: bool,
    /// Made by a CustomResourceDefinition: no strategic merge patch.
    pub(super) custom: bool,
    /// Field selectors, beside `metadata.name` and `metadata.namespace`.
    pub(super) fields: &'static [&'static str],
    /// The group under whose name the objects are kept.
    pub(super) stored: &'static str,
}

const PLAIN: Resource = Resource {
    group: "",
    version: "v1",
    plural: "",
    singular: "",
    kind: "",
    short: &[],
    namespaced: true,
    status: false,
    custom: false,
    fields: &[],
    stored: "",
};

/// An object of a group, with `/status`, of no namespace.
const fn cluster_wide(
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
) -> Resource {
    Resource { group, plural, singular, kind, namespaced: false, status: true, stored: group, ..PLAIN }
}

/// Every resource, in the order of discovery.
pub(super) static RESOURCES: [Resource; 18] = [
    Resource {
        plural: "events",
        singular: "event",
        kind: "Event",
        short: &["ev"],
        fields: &[
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.uid",
            "reason",
            "type",
        ],
        ..PLAIN
    },
    Resource { plural: "configmaps", singular: "configmap", kind: "ConfigMap", short: &["cm"], ..PLAIN },
    Resource {
        plural: "namespaces",
        singular: "namespace",
        kind: "Namespace",
        short: &["ns"],
        namespaced: false,
        status: true,
        fields: &["status.phase"],
        ..PLAIN
    },
    Resource {
        plural: "nodes",
        singular: "node",
        kind: "Node",
        short: &["no"],
        namespaced: false,
        status: true,
        fields: &["spec.unschedulable"],
        ..PLAIN
    },
    Resource {
        plural: "pods",
        singular: "pod",
        kind: "Pod",
        short: &["po"],
        status: true,
        fields: &["spec.nodeName", "spec.serviceAccountName", "status.phase", "status.podIP"],
        ..PLAIN
    },
    Resource {
        plural: "serviceaccounts",
        singular: "serviceaccount",
        kind: "ServiceAccount",
        short: &["sa"],
        ..PLAIN
    },
    cluster_wide(
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
        "validatingadmissionpolicy",
        "ValidatingAdmissionPolicy",
    ),
    Resource {
        status: false,
        ..cluster_wide(
            "admissionregistration.k8s.io",
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicybinding",
            "ValidatingAdmissionPolicyBinding",
        )
    },
    Resource {
        short: &["crd", "crds"],
        ..cluster_wide(
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            "customresourcedefinition",
            "CustomResourceDefinition",
        )
    },
    Resource {
        short: &["ds"],
        namespaced: true,
        ..cluster_wide("apps", "daemonsets", "daemonset", "DaemonSet")
    },
    Resource {
        short: &["deploy"],
        namespaced: true,
        ..cluster_wide("apps", "deployments", "deployment", "Deployment")
    },
    Resource {
        group: "events.k8s.io",
        plural: "events",
        singular: "event",
        kind: "Event",
        short: &["ev"],
        fields: &[
            "regarding.kind",
            "regarding.name",
            "regarding.namespace",
            "regarding.uid",
            "reason",
            "type",
        ],
        stored: "",
        ..PLAIN
    },
    Resource {
        group: "k8s.cni.cncf.io",
        plural: "network-attachment-definitions",
        singular: "network-attachment-definition",
        kind: "NetworkAttachmentDefinition",
        short: &["net-attach-def"],
        custom: true,
        stored: "k8s.cni.cncf.io",
        ..PLAIN
    },
    Resource {
        short: &["netpol"],
        namespaced: true,
        status: false,
        ..cluster_wide("networking.k8s.io", "networkpolicies", "networkpolicy", "NetworkPolicy")
    },
    Resource {
        status: false,
        ..cluster_wide(
            "rbac.authorization.k8s.io",
            "clusterrolebindings",
            "clusterrolebinding",
            "ClusterRoleBinding",
        )
    },
    Resource {
        status: false,
        ..cluster_wide("rbac.authorization.k8s.io", "clusterroles", "clusterrole", "ClusterRole")
    },
    Resource {
        group: "resource.k8s.io",
        plural: "resourceclaims",
        singular: "resourceclaim",
        kind: "ResourceClaim",
        status: true,
        stored: "resource.k8s.io",
        ..PLAIN
    },
    Resource {
        group: "resource.k8s.io",
        plural: "resourceslices",
        singular: "resourceslice",
        kind: "ResourceSlice",
        namespaced: false,
        fields: &["spec.nodeName", "spec.driver"],
        stored: "resource.k8s.io",
        ..PLAIN
    },
];

impl Resource {
    /// The resource of a group version and plural.
    pub(super) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|it| it.group == group && it.version == version && it.plural == plural)
    }

    /// The resource of an object, by its `apiVersion` and `kind`.
    pub(super) fn of(object: &Value) -> Option<&'static Self> {
        let (version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
        RESOURCES.iter().find(|it| it.api_version() == version && it.kind == kind)
    }

    /// `v1`, `resource.k8s.io/v1`.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// As errors name it: `pods`, `network-attachment-definitions.k8s.cni.cncf.io`.
    pub(super) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// As errors name its kind: `Pod`, `ResourceClaim.resource.k8s.io`.
    pub(super) fn qualified_kind(&self) -> String {
        if self.group.is_empty() { self.kind.to_owned() } else { format!("{}.{}", self.kind, self.group) }
    }
}

/// The documents that are not about objects: discovery, version, health, an OpenAPI without definitions.
pub(super) fn discovery(path: &str) -> Option<Value> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match segments[..] {
        ["api"] => Some(json!({
            "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [],
        })),
        ["api", "v1"] => Some(resource_list("", "v1")),
        ["apis"] => Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups() })),
        ["apis", group] => groups().into_iter().find(|it| it["name"] == group).map(|mut it| {
            it["kind"] = json!("APIGroup");
            it["apiVersion"] = json!("v1");
            it
        }),
        ["apis", group, version] if RESOURCES.iter().any(|it| it.group == group && it.version == version) => {
            Some(resource_list(group, version))
        }
        ["version"] => Some(json!({
            "major": "1", "minor": "34", "gitVersion": "v1.34.0", "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "2025-08-27T00:00:00Z", "goVersion": "go1.24", "compiler": "gc",
            "platform": "linux/amd64",
        })),
        ["openapi", "v2"] => Some(json!({
            "swagger": "2.0", "info": { "title": "Kubernetes", "version": "v1.34.0" }, "paths": {},
            "definitions": {},
        })),
        ["openapi", "v3"] => Some(json!({ "paths": {} })),
        _ => None,
    }
}

fn groups() -> Vec<Value> {
    let mut names: Vec<&str> = RESOURCES.iter().map(|it| it.group).filter(|it| !it.is_empty()).collect();
    names.dedup();
    let group = |name: &str| {
        let version = json!({ "groupVersion": format!("{name}/v1"), "version": "v1" });
        json!({ "name": name, "versions": [version], "preferredVersion": version })
    };
    names.into_iter().map(group).collect()
}

fn resource_list(group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for it in RESOURCES.iter().filter(|it| it.group == group && it.version == version) {
        resources.push(json!({
            "name": it.plural, "singularName": it.singular, "namespaced": it.namespaced, "kind": it.kind,
            "shortNames": it.short,
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        }));
        if it.status {
            resources.push(json!({
                "name": format!("{}/status", it.plural), "singularName": "", "namespaced": it.namespaced,
                "kind": it.kind, "verbs": ["get", "patch", "update"],
            }));
        }
    }
    let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_names_every_resource_under_its_group_version() {
        for it in &RESOURCES {
            let path =
                if it.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}/v1", it.group) };
            let list = discovery(&path).expect("a document");
            let names: Vec<_> = list["resources"].as_array().expect("a list").iter().collect();
            assert!(
                names.iter().any(|found| found["name"] == it.plural && found["kind"] == it.kind),
                "{path}"
            );
        }
        assert_eq!(discovery("/apis/batch/v1"), None);
    }
}
