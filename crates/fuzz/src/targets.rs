//! The targets: one for each parser. A target must not panic, whatever it is given, and states what must hold
//! of what it accepts.

use weft_model::{Identity, Resource};

/// A parser under test.
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Feeds it one input.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const ALL: &[Target] = &[
    Target { name: "identity", run: identity, seeds: || texts(&["spiffe://cluster.local/ns/shop/sa/web"]) },
    Target {
        name: "resource",
        run: resource,
        seeds: || {
            texts(&[
                r#"{"kind":"Service","name":"a/b","addresses":["10.96.0.1"],"ports":[{"port":80,"name":null,"protocol":"http"}]}"#,
            ])
        },
    },
    Target {
        name: "cni_request",
        run: json::<weft_api::cni::Request>,
        seeds: || {
            texts(&[
                r#"{"command":"add","containerId":"x","container_id":"x","netns":"/n","pod":"a/b","uid":"u","addresses":["10.0.0.1"]}"#,
                r#"{"command":"status"}"#,
            ])
        },
    },
    Target {
        name: "node_message",
        run: json::<weft_api::node::ToAgent>,
        seeds: || texts(&[r#"{"type":"hello","version":1}"#, r#"{"type":"ack","id":1,"error":null}"#]),
    },
];

fn texts(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|s| s.as_bytes().to_vec()).collect()
}

fn identity(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(identity) = text.parse::<Identity>() {
        assert_eq!(identity.to_string(), text, "an accepted identity is written back as it was read");
    }
}

fn resource(input: &[u8]) {
    if let Ok(resource) = serde_json::from_slice::<Resource>(input) {
        let again = serde_json::to_vec(&resource).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<Resource>(&again).expect("and read again"), resource);
    }
}

fn json<T: serde::de::DeserializeOwned>(input: &[u8]) {
    drop(serde_json::from_slice::<T>(input));
}
