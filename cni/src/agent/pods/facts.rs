//! What is known of a pod beside what decides about its enrolment.

use serde_json::Value;
use weft_model::Text;

/// The condition on a pod by which the agent says that kernel and proxy have it.
pub const MESHED: &str = "weft-mesh.dev/Meshed";

/// From a pod's object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its condition [`MESHED`], as the API server has it.
    pub meshed: Option<Condition>,
    /// The object that controls it.
    pub owner: Option<Owner>,
    /// The runtime's ids of its containers, without the runtime's name.
    pub containers: Vec<Text>,
    /// It is being deleted.
    pub deleting: bool,
}

/// A condition without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `True` or `False`.
    pub status: Text,
    /// One word.
    pub reason: Text,
    /// A sentence.
    pub message: Text,
}

/// A controlling owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Such as `DaemonSet`.
    pub kind: Text,
    /// Its name.
    pub name: Text,
}

impl Facts {
    /// Reads a Pod object. What has not the expected form is left out.
    #[must_use]
    pub fn from_object(object: &Value) -> Self {
        let list = |pointer: &str| object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        let statuses = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
        let containers = statuses.iter().flat_map(|field| list(&format!("/status/{field}")));
        Self {
            meshed: list("/status/conditions").find_map(meshed),
            owner: list("/metadata/ownerReferences").find_map(owner),
            containers: containers.filter_map(container).collect(),
            deleting: object.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null()),
        }
    }
}

fn text(object: &Value, field: &str) -> Option<Text> {
    object.get(field)?.as_str().map(Into::into)
}

fn meshed(condition: &Value) -> Option<Condition> {
    if condition.get("type")?.as_str()? != MESHED {
        return None;
    }
    let field = |name| text(condition, name).unwrap_or_else(|| "".into());
    Some(Condition { status: field("status"), reason: field("reason"), message: field("message") })
}

fn owner(reference: &Value) -> Option<Owner> {
    reference.get("controller")?.as_bool()?.then_some(())?;
    Some(Owner { kind: text(reference, "kind")?, name: text(reference, "name")? })
}

/// `containerd://4711…` is the runtime and the id.
fn container(status: &Value) -> Option<Text> {
    let (_, id) = status.get("containerID")?.as_str()?.split_once("://")?;
    (!id.is_empty()).then(|| id.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn facts_are_read_and_what_is_malformed_is_left_out() {
        let facts = Facts::from_object(&json!({
            "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "ownerReferences": [
                {"kind": "Thing", "name": "other"}, 3,
                {"kind": "DaemonSet", "name": "weft-proxy", "controller": true}]},
            "status": {
                "conditions": [7, {"type": "Ready", "status": "True"},
                    {"type": MESHED, "status": "False", "reason": "NoProxy", "message": "none"}],
                "containerStatuses": [{"containerID": "containerd://c1"}, {"containerID": ""}, {}],
                "initContainerStatuses": [{"containerID": "cri-o://c2"}]},
        }));
        let owner = Owner { kind: "DaemonSet".into(), name: "weft-proxy".into() };
        assert_eq!(facts.owner, Some(owner));
        assert_eq!(facts.containers, ["c1".into(), "c2".into()]);
        assert_eq!(&*facts.meshed.unwrap().reason, "NoProxy");
        assert!(facts.deleting);
        assert_eq!(Facts::from_object(&json!({"status": [], "metadata": 1})), Facts::default());
    }
}
