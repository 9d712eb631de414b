//! The probes that a Pod object declares.

use serde_json::Value;
use weft_api::probe::{Probe, ProbeAction};
use weft_model::Text;

/// Where a container declares what the kubelet does to it. `tcpSocket` of a hook is left out: the kubelet never carries
/// it out (Kubernetes API, `LifecycleHandler`).
const HANDLERS: [(&str, bool); 5] = [
    ("/livenessProbe", true),
    ("/readinessProbe", true),
    ("/startupProbe", true),
    ("/lifecycle/postStart", false),
    ("/lifecycle/preStop", false),
];

/// Every probe of the pod's containers and of those init containers that go on running (`restartPolicy: Always`).
/// Sorted, so that equal declarations give equal lists.
pub(super) fn declared(object: &Value) -> Vec<Probe> {
    let list = |pointer: &str| object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let goes_on = |container: &&Value| text(container, "/restartPolicy") == Some("Always");
    let containers = list("/spec/containers").chain(list("/spec/initContainers").filter(goes_on));
    let mut probes: Vec<Probe> = containers.flat_map(of_container).collect();
    probes.sort();
    probes.dedup();
    probes
}

fn of_container(container: &Value) -> impl Iterator<Item = Probe> {
    HANDLERS.iter().filter_map(move |(place, probe)| of_handler(container, container.pointer(place)?, *probe))
}

fn of_handler(container: &Value, handler: &Value, probe: bool) -> Option<Probe> {
    if let Some(http) = handler.get("httpGet") {
        let action = if text(http, "/scheme") == Some("HTTPS") {
            ProbeAction::Https
        } else {
            let target = request_target(text(http, "/path").unwrap_or_default()).into();
            ProbeAction::Http { target, headers: headers(http) }
        };
        return of_port(container, http, action);
    }
    if !probe {
        return None;
    }
    if let Some(tcp) = handler.get("tcpSocket") {
        return of_port(container, tcp, ProbeAction::Tcp);
    }
    let grpc = handler.get("grpc")?;
    let service = text(grpc, "/service").unwrap_or_default().into();
    of_port(container, grpc, ProbeAction::Grpc { service })
}

/// With `host` the kubelet asks somebody else.
fn of_port(container: &Value, handler: &Value, action: ProbeAction) -> Option<Probe> {
    let elsewhere = text(handler, "/host").is_some_and(|host| !host.is_empty());
    let port = port(container, handler.get("port")?)?;
    (!elsewhere).then_some(Probe { port, action })
}

/// A number, or the name of one of the container's own ports.
fn port(container: &Value, port: &Value) -> Option<u16> {
    if let Some(number) = port.as_u64() {
        return u16::try_from(number).ok().filter(|port| *port > 0);
    }
    let name = port.as_str()?;
    let mut ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
    match ports.find(|port| text(port, "/name") == Some(name)) {
        Some(port) => u16::try_from(port.get("containerPort")?.as_u64()?).ok(),
        None => name.parse().ok().filter(|port| *port > 0),
    }
}

fn headers(http: &Value) -> Vec<(Text, Text)> {
    let headers = http.get("httpHeaders").and_then(Value::as_array).into_iter().flatten();
    let pair = |header: &Value| {
        Some((text(header, "/name")?.into(), text(header, "/value").unwrap_or_default().into()))
    };
    headers.filter_map(pair).collect()
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

/// The request target that Go's `net/url`, which the kubelet builds its URL with, makes of `httpGet.path`.
fn request_target(declared: &str) -> String {
    let (rest, _fragment) = declared.split_once('#').unwrap_or((declared, ""));
    let rest = without_authority(rest);
    let (path, query) = match rest.find('?') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    // What does not parse as a URL is taken as a path, every character of it.
    let (path, query) = match unescape(path) {
        Some(_) if path.bytes().all(may_stay) => (path.to_owned(), query),
        Some(plain) => (escape(&plain), query),
        None => (escape(declared.as_bytes()), ""),
    };
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{slash}{path}{query}")
}

/// `//name/path` names a host, which the kubelet replaces.
fn without_authority(rest: &str) -> &str {
    match rest.strip_prefix("//") {
        Some(named) if !named.starts_with('/') => {
            named.find(['/', '?']).map_or("", |at| named.split_at(at).1)
        }
        _ => rest,
    }
}

/// May a byte of a written path stay as it is?
fn may_stay(byte: u8) -> bool {
    needs_no_escape(byte) || b"!'()*[]%".contains(&byte)
}

fn needs_no_escape(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte)
}

fn escape(plain: &[u8]) -> String {
    let mut text = String::new();
    for byte in plain {
        if needs_no_escape(*byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// `None`: a `%` that two hexadecimal digits do not follow, or a control character.
fn unescape(path: &str) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if first.is_ascii_control() {
            return None;
        }
        if *first != b'%' {
            plain.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        plain.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn request_target_is_the_one_that_the_kubelet_writes() {
        for (path, target) in [
            ("", "/"),
            ("/", "/"),
            ("healthz", "/healthz"),
            ("/healthz?full=1&x=%20", "/healthz?full=1&x=%20"),
            ("/healthz?", "/healthz?"),
            ("/healthz#part", "/healthz"),
            ("?a", "/?a"),
            ("/a b", "/a%20b"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a%2Fb c", "/a/b%20c"),
            ("/(a)!*'[1]", "/(a)!*'[1]"),
            ("/ü", "/%C3%BC"),
            ("/%zz?q", "/%25zz%3Fq"),
            ("//elsewhere/ready", "/ready"),
            ("///three", "///three"),
        ] {
            assert_eq!(request_target(path), target, "{path:?}");
        }
    }

    fn http(port: u16, target: &str, headers: &[(&str, &str)]) -> Probe {
        let headers = headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        Probe { port, action: ProbeAction::Http { target: target.into(), headers } }
    }

    #[test]
    fn every_kind_of_probe_is_read_with_its_port() {
        let object = json!({"spec": {"containers": [{
            "ports": [{"name": "web", "containerPort": 8080}, {"name": "rpc", "containerPort": 9000}],
            "livenessProbe": {"tcpSocket": {"port": "web"}},
            "readinessProbe": {"httpGet": {"port": "web", "path": "/ready",
                "httpHeaders": [{"name": "X-Probe", "value": "a"}, {"name": "Host", "value": "shop"}]}},
            "startupProbe": {"grpc": {"port": 9000, "service": "cart"}},
            "lifecycle": {
                "postStart": {"httpGet": {"port": 8443, "scheme": "HTTPS", "path": "/"}},
                "preStop": {"httpGet": {"port": "8081", "path": "drain"}}},
        }]}});
        let expected = [
            Probe { port: 8080, action: ProbeAction::Tcp },
            http(8080, "/ready", &[("X-Probe", "a"), ("Host", "shop")]),
            http(8081, "/drain", &[]),
            Probe { port: 8443, action: ProbeAction::Https },
            Probe { port: 9000, action: ProbeAction::Grpc { service: "cart".into() } },
        ];
        assert_eq!(declared(&object), expected);
    }

    #[test]
    fn native_sidecars_have_probes_and_other_init_containers_have_none() {
        let probe = json!({"tcpSocket": {"port": 1}});
        let object = json!({"spec": {"initContainers": [
            {"restartPolicy": "Always", "startupProbe": probe},
            {"livenessProbe": {"tcpSocket": {"port": 2}}},
        ]}});
        assert_eq!(declared(&object), [Probe { port: 1, action: ProbeAction::Tcp }]);
    }

    #[test]
    fn what_the_kubelet_does_not_do_to_the_pods_address_opens_nothing() {
        for container in [
            json!({"livenessProbe": {"exec": {"command": ["true"]}}}),
            json!({"livenessProbe": {"tcpSocket": {"port": "unknown"}}}),
            json!({"livenessProbe": {"tcpSocket": {"port": 0}}}),
            json!({"livenessProbe": {"tcpSocket": {"port": 70000}}}),
            json!({"livenessProbe": {"tcpSocket": {"port": 80, "host": "10.0.0.9"}}}),
            json!({"livenessProbe": {"httpGet": {"port": 80, "host": "127.0.0.1"}}}),
            json!({"lifecycle": {"preStop": {"tcpSocket": {"port": 80}}}}),
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}),
            json!({}),
        ] {
            assert_eq!(declared(&json!({"spec": {"containers": [container]}})), [], "{container}");
        }
    }
}
