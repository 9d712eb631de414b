//! Retries, time limits and balancing with a scripted sending step. No result depends on how fast the machine is:
//! steps either end at once or never.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, StreamBody};
use weft_model::service::{AppProtocol, Endpoint};

use super::*;
use crate::config::SameNode;
use crate::pod::LocalPods;
use crate::telemetry::{Labels, Protocol, Reporter};

/// What the next try meets.
#[derive(Clone, Copy, Debug)]
enum Step {
    Status(u16),
    GrpcUnavailable,
    /// Nothing was sent; the request comes back.
    Refused,
    /// As `Refused`, but found out by the far proxy: the request is gone.
    RefusedFar,
    /// Reset after sending.
    Reset,
    Hang,
    /// Answers as soon as this many bytes of the body have come.
    EarlyStatus(u16, usize),
}

#[derive(Default)]
struct Script {
    steps: RefCell<VecDeque<Step>>,
    /// Endpoint, `x-try` header and body of each try.
    seen: RefCell<Vec<(SocketAddr, String)>>,
}

impl Script {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: RefCell::new(steps.into_iter().collect()), seen: RefCell::default() }
    }
}

fn failed(not_established: bool, request: Option<Request<Body>>) -> SendError {
    let reason = if not_established { Reason::ConnectFailed } else { Reason::UpstreamReset };
    SendError { reason, not_established, message: "scripted".to_owned(), request: request.map(Box::new) }
}

impl Transmit for &Script {
    async fn transmit(
        &self,
        selected: &Selected,
        request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let step = self.steps.borrow_mut().pop_front().expect("more tries than scripted");
        if matches!(step, Step::Refused) {
            self.seen.borrow_mut().push((selected.address, String::new()));
            return Err(failed(true, Some(request)));
        }
        let wanted = if let Step::EarlyStatus(_, bytes) = step { bytes } else { usize::MAX };
        let mut body = request.into_body();
        let mut read = Vec::new();
        while read.len() < wanted {
            let Some(frame) = body.frame().await else { break };
            read.extend_from_slice(&frame.expect("a whole body").into_data().unwrap());
        }
        self.seen.borrow_mut().push((selected.address, String::from_utf8(read).unwrap()));
        let mut response = Response::new(Body::Empty);
        match step {
            Step::Status(status) | Step::EarlyStatus(status, _) => {
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
            }
            Step::GrpcUnavailable => {
                response.headers_mut().insert("grpc-status", http::HeaderValue::from_static("14"));
            }
            Step::Refused | Step::RefusedFar => return Err(failed(true, None)),
            Step::Reset => return Err(failed(false, None)),
            Step::Hang => std::future::pending().await,
        }
        Ok(response)
    }
}

struct Rig {
    endpoints: u8,
    retry: Option<Retry>,
    timeouts: Timeouts,
    budget: RetryBudget,
}

impl Rig {
    fn new(endpoints: u8, retry: Option<Retry>) -> Self {
        Self { endpoints, retry, timeouts: Timeouts::default(), budget: RetryBudget::new(Instant::now()) }
    }

    /// Status or reason, and the tries made.
    async fn send(&self, script: &Script, body: Body) -> (Result<u16, Reason>, u32) {
        let snapshot =
            Snapshot::empty(Arc::new(ArcSwap::from_pointee(LocalPods::default())), SameNode::Direct);
        let endpoints = (1..=self.endpoints)
            .map(|last| Endpoint {
                address: ([10, 0, 0, last], 80).into(),
                workload: None,
                ready: true,
                zone: None,
            })
            .collect();
        let target = Target { service: None, protocol: AppProtocol::Http, endpoints: Cow::Owned(endpoints) };
        let balancer = Balancer::default();
        let exchange = Exchange {
            transmit: script,
            balancer: &balancer,
            budget: &self.budget,
            snapshot: &snapshot,
            dialled: [10, 0, 0, 100].into(),
            target: &target,
            retry: self.retry.as_ref(),
            timeouts: self.timeouts,
        };
        let mut outcome =
            Outcome::new(Labels::new(Reporter::Source, Party::Unknown, Protocol::Http1, Security::None));
        let result = exchange.run(Request::new(body), &mut outcome).await;
        (result.map(|a| a.response.status().as_u16()).map_err(|r| r.reason), outcome.attempts)
    }
}

fn retry(attempts: u32, codes: &[u16]) -> Option<Retry> {
    Some(Retry { attempts, codes: codes.to_vec(), backoff: None })
}

fn stream(pieces: &[&'static str]) -> Body {
    let frames: Vec<Result<_, crate::body::BodyError>> =
        pieces.iter().map(|piece| Ok(http_body::Frame::data(Bytes::from_static(piece.as_bytes())))).collect();
    Body::boxed(StreamBody::new(futures_util::stream::iter(frames)))
}

#[tokio::test]
async fn without_retry_one_other_endpoint_is_tried_when_none_was_reached() {
    let script = Script::new([Step::Refused, Step::Status(200)]);
    assert_eq!(Rig::new(3, None).send(&script, Body::text("hello")).await, (Ok(200), 2));
    let seen = script.seen.take();
    assert_ne!(seen[0].0, seen[1].0);
    assert_eq!(seen[1].1, "hello");
    let script = Script::new([Step::Refused, Step::Refused]);
    assert_eq!(Rig::new(3, None).send(&script, Body::Empty).await, (Err(Reason::ConnectFailed), 2));
}

#[tokio::test]
async fn without_retry_a_lone_endpoint_is_tried_once() {
    let script = Script::new([Step::Refused]);
    assert_eq!(Rig::new(1, None).send(&script, Body::Empty).await, (Err(Reason::ConnectFailed), 1));
}

#[tokio::test]
async fn without_retry_a_request_that_is_gone_is_not_sent_again() {
    let script = Script::new([Step::RefusedFar]);
    assert_eq!(Rig::new(3, None).send(&script, Body::text("x")).await, (Err(Reason::ConnectFailed), 1));
}

#[tokio::test]
async fn no_ready_endpoint_is_told_as_such() {
    let script = Script::new([]);
    assert_eq!(Rig::new(0, retry(3, &[])).send(&script, Body::Empty).await, (Err(Reason::NoEndpoints), 0));
}

#[tokio::test]
async fn a_reset_after_sending_is_never_retried() {
    let script = Script::new([Step::Reset]);
    assert_eq!(
        Rig::new(3, retry(3, &[500, 502])).send(&script, Body::Empty).await,
        (Err(Reason::UpstreamReset), 1)
    );
}

#[tokio::test]
async fn attempts_come_in_addition_to_the_first_try_and_the_last_answer_is_passed_on() {
    let script = Script::new([Step::Status(500), Step::Status(503), Step::Status(500)]);
    assert_eq!(Rig::new(1, retry(2, &[500, 503])).send(&script, stream(&["ab", "cd"])).await, (Ok(500), 3));
    assert!(script.seen.borrow().iter().all(|(_, body)| body == "abcd"));
}

#[tokio::test]
async fn attempts_zero_means_one_try() {
    for step in [Step::Refused, Step::Status(500), Step::GrpcUnavailable] {
        let script = Script::new([step]);
        assert_eq!(Rig::new(3, retry(0, &[500])).send(&script, Body::Empty).await.1, 1, "{step:?}");
    }
}

#[tokio::test]
async fn refusals_before_processing_are_retried_with_empty_codes() {
    for step in [Step::Refused, Step::RefusedFar, Step::GrpcUnavailable] {
        let script = Script::new([step, Step::Status(200)]);
        assert_eq!(Rig::new(2, retry(1, &[])).send(&script, Body::text("x")).await, (Ok(200), 2), "{step:?}");
    }
}

#[tokio::test]
async fn a_retry_prefers_endpoints_not_tried_and_then_comes_back() {
    let script = Script::new([Step::Refused; 4]);
    assert_eq!(Rig::new(2, retry(3, &[])).send(&script, Body::Empty).await.1, 4);
    let seen = script.seen.borrow();
    assert_ne!(seen[0].0, seen[1].0);
}

#[tokio::test]
async fn a_retry_waits_its_back_off() {
    let start = Instant::now();
    let script = Script::new([Step::Status(500), Step::Status(200)]);
    assert_eq!(Rig::new(1, retry(1, &[500])).send(&script, Body::Empty).await, (Ok(200), 2));
    assert!(start.elapsed() >= Duration::from_millis(25));
}

#[tokio::test]
async fn the_request_timeout_spans_tries_and_back_off_and_is_the_answer() {
    let mut rig = Rig::new(1, retry(5, &[500]));
    let start = Instant::now();
    rig.timeouts.request = Some((start + Duration::from_millis(500), Reason::RequestTimeout));
    let script = Script::new([Step::Status(500), Step::Hang]);
    assert_eq!(rig.send(&script, Body::Empty).await, (Err(Reason::RequestTimeout), 2));
    assert!(start.elapsed() >= Duration::from_millis(500));
}

#[tokio::test]
async fn a_back_off_longer_than_the_request_timeout_ends_with_it() {
    let mut rig = Rig::new(1, retry(5, &[500]));
    rig.retry = Some(Retry { attempts: 5, codes: vec![500], backoff: Some(Duration::from_secs(3600)) });
    rig.timeouts.request = Some((Instant::now() + Duration::from_millis(100), Reason::RequestTimeout));
    let script = Script::new([Step::Status(500)]);
    assert_eq!(rig.send(&script, Body::Empty).await, (Err(Reason::RequestTimeout), 1));
}

#[tokio::test]
async fn the_backend_timeout_bounds_each_try_and_may_be_retried() {
    let mut rig = Rig::new(2, retry(1, &[]));
    rig.timeouts.backend_request = Some(Duration::from_millis(100));
    let script = Script::new([Step::Hang, Step::Status(200)]);
    assert_eq!(rig.send(&script, Body::text("x")).await, (Ok(200), 2));
    rig.retry = None;
    let script = Script::new([Step::Hang]);
    assert_eq!(rig.send(&script, Body::Empty).await, (Err(Reason::BackendTimeout), 1));
}

#[tokio::test]
async fn a_body_longer_than_what_is_kept_is_sent_whole_but_only_once() {
    let long = "x".repeat(crate::outbound::resilience::replay::KEPT + 1);
    let script = Script::new([Step::Status(500)]);
    assert_eq!(Rig::new(2, retry(3, &[500])).send(&script, Body::text(long.clone())).await, (Ok(500), 1));
    assert_eq!(script.seen.borrow()[0].1, long);
}

#[tokio::test]
async fn a_retry_replays_what_was_read_and_streams_the_rest() {
    let script = Script::new([Step::EarlyStatus(503, 3), Step::Status(200)]);
    assert_eq!(
        Rig::new(2, retry(1, &[503])).send(&script, stream(&["abc", "def", "ghi"])).await,
        (Ok(200), 2)
    );
    let seen = script.seen.borrow();
    assert_eq!((seen[0].1.as_str(), seen[1].1.as_str()), ("abc", "abcdefghi"));
}

#[tokio::test]
async fn beyond_the_budget_the_answer_is_passed_on() {
    let mut rig = Rig::new(2, retry(1, &[500]));
    // Its first second lasts for an hour.
    rig.budget = RetryBudget::new(Instant::now() + Duration::from_secs(3600));
    while rig.budget.take(Instant::now()) {}
    let script = Script::new([Step::Status(500)]);
    assert_eq!(rig.send(&script, Body::Empty).await, (Ok(500), 1));
}
