//! Things found by host name: the most specific hostname first.

use std::borrow::Cow;

use ahash::AHashMap;

/// Values by hostname: exact, `*.` and a suffix (of any depth), or every name.
#[derive(Clone, Debug)]
pub struct HostMap<T> {
    exact: AHashMap<Box<str>, T>,
    /// By the part after `*.`.
    wildcard: AHashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: AHashMap::default(), wildcard: AHashMap::default(), any: None }
    }
}

impl<T> HostMap<T> {
    /// The value of exactly this hostname (`None`: every name), which is made where there is none yet.
    pub fn entry(&mut self, hostname: Option<&str>, new: impl FnOnce() -> T) -> &mut T {
        let Some(hostname) = hostname.filter(|hostname| !hostname.is_empty()) else {
            return self.any.get_or_insert_with(new);
        };
        let hostname = hostname.to_ascii_lowercase();
        let (map, name) = match hostname.strip_prefix("*.") {
            Some(suffix) => (&mut self.wildcard, suffix),
            None => (&mut self.exact, hostname.as_str()),
        };
        map.entry(name.into()).or_insert_with(new)
    }

    /// Every value whose hostname covers `host` (see [`host_name`]): the exact one, then wildcards from the longest to
    /// the shortest, then the one of every name.
    pub fn covering<'m, 'h>(&'m self, host: &'h str) -> impl Iterator<Item = &'m T> + use<'m, 'h, T> {
        let suffixes = std::iter::successors(Some(host), |rest| rest.split_once('.').map(|(_, rest)| rest));
        // A wildcard stands for one label or more, which are not empty.
        let under = suffixes.skip(1).filter(|_| !host.starts_with('.'));
        let wildcards = under.filter_map(|suffix| self.wildcard.get(suffix));
        self.exact.get(host).into_iter().chain(wildcards).chain(&self.any)
    }

    /// The value of the most specific hostname that covers `host`.
    pub fn most_specific(&self, host: &str) -> Option<&T> {
        self.covering(host).next()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty() && self.any.is_none()
    }

    /// Turns every value into another.
    pub fn map<U>(self, mut turn: impl FnMut(T) -> U) -> HostMap<U> {
        let mut turn_all = |map: AHashMap<Box<str>, T>| map.into_iter().map(|(k, v)| (k, turn(v))).collect();
        let (exact, wildcard) = (turn_all(self.exact), turn_all(self.wildcard));
        HostMap { exact, wildcard, any: self.any.map(turn) }
    }

    /// Exact hostnames and wildcards (by their suffix) with their values, in no order.
    pub(crate) fn named(&self) -> impl Iterator<Item = (bool, &str, &T)> {
        let exact = self.exact.iter().map(|(name, value)| (false, &**name, value));
        exact.chain(self.wildcard.iter().map(|(name, value)| (true, &**name, value)))
    }
}

/// The host of an authority or server name, as hostnames are compared with: without port and final dot, lower case.
pub fn host_name(authority: &str) -> Cow<'_, str> {
    let host = without_port(authority);
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// A host without its port; the brackets of an IPv6 address stay.
pub(crate) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !inside_brackets(name) => name,
        _ => host,
    }
}

/// The last `:` was part of an IPv6 address: its bracket is still open.
fn inside_brackets(name: &str) -> bool {
    name.starts_with('[') && !name.ends_with(']')
}
