//! Sends a request to one endpoint after another until one's answer counts: balancing, time limits and retries
//! together. How a request is sent is a parameter, so that all this is tested without a network.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;

use http::{Request, Response};
use http_body::Body as _;
use tokio::time::Instant;
use weft_model::Reason;
use weft_model::route::Retry;

use super::affinity::Kept;
use super::balance::{Balancer, InFlight, Picked};
use super::http::refusal::Refused;
use super::resilience::budget::Allowance;
use super::resilience::replay::Replay;
use super::resilience::retry::{Tries, Verdict};
use super::resilience::timeout::{Deadline, Timeouts, until};
use super::route::Target;
use super::session::Session;
use crate::body::Body;
use crate::call::{Selected, Transport};
use crate::send::SendError;
use crate::state::Snapshot;
use crate::telemetry::{Outcome, Party};

/// The sending step.
pub trait Transmit {
    /// Sends one request to the endpoint, as [`crate::send::send_http`] does.
    fn transmit(
        &self,
        selected: &Selected,
        request: Box<Request<Body>>,
    ) -> impl Future<Output = Result<Response<Body>, SendError>>;
}

/// One request's way to its target.
#[derive(Debug)]
pub struct Exchange<'a, T> {
    /// How to send.
    pub transmit: T,
    /// Picks endpoints.
    pub balancer: &'a Balancer,
    /// Endpoints that the calling pod keeps, if it is one.
    pub kept: Option<&'a Kept>,
    /// Allows further tries.
    pub budget: Allowance<'a>,
    /// The configuration that the request sees.
    pub snapshot: &'a Snapshot,
    /// The address that the caller dialled.
    pub dialled: IpAddr,
    /// Where to.
    pub target: &'a Target<'a>,
    /// The client's session, where sessions are kept.
    pub session: Option<&'a Session<'a>>,
    /// The rule's `retry`.
    pub retry: Option<&'a Retry>,
    /// The rule's time limits.
    pub timeouts: Timeouts,
}

/// An endpoint's answer.
#[derive(Debug)]
pub struct Answered {
    /// Head and streaming body.
    pub response: Response<Body>,
    /// Keep it until the body's end.
    pub in_flight: InFlight,
    /// When the body is cut off.
    pub deadline: Option<Deadline>,
}

type Ended = Result<Result<Response<Body>, SendError>, Reason>;

impl<T: Transmit> Exchange<'_, T> {
    /// Sends `request` until an answer counts. `outcome` learns of every try as it begins.
    ///
    /// # Errors
    /// No endpoint was ready, none could be reached, or a time limit ran out.
    pub async fn run(&self, request: Box<Request<Body>>, outcome: &mut Outcome) -> Result<Answered, Refused> {
        self.budget.count_request(Instant::now());
        let tries = pin!(self.tries(request, outcome));
        match until(self.timeouts.request, tries).await {
            Ok(ended) => ended,
            Err(reason) => Err(timed_out(reason)),
        }
    }

    async fn tries(&self, request: Box<Request<Body>>, outcome: &mut Outcome) -> Result<Answered, Refused> {
        let mut tries = Tries::new(self.retry);
        let mut resend = Resend::new(request, tries.may_resend());
        let mut tried = Vec::new();
        let mut last = None;
        loop {
            let began = Instant::now();
            let Some(picked) = self.pick(&tried, began) else {
                if last.is_none() {
                    outcome.message = self.target.conflict().map(Into::into);
                }
                return Err(last.unwrap_or_else(|| self.target.refusal()));
            };
            let source = outcome.labels.source.as_pod();
            let selected = Selected::of(picked.endpoint, self.target, self.snapshot, source);
            note(outcome, &selected);
            let Some(request) = resend.next(&selected, self.target) else {
                return Err(last.unwrap_or_else(|| Refused::new(Reason::Internal, "the request is gone")));
            };
            let deadline = self.timeouts.of_try(began);
            let mut ended = until(deadline, pin!(self.transmit.transmit(&selected, request))).await;
            let verdict = judge(&ended, &picked.in_flight, began);
            let wanted = tries.wants_another(verdict) && resend.take_back(&mut ended);
            let again = wanted && self.budget.take(Instant::now());
            if wanted && !again && self.retry.is_some() && self.budget.is_stated() {
                return Err(beyond_the_budget(ended, outcome));
            }
            if !again {
                if let (Some(session), Ok(Ok(_))) = (self.session, &ended) {
                    session.settle(self.target, picked.endpoint);
                }
                return finish(ended, picked.in_flight, deadline, outcome);
            }
            tried.push(picked.endpoint.address);
            last = finish(ended, picked.in_flight, deadline, outcome).err();
            wait(tries.next_backoff(&mut rand::rng())).await;
        }
    }

    /// An endpoint not tried yet: the one that the client's session is at, else any. A rule with `retry` may come back to
    /// one where there is no other.
    fn pick(&self, tried: &[SocketAddr], now: Instant) -> Option<Picked<'_>> {
        let held = self
            .session
            .and_then(|session| session.endpoint(self.target, self.snapshot, tried, self.dialled.is_ipv4()));
        if let Some(held) = held {
            return Some(self.balancer.take(held, now));
        }
        let pick = |excluded| match self.kept {
            Some(kept) => kept.pick(self.balancer, self.target, self.dialled, excluded, now),
            None => self.balancer.pick(&self.target.endpoints, self.dialled, excluded, now),
        };
        let other = pick(tried);
        if other.is_none() && !tried.is_empty() && self.retry.is_some() {
            return pick(&[]);
        }
        other
    }
}

async fn wait(backoff: std::time::Duration) {
    if !backoff.is_zero() {
        tokio::time::sleep(backoff).await;
    }
}

fn note(outcome: &mut Outcome, selected: &Selected) {
    outcome.attempts += 1;
    outcome.destination_address = Some(selected.address);
    outcome.labels.destination = Party::of(selected.workload.clone());
    outcome.labels.security = selected.security();
}

/// What a try's end means, for retrying and for the balancer.
fn judge(ended: &Ended, in_flight: &InFlight, began: Instant) -> Verdict {
    let now = Instant::now();
    match ended {
        Ok(Ok(response)) => {
            in_flight.answered(now - began, now);
            Verdict::of(response)
        }
        Ok(Err(error)) if error.not_established => {
            in_flight.failed(now);
            Verdict::NotEstablished
        }
        Err(Reason::BackendTimeout) => {
            in_flight.answered(now - began, now);
            Verdict::BackendTimeout
        }
        Ok(Err(_)) | Err(_) => Verdict::MayBeProcessed,
    }
}

/// A try that a policy's budget has no room for. The log says what the last one came to.
fn beyond_the_budget(ended: Ended, outcome: &mut Outcome) -> Refused {
    let last = match ended {
        Ok(Ok(response)) => format!("the last try was answered {}", response.status().as_u16()),
        Ok(Err(error)) => format!("the last try: {}", error.message),
        Err(reason) => format!("the last try: {reason}"),
    };
    outcome.message = Some(last.into());
    Refused::new(Reason::RetryBudget, "the backend's XBackendTrafficPolicy allows no further try now")
}

fn finish(
    ended: Ended,
    in_flight: InFlight,
    deadline: Option<Deadline>,
    outcome: &mut Outcome,
) -> Result<Answered, Refused> {
    match ended {
        Ok(Ok(response)) => Ok(Answered { response, in_flight, deadline }),
        Ok(Err(error)) => {
            outcome.message = Some(error.message.as_str().into());
            Err(error.into())
        }
        Err(reason) => Err(timed_out(reason)),
    }
}

fn timed_out(reason: Reason) -> Refused {
    let field = if reason == Reason::RequestTimeout { "request" } else { "backendRequest" };
    Refused::new(reason, format!("the route's timeouts.{field} ran out"))
}

/// The request, for as many tries as may come. Nothing is copied where only one can.
enum Resend {
    /// Given away for the one try, or handed back by it untouched.
    Once(Option<Box<Request<Body>>>),
    /// Kept, so that it can be sent again.
    Kept { head: Box<http::request::Parts>, body: Replay },
}

impl Resend {
    fn new(request: Box<Request<Body>>, keep: bool) -> Self {
        if keep { Self::keep(request) } else { Self::Once(Some(request)) }
    }

    fn keep(request: Box<Request<Body>>) -> Self {
        let (head, body) = request.into_parts();
        Self::Kept { head: Box::new(head), body: Replay::new(body) }
    }

    /// The request for the next try.
    fn next(&mut self, selected: &Selected, target: &Target<'_>) -> Option<Box<Request<Body>>> {
        if let Self::Once(request) = self {
            // The far proxy takes a request before it knows that its application can be reached, and cannot give
            // it back; without a body keeping it costs only its head.
            let tunnel = matches!(selected.transport, Transport::Tunnel(_)) && target.endpoints.len() > 1;
            match request.take() {
                Some(request) if tunnel && request.body().is_end_stream() => *self = Self::keep(request),
                request => return request,
            }
        }
        let Self::Kept { head, body } = self else { return None };
        Some(Box::new(Request::from_parts((**head).clone(), body.next_try()?)))
    }

    /// Whether there can be another try: the request is still here, or came back.
    fn take_back(&mut self, ended: &mut Ended) -> bool {
        match (self, ended) {
            (Self::Kept { body, .. }, _) => body.is_whole(),
            (Self::Once(slot), Ok(Err(error))) => {
                *slot = error.request.take();
                slot.is_some()
            }
            (Self::Once(_), _) => false,
        }
    }
}

#[cfg(test)]
mod tests;
