//! Probes of the kubelet to a pod that admits no plaintext (`dataplane.md` rule 14). They come from one of the node's own
//! addresses, as masqueraded clients do; so the agent says who has the caller's socket, and a process of the node that
//! belongs to no pod may do what the pod declares as its probes, and nothing else.

mod allowed;
mod forward;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use weft_api::node::CallerKind;
use weft_api::probe::{Probe, ProbeAction};
use weft_model::Reason;

use super::tcp::{Destination, Spoken, spoken};
use super::{plaintext, record};
use crate::body::Body;
use crate::call::Caller;
use crate::http_server::{self, HttpVersion, Limits};
use crate::outbound::http::refusal::Refused;
use crate::pod::LocalPod;
use crate::prefixed::Prefixed;
use crate::send::SendError;
use crate::tunnel::dial::Failure;
use crate::worker::WorkerRef;

/// How long the first bytes are waited for: every probe but the bare TCP one begins by sending some.
const FIRST_BYTES: Duration = Duration::from_secs(10);
/// The longest first line that is waited for.
const FIRST_LINE: usize = 8 * 1024;
/// The first byte of TLS (RFC 8446 §5.1, `handshake`).
const TLS: u8 = 0x16;

/// May a connection that was refused for `failure` be a probe? A probe needs neither mutual TLS nor a configuration.
pub(super) fn may_be(destination: &Destination<'_>, failure: &Failure) -> bool {
    let Destination { worker, pod, to, caller } = destination;
    matches!(failure.reason, Reason::PlaintextRefused | Reason::NoConfiguration)
        && worker.shared.agent.is_of_node(caller.address.ip())
        && pod.enrolled.addresses.contains(&to.ip())
        && pod.enrolled.probes.iter().any(|probe| probe.port == to.port())
}

/// Serves a connection that [`may_be`] a probe; one that is none is refused, as it would have been, for `failure`.
pub(super) async fn serve(destination: &Destination<'_>, mut stream: TcpStream, failure: Failure) {
    let declared: Vec<ProbeAction> = declared(destination.pod, destination.to.port()).cloned().collect();
    let mut first = Vec::new();
    let opening = tokio::time::timeout(FIRST_BYTES, opening(&mut stream, &mut first)).await;
    let verdict = match opening {
        Ok(Opening::Silent) if declared.contains(&ProbeAction::Tcp) => {
            return destination.record().end(Reason::Ok, Some("a TCP probe"));
        }
        Err(_) | Ok(Opening::Silent) => Err(failure),
        Ok(opening) => admitted(destination, failure).await.map(|()| opening),
    };
    let has = |this: fn(&ProbeAction) -> bool| declared.iter().any(this);
    match verdict {
        Err(failure) => plaintext::refuse(destination, stream, &failure),
        Ok(Opening::Tls) if has(|action| *action == ProbeAction::Https) => {
            destination.pass(stream, first).await;
        }
        Ok(Opening::Http(HttpVersion::Http1)) if has(|action| matches!(action, ProbeAction::Http { .. })) => {
            serve_http(destination, Prefixed::new(first.into(), stream), HttpVersion::Http1, declared).await;
        }
        Ok(Opening::Http(HttpVersion::Http2)) if has(|action| matches!(action, ProbeAction::Grpc { .. })) => {
            serve_http(destination, Prefixed::new(first.into(), stream), HttpVersion::Http2, declared).await;
        }
        Ok(opening) => {
            let message = format!(
                "a process of the node itself began by {opening}, and no probe of port {} does",
                destination.to.port()
            );
            plaintext::refuse(destination, stream, &Failure::new(Reason::ProbeRefused, message));
        }
    }
}

fn declared(pod: &LocalPod, port: u16) -> impl Iterator<Item = &ProbeAction> {
    let of_port = move |probe: &&Probe| probe.port == port;
    pod.enrolled.probes.iter().filter(of_port).map(|probe| &probe.action)
}

/// How a caller begins.
#[derive(Debug, PartialEq, Eq)]
enum Opening {
    /// It left without a word.
    Silent,
    Tls,
    Http(HttpVersion),
    Other,
}

impl std::fmt::Display for Opening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Silent => "nothing",
            Self::Tls => "TLS",
            Self::Http(HttpVersion::Http1) => "HTTP/1",
            Self::Http(HttpVersion::Http2) => "HTTP/2",
            Self::Other => "bytes that are neither HTTP nor TLS",
        })
    }
}

async fn opening(stream: &mut TcpStream, first: &mut Vec<u8>) -> Opening {
    loop {
        let read = stream.read_buf(first).await;
        if first.is_empty() {
            return Opening::Silent;
        }
        if first.first() == Some(&TLS) {
            return Opening::Tls;
        }
        match spoken(first) {
            Spoken::Http(version) => return Opening::Http(version),
            Spoken::Unclear if matches!(read, Ok(1..)) && first.len() < FIRST_LINE => {}
            Spoken::Unclear | Spoken::Bytes => return Opening::Other,
        }
    }
}

/// Is the caller a process of the node that belongs to no pod?
async fn admitted(destination: &Destination<'_>, failure: Failure) -> Result<(), Failure> {
    let Destination { worker, to, caller, .. } = destination;
    let message = match worker.shared.agent.who_calls(caller.address, *to).await {
        Some(CallerKind::Host) => return Ok(()),
        Some(CallerKind::Pod | CallerKind::Nobody) => return Err(failure),
        Some(CallerKind::Unknown { message }) => message,
        None => "the agent did not answer in time; is it running?".to_owned(),
    };
    let message = format!("cannot tell whether {} is the kubelet: {message}", caller.address);
    Err(Failure::new(Reason::NoAgent, message))
}

/// What a request is judged by and sent with.
#[derive(Clone)]
struct Probed {
    worker: WorkerRef,
    pod: Arc<LocalPod>,
    to: SocketAddr,
    caller: Caller,
    declared: Rc<[ProbeAction]>,
}

async fn serve_http(
    destination: &Destination<'_>,
    stream: Prefixed<TcpStream>,
    version: HttpVersion,
    declared: Vec<ProbeAction>,
) {
    let Destination { worker, pod, to, caller } = destination;
    let probed = Probed {
        worker: (*worker).clone(),
        pod: (*pod).clone(),
        to: *to,
        caller: (*caller).clone(),
        declared: declared.into(),
    };
    let handler = move |request: Box<Request<Body>>| answer(probed.clone(), request);
    let limits = Limits { header_timeout: FIRST_BYTES, streams: 8, ..Limits::default() };
    let closing = pod.scope.closing.cancelled();
    if let Err(ended) = http_server::serve(stream, version, &limits, closing, handler).await {
        destination.record().refuse(ended.reason, &ended.message);
    }
}

/// Judges one request, and sends what is left of it.
async fn answer(probed: Probed, mut request: Box<Request<Body>>) -> Response<Body> {
    let Probed { worker, pod, to, caller, declared } = &probed;
    let mut recorder = record::request(worker, pod, *to, caller, &request);
    let grpc = request.version() == http::Version::HTTP_2;
    recorder.count_request(&mut request);
    let request = match allowed::request(declared, *to, *request).await {
        Ok(request) => request,
        Err(message) => {
            worker.shared.agent.refused(&pod.enrolled.uid, to.port(), caller.address);
            recorder.refuse(Reason::ProbeRefused, &message);
            let mut response = Refused::new(Reason::ProbeRefused, message).response(grpc);
            if !grpc {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            return response;
        }
    };
    match forward::request(worker, pod, *to, caller.address, request).await {
        Ok(response) => recorder.attach(response, None),
        Err(error) => {
            recorder.failed(&error);
            failed(error, grpc)
        }
    }
}

fn failed(error: SendError, grpc: bool) -> Response<Body> {
    Refused::from(error).response(grpc)
}

#[cfg(test)]
mod tests;
