//! `weft-meta`: the one header that proxies tell each other facts by on `weft-h1` and `weft-h2`. Applications never
//! see it and cannot send it (`dataplane.md` rule 20). A request's says which port is meant, and what the caller's side
//! claims about Service and route; a response's says that the proxy answers instead of the application.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};
use weft_model::Reason;

use crate::call::Claimed;

/// The header's name.
pub const WEFT_META: HeaderName = HeaderName::from_static("weft-meta");

/// A request's facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestMeta {
    /// The application's port. The only fact that is acted on.
    pub port: u16,
    /// For telemetry, and labelled there as claimed.
    pub claimed: Claimed,
}

/// A response's facts: it was made by the callee's proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseMeta {
    /// Why.
    pub reason: Reason,
    /// No byte of the request reached the application.
    pub not_established: bool,
}

/// A header that is missing, doubled, or not exactly of the form that proxies write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the weft-meta header is not what a Weft proxy writes")]
pub struct Malformed;

impl RequestMeta {
    /// The header's value: `port=8080; service=ns/name; route=HTTPRoute/ns/name/rule`. A claim that cannot be written
    /// in it is left out: it is only telemetry.
    pub fn encode(&self) -> HeaderValue {
        let mut text = String::with_capacity(96);
        let _ = write!(text, "port={}", self.port);
        for (key, claim) in [("service", &self.claimed.service), ("route", &self.claimed.route)] {
            if let Some(claim) = claim.as_deref().filter(|c| is_claim(c)) {
                let _ = write!(text, "; {key}={claim}");
            }
        }
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("port=0"))
    }

    /// Takes the header off a tunnelled request.
    pub fn take(headers: &mut HeaderMap) -> Result<Self, Malformed> {
        let value = take_value(headers)?;
        let mut pairs = pairs(&value)?;
        let port = match pairs.next() {
            Some(Ok(("port", value))) => parse_port(value)?,
            _ => return Err(Malformed),
        };
        let mut claimed = Claimed::default();
        for pair in pairs {
            let (place, value) = match pair? {
                ("service", value) => (&mut claimed.service, value),
                ("route", value) => (&mut claimed.route, value),
                _ => return Err(Malformed),
            };
            if place.replace(value.into()).is_some() {
                return Err(Malformed);
            }
        }
        Ok(Self { port, claimed })
    }
}

impl ResponseMeta {
    /// The header's value: `error=connect_failed; established=no`.
    pub fn encode(self) -> HeaderValue {
        let established = if self.not_established { "no" } else { "yes" };
        let text = format!("error={}; established={established}", self.reason);
        HeaderValue::try_from(text)
            .unwrap_or_else(|_| HeaderValue::from_static("error=internal; established=yes"))
    }

    /// Takes the header off a response that came through a tunnel; `None`: the application answered.
    pub fn take(headers: &mut HeaderMap) -> Result<Option<Self>, Malformed> {
        if !headers.contains_key(WEFT_META) {
            return Ok(None);
        }
        let value = take_value(headers)?;
        let mut pairs = pairs(&value)?;
        let (Some(Ok(("error", word))), Some(Ok(("established", answer))), None) =
            (pairs.next(), pairs.next(), pairs.next())
        else {
            return Err(Malformed);
        };
        let reason = Reason::ALL.iter().copied().find(|r| r.as_str() == word).ok_or(Malformed)?;
        let not_established = match answer {
            "no" => true,
            "yes" => false,
            _ => return Err(Malformed),
        };
        Ok(Some(Self { reason, not_established }))
    }
}

/// Takes the only one of these headers off, and all where there are more.
fn take_value(headers: &mut HeaderMap) -> Result<HeaderValue, Malformed> {
    let only_one = headers.get_all(WEFT_META).iter().count() == 1;
    headers.remove(WEFT_META).filter(|_| only_one).ok_or(Malformed)
}

/// Keys and values, as they stand in the header.
fn pairs(value: &HeaderValue) -> Result<impl Iterator<Item = Result<(&str, &str), Malformed>>, Malformed> {
    let text = value.to_str().map_err(|_| Malformed)?;
    Ok(text
        .split("; ")
        .map(|pair| pair.split_once('=').filter(|(_, value)| is_claim(value)).ok_or(Malformed)))
}

/// Decimal digits without sign or leading zero, 1 to 65535.
fn parse_port(text: &str) -> Result<u16, Malformed> {
    match text.parse::<u16>() {
        Ok(port) if port != 0 && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0') => {
            Ok(port)
        }
        _ => Err(Malformed),
    }
}

/// The characters of Kubernetes names, kinds and the slashes between them.
fn is_claim(text: &str) -> bool {
    (1..=1024).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'/' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|v| (WEFT_META, HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn request_facts_round_trip_and_leave_the_headers() {
        let meta = RequestMeta {
            port: 8080,
            claimed: Claimed {
                service: Some("shop/cart".into()),
                route: Some("HTTPRoute/shop/cart/0".into()),
            },
        };
        let mut map = headers(&[meta.encode().to_str().unwrap()]);
        assert_eq!(map[WEFT_META], "port=8080; service=shop/cart; route=HTTPRoute/shop/cart/0");
        assert_eq!(RequestMeta::take(&mut map), Ok(meta));
        assert!(map.is_empty());
    }

    #[test]
    fn a_claim_that_would_break_the_form_is_left_out() {
        let meta =
            RequestMeta { port: 80, claimed: Claimed { service: Some("a; port=22".into()), route: None } };
        assert_eq!(meta.encode(), "port=80");
    }

    #[test]
    fn anything_but_the_exact_form_is_malformed() {
        for values in [
            &[][..],
            &["port=80", "port=81"],
            &[""],
            &["port="],
            &["port=0"],
            &["port=080"],
            &["port=+80"],
            &["port=65536"],
            &["port=80;service=a/b"],
            &["service=a/b"],
            &["service=a/b; port=80"],
            &["port=80; port=81"],
            &["port=80; service=a/b; service=c/d"],
            &["port=80; mood=good"],
            &["port=80; service="],
            &["port=80; "],
        ] {
            let mut map = headers(values);
            assert_eq!(RequestMeta::take(&mut map), Err(Malformed), "{values:?}");
            assert!(!map.contains_key(WEFT_META));
        }
    }

    #[test]
    fn response_facts_round_trip() {
        let meta = ResponseMeta { reason: Reason::ConnectFailed, not_established: true };
        let mut map = headers(&["error=connect_failed; established=no"]);
        assert_eq!(map[WEFT_META], meta.encode());
        assert_eq!(ResponseMeta::take(&mut map), Ok(Some(meta)));
        assert_eq!(ResponseMeta::take(&mut map), Ok(None));
        assert_eq!(ResponseMeta::take(&mut headers(&["error=nonsense; established=no"])), Err(Malformed));
    }
}
