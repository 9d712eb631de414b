//! What a Gateway needs and has not been given, with the words in which it was refused: for the Gateway's status and for
//! an Event.

use std::collections::BTreeMap;

use serde_json::Value;
use weft_model::ObjectName;

use super::plan::{Desired, Id, Made, Observed, gateway_of};

/// By Gateway: which objects, and why. A Gateway that is not in here has, or will have, what it needs.
pub type Refused = BTreeMap<ObjectName, BTreeMap<Id, String>>;

/// What a user is told of one Gateway; the first object speaks for all.
pub fn message(refused: &BTreeMap<Id, String>) -> Option<String> {
    let (id, why) = refused.iter().next()?;
    let others = match refused.len() - 1 {
        0 => String::new(),
        n => format!(" And {n} more."),
    };
    Some(format!("{id}: {why}. It is tried again by itself: change what refuses it.{others}"))
}

/// What is refused of what is wanted: `tried`, by whoever tried it, and the pods of Deployments.
pub fn gather(
    tried: impl Iterator<Item = (ObjectName, Id, String)>,
    observed: &Observed,
    desired: &Desired,
) -> Refused {
    let mut refused = Refused::new();
    let wanted = |(gateway, ..): &(ObjectName, Id, String)| desired.contains_key(gateway);
    for (gateway, id, why) in tried.chain(of_pods(observed)).filter(wanted) {
        refused.entry(gateway).or_default().entry(id).or_insert(why);
    }
    refused
}

/// Deployments whose pods are refused, by a quota or by admission. The Deployment itself was admitted; that its pods are not
/// stands in its status.
fn of_pods(observed: &Observed) -> impl Iterator<Item = (ObjectName, Id, String)> + '_ {
    observed.iter().filter(|(id, _)| id.made == Made::Deployment).filter_map(|(id, object)| {
        let gateway = ObjectName::new(id.name.namespace.clone(), gateway_of(object)?.name);
        let conditions = object.pointer("/status/conditions")?.as_array()?;
        let has = |one: &Value, field: &str, value: &str| one.get(field).is_some_and(|it| it == value);
        let failure =
            conditions.iter().find(|one| has(one, "type", "ReplicaFailure") && has(one, "status", "True"))?;
        let why = failure.get("message").and_then(Value::as_str).unwrap_or("its pods cannot be made");
        Some((gateway, id.clone(), why.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(conditions: Value) -> (Id, Value) {
        let owner = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "front", "uid": "u"});
        let object = json!({
            "metadata": {"name": "front-weft", "namespace": "shop", "ownerReferences": [owner]},
            "status": {"conditions": conditions},
        });
        (Id { made: Made::Deployment, name: ObjectName::new("shop", "front-weft") }, object)
    }

    #[test]
    fn pods_that_a_quota_refuses_are_told_by_their_deployment() {
        let refused = json!([
            {"type": "Progressing", "status": "True"},
            {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: pods"},
        ]);
        let told: Vec<_> = of_pods(&[deployment(refused)].into()).collect();
        assert_eq!(told.len(), 1);
        assert_eq!(
            (told[0].0.to_string(), told[0].2.as_str()),
            ("shop/front".into(), "exceeded quota: pods")
        );
        for fine in [json!([]), json!([{"type": "ReplicaFailure", "status": "False", "message": "x"}])] {
            assert_eq!(of_pods(&[deployment(fine)].into()).count(), 0);
        }
    }

    #[test]
    fn message_names_the_first_object_and_counts_the_others() {
        let id = |made| Id { made, name: ObjectName::new("shop", "front-weft") };
        let mut refused = BTreeMap::from([(id(Made::Service), "exceeded quota: s".to_owned())]);
        let one = message(&refused).unwrap();
        assert!(
            one.starts_with("Service shop/front-weft: exceeded quota: s. ") && !one.contains("more"),
            "{one}"
        );
        refused.insert(id(Made::Deployment), "denied".to_owned());
        assert!(message(&refused).unwrap().ends_with("And 1 more."));
        assert_eq!(message(&BTreeMap::new()), None);
    }
}
