//! `HTTPPathModifier`: how rewrites and redirects change a path.

use std::borrow::Cow;

use weft_model::route::{Match, PathMatch, PathModifier};

/// The path and query after `modifier`, for a request that `matched` selected. The query is kept.
///
/// `None`: `ReplacePrefixMatch` for a match that is no prefix, which the API refuses; answer `invalid_route`.
pub fn modify_path(modifier: &PathModifier, matched: &Match, path_and_query: &str) -> Option<String> {
    let (path, query) = match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    };
    let mut modified = match (modifier, &matched.path) {
        (PathModifier::Full(replacement), _) => rooted(&encode(replacement)),
        (PathModifier::Prefix(replacement), PathMatch::Prefix { value }) => {
            replace_prefix(path, value, &encode(replacement))
        }
        (PathModifier::Prefix(_), _) => return None,
    };
    if let Some(query) = query {
        modified.push('?');
        modified.push_str(query);
    }
    Some(modified)
}

/// Whole segments; a trailing `/` of prefix and replacement does not count (the API's table of examples).
fn replace_prefix(path: &str, prefix: &str, replacement: &str) -> String {
    let rest = path.strip_prefix(prefix.trim_end_matches('/')).unwrap_or("");
    rooted(&format!("{}{rest}", replacement.trim_end_matches('/')))
}

fn rooted(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Whether `path` lies under `prefix`, which has no trailing `/`: equal, or longer by whole segments.
pub(crate) fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.is_empty())
}

/// Percent-encodes what may not stand in a path (RFC 3986 §3.3), so that every replacement makes a valid one.
fn encode(path: &str) -> Cow<'_, str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&b);
    if path.bytes().all(allowed) {
        return Cow::Borrowed(path);
    }
    let mut encoded = String::with_capacity(path.len() + 8);
    for b in path.bytes() {
        if allowed(b) {
            encoded.push(char::from(b));
        } else {
            encoded.push_str(&format!("%{b:02X}"));
        }
    }
    Cow::Owned(encoded)
}
