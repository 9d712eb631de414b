//! From which namespaces routes may attach to a listener, and ListenerSets to a Gateway.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::inputs::Inputs;

/// `allowedRoutes.namespaces` or `allowedListeners.namespaces`: every one of the generated types has this shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Namespaces {
    from: Option<String>,
    selector: Option<Selector>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<Expression>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Expression {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

impl Namespaces {
    /// Reads the generated type; `default` is what `from` is when it is absent.
    pub(crate) fn read<T: Serialize>(of: Option<&T>, default: &str) -> Self {
        let read = of.and_then(|of| serde_json::to_value(of).ok());
        let mut namespaces: Self =
            read.and_then(|value: Value| serde_json::from_value(value).ok()).unwrap_or_default();
        namespaces.from.get_or_insert_with(|| default.to_owned());
        namespaces
    }

    /// Whether a namespace is among them. `own`: the one that `Same` means.
    pub(crate) fn allow(&self, inputs: &Inputs, own: &str, namespace: &str) -> bool {
        match self.from.as_deref() {
            Some("All") => true,
            Some("Same") => own == namespace,
            // An absent selector selects nothing.
            Some("Selector") => self.selector.as_ref().is_some_and(|it| it.selects(inputs, namespace)),
            _ => false,
        }
    }
}

impl Selector {
    fn selects(&self, inputs: &Inputs, namespace: &str) -> bool {
        let Some(object) = inputs.namespaces.get(namespace) else { return false };
        let none = BTreeMap::new();
        let labels = object.metadata.labels.as_ref().unwrap_or(&none);
        let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.match_labels.iter().all(has) && self.match_expressions.iter().all(|one| one.holds(labels))
    }
}

impl Expression {
    /// An operator that is not known holds for nothing.
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator.as_str() {
            "In" => value.is_some_and(|value| self.values.contains(value)),
            "NotIn" => value.is_none_or(|value| !self.values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}
