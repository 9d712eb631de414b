//! Asks an authorization server whether a request may pass (`ExternalAuth`, GEP-1494). Whatever is not its clear yes
//! refuses the request.

mod grpc;

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap};
use http::{Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use weft_model::Reason;
use weft_model::route::{AuthProtocol, BackendTarget, ExternalAuth};
use weft_routing::CompiledRule;

use super::refusal::{Refused, denied_grpc};
use super::{Connection, Live};
use crate::body::{Body, BodyError};
use crate::call::Claimed;
use crate::outbound::exchange::{Answered, Exchange};
use crate::outbound::filter::Answer;
use crate::outbound::filter::auth::{self, Edit};
use crate::outbound::filter::mirror::Piece;
use crate::outbound::resilience::budget::Allowance;
use crate::outbound::resilience::timeout::{Deadline, Timeouts, until};
use crate::outbound::route::Target;
use crate::state::Snapshot;
use crate::state::traffic::Traffic;
use crate::telemetry::{Labels, Outcome, Recorder, Security};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a caller may take to send a body that a server is to be shown.
const BODY_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that are read of a body which nobody wants, so that its connection can be used again.
const DRAINED: usize = 64 * 1024;

/// A request that an authorization server decides about.
pub(super) struct Asking<'a> {
    pub(super) connection: &'a Connection,
    pub(super) snapshot: &'a Arc<Snapshot>,
    pub(super) rule: Option<&'a Arc<CompiledRule>>,
    /// The end of the whole request.
    pub(super) limit: Option<Deadline>,
    pub(super) auth: &'a ExternalAuth,
    /// The caller speaks gRPC.
    pub(super) grpc: bool,
}

impl Asking<'_> {
    /// Asks, and changes the request as the server wants it. Gives back what is to be changed in the response.
    ///
    /// # Errors
    /// What the server has the caller told, or a refusal where it said nothing that counts.
    pub(super) async fn run(
        &self,
        head: &mut http::request::Parts,
        body: &mut Body,
        recorder: &mut Recorder,
    ) -> Result<Vec<Edit>, Answer> {
        let shown = self.show(head, body).await?;
        let deadline = self.deadline(PATIENCE, Reason::AuthFailed);
        match &self.auth.protocol {
            AuthProtocol::Http { prefix, allowed_headers, allowed_response_headers } => {
                let question = auth::question(prefix, allowed_headers, head, shown)?;
                let answered = self.ask(question, deadline, recorder).await?;
                self.judge_http(answered, allowed_response_headers, head, recorder)
            }
            AuthProtocol::Grpc { allowed_headers } => {
                let check = grpc::Asked {
                    origin: &self.connection.origin,
                    protocol: recorder.outcome.labels.protocol,
                    size: body.size_hint().exact(),
                };
                let question = grpc::question(check.about(head, allowed_headers, shown));
                let answered = self.ask(question, deadline, recorder).await?;
                let decision = match until(Some(deadline), pin!(grpc::read(answered))).await {
                    Ok(decision) => decision?,
                    Err(reason) => return Err(out_of_time(reason).into()),
                };
                match grpc::judge(decision, &mut head.headers)? {
                    Ok(edits) => Ok(edits),
                    Err(response) => Err(self.denied(*response)),
                }
            }
        }
    }

    /// What of the request's body the server is shown. The body is kept for the backend.
    async fn show(&self, head: &http::request::Parts, body: &mut Body) -> Result<Bytes, Refused> {
        let most = self.auth.max_body as usize;
        if most == 0 || body.is_end_stream() {
            return Ok(Bytes::new());
        }
        let announced =
            head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if body.size_hint().lower().max(announced.unwrap_or(0)) > most as u64 {
            return Err(too_large(most));
        }
        let deadline = self.deadline(BODY_PATIENCE, Reason::BadRequest);
        let read = pin!(gather(std::mem::replace(body, Body::Empty), most));
        let (kept, shown) = match until(Some(deadline), read).await {
            Ok(gathered) => gathered?,
            Err(Reason::BadRequest) => {
                let message = format!("the body did not come within {} s", BODY_PATIENCE.as_secs());
                return Err(Refused::new(Reason::BadRequest, message));
            }
            Err(reason) => return Err(out_of_time(reason)),
        };
        *body = kept;
        Ok(shown)
    }

    /// In `patience`, but not after the request's own limit.
    fn deadline(&self, patience: Duration, reason: Reason) -> Deadline {
        let own = (Instant::now() + patience, reason);
        self.limit.filter(|limit| limit.0 < own.0).unwrap_or(own)
    }

    /// Sends the question to one of the server's endpoints, as any request is sent to a backend.
    async fn ask(
        &self,
        question: Request<Body>,
        deadline: Deadline,
        recorder: &mut Recorder,
    ) -> Result<Answered, Refused> {
        let connection = self.connection;
        let target = match &self.auth.server {
            BackendTarget::Service { service, port, protocol } => {
                Target::service(self.snapshot, service, *port, *protocol)
            }
            BackendTarget::Invalid { message } => {
                return Err(Refused::new(Reason::InvalidBackend, format!("ExternalAuth: {message}")));
            }
        };
        let service = target.service.as_ref().map(|(service, _)| service.to_string().into());
        let claimed = Claimed { service, route: self.rule.map(|rule| rule.label().into()) };
        let exchange = Exchange {
            transmit: Live { connection, claimed },
            balancer: &connection.worker.balancer,
            kept: connection.origin.kept_endpoints(),
            budget: Allowance::of(
                &connection.worker.shared.retries,
                target.traffic.and_then(Traffic::budget),
            ),
            snapshot: self.snapshot,
            dialled: connection.origin.family(),
            target: &target,
            session: None,
            retry: None,
            timeouts: Timeouts::default(),
        };
        // What becomes of the question is not what becomes of the request.
        let of = &recorder.outcome.labels;
        let mut aside =
            Outcome::new(Labels::new(of.reporter, of.source.clone(), of.protocol, Security::None));
        let ended = until(Some(deadline), pin!(exchange.run(Box::new(question), &mut aside))).await;
        let message = match ended {
            Ok(Ok(answered)) => return Ok(answered),
            Ok(Err(refused)) => {
                let details = aside.message.map_or_else(|| refused.message.clone(), |text| text.to_string());
                recorder.outcome.message = Some(format!("{}: {details}", self.described()).into());
                format!("the authorization server could not be asked: {}", refused.reason)
            }
            Err(reason) => return Err(out_of_time(reason)),
        };
        Err(Refused::new(Reason::AuthFailed, message))
    }

    /// The server, for the log.
    fn described(&self) -> String {
        match &self.auth.server {
            BackendTarget::Service { service, port, .. } => format!("authorization server {service}:{port}"),
            BackendTarget::Invalid { .. } => "authorization server".to_owned(),
        }
    }

    /// 200 lets the request pass, with what the answer adds to it; any other status is the caller's. A server that says
    /// of itself that it failed (5xx) has not judged.
    fn judge_http(
        &self,
        answered: Answered,
        allowed: &[weft_model::Text],
        head: &mut http::request::Parts,
        recorder: &mut Recorder,
    ) -> Result<Vec<Edit>, Answer> {
        let Answered { response, in_flight, .. } = answered;
        let status = response.status();
        if status == StatusCode::OK {
            let (answer, body) = response.into_parts();
            auth::tell(allowed, &answer.headers, &mut head.headers);
            drain(body, in_flight);
            return Ok(Vec::new());
        }
        if status.is_redirection() || status.is_client_error() {
            recorder.in_flight = Some(in_flight);
            return Err(self.denied(response));
        }
        drain(response.into_body(), in_flight);
        let (reason, message) = if status.is_success() {
            let message =
                format!("the authorization server answered {status}, and only 200 lets a request pass");
            (Reason::AuthDenied, message)
        } else {
            (Reason::AuthFailed, format!("the authorization server answered {status}"))
        };
        Err(Refused::new(reason, message).into())
    }

    /// The server's own answer, as its caller can read it.
    fn denied(&self, response: Response<Body>) -> Answer {
        let deadline = Some((Instant::now() + BODY_PATIENCE, Reason::AuthDenied));
        if !self.grpc {
            return Answer::Denied(Box::new(response), deadline);
        }
        let (head, _) = response.into_parts();
        let own = |name: &http::HeaderName| !name.as_str().starts_with("content-");
        let headers: HeaderMap = head.headers.iter().filter(|(name, _)| own(name)).map(clone).collect();
        Answer::Denied(Box::new(denied_grpc(head.status, headers)), None)
    }
}

fn clone((name, value): (&http::HeaderName, &http::HeaderValue)) -> (http::HeaderName, http::HeaderValue) {
    (name.clone(), value.clone())
}

fn too_large(most: usize) -> Refused {
    let message = format!("the body is longer than the {most} bytes that the authorization server is shown");
    Refused::new(Reason::BodyTooLarge, message)
}

fn out_of_time(reason: Reason) -> Refused {
    match reason {
        Reason::AuthFailed => {
            let message = format!("the authorization server did not answer within {} s", PATIENCE.as_secs());
            Refused::new(reason, message)
        }
        _ => Refused::new(reason, "the route's timeouts.request ran out"),
    }
}

/// Reads a body that nobody wants, apart from the request.
fn drain(mut body: Body, in_flight: crate::outbound::balance::InFlight) {
    if body.is_end_stream() {
        return;
    }
    tokio::task::spawn_local(async move {
        let read = async {
            let mut left = DRAINED;
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len);
                let Some(less) = left.checked_sub(length) else { return };
                left = less;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, read).await;
        drop(in_flight);
    });
}

/// Reads a whole body of at most `most` bytes: once to be sent on, with its trailers, and its bytes to be shown.
async fn gather(mut body: Body, most: usize) -> Result<(Body, Bytes), Refused> {
    let length = body.size_hint().exact();
    let (mut pieces, mut shown) = (VecDeque::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Refused::new(Reason::DownstreamReset, format!("the body did not come whole: {error}"))
        })?;
        if let Some(data) = frame.data_ref() {
            if shown.len() + data.len() > most {
                return Err(too_large(most));
            }
            shown.extend_from_slice(data);
        }
        pieces.extend(Piece::of(&frame));
    }
    Ok((Body::boxed(Gathered { pieces, length }), shown.freeze()))
}

/// A body that was read before.
struct Gathered {
    pieces: VecDeque<Piece>,
    /// The bytes still to come, if the caller had said how many: what it did not say is not said for it.
    length: Option<u64>,
}

impl http_body::Body for Gathered {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let piece = self.pieces.pop_front();
        if let (Some(length), Some(piece)) = (&mut self.length, &piece) {
            *length = length.saturating_sub(piece.len() as u64);
        }
        Poll::Ready(piece.map(|piece| Ok(piece.into_frame())))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
