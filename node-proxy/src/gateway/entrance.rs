//! How a connection came in at a Gateway, and what applications are told of its caller.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use weft_model::Text;
use weft_model::gateway::{Listener, ListenerProtocol};

use crate::call::Accepted;
use crate::config::Config;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// What only a proxy may say too, and Weft does not say itself.
static CLAIMS: [HeaderName; 3] =
    [FORWARDED, HeaderName::from_static("x-forwarded-port"), HeaderName::from_static("x-real-ip")];

/// Whom a Gateway believes in what they say of others.
#[derive(Clone, Copy, Debug)]
pub struct Trust<'a> {
    /// Ranges that proxies call from.
    pub proxies: &'a [IpNet],
    /// How many proxies there are, wherever they call from; 0: it is not told.
    pub hops: usize,
}

impl Trust<'_> {
    /// Whether whoever calls from here may say for whom it calls.
    pub fn has(&self, caller: IpAddr) -> bool {
        self.hops > 0 || self.proxies.iter().any(|range| range.contains(&caller))
    }

    /// The client: of those that `X-Forwarded-For` lists, from its end, the first whom a proxy names that is not itself
    /// one. `None`: there is no such entry, or what stands in its place is no address.
    fn client(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        let mut entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')).map(address);
        match self.hops {
            0 => entries.find(|entry| entry.is_none_or(|ip| !self.has(ip))).flatten(),
            hops => entries.nth(hops - 1).flatten(),
        }
    }
}

/// An entry of `X-Forwarded-For`: an address, which some write with a port.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    plain.parse().ok().or_else(with_port).map(|ip: IpAddr| ip.to_canonical())
}

/// How a connection came in at a Gateway.
#[derive(Debug)]
pub struct Entrance {
    /// The address of the Gateway's pod, and the listener's port.
    pub address: SocketAddr,
    /// The server name of its TLS, as hostnames are compared with (empty: none was sent). `None`: no TLS.
    pub server_name: Option<Text>,
    /// The caller's address, as header fields say it.
    caller: HeaderValue,
    /// The caller is a proxy that may say for whom it calls.
    trusted: bool,
}

impl Entrance {
    /// That of a connection without TLS; `None`: the connection is gone already.
    pub fn plain(accepted: &Accepted, config: &Config) -> Option<Self> {
        let address = accepted.stream.local_addr().ok()?;
        let peer = accepted.peer.ip();
        Some(Self {
            address: SocketAddr::new(address.ip().to_canonical(), address.port()),
            server_name: None,
            caller: HeaderValue::try_from(peer.to_string()).ok()?,
            trusted: config.trust().has(peer),
        })
    }

    /// Whether what came in so may be served by this listener: never HTTP without TLS by one that wants TLS.
    pub fn fits(&self, listener: &Listener) -> bool {
        match listener.protocol {
            ListenerProtocol::Http => self.server_name.is_none(),
            ListenerProtocol::Https => self.server_name.is_some(),
            ListenerProtocol::Tls | ListenerProtocol::Tcp | ListenerProtocol::Udp => false,
        }
    }

    /// For whom the caller calls, as proxies say that are believed.
    pub fn client(&self, config: &Config, headers: &HeaderMap) -> Option<IpAddr> {
        self.trusted.then(|| config.trust().client(headers)).flatten()
    }

    /// Says who calls, and replaces what the caller says of that, unless it is a trusted proxy.
    pub fn announce(&self, scheme: &'static str, head: &mut http::request::Parts) {
        let headers = &mut head.headers;
        if self.trusted {
            self.append_caller(headers);
        } else {
            headers.insert(FORWARDED_FOR, self.caller.clone());
            // Mostly there is none: looking at each field once is quicker than looking for each name.
            while let Some(name) = headers.keys().find(|name| CLAIMS.contains(name)).cloned() {
                headers.remove(name);
            }
        }
        if !self.trusted || !headers.contains_key(FORWARDED_PROTO) {
            headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
        }
        if !self.trusted || !headers.contains_key(FORWARDED_HOST) {
            let authority = head.uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
            match authority.or_else(|| headers.get(HOST).cloned()) {
                Some(host) => headers.insert(FORWARDED_HOST, host),
                None => headers.remove(FORWARDED_HOST),
            };
        }
    }

    /// One line, since applications often read only the first or the last.
    fn append_caller(&self, headers: &mut HeaderMap) {
        let before: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
        let all = [before, vec![self.caller.as_bytes()]].concat().join(&b", "[..]);
        if let Ok(all) = HeaderValue::from_bytes(&all) {
            headers.insert(FORWARDED_FOR, all);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn announced(trusted: bool) -> Vec<(String, String)> {
        let entrance = Entrance {
            address: "10.0.0.1:80".parse().unwrap(),
            server_name: None,
            caller: HeaderValue::from_static("192.0.2.7"),
            trusted,
        };
        let request = Request::get("/")
            .header("host", "shop.example:8080")
            .header("x-forwarded-for", "1.1.1.1")
            .header("x-forwarded-for", "2.2.2.2")
            .header("x-forwarded-proto", "https")
            .header("x-real-ip", "1.1.1.1")
            .header("forwarded", "for=1.1.1.1");
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        entrance.announce("http", &mut head);
        let mut lines: Vec<_> =
            head.headers.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect();
        lines.sort();
        lines
    }

    fn pairs(lines: &[(&str, &str)]) -> Vec<(String, String)> {
        lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn client(proxies: &str, hops: usize, lines: &[&str]) -> Option<String> {
        let proxies: Vec<IpNet> = proxies.split_whitespace().map(|range| range.parse().unwrap()).collect();
        let lines = lines.iter().map(|line| (FORWARDED_FOR, HeaderValue::from_str(line).unwrap()));
        let client = Trust { proxies: &proxies, hops }.client(&lines.collect());
        client.map(|client| client.to_string())
    }

    #[test]
    fn the_client_is_the_last_entry_that_is_no_proxys_own() {
        let named = |lines: &[&str]| client("10.0.0.0/8 fd00::/8", 0, lines);
        assert_eq!(named(&["6.6.6.6, 192.0.2.7, 10.0.0.1"]).unwrap(), "192.0.2.7");
        assert_eq!(named(&["6.6.6.6", "2001:db8::7 , fd00::1"]).unwrap(), "2001:db8::7");
        assert_eq!(named(&["[2001:db8::7]:4321"]).unwrap(), "2001:db8::7");
        assert_eq!(named(&["192.0.2.7:4321, ::ffff:10.0.0.1"]).unwrap(), "192.0.2.7");
        // Whatever stands before what cannot be read is anybody's word.
        assert_eq!(named(&["6.6.6.6, unknown, 10.0.0.1"]), None);
        assert_eq!(named(&["10.0.0.2, 10.0.0.1"]), None);
        assert_eq!(named(&[]), None);
    }

    #[test]
    fn the_client_is_so_many_entries_from_the_end() {
        let lines = ["6.6.6.6, 192.0.2.7", "198.51.100.1"];
        assert_eq!(client("", 1, &lines).unwrap(), "198.51.100.1");
        assert_eq!(client("", 2, &lines).unwrap(), "192.0.2.7");
        assert_eq!(client("", 4, &lines), None);
    }

    #[test]
    fn what_a_caller_says_of_itself_is_replaced() {
        let expected = [
            ("host", "shop.example:8080"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-host", "shop.example:8080"),
            ("x-forwarded-proto", "http"),
        ];
        assert_eq!(announced(false), pairs(&expected));
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_added() {
        let expected = [
            ("forwarded", "for=1.1.1.1"),
            ("host", "shop.example:8080"),
            ("x-forwarded-for", "1.1.1.1, 2.2.2.2, 192.0.2.7"),
            ("x-forwarded-host", "shop.example:8080"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "1.1.1.1"),
        ];
        assert_eq!(announced(true), pairs(&expected));
    }
}
