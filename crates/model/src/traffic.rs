//! What holds for requests to a Service, whichever rule sends them there: XBackendTrafficPolicy.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::ObjectName;
use crate::session::SessionPersistence;

/// What an XBackendTrafficPolicy in force on a Service says, or an XBackend itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendTraffic {
    /// The policy or the XBackend, for explanations.
    pub policy: ObjectName,
    /// `retryConstraint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryConstraint>,
    /// `sessionPersistence`; that of a rule comes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionPersistence>,
}

/// `retryConstraint` (GEP-3388): how many tries beyond the first ones a proxy may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryConstraint {
    /// `budget.percent`: so many for each hundred requests.
    pub percent: u32,
    /// `budget.interval`: over which time both are counted.
    pub interval: Duration,
    /// `minRetryRate.count`: so many are allowed in any case,
    pub min_count: u32,
    /// `minRetryRate.interval`: in each of these.
    pub min_interval: Duration,
}

impl Default for RetryConstraint {
    /// The API's defaults.
    fn default() -> Self {
        let (interval, min_interval) = (Duration::from_secs(10), Duration::from_secs(1));
        Self { percent: 20, interval, min_count: 10, min_interval }
    }
}
