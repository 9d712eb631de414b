//! What a proxy does to the header sections that pass it: hop-by-hop fields end here (RFC 9110 §7.6.1), fields
//! that only proxies may write are removed, and requests take the form that the next hop's version wants.

use std::net::SocketAddr;

use http::header::{self, Entry};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body::Body as _;

use crate::body::Body;
use crate::http_server::HttpVersion;
use crate::tunnel::meta::WEFT_META;

/// Who calls, for HTTP applications: set by the callee's side alone.
pub(crate) const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Whether a field ends at each hop: those besides `Connection` and what that names.
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "te" | "transfer-encoding"
            | "upgrade"
            | "keep-alive"
            | "proxy-connection"
            | "http2-settings"
            | "proxy-authenticate"
            | "proxy-authorization"
    )
}

/// Removes from a request what ends at this hop, and what no caller may say. An upgrade that is asked for stays asked for.
pub(crate) fn strip_request(request: &mut Request<Body>) {
    let upgradable = request.version() == Version::HTTP_11;
    let headers = request.headers_mut();
    let upgrade = asked_upgrade(headers).filter(|_| upgradable);
    let trailers = accepts_trailers(headers);
    strip(headers, &[WEFT_META, XFCC]);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Removes from a response what ends at this hop, and what no application may say.
pub(crate) fn strip_response(status: StatusCode, headers: &mut HeaderMap) {
    let switches = matches!(status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED);
    let upgrade = asked_upgrade(headers).filter(|_| switches);
    strip(headers, &[WEFT_META]);
    if let Some(protocol) = upgrade {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Removes what ends at each hop, and `more`.
fn strip(headers: &mut HeaderMap, more: &[HeaderName]) {
    if headers.contains_key(header::CONNECTION) {
        // Mostly it says no more than that the connection stays; that field goes below.
        let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
            .filter(|token| !token.eq_ignore_ascii_case("keep-alive"))
            .filter_map(|token| HeaderName::try_from(token).ok())
            .filter(|name| !is_end_to_end(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    // Mostly there is none: looking at each field once is quicker than looking for each name.
    while let Some(name) = headers.keys().find(|name| is_hop_by_hop(name) || more.contains(name)).cloned() {
        headers.remove(name);
    }
}

/// Fields that a `Connection` header cannot make hop-by-hop: removing them would change what the message is.
fn is_end_to_end(name: &HeaderName) -> bool {
    [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRAILER,
        header::EXPECT,
        header::AUTHORIZATION,
        header::COOKIE,
    ]
    .contains(name)
}

/// The protocol that a message asks to go on in. Never `h2c`: RFC 9113 §3.1 has withdrawn that upgrade, and requests
/// inside it would pass both proxies unread.
pub(crate) fn asked_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(header::UPGRADE)?;
    let h2c = tokens(headers, &header::UPGRADE).any(|t| t.eq_ignore_ascii_case("h2c"));
    let asked = tokens(headers, &header::CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"));
    (asked && !h2c).then(|| protocol.clone())
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TE)
        && tokens(headers, &header::TE).any(|t| t.eq_ignore_ascii_case("trailers"))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// Gives a request the form of the version it is sent in. `fallback` is the authority of a request that names none.
pub(crate) fn convert_request(request: &mut Request<Body>, version: HttpVersion, fallback: SocketAddr) {
    match version {
        HttpVersion::Http1 => convert_to_http1(request, fallback),
        HttpVersion::Http2 => convert_to_http2(request, fallback),
    }
}

/// Origin form and a Host (RFC 9112 §3.2), one Cookie (RFC 9113 §8.2.3), and a body that is framed whenever there is one.
fn convert_to_http1(request: &mut Request<Body>, fallback: SocketAddr) {
    *request.version_mut() = Version::HTTP_11;
    let authority = request.uri().authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    match (authority, request.headers_mut().entry(header::HOST)) {
        (Some(authority), Entry::Occupied(mut host)) => drop(host.insert(authority)),
        (Some(authority), Entry::Vacant(host)) => drop(host.insert(authority)),
        (None, Entry::Occupied(_)) => {}
        (None, Entry::Vacant(host)) => {
            if let Ok(fallback) = HeaderValue::try_from(fallback.to_string()) {
                host.insert(fallback);
            }
        }
    }
    if request.method() != Method::CONNECT && request.uri().authority().is_some() {
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
    }
    join_cookies(request.headers_mut());
    let framed = request.headers().contains_key(header::CONTENT_LENGTH)
        || request.body().size_hint().exact().is_some();
    if !framed && !request.body().is_end_stream() {
        // Without it hyper sends no body with methods that rarely have one.
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Scheme and authority instead of Host (RFC 9113 §8.3.1).
fn convert_to_http2(request: &mut Request<Body>, fallback: SocketAddr) {
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(header::HOST);
    if request.method() == Method::CONNECT && request.uri().scheme().is_none() {
        return;
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let from_host = || Authority::try_from(host.as_ref()?.as_bytes()).ok();
    parts.authority =
        parts.authority.or_else(from_host).or_else(|| Authority::try_from(fallback.to_string()).ok());
    parts.scheme = parts.scheme.or(Some(Scheme::HTTP));
    parts.path_and_query = parts.path_and_query.or(Some(PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}

/// Says in an HTTP/2 request that it goes by TLS.
pub(crate) fn secure_scheme(request: &mut Request<Body>) {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if parts.scheme.is_some() {
        parts.scheme = Some(Scheme::HTTPS);
    }
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}

/// Whether a message ties an identity to its connection (NTLM, Negotiate: RFC 4559), so that the connection must not
/// serve another caller: a request by its `Authorization`, a response by its `WWW-Authenticate`.
pub(crate) fn authenticates_connection(headers: &HeaderMap, field: &HeaderName) -> bool {
    headers.get_all(field).iter().any(|value| {
        let scheme = value.as_bytes().split(|b| *b == b' ' || *b == b',').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}
