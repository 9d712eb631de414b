//! The objects, their versions and what happened to them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Where a request leads.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// `group/plural`.
    collection: String,
    api_version: String,
    namespace: Option<String>,
    name: Option<String>,
    status: bool,
    query: BTreeMap<String, String>,
}

impl Target {
    /// The version that is asked for; 0 if none is.
    pub(super) fn version(&self) -> u64 {
        self.query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default()
    }

    /// Of selectors it knows `metadata.name=NAME`, `type=TYPE`, and one label with its value.
    fn selects(&self, key: &(String, String), object: &Value) -> bool {
        let field = |name: &str| self.query.get("fieldSelector")?.strip_prefix(name);
        let labelled = |selector: &String| {
            let (label, value) = selector.split_once('=').unwrap();
            object["metadata"]["labels"][label] == value
        };
        self.namespace.as_ref().is_none_or(|namespace| *namespace == key.0)
            && field("metadata.name=").is_none_or(|name| name == key.1)
            && field("type=").is_none_or(|of| object["type"] == of)
            && self.query.get("labelSelector").is_none_or(labelled)
    }
}

/// An error as the API has it.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) code: u16,
    reason: &'static str,
    message: String,
}

impl Failure {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    fn not_found(what: &str) -> Self {
        Self::new(404, "NotFound", format!("{what} not found"))
    }

    pub(super) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        })
    }
}

/// A line of a watch.
pub(super) struct Event {
    pub(super) version: u64,
    pub(super) line: String,
}

/// What happened.
struct Happened {
    version: u64,
    collection: String,
    kind: &'static str,
    key: (String, String),
    object: Value,
}

/// Namespace (empty for none) and name.
type Key = (String, String);

#[derive(Default)]
pub(super) struct Store {
    version: u64,
    uids: u64,
    objects: BTreeMap<String, BTreeMap<Key, Value>>,
    /// The versions served of kinds that are not built in.
    served: BTreeMap<String, Vec<String>>,
    history: Vec<Happened>,
    /// Events up to this version are forgotten.
    forgotten: u64,
}

/// The plural that names a kind in paths.
pub(super) fn plural(kind: &str) -> String {
    let lower = kind.to_lowercase();
    if lower.ends_with("sh") || lower.ends_with('s') { format!("{lower}es") } else { format!("{lower}s") }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn serve(&mut self, collection: &str, versions: &[&str]) {
        self.served.insert(collection.to_owned(), versions.iter().map(|v| (*v).to_owned()).collect());
    }

    pub(super) fn remove_all(&mut self, collection: &str) {
        let gone: Vec<Key> =
            self.objects.get(collection).into_iter().flat_map(BTreeMap::keys).cloned().collect();
        for key in gone {
            self.delete(collection, &key);
        }
    }

    pub(super) fn forget(&mut self) {
        self.version += 1;
        self.forgotten = self.version;
        self.history.clear();
    }

    pub(super) fn put(&mut self, object: Value) {
        let collection =
            format!("{}/{}", group_of(text(&object, "/apiVersion")), plural(text(&object, "/kind")));
        let key =
            (text(&object, "/metadata/namespace").to_owned(), text(&object, "/metadata/name").to_owned());
        self.store(&collection, key, object);
    }

    pub(super) fn put_raw(&mut self, group: &str, kind: &str, namespace: &str, name: &str, object: Value) {
        let key = (namespace.to_owned(), name.to_owned());
        self.version += 1;
        self.happen("MODIFIED", &format!("{group}/{}", plural(kind)), key, object);
    }

    pub(super) fn get(&self, group: &str, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = (namespace.to_owned(), name.to_owned());
        self.objects.get(&format!("{group}/{}", plural(kind)))?.get(&key).cloned()
    }

    pub(super) fn remove(&mut self, group: &str, kind: &str, namespace: &str, name: &str) {
        self.delete(&format!("{group}/{}", plural(kind)), &(namespace.to_owned(), name.to_owned()));
    }

    fn happen(&mut self, kind: &'static str, collection: &str, key: Key, object: Value) {
        let objects = self.objects.entry(collection.to_owned()).or_default();
        match kind {
            "DELETED" => drop(objects.remove(&key)),
            _ => drop(objects.insert(key.clone(), object.clone())),
        }
        self.history.push(Happened {
            version: self.version,
            collection: collection.to_owned(),
            kind,
            key,
            object,
        });
    }

    /// Stores with the next version; UID and generation as the API server has them.
    fn store(&mut self, collection: &str, key: Key, mut object: Value) -> Value {
        self.version += 1;
        let before = self.objects.get(collection).and_then(|objects| objects.get(&key));
        let uid = match before {
            Some(before) => text(before, "/metadata/uid").to_owned(),
            None => {
                self.uids += 1;
                format!("uid-{}", self.uids)
            }
        };
        let generation = before.map_or(1, |before| {
            let number = before.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or_default();
            number + u64::from(before.get("spec") != object.get("spec"))
        });
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.insert("resourceVersion".to_owned(), self.version.to_string().into());
        metadata.entry("uid").or_insert_with(|| uid.into());
        metadata.insert("generation".to_owned(), generation.into());
        self.happen(kind, collection, key, object.clone());
        object
    }

    fn delete(&mut self, collection: &str, key: &Key) {
        let Some(mut object) = self.objects.get(collection).and_then(|objects| objects.get(key)).cloned()
        else {
            return;
        };
        self.version += 1;
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), self.version.to_string().into());
        }
        self.happen("DELETED", collection, key.clone(), object);
    }

    /// Reads a path: `/api/v1/…` or `/apis/GROUP/VERSION/…`, then `[namespaces/NAMESPACE/]PLURAL[/NAME[/status]]`.
    /// What there is, as clients discover it: the groups at `/apis`, the kinds at `/apis/GROUP/VERSION`. Of kinds that are
    /// built in nothing is said.
    pub(super) fn discovery(&self, path: &str) -> Option<Value> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let served = self.served.iter().filter_map(|(collection, versions)| {
            let (group, plural) = collection.split_once('/')?;
            Some((group, plural, versions))
        });
        match parts.as_slice() {
            ["apis"] => {
                let group = |(group, _, versions): (&str, &str, &Vec<String>)| {
                    let version =
                        |of: &String| json!({"groupVersion": format!("{group}/{of}"), "version": of});
                    json!({"name": group, "versions": versions.iter().map(version).collect::<Vec<_>>()})
                };
                Some(json!({"kind": "APIGroupList", "groups": served.map(group).collect::<Vec<_>>()}))
            }
            ["apis", asked, version] => {
                let in_version = served.filter(|(group, _, versions)| {
                    group == asked && versions.iter().any(|served| served == version)
                });
                let resource = |(_, plural, _)| json!({"name": plural, "singularName": "", "namespaced": false, "kind": "", "verbs": []});
                let resources: Vec<_> = in_version.map(resource).collect();
                let of = format!("{asked}/{version}");
                Some(json!({"kind": "APIResourceList", "groupVersion": of, "resources": resources}))
            }
            _ => None,
        }
    }

    pub(super) fn target(&self, path: &str, query: &str) -> Result<Target, Failure> {
        let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, version) = match parts.as_slice() {
            ["api", version, ..] => ("", *version),
            ["apis", group, version, ..] => (*group, *version),
            _ => return Err(Failure::not_found(path)),
        };
        parts.drain(..if group.is_empty() { 2 } else { 3 });
        // A Namespace itself has a status as well.
        let within = parts.len() > 2 && parts[0] == "namespaces" && parts[2] != "status";
        let namespace = within.then(|| parts[1].to_owned());
        parts.drain(..if namespace.is_some() { 2 } else { 0 });
        let plural = parts.first().copied().unwrap_or_default();
        let collection = format!("{group}/{plural}");
        let custom = group.starts_with("gateway.networking.");
        let served = self.served.get(&collection);
        if custom && !served.is_some_and(|served| served.iter().any(|it| it == version)) {
            return Err(Failure::new(404, "NotFound", "the server could not find the requested resource"));
        }
        let decode = |text: &str| text.replace("%3D", "=").replace("%2F", "/");
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Ok(Target {
            collection,
            api_version: if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") },
            namespace,
            name: parts.get(1).map(|name| (*name).to_owned()),
            status: parts.get(2) == Some(&"status"),
            query: pairs.map(|(key, value)| (key.to_owned(), decode(value))).collect(),
        })
    }

    pub(super) fn call(&mut self, method: &str, target: &Target, body: &Value) -> Result<Value, Failure> {
        let Some(name) = &target.name else {
            return match method {
                "GET" => self.list(target),
                "POST" => self.create(target, body),
                _ => Err(Failure::new(405, "MethodNotAllowed", method)),
            };
        };
        let key = (target.namespace.clone().unwrap_or_default(), name.clone());
        let current = self.objects.get(&target.collection).and_then(|objects| objects.get(&key)).cloned();
        // An apply makes what is not there.
        let applies = method == "PATCH" && target.query.contains_key("fieldManager") && !target.status;
        if current.is_none() && applies {
            return Ok(shown(self.store(&target.collection, key, body.clone()), target));
        }
        let current = current.ok_or_else(|| Failure::not_found(name))?;
        match method {
            "GET" => Ok(shown(current, target)),
            "PUT" => self.write(target, key, &current, body.clone(), text(body, "/metadata/resourceVersion")),
            "PATCH" => {
                let mut merged = current.clone();
                merge(&mut merged, body);
                self.write(target, key, &current, merged, text(body, "/metadata/resourceVersion"))
            }
            "DELETE" => {
                let uid = text(body, "/preconditions/uid");
                if !uid.is_empty() && uid != text(&current, "/metadata/uid") {
                    return Err(Failure::new(409, "Conflict", "it is another object"));
                }
                self.delete(&target.collection, &key);
                Ok(current)
            }
            _ => Err(Failure::new(405, "MethodNotAllowed", method)),
        }
    }

    fn write(
        &mut self,
        target: &Target,
        key: Key,
        current: &Value,
        wanted: Value,
        version: &str,
    ) -> Result<Value, Failure> {
        if !version.is_empty() && version != text(current, "/metadata/resourceVersion") {
            return Err(Failure::new(409, "Conflict", "the object has been modified"));
        }
        // The subresource writes the status alone, and of a built-in kind the metadata; everything else writes
        // everything else.
        let (mut next, status) = if target.status {
            let mut next = current.clone();
            if !target.collection.contains('.') {
                next["metadata"] = wanted["metadata"].clone();
            }
            (next, wanted.get("status"))
        } else {
            (wanted.clone(), current.get("status"))
        };
        let fields = next.as_object_mut().unwrap();
        let custom = target.collection.starts_with("gateway.");
        if target.status || custom {
            match status {
                Some(status) => drop(fields.insert("status".to_owned(), status.clone())),
                None => drop(fields.remove("status")),
            }
        }
        // What changes nothing makes no event.
        if next == *current {
            return Ok(shown(next, target));
        }
        Ok(shown(self.store(&target.collection, key, next), target))
    }

    fn create(&mut self, target: &Target, body: &Value) -> Result<Value, Failure> {
        let key = (target.namespace.clone().unwrap_or_default(), text(body, "/metadata/name").to_owned());
        if self.objects.get(&target.collection).is_some_and(|objects| objects.contains_key(&key)) {
            return Err(Failure::new(409, "AlreadyExists", format!("{} already exists", key.1)));
        }
        let mut object = body.clone();
        if !key.0.is_empty() {
            object["metadata"]["namespace"] = key.0.as_str().into();
        }
        Ok(shown(self.store(&target.collection, key, object), target))
    }

    fn list(&self, target: &Target) -> Result<Value, Failure> {
        let after = target.query.get("continue").and_then(|token| token.split_once('/'));
        let after = after.map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
        let limit = target.query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let objects = self.objects.get(&target.collection).into_iter().flatten();
        let chosen = objects.filter(|(key, object)| target.selects(key, object));
        let mut chosen = chosen.filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after)).peekable();
        let (mut items, mut last) = (Vec::new(), None);
        while items.len() < limit
            && let Some((key, object)) = chosen.next()
        {
            items.push(shown(object.clone(), target));
            last = Some(key);
        }
        let more = chosen.peek().and(last).map(|(namespace, name)| format!("{namespace}/{name}"));
        Ok(json!({
            "apiVersion": target.api_version, "kind": "List",
            "metadata": {"resourceVersion": self.version.to_string(), "continue": more},
            "items": items,
        }))
    }

    /// What a watch of `target` has to be told after a version.
    pub(super) fn events(&self, target: &Target, after: u64) -> Vec<Event> {
        if after < self.forgotten {
            let gone = Failure::new(410, "Expired", "too old resource version");
            let line = json!({"type": "ERROR", "object": gone.status()});
            return vec![Event { version: u64::MAX, line: format!("{line}\n") }];
        }
        let concerns = |it: &&Happened| {
            it.version > after && it.collection == target.collection && target.selects(&it.key, &it.object)
        };
        let line = |it: &Happened| {
            let line = json!({"type": it.kind, "object": shown(it.object.clone(), target)});
            Event { version: it.version, line: format!("{line}\n") }
        };
        self.history.iter().filter(concerns).map(line).collect()
    }
}

/// An object in the version that is asked for.
fn shown(mut object: Value, target: &Target) -> Value {
    if let Some(fields) = object.as_object_mut().filter(|fields| fields.contains_key("apiVersion")) {
        fields.insert("apiVersion".to_owned(), target.api_version.as_str().into());
    }
    object
}

/// A JSON merge patch (RFC 7396).
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let fields = into.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}
