//! Every rule of every vendored CustomResourceDefinition can be evaluated.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::kinds::definitions;
use crate::rules::{Rule, broken_rules};
use crate::schema::{Kind, Schema};

/// The rules that bring up a value of their own: `schema` is filled with every field it has, so that each rule has
/// something to look at.
fn sample(schema: &Schema) -> Value {
    if let Some(default) = &schema.default {
        return default.clone();
    }
    if let Some(first) = schema.allowed.as_ref().and_then(|allowed| allowed.first()) {
        return first.clone();
    }
    match schema.kind {
        Some(Kind::Object) => {
            let mut fields: Map<String, Value> =
                schema.properties.iter().map(|(name, schema)| (name.clone(), sample(schema))).collect();
            if let Some(schema) = &schema.additional_properties {
                fields.insert("example.com/key".to_owned(), sample(schema));
            }
            Value::Object(fields)
        }
        Some(Kind::Array) => {
            let item = schema.items.as_ref().map_or(Value::Null, |schema| sample(schema));
            json!([item.clone(), item])
        }
        Some(Kind::Integer) => json!(1),
        Some(Kind::Number) => json!(1.5),
        Some(Kind::Boolean) => json!(true),
        // Long enough for whatever wants to look inside; a duration as well as a name.
        Some(Kind::String) | None => json!("10s"),
    }
}

fn rules<'s>(schema: &'s Schema, found: &mut Vec<&'s Rule>) {
    found.extend(&schema.rules);
    let parts = schema.items.iter().chain(&schema.additional_properties).map(|schema| &**schema);
    for schema in schema.properties.values().chain(parts) {
        rules(schema, found);
    }
}

#[test]
fn every_rule_of_every_crd_compiles_and_evaluates() {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for definition in definitions().unwrap().values() {
        for version in &definition.versions {
            let schema = &version.schema.schema;
            let mut found = Vec::new();
            rules(schema, &mut found);
            for rule in found {
                *seen.entry(&rule.rule).or_default() += 1;
                rule.compiled().unwrap_or_else(|error| panic!("{}: {error}", rule.rule));
            }
            let value = sample(schema);
            let mut errors = Vec::new();
            // The old value makes transition rules count.
            broken_rules(schema, &value, Some(&value), "", &mut errors);
            let unusable: Vec<_> =
                errors.iter().filter(|error| error.message.contains("cannot evaluate")).collect();
            assert!(unusable.is_empty(), "{} {}: {unusable:#?}", definition.names.kind, version.name);
        }
    }
    assert!(seen.len() > 80, "only {} rules were found", seen.len());
}

#[test]
fn a_rule_that_cannot_be_evaluated_is_an_error_of_the_object() {
    for (rule, message) in [
        ("self.url.isURL()", "cannot evaluate"),
        ("self.missing == 1", "cannot evaluate"),
        ("1 + 1", "not a boolean"),
        ("self.(", "cannot evaluate"),
    ] {
        let schema = json!({
            "type": "object",
            "properties": {"url": {"type": "string"}},
            "x-kubernetes-validations": [{"rule": rule, "message": "never shown"}],
        });
        let schema: Schema = serde_json::from_value(schema).unwrap();
        let mut errors = Vec::new();
        broken_rules(&schema, &json!({"url": "x"}), None, "spec", &mut errors);
        assert_eq!(errors.len(), 1, "{rule}");
        assert!(errors[0].message.contains(message), "{}", errors[0]);
    }
}

#[test]
fn message_expressions_transition_rules_and_field_paths_work() {
    let schema: Schema = serde_json::from_value(json!({
        "type": "object",
        "properties": {"size": {"type": "integer"}, "namespace": {"type": "string"}},
        "x-kubernetes-validations": [
            {"rule": "self.size < 10", "messageExpression": "'size is ' + string(self.size)", "fieldPath": ".size"},
            {"rule": "self.size >= oldSelf.size", "message": "must not shrink"},
            {"rule": "self.__namespace__ != 'x'", "message": "not x"},
        ],
    }))
    .unwrap();
    let check = |new: Value, old: Option<Value>| {
        let mut errors = Vec::new();
        broken_rules(&schema, &new, old.as_ref(), "spec", &mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(check(json!({"size": 12, "namespace": "a"}), None), ["spec.size: size is 12"]);
    assert!(check(json!({"size": 2, "namespace": "a"}), None).is_empty());
    assert_eq!(
        check(json!({"size": 2, "namespace": "x"}), Some(json!({"size": 3}))),
        ["spec: must not shrink", "spec: not x"]
    );
}

#[test]
fn a_schema_keyword_that_is_not_known_is_an_error() {
    assert!(
        serde_json::from_value::<Schema>(json!({"type": "object", "x-kubernetes-embedded-resource": true}))
            .is_err()
    );
}
