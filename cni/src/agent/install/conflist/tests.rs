//! Lists as primary CNIs write them.

use super::*;

fn entry() -> Entry {
    Entry::new("/run/weft/cni.sock", 30, &["kube-system", "weft-system"], "/var/log/weft-cni.log")
}

const OURS: &str = r#"{"type":"weft-cni","agentSocket":"/run/weft/cni.sock","timeout":30,"excludeNamespaces":["kube-system","weft-system"],"statusChecksProxy":false,"logFile":"/var/log/weft-cni.log"}"#;

/// In the forms that installers leave behind.
const LISTS: [&str; 6] = [
    // Indented, with a line at the end.
    "{\n  \"name\": \"cbr0\",\n  \"cniVersion\": \"0.3.1\",\n  \"plugins\": [\n    {\n      \"type\": \"flannel\",\n      \"delegate\": {\n        \"hairpinMode\": true,\n        \"isDefaultGateway\": true\n      }\n    },\n    {\n      \"type\": \"portmap\",\n      \"capabilities\": {\n        \"portMappings\": true\n      }\n    }\n  ]\n}\n",
    // By tabs, with odd spaces and numbers that a parser would write otherwise.
    "{\n\t\"cniVersion\" : \"1.0.0\",\n\t\"name\":\"k8s-pod-network\",\n\t\"plugins\":[\n\t\t{\"type\":\"calico\", \"mtu\":1.5e3, \"ipam\":{\"type\":\"calico-ipam\"},\"policy\" : {\"type\":\"k8s\"}},\n\t\t{\"type\":\"bandwidth\",\"capabilities\":{\"bandwidth\":true}}\n\t]\n}",
    // On one line.
    r#"{"cniVersion":"0.4.0","name":"x","plugins":[{"type":"ptp"}]}"#,
    // With a brace in a text, and fields behind the plugins.
    r#"{"cniVersion":"1.1.0","plugins":[{"type":"bridge","note":"\"]}{[,"}],"name":"x","disableCheck":true}"#,
    // One plugin.
    "{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"cilium\",\n  \"plugins\": [\n    {\n       \"type\": \"cilium-cni\",\n       \"enable-debug\": false,\n       \"log-file\": \"/var/run/cilium/cilium-cni.log\"\n    }\n  ]\n}\n",
    // Windows line ends.
    "{\r\n \"cniVersion\": \"1.0.0\",\r\n \"name\": \"x\",\r\n \"plugins\": [\r\n  {\"type\": \"a\"},\r\n  {\"type\": \"b\"}\r\n ]\r\n}\r\n",
];

fn types(text: &str) -> Vec<String> {
    let list: Value = serde_json::from_str(text).unwrap();
    list["plugins"].as_array().unwrap().iter().map(|p| p["type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn chained_last_with_every_other_byte_as_it_was() {
    for list in LISTS {
        let chained = chain(list, &entry()).unwrap().unwrap();
        assert_eq!(types(&chained).last().unwrap(), TYPE, "{chained}");
        assert_eq!(types(&chained).len(), types(list).len() + 1);
        let at = chained.find(OURS).unwrap();
        let without =
            format!("{}{}", chained[..at].trim_end().strip_suffix(',').unwrap(), &chained[at + OURS.len()..]);
        assert_eq!(without, list);
        assert_eq!(chain(&chained, &entry()).unwrap(), None, "a second time changes nothing");
        assert_eq!(unchain(&chained).unwrap(), list, "and it can be undone");
        assert_eq!(unchain(list), None);
        assert!(has_ours(&chained) && !has_ours(list));
    }
}

#[test]
fn stays_last_when_others_come_behind_it_and_there_is_only_one() {
    for plugins in [
        format!(r#"[{{"type":"ptp"}},{OURS},{{"type":"portmap"}}]"#),
        format!(r#"[{OURS},{{"type":"ptp"}},{{"type":"portmap"}}]"#),
        format!(r#"[{OURS}, {OURS},{{"type":"ptp"}},{{"type":"portmap"}},{OURS}]"#),
        r#"[{"type":"weft-cni","timeout":1},{"type":"ptp"},{"type":"portmap"}]"#.to_owned(),
        r#"[{"type":"ptp"},{"type":"portmap"},{"type":"weft-cni","timeout":1}]"#.to_owned(),
    ] {
        let list = format!(r#"{{"cniVersion":"1.0.0","name":"x","plugins":{plugins}}}"#);
        let chained = chain(&list, &entry()).unwrap().unwrap();
        let wanted = format!(
            r#"{{"cniVersion":"1.0.0","name":"x","plugins":[{{"type":"ptp"}},{{"type":"portmap"}},{OURS}]}}"#
        );
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(parsed(&chained), parsed(&wanted), "{list}");
        assert_eq!(chain(&chained, &entry()).unwrap(), None);
    }
}

#[test]
fn what_is_no_list_or_too_old_is_refused_with_a_reason() {
    let malformed = [
        "",
        "{",
        "[]",
        "{}",
        "7",
        r#"{"cniVersion":"1.0.0","name":"x"}"#,
        r#"{"cniVersion":"1.0.0","name":"x","plugins":[]}"#,
        r#"{"cniVersion":"1.0.0","name":"x","plugins":{"type":"a"}}"#,
        r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"name":"no type"}]}"#,
        r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"weft-cni"}]}"#,
    ];
    for text in malformed {
        assert!(matches!(chain(text, &entry()), Err(ConflistError::Malformed(_))), "{text}");
        assert_eq!(unchain(text), None);
    }
    for version in [r#""0.2.0""#, r#""0.3.0""#, r#""2.0.0""#, r#""""#, "null", "1"] {
        let text = format!(r#"{{"cniVersion":{version},"name":"x","plugins":[{{"type":"ptp"}}]}}"#);
        assert!(matches!(chain(&text, &entry()), Err(ConflistError::Version(_))), "{text}");
    }
}

#[test]
fn single_plugin_becomes_a_list_that_names_where_it_came_from() {
    let single =
        r#"{"cniVersion":"0.3.1","name":"net","type":"bridge","bridge":"b0","ipam":{"type":"host-local"}}"#;
    let list = of_single(single, "10-bridge.conf", &entry()).unwrap();
    let parsed: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(parsed["name"], "net");
    assert_eq!(parsed["cniVersion"], "0.3.1");
    assert_eq!(parsed["plugins"][0], serde_json::from_str::<Value>(single).unwrap());
    assert_eq!(types(&list), ["bridge", "weft-cni"]);
    assert_eq!(source_of(&list).unwrap(), "10-bridge.conf");
    assert_eq!(chain(&list, &entry()).unwrap(), None);
    for bad in ["{", r#"{"cniVersion":"1.0.0","name":"x"}"#, r#"{"cniVersion":"0.1.0","type":"a"}"#] {
        assert!(of_single(bad, "a", &entry()).is_err(), "{bad}");
    }
}
