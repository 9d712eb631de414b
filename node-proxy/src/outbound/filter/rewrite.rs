//! `URLRewrite`: another host or path towards the backend.

use http::header::HOST;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Uri};
use weft_model::route::{Match, UrlRewrite};
use weft_routing::path::modify_path;

use super::invalid;
use crate::outbound::http::refusal::Refused;

/// Rewrites the request's head.
///
/// # Errors
/// The rewritten host or path is none.
pub fn apply(rewrite: &UrlRewrite, matched: &Match, head: &mut http::request::Parts) -> Result<(), Refused> {
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    if let Some(hostname) = &rewrite.hostname {
        let refused = |_| invalid("the hostname in urlRewrite is no host: correct the route");
        // HTTP/2 says it in the URI, HTTP/1 in a field; where there are both, both change.
        if uri.authority.is_some() {
            uri.authority = Some(hostname.parse::<Authority>().map_err(refused)?);
        }
        if uri.authority.is_none() || head.headers.contains_key(HOST) {
            let host = HeaderValue::from_str(hostname)
                .map_err(|_| invalid("the hostname in urlRewrite is no host"))?;
            head.headers.insert(HOST, host);
        }
    }
    if let Some(modifier) = &rewrite.path {
        let old = uri.path_and_query.as_ref().map_or("/", PathAndQuery::as_str);
        let path = modify_path(modifier, matched, old).and_then(|path| PathAndQuery::try_from(path).ok());
        let path = path.ok_or_else(|| invalid("the rewritten path is none: correct the route"))?;
        uri.path_and_query = Some(path);
    }
    head.uri = Uri::from_parts(uri).map_err(|_| invalid("the rewritten URL is none: correct the route"))?;
    Ok(())
}
