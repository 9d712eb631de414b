//! Authorization servers that speak Envoy's gRPC protocol: what they are asked, and what their answer changes.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt as _, Limited};
use weft_api::authorization::{CHECK, Change, Check, Decision, Field};
use weft_model::{Reason, Text};

use crate::body::Body;
use crate::outbound::exchange::Answered;
use crate::outbound::filter::auth::{Edit, How};
use crate::outbound::http::authority_of;
use crate::outbound::http::refusal::Refused;
use crate::outbound::origin::Origin;
use crate::send::headers::XFCC;
use crate::telemetry::Protocol;
use crate::tunnel::meta::WEFT_META;

/// Bytes of an answer that are read at most.
const LONGEST_ANSWER: usize = 1 << 20;

/// What a server is told beside the request's head.
pub(super) struct Asked<'a> {
    pub(super) origin: &'a Origin,
    pub(super) protocol: Protocol,
    /// The body's length.
    pub(super) size: Option<u64>,
}

impl Asked<'_> {
    pub(super) fn about(&self, head: &http::request::Parts, allowed: &[Text], shown: Bytes) -> Check {
        let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let mut check = Check {
            source: self.origin.peer,
            principal: self.origin.caller().map(ToString::to_string),
            destination: self.origin.dialled(),
            time: SystemTime::now(),
            method: head.method.to_string(),
            scheme: self.origin.scheme().to_owned(),
            host: authority_of(head).to_owned(),
            path: path.to_owned(),
            protocol: match self.protocol {
                Protocol::Http2 | Protocol::Grpc => "HTTP/2",
                _ => "HTTP/1.1",
            }
            .to_owned(),
            size: self.size,
            headers: BTreeMap::new(),
            body: shown.to_vec(),
        };
        check.headers = fields(head, allowed, &check);
        check
    }
}

/// The fields that are shown; with all of them the pseudo-header fields, as HTTP/2 has them. What only proxies may say is
/// not shown as a caller says it.
fn fields(head: &http::request::Parts, allowed: &[Text], check: &Check) -> BTreeMap<String, String> {
    let shown = |name: &HeaderName| {
        let listed = allowed.is_empty() || allowed.iter().any(|allowed| **allowed == *name.as_str());
        listed && *name != XFCC && *name != WEFT_META
    };
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in head.headers.iter().filter(|(name, _)| shown(name)) {
        let value = String::from_utf8_lossy(value.as_bytes());
        let between = if *name == COOKIE { "; " } else { "," };
        let field = fields.entry(name.to_string()).or_default();
        if !field.is_empty() {
            field.push_str(between);
        }
        field.push_str(&value);
    }
    if allowed.is_empty() {
        let pseudo = [
            (":method", &check.method),
            (":scheme", &check.scheme),
            (":authority", &check.host),
            (":path", &check.path),
        ];
        fields.extend(pseudo.map(|(name, value)| (name.to_owned(), value.clone())));
    }
    if shown(&HOST) {
        fields.insert("host".to_owned(), check.host.clone());
    }
    fields
}

/// The gRPC call.
pub(super) fn question(check: Check) -> Request<Body> {
    let mut request = Request::new(Body::text(check.encode()));
    (*request.method_mut(), *request.uri_mut()) = (Method::POST, Uri::from_static(CHECK));
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    request
}

/// Reads the whole answer.
pub(super) async fn read(answered: Answered) -> Result<Decision, Refused> {
    let Answered { response, in_flight, .. } = answered;
    let (head, body) = response.into_parts();
    let collected = Limited::new(body, LONGEST_ANSWER).collect().await;
    drop(in_flight);
    let collected =
        collected.map_err(|_| failed("the authorization server's answer broke off or was too long"))?;
    let status = collected.trailers().unwrap_or(&head.headers).get("grpc-status");
    let status = status.or_else(|| head.headers.get("grpc-status")).map(HeaderValue::as_bytes);
    if head.status != StatusCode::OK || status != Some(b"0") {
        let status = String::from_utf8_lossy(status.unwrap_or(b"none")).into_owned();
        let code = head.status.as_u16();
        return Err(failed(&format!("the authorization server answered HTTP {code}, gRPC status {status}")));
    }
    Decision::decode(&collected.to_bytes())
        .map_err(|error| failed(&format!("the authorization server's answer cannot be carried out: {error}")))
}

fn failed(message: &str) -> Refused {
    Refused::new(Reason::AuthFailed, message)
}

/// What is to be changed in the response, after the request's fields are changed; or the response that the caller gets
/// instead.
#[allow(clippy::type_complexity, reason = "an answer inside an answer, read in one place")]
pub(super) fn judge(
    decision: Decision,
    request: &mut HeaderMap,
) -> Result<Result<Vec<Edit>, Box<Response<Body>>>, Refused> {
    match decision {
        Decision::Allowed { headers, remove, response_headers } => {
            let mut changes = edits(headers)?;
            for name in remove.iter().filter(|name| !name.starts_with(':')) {
                let name = HeaderName::try_from(name).map_err(|_| no_field(name))?;
                changes.extend(Edit::remove(name));
            }
            let of_response = edits(response_headers)?;
            changes.iter().for_each(|edit| edit.apply(request));
            Ok(Ok(of_response))
        }
        Decision::Denied { status, headers, body } => {
            let denied = StatusCode::from_u16(status).ok().filter(|status| status.as_u16() >= 300);
            let mut response = Response::new(if body.is_empty() { Body::Empty } else { Body::text(body) });
            *response.status_mut() = denied.unwrap_or(StatusCode::FORBIDDEN);
            edits(headers)?.iter().for_each(|edit| edit.apply(response.headers_mut()));
            Ok(Err(Box::new(response)))
        }
    }
}

fn edits(fields: Vec<Field>) -> Result<Vec<Edit>, Refused> {
    let mut edits = Vec::new();
    for Field { name, value, how } in fields.into_iter().filter(|field| !field.name.starts_with(':')) {
        let (Ok(header), Ok(value)) =
            (HeaderName::try_from(&name), HeaderValue::from_maybe_shared(Bytes::from(value)))
        else {
            return Err(no_field(&name));
        };
        edits.extend(Edit::new(
            header,
            value,
            match how {
                Change::Append => How::Append,
                Change::Set => How::Set,
                Change::IfAbsent => How::IfAbsent,
                Change::IfPresent => How::IfPresent,
            },
        ));
    }
    Ok(edits)
}

fn no_field(name: &str) -> Refused {
    failed(&format!("the authorization server's answer has a field that HTTP forbids: {name:?}"))
}
