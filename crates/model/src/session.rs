//! Session persistence (GEP-1619): a client that repeats what it was given comes back to the endpoint that it was at.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::Text;

/// `sessionPersistence` of a rule or of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPersistence {
    /// What the client repeats.
    pub carrier: SessionCarrier,
    /// `absoluteTimeout`; `None`: a session has no end of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute_timeout: Option<Duration>,
}

/// `type`, with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum SessionCarrier {
    /// `Cookie`.
    Cookie {
        /// `cookie.name`, or one made for this place.
        name: Text,
        /// `cookie.path`.
        path: Text,
        /// `cookie.lifetimeType: Permanent`: the client is told how long to keep it. Else it does until it ends.
        permanent: bool,
    },
    /// `Header`.
    Header {
        /// `header.name`, lower case.
        name: Text,
    },
}
