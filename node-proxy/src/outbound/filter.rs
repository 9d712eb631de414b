//! Filters of a rule or of a backend: applied in the order of the object, each exactly once. A filter that answers
//! (redirect, CORS preflight, a request that is denied) ends the chain.

pub mod auth;
pub mod cors;
pub mod headers;
pub mod mirror;
pub mod redirect;
pub mod rewrite;

use http::{HeaderMap, Response};
use weft_model::Reason;
use weft_model::route::{ExternalAuth, Filter, Match, Mirror};

use crate::body::Body;
use crate::outbound::http::refusal::Refused;
use crate::outbound::resilience::timeout::Deadline;

/// What filters need to know beside the request.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Whose turn it is to be mirrored.
    pub turns: &'a mirror::Turns,
    /// The match that selected the rule: `ReplacePrefixMatch` replaces its prefix.
    pub matched: &'a Match,
    /// The port called.
    pub port: u16,
    /// The scheme spoken.
    pub scheme: &'static str,
}

/// A copy to be sent to a mirror's backend: the head as it was where the filter stands in the list.
#[derive(Debug)]
pub struct Copy<'a> {
    /// The filter.
    pub mirror: &'a Mirror,
    /// The head of the copy.
    pub head: http::request::Parts,
}

/// What the request side of the filters left to be done.
#[derive(Debug, Default)]
pub struct Pending<'a> {
    /// Copies to send.
    pub copies: Vec<Copy<'a>>,
    /// The request's fields that CORS answers by: only where there is such a filter.
    pub origin: Option<HeaderMap>,
    /// What authorization servers add to the response.
    pub granted: Vec<auth::Edit>,
}

/// How far [`apply_to_request`] came.
#[derive(Debug)]
#[must_use]
pub enum Applied<'a> {
    /// All filters are applied.
    All,
    /// All before this one are. The server is to be asked, and then the rest applied.
    Ask(&'a ExternalAuth, &'a [Filter]),
}

/// Applies `filters` to the request's head, adding to `pending`, up to the first that has to ask an authorization server.
///
/// # Errors
/// The answer of a filter that answers itself, or a refusal of a filter that cannot be applied to this request.
pub fn apply_to_request<'a>(
    filters: &'a [Filter],
    context: Context<'_>,
    head: &mut http::request::Parts,
    pending: &mut Pending<'a>,
) -> Result<Applied<'a>, Answer> {
    let mut rest = filters;
    while let Some((filter, after)) = rest.split_first() {
        rest = after;
        match filter {
            Filter::ExternalAuth(auth) => return Ok(Applied::Ask(auth, rest)),
            Filter::RequestHeaders(modifier) => headers::apply(modifier, &mut head.headers)?,
            Filter::UrlRewrite(rewrite) => rewrite::apply(rewrite, context.matched, head)?,
            Filter::Redirect(redirect) => return Err(redirect::answer(redirect, context, head)),
            Filter::Mirror(mirror) if context.turns.is_due(mirror) => {
                pending.copies.push(Copy { mirror, head: head.clone() });
            }
            Filter::Cors(cors) => {
                if let Some(answer) = cors::preflight(cors, head) {
                    return Err(Answer::Filter(Box::new(answer)));
                }
                pending.origin = Some(cors::fields_of(&head.headers));
            }
            Filter::Mirror(_) | Filter::ResponseHeaders(_) => {}
        }
    }
    Ok(Applied::All)
}

/// Applies `filters` to a response's head.
pub fn apply_to_response(
    filters: &[Filter],
    pending: &Pending<'_>,
    headers: &mut HeaderMap,
) -> Result<(), Refused> {
    for edit in &pending.granted {
        edit.apply(headers);
    }
    for filter in filters {
        match filter {
            Filter::ResponseHeaders(modifier) => headers::apply(modifier, headers)?,
            Filter::Cors(cors) => {
                if let Some(origin) = &pending.origin {
                    cors::share(cors, origin, headers);
                }
            }
            Filter::RequestHeaders(_)
            | Filter::UrlRewrite(_)
            | Filter::Redirect(_)
            | Filter::Mirror(_)
            | Filter::ExternalAuth(_) => {}
        }
    }
    Ok(())
}

/// Why the request goes no further.
#[derive(Debug)]
pub enum Answer {
    /// A filter's own answer.
    Filter(Box<Response<Body>>),
    /// What an authorization server has the caller told instead, and when its body is cut off.
    Denied(Box<Response<Body>>, Option<Deadline>),
    /// A filter could not be applied.
    Refused(Refused),
}

impl From<Refused> for Answer {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// The refusal of a filter that the API server let through but that cannot be applied.
fn invalid(message: &str) -> Refused {
    Refused::new(Reason::InvalidRoute, message.to_owned())
}

#[cfg(test)]
mod tests;
