//! Conformance reports: what must be in one, and how two differ.

use anyhow::{Context, Result};
use serde_json::Value;

/// What two reports of the same results may differ in.
const MAY_DIFFER: [&str; 2] = ["/date", "/implementation/version"];

/// Reads a report.
///
/// # Errors
/// If it is not YAML.
pub fn parse(yaml: &str) -> Result<Value> {
    let mut report: Value = serde_saphyr::from_str(yaml).context("reading a conformance report")?;
    // The suite writes the profiles in the order of a hash table.
    if let Some(profiles) = report.get_mut("profiles").and_then(Value::as_array_mut) {
        profiles.sort_by_key(|profile| text(profile, "/name").to_owned());
    }
    Ok(report)
}

/// The paths at which two reports differ, but for date and version, with both values.
#[must_use]
pub fn differences(committed: &Value, now: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", committed, now, &mut found);
    found
}

fn compare(path: &str, committed: &Value, now: &Value, found: &mut Vec<String>) {
    if MAY_DIFFER.contains(&path) {
        return;
    }
    match (committed, now) {
        (Value::Object(a), Value::Object(b)) => {
            let new = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(new) {
                let of = |map: &serde_json::Map<_, _>| map.get(key).cloned().unwrap_or(Value::Null);
                compare(&format!("{path}/{key}"), &of(a), &of(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}/{index}"), a, b, found);
            }
        }
        _ if committed == now => {}
        _ => found.push(format!("{path}: committed {committed}, now {now}")),
    }
}

/// What a report says of these profiles. The provisional tests that succeeded stand beside the profiles; none is of meshes.
#[must_use]
pub fn only(report: &Value, profiles: &[&str]) -> Value {
    let mut report = report.clone();
    let named = |profile: &Value| profiles.contains(&text(profile, "/name"));
    if let Some(all) = report.get_mut("profiles").and_then(Value::as_array_mut) {
        all.retain(named);
    }
    let of_gateways = profiles.iter().any(|name| name.starts_with("GATEWAY-"));
    if let Some(fields) = report.as_object_mut().filter(|_| !of_gateways) {
        fields.remove("succeededProvisionalTests");
    }
    report
}

/// Where a report falls short of full success: every profile that was asked for, every test of it.
#[must_use]
pub fn shortcomings(report: &Value, profiles: &[&str]) -> Vec<String> {
    let entries: Vec<&Value> =
        report.pointer("/profiles").and_then(Value::as_array).into_iter().flatten().collect();
    let mut found = Vec::new();
    for name in profiles {
        let Some(entry) = entries.iter().find(|entry| text(entry, "/name") == *name) else {
            found.push(format!("the report has no profile {name}"));
            continue;
        };
        for section in ["core", "extended"] {
            let result = text(entry, &format!("/{section}/result"));
            // A profile to which no extended test belongs has no such section.
            if result != "success" && (section == "core" || entry.get(section).is_some()) {
                found.push(format!("{name}: {section} is {result:?}"));
            }
        }
        if let Some(unsupported) = entry.pointer("/extended/unsupportedFeatures") {
            found.push(format!("{name}: these features are not claimed: {unsupported}"));
        }
    }
    found
}

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
date: \"2026-01-01T00:00:00Z\"
implementation: {project: weft, version: v0.1.0}
profiles:
- name: MESH-HTTP
  core: {result: success, statistics: {Passed: 7}}
  extended: {result: success}
- name: MESH-GRPC
  core: {result: success, statistics: {Passed: 3}}
";

    fn with(old: &str, new: &str) -> Value {
        parse(&REPORT.replace(old, new)).expect("report")
    }

    #[test]
    fn only_date_and_version_may_differ() {
        let committed = with("", "");
        let swapped = "profiles:\n- name: MESH-GRPC\n  core: {result: success, statistics: {Passed: 3}}\n";
        let (head, http) = REPORT.split_once("profiles:\n").expect("profiles");
        let http = http.split_once("- name: MESH-GRPC").expect("grpc").0;
        let reordered = parse(&format!("{head}{swapped}{http}")).expect("report");
        for same in [with("2026-01", "2027-02"), with("v0.1.0", "v0.2.0"), reordered] {
            assert_eq!(differences(&committed, &same), Vec::<String>::new());
        }
        for other in
            [with("Passed: 7", "Passed: 6"), with("project: weft", "project: x"), with("date", "extra")]
        {
            assert_eq!(differences(&committed, &other).len(), 1, "{other}");
        }
    }

    #[test]
    fn a_part_holds_the_profiles_that_were_asked_for() {
        let whole = parse(&format!("{REPORT}succeededProvisionalTests: [A]\n")).expect("report");
        let part = only(&whole, &["MESH-GRPC"]);
        assert_eq!(part["profiles"].as_array().map(Vec::len), Some(1));
        assert_eq!(
            (text(&part, "/profiles/0/name"), part.get("succeededProvisionalTests")),
            ("MESH-GRPC", None)
        );
        assert!(only(&whole, &["GATEWAY-UDP"]).get("succeededProvisionalTests").is_some());
    }

    #[test]
    fn partial_or_missing_profile_falls_short() {
        let asked = ["MESH-HTTP", "MESH-GRPC"];
        assert_eq!(shortcomings(&with("", ""), &asked), Vec::<String>::new());
        for worse in [
            with("MESH-GRPC", "GATEWAY-GRPC"),
            with(
                "core: {result: success, statistics: {Passed: 3",
                "core: {result: partial, statistics: {Passed: 3",
            ),
            with("extended: {result: success}", "extended: {result: failure}"),
            with("extended: {result: success}", "extended: {result: success, unsupportedFeatures: [X]}"),
        ] {
            assert_eq!(shortcomings(&worse, &asked).len(), 1, "{worse}");
        }
    }
}
