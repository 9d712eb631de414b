//! Retries, time limits and balancing with a scripted sending step, under a clock that stands still but for the waits:
//! every time is exact, to the millisecond that timers count in.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, StreamBody};
use weft_model::service::{AppProtocol, Endpoint, TrafficPolicy};
use weft_model::traffic::RetryConstraint;

use super::*;
use crate::config::SameNode;
use crate::outbound::resilience::budget::RetryBudget;
use crate::pod::LocalPods;
use crate::telemetry::{Labels, Protocol, Reporter, Security};

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
    /// Endpoint and body of each try.
    seen: RefCell<Vec<(SocketAddr, String)>>,
    /// When each try began.
    begun: RefCell<Vec<Instant>>,
}

impl Script {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: RefCell::new(steps.into_iter().collect()), ..Self::default() }
    }
}

fn failed(not_established: bool, request: Option<Box<Request<Body>>>) -> SendError {
    let reason = if not_established { Reason::ConnectFailed } else { Reason::UpstreamReset };
    SendError { reason, not_established, message: "scripted".to_owned(), request }
}

impl Transmit for &Script {
    async fn transmit(
        &self,
        selected: &Selected,
        request: Box<Request<Body>>,
    ) -> Result<Response<Body>, SendError> {
        let step = self.steps.borrow_mut().pop_front().expect("more tries than scripted");
        self.begun.borrow_mut().push(Instant::now());
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
    stated: Option<RetryBudget>,
    balancer: Balancer,
}

impl Rig {
    fn new(endpoints: u8, retry: Option<Retry>) -> Self {
        let (timeouts, budget) = (Timeouts::default(), RetryBudget::default());
        Self { endpoints, retry, timeouts, budget, stated: None, balancer: Balancer::default() }
    }

    /// Status or reason, and the tries made.
    async fn send(&self, script: &Script, body: Body) -> (Result<u16, Reason>, u32) {
        let snapshot =
            Snapshot::empty(Arc::new(ArcSwap::from_pointee(LocalPods::default())), SameNode::Direct);
        let endpoints =
            (1..=self.endpoints).map(|last| Endpoint::at(([10, 0, 0, last], 80).into())).collect();
        let target = target(endpoints);
        let exchange = Exchange {
            transmit: script,
            balancer: &self.balancer,
            kept: None,
            session: None,
            budget: Allowance::of(&self.budget, self.stated.as_ref()),
            snapshot: &snapshot,
            dialled: [10, 0, 0, 100].into(),
            target: &target,
            retry: self.retry.as_ref(),
            timeouts: self.timeouts,
        };
        let mut outcome =
            Outcome::new(Labels::new(Reporter::Source, Party::Unknown, Protocol::Http1, Security::None));
        let result = exchange.run(Box::new(Request::new(body)), &mut outcome).await;
        (result.map(|a| a.response.status().as_u16()).map_err(|r| r.reason), outcome.attempts)
    }
}

fn target(endpoints: Vec<Endpoint>) -> Target<'static> {
    Target {
        service: None,
        protocol: AppProtocol::Http,
        tls: None,
        endpoints: Cow::Owned(endpoints),
        affinity: None,
        traffic: None,
        policy: TrafficPolicy::Cluster,
        trouble: None,
    }
}

/// Milliseconds since `start`.
fn since(start: Instant) -> u128 {
    start.elapsed().as_millis()
}

fn retry(attempts: u32, codes: &[u16]) -> Option<Retry> {
    Some(Retry { attempts, codes: codes.to_vec(), backoff: None })
}

fn stream(pieces: &[&'static str]) -> Body {
    let frames: Vec<Result<_, crate::body::BodyError>> =
        pieces.iter().map(|piece| Ok(http_body::Frame::data(Bytes::from_static(piece.as_bytes())))).collect();
    Body::boxed(StreamBody::new(futures_util::stream::iter(frames)))
}

#[tokio::test(start_paused = true)]
async fn without_retry_one_other_endpoint_is_tried_when_none_was_reached() {
    let script = Script::new([Step::Refused, Step::Status(200)]);
    assert_eq!(Rig::new(3, None).send(&script, Body::text("hello")).await, (Ok(200), 2));
    let seen = script.seen.take();
    assert_ne!(seen[0].0, seen[1].0);
    assert_eq!(seen[1].1, "hello");
    let script = Script::new([Step::Refused, Step::Refused]);
    assert_eq!(Rig::new(3, None).send(&script, Body::Empty).await, (Err(Reason::ConnectFailed), 2));
}

#[tokio::test(start_paused = true)]
async fn without_retry_a_lone_endpoint_is_tried_once() {
    let script = Script::new([Step::Refused]);
    assert_eq!(Rig::new(1, None).send(&script, Body::Empty).await, (Err(Reason::ConnectFailed), 1));
}

#[tokio::test(start_paused = true)]
async fn without_retry_a_request_that_is_gone_is_not_sent_again() {
    let script = Script::new([Step::RefusedFar]);
    assert_eq!(Rig::new(3, None).send(&script, Body::text("x")).await, (Err(Reason::ConnectFailed), 1));
}

#[tokio::test(start_paused = true)]
async fn no_ready_endpoint_is_told_as_such() {
    let script = Script::new([]);
    assert_eq!(Rig::new(0, retry(3, &[])).send(&script, Body::Empty).await, (Err(Reason::NoEndpoints), 0));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_several_pods_claim_is_refused_by_their_names() {
    let conflict = Some("pods shop/a and shop/b both claim 10.0.0.1".into());
    let one = Endpoint { ready: false, conflict, ..Endpoint::at(([10, 0, 0, 1], 80).into()) };
    let target = target(vec![one]);
    let refused = target.refusal();
    assert_eq!(refused.reason, Reason::AddressConflict);
    // The caller learns no names; the log has them.
    assert!(!refused.message.contains("shop/a"), "{}", refused.message);
    assert!(target.conflict().unwrap().contains("shop/a and shop/b"));
}

#[tokio::test(start_paused = true)]
async fn a_reset_after_sending_is_never_retried() {
    let script = Script::new([Step::Reset]);
    assert_eq!(
        Rig::new(3, retry(3, &[500, 502])).send(&script, Body::Empty).await,
        (Err(Reason::UpstreamReset), 1)
    );
}

#[tokio::test(start_paused = true)]
async fn attempts_come_in_addition_to_the_first_try_and_the_last_answer_is_passed_on() {
    let script = Script::new([Step::Status(500), Step::Status(503), Step::Status(500)]);
    assert_eq!(Rig::new(1, retry(2, &[500, 503])).send(&script, stream(&["ab", "cd"])).await, (Ok(500), 3));
    assert!(script.seen.borrow().iter().all(|(_, body)| body == "abcd"));
}

#[tokio::test(start_paused = true)]
async fn attempts_zero_means_one_try() {
    for step in [Step::Refused, Step::Status(500), Step::GrpcUnavailable] {
        let script = Script::new([step]);
        assert_eq!(Rig::new(3, retry(0, &[500])).send(&script, Body::Empty).await.1, 1, "{step:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_before_processing_are_retried_with_empty_codes() {
    for step in [Step::Refused, Step::RefusedFar, Step::GrpcUnavailable] {
        let script = Script::new([step, Step::Status(200)]);
        assert_eq!(Rig::new(2, retry(1, &[])).send(&script, Body::text("x")).await, (Ok(200), 2), "{step:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_prefers_endpoints_not_tried_and_then_comes_back() {
    let script = Script::new([Step::Refused; 4]);
    assert_eq!(Rig::new(2, retry(3, &[])).send(&script, Body::Empty).await.1, 4);
    let seen = script.seen.borrow();
    assert_ne!(seen[0].0, seen[1].0);
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_its_back_off_and_each_further_one_longer() {
    for backoff in [None, Some(Duration::from_millis(400))] {
        let script = Script::new([Step::Status(500); 4]);
        let rig = Rig::new(1, Some(Retry { attempts: 3, codes: vec![500], backoff }));
        assert_eq!(rig.send(&script, Body::Empty).await, (Ok(500), 4));
        let begun = script.begun.take();
        let base = backoff.unwrap_or(Duration::from_millis(25));
        for (nth, pair) in begun.windows(2).enumerate() {
            let (wait, least) = (pair[1] - pair[0], (base * (1 << nth)).min(Duration::from_secs(1)));
            // Timers round up to the next millisecond.
            let most = least.mul_f64(1.5) + Duration::from_millis(1);
            assert!(wait >= least && wait <= most, "{wait:?} before try {}, base {base:?}", nth + 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_retry_the_other_endpoint_is_tried_at_once() {
    let start = Instant::now();
    let script = Script::new([Step::Refused, Step::Status(200)]);
    assert_eq!(Rig::new(2, None).send(&script, Body::Empty).await, (Ok(200), 2));
    assert_eq!(since(start), 0);
}

#[tokio::test(start_paused = true)]
async fn the_request_timeout_spans_tries_and_back_off_and_is_the_answer() {
    let mut rig = Rig::new(1, retry(5, &[500]));
    let start = Instant::now();
    rig.timeouts.request = Some((start + Duration::from_millis(500), Reason::RequestTimeout));
    let script = Script::new([Step::Status(500), Step::Hang]);
    assert_eq!(rig.send(&script, Body::Empty).await, (Err(Reason::RequestTimeout), 2));
    assert_eq!(since(start), 500);
}

#[tokio::test(start_paused = true)]
async fn a_back_off_longer_than_the_request_timeout_ends_with_it() {
    let mut rig = Rig::new(1, retry(5, &[500]));
    let start = Instant::now();
    rig.retry = Some(Retry { attempts: 5, codes: vec![500], backoff: Some(Duration::from_secs(3600)) });
    rig.timeouts.request = Some((start + Duration::from_secs(100), Reason::RequestTimeout));
    let script = Script::new([Step::Status(500)]);
    assert_eq!(rig.send(&script, Body::Empty).await, (Err(Reason::RequestTimeout), 1));
    assert_eq!(since(start), 100_000);
}

#[tokio::test(start_paused = true)]
async fn the_backend_timeout_bounds_each_try_and_may_be_retried() {
    let mut rig = Rig::new(2, retry(2, &[]));
    let (start, limit) = (Instant::now(), Duration::from_secs(10));
    rig.timeouts.backend_request = Some(limit);
    let script = Script::new([Step::Hang, Step::Hang, Step::Status(200)]);
    assert_eq!(rig.send(&script, Body::text("x")).await, (Ok(200), 3));
    let begun = script.begun.take();
    assert!(begun.windows(2).all(|pair| pair[1] - pair[0] >= limit), "{begun:?}");
    assert!((20_075..20_120).contains(&since(start)), "{}", since(start));
    rig.retry = None;
    let start = Instant::now();
    let script = Script::new([Step::Hang]);
    assert_eq!(rig.send(&script, Body::Empty).await, (Err(Reason::BackendTimeout), 1));
    assert_eq!(since(start), 10_000);
}

#[tokio::test(start_paused = true)]
async fn the_earlier_of_both_limits_bounds_a_try_and_names_itself() {
    for (request, backend, reason, after) in
        [(3, 10, Reason::RequestTimeout, 3_000), (10, 3, Reason::BackendTimeout, 3_000)]
    {
        let (mut rig, start) = (Rig::new(1, None), Instant::now());
        rig.timeouts.request = Some((start + Duration::from_secs(request), Reason::RequestTimeout));
        rig.timeouts.backend_request = Some(Duration::from_secs(backend));
        let script = Script::new([Step::Hang]);
        assert_eq!(rig.send(&script, Body::Empty).await, (Err(reason), 1));
        assert_eq!(since(start), after);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_longer_than_what_is_kept_is_sent_whole_but_only_once() {
    let long = "x".repeat(crate::outbound::resilience::replay::KEPT + 1);
    let script = Script::new([Step::Status(500)]);
    assert_eq!(Rig::new(2, retry(3, &[500])).send(&script, Body::text(long.clone())).await, (Ok(500), 1));
    assert_eq!(script.seen.borrow()[0].1, long);
}

#[tokio::test(start_paused = true)]
async fn a_retry_replays_what_was_read_and_streams_the_rest() {
    let script = Script::new([Step::EarlyStatus(503, 3), Step::Status(200)]);
    assert_eq!(
        Rig::new(2, retry(1, &[503])).send(&script, stream(&["abc", "def", "ghi"])).await,
        (Ok(200), 2)
    );
    let seen = script.seen.borrow();
    assert_eq!((seen[0].1.as_str(), seen[1].1.as_str()), ("abc", "abcdefghi"));
}

#[tokio::test(start_paused = true)]
async fn beyond_the_budget_the_answer_is_passed_on_until_a_second_has_passed() {
    let rig = Rig::new(2, retry(1, &[500]));
    while rig.budget.take(Instant::now(), false) {}
    let script = Script::new([Step::Status(500)]);
    assert_eq!(rig.send(&script, Body::Empty).await, (Ok(500), 1));
    tokio::time::advance(Duration::from_millis(999)).await;
    let script = Script::new([Step::Status(500)]);
    assert_eq!(rig.send(&script, Body::Empty).await, (Ok(500), 1));
    tokio::time::advance(Duration::from_millis(1)).await;
    let script = Script::new([Step::Status(500), Step::Status(200)]);
    assert_eq!(rig.send(&script, Body::Empty).await, (Ok(200), 2));
}

#[tokio::test(start_paused = true)]
async fn beyond_the_budget_of_a_policy_the_answer_is_503_until_its_floor_allows_more() {
    let (interval, min_interval) = (Duration::from_secs(10), Duration::from_secs(30));
    let limits = RetryConstraint { percent: 20, interval, min_count: 1, min_interval };
    let rig = Rig { stated: Some(RetryBudget::new(limits)), ..Rig::new(2, retry(1, &[500])) };
    let fails = async || rig.send(&Script::new([Step::Status(500)]), Body::Empty).await;
    let retried = Script::new([Step::Status(500), Step::Status(200)]);
    assert_eq!(rig.send(&retried, Body::Empty).await, (Ok(200), 2), "the floor");
    assert_eq!(fails().await, (Err(Reason::RetryBudget), 1));
    // Of the requests so far a fifth may be retried, and one was.
    for _ in 0..3 {
        assert_eq!(rig.send(&Script::new([Step::Status(200)]), Body::Empty).await, (Ok(200), 1));
    }
    let retried = Script::new([Step::Status(500), Step::Status(200)]);
    assert_eq!(rig.send(&retried, Body::Empty).await, (Ok(200), 2), "two of six");
    assert_eq!(fails().await, (Err(Reason::RetryBudget), 1));
    tokio::time::advance(Duration::from_secs(31)).await;
    let retried = Script::new([Step::Status(500), Step::Status(200)]);
    assert_eq!(rig.send(&retried, Body::Empty).await, (Ok(200), 2), "the next floor");
    // Where no further try is asked for there is nothing to refuse.
    let nothing = RetryBudget::new(RetryConstraint { percent: 0, min_count: 0, ..limits });
    let plain = Rig { stated: Some(nothing), ..Rig::new(2, None) };
    let refused = Script::new([Step::Refused]);
    assert_eq!(plain.send(&refused, Body::Empty).await, (Err(Reason::ConnectFailed), 1));
    assert_eq!(plain.send(&Script::new([Step::Status(500)]), Body::Empty).await, (Ok(500), 1));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_refused_is_left_alone_and_then_tried_again() {
    let rig = Rig::new(2, None);
    let script = Script::new([Step::Refused, Step::Status(200)]);
    assert_eq!(rig.send(&script, Body::Empty).await, (Ok(200), 2));
    let bad = script.seen.borrow()[0].0;
    let called = async |count: usize| {
        let script = Script::new(vec![Step::Status(200); count]);
        for _ in 0..count {
            assert_eq!(rig.send(&script, Body::Empty).await, (Ok(200), 1));
        }
        script.seen.take().iter().filter(|(address, _)| *address == bad).count()
    };
    assert_eq!(called(50).await, 0);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(called(50).await, 0, "still preferred after half a minute");
    // What a failed connect counts as has faded below what an answer at once counts as.
    tokio::time::advance(Duration::from_secs(300)).await;
    assert!(called(50).await > 0);
}
