//! Label and field selectors of LIST and WATCH.

use super::resources::Resource;
use super::status::Failure;
use serde_json::Value;

/// Which objects are wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    labels: Vec<Term>,
    fields: Vec<Term>,
}

#[derive(Clone, Debug)]
enum Term {
    Is(String, String),
    IsNot(String, String),
    Has(String),
    HasNot(String),
}

impl Selector {
    /// Reads both query parameters.
    ///
    /// # Errors
    /// A field that this resource cannot be selected by, or a term that is no equality.
    pub(super) fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, Failure> {
        let selector = Self { labels: parse(labels)?, fields: parse(fields)? };
        for term in &selector.fields {
            let (Term::Is(key, _) | Term::IsNot(key, _)) = term else {
                return Err(Failure::bad_request(format!("invalid field selector: {fields:?}")));
            };
            let known = ["metadata.name", "metadata.namespace"].contains(&key.as_str());
            if !known && !resource.fields.contains(&key.as_str()) {
                return Err(Failure::bad_request(format!(
                    "Unable to find {:?} that match label selector {labels:?}, field selector {fields:?}: field \
                     label not supported: {key}",
                    resource.api_version() + ", Resource=" + resource.plural
                )));
            }
        }
        Ok(selector)
    }

    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|term| term.matches(|key| labels.get(key)))
            && self.fields.iter().all(|term| term.matches(|key| field(object, key)))
    }
}

/// An absent field has the empty value.
fn field<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    static EMPTY: Value = Value::Null;
    Some(path.split('.').try_fold(object, |value, key| value.get(key)).unwrap_or(&EMPTY))
}

impl Term {
    fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a Value>) -> bool {
        let is = |found: &Value, wanted: &str| match found {
            Value::String(text) => text == wanted,
            Value::Null => wanted.is_empty(),
            Value::Bool(yes) => wanted == if *yes { "true" } else { "false" },
            _ => false,
        };
        match self {
            Self::Is(key, wanted) => get(key).is_some_and(|found| is(found, wanted)),
            Self::IsNot(key, wanted) => get(key).is_none_or(|found| !is(found, wanted)),
            Self::Has(key) => get(key).is_some(),
            Self::HasNot(key) => get(key).is_none(),
        }
    }
}

fn parse(text: &str) -> Result<Vec<Term>, Failure> {
    let term = |term: &str| {
        let pair = |(key, value): (&str, &str)| (key.trim().to_owned(), value.trim().to_owned());
        let unsupported = term.contains(['(', ')', '<', '>', ' ']);
        if unsupported {
            return Err(Failure::bad_request(format!(
                "this server double has no selector {term:?}: use key=value"
            )));
        }
        Ok(if let Some(it) = term.split_once("!=") {
            let (key, value) = pair(it);
            Term::IsNot(key, value)
        } else if let Some(it) = term.split_once("==").or_else(|| term.split_once('=')) {
            let (key, value) = pair(it);
            Term::Is(key, value)
        } else if let Some(key) = term.strip_prefix('!') {
            Term::HasNot(key.to_owned())
        } else {
            Term::Has(term.to_owned())
        })
    };
    text.split(',').map(str::trim).filter(|it| !it.is_empty()).map(term).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selects(labels: &str, fields: &str) -> bool {
        let pods = Resource::find("", "v1", "pods").expect("pods");
        let pod = json!({
            "metadata": { "name": "a", "labels": { "app": "upf", "tier": "" } }, "spec": { "nodeName": "n1" },
        });
        Selector::parse(pods, labels, fields).expect("a selector").matches(&pod)
    }

    #[test]
    fn labels_and_fields_are_compared() {
        assert!(selects("app=upf,tier=,!other,app", "spec.nodeName=n1,metadata.name!=b"));
        assert!(selects("other!=x", "status.phase="));
        assert!(!selects("app==smf", ""));
        assert!(!selects("other", ""));
        assert!(!selects("", "spec.nodeName=n2"));
    }

    #[test]
    fn fields_that_a_resource_has_no_index_for_are_an_error() {
        let nads = Resource::find("k8s.cni.cncf.io", "v1", "network-attachment-definitions").expect("NADs");
        let failure = Selector::parse(nads, "", "spec.nodeName=n1").expect_err("NADs have none");
        assert_eq!(failure.code, 400);
        assert!(failure.message.ends_with("field label not supported: spec.nodeName"), "{}", failure.message);
    }
}
