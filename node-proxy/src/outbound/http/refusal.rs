//! Refusals in words that the caller understands: an HTTP status with a short text, or a gRPC status without a body.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use weft_model::Reason;

use crate::body::Body;
use crate::send::SendError;

/// A request that Weft itself answers with an error.
#[derive(Debug)]
pub struct Refused {
    /// The word for caller, log and metrics.
    pub reason: Reason,
    /// What to do about it.
    pub message: String,
}

impl Refused {
    /// A refusal.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// The response to an HTTP or a gRPC caller. The caller sees the reason, and the message, which holds no
    /// addresses or names that the route's author did not write.
    pub fn response(&self, grpc: bool) -> Response<Body> {
        if grpc { self.grpc_response() } else { self.http_response() }
    }

    fn http_response(&self) -> Response<Body> {
        let mut response = Response::new(Body::text(format!("weft: {}: {}\n", self.reason, self.message)));
        *response.status_mut() = status(self.reason);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    }

    /// Trailers-only: the status stands in the head (gRPC over HTTP/2, "Responses").
    fn grpc_response(&self) -> Response<Body> {
        let mut response = Response::new(Body::Empty);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(grpc_status(self.reason)));
        let message = percent_encoded(&format!("weft: {}: {}", self.reason, self.message));
        if let Ok(message) = HeaderValue::try_from(message) {
            headers.insert("grpc-message", message);
        }
        response
    }
}

/// What an authorization server's status says to a gRPC caller: a status without a body (gRPC's
/// `http-grpc-status-mapping.md`).
pub fn denied_grpc(status: StatusCode, headers: HeaderMap) -> Response<Body> {
    let code: u16 = match status.as_u16() {
        400 => 13,
        401 => 16,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 7,
    };
    let mut response = Response::new(Body::Empty);
    *response.headers_mut() = headers;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(code));
    headers.insert(
        "grpc-message",
        HeaderValue::from_static("weft: auth_denied: the authorization server refused"),
    );
    response
}

impl From<SendError> for Refused {
    /// The details stay in the log: they name addresses.
    fn from(error: SendError) -> Self {
        Self::new(error.reason, advice(error.reason))
    }
}

/// The HTTP status of a reason.
pub const fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::NoRouteMatch => StatusCode::NOT_FOUND,
        Reason::BadRequest | Reason::BadTunnelRequest => StatusCode::BAD_REQUEST,
        Reason::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Reason::UpstreamReset => StatusCode::BAD_GATEWAY,
        Reason::RequestTimeout | Reason::BackendTimeout => StatusCode::GATEWAY_TIMEOUT,
        Reason::PlaintextRefused | Reason::ProbeRefused | Reason::AuthDenied => StatusCode::FORBIDDEN,
        Reason::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::Loop => StatusCode::LOOP_DETECTED,
        Reason::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        Reason::InvalidBackend | Reason::InvalidRoute | Reason::InvalidListener | Reason::Internal => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The gRPC status of a reason (gRPC's `statuscodes.md`).
pub const fn grpc_status(reason: Reason) -> u16 {
    match reason {
        Reason::NoRouteMatch => 12,
        Reason::RequestTimeout | Reason::BackendTimeout => 4,
        Reason::PlaintextRefused | Reason::ProbeRefused | Reason::AuthDenied => 7,
        Reason::Overloaded | Reason::HeadersTooLarge | Reason::BodyTooLarge => 8,
        Reason::Internal | Reason::BadRequest | Reason::BadTunnelRequest => 13,
        _ => 14,
    }
}

const fn advice(reason: Reason) -> &'static str {
    match reason {
        Reason::ConnectFailed => {
            "no endpoint could be connected to; check that the application listens on its target port"
        }
        Reason::TlsFailed => "no endpoint proved its identity; see the proxies' logs on both nodes",
        Reason::UpstreamReset => "the endpoint ended the connection before it answered",
        Reason::NoCertificate => "this pod has no certificate yet; check that the controller runs",
        Reason::PlaintextRefused => "the callee accepts only callers in the mesh",
        _ => "see the access log for details",
    }
}

/// As gRPC encodes `grpc-message`: printable ASCII but `%`.
fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        encoded
    })
}
