//! What a request is about: its path and query, and the verb by which Kubernetes calls it.

use super::resources::Resource;
use std::collections::BTreeMap;

/// A request for objects.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) resource: &'static Resource,
    /// Empty: of the cluster, or of all namespaces.
    pub(super) namespace: String,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Route {
    /// Reads a path. Nothing: no path of a resource that the server has.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match &segments[..] {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] if *plural != "status" => {
                (*namespace, [&[*plural], rest].concat())
            }
            rest => ("", rest.to_vec()),
        };
        let (plural, rest) = rest.split_first()?;
        let resource = Resource::find(group, version, plural)?;
        if rest.len() > 2 || (!resource.namespaced && !namespace.is_empty()) {
            return None;
        }
        let part = |at: usize| rest.get(at).map(|it| (*it).to_owned());
        Some(Self { resource, namespace: namespace.to_owned(), name: part(0), subresource: part(1) })
    }
}

/// The parameters of a query, decoded.
pub(super) type Query = BTreeMap<String, String>;

pub(super) fn query(text: &str) -> Query {
    form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

/// Whether a parameter says yes.
pub(super) fn is_set(query: &Query, key: &str) -> bool {
    query.get(key).is_some_and(|it| matches!(it.as_str(), "1" | "true"))
}

/// The verb as RBAC names it: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`,
/// `deletecollection`.
pub(super) fn verb(method: &str, path: &str, parameters: &Query) -> &'static str {
    let route = Route::parse(path);
    let named = route.as_ref().is_none_or(|it| it.name.is_some());
    match method {
        "GET" if route.is_some() && is_set(parameters, "watch") => "watch",
        "GET" if named => "get",
        "GET" => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if named => "delete",
        "DELETE" => "deletecollection",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> (&'static str, String, Option<String>, Option<String>) {
        let route = Route::parse(path).expect(path);
        (route.resource.plural, route.namespace, route.name, route.subresource)
    }

    #[test]
    fn paths_name_resource_namespace_object_and_subresource() {
        let some = |it: &str| Some(it.to_owned());
        assert_eq!(parts("/api/v1/pods"), ("pods", String::new(), None, None));
        assert_eq!(
            parts("/api/v1/namespaces/a/pods/b/status"),
            ("pods", "a".to_owned(), some("b"), some("status"))
        );
        assert_eq!(parts("/api/v1/namespaces/a"), ("namespaces", String::new(), some("a"), None));
        assert_eq!(
            parts("/api/v1/namespaces/a/status"),
            ("namespaces", String::new(), some("a"), some("status"))
        );
        for unknown in ["/", "/api/v1", "/api/v1/secrets", "/apis/batch/v1/jobs"] {
            assert!(Route::parse(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn verbs_are_those_of_rbac() {
        let verb = |method, path, text| verb(method, path, &query(text));
        assert_eq!(verb("GET", "/api/v1/pods", "watch=1&resourceVersion=3"), "watch");
        assert_eq!(verb("GET", "/api/v1/pods", "limit=5"), "list");
        assert_eq!(verb("GET", "/api/v1/nodes/n", ""), "get");
        assert_eq!(verb("DELETE", "/api/v1/namespaces/a/pods", ""), "deletecollection");
    }
}
