//! When another try is made (GEP-1731; Gateway API 1.7's text of `rules[].retry`):
//!
//! * with `retry`: up to `attempts` further tries when the connection could not be established, the endpoint refused
//!   before processing, the status is one of `codes`, or `backendRequest` ran out;
//! * without: one other endpoint when the connection could not be established;
//! * never after a reset once the request may have been processed.

use std::time::Duration;

use http::{HeaderName, Response, StatusCode};
use rand::Rng;
use weft_model::route::Retry;

/// The first back-off when the route names none. Small, so that a retry fits well into a short request timeout.
const BASE: Duration = Duration::from_millis(25);
/// Back-offs grow no further than this, or than the route's own base interval if that is longer.
const CAP: Duration = Duration::from_secs(1);

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// How a try ended, as far as retrying goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No connection, or refused before processing: the application has not seen the request.
    NotEstablished,
    /// gRPC UNAVAILABLE in the head, without a message: refused before processing.
    Unavailable,
    /// This status.
    Status(StatusCode),
    /// `timeouts.backendRequest` ran out.
    BackendTimeout,
    /// It may have been processed.
    MayBeProcessed,
}

impl Verdict {
    /// The verdict on a response.
    pub fn of<B>(response: &Response<B>) -> Self {
        // The status in the head instead of the trailers: no message was sent.
        match response.headers().get(GRPC_STATUS) {
            Some(status) if status.as_bytes() == b"14" => Self::Unavailable,
            _ => Self::Status(response.status()),
        }
    }
}

/// The tries of one request.
#[derive(Debug)]
pub struct Tries<'r> {
    retry: Option<&'r Retry>,
    further: u32,
}

impl<'r> Tries<'r> {
    /// None made yet.
    pub fn new(retry: Option<&'r Retry>) -> Self {
        Self { retry, further: 0 }
    }

    /// Whether a response or time-out can lead to another try, so that the request must be kept.
    pub fn may_resend(&self) -> bool {
        self.retry.is_some_and(|retry| retry.attempts > 0)
    }

    /// Whether a try that ended so is to be followed by another one (if the node's budget allows).
    pub fn wants_another(&self, verdict: Verdict) -> bool {
        let Some(retry) = self.retry else { return self.further == 0 && verdict == Verdict::NotEstablished };
        self.further < retry.attempts
            && match verdict {
                Verdict::NotEstablished | Verdict::Unavailable | Verdict::BackendTimeout => true,
                Verdict::Status(status) => retry.codes.contains(&status.as_u16()),
                Verdict::MayBeProcessed => false,
            }
    }

    /// Counts another try and tells how long to wait before it.
    pub fn next_backoff(&mut self, random: &mut impl Rng) -> Duration {
        let doublings = self.further;
        self.further += 1;
        // Without `retry` another endpoint is tried at once: it is not the same one that is asked again.
        let Some(retry) = self.retry else { return Duration::ZERO };
        let base = retry.backoff.unwrap_or(BASE);
        let grown = base.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(CAP.max(base));
        grown.mul_f64(random.random_range(1.0..1.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(attempts: u32, codes: &[u16]) -> Retry {
        Retry { attempts, codes: codes.to_vec(), backoff: None }
    }

    /// How many tries are made in all when each ends with `verdict`.
    fn tries(retry: Option<&Retry>, verdict: Verdict) -> u32 {
        let mut tries = Tries::new(retry);
        let mut made = 1;
        while tries.wants_another(verdict) {
            tries.next_backoff(&mut rand::rng());
            made += 1;
        }
        made
    }

    #[test]
    fn tries_are_made_as_the_specification_says() {
        let status = |code| Verdict::Status(StatusCode::from_u16(code).unwrap());
        let rows: [(Option<Retry>, Verdict, u32); 14] = [
            (None, Verdict::NotEstablished, 2),
            (None, Verdict::Unavailable, 1),
            (None, Verdict::BackendTimeout, 1),
            (None, status(503), 1),
            (Some(retry(3, &[])), Verdict::NotEstablished, 4),
            (Some(retry(3, &[])), Verdict::Unavailable, 4),
            (Some(retry(3, &[])), Verdict::BackendTimeout, 4),
            (Some(retry(3, &[])), status(503), 1),
            (Some(retry(3, &[500, 503])), status(503), 4),
            (Some(retry(3, &[500])), status(502), 1),
            (Some(retry(3, &[500])), Verdict::MayBeProcessed, 1),
            (Some(retry(0, &[500])), Verdict::NotEstablished, 1),
            (Some(retry(0, &[500])), Verdict::Unavailable, 1),
            (Some(retry(0, &[500])), status(500), 1),
        ];
        for (retry, verdict, expected) in rows {
            assert_eq!(tries(retry.as_ref(), verdict), expected, "{retry:?} {verdict:?}");
        }
    }

    #[test]
    fn back_off_doubles_from_its_base_up_to_the_cap() {
        let waits = |backoff, count: usize| {
            let retry = Retry { attempts: 100, codes: vec![], backoff };
            let mut tries = Tries::new(Some(&retry));
            (0..count).map(|_| tries.next_backoff(&mut rand::rng())).collect::<Vec<_>>()
        };
        for (wait, milliseconds) in waits(None, 8).into_iter().zip([25, 50, 100, 200, 400, 800, 1000, 1000]) {
            let base = Duration::from_millis(milliseconds);
            assert!(wait >= base && wait < base.mul_f64(1.5), "{wait:?} for {base:?}");
        }
        let long = Duration::from_secs(3);
        assert!(waits(Some(long), 40).into_iter().all(|wait| wait >= long && wait < long.mul_f64(1.5)));
    }

    #[test]
    fn only_a_grpc_status_in_the_head_is_a_refusal_before_processing() {
        let mut response = Response::new(());
        assert_eq!(Verdict::of(&response), Verdict::Status(StatusCode::OK));
        response.headers_mut().insert("grpc-status", http::HeaderValue::from_static("14"));
        assert_eq!(Verdict::of(&response), Verdict::Unavailable);
    }
}
