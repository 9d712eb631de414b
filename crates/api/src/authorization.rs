//! What an authorization server is asked and answers over gRPC: Envoy's `envoy.service.auth.v3.Authorization/Check`, as
//! its published API defines it. The messages ([`wire`]) hold only the fields that are used; others pass unread.

mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use prost::Message as _;

/// The method that is called.
pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Bytes before a gRPC message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A request that a server is asked about.
#[derive(Clone, Debug)]
pub struct Check {
    /// Who calls.
    pub source: SocketAddr,
    /// The caller's identity, if it is known: `spiffe://…`.
    pub principal: Option<String>,
    /// Where the caller called.
    pub destination: SocketAddr,
    /// When.
    pub time: SystemTime,
    /// The method.
    pub method: String,
    /// The scheme.
    pub scheme: String,
    /// The host, with a port if it was said.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: String,
    /// The body's length, if it is known.
    pub size: Option<u64>,
    /// The fields by their names in lower case, several lines of one joined.
    pub headers: BTreeMap<String, String>,
    /// What is shown of the body.
    pub body: Vec<u8>,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The request passes, changed so.
    Allowed {
        /// Fields of the request to change.
        headers: Vec<Field>,
        /// Fields of the request to take away, after that.
        remove: Vec<String>,
        /// Fields of the response to change.
        response_headers: Vec<Field>,
    },
    /// The caller is answered so.
    Denied {
        /// The HTTP status; 0: none is said.
        status: u16,
        /// The response's fields.
        headers: Vec<Field>,
        /// The response's body.
        body: String,
    },
}

/// A field and how it is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Vec<u8>,
    /// How.
    pub how: Change,
}

/// How a field is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A further line.
    Append,
    /// In the place of what there is.
    Set,
    /// Only where there is none.
    IfAbsent,
    /// Only where there is one.
    IfPresent,
}

/// An answer that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAnswer {
    /// Not one whole message that is not compressed.
    #[error("it is not one whole gRPC message")]
    Frame,
    /// Not a `CheckResponse`.
    #[error("it is no CheckResponse")]
    Message,
    /// A change that is not made: to leave it out could let pass what was not meant to.
    #[error("it changes query parameters, which is not supported")]
    Query,
    /// Neither a status nor what would come with one.
    #[error("it says nothing")]
    Nothing,
    /// The status says one thing, and what comes with it another.
    #[error("its status and its content contradict each other")]
    Contradiction,
}

impl Check {
    /// The gRPC message, framed.
    pub fn encode(self) -> Vec<u8> {
        let message = wire::CheckRequest::from(self);
        let length = message.encoded_len();
        let mut frame = Vec::with_capacity(PREFIX + length);
        frame.push(0);
        frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        message.encode_raw(&mut frame);
        frame
    }
}

impl Decision {
    /// Reads a framed gRPC message.
    ///
    /// # Errors
    /// It is no answer.
    pub fn decode(frame: &[u8]) -> Result<Self, NotAnAnswer> {
        let (prefix, message) = frame.split_first_chunk::<PREFIX>().ok_or(NotAnAnswer::Frame)?;
        let [0, length @ ..] = *prefix else { return Err(NotAnAnswer::Frame) };
        if u32::from_be_bytes(length) as usize != message.len() {
            return Err(NotAnAnswer::Frame);
        }
        let response = wire::CheckResponse::decode(message).map_err(|_| NotAnAnswer::Message)?;
        if response.status.is_none() && response.http_response.is_none() {
            return Err(NotAnAnswer::Nothing);
        }
        let allowed = response.status.is_none_or(|status| status.code == 0);
        match (allowed, response.http_response) {
            (true, None) => Ok(Self::Allowed { headers: vec![], remove: vec![], response_headers: vec![] }),
            (true, Some(wire::HttpResponse::Ok(ok))) => {
                if !(ok.query_parameters_to_set.is_empty() && ok.query_parameters_to_remove.is_empty()) {
                    return Err(NotAnAnswer::Query);
                }
                Ok(Self::Allowed {
                    headers: fields(ok.headers),
                    remove: ok.headers_to_remove,
                    response_headers: fields(ok.response_headers_to_add),
                })
            }
            (false, Some(wire::HttpResponse::Denied(denied))) => Ok(Self::Denied {
                status: denied.status.and_then(|status| u16::try_from(status.code).ok()).unwrap_or(0),
                headers: fields(denied.headers),
                body: denied.body,
            }),
            (false, None) => Ok(Self::Denied { status: 0, headers: vec![], body: String::new() }),
            (true, Some(wire::HttpResponse::Denied(_))) | (false, Some(wire::HttpResponse::Ok(_))) => {
                Err(NotAnAnswer::Contradiction)
            }
        }
    }
}

/// Where `append` is said it counts; else `append_action`, whose zero stands for not being said too, and for this
/// protocol that is to set.
fn fields(options: Vec<wire::HeaderValueOption>) -> Vec<Field> {
    let field = |option: wire::HeaderValueOption| {
        let header = option.header?;
        let how = match (option.append, option.append_action) {
            (Some(wire::BoolValue { value: true }), _) => Change::Append,
            (None, 1) => Change::IfAbsent,
            (None, 3) => Change::IfPresent,
            _ => Change::Set,
        };
        let value = if header.raw_value.is_empty() { header.value.into_bytes() } else { header.raw_value };
        Some(Field { name: header.key, value, how })
    };
    options.into_iter().filter_map(field).collect()
}

impl From<Check> for wire::CheckRequest {
    fn from(check: Check) -> Self {
        let since = check.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let time = wire::Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(0),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
        };
        let (body, raw_body) = match String::from_utf8(check.body) {
            Ok(text) => (text, Vec::new()),
            Err(error) => (String::new(), error.into_bytes()),
        };
        let http = wire::HttpRequest {
            method: check.method,
            headers: check.headers.into_iter().collect(),
            path: check.path,
            host: check.host,
            scheme: check.scheme,
            size: check.size.and_then(|size| i64::try_from(size).ok()).unwrap_or(-1),
            protocol: check.protocol,
            body,
            raw_body,
        };
        let peer = |address: SocketAddr, principal| wire::Peer {
            address: Some(wire::Address {
                socket_address: Some(wire::SocketAddress {
                    address: address.ip().to_string(),
                    port_value: address.port().into(),
                }),
            }),
            principal,
        };
        Self {
            attributes: Some(wire::AttributeContext {
                source: Some(peer(check.source, check.principal.unwrap_or_default())),
                destination: Some(peer(check.destination, String::new())),
                request: Some(wire::Request { time: Some(time), http: Some(http) }),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(response: &wire::CheckResponse) -> Vec<u8> {
        let message = response.encode_to_vec();
        [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat()
    }

    fn decoded(code: i32, http_response: Option<wire::HttpResponse>) -> Result<Decision, NotAnAnswer> {
        let status = Some(wire::Status { code });
        Decision::decode(&framed(&wire::CheckResponse { status, http_response }))
    }

    fn option(append: Option<bool>, append_action: i32) -> wire::HeaderValueOption {
        let header = wire::HeaderValue { key: "a".into(), value: "1".into(), raw_value: vec![] };
        let append = append.map(|value| wire::BoolValue { value });
        wire::HeaderValueOption { header: Some(header), append, append_action }
    }

    #[test]
    fn nothing_but_a_clear_yes_is_one() {
        let ok = || Some(wire::HttpResponse::Ok(wire::OkHttpResponse::default()));
        let denied = || Some(wire::HttpResponse::Denied(wire::DeniedHttpResponse::default()));
        assert!(matches!(decoded(0, None), Ok(Decision::Allowed { .. })));
        assert!(matches!(decoded(0, ok()), Ok(Decision::Allowed { .. })));
        assert!(matches!(decoded(7, None), Ok(Decision::Denied { status: 0, .. })));
        assert!(matches!(decoded(16, denied()), Ok(Decision::Denied { .. })));
        assert_eq!(decoded(0, denied()), Err(NotAnAnswer::Contradiction));
        assert_eq!(decoded(7, ok()), Err(NotAnAnswer::Contradiction));
        for frame in [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 0]] {
            assert_eq!(Decision::decode(frame), Err(NotAnAnswer::Frame), "{frame:?}");
        }
        assert_eq!(Decision::decode(&[0, 0, 0, 0, 0]), Err(NotAnAnswer::Nothing));
        assert_eq!(Decision::decode(&[0, 0, 0, 0, 1, 0xff]), Err(NotAnAnswer::Message));
    }

    #[test]
    fn a_change_that_is_not_made_is_not_left_out() {
        let ok =
            wire::OkHttpResponse { query_parameters_to_remove: vec!["token".into()], ..Default::default() };
        assert_eq!(decoded(0, Some(wire::HttpResponse::Ok(ok))), Err(NotAnAnswer::Query));
    }

    #[test]
    fn fields_are_set_unless_it_is_said_otherwise() {
        for (append, action, expected) in [
            (None, 0, Change::Set),
            (Some(false), 0, Change::Set),
            (Some(true), 0, Change::Append),
            (None, 1, Change::IfAbsent),
            (None, 2, Change::Set),
            (None, 3, Change::IfPresent),
        ] {
            let changed = fields(vec![option(append, action)]);
            assert_eq!(changed[0].how, expected, "{append:?} {action}");
        }
    }

    #[test]
    fn a_body_that_is_no_text_is_shown_as_bytes() {
        let check = Check {
            source: "10.0.0.1:1".parse().unwrap(),
            principal: Some("spiffe://cluster.local/ns/a/sa/b".into()),
            destination: "10.96.0.1:80".parse().unwrap(),
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
            method: "POST".into(),
            scheme: "http".into(),
            host: "web".into(),
            path: "/a?b".into(),
            protocol: "HTTP/1.1".into(),
            size: None,
            headers: BTreeMap::from([("x".into(), "1,2".into())]),
            body: vec![0xff],
        };
        let frame = check.encode();
        assert_eq!(frame[0], 0);
        let request = wire::CheckRequest::decode(&frame[PREFIX..]).unwrap().attributes.unwrap();
        let http = request.request.unwrap().http.unwrap();
        assert_eq!((http.body.as_str(), &http.raw_body[..], http.size), ("", &[0xff][..], -1));
        assert_eq!(request.source.unwrap().principal, "spiffe://cluster.local/ns/a/sa/b");
    }
}
