//! SPIFFE identities of workloads: `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::Text;

/// The trust domain that a mesh's identities live in, for example `cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrustDomain(pub Text);

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a workload is: its service account in a trust domain. Compared field by field, never as a pattern.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The service account's namespace.
    pub namespace: Text,
    /// The service account's name.
    pub service_account: Text,
}

/// A URI that is no workload identity of the form Weft issues.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>")]
pub struct NotAnIdentity(String);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.to_string()
    }
}

impl TryFrom<String> for Identity {
    type Error = NotAnIdentity;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for Identity {
    type Err = NotAnIdentity;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        parse(uri).ok_or_else(|| NotAnIdentity(uri.to_owned()))
    }
}

fn parse(uri: &str) -> Option<Identity> {
    let mut segments = uri.strip_prefix("spiffe://")?.split('/');
    let trust_domain = segments.next().filter(|s| is_segment(s))?;
    let namespace = (segments.next()? == "ns").then(|| segments.next())??;
    let service_account = (segments.next()? == "sa").then(|| segments.next())??;
    let well_formed = segments.next().is_none() && is_segment(namespace) && is_segment(service_account);
    well_formed.then(|| Identity {
        trust_domain: TrustDomain(trust_domain.into()),
        namespace: namespace.into(),
        service_account: service_account.into(),
    })
}

/// The characters that the SPIFFE ID standard (§2.1, §2.2) allows in a trust domain and in the names Kubernetes allows.
fn is_segment(segment: &str) -> bool {
    !segment.is_empty()
        && segment
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_round_trips_through_its_uri() {
        let uri = "spiffe://cluster.local/ns/shop/sa/cart";
        assert_eq!(uri.parse::<Identity>().unwrap().to_string(), uri);
    }

    #[test]
    fn anything_else_is_refused() {
        for uri in [
            "",
            "spiffe://",
            "spiffe://td/ns/a",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/ns//sa/b",
            "https://td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b?x",
            "spiffe://TD/ns/a/sa/b",
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri}");
        }
    }
}
