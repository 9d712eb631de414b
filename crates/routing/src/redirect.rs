//! `RequestRedirect`: the `Location` it answers with.

use weft_model::route::{Match, Redirect};

use crate::host::without_port;
use crate::path::modify_path;

/// What was requested, as far as a redirect keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Requested<'a> {
    /// `http` or `https`, as the caller spoke it.
    pub scheme: &'a str,
    /// The `Host` header or `:authority`; a port in it does not count.
    pub host: &'a str,
    /// The port that was called: at a Service its port, at a Gateway the listener's.
    pub port: u16,
    /// Path and query.
    pub path_and_query: &'a str,
}

/// The `Location` of a redirect.
///
/// Port: the filter's, else the well-known one of the filter's scheme, else the one called; left out where it is the
/// well-known one of the resulting scheme. `None` as in [`modify_path`].
pub fn redirect_location(redirect: &Redirect, matched: &Match, requested: &Requested<'_>) -> Option<String> {
    let scheme = redirect.scheme.as_deref().unwrap_or(requested.scheme);
    let host = redirect.hostname.as_deref().unwrap_or_else(|| without_port(requested.host));
    let of_scheme = redirect.scheme.as_deref().and_then(well_known_port);
    let port = redirect.port.or(of_scheme).unwrap_or(requested.port);
    let path = match &redirect.path {
        Some(modifier) => modify_path(modifier, matched, requested.path_and_query)?,
        None => requested.path_and_query.to_owned(),
    };
    Some(if well_known_port(scheme) == Some(port) {
        format!("{scheme}://{host}{path}")
    } else {
        format!("{scheme}://{host}:{port}{path}")
    })
}

fn well_known_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}
