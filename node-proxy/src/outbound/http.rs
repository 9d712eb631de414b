//! HTTP from an enrolled pod, or at a Gateway's listener: every request on a connection is routed, filtered, balanced
//! and sent by the configuration that is current when it comes. What differs between the two is [`Origin`]'s. The phases stand in
//! [`Connection::answer`] and [`Phases`].

mod authorize;
mod claims;
pub mod mirrored;
mod phases;
pub mod refusal;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use weft_model::Reason;
use weft_model::route::{ExternalAuth, Retry};
use weft_model::service::AppProtocol;
use weft_model::session::SessionPersistence;
use weft_routing::table::is_grpc;
use weft_routing::{CompiledRule, ListenerEntry};

use self::authorize::Asking;
use self::claims::Claims;
use self::phases::Phases;
use self::refusal::Refused;
use super::exchange::{Answered, Exchange, Transmit};
use super::filter::Answer;
use super::origin::Origin;
use super::resilience::budget::Allowance;
use super::resilience::timeout::{Deadline, Timeouts};
use super::route::{Routed, Target};
use super::session::{Session, Sessions};
use crate::body::Body;
use crate::call::{Claimed, Selected};
use crate::http_server::{self, Limits};
use crate::prefixed::Prefixed;
use crate::scope::say_goodbye;
use crate::send::{SendError, send_http};
use crate::state::Snapshot;
use crate::state::traffic::Traffic;
use crate::telemetry::{HttpLine, Outcome, Protocol, Recorder};
use crate::worker::WorkerRef;

/// Serves HTTP/1.1, or HTTP/2 when the connection begins with its preface, until the connection ends.
/// `prefix` is what was already read of it.
pub async fn serve<I>(worker: &WorkerRef, origin: Origin, stream: I, prefix: Bytes)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = Limits::default();
    let mut io = Prefixed::new(prefix, stream);
    let scope = Arc::clone(&origin.scope);
    let connection = Rc::new(Connection { worker: Rc::clone(worker), origin, claims: Claims::default() });
    let first = tokio::time::timeout(limits.header_timeout, io.http_version());
    let Some(Ok(Ok(version))) = scope.hurry.run_until_cancelled(first).await else {
        return; // Ended, or idle for too long, before its first request.
    };
    let of_requests = Rc::clone(&connection);
    let handler = move |request| {
        let connection = Rc::clone(&of_requests);
        async move {
            let mut response = connection.handle(request).await;
            say_goodbye(&connection.origin.scope.closing, version, &mut response);
            response
        }
    };
    let closing = scope.parted(version, &scope.closing);
    if let Err(ended) = http_server::serve(io, version, &limits, closing, handler).await {
        connection.tell_end(ended);
    }
}

/// A connection that speaks HTTP.
#[derive(Debug)]
struct Connection {
    worker: WorkerRef,
    origin: Origin,
    claims: Claims,
}

/// What the last phases need to know of the ones before.
struct Last<'a> {
    snapshot: &'a Snapshot,
    target: Target<'a>,
    rule: Option<&'a Arc<CompiledRule>>,
    retry: Option<&'a Retry>,
    timeouts: Timeouts,
    session: Option<&'a Session<'a>>,
    grpc: bool,
}

/// A response, and when its body is cut off.
type Limited = (Response<Body>, Option<Deadline>);

impl Connection {
    async fn handle(&self, mut request: Box<Request<Body>>) -> Response<Body> {
        let start = Instant::now();
        let shared = &self.worker.shared;
        shared.retries.count_request(start);
        let snapshot = shared.snapshot.load_full();
        let grpc = is_grpc(request.headers());
        let outcome = self.outcome(&snapshot, &request, grpc);
        let mut recorder = Recorder::begin(&self.worker, outcome, start);
        recorder.count_request(&mut request);
        let (response, deadline) = match self.answer(&snapshot, request, grpc, &mut recorder).await {
            Ok(limited) => limited,
            Err(refused) => (refuse(&refused, grpc, &mut recorder.outcome), None),
        };
        recorder.attach(response, deadline)
    }

    fn outcome(&self, snapshot: &Snapshot, request: &Request<Body>, grpc: bool) -> Outcome {
        let protocol = match request.version() {
            _ if grpc => Protocol::Grpc,
            http::Version::HTTP_2 => Protocol::Http2,
            _ => Protocol::Http1,
        };
        let mut outcome = self.origin.outcome(snapshot, protocol);
        if self.worker.shared.telemetry.logs_requests() {
            let host = request.headers().get(http::header::HOST).cloned();
            let (method, uri) = (request.method().clone(), request.uri().clone());
            let client = self.origin.client(&self.worker.shared.config, request.headers());
            outcome.http = Some(HttpLine { method, uri, host, client });
        }
        outcome
    }

    /// What every request goes through.
    async fn answer(
        &self,
        snapshot: &Arc<Snapshot>,
        request: Box<Request<Body>>,
        grpc: bool,
        recorder: &mut Recorder,
    ) -> Result<Limited, Refused> {
        if !snapshot.is_configured() {
            let message = "this node's proxy has no configuration yet; check that the controller runs";
            return Err(Refused::new(Reason::NoConfiguration, message));
        }
        let admitted = self.worker.shared.memory.admit();
        admitted.map_err(|message| Refused::new(Reason::Overloaded, message))?;
        let (head, body) = request.into_parts();
        let mut head = Box::new(head);
        self.origin.announce(&mut head);
        if !grpc && self.origin.is_gateway() {
            // What a client speaks with a Gateway says nothing about backends: those that declare nothing get HTTP/1.1.
            head.version = http::Version::HTTP_11;
        }
        let at = self.origin.admit(snapshot, &head, &mut recorder.outcome.labels)?;
        let arrived = Arrived { connection: self, snapshot, at, grpc };
        match at.map(|entry| &*entry.listener.filters) {
            // Boxed: few requests are filtered so, and all would carry its size.
            Some(filters @ [_, ..]) => Box::pin(arrived.filtered(filters, head, body, recorder)).await,
            _ => arrived.routed(head, body, recorder).await,
        }
    }

    /// The last phases: balance, send, try again, under the rule's limits.
    async fn exchange(
        &self,
        last: Last<'_>,
        request: Box<Request<Body>>,
        recorder: &mut Recorder,
    ) -> Result<Limited, Refused> {
        let Last { snapshot, mut target, rule, retry, timeouts, session, grpc } = last;
        if grpc && matches!(target.protocol, AppProtocol::Unspecified | AppProtocol::Http) {
            target.protocol = AppProtocol::H2c;
        }
        let exchange = Exchange {
            transmit: Live { connection: self, claimed: self.claims.of(&recorder.outcome.labels, rule) },
            balancer: &self.worker.balancer,
            kept: self.origin.kept_endpoints(),
            session,
            budget: Allowance::of(&self.worker.shared.retries, target.traffic.and_then(Traffic::budget)),
            snapshot,
            dialled: self.origin.family(),
            target: &target,
            retry,
            timeouts,
        };
        let Answered { response, in_flight, deadline } = exchange.run(request, &mut recorder.outcome).await?;
        recorder.in_flight = Some(in_flight);
        Ok((response, deadline))
    }

    /// What a request says of a session.
    fn session<'r>(&self, spec: &'r SessionPersistence, head: &http::request::Parts) -> Session<'r> {
        let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
        Session::read(spec, &head.headers, self.origin.scheme() == "https", now)
    }

    /// A connection that did not end in order: what hyper refused before it was a request.
    fn tell_end(&self, ended: http_server::Ended) {
        let snapshot = self.worker.shared.snapshot.load_full();
        let mut outcome = self.origin.outcome(&snapshot, Protocol::Tcp);
        outcome.destination_address = Some(self.origin.dialled());
        outcome.labels.reason = ended.reason;
        outcome.message = Some(ended.message.into());
        self.worker.shared.telemetry.record(&outcome);
    }
}

/// A request that is for a pod's own call or for a listener.
struct Arrived<'a> {
    connection: &'a Connection,
    snapshot: &'a Arc<Snapshot>,
    /// The listener.
    at: Option<&'a Arc<ListenerEntry>>,
    grpc: bool,
}

impl Arrived<'_> {
    /// The listener's filters around everything else (GEP-5224): all run before the route is chosen, which is done once.
    async fn filtered(
        &self,
        filters: &[ExternalAuth],
        mut head: Box<http::request::Parts>,
        mut body: Body,
        recorder: &mut Recorder,
    ) -> Result<Limited, Refused> {
        let mut granted = Vec::new();
        for auth in filters {
            let Self { connection, snapshot, grpc, .. } = *self;
            let asking = Asking { connection, snapshot, rule: None, limit: None, auth, grpc };
            match asking.run(&mut head, &mut body, recorder).await {
                Ok(edits) => granted.extend(edits),
                Err(Answer::Filter(response)) => return Ok((*response, None)),
                Err(Answer::Denied(response, deadline)) => {
                    recorder.outcome.labels.reason = Reason::AuthDenied;
                    return Ok((*response, deadline));
                }
                Err(Answer::Refused(refused)) => return Err(refused),
            }
        }
        let (mut response, deadline) = self.routed(head, body, recorder).await?;
        granted.iter().for_each(|edit| edit.apply(response.headers_mut()));
        Ok((response, deadline))
    }

    /// Route, then either a rule's phases or plain forwarding.
    async fn routed(
        &self,
        head: Box<http::request::Parts>,
        body: Body,
        recorder: &mut Recorder,
    ) -> Result<Limited, Refused> {
        let Self { connection, snapshot, at, grpc } = *self;
        match connection.origin.decide(snapshot, at, &head, &mut recorder.outcome.labels)? {
            Routed::Plain(target) => {
                let sessions = Sessions::of_target(&target, |spec| connection.session(spec, &head));
                let (rule, retry, timeouts) = (None, None, Timeouts::default());
                let session = sessions.at(&target);
                let last = Last { snapshot, target, rule, retry, timeouts, session, grpc };
                let request = Box::new(Request::from_parts(*head, body));
                let (mut response, deadline) = connection.exchange(last, request, recorder).await?;
                sessions.tell(response.headers_mut());
                Ok((response, deadline))
            }
            Routed::Rule(selection) => {
                let obeys = at.is_some_and(|entry| entry.listener.service_routes);
                let phases = Phases { connection, snapshot, selection, grpc, obeys, after: None };
                phases.run(head, body, Vec::new(), recorder).await
            }
        }
    }
}

fn refuse(refused: &Refused, grpc: bool, outcome: &mut Outcome) -> Response<Body> {
    outcome.labels.reason = refused.reason;
    if outcome.message.is_none() {
        outcome.message = Some(refused.message.as_str().into());
    }
    refused.response(grpc)
}

/// The authority of a request: of its URI, else its `Host` field.
pub(crate) fn authority_of(head: &http::request::Parts) -> &str {
    let of_field = || head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    head.uri.authority().map(http::uri::Authority::as_str).or_else(of_field).unwrap_or_default()
}

/// Sends for real.
struct Live<'a> {
    connection: &'a Connection,
    claimed: Claimed,
}

impl Transmit for Live<'_> {
    async fn transmit(
        &self,
        selected: &Selected,
        request: Box<Request<Body>>,
    ) -> Result<Response<Body>, SendError> {
        let Connection { worker, origin, .. } = self.connection;
        send_http(worker, &origin.sender, origin.peer, selected, self.claimed.clone(), request).await
    }
}

#[cfg(test)]
pub(crate) mod tests;
