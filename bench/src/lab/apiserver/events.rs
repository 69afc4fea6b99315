//! Events are kept once and served by two groups, which name the same fields differently.

use super::resources::Resource;
use serde_json::{Value, json};

/// `v1` and `events.k8s.io/v1`.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// An object as it is kept. Only events of `events.k8s.io` change.
pub(super) fn to_stored(resource: &Resource, object: Value) -> Value {
    if resource.group != "events.k8s.io" {
        return object;
    }
    renamed(object, "v1", |(core, new)| (new, core))
}

/// A kept object as this resource shows it.
pub(super) fn to_served(resource: &Resource, object: Value) -> Value {
    if resource.group != "events.k8s.io" {
        return object;
    }
    renamed(object, "events.k8s.io/v1", |names| names)
}

type Names = (&'static str, &'static str);

fn renamed(mut object: Value, version: &str, direction: impl Fn(Names) -> Names) -> Value {
    if let Value::Object(map) = &mut object {
        map.insert("apiVersion".to_owned(), json!(version));
        for (from, to) in NAMES.map(direction) {
            if let Some(value) = map.remove(from) {
                map.insert(to.to_owned(), value);
            }
        }
    }
    object
}
