//! What a probe may ask: exactly what the pod declares. Header fields that the kubelet does not send are removed, so that
//! no other process of the node can say more by them.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Version};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Limited};
use weft_api::probe::ProbeAction;
use weft_model::Text;

use crate::body::Body;

/// `grpc.health.v1.Health` (gRPC's `health-checking.md`).
const CHECK: &str = "/grpc.health.v1.Health/Check";
/// More than any declared service's name needs.
const LONGEST_MESSAGE: usize = 4096;
/// What the kubelet sends whatever is declared; the values are its own.
const OF_KUBELET: [HeaderName; 3] = [header::USER_AGENT, header::ACCEPT, header::ACCEPT_ENCODING];
/// What a gRPC client sends.
const OF_GRPC: [&str; 5] = ["content-type", "user-agent", "te", "grpc-timeout", "grpc-accept-encoding"];
/// Go's HTTP client never sends these as declared.
const NEVER_SENT: [HeaderName; 3] = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::TRAILER];

/// The request as it may be sent to `to`, or why it may not.
pub(super) async fn request(
    declared: &[ProbeAction],
    to: SocketAddr,
    request: Request<Body>,
) -> Result<Request<Body>, String> {
    if request.version() == Version::HTTP_2 {
        grpc(declared, request).await
    } else {
        http(declared, to, request)
    }
}

fn http(declared: &[ProbeAction], to: SocketAddr, request: Request<Body>) -> Result<Request<Body>, String> {
    if request.method() != Method::GET || !request.body().is_end_stream() {
        return Err("HTTP probes are GET without a body".to_owned());
    }
    let uri = request.uri();
    let asked =
        uri.path_and_query().map(http::uri::PathAndQuery::as_str).filter(|_| uri.authority().is_none());
    let mut problem = format!("no probe of port {} asks for {}", to.port(), asked.unwrap_or("another host"));
    for action in declared {
        let ProbeAction::Http { target, headers } = action else { continue };
        if asked != Some(target) {
            continue;
        }
        match fields(headers, to, request.headers()) {
            Ok(fields) => {
                let mut allowed = Request::new(Body::Empty);
                *allowed.uri_mut() = request.uri().clone();
                *allowed.headers_mut() = fields;
                return Ok(allowed);
            }
            Err(name) => problem = format!("the probe declares another value of the header {name}"),
        }
    }
    Err(problem)
}

/// The fields of a probe, if those that it declares are there; else the name of one that is not.
fn fields(declared: &[(Text, Text)], to: SocketAddr, sent: &HeaderMap) -> Result<HeaderMap, String> {
    let mut fields = HeaderMap::new();
    for name in OF_KUBELET {
        for value in sent.get_all(&name) {
            fields.append(name.clone(), value.clone());
        }
    }
    // The kubelet calls the pod by its address.
    if let Ok(host) = HeaderValue::try_from(to.to_string()) {
        fields.insert(header::HOST, host);
    }
    for (name, values) in by_name(declared) {
        // What is no field name is not sent by anybody.
        let Ok(known) = HeaderName::try_from(&*name) else { continue };
        if NEVER_SENT.contains(&known) {
            continue;
        }
        let sent: Vec<&HeaderValue> = sent.get_all(&known).iter().filter(|value| !value.is_empty()).collect();
        let as_declared = if known == header::HOST {
            sent.first().is_some_and(|value| values.first() == Some(&value.as_bytes()))
        } else {
            sent.iter()
                .map(|value| value.as_bytes())
                .eq(values.iter().copied().filter(|value| !value.is_empty()))
        };
        if !as_declared {
            return Err(name.to_string());
        }
        fields.remove(&known);
        for value in sent {
            fields.append(known.clone(), value.clone());
        }
    }
    Ok(fields)
}

/// Names in the order in which they are first declared, with all their values, which travel without the spaces around.
fn by_name(declared: &[(Text, Text)]) -> Vec<(Text, Vec<&[u8]>)> {
    let mut names: Vec<(Text, Vec<&[u8]>)> = Vec::new();
    for (name, value) in declared {
        let value = value.trim_matches([' ', '\t']).as_bytes();
        match names.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some((_, values)) => values.push(value),
            None => names.push((name.clone(), vec![value])),
        }
    }
    names
}

async fn grpc(declared: &[ProbeAction], request: Request<Body>) -> Result<Request<Body>, String> {
    let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    let plain = |value: &HeaderValue| value == "identity";
    let headers = request.headers();
    if request.method() != Method::POST
        || request.uri().path() != CHECK
        || !headers.get(header::CONTENT_TYPE).is_some_and(is_grpc)
        || !headers.get("grpc-encoding").is_none_or(plain)
    {
        return Err(format!("gRPC probes call {CHECK} and nothing else"));
    }
    let (head, body) = request.into_parts();
    let collected = Limited::new(body, LONGEST_MESSAGE).collect().await;
    let message = collected.map_err(|error| format!("the health check cannot be read: {error}"))?.to_bytes();
    let asks_for =
        |action: &ProbeAction| matches!(action, ProbeAction::Grpc { service } if asks_for(&message, service));
    if !declared.iter().any(asks_for) {
        return Err("no gRPC probe declares the service that is asked for".to_owned());
    }
    let mut allowed = Request::new(Body::text(message));
    *allowed.method_mut() = Method::POST;
    *allowed.version_mut() = Version::HTTP_2;
    *allowed.uri_mut() = head.uri;
    for name in OF_GRPC {
        if let Some(value) = head.headers.get(name) {
            allowed.headers_mut().insert(name, value.clone());
        }
    }
    Ok(allowed)
}

/// Is this one uncompressed gRPC message (gRPC over HTTP/2, "Length-Prefixed-Message") with a `HealthCheckRequest` for
/// `service`, its field 1?
fn asks_for(message: &Bytes, service: &str) -> bool {
    let mut field = Vec::new();
    if !service.is_empty() {
        field.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            field.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        field.push(u8::try_from(length).unwrap_or(0));
        field.extend_from_slice(service.as_bytes());
    }
    let framed = |field: &[u8]| {
        let length = u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes();
        [&[0][..], &length, field].concat()
    };
    *message == framed(&field) || (service.is_empty() && *message == framed(&[0x0a, 0]))
}

#[cfg(test)]
mod tests;
