//! What has to be done so that the cluster holds what it should: a function of what should be and what is there.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;
use sha2::{Digest, Sha256};
use weft_model::ObjectName;

/// The annotation with a digest of what was applied last, so that a field that is not wanted any more is noticed.
pub const APPLIED: &str = "weft-mesh.dev/applied";

/// What there should be, by Gateway. A Gateway that is not in here has nothing.
pub type Desired = BTreeMap<ObjectName, ForGateway>;

/// What there should be for one Gateway.
#[derive(Clone, Debug, PartialEq)]
pub enum ForGateway {
    /// These objects and no others.
    Exactly {
        /// The Gateway's UID.
        uid: String,
        /// The objects, whole.
        objects: Vec<Value>,
    },
    /// Whatever there is: it cannot be said at the moment what there should be.
    AsItIs,
}

/// The kinds of object that are made for Gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Made {
    /// ServiceAccount.
    ServiceAccount,
    /// ConfigMap.
    ConfigMap,
    /// PodDisruptionBudget.
    PodDisruptionBudget,
    /// Service.
    Service,
    /// Deployment.
    Deployment,
}

impl Made {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::ServiceAccount, Self::ConfigMap, Self::PodDisruptionBudget, Self::Service, Self::Deployment];

    /// Group, version, kind and plural.
    pub const fn resource(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            Self::ConfigMap => ("", "v1", "ConfigMap", "configmaps"),
            Self::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
        }
    }

    fn of(object: &Value) -> Option<Self> {
        Self::ALL.into_iter().find(|made| object.get("kind").is_some_and(|kind| *kind == made.resource().2))
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// Its kind.
    pub made: Made,
    /// Its name.
    pub name: ObjectName,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.made.resource().2, self.name)
    }
}

/// The objects there are that bear the controller's label, whole.
pub type Observed = BTreeMap<Id, Value>;

/// Something to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Apply the object as it is in here.
    Apply {
        /// For which Gateway.
        gateway: ObjectName,
        /// The object, with [`APPLIED`].
        object: Value,
        /// The resource version that stands there; `None`: there seems to be nothing of this name.
        upon: Option<String>,
    },
    /// Delete the object with this UID.
    Delete {
        /// Its UID.
        uid: String,
    },
    /// Nothing can be done.
    Blocked {
        /// For which Gateway it would be.
        gateway: ObjectName,
        /// Why, in words for the log and the Gateway's status.
        why: String,
    },
}

/// Everything that has to be done.
pub fn plan(desired: &Desired, observed: &Observed) -> BTreeMap<Id, Action> {
    let mut actions = BTreeMap::new();
    for (gateway, of) in desired {
        let ForGateway::Exactly { uid, objects } = of else { continue };
        for object in objects {
            let Some(id) = id(object) else { continue };
            if let Some(action) = towards(gateway, uid, object, observed.get(&id)) {
                actions.insert(id, action);
            }
        }
    }
    let mut wanted: Vec<Id> = Vec::new();
    for of in desired.values() {
        if let ForGateway::Exactly { objects, .. } = of {
            wanted.extend(objects.iter().filter_map(id));
        }
    }
    wanted.sort();
    for (id, object) in observed {
        let Some(owner) = gateway_of(object) else { continue };
        let gateway = ObjectName::new(id.name.namespace.clone(), owner.name);
        let kept = desired.get(&gateway) == Some(&ForGateway::AsItIs) || wanted.binary_search(id).is_ok();
        if !kept && text(object, "/metadata/deletionTimestamp").is_empty() {
            let uid = text(object, "/metadata/uid").to_owned();
            actions.insert(id.clone(), Action::Delete { uid });
        }
    }
    actions
}

/// What brings one object to what it should be; `None` if it is so already.
fn towards(gateway: &ObjectName, uid: &str, object: &Value, there: Option<&Value>) -> Option<Action> {
    let object = stamped(object);
    let Some(there) = there else {
        return Some(Action::Apply { gateway: gateway.clone(), object, upon: None });
    };
    match gateway_of(there) {
        Some(owner) if owner.uid == uid => {
            // One that is going away is made anew when it is gone.
            let going = !text(there, "/metadata/deletionTimestamp").is_empty();
            let upon = Some(text(there, "/metadata/resourceVersion").to_owned());
            let due = !going && !contains(there, &object);
            due.then(|| Action::Apply { gateway: gateway.clone(), object, upon })
        }
        // Of a Gateway of this name that was there before.
        Some(owner) if owner.name == &*gateway.name => {
            Some(Action::Delete { uid: text(there, "/metadata/uid").to_owned() })
        }
        Some(owner) => Some(Action::Blocked {
            gateway: gateway.clone(),
            why: format!(
                "Gateway {gateway} needs this name, but it belongs to Gateway {:?}: rename one of the two",
                owner.name
            ),
        }),
        None => Some(Action::Blocked {
            gateway: gateway.clone(),
            why: format!("Gateway {gateway} needs this name, but it belongs to no Gateway: delete it"),
        }),
    }
}

/// The Gateway that owns an object.
pub(super) struct Owner<'a> {
    pub(super) name: &'a str,
    uid: &'a str,
}

pub(super) fn gateway_of(object: &Value) -> Option<Owner<'_>> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let is_gateway = |owner: &&Value| {
        text(owner, "/kind") == "Gateway"
            && text(owner, "/apiVersion").starts_with("gateway.networking.k8s.io/")
    };
    let owner = owners.iter().find(is_gateway)?;
    Some(Owner { name: text(owner, "/name"), uid: text(owner, "/uid") })
}

/// Which object this is.
pub fn id(object: &Value) -> Option<Id> {
    let name = ObjectName::new(text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    Some(Id { made: Made::of(object)?, name })
}

fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The object with a digest of itself.
fn stamped(object: &Value) -> Value {
    let digest: String =
        Sha256::digest(object.to_string()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Default::default()));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(APPLIED.to_owned(), digest.into());
        }
    }
    object
}

/// Whether everything that is wanted is there. What an API server or somebody else has added is no difference.
fn contains(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| {
            // An API server leaves out what is empty.
            let empty = wanted.as_object().is_some_and(serde_json::Map::is_empty);
            there.get(key).map_or(empty, |there| contains(there, wanted))
        }),
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len()
                && there.iter().zip(wanted).all(|(there, wanted)| contains(there, wanted))
        }
        _ => there == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(kind: &str, name: &str, owner: (&str, &str)) -> Value {
        json!({
            "apiVersion": "v1", "kind": kind,
            "metadata": {"name": name, "namespace": "shop", "ownerReferences": [
                {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": owner.0, "uid": owner.1},
            ]},
            "spec": {"ports": [{"port": 80}]},
        })
    }

    fn desired(objects: &[Value]) -> Desired {
        let of = ForGateway::Exactly { uid: "u1".into(), objects: objects.to_vec() };
        [(ObjectName::new("shop", "front"), of)].into()
    }

    fn observed(objects: Vec<Value>) -> Observed {
        objects.into_iter().map(|object| (id(&object).unwrap(), object)).collect()
    }

    fn only(actions: BTreeMap<Id, Action>) -> Action {
        assert_eq!(actions.len(), 1, "{actions:?}");
        actions.into_values().next().unwrap()
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone_whatever_was_added_to_it() {
        let wanted = object("Service", "a", ("front", "u1"));
        let mut there = stamped(&wanted);
        there["spec"]["ports"][0]["protocol"] = "TCP".into();
        there["spec"]["clusterIP"] = "10.0.0.1".into();
        assert!(plan(&desired(&[wanted]), &observed(vec![there])).is_empty());
    }

    #[test]
    fn a_field_that_was_changed_or_is_not_wanted_any_more_is_applied_anew() {
        let mut wanted = object("Service", "a", ("front", "u1"));
        let mut changed = stamped(&wanted);
        changed["spec"]["ports"][0]["port"] = 81.into();
        let applied = only(plan(&desired(std::slice::from_ref(&wanted)), &observed(vec![changed])));
        assert!(matches!(applied, Action::Apply { upon: Some(_), .. }));
        let there = stamped(&wanted);
        wanted.as_object_mut().unwrap().remove("spec");
        assert!(matches!(only(plan(&desired(&[wanted]), &observed(vec![there]))), Action::Apply { .. }));
    }

    #[test]
    fn what_is_not_wanted_any_more_goes_and_what_nobody_can_judge_stays() {
        let there = observed(vec![object("Service", "old", ("front", "u1"))]);
        assert!(matches!(only(plan(&desired(&[]), &there)), Action::Delete { .. }));
        assert!(matches!(only(plan(&Desired::new(), &there)), Action::Delete { .. }));
        let unknown: Desired = [(ObjectName::new("shop", "front"), ForGateway::AsItIs)].into();
        assert!(plan(&unknown, &there).is_empty());
    }

    #[test]
    fn what_belongs_to_an_earlier_gateway_of_the_name_is_removed_first() {
        let wanted = object("Service", "a", ("front", "u1"));
        let there = observed(vec![object("Service", "a", ("front", "u0"))]);
        assert!(matches!(only(plan(&desired(&[wanted]), &there)), Action::Delete { .. }));
    }

    #[test]
    fn what_is_somebody_elses_is_neither_taken_nor_deleted() {
        let wanted = object("Service", "a", ("front", "u1"));
        let mut foreign = object("Service", "a", ("front", "u1"));
        foreign["metadata"].as_object_mut().unwrap().remove("ownerReferences");
        let wanted = desired(&[wanted]);
        assert!(matches!(only(plan(&wanted, &observed(vec![foreign]))), Action::Blocked { .. }));
        let mut another = wanted.clone();
        let others = object("Service", "a", ("other", "u2"));
        another.insert(ObjectName::new("shop", "other"), ForGateway::AsItIs);
        assert!(matches!(only(plan(&another, &observed(vec![others]))), Action::Blocked { .. }));
    }
}
