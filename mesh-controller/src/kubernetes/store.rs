//! What the watches have brought together: one set of objects, and how each kind's watch is doing.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use parking_lot::Mutex;
use tokio::sync::Notify;
use weft_model::{MeshConfig, ObjectName};

use super::metrics::WatchMetrics;
use super::raw::Raw;
use crate::inputs::installed::{Definition, Definitions};
use crate::inputs::{Head, Inputs, Kind, Object};
use crate::source::{Change, Loaded};

/// The objects of all kinds.
#[derive(Debug)]
pub(crate) struct Store {
    state: Mutex<State>,
    /// Told with every change.
    pub(crate) wake: Notify,
    metrics: WatchMetrics,
}

#[derive(Debug)]
struct State {
    inputs: Inputs,
    watches: BTreeMap<Kind, Watch>,
    /// What is wrong with single objects.
    problems: BTreeMap<(Kind, ObjectName), String>,
    /// What has changed since [`Store::take_change`].
    change: Option<Change>,
    /// Every kind has been listed once: from here on there is something to translate.
    complete: bool,
}

#[derive(Debug, Default)]
struct Watch {
    presence: Presence,
    /// Why it does not work at the moment.
    troubles: BTreeMap<Part, String>,
    /// What is to be said about its definition.
    note: Option<String>,
}

/// What is watched for a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// Its CustomResourceDefinition.
    Definition,
    /// Its objects.
    Objects,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Presence {
    /// It is not known whether the kind exists.
    #[default]
    Unknown,
    /// It does not, or its objects cannot be read.
    Absent,
    /// It does; its objects are not all known yet.
    Listing,
    /// They have all been known at one time.
    Complete,
}

/// An object that was taken in, or what could be read of it.
#[derive(Debug)]
pub(crate) enum Decoded {
    /// It can be used.
    Object(Object),
    /// It cannot.
    Broken {
        /// Whose it is.
        name: ObjectName,
        /// Its UID.
        uid: String,
        /// Why.
        problem: String,
    },
}

impl Decoded {
    /// Decodes. Done outside of the store's lock.
    pub(crate) fn of(kind: Kind, raw: Raw, resource: &kube::core::ApiResource) -> Self {
        let name = name_of(&raw);
        let uid = raw.text("/metadata/uid").to_owned();
        // One object must not end the watch of all, not even by a defect of ours.
        let problem = match catch_unwind(AssertUnwindSafe(|| raw.decode(kind, resource))) {
            Ok(Ok(object)) if object.kind() == Some(kind) && !name.name.is_empty() => {
                return Self::Object(object);
            }
            Ok(Ok(_)) => format!("{kind} {name}: it is no object, or one without a name"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("{kind} {name}: reading it broke down, which is a defect of Weft"),
        };
        Self::Broken { name, uid, problem }
    }

    fn name(&self) -> ObjectName {
        match self {
            Self::Object(object) => object.name(),
            Self::Broken { name, .. } => name.clone(),
        }
    }
}

/// The name of an object.
pub(crate) fn name_of(raw: &Raw) -> ObjectName {
    ObjectName::new(raw.text("/metadata/namespace"), raw.text("/metadata/name"))
}

impl Store {
    /// Nothing is known.
    pub(crate) fn new(mesh: MeshConfig, metrics: WatchMetrics) -> Self {
        let state = State {
            inputs: Inputs { definitions: Some(Definitions::new()), ..Inputs::new(mesh) },
            watches: Kind::ALL.map(|kind| (kind, Watch::default())).into(),
            problems: BTreeMap::new(),
            change: None,
            complete: false,
        };
        Self { state: Mutex::new(state), wake: Notify::new(), metrics }
    }

    fn change(&self, change: impl FnOnce(&mut State) -> Option<Change>) {
        let mut state = self.state.lock();
        let changed = change(&mut state);
        let settled = |watch: &Watch| matches!(watch.presence, Presence::Absent | Presence::Complete);
        let first = !state.complete && state.watches.values().all(settled);
        state.complete |= first;
        state.change = state.change.max(changed).max(first.then_some(Change::Objects));
        if state.complete && state.change.is_some() {
            self.wake.notify_one();
        }
    }

    /// Weft is being uninstalled, or not.
    pub(crate) fn uninstalling(&self, is_so: bool) {
        self.change(|state| {
            let before = std::mem::replace(&mut state.inputs.uninstalling, is_so);
            if before != is_so {
                tracing::info!(uninstalling = is_so, "pods of the mesh");
            }
            (before != is_so).then_some(Change::Objects)
        });
    }

    /// A definition of another policy engine is there, or may be; or it is not.
    pub(crate) fn policy_engine(&self, name: &str, is_there: bool) {
        self.change(|state| {
            let engines = &mut state.inputs.policy_engines;
            let changed = if is_there { engines.insert(name.into()) } else { engines.remove(name) };
            changed.then_some(Change::Objects)
        });
    }

    /// The definition of a kind is this, or is not there.
    pub(crate) fn definition(&self, kind: Kind, definition: Option<Definition>) {
        self.change(|state| {
            let definitions = state.inputs.definitions.get_or_insert_default();
            let before = match definition.clone() {
                Some(definition) => definitions.insert(kind, definition),
                None => definitions.remove(&kind),
            };
            (before != definition).then_some(Change::Objects)
        });
    }

    /// A kind exists and is about to be listed.
    pub(crate) fn listing(&self, kind: Kind) {
        self.change(|state| {
            let watch = state.watches.entry(kind).or_default();
            if watch.presence != Presence::Complete {
                watch.presence = Presence::Listing;
            }
            watch.note.take().map(|_| Change::Objects)
        });
    }

    /// All objects of a kind are known. Whatever else there was of it is gone.
    pub(crate) fn listed(&self, kind: Kind, objects: Vec<Decoded>) {
        self.change(|state| {
            state.watches.entry(kind).or_default().presence = Presence::Complete;
            state.problems.retain(|(of, _), _| *of != kind);
            let mut gone = state.inputs.names(kind);
            let mut changed = None;
            for object in objects {
                gone.remove(&object.name());
                changed = changed.max(state.apply(kind, object));
            }
            changed.max(state.remove_all(kind, &gone))
        });
    }

    /// An object was added or has changed.
    pub(crate) fn applied(&self, kind: Kind, object: Decoded) {
        self.change(|state| state.apply(kind, object));
    }

    /// An object is gone.
    pub(crate) fn deleted(&self, kind: Kind, name: &ObjectName) {
        self.change(|state| {
            let noted = state.problems.remove(&(kind, name.clone())).is_some();
            (state.inputs.remove(kind, name) || noted).then_some(Change::Objects)
        });
    }

    /// A kind does not exist (any more), and so none of its objects.
    pub(crate) fn absent(&self, kind: Kind) {
        self.change(|state| {
            let watch = state.watches.entry(kind).or_default();
            watch.presence = Presence::Absent;
            watch.troubles.remove(&Part::Objects);
            let noted = watch.note.take().map(|_| Change::Objects);
            state.problems.retain(|(of, _), _| *of != kind);
            let gone = state.inputs.names(kind);
            noted.max(state.remove_all(kind, &gone))
        });
        self.metrics.ended(kind);
    }

    /// A kind exists, but its objects cannot be read. Those that were read before stay.
    pub(crate) fn unreadable(&self, kind: Kind, note: String) {
        self.change(|state| {
            let watch = state.watches.entry(kind).or_default();
            if watch.presence != Presence::Complete {
                watch.presence = Presence::Absent;
            }
            watch.note = Some(note);
            Some(Change::Objects)
        });
    }

    /// A watch works.
    pub(crate) fn working(&self, kind: Kind, part: Part) {
        let mut state = self.state.lock();
        let troubles = &mut state.watches.entry(kind).or_default().troubles;
        if let Some(trouble) = troubles.remove(&part) {
            tracing::info!(%kind, ?part, "the watch works again; before: {trouble}");
        }
        if troubles.is_empty() {
            self.metrics.working(kind);
        }
    }

    /// A watch does not work. The last state stays in force.
    pub(crate) fn failed(&self, kind: Kind, part: Part, why: String) {
        self.metrics.failed(kind);
        let mut state = self.state.lock();
        let troubles = &mut state.watches.entry(kind).or_default().troubles;
        if troubles.get(&part) != Some(&why) {
            tracing::warn!(%kind, ?part, "cannot be watched: {why}; the last state stays in force, trying again");
            troubles.insert(part, why);
        }
    }

    /// What has changed since the last call, if everything has been listed.
    pub(crate) fn take_change(&self) -> Option<Change> {
        let mut state = self.state.lock();
        if state.complete { state.change.take() } else { None }
    }

    /// Whether [`Store::take_change`] would give something.
    pub(crate) fn has_change(&self) -> bool {
        let state = self.state.lock();
        state.complete && state.change.is_some()
    }

    /// Everything, at this moment.
    pub(crate) fn load(&self) -> Option<Loaded> {
        let state = self.state.lock();
        let notes = state.watches.values().filter_map(|watch| watch.note.clone());
        let problems: BTreeSet<String> = state.problems.values().cloned().chain(notes).collect();
        state.complete.then(|| Loaded { inputs: state.inputs.clone(), problems })
    }

    /// Which kinds' first lists are waited for, and why.
    pub(crate) fn missing(&self) -> Option<String> {
        let state = self.state.lock();
        let waited = state.watches.iter().filter_map(|(kind, watch)| match watch.presence {
            Presence::Absent | Presence::Complete => None,
            Presence::Unknown | Presence::Listing => Some(match watch.troubles.values().next() {
                Some(trouble) => format!("{kind}: {trouble}"),
                None => kind.to_string(),
            }),
        });
        let waited: Vec<String> = waited.collect();
        (!waited.is_empty()).then(|| format!("the first list of {}", waited.join("; ")))
    }

    /// Which watches do not work at the moment, one a line.
    pub(crate) fn troubles(&self) -> Option<String> {
        let state = self.state.lock();
        let troubled = state.watches.iter().filter_map(|(kind, watch)| {
            let trouble = watch.troubles.values().next()?;
            Some(format!("{kind} cannot be watched: {trouble}; its last state is in force"))
        });
        let troubled: Vec<String> = troubled.collect();
        (!troubled.is_empty()).then(|| troubled.join("\n"))
    }
}

impl State {
    fn apply(&mut self, kind: Kind, object: Decoded) -> Option<Change> {
        match object {
            Decoded::Object(object) => {
                let mended = self.problems.remove(&(kind, object.name())).is_some();
                let before = self.inputs.get(kind, &object.name());
                self.inputs.insert(&object);
                let changed = before.map_or(Some(Change::Objects), |before| difference(&before, &object));
                changed.max(mended.then_some(Change::Objects))
            }
            Decoded::Broken { name, uid, problem } => Some(self.broken(kind, name, &uid, &problem)),
        }
    }

    /// What an object said before stays in force, if it is the same object. A grant does not: it may have been
    /// narrowed.
    fn broken(&mut self, kind: Kind, name: ObjectName, uid: &str, problem: &str) -> Change {
        let before = self.inputs.get(kind, &name);
        let stays = kind != Kind::ReferenceGrant && before.is_some_and(|before| before.uid() == Some(uid));
        let problem = match stays {
            true => format!("{problem}: what it said before stays in force"),
            false => {
                self.inputs.remove(kind, &name);
                format!("{problem}: it is taken as if it were not there")
            }
        };
        self.problems.insert((kind, name), problem);
        Change::Objects
    }

    fn remove_all(&mut self, kind: Kind, names: &BTreeSet<ObjectName>) -> Option<Change> {
        for name in names {
            self.inputs.remove(kind, name);
        }
        (!names.is_empty()).then_some(Change::Objects)
    }
}

/// What differs between two versions of an object.
fn difference(before: &Object, after: &Object) -> Option<Change> {
    if let (Some(before), Some(after)) = (before.head(), after.head()) {
        return head_difference(before, after);
    }
    let same = match (before, after) {
        (Object::Namespace(_, before), Object::Namespace(_, after)) => before == after,
        (Object::Node(_, before), Object::Node(_, after)) => before == after,
        (Object::Service(_, before), Object::Service(_, after)) => before == after,
        (Object::EndpointSlice(_, before), Object::EndpointSlice(_, after)) => before == after,
        (Object::Pod(_, before), Object::Pod(_, after)) => before == after,
        (Object::Secret(_, before), Object::Secret(_, after)) => before == after,
        (Object::ConfigMap(_, before), Object::ConfigMap(_, after)) => before == after,
        (Object::ReferenceGrant(_, before), Object::ReferenceGrant(_, after)) => before == after,
        (Object::NetworkPolicy(_, before), Object::NetworkPolicy(_, after)) => before == after,
        _ => false,
    };
    (!same).then_some(Change::Objects)
}

/// The API server raises the generation whenever the spec changes, and only then.
fn head_difference(before: &Head, after: &Head) -> Option<Change> {
    let key = |head: &Head| (head.generation, head.uid.clone(), head.api_version.clone());
    if after.generation == 0 || key(before) != key(after) {
        return Some(Change::Objects);
    }
    (before.resource_version != after.resource_version).then_some(Change::Statuses)
}
