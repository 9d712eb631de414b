//! Which pods' traffic packet filters of the host judge (`docs/dataplane.md`, rule 24): those that a NetworkPolicy selects,
//! and all where another policy engine is installed, since what its objects say only it knows.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::core::{Selector, SelectorExt as _};
use weft_model::{ObjectName, Text};

use crate::inputs::Inputs;

/// The selectors of all NetworkPolicies, prepared.
#[derive(Debug)]
pub(crate) struct Filters {
    engine: Option<Text>,
    /// By namespace; each with the policy's title. A selector that cannot be understood is `None`, and selects
    /// everything: in doubt packets pass where they are judged.
    policies: BTreeMap<Text, Vec<(Text, Option<Selector>)>>,
}

impl Filters {
    pub(crate) fn of(inputs: &Inputs) -> Self {
        let mut policies: BTreeMap<Text, Vec<_>> = BTreeMap::new();
        for (name, policy) in &inputs.network_policies {
            let title = format!("NetworkPolicy {name}").into();
            policies.entry(name.namespace.clone()).or_default().push((title, selector_of(policy)));
        }
        Self { engine: inputs.policy_engines.first().cloned(), policies }
    }

    /// By whose order a pod's packets are judged; of several the first by name.
    pub(crate) fn of_pod(&self, name: &ObjectName, pod: &Pod) -> Option<Text> {
        let labels = || pod.metadata.labels.clone().unwrap_or_default();
        let selecting = || {
            let mut policies = self.policies.get(&name.namespace)?.iter();
            let labels = labels();
            let (title, _) =
                policies.find(|(_, selector)| selector.as_ref().is_none_or(|s| s.matches(&labels)))?;
            Some(title.clone())
        };
        self.engine.clone().or_else(selecting)
    }
}

/// An absent `podSelector` selects every pod of the namespace, as an empty one does.
fn selector_of(policy: &NetworkPolicy) -> Option<Selector> {
    let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.clone()).unwrap_or_default();
    Selector::try_from(selector).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use weft_model::{MeshConfig, TrustDomain};

    use super::*;

    fn inputs(policies: &[(&str, serde_json::Value)]) -> Inputs {
        let mesh = MeshConfig {
            trust_domain: TrustDomain("cluster.local".into()),
            cluster_domain: "cluster.local".into(),
            service_ranges: Vec::new(),
            pod_ranges: Vec::new(),
        };
        let mut inputs = Inputs::new(mesh);
        for (name, selector) in policies {
            let policy = json!({"spec": {"podSelector": selector}});
            let policy = Arc::new(serde_json::from_value(policy).unwrap());
            inputs.network_policies.insert(name.parse().unwrap(), policy);
        }
        inputs
    }

    fn filter(inputs: &Inputs, pod: &str, labels: &serde_json::Value) -> Option<String> {
        let object = serde_json::from_value(json!({"metadata": {"labels": labels}})).unwrap();
        Filters::of(inputs).of_pod(&pod.parse().unwrap(), &object).map(|by| by.to_string())
    }

    #[test]
    fn a_policy_judges_the_pods_of_its_namespace_that_it_selects() {
        let expression = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["db"]}]});
        let inputs = inputs(&[("shop/db", expression), ("other/all", json!({}))]);
        let (db, web) = (json!({"app": "db"}), json!({"app": "web"}));
        assert_eq!(filter(&inputs, "shop/a", &db).as_deref(), Some("NetworkPolicy shop/db"));
        assert_eq!(filter(&inputs, "shop/b", &web), None);
        assert_eq!(filter(&inputs, "other/a", &web).as_deref(), Some("NetworkPolicy other/all"));
        assert_eq!(filter(&inputs, "third/a", &db), None);
    }

    #[test]
    fn a_selector_that_is_not_understood_selects_everything() {
        let odd = json!({"matchExpressions": [{"key": "app", "operator": "Resembles", "values": ["db"]}]});
        assert!(filter(&inputs(&[("shop/odd", odd)]), "shop/a", &json!({})).is_some());
    }

    #[test]
    fn another_engine_may_judge_every_pod() {
        let mut inputs = inputs(&[]);
        inputs.policy_engines.insert("ciliumnetworkpolicies.cilium.io".into());
        assert_eq!(filter(&inputs, "a/b", &json!({})).as_deref(), Some("ciliumnetworkpolicies.cilium.io"));
    }
}
