//! How a connection came in at a Gateway, and what applications are told of its caller.

use std::net::SocketAddr;

use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use weft_model::Text;
use weft_model::gateway::{Listener, ListenerProtocol};

use crate::call::Accepted;
use crate::config::Config;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// What only a proxy may say too, and Weft does not say itself.
const CLAIMS: [HeaderName; 3] =
    [FORWARDED, HeaderName::from_static("x-forwarded-port"), HeaderName::from_static("x-real-ip")];

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
            trusted: config.trusts(peer),
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

    /// Says who calls, and replaces what the caller says of that, unless it is a trusted proxy.
    pub fn announce(&self, scheme: &'static str, head: &mut http::request::Parts) {
        let headers = &mut head.headers;
        if self.trusted {
            self.append_caller(headers);
        } else {
            headers.insert(FORWARDED_FOR, self.caller.clone());
            for name in CLAIMS {
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
