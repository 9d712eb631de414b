//! `RequestRedirect`: answered here, never sent on.

use http::header::LOCATION;
use http::{HeaderValue, Response, StatusCode};
use weft_model::route::Redirect;
use weft_routing::redirect::{Requested, redirect_location};

use super::{Answer, Context, invalid};
use crate::body::Body;
use crate::outbound::http::authority_of;

/// The redirect's answer to a request.
pub fn answer(redirect: &Redirect, context: Context<'_>, head: &http::request::Parts) -> Answer {
    let host = authority_of(head);
    let requested = Requested {
        scheme: context.scheme,
        host,
        port: context.port,
        path_and_query: head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str),
    };
    let location = redirect_location(redirect, context.matched, &requested)
        .and_then(|location| HeaderValue::try_from(location).ok());
    let (Some(location), Ok(status)) = (location, StatusCode::from_u16(redirect.status)) else {
        return Answer::Refused(invalid(
            "the redirect makes no valid Location for this request: correct the route",
        ));
    };
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    Answer::Filter(Box::new(response))
}
