//! `timeouts.request` bounds everything from the request's head to the response's last byte, tries and back-offs
//! included; `timeouts.backendRequest` bounds each try likewise (GEP-1742). Before the response's head has gone to
//! the caller the answer is 504, afterwards the response is cut off.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;
use weft_model::Reason;
use weft_model::route::HttpRule;

/// When something ends, and what it is called if it does.
pub type Deadline = (Instant, Reason);

/// A request's time limits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timeouts {
    /// The end of the whole request.
    pub request: Option<Deadline>,
    /// How long each try may take.
    pub backend_request: Option<Duration>,
}

impl Timeouts {
    /// The limits that `rule` sets for a request whose head came at `start`.
    pub fn of(rule: &HttpRule, start: Instant) -> Self {
        let request = rule.request_timeout.map(|limit| (start + limit, Reason::RequestTimeout));
        Self { request, backend_request: rule.backend_request_timeout }
    }

    /// These and others together: what comes first ends it.
    #[must_use]
    pub fn within(self, others: Self) -> Self {
        let least = |a: Option<Duration>, b| a.into_iter().chain(b).min();
        let first = |a: Option<Deadline>, b: Option<Deadline>| a.into_iter().chain(b).min_by_key(|it| it.0);
        Self {
            request: first(self.request, others.request),
            backend_request: least(self.backend_request, others.backend_request),
        }
    }

    /// The end of a try that begins at `now`: the earlier of both limits.
    pub fn of_try(&self, now: Instant) -> Option<Deadline> {
        let backend = self.backend_request.map(|limit| (now + limit, Reason::BackendTimeout));
        match (self.request, backend) {
            (Some(request), Some(backend)) => Some(if backend.0 < request.0 { backend } else { request }),
            (request, backend) => request.or(backend),
        }
    }
}

/// Waits for `future` until the deadline. It is polled where it stands: moving it would double its caller's size.
///
/// # Errors
/// The deadline's reason, if it came first.
pub async fn until<F: Future>(deadline: Option<Deadline>, future: Pin<&mut F>) -> Result<F::Output, Reason> {
    match deadline {
        None => Ok(future.await),
        Some((at, reason)) => tokio::time::timeout_at(at, future).await.map_err(|_| reason),
    }
}
