//! `CORS` (GEP-1767): what a preflight is answered with and what other responses carry. Decides only; the proxy applies.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use weft_model::Text;
use weft_model::route::Cors;

/// The response headers that belong to the filter: those an application sends are removed first.
pub const OWNED: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

/// If the request is a preflight (`OPTIONS` with `Origin` and `Access-Control-Request-Method`): the headers of the
/// answer, whose status is 204 and which never reaches a backend. For an origin that is not allowed it carries no
/// `Access-Control-*` header, so that the browser refuses.
pub fn preflight(cors: &Cors, method: &Method, headers: &HeaderMap) -> Option<HeaderMap> {
    let origin = headers.get(ORIGIN)?;
    let requested_method =
        headers.get(ACCESS_CONTROL_REQUEST_METHOD).filter(|_| *method == Method::OPTIONS)?;
    let mut answer = HeaderMap::new();
    vary(&mut answer);
    answer.append(
        VARY,
        HeaderValue::from_static("access-control-request-method, access-control-request-headers"),
    );
    if !allows(&cors.allow_origins, origin) {
        return Some(answer);
    }
    share_with(cors, origin, &mut answer);
    let methods = list(cors, &cors.allow_methods, Some(requested_method));
    let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
    let names = list(cors, &cors.allow_headers, asked);
    // Browsers do not look for it here; clients that are not browsers do.
    let exposed = list(cors, &cors.expose_headers, None);
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, methods),
        (ACCESS_CONTROL_ALLOW_HEADERS, names),
        (ACCESS_CONTROL_EXPOSE_HEADERS, exposed),
    ] {
        if let Some(value) = value {
            answer.insert(name, value);
        }
    }
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age));
    Some(answer)
}

/// The headers to add to a response from a backend, after removing the [`OWNED`] ones. `Vary` is to be appended,
/// never to replace. `response` is the backend's head: with credentials a wildcard in `exposeHeaders` becomes its names.
pub fn response_headers(cors: &Cors, request: &HeaderMap, response: &HeaderMap) -> HeaderMap {
    let mut added = HeaderMap::new();
    vary(&mut added);
    let Some(origin) = request.get(ORIGIN).filter(|origin| allows(&cors.allow_origins, origin)) else {
        return added;
    };
    share_with(cors, origin, &mut added);
    let present = names_in(response);
    if let Some(value) = list(cors, &cors.expose_headers, present.as_ref()) {
        added.insert(ACCESS_CONTROL_EXPOSE_HEADERS, value);
    }
    added
}

/// The answer depends on the origin, so caches must know. Also when it is refused (Fetch standard, "CORS and caches").
fn vary(headers: &mut HeaderMap) {
    headers.append(VARY, HeaderValue::from_static("origin"));
}

fn share_with(cors: &Cors, origin: &HeaderValue, headers: &mut HeaderMap) {
    let any = has_wildcard(&cors.allow_origins) && !cors.allow_credentials;
    let value = if any { HeaderValue::from_static("*") } else { origin.clone() };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
    if cors.allow_credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// A list as a header's value. A wildcard stays one without credentials; with them it becomes what was asked for,
/// and nothing if nothing was.
fn list(cors: &Cors, words: &[Text], asked: Option<&HeaderValue>) -> Option<HeaderValue> {
    if !has_wildcard(words) {
        let words = words.join(", ");
        return HeaderValue::from_str(&words).ok().filter(|value| !value.is_empty());
    }
    if cors.allow_credentials { asked.cloned() } else { Some(HeaderValue::from_static("*")) }
}

fn has_wildcard(words: &[Text]) -> bool {
    words.iter().any(|word| **word == *"*")
}

fn names_in(headers: &HeaderMap) -> Option<HeaderValue> {
    let names: Vec<&str> =
        headers.keys().filter(|name| !OWNED.contains(name)).map(HeaderName::as_str).collect();
    HeaderValue::from_str(&names.join(", ")).ok().filter(|value| !value.is_empty())
}

/// Whether an `Origin` is one of the allowed ones.
fn allows(allowed: &[Text], origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    let parts = parts(origin);
    allowed.iter().any(|pattern| {
        **pattern == *"*"
            || match (self::parts(pattern), parts) {
                (Some((scheme, host, port)), Some((of_scheme, of_host, of_port))) => {
                    scheme.eq_ignore_ascii_case(of_scheme) && port == of_port && host_allows(host, of_host)
                }
                _ => false,
            }
    })
}

/// `*` stands for every host, `*.host` for any number of labels before `host`.
fn host_allows(pattern: &str, host: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    match pattern.strip_prefix('*') {
        Some(suffix) => {
            host.len() > suffix.len() && host.to_ascii_lowercase().ends_with(&suffix.to_ascii_lowercase())
        }
        None => pattern.eq_ignore_ascii_case(host),
    }
}

/// Scheme, host and port; the port is the scheme's well-known one if none is written.
fn parts(origin: &str) -> Option<(&str, &str, u16)> {
    let (scheme, authority) = origin.split_once("://")?;
    let default = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => Some((scheme, host, port.parse().ok()?)),
        _ => Some((scheme, authority, default)),
    }
}
