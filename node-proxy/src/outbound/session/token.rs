//! One session of a client at one endpoint of one backend, as text that means nothing to the client:
//!
//! | Bytes | What |
//! |---|---|
//! | 4 | which backend, shortened |
//! | 4 | which endpoint, shortened |
//! | 6 | when it began, in milliseconds since the epoch |
//! | 10 | HMAC-SHA-256 over backend and time, shortened |
//!
//! The key is the UID of the endpoint's pod: random, known to every proxy and never sent to callers. A later pod with
//! the same address has another. Of an endpoint that is no pod the address takes its place; whoever knows that can make a
//! token for it, and gains what a caller without one may get by chance.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use weft_model::ObjectName;
use weft_model::service::Endpoint;

const TAG: usize = 4;
const TIME: usize = 6;
const MAC: usize = 10;
const LENGTH: usize = TAG + TAG + TIME + MAC;

/// Which Service port.
pub(super) type Backend<'b> = (&'b ObjectName, u16);

/// A token. Its parts are as the client sent them: only [`Self::is_genuine`] tells whether one of us made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    backend: [u8; TAG],
    endpoint: [u8; TAG],
    began: [u8; TIME],
    mac: [u8; MAC],
}

/// Text that is no token.
#[derive(Debug, thiserror::Error)]
#[error("not a session token")]
pub(super) struct NotAToken;

impl Token {
    /// The token of a session that begins at `now`, in milliseconds since the epoch.
    pub(super) fn new(backend: Backend<'_>, key: &str, now: u64) -> Self {
        let [_, _, began @ ..] = now.to_be_bytes();
        let (of, endpoint) = (tag_of_backend(backend), tag_of_endpoint(key));
        Self { backend: of, endpoint, began, mac: mac(backend, key, began) }
    }

    /// For which backend it says to be.
    pub(super) const fn backend_tag(&self) -> [u8; TAG] {
        self.backend
    }

    /// For which endpoint it says to be.
    pub(super) const fn endpoint_tag(&self) -> [u8; TAG] {
        self.endpoint
    }

    /// When it says that the session began.
    pub(super) const fn began(&self) -> u64 {
        let [a, b, c, d, e, f] = self.began;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// Whether one of us made it for this endpoint of this backend.
    pub(super) fn is_genuine(&self, backend: Backend<'_>, key: &str) -> bool {
        verify_slices_are_equal(&self.mac, &mac(backend, key, self.began)).is_ok()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, endpoint, began, mac } = self;
        f.write_str(&URL_SAFE_NO_PAD.encode([&backend[..], endpoint, began, mac].concat()))
    }
}

impl FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let mut bytes = [0; LENGTH];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).map_err(|_| NotAToken)?;
        let (backend, rest) = bytes.split_first_chunk().ok_or(NotAToken)?;
        let (endpoint, rest) = rest.split_first_chunk().ok_or(NotAToken)?;
        let (began, rest) = rest.split_first_chunk().ok_or(NotAToken)?;
        let (mac, rest) = rest.split_first_chunk().ok_or(NotAToken)?;
        if length != LENGTH || !rest.is_empty() {
            return Err(NotAToken);
        }
        Ok(Self { backend: *backend, endpoint: *endpoint, began: *began, mac: *mac })
    }
}

/// What the key of an endpoint's tokens is made of.
pub(super) fn key_of(endpoint: &Endpoint) -> Cow<'_, str> {
    match &endpoint.workload {
        Some(uid) => Cow::Borrowed(uid),
        None => Cow::Owned(endpoint.address.to_string()),
    }
}

/// A backend, shortened. Two that are alike share a place in what the client holds, nothing else.
pub(super) fn tag_of_backend((service, port): Backend<'_>) -> [u8; TAG] {
    let port = port.to_be_bytes();
    fnv([service.namespace.as_bytes(), b"/", service.name.as_bytes(), b":", &port]).to_be_bytes()
}

/// An endpoint, shortened: it saves computing the MAC for each.
pub(super) fn tag_of_endpoint(key: &str) -> [u8; TAG] {
    fnv([key.as_bytes()]).to_be_bytes()
}

fn mac((service, port): Backend<'_>, key: &str, began: [u8; TIME]) -> [u8; MAC] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    // A name has no slash, so that no two backends are written alike.
    for part in [b"weft session/" as &[u8], service.namespace.as_bytes(), b"/", service.name.as_bytes(), b"/"]
    {
        context.update(part);
    }
    context.update(&port.to_be_bytes());
    context.update(&began);
    let mut shortened = [0; MAC];
    for (to, from) in shortened.iter_mut().zip(context.sign().as_ref()) {
        *to = *from;
    }
    shortened
}

/// FNV-1a: the same in every proxy and version.
fn fnv<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> u32 {
    let bytes = parts.into_iter().flatten();
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
