//! The targets: one for each parser. A target must not panic, whatever it is given, and states what must hold
//! of what it accepts.

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue};
use weft_api::delta::Replica;
use weft_api::proto::{ConfigResponse, Upsert};
use weft_ca::{Authority, Settings};
use weft_model::route::{Match, PathMatch, PathModifier};
use weft_model::{Identity, Resource, TrustDomain};
use weft_proxy::gateway::proxy_protocol::parse;
use weft_proxy::tunnel::meta::{RequestMeta, ResponseMeta, WEFT_META};
use weft_tls::sni::HelloReader;

/// A parser under test.
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Feeds it one input.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target { name, run, seeds }
}

/// All of them.
pub const ALL: &[Target] = &[
    target("identity", identity, || texts(&["spiffe://cluster.local/ns/shop/sa/web"])),
    target("resource", resource, || texts(&[SERVICE, WORKLOAD])),
    target("config_response", config_response, || texts(&[SERVICE, WORKLOAD])),
    target("tunnel_request_meta", tunnel_request_meta, || {
        texts(&["port=8080; service=shop/cart; route=HTTPRoute/shop/cart/0"])
    }),
    target("tunnel_response_meta", tunnel_response_meta, || texts(&["error=connect_failed; established=no"])),
    target("client_hello", client_hello, || vec![CLIENT_HELLO.to_vec()]),
    target("proxy_protocol", proxy_protocol, || {
        let version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\x10\xe1\0\x50";
        vec![b"PROXY TCP4 192.0.2.7 10.0.0.1 4321 80\r\n".to_vec(), version_2.to_vec()]
    }),
    target("signing_request", signing_request, || vec![signing_request_seed()]),
    target("path_modifier", path_modifier, || texts(&["/a/b?c=d", "/", "*", "/%2e%2e//x"])),
    target("manifest", manifest, || {
        texts(&["apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n[1, {a: b}]"])
    }),
    target("cni_configuration", cni_configuration, || texts(&[CNI])),
    target("cni_request", json::<weft_api::cni::Request>, || texts(&[r#"{"command":"status"}"#])),
    target("node_message", json::<weft_api::node::ToAgent>, || {
        texts(&[r#"{"type":"ack","id":1,"error":null}"#])
    }),
];

const SERVICE: &str = r#"{"kind":"Service","name":"a/b","addresses":["10.96.0.1"],"ports":[{"port":80,"name":null,"protocol":"http"}]}"#;
const WORKLOAD: &str = r#"{"kind":"Workload","uid":"u","pod":"a/b","workload":"b","node":"n","addresses":["::1"],"identity":"spiffe://td/ns/a/sa/b","protocol":"tunnel","mtls":"strict"}"#;
const CNI: &str = r#"{"cniVersion":"1.0.0","name":"lab","type":"weft-cni","prevResult":{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}]}}"#;
/// The head of a ClientHello: a handshake record, version 3.3, of one short handshake message.
const CLIENT_HELLO: &[u8] = &[
    22, 3, 1, 0, 60, 1, 0, 0, 56, 3, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
    20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 0, 0, 2, 19, 1, 1, 0, 0, 13, 0, 0, 0, 9, 0, 7, 0, 0,
    4, b'a', b'.', b'b', b'c',
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

/// A message with one resource: it is either held or rejected by name, never lost.
fn config_response(input: &[u8]) {
    let upsert = Upsert {
        name: "Service/a/b".to_owned(),
        resource: input.to_vec(),
        parents: Vec::new(),
        listeners: Vec::new(),
    };
    let message =
        ConfigResponse { version: 1, upserts: vec![upsert], complete: true, ..ConfigResponse::default() };
    let mut replica = Replica::default();
    replica.connect();
    if let Ok(Some(applied)) = replica.apply(message) {
        let held = replica.resources().count();
        assert_eq!(held + applied.rejections.len(), 1, "held or rejected");
    }
}

fn header(input: &[u8]) -> Option<HeaderMap> {
    let value = HeaderValue::from_bytes(input).ok()?;
    Some(HeaderMap::from_iter([(WEFT_META, value)]))
}

fn tunnel_request_meta(input: &[u8]) {
    let Some(mut headers) = header(input) else { return };
    let read = RequestMeta::take(&mut headers);
    assert!(headers.is_empty(), "the header never stays");
    if let Ok(meta) = read {
        let mut again = HeaderMap::from_iter([(WEFT_META, meta.encode())]);
        assert_eq!(RequestMeta::take(&mut again), Ok(meta));
    }
}

fn tunnel_response_meta(input: &[u8]) {
    let Some(mut headers) = header(input) else { return };
    let _ = ResponseMeta::take(&mut headers);
    assert!(headers.is_empty(), "the header never stays");
}

/// A header ends within what came, and is the same when only its own bytes have come, and not before.
fn proxy_protocol(input: &[u8]) {
    if let Ok(Some(header)) = parse(input) {
        let own = input.get(..header.length).expect("a header ends within what came");
        assert_eq!(parse(own), Ok(Some(header)));
        assert_eq!(parse(&own[..own.len() - 1]), Ok(None));
    }
}

/// However a hello is cut into pieces, the answer is the same.
fn client_hello(input: &[u8]) {
    let whole = HelloReader::default().feed(input);
    let mut reader = HelloReader::default();
    let cut = input.len() / 2;
    let first = reader.feed(&input[..cut]);
    let pieces = if matches!(first, Ok(None)) { reader.feed(&input[cut..]) } else { first };
    assert_eq!(whole.ok().flatten(), pieces.ok().flatten());
}

static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("weft-fuzz-{}", std::process::id()));
    let authority = Authority::open(&folder, Settings::new(TrustDomain("td".into())), SystemTime::now());
    std::fs::remove_dir_all(&folder).ok();
    authority.expect("a new authority opens")
});

fn fuzzed_identity() -> Identity {
    "spiffe://td/ns/a/sa/b".parse().expect("it is one")
}

fn signing_request_seed() -> Vec<u8> {
    weft_tls::KeyRequest::new(&fuzzed_identity()).expect("a key can be made").csr_der().to_vec()
}

fn signing_request(input: &[u8]) {
    drop(AUTHORITY.sign(input, &fuzzed_identity(), SystemTime::now() + Duration::from_secs(1)));
}

/// What is accepted is a path: it begins with `/`.
fn path_modifier(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (path, replacement) = text.split_once(' ').unwrap_or((text, "/new"));
    let matched = Match { path: PathMatch::Prefix { value: "/a".into() }, ..Match::default() };
    for modifier in [PathModifier::Full(replacement.into()), PathModifier::Prefix(replacement.into())] {
        let modified = weft_routing::path::modify_path(&modifier, &matched, path);
        assert!(modified.is_none_or(|m| m.starts_with('/')));
    }
}

fn manifest(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for name in ["a.yaml", "a.json"] {
        let (objects, _) = weft_manifest::parse(Path::new(name), text);
        for object in objects {
            drop(weft_manifest::admit(object.json, None));
        }
    }
}

fn cni_configuration(mut input: &[u8]) {
    let none = |name: &str| (name == "CNI_COMMAND").then(|| "CHECK".to_owned());
    let outcome = weft_cni::plugin::run(none, &mut input);
    assert!(
        outcome.success || serde_json::from_str::<serde_json::Value>(&outcome.printed).is_ok(),
        "errors are JSON"
    );
}

fn json<T: serde::de::DeserializeOwned>(input: &[u8]) {
    drop(serde_json::from_slice::<T>(input));
}
