//! Requests on objects: from method, path, query and body to an answer. Synchronous; watches are opened here
//! and run in [`super::watch`].

use super::events::to_served;
use super::patch;
use super::resources::{Resource, discovery};
use super::route::{Query, Route, is_set};
use super::selector::Selector;
use super::status::{Failure, success};
use super::store::{Key, Part, Store};
use super::watch::Opening;
use serde_json::{Value, json};
use std::sync::Arc;

/// A request whose body has been read.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a Query,
    pub(super) content_type: &'a str,
    /// `Accept` asks for nothing but the objects' metadata.
    pub(super) metadata_only: bool,
    pub(super) body: &'a [u8],
}

/// What is sent back.
#[derive(Debug)]
pub(super) enum Answer {
    Object(u16, Value),
    Text(&'static str),
    Watch(Opening),
}

/// # Errors
/// What the API server would answer with a Status object.
pub(super) fn answer(store: &mut Store, request: &Request<'_>) -> Result<Answer, Failure> {
    if matches!(request.path, "/healthz" | "/livez" | "/readyz") {
        return Ok(Answer::Text("ok"));
    }
    let Some(route) = Route::parse(request.path) else {
        let document = discovery(request.path).ok_or_else(Failure::no_such_path)?;
        return if request.method == "GET" {
            Ok(Answer::Object(200, document))
        } else {
            Err(Failure::method_not_allowed())
        };
    };
    let part = match route.subresource.as_deref() {
        None => Part::Main,
        Some("status") if route.resource.status => Part::Status,
        Some(_) => return Err(Failure::no_such_path()),
    };
    let one =
        |code, object: Arc<Value>| Ok(Answer::Object(code, to_served(route.resource, (*object).clone())));
    match (request.method, route.name.as_deref()) {
        ("GET", Some(name)) if is_set(request.query, "watch") => {
            let selector = format!("metadata.name={name}");
            open_watch(store, &route, request, &selector)
        }
        ("GET", Some(name)) => one(200, store.get(route.resource, &route.namespace, name)?),
        ("GET", None) if is_set(request.query, "watch") => {
            open_watch(store, &route, request, text(request.query, "fieldSelector"))
        }
        ("GET", None) => list(store, &route, request),
        ("POST", None) if route.resource.namespaced && route.namespace.is_empty() => {
            Err(Failure::method_not_allowed())
        }
        ("POST", None) => one(201, store.create(route.resource, &route.namespace, body(&route, request)?)?),
        ("PUT", Some(name)) => {
            let object = body(&route, request)?;
            let other = |asked: &str, found: &str| Failure::other_uid(route.resource, name, asked, found);
            one(200, store.update(route.resource, (&route.namespace, name), part, other, |_| Ok(object))?)
        }
        ("PATCH", Some(name)) => {
            // The API server checks a patch's UID as a field that must not change, not as a precondition.
            let other = |asked: &str, _: &str| {
                let why = format!("Invalid value: {asked:?}: field is immutable");
                Failure::invalid(route.resource, name, "metadata.uid", &why)
            };
            let change = |it: &Value| patch::apply(route.resource, request.content_type, request.body, it);
            one(200, store.update(route.resource, (&route.namespace, name), part, other, change)?)
        }
        ("DELETE", Some(name)) if part == Part::Main => delete(store, &route, name, request.body),
        ("DELETE", None) => delete_all(store, &route, request),
        _ => Err(Failure::method_not_allowed()),
    }
}

fn text<'a>(query: &'a Query, key: &str) -> &'a str {
    query.get(key).map_or("", String::as_str)
}

/// The object of a POST or PUT; it must be what the path says.
fn body(route: &Route, request: &Request<'_>) -> Result<Value, Failure> {
    if !matches!(request.content_type, "" | "application/json") {
        return Err(Failure::unsupported_media_type(request.content_type, &["application/json"]));
    }
    let mut object: Value = serde_json::from_slice(request.body)
        .map_err(|error| Failure::bad_request(format!("the object provided is unrecognized: {error}")))?;
    let (version, kind) = (route.resource.api_version(), route.resource.kind);
    // Typed clients may leave them out where the path has said it.
    let other = |key: &str, wanted: &str| object[key].as_str().is_some_and(|it| it != wanted);
    if other("apiVersion", &version) || other("kind", kind) {
        return Err(Failure::bad_request(format!(
            "{} {} in the body, but the path is for {version} {kind}",
            object["apiVersion"], object["kind"]
        )));
    }
    if !object["metadata"].is_object() {
        return Err(Failure::bad_request("metadata is missing or is no object"));
    }
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    if route.resource.namespaced && !namespace.is_empty() && namespace != route.namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if route.resource.namespaced {
        object["metadata"]["namespace"] = json!(route.namespace);
    }
    Ok(object)
}

/// As `PartialObjectMetadata`.
pub(super) fn metadata_of(mut object: Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"].take(),
    })
}

/// What stands in a list: built-in kinds leave out in a list what its own kind says.
fn item(resource: &Resource, object: &Arc<Value>) -> Value {
    let mut item = to_served(resource, (**object).clone());
    if !resource.custom
        && let Some(map) = item.as_object_mut()
    {
        map.remove("apiVersion");
        map.remove("kind");
    }
    item
}

/// LIST, in pages of `limit`. A `continue` goes on in the state of the first page.
fn list(store: &Store, route: &Route, request: &Request<'_>) -> Result<Answer, Failure> {
    let (resource, query) = (route.resource, request.query);
    let selector = Selector::parse(resource, text(query, "labelSelector"), text(query, "fieldSelector"))?;
    let (version, after) = match text(query, "continue") {
        "" => (store.version(), None),
        token => {
            let malformed = || Failure::bad_request("continue key is not valid");
            let (version, key) = token.split_once('/').ok_or_else(malformed)?;
            let (namespace, name) = key.split_once('/').ok_or_else(malformed)?;
            let version = version.parse().map_err(|_| malformed())?;
            (version, Some(Key::new(resource, namespace, name)))
        }
    };
    let snapshot = store.snapshot(resource, version).ok_or_else(|| {
        Failure::new(
            410,
            "Expired",
            "The provided continue parameter is too old to display a consistent list result",
        )
    })?;
    let found: Vec<_> = snapshot
        .iter()
        .filter(|(key, _)| route.namespace.is_empty() || key.namespace == route.namespace)
        .filter(|(key, _)| after.as_ref().is_none_or(|it| *key > it))
        .filter(|(_, object)| selector.matches(&to_served(resource, (***object).clone())))
        .collect();
    let limit = text(query, "limit").parse().ok().filter(|it| *it > 0).unwrap_or(usize::MAX);
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if let (true, Some((last, _))) = (found.len() > limit, found.get(limit - 1)) {
        metadata["continue"] = json!(format!("{version}/{}/{}", last.namespace, last.name));
        if selector.is_everything() {
            metadata["remainingItemCount"] = json!(found.len() - limit);
        }
    }
    let page = found.iter().take(limit);
    let (kind, version, items): (_, _, Vec<Value>) = if request.metadata_only {
        let items = page.map(|(_, object)| metadata_of((***object).clone())).collect();
        ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned(), items)
    } else {
        let items = page.map(|(_, object)| item(resource, object)).collect();
        (resource.kind, resource.api_version(), items)
    };
    let list = json!({
        "kind": format!("{kind}List"), "apiVersion": version, "metadata": metadata, "items": items,
    });
    Ok(Answer::Object(200, list))
}

fn open_watch(store: &Store, route: &Route, request: &Request<'_>, fields: &str) -> Result<Answer, Failure> {
    let query = request.query;
    let selector = Selector::parse(route.resource, text(query, "labelSelector"), fields)?;
    let initial = is_set(query, "sendInitialEvents");
    let version = match text(query, "resourceVersion") {
        "" | "0" => None,
        version => Some(
            version
                .parse::<u64>()
                .map_err(|_| Failure::bad_request(format!("Invalid resource version {version:?}")))?,
        ),
    };
    Ok(Answer::Watch(Opening {
        resource: route.resource,
        namespace: route.namespace.clone(),
        selector,
        metadata_only: request.metadata_only,
        // Without a version, and for a list by watching: all that is there comes first.
        since: if initial { None } else { version },
        now: store.version(),
        bookmarks: is_set(query, "allowWatchBookmarks"),
        mark_end_of_initial: initial,
        timeout_seconds: text(query, "timeoutSeconds").parse().ok(),
    }))
}

fn delete(store: &mut Store, route: &Route, name: &str, body: &[u8]) -> Result<Answer, Failure> {
    let options: Value = match body {
        [] => Value::Null,
        body => serde_json::from_slice(body)
            .map_err(|error| Failure::bad_request(format!("DeleteOptions: {error}")))?,
    };
    let wanted = &options["preconditions"];
    let found = store.get(route.resource, &route.namespace, name)?;
    let version = &wanted["resourceVersion"];
    if !version.is_null() && *version != found["metadata"]["resourceVersion"] {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {}, ResourceVersion in object meta: {}",
            version.as_str().unwrap_or_default(),
            found["metadata"]["resourceVersion"].as_str().unwrap_or_default()
        );
        return Err(Failure::conflict(route.resource, name, &why));
    }
    let gone = store.delete(route.resource, &route.namespace, name, wanted["uid"].as_str())?;
    // Pods, and what finalizers hold, come back as objects.
    if route.resource.plural == "pods" || !gone["metadata"]["deletionTimestamp"].is_null() {
        return Ok(Answer::Object(200, to_served(route.resource, (*gone).clone())));
    }
    Ok(Answer::Object(200, success(route.resource, name, &gone["metadata"]["uid"])))
}

fn delete_all(store: &mut Store, route: &Route, request: &Request<'_>) -> Result<Answer, Failure> {
    let query = request.query;
    let selector =
        Selector::parse(route.resource, text(query, "labelSelector"), text(query, "fieldSelector"))?;
    let snapshot = store.snapshot(route.resource, store.version()).unwrap_or_default();
    for (key, object) in &snapshot {
        let of = route.namespace.is_empty() || key.namespace == route.namespace;
        if of && selector.matches(&to_served(route.resource, (**object).clone())) {
            store.delete(route.resource, &key.namespace, &key.name, None)?;
        }
    }
    list(store, route, request)
}
