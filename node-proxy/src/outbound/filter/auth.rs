//! `ExternalAuth`: what an authorization server is asked by HTTP, and what its answer changes. Who asks it is
//! `outbound/http/authorize.rs`.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TRAILER,
};
use http::uri::PathAndQuery;
use http::{Request, Uri, Version};
use weft_model::{Reason, Text};

use crate::body::Body;
use crate::outbound::http::authority_of;
use crate::outbound::http::refusal::Refused;
use crate::send::headers::is_hop_by_hop;

/// Whether a field frames a message, chooses its listener or ends at a hop: of an answer none goes into another message.
fn is_of_this_message(name: &HeaderName) -> bool {
    [HOST, CONTENT_LENGTH, EXPECT, TRAILER, CONNECTION].contains(name) || is_hop_by_hop(name)
}

/// A change of one field that an authorization server wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    name: HeaderName,
    value: Option<HeaderValue>,
    how: How,
}

/// How a field is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A further line, whatever there is.
    Append,
    /// In the place of all there is.
    Set,
    /// Only where there is none.
    IfAbsent,
    /// Only where there is one, in its place.
    IfPresent,
}

impl Edit {
    /// A change of `name`; `None` for a field that no server may change, which is left as it is. Pseudo-header fields
    /// are none.
    pub fn new(name: HeaderName, value: HeaderValue, how: How) -> Option<Self> {
        (!is_of_this_message(&name)).then_some(Self { name, value: Some(value), how })
    }

    /// Takes all lines of `name` away.
    pub fn remove(name: HeaderName) -> Option<Self> {
        (!is_of_this_message(&name)).then_some(Self { name, value: None, how: How::Set })
    }

    /// Makes it.
    pub fn apply(&self, headers: &mut HeaderMap) {
        let Some(value) = &self.value else {
            headers.remove(&self.name);
            return;
        };
        let there = headers.contains_key(&self.name);
        match self.how {
            How::Append => drop(headers.append(&self.name, value.clone())),
            How::IfAbsent if there => {}
            How::IfPresent if !there => {}
            How::Set | How::IfAbsent | How::IfPresent => drop(headers.insert(&self.name, value.clone())),
        }
    }
}

/// The request that asks: the caller's method, host and path (behind `prefix`), its `Authorization`, the `allowed` fields,
/// and of its body what is shown.
///
/// # Errors
/// The request cannot be put so.
pub(crate) fn question(
    prefix: &str,
    allowed: &[Text],
    head: &http::request::Parts,
    shown: bytes::Bytes,
) -> Result<Request<Body>, Refused> {
    let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let asked = PathAndQuery::try_from(format!("{prefix}{path}"));
    let host = HeaderValue::from_str(authority_of(head));
    let (Ok(asked), Ok(host), false) = (asked, host, head.method == http::Method::CONNECT) else {
        let message = "this request cannot be put to an authorization server";
        return Err(Refused::new(Reason::AuthFailed, message));
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &head.headers {
        let shown = *name == AUTHORIZATION || allowed.iter().any(|allowed| **allowed == *name.as_str());
        if shown && !is_of_this_message(name) {
            headers.append(name, value.clone());
        }
    }
    headers.insert(HOST, host);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(shown.len()));
    let body = if shown.is_empty() { Body::Empty } else { Body::text(shown) };
    let mut request = Request::new(body);
    (*request.method_mut(), *request.uri_mut()) = (head.method.clone(), Uri::from(asked));
    (*request.version_mut(), *request.headers_mut()) = (Version::HTTP_11, headers);
    Ok(request)
}

/// What the backend is told of the answer that let the request pass. Fields that are listed are the server's alone: what
/// the caller has sent of them goes, whether or not the answer has them. Without a list all of the answer is told but
/// what describes its own body.
pub(crate) fn tell(allowed: &[Text], answer: &HeaderMap, request: &mut HeaderMap) {
    let listed = |name: &HeaderName| allowed.iter().any(|allowed| **allowed == *name.as_str());
    let told = |name: &HeaderName| match allowed {
        [] => !name.as_str().starts_with("content-"),
        _ => listed(name),
    };
    let told = |name: &HeaderName| told(name) && !is_of_this_message(name);
    let replaced: Vec<HeaderName> = request
        .keys()
        .filter(|name| told(name) && (listed(name) || answer.contains_key(*name)))
        .cloned()
        .collect();
    for name in replaced {
        request.remove(name);
    }
    for (name, value) in answer.iter().filter(|(name, _)| told(name)) {
        request.append(name, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(field).fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        })
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut shown: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        shown.sort();
        shown
    }

    #[test]
    fn without_a_list_all_is_told_but_what_frames_a_message_or_describes_its_body() {
        let answer = headers(&[
            ("x-user", "ann"),
            ("host", "evil"),
            ("content-length", "7"),
            ("content-type", "text/plain"),
            ("transfer-encoding", "chunked"),
        ]);
        let mut request =
            headers(&[("host", "web"), ("content-length", "2"), ("x-user", "root"), ("x-own", "1")]);
        tell(&[], &answer, &mut request);
        assert_eq!(shown(&request), ["content-length: 2", "host: web", "x-own: 1", "x-user: ann"]);
    }

    #[test]
    fn listed_fields_are_the_servers_alone() {
        let listed = ["x-user".into(), "x-role".into(), "host".into(), "content-type".into()];
        let answer =
            headers(&[("x-user", "ann"), ("x-more", "1"), ("host", "evil"), ("content-type", "a/b")]);
        let mut request =
            headers(&[("host", "web"), ("x-user", "root"), ("x-role", "admin"), ("x-more", "0")]);
        tell(&listed, &answer, &mut request);
        assert_eq!(shown(&request), ["content-type: a/b", "host: web", "x-more: 0", "x-user: ann"]);
    }

    #[test]
    fn a_question_is_not_asked_of_what_has_no_path() {
        let (head, ()) = Request::connect("web:80").body(()).unwrap().into_parts();
        assert!(question("", &[], &head, bytes::Bytes::new()).is_err());
    }

    #[test]
    fn fields_that_frame_a_message_are_nobodys_to_edit() {
        assert!(Edit::new(HOST, HeaderValue::from_static("evil"), How::Set).is_none());
        assert!(Edit::remove(CONTENT_LENGTH).is_none());
        let mut fields = headers(&[("a", "1")]);
        for (how, expected) in [
            (How::IfAbsent, &["a: 1"][..]),
            (How::IfPresent, &["a: 2"]),
            (How::Append, &["a: 2", "a: 2"]),
            (How::Set, &["a: 2"]),
        ] {
            let edit = Edit::new(HeaderName::from_static("a"), HeaderValue::from_static("2"), how).unwrap();
            edit.apply(&mut fields);
            assert_eq!(shown(&fields), expected, "{how:?}");
        }
    }
}
