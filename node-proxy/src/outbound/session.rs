//! Session persistence (GEP-1619): after a rule has chosen a backend, a client that repeats what it was given goes to the
//! endpoint of that backend that it was at. It never changes which rule or which backend is chosen.
//!
//! What the client holds is one [`Token`] for each backend that it was at. A token says when its session began and is
//! authenticated under a key that follows from the endpoint: every proxy that knows the endpoint can make and read it, so
//! nothing is shared or stored. It names no address, and only an endpoint of the chosen backend is ever looked for.

mod token;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::net::SocketAddr;

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use weft_model::ObjectName;
use weft_model::route::{BackendTarget, HttpRule};
use weft_model::service::{Endpoint, TrafficPolicy};
use weft_model::session::{SessionCarrier, SessionPersistence};

use self::token::Token;
use super::route::Target;
use crate::state::Snapshot;
use crate::state::traffic::Traffic;

/// So many tokens a client may hold; the API allows so many backends in a rule.
const MOST: usize = 16;

/// What one request says of its session, and what its client is to be told.
#[derive(Debug)]
pub struct Session<'r> {
    spec: &'r SessionPersistence,
    /// What the client sent, as it stood there; none of it is verified.
    sent: Vec<Token>,
    /// Milliseconds since the epoch.
    now: u64,
    /// The client speaks TLS with us.
    secure: bool,
    /// The new value, once an endpoint that the client does not hold a token for has answered.
    new: OnceCell<String>,
}

/// The sessions that one request may be part of: that of its rule, or, where the rule has none, those of its backends'
/// policies. Read before any filter has changed the request, and so before the backend is chosen.
#[derive(Debug, Default)]
pub struct Sessions<'r> {
    /// With the Service that it is of; `None`: every one.
    each: Vec<(Option<&'r ObjectName>, Session<'r>)>,
}

impl<'r> Sessions<'r> {
    /// Those of a request that a rule decides about.
    pub fn of_rule(
        rule: &'r HttpRule,
        snapshot: &'r Snapshot,
        read: impl Fn(&'r SessionPersistence) -> Session<'r>,
    ) -> Self {
        if let Some(spec) = &rule.session {
            return Self { each: vec![(None, read(spec))] };
        }
        let services = rule.backends.iter().filter_map(|backend| match &backend.target {
            BackendTarget::Service { service, .. } if backend.weight > 0 => Some(service),
            BackendTarget::Service { .. } | BackendTarget::Invalid { .. } => None,
        });
        let of = |service| Some((Some(service), read(snapshot.traffic(service)?.session()?)));
        Self { each: services.filter_map(of).collect() }
    }

    /// That of a request that no rule decides about.
    pub fn of_target(target: &Target<'r>, read: impl Fn(&'r SessionPersistence) -> Session<'r>) -> Self {
        let spec = target.traffic.and_then(Traffic::session);
        Self { each: spec.map(|spec| (None, read(spec))).into_iter().collect() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.each.is_empty()
    }

    /// The one at this target.
    pub fn at(&self, target: &Target<'_>) -> Option<&Session<'r>> {
        let (service, _) = target.service.as_ref()?;
        let mut each = self.each.iter();
        each.find(|(of, _)| of.is_none_or(|of| of == service)).map(|(_, session)| session)
    }

    /// As [`Session::tell`], of the one that was settled.
    pub fn tell(&self, headers: &mut HeaderMap) {
        for (_, session) in &self.each {
            session.tell(headers);
        }
    }
}

impl<'r> Session<'r> {
    /// Reads what a request's fields say. `now` is in milliseconds since the epoch.
    pub fn read(spec: &'r SessionPersistence, headers: &HeaderMap, secure: bool, now: u64) -> Self {
        let sent = match &spec.carrier {
            SessionCarrier::Cookie { name, .. } => tokens(cookies(headers, name)),
            SessionCarrier::Header { name } => {
                tokens(headers.get_all(&**name).iter().filter_map(|value| value.to_str().ok()))
            }
        };
        Self { spec, sent, now, secure, new: OnceCell::new() }
    }

    /// The endpoint of the target that the client is at and may come back to: one that may be chosen, or that ends but
    /// serves still. That others are nearer does not count, but `internalTrafficPolicy: Local` does.
    pub fn endpoint<'e>(
        &self,
        target: &'e Target<'_>,
        snapshot: &'e Snapshot,
        tried: &[SocketAddr],
        v4: bool,
    ) -> Option<&'e Endpoint> {
        if self.sent.is_empty() || target.trouble.is_some() {
            return None;
        }
        let (service, port) = target.service.as_ref()?;
        let (endpoints, local) = match (&target.endpoints, target.policy) {
            // A host's addresses are not of the configuration.
            (Cow::Owned(own), _) => (&**own, true),
            (_, TrafficPolicy::Cluster) => (snapshot.endpoints_anywhere(service, *port), false),
            (_, TrafficPolicy::Local) => (snapshot.endpoints(service, *port), true),
        };
        let usable = |one: &&Endpoint| {
            (one.ready || (one.terminating && !local))
                && one.conflict.is_none()
                && !tried.contains(&one.address)
        };
        self.find((service, *port), endpoints.iter().filter(usable), v4)
    }

    /// The one that the newest token is for; of a pod with two addresses preferably the one of the caller's family.
    fn find<'e>(
        &self,
        backend: (&ObjectName, u16),
        endpoints: impl Iterator<Item = &'e Endpoint>,
        v4: bool,
    ) -> Option<&'e Endpoint> {
        let tag = token::tag_of_backend(backend);
        let mine = || self.sent.iter().filter(|token| token.backend_tag() == tag && !self.is_over(token));
        mine().next()?;
        let began = |endpoint: &Endpoint| {
            let key = token::key_of(endpoint);
            let of = token::tag_of_endpoint(&key);
            let genuine = |token: &&Token| token.endpoint_tag() == of && token.is_genuine(backend, &key);
            mine().filter(genuine).map(Token::began).max()
        };
        let known = endpoints.filter_map(|endpoint| Some((began(endpoint)?, endpoint)));
        let (_, found) = known.max_by_key(|(began, one)| (*began, one.address.is_ipv4() == v4))?;
        Some(found)
    }

    fn is_over(&self, token: &Token) -> bool {
        // Another proxy's clock may be ahead of ours.
        let age = u128::from(self.now.saturating_sub(token.began()));
        self.spec.absolute_timeout.is_some_and(|timeout| age >= timeout.as_millis())
    }

    /// An answer of `endpoint` counts: if the client has no session there, it has one now.
    pub fn settle(&self, target: &Target<'_>, endpoint: &Endpoint) {
        let Some((service, port)) = &target.service else { return };
        let backend = (service, *port);
        if self.find(backend, [endpoint].into_iter(), true).is_some() {
            return;
        }
        let token = Token::new(backend, &token::key_of(endpoint), self.now);
        let others = |one: &&Token| one.backend_tag() != token.backend_tag() && !self.is_over(one);
        let kept: Vec<&Token> = self.sent.iter().filter(others).collect();
        let from = kept.len().saturating_sub(MOST - 1);
        let kept = kept.into_iter().skip(from).chain([&token]).map(Token::to_string);
        // A request is settled once.
        let _ = self.new.set(kept.collect::<Vec<_>>().join("."));
    }

    /// Tells the client of a session that has just begun. What the application itself says under that name stands: it
    /// would not work without.
    pub fn tell(&self, headers: &mut HeaderMap) {
        let Some(value) = self.new.get() else { return };
        match &self.spec.carrier {
            SessionCarrier::Cookie { name, path, permanent } => {
                let own = |value: &HeaderValue| names_cookie(value.as_bytes(), name);
                let cookie = self.cookie(name, value, path, *permanent);
                if let Some(cookie) = cookie.filter(|_| !headers.get_all(SET_COOKIE).iter().any(own)) {
                    headers.append(SET_COOKIE, cookie);
                }
            }
            SessionCarrier::Header { name } => {
                let name = HeaderName::from_bytes(name.as_bytes());
                if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
                    headers.entry(name).or_insert(value);
                }
            }
        }
    }

    /// `HttpOnly` and `SameSite=Strict` as GEP-1619 recommends; `Secure` only where there is TLS: a client would not send
    /// the cookie back otherwise.
    fn cookie(&self, name: &str, value: &str, path: &str, permanent: bool) -> Option<HeaderValue> {
        let mut text = format!("{name}={value}; Path={path}; HttpOnly; SameSite=Strict");
        if self.secure {
            text += "; Secure";
        }
        if let Some(timeout) = self.spec.absolute_timeout.filter(|_| permanent) {
            let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
            text += &format!("; Max-Age={seconds}");
        }
        HeaderValue::from_str(&text).ok()
    }
}

/// The values of all cookies of a name: a client may have several, of different paths.
fn cookies<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h str> {
    let fields = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.filter(move |(key, _)| key.trim() == name).map(|(_, value)| value.trim().trim_matches('"'))
}

fn names_cookie(field: &[u8], name: &str) -> bool {
    let key = field.split(|byte| *byte == b'=').next().unwrap_or_default();
    key.trim_ascii() == name.as_bytes()
}

fn tokens<'h>(values: impl Iterator<Item = &'h str>) -> Vec<Token> {
    values
        .flat_map(|value| value.split(['.', ',']))
        .filter_map(|text| text.trim().parse().ok())
        .take(MOST)
        .collect()
}

#[cfg(test)]
mod tests;
