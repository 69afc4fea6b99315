//! Objects, their versions, and the history that watches read. Synchronous and without I/O.

use super::events::{to_served, to_stored};
use super::resources::Resource;
use super::status::Failure;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which object: the group and plural it is kept under, its namespace (empty for the cluster's), its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) group: &'static str,
    pub(super) plural: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    pub(super) fn new(resource: &Resource, namespace: &str, name: &str) -> Self {
        let namespace = if resource.namespaced { namespace } else { "" };
        Self {
            group: resource.stored,
            plural: resource.plural,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    pub(super) fn is_of(&self, resource: &Resource) -> bool {
        self.group == resource.stored && self.plural == resource.plural
    }
}

/// One write: what was there and what is there now. A deletion keeps the last state under its own version.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) key: Key,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
    pub(super) last: Arc<Value>,
}

/// Which half of an object a request writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Main,
    Status,
}

/// The objects of one server.
#[derive(Debug)]
pub(super) struct Store {
    version: u64,
    /// Versions up to this one are no longer in the history.
    compacted: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    history: Vec<Change>,
}

impl Store {
    /// With the namespaces that every cluster has.
    pub(super) fn new() -> Self {
        let mut store = Self { version: 1, compacted: 1, objects: BTreeMap::new(), history: Vec::new() };
        let namespaces = Resource::find("", "v1", "namespaces");
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let namespace = json!({ "metadata": { "name": name }, "status": { "phase": "Active" } });
            if let Some(resource) = namespaces {
                store.put(resource, namespace);
            }
        }
        store
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Writes since this version. Watches that are open read it through a compaction.
    pub(super) fn since(&self, version: u64) -> &[Change] {
        &self.history[self.history.partition_point(|it| it.version <= version)..]
    }

    /// From now on, watches and continued lists that begin at an older version are told `Expired`.
    pub(super) fn compact(&mut self) {
        self.compacted = self.version;
    }

    /// A write elsewhere in the cluster: the version goes up and nobody sees anything.
    pub(super) fn bump(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    pub(super) fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Value>, Failure> {
        let found = self.objects.get(&Key::new(resource, namespace, name)).cloned();
        found.ok_or_else(|| Failure::not_found(resource, name))
    }

    /// All objects of a resource as they were at this version, in order. Nothing: the history no longer
    /// reaches back that far.
    pub(super) fn snapshot(&self, resource: &Resource, version: u64) -> Option<BTreeMap<Key, Arc<Value>>> {
        let of = self.objects.iter().filter(|(key, _)| key.is_of(resource));
        let mut objects: BTreeMap<_, _> = of.map(|(key, it)| (key.clone(), it.clone())).collect();
        if version < self.compacted {
            return None;
        }
        for change in self.since(version).iter().rev().filter(|it| it.key.is_of(resource)) {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), before.clone()),
                None => objects.remove(&change.key),
            };
        }
        Some(objects)
    }

    /// # Errors
    /// The name is missing or taken, or the namespace does not exist.
    pub(super) fn create(
        &mut self,
        resource: &Resource,
        namespace: &str,
        object: Value,
    ) -> Result<Arc<Value>, Failure> {
        let mut object = to_stored(resource, object);
        if resource.namespaced {
            let namespaces = Resource::find("", "v1", "namespaces").ok_or_else(Failure::no_such_path)?;
            self.get(namespaces, "", namespace)?;
        }
        if let (None, Some(prefix)) = (text(&object, "name"), text(&object, "generateName")) {
            let uid = new_uid();
            object["metadata"]["name"] = json!(format!("{prefix}{}", &uid[..5]));
        }
        let Some(name) = text(&object, "name").map(str::to_owned) else {
            return Err(Failure::invalid(
                resource,
                "",
                "metadata.name",
                "Required value: name or generateName is required",
            ));
        };
        let key = Key::new(resource, namespace, &name);
        if self.objects.contains_key(&key) {
            return Err(Failure::already_exists(resource, &name));
        }
        if resource.status && resource.plural != "namespaces" && resource.plural != "nodes" {
            // Status is written through its own path; pods begin as the API server has them.
            object.as_object_mut().map(|it| it.remove("status"));
            if resource.plural == "pods" {
                object["status"] = json!({ "phase": "Pending", "qosClass": "BestEffort" });
            }
        }
        Ok(self.insert_new(resource, key, object))
    }

    /// Puts an object as it is, status included, over whatever is there. For tests: no preconditions, and
    /// namespaces come by themselves. A UID of the object's own is kept.
    pub(super) fn put(&mut self, resource: &Resource, object: Value) -> Arc<Value> {
        let mut object = to_stored(resource, object);
        let name = text(&object, "name").unwrap_or_default().to_owned();
        let namespace = text(&object, "namespace").unwrap_or("default").to_owned();
        if resource.namespaced
            && let Some(namespaces) = Resource::find("", "v1", "namespaces")
            && self.get(namespaces, "", &namespace).is_err()
        {
            self.put(
                namespaces,
                json!({ "metadata": { "name": namespace }, "status": { "phase": "Active" } }),
            );
        }
        let key = Key::new(resource, &namespace, &name);
        let Some(before) = self.objects.get(&key).cloned() else {
            return self.insert_new(resource, key, object);
        };
        if text(&object, "uid").is_none_or(|uid| before["metadata"]["uid"] == uid) {
            let deletion = object["metadata"]["deletionTimestamp"].clone();
            keep_identity(&mut object, &before);
            if !deletion.is_null() {
                object["metadata"]["deletionTimestamp"] = deletion;
            }
            return self.replace(resource, key, &before, object);
        }
        self.remove(&key);
        self.insert_new(resource, key, object)
    }

    /// Reads, changes and writes one object. What `change` returns carries the preconditions: a UID or a
    /// resource version that is not the object's fails.
    ///
    /// # Errors
    /// Not found, a failed precondition, or whatever `change` says.
    pub(super) fn update(
        &mut self,
        resource: &Resource,
        (namespace, name): (&str, &str),
        part: Part,
        other_uid: impl Fn(&str, &str) -> Failure,
        change: impl FnOnce(&Value) -> Result<Value, Failure>,
    ) -> Result<Arc<Value>, Failure> {
        let before = self.get(resource, namespace, name)?;
        let served = to_served(resource, (*before).clone());
        let mut after = to_stored(resource, change(&served)?);
        if !after["metadata"].is_object() {
            return Err(Failure::bad_request("metadata is missing or is no object"));
        }
        if text(&after, "name").is_some_and(|it| it != name) {
            return Err(Failure::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                text(&after, "name").unwrap_or_default()
            )));
        }
        let own = |key: &str| before["metadata"][key].as_str().unwrap_or_default().to_owned();
        if let Some(uid) = text(&after, "uid").filter(|it| *it != own("uid")) {
            return Err(other_uid(uid, &own("uid")));
        }
        if text(&after, "resourceVersion").is_some_and(|it| it != own("resourceVersion")) {
            return Err(Failure::modified(resource, name));
        }
        if resource.status {
            take_over(&mut after, &before, part);
        }
        keep_identity(&mut after, &before);
        let key = Key::new(resource, namespace, name);
        let finalizers =
            |it: &Value| it["metadata"]["finalizers"].as_array().is_some_and(|it| !it.is_empty());
        if !before["metadata"]["deletionTimestamp"].is_null() && !finalizers(&after) {
            self.remove(&key);
            return Ok(Arc::new(after));
        }
        Ok(self.replace(resource, key, &before, after))
    }

    /// Deletes at once, or marks the object as being deleted while it has finalizers.
    ///
    /// # Errors
    /// Not found, or another UID than the one asked for.
    pub(super) fn delete(
        &mut self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) -> Result<Arc<Value>, Failure> {
        let before = self.get(resource, namespace, name)?;
        let own = before["metadata"]["uid"].as_str().unwrap_or_default();
        if let Some(uid) = uid.filter(|it| *it != own) {
            return Err(Failure::other_uid(resource, name, uid, own));
        }
        let key = Key::new(resource, namespace, name);
        if before["metadata"]["finalizers"].as_array().is_some_and(|it| !it.is_empty()) {
            let mut after = (*before).clone();
            if after["metadata"]["deletionTimestamp"].is_null() {
                after["metadata"]["deletionTimestamp"] = json!(now());
                after["metadata"]["deletionGracePeriodSeconds"] = json!(0);
            }
            return Ok(self.replace(resource, key, &before, after));
        }
        self.remove(&key);
        Ok(before)
    }

    fn insert_new(&mut self, resource: &Resource, key: Key, mut object: Value) -> Arc<Value> {
        object["apiVersion"] =
            json!(if resource.stored.is_empty() { "v1".to_owned() } else { resource.api_version() });
        object["kind"] = json!(resource.kind);
        let uid = text(&object, "uid").map_or_else(new_uid, str::to_owned);
        let metadata = &mut object["metadata"];
        metadata["uid"] = json!(uid);
        metadata["creationTimestamp"] = json!(now());
        metadata["generation"] = json!(1);
        if resource.namespaced {
            metadata["namespace"] = json!(key.namespace);
        }
        self.write(key, None, object)
    }

    fn replace(
        &mut self,
        resource: &Resource,
        key: Key,
        before: &Arc<Value>,
        mut after: Value,
    ) -> Arc<Value> {
        object_type(&mut after, before);
        let generation = before["metadata"]["generation"].as_u64().unwrap_or(1);
        let grows = content(&after, resource) != content(before, resource);
        after["metadata"]["generation"] = json!(generation + u64::from(grows));
        after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
        if after == **before {
            // As the API server: a write that changes nothing makes no version.
            return before.clone();
        }
        self.write(key, Some(before.clone()), after)
    }

    fn write(&mut self, key: Key, before: Option<Arc<Value>>, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Arc::new(object);
        self.objects.insert(key.clone(), object.clone());
        let change =
            Change { version: self.version, key, before, after: Some(object.clone()), last: object.clone() };
        self.history.push(change);
        object
    }

    fn remove(&mut self, key: &Key) {
        let Some(before) = self.objects.remove(key) else { return };
        self.version += 1;
        let mut last = (*before).clone();
        last["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let (version, key, last) = (self.version, key.clone(), Arc::new(last));
        self.history.push(Change { version, key, before: Some(before), after: None, last });
    }
}

/// A text of the metadata that is there and not empty.
fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"][key].as_str().filter(|it| !it.is_empty())
}

/// What no update changes.
fn keep_identity(after: &mut Value, before: &Value) {
    if let (Some(to), Some(from)) = (after["metadata"].as_object_mut(), before["metadata"].as_object()) {
        for key in ["name", "namespace", "uid", "creationTimestamp", "generateName", "deletionTimestamp"] {
            match from.get(key) {
                Some(value) => to.insert(key.to_owned(), value.clone()),
                None => to.remove(key),
            };
        }
    }
}

fn object_type(after: &mut Value, before: &Value) {
    after["apiVersion"] = before["apiVersion"].clone();
    after["kind"] = before["kind"].clone();
}

/// The main path leaves status alone; the status path writes status and, as for pods and nodes, labels and
/// annotations.
fn take_over(after: &mut Value, before: &Value, part: Part) {
    let Some(after) = after.as_object_mut() else { return };
    match part {
        Part::Main => match before.get("status") {
            Some(status) => drop(after.insert("status".to_owned(), status.clone())),
            None => drop(after.remove("status")),
        },
        Part::Status => {
            let (metadata, status) = (after.remove("metadata"), after.remove("status"));
            *after = before.as_object().cloned().unwrap_or_default();
            after.insert("metadata".to_owned(), metadata.unwrap_or_else(|| Value::Object(Map::new())));
            match status {
                Some(status) => drop(after.insert("status".to_owned(), status)),
                None => drop(after.remove("status")),
            }
        }
    }
}

/// What makes the generation grow: all but metadata and, where it is apart, status.
fn content(object: &Value, resource: &Resource) -> Map<String, Value> {
    let mut content = object.as_object().cloned().unwrap_or_default();
    content.remove("metadata");
    if resource.status {
        content.remove("status");
    }
    content
}

fn new_uid() -> String {
    let uid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    uid.trim().to_owned()
}

/// As `metav1.Time` writes it.
fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
