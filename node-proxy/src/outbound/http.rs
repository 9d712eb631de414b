//! HTTP from an enrolled pod, or at a Gateway's listener: every request on a connection is routed, filtered, balanced
//! and sent by the configuration that is current when it comes. What differs between the two is [`Origin`]'s. The phases stand in [`Connection::answer`] and [`Connection::by_rule`].

mod authorize;
mod claims;
pub mod mirrored;
pub mod refusal;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use weft_model::Reason;
use weft_model::route::{Backend, ExternalAuth, Filter};
use weft_model::service::AppProtocol;
use weft_model::session::SessionPersistence;
use weft_routing::table::is_grpc;
use weft_routing::{CompiledRule, ListenerEntry, Selection};

use self::authorize::Asking;
use self::claims::Claims;
use self::refusal::Refused;
use super::exchange::{Answered, Exchange, Transmit};
use super::filter::{self, Answer, Applied, Pending};
use super::origin::Origin;
use super::resilience::budget::Allowance;
use super::resilience::timeout::{Deadline, Timeouts};
use super::route::{Routed, Target, backend_of};
use super::session::{Session, Sessions};
use crate::body::Body;
use crate::call::{Claimed, Selected};
use crate::http_server::{self, Limits};
use crate::prefixed::Prefixed;
use crate::scope::say_goodbye;
use crate::send::{SendError, send_http};
use crate::state::Snapshot;
use crate::state::traffic::Traffic;
use crate::telemetry::{HttpLine, Named, Outcome, Protocol, Recorder, RuleName};
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
    sessions: &'a Sessions<'a>,
    grpc: bool,
}

/// A response, and when its body is cut off.
type Limited = (Response<Body>, Option<Deadline>);

impl Connection {
    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let start = Instant::now();
        let shared = &self.worker.shared;
        shared.retries.count_request(start);
        let snapshot = shared.snapshot.load_full();
        let grpc = is_grpc(request.headers());
        let outcome = self.outcome(&snapshot, &request, grpc);
        let mut recorder = Recorder::begin(&self.worker, outcome, start);
        let request = recorder.count_request(request);
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
        request: Request<Body>,
        grpc: bool,
        recorder: &mut Recorder,
    ) -> Result<Limited, Refused> {
        if !snapshot.is_configured() {
            let message = "this node's proxy has no configuration yet; check that the controller runs";
            return Err(Refused::new(Reason::NoConfiguration, message));
        }
        let (mut head, body) = request.into_parts();
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
        request: Request<Body>,
        recorder: &mut Recorder,
    ) -> Result<Limited, Refused> {
        let Last { snapshot, mut target, rule, sessions, grpc } = last;
        if grpc && matches!(target.protocol, AppProtocol::Unspecified | AppProtocol::Http) {
            target.protocol = AppProtocol::H2c;
        }
        let exchange = Exchange {
            transmit: Live { connection: self, claimed: self.claims.of(&recorder.outcome.labels, rule) },
            balancer: &self.worker.balancer,
            kept: self.origin.kept_endpoints(),
            session: sessions.at(&target),
            budget: Allowance::of(&self.worker.shared.retries, target.traffic.and_then(Traffic::budget)),
            snapshot,
            dialled: self.origin.family(),
            target: &target,
            retry: rule.and_then(|rule| rule.spec.retry.as_ref()),
            timeouts: rule.map(|rule| Timeouts::of(&rule.spec, recorder.start())).unwrap_or_default(),
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
        mut head: http::request::Parts,
        mut body: Body,
        recorder: &mut Recorder,
    ) -> Result<Limited, Refused> {
        let mut granted = Vec::new();
        for auth in filters {
            let Self { connection, snapshot, grpc, .. } = *self;
            let asking = Asking { connection, snapshot, rule: None, auth, grpc };
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
        head: http::request::Parts,
        body: Body,
        recorder: &mut Recorder,
    ) -> Result<Limited, Refused> {
        let Self { connection, snapshot, at, grpc } = *self;
        match connection.origin.decide(snapshot, at, &head, &mut recorder.outcome.labels)? {
            Routed::Plain(target) => {
                let sessions = Sessions::of_target(&target, |spec| connection.session(spec, &head));
                let last = Last { snapshot, target, rule: None, sessions: &sessions, grpc };
                let exchange = connection.exchange(last, Request::from_parts(head, body), recorder);
                let (mut response, deadline) = exchange.await?;
                sessions.tell(response.headers_mut());
                Ok((response, deadline))
            }
            Routed::Rule(selection) => {
                let phases = Phases { connection, snapshot, selection, grpc };
                phases.run(head, body, recorder).await
            }
        }
    }
}

/// A request that a rule decides about.
struct Phases<'a> {
    connection: &'a Connection,
    snapshot: &'a Arc<Snapshot>,
    selection: Selection<'a>,
    grpc: bool,
}

impl<'a> Phases<'a> {
    /// The rule's filters around everything else: its response filters also see refusals, so that a browser can
    /// read them (CORS).
    async fn run(
        &self,
        head: http::request::Parts,
        body: Body,
        recorder: &mut Recorder,
    ) -> Result<Limited, Refused> {
        let rule = self.selection.rule;
        let labels = &mut recorder.outcome.labels;
        labels.route = Some(Named::Known(rule.route.id.clone()));
        labels.rule = Some(rule.spec.name.clone().map_or(RuleName::Index(rule.index), RuleName::Name));
        if let Some(refusal) = &rule.refusal {
            return Err(Refused::new(Reason::InvalidRoute, &*refusal.message));
        }
        let read = |spec| self.connection.session(spec, &head);
        let sessions = Sessions::of_rule(&rule.spec, self.snapshot, read);
        let mut pending = Pending::default();
        let through = self.through_rule(head, body, &sessions, &mut pending, recorder);
        let (mut response, deadline) = match through.await {
            Ok(limited) => limited,
            Err(Answer::Filter(response)) => {
                recorder.outcome.labels.reason = Reason::AnsweredByFilter;
                (*response, None)
            }
            Err(Answer::Denied(response, deadline)) => {
                recorder.outcome.labels.reason = Reason::AuthDenied;
                (*response, deadline)
            }
            Err(Answer::Refused(refused)) => (refuse(&refused, self.grpc, &mut recorder.outcome), None),
        };
        filter::apply_to_response(&rule.spec.filters, &pending, response.headers_mut())?;
        sessions.tell(response.headers_mut());
        Ok((response, deadline))
    }

    /// The rule's request filters, its backend, and the backend's filters around the exchange.
    async fn through_rule(
        &self,
        mut head: http::request::Parts,
        mut body: Body,
        sessions: &Sessions<'_>,
        pending: &mut Pending<'a>,
        recorder: &mut Recorder,
    ) -> Result<Limited, Answer> {
        let rule = self.selection.rule;
        self.filter_request(&rule.spec.filters, (&mut head, &mut body), pending, recorder).await?;
        let backend = rule.next_backend();
        let target = backend_of(self.snapshot, backend)?;
        recorder.outcome.labels.backend.clone_from(&target.service);
        let backend_filters = backend.map_or(&[][..], |backend: &Backend| &backend.filters);
        let mut of_backend = Pending::default();
        self.filter_request(backend_filters, (&mut head, &mut body), &mut of_backend, recorder).await?;
        let copies = pending.copies.drain(..).chain(of_backend.copies.drain(..)).collect();
        let body = mirrored::send_copies(self.connection, self.snapshot, copies, body);
        let request = Request::from_parts(head, body);
        let last = Last { snapshot: self.snapshot, target, rule: Some(rule), sessions, grpc: self.grpc };
        let (mut response, deadline) = self.connection.exchange(last, request, recorder).await?;
        filter::apply_to_response(backend_filters, &of_backend, response.headers_mut())?;
        Ok((response, deadline))
    }

    /// All of `filters`, in their order, asking where one has to ask.
    async fn filter_request<'f>(
        &self,
        filters: &'f [Filter],
        (head, body): (&mut http::request::Parts, &mut Body),
        pending: &mut Pending<'f>,
        recorder: &mut Recorder,
    ) -> Result<(), Answer> {
        let mut rest = filters;
        while let Applied::Ask(auth, after) = filter::apply_to_request(rest, self.context(), head, pending)? {
            let asking = Asking {
                connection: self.connection,
                snapshot: self.snapshot,
                rule: Some(self.selection.rule),
                auth,
                grpc: self.grpc,
            };
            // Boxed: few requests are asked about, and all would carry its size.
            let granted = Box::pin(asking.run(head, body, recorder)).await?;
            pending.granted.extend(granted);
            rest = after;
        }
        Ok(())
    }

    fn context(&self) -> filter::Context<'a> {
        filter::Context {
            turns: &self.connection.worker.mirrors,
            matched: self.selection.matched,
            port: self.connection.origin.dialled().port(),
            scheme: self.connection.origin.scheme(),
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
        request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let Connection { worker, origin, .. } = self.connection;
        send_http(worker, &origin.sender, origin.peer, selected, self.claimed.clone(), request).await
    }
}

#[cfg(test)]
pub(crate) mod tests;
