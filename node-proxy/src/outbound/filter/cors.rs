//! `CORS`: preflights are answered here; other responses get the fields that `weft_routing::cors` decides.

use http::header::ORIGIN;
use http::{HeaderMap, Response, StatusCode};
use weft_model::route::Cors;
use weft_routing::cors;

use crate::body::Body;

/// The answer to a preflight; `None` if the request is none.
pub fn preflight(filter: &Cors, head: &http::request::Parts) -> Option<Response<Body>> {
    let headers = cors::preflight(filter, &head.method, &head.headers)?;
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = headers;
    Some(response)
}

/// What [`share`] will need of the request when the response comes: its origin.
pub fn fields_of(request: &HeaderMap) -> HeaderMap {
    let mut fields = HeaderMap::new();
    if let Some(origin) = request.get(ORIGIN) {
        fields.insert(ORIGIN, origin.clone());
    }
    fields
}

/// Gives a response the filter's fields in place of those the application sent.
pub fn share(filter: &Cors, request: &HeaderMap, response: &mut HeaderMap) {
    for name in &cors::OWNED {
        response.remove(name);
    }
    let added = cors::response_headers(filter, request, response);
    for (name, value) in &added {
        response.append(name, value.clone());
    }
}
