//! What the status of a GatewayClass says: whether it is served, whether the installed definitions of the Gateway API are
//! of a release that is known, and what Gateways of the class can do with these definitions.

use super::features::FEATURES;
use crate::infrastructure::subject;
use crate::inputs::gateway::GatewayClass;
use crate::inputs::installed::{self, BUNDLE_VERSION, Definitions};
use crate::inputs::{Inputs, Kind};
use crate::translate::status::{Condition, Feature, GatewayClassStatus};

/// Judges a class of ours.
pub(crate) fn status(inputs: &Inputs, class: &GatewayClass) -> GatewayClassStatus {
    let generation = class.head.generation;
    let accepted = match subject::judge_class(inputs, class) {
        Ok(()) => ("True", "Accepted", "Gateways of this class are served.".to_owned()),
        Err(error) => ("False", "InvalidParameters", error.to_string()),
    };
    let conditions = [("Accepted", accepted), ("SupportedVersion", supported_version(inputs))];
    let condition = |(kind, (status, reason, message)): (_, (_, _, String))| {
        Condition::new(kind, status, reason, message, generation)
    };
    GatewayClassStatus {
        conditions: conditions.map(condition).into(),
        supported_features: claimed(inputs).map(|name| Feature { name }).collect(),
    }
}

/// The features of the suite's list that can be claimed: those whose kind and fields the API server has.
fn claimed(inputs: &Inputs) -> impl Iterator<Item = &'static str> {
    let expressed = |name: &&'static str| {
        inputs.definitions.as_ref().is_none_or(|definitions| installed::express(definitions, name))
    };
    FEATURES.iter().copied().filter(expressed)
}

/// False when a definition of the Gateway API has another release or tells none (API reference, `GatewayClassStatus`). Its
/// objects are served as well as they can be all the same, which the API calls best effort: `Accepted` stays true.
fn supported_version(inputs: &Inputs) -> (&'static str, &'static str, String) {
    let others: Vec<String> = inputs.definitions.as_ref().map(unsupported).unwrap_or_default();
    if others.is_empty() {
        let message = "The installed version of the Gateway API is known.";
        return ("True", "SupportedVersion", message.to_owned());
    }
    let message = format!(
        "Weft knows release 1.7 of the Gateway API, and these definitions are of others: {}. Their objects are served as far \
         as they are understood. Install the definitions of release 1.7.",
        others.join(", ")
    );
    ("False", "UnsupportedVersion", message)
}

fn unsupported(definitions: &Definitions) -> Vec<String> {
    let others = definitions.iter().filter(|(kind, _)| **kind != Kind::ClusterTrustBundle);
    let others = others.filter(|(_, definition)| !definition.is_supported());
    let named = others.map(|(kind, definition)| match &definition.release {
        Some(release) => format!("{kind} ({release})"),
        None => format!("{kind} (without annotation {BUNDLE_VERSION})"),
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use weft_model::{MeshConfig, TrustDomain};

    use super::*;
    use crate::inputs::installed::Definition;
    use crate::inputs::{Object, RouteKind};

    fn class() -> Arc<GatewayClass> {
        let object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
            "metadata": {"name": "weft", "generation": 1},
            "spec": {"controllerName": crate::translate::status::GATEWAY_CONTROLLER_NAME},
        });
        let Object::GatewayClass(class) = Object::decode(object).unwrap() else { panic!("no class") };
        class
    }

    /// The definitions that Weft is built with, as the API server would have them.
    fn vendored() -> Vec<Value> {
        let read = |(file, text): &(&str, &str)| {
            let (mut objects, problems) = weft_manifest::parse(file.as_ref(), text);
            assert!(problems.is_empty(), "{problems:?}");
            objects.remove(0).json
        };
        weft_gateway_api::CRDS.iter().filter(|(file, _)| !file.contains("x-k8s")).map(read).collect()
    }

    fn inputs(definitions: Definitions) -> Inputs {
        let mesh = MeshConfig {
            trust_domain: TrustDomain("cluster.local".into()),
            cluster_domain: "cluster.local".into(),
            service_ranges: Vec::new(),
            pod_ranges: Vec::new(),
        };
        Inputs { definitions: Some(definitions), ..Inputs::new(mesh) }
    }

    fn all() -> Definitions {
        let kind = |object: &Value| {
            let name = object["spec"]["names"]["kind"].as_str().unwrap().to_owned();
            Kind::ALL.into_iter().find(|kind| kind.as_str() == name).unwrap()
        };
        let read = |object: Value| {
            let schema = &object["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            let release = object["metadata"]["annotations"][BUNDLE_VERSION].as_str().map(Into::into);
            (kind(&object), Definition { release, fields: installed::fields(schema) })
        };
        let mut all: Definitions = vendored().into_iter().map(read).collect();
        // Of Kubernetes itself, where the API server has it.
        all.insert(Kind::ClusterTrustBundle, Definition::default());
        all
    }

    #[test]
    fn definitions_of_this_release_are_supported_and_express_all_features() {
        let status = status(&inputs(all()), &class());
        assert_eq!(status.conditions.iter().map(|it| it.status).collect::<Vec<_>>(), ["True", "True"]);
        assert_eq!(status.supported_features.iter().map(|it| it.name).collect::<Vec<_>>(), FEATURES);
    }

    #[test]
    fn definitions_of_another_release_or_of_none_are_named_and_gateways_are_served() {
        let mut definitions = all();
        definitions.get_mut(&Kind::Gateway).unwrap().release = Some("v1.6.3".into());
        definitions.get_mut(&Kind::Route(RouteKind::Http)).unwrap().release = None;
        let status = status(&inputs(definitions), &class());
        let [accepted, version] = &*status.conditions else { panic!("{:?}", status.conditions) };
        assert_eq!((accepted.kind, accepted.status), ("Accepted", "True"));
        assert_eq!((version.kind, version.status), ("SupportedVersion", "False"));
        assert_eq!(version.reason, "UnsupportedVersion");
        for named in ["Gateway (v1.6.3)", "HTTPRoute (without annotation", "release 1.7"] {
            assert!(version.message.contains(named), "{}", version.message);
        }
        assert!(!version.message.contains("GRPCRoute"), "{}", version.message);
    }

    #[test]
    fn features_of_absent_kinds_and_fields_are_not_claimed() {
        let mut definitions = all();
        definitions.remove(&Kind::Route(RouteKind::Tcp));
        definitions.remove(&Kind::ListenerSet);
        definitions.get_mut(&Kind::Route(RouteKind::Http)).unwrap().fields.remove("spec.rules[].retry");
        let status = status(&inputs(definitions), &class());
        let claimed: Vec<&str> = status.supported_features.iter().map(|it| it.name).collect();
        for absent in ["TCPRoute", "ListenerSet", "HTTPRouteRetryCodes", "HTTPRouteRetryConnectionError"] {
            assert!(!claimed.contains(&absent), "{absent}");
        }
        assert_eq!(claimed.len(), FEATURES.len() - 4);
    }
}
