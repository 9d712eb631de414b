//! `ExternalAuth` (GEP-1494), of an HTTPRoute's rule or backend.

use weft_gateway_api::httproutes::{
    HttpRouteRulesFiltersExternalAuth as RouteAuth, HttpRouteRulesFiltersExternalAuthProtocol as Protocol,
};
use weft_model::Text;
use weft_model::route::{AuthProtocol, ExternalAuth};

use super::backend::{Backends, reference};
use super::fault::{Fault, References};
use crate::inputs::RouteKind;

/// Bytes of a body that a proxy keeps at most while an authorization server is asked.
const LARGEST_BODY: u32 = 1 << 20;

/// Converts the filter. A server that cannot be used is published as such: what would have been asked is refused.
pub(crate) fn convert(
    auth: &RouteAuth,
    backends: &Backends<'_>,
    references: &mut References,
) -> Result<ExternalAuth, Fault> {
    let (spoken, protocol) = match auth.protocol {
        Protocol::Http => (RouteKind::Http, convert_http(auth)),
        Protocol::Grpc => (RouteKind::Grpc, convert_grpc(auth)),
    };
    let server = backends.target_speaking(spoken, reference!(auth.backend_ref), references);
    Ok(ExternalAuth { server, protocol, max_body: convert_body(auth)? })
}

fn convert_http(auth: &RouteAuth) -> AuthProtocol {
    let http = auth.http.as_ref();
    let path = http.and_then(|http| http.path.as_deref()).unwrap_or_default();
    AuthProtocol::Http {
        prefix: path.strip_suffix('/').unwrap_or(path).into(),
        allowed_headers: names(http.and_then(|http| http.allowed_headers.as_deref())),
        allowed_response_headers: names(http.and_then(|http| http.allowed_response_headers.as_deref())),
    }
}

fn convert_grpc(auth: &RouteAuth) -> AuthProtocol {
    let grpc = auth.grpc.as_ref();
    AuthProtocol::Grpc { allowed_headers: names(grpc.and_then(|grpc| grpc.allowed_headers.as_deref())) }
}

fn names(list: Option<&[String]>) -> Vec<Text> {
    list.unwrap_or_default().iter().map(|name| name.to_ascii_lowercase().into()).collect()
}

fn convert_body(auth: &RouteAuth) -> Result<u32, Fault> {
    let size = auth.forward_body.as_ref().and_then(|body| body.max_size).unwrap_or_default();
    u32::try_from(size).ok().filter(|size| *size <= LARGEST_BODY).ok_or_else(|| {
        Fault::unsupported(format!(
            "externalAuth.forwardBody.maxSize: {size} is not supported; use at most {LARGEST_BODY}"
        ))
    })
}
