//! No text and no object makes the readers panic.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{admit, known_kinds, parse};

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        "[a-z/*.]{0,6}".prop_map(Into::into)
    ];
    let names = prop::sample::select(vec![
        "spec",
        "rules",
        "matches",
        "path",
        "type",
        "value",
        "ports",
        "name",
        "metadata",
        "containers",
        "items",
    ]);
    leaf.prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((names.clone(), inner), 0..4).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[ -~\n]{0,200}", json: bool) {
        parse(Path::new(if json { "a.json" } else { "a.yaml" }), &text);
    }

    #[test]
    fn any_object_is_admitted_or_refused(spec in value(), metadata in value(), kind in 0..32_usize) {
        let kinds = known_kinds();
        let (group, kind) = &kinds[kind % kinds.len()];
        let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
        let mut object = json!({"apiVersion": api_version, "kind": kind, "spec": spec, "metadata": metadata});
        let _ = admit(object.clone(), None);
        object["metadata"] = json!({"name": "a", "namespace": "b"});
        if let Ok(admitted) = admit(object.clone(), None) {
            prop_assert_eq!(admit(admitted.clone(), Some(&admitted)), Ok(admitted));
        }
    }
}
