//! The kinds of PATCH: what an object becomes.

use super::resources::Resource;
use super::status::Failure;
use serde_json::{Map, Value};

/// JSON merge patch, RFC 7386.
pub(super) const MERGE: &str = "application/merge-patch+json";
/// JSON patch, RFC 6902.
pub(super) const JSON: &str = "application/json-patch+json";
/// Merge patch with keys for some lists; not for custom resources.
pub(super) const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Lists that a strategic merge patch merges, by the key that tells their elements apart.
const MERGE_KEYS: [(&str, &str); 9] = [
    ("conditions", "type"),
    ("containers", "name"),
    ("env", "name"),
    ("ephemeralContainers", "name"),
    ("imagePullSecrets", "name"),
    ("initContainers", "name"),
    ("ownerReferences", "uid"),
    ("podIPs", "ip"),
    ("volumes", "name"),
];

/// The object after the patch.
///
/// # Errors
/// An unknown kind of patch, a body that is no patch, a JSON patch that does not apply (422).
pub(super) fn apply(resource: &Resource, kind: &str, body: &[u8], object: &Value) -> Result<Value, Failure> {
    let malformed = |error: serde_json::Error| Failure::bad_request(format!("error decoding patch: {error}"));
    let mut object = object.clone();
    match kind {
        MERGE => json_patch::merge(&mut object, &serde_json::from_slice(body).map_err(malformed)?),
        STRATEGIC if !resource.custom => {
            strategic(&mut object, &serde_json::from_slice(body).map_err(malformed)?);
        }
        JSON => {
            let patch: json_patch::Patch = serde_json::from_slice(body).map_err(malformed)?;
            json_patch::patch(&mut object, &patch).map_err(|error| {
                let message = format!(
                    "the server rejected our request due to an error in our request: {error} (JSON patch)"
                );
                Failure::new(422, "Invalid", message)
            })?;
        }
        other if resource.custom => return Err(Failure::unsupported_media_type(other, &[JSON, MERGE])),
        other => return Err(Failure::unsupported_media_type(other, &[JSON, MERGE, STRATEGIC])),
    }
    Ok(object)
}

/// As a merge patch, but lists with a merge key are merged; directives about order have no effect.
fn strategic(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() || patch.get("$patch").is_some_and(|it| it == "replace") {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().cloned().unwrap_or_default();
            if let Some(Value::Array(found)) = target.get_mut(list) {
                found.retain(|it| !gone.contains(it));
            }
        } else if key.starts_with('$') {
        } else if value.is_null() {
            target.remove(key);
        } else if let (Some((_, id)), Value::Array(elements)) =
            (MERGE_KEYS.iter().find(|it| it.0 == key), value)
        {
            let list = target.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            merge_list(list, id, elements);
        } else {
            strategic(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

fn merge_list(list: &mut Value, id: &str, elements: &[Value]) {
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    let Value::Array(list) = list else { return };
    for element in elements {
        if element["$patch"] == "delete" {
            list.retain(|it| it[id] != element[id]);
        } else if element["$patch"] == "replace" {
            list.clear();
        } else if let Some(found) = list.iter_mut().find(|it| it[id] == element[id]) {
            strategic(found, element);
        } else {
            let mut new = Value::Null;
            strategic(&mut new, element);
            list.push(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(kind: &str, patch: &Value) -> Result<Value, Failure> {
        let pods = Resource::find("", "v1", "pods").expect("pods");
        let pod = json!({
            "metadata": { "annotations": { "a": "1", "b": "2" }, "finalizers": ["x", "y"] },
            "status": { "conditions": [{ "type": "Ready", "status": "False" }] },
        });
        apply(pods, kind, patch.to_string().as_bytes(), &pod)
    }

    #[test]
    fn a_strategic_patch_merges_maps_and_keyed_lists() {
        let patch = json!({
            "metadata": { "annotations": { "a": null, "c": "3" }, "$deleteFromPrimitiveList/finalizers": ["x"] },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }, { "type": "Other" }],
                        "$setElementOrder/conditions": [{ "type": "Ready" }] },
        });
        let expected = json!({
            "metadata": { "annotations": { "b": "2", "c": "3" }, "finalizers": ["y"] },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }, { "type": "Other" }] },
        });
        assert_eq!(patched(STRATEGIC, &patch), Ok(expected));
    }

    #[test]
    fn a_json_patch_whose_test_fails_is_unprocessable() {
        let patch = json!([{ "op": "test", "path": "/metadata/annotations/a", "value": "2" }]);
        assert_eq!(patched(JSON, &patch).expect_err("1 is not 2").code, 422);
    }

    #[test]
    fn custom_resources_take_no_strategic_patch() {
        let nads = Resource::find("k8s.cni.cncf.io", "v1", "network-attachment-definitions").expect("NADs");
        assert_eq!(apply(nads, STRATEGIC, b"{}", &json!({})).expect_err("unsupported").code, 415);
    }
}
