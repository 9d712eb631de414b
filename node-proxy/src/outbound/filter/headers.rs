//! `RequestHeaderModifier` and `ResponseHeaderModifier`: set, then add, then remove; names compare without case.

use http::header::Entry;
use http::{HeaderMap, HeaderName, HeaderValue};
use weft_model::Text;
use weft_model::route::HeaderModifier;

use super::invalid;
use crate::outbound::http::refusal::Refused;

/// Applies the modifier.
///
/// # Errors
/// A name or value that HTTP does not allow.
pub fn apply(modifier: &HeaderModifier, headers: &mut HeaderMap) -> Result<(), Refused> {
    for (name, text) in &modifier.set {
        headers.insert(header_name(name)?, value(text)?);
    }
    for (name, text) in &modifier.add {
        add(headers, header_name(name)?, value(text)?)?;
    }
    for name in &modifier.remove {
        headers.remove(header_name(name)?);
    }
    Ok(())
}

/// An added value is joined to the last one by a comma without blank, so that applications which read one line only
/// see it (and both readings of the specification hold).
fn add(headers: &mut HeaderMap, name: HeaderName, added: HeaderValue) -> Result<(), Refused> {
    if name == http::header::SET_COOKIE {
        headers.append(name, added);
        return Ok(());
    }
    match headers.entry(name) {
        Entry::Vacant(vacant) => {
            vacant.insert(added);
        }
        Entry::Occupied(mut occupied) => {
            let last = occupied.iter_mut().next_back();
            if let Some(last) = last {
                let joined = [last.as_bytes(), b",", added.as_bytes()].concat();
                *last = HeaderValue::from_bytes(&joined)
                    .map_err(|_| invalid("the joined header is no valid value"))?;
            }
        }
    }
    Ok(())
}

fn header_name(name: &Text) -> Result<HeaderName, Refused> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| invalid(&format!("{name:?} in a header modifier is no header name: correct the route")))
}

fn value(text: &Text) -> Result<HeaderValue, Refused> {
    HeaderValue::from_str(text)
        .map_err(|_| invalid(&format!("{text:?} in a header modifier is no header value: correct the route")))
}
