//! Byte streams for an application of this node. A stream whose first line is that of an HTTP request is served as
//! HTTP, so that nobody can pass an `x-forwarded-client-cert` of his own making to an application by calling it "bytes".

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_model::Reason;
use weft_model::workload::WorkloadProtocol;

use super::watched::Watched;
use super::{authorize, forward, handle_http, record};
use crate::body::Body;
use crate::call::Caller;
use crate::http_server::{self, HttpVersion, Limits};
use crate::pod::LocalPod;
use crate::prefixed::Prefixed;
use crate::relay::{Duplex, How, RelayEnd, relay};
use crate::scope::say_goodbye;
use crate::send::SendError;
use crate::telemetry::Recorder;
use crate::tunnel::dial::Failure;
use crate::tunnel::trusted::is_distrust;
use crate::worker::WorkerRef;

/// The longest first line that is waited for.
const FIRST_LINE: usize = 8 * 1024;

/// Where a byte stream goes, and for whom.
pub(crate) struct Destination<'a> {
    pub(crate) worker: &'a WorkerRef,
    pub(crate) pod: &'a Arc<LocalPod>,
    pub(crate) to: SocketAddr,
    pub(crate) caller: &'a Caller,
}

impl Destination<'_> {
    /// Connects to the application, if the caller may.
    pub(crate) async fn connect(&self) -> Result<TcpStream, Failure> {
        let snapshot = self.worker.shared.snapshot.load_full();
        authorize::connection(&snapshot, self.pod, self.to.port(), self.caller)?;
        forward::connect(self.worker, self.pod, self.to, self.caller.address).await
    }

    pub(crate) fn record(&self) -> Box<Recorder> {
        record::connection(self.worker, self.pod, self.to, self.caller)
    }

    /// Carries `client`'s bytes to the application that [`Self::connect`] connected to, until both have ended.
    pub(crate) async fn carry<C: Duplex + Send + 'static>(&self, mut client: C, application: TcpStream) {
        let recorder = self.record();
        let patience = self.worker.shared.config.peek;
        let mut first = Vec::new();
        let spoken = first_bytes(&mut client, &application, &mut first, patience).await;
        if let Spoken::Http(version) = spoken {
            // The application is connected to anew for requests; this connection has shown that it listens.
            drop(application);
            recorder.end(Reason::Ok, Some("served as HTTP"));
            return self.serve_http(Prefixed::new(first.into(), client), version).await;
        }
        let ended = if spoken == Spoken::Unclear {
            let watched = Watched::new(&first, client);
            self.relay(Prefixed::new(first.into(), watched), application).await
        } else {
            self.relay(Prefixed::new(first.into(), client), application).await
        };
        conclude(recorder, &ended);
    }

    /// Carries bytes to the application unread, `first` before those that are still to come.
    pub(super) async fn pass<C: Duplex>(&self, client: C, first: Vec<u8>) {
        let recorder = self.record();
        match forward::connect(self.worker, self.pod, self.to, self.caller.address).await {
            Ok(application) => {
                conclude(recorder, &self.relay(Prefixed::new(first.into(), client), application).await);
            }
            Err(failure) => {
                let mut client = client;
                client.reset_on_drop();
                recorder.failed(&failure.into());
            }
        }
    }

    async fn relay(&self, client: impl Duplex, application: TcpStream) -> RelayEnd {
        // A closing pod lets its byte streams end by themselves; `ended` cuts them off.
        relay(client, application, None, self.pod.scope.ended.cancelled()).await
    }

    async fn serve_http<C: Duplex + Send + 'static>(&self, client: Prefixed<C>, version: HttpVersion) {
        let (worker, pod, caller, to) = (self.worker.clone(), self.pod.clone(), self.caller.clone(), self.to);
        let came_from_outside = !has_a_proxy(&worker, &caller);
        let closing = self.pod.scope.closing.child_token();
        let to_be_closed = closing.clone();
        let handler = move |request: Box<Request<Body>>| {
            let (worker, pod, caller, closing) =
                (worker.clone(), pod.clone(), caller.clone(), to_be_closed.clone());
            async move {
                let version = HttpVersion::of(request.version());
                let response = handle_http(&worker, &pod, to, &caller, version, request).await;
                let mut response = response.unwrap_or_else(|error| refusal(&error));
                // Its pod has entered the mesh meanwhile: by a new connection it has an identity, which it needs as soon
                // as plaintext is refused.
                if came_from_outside && has_a_proxy(&worker, &caller) {
                    closing.cancel();
                }
                say_goodbye(&closing, version, &mut response);
                response
            }
        };
        let closing = self.pod.scope.parted(version, &closing);
        if let Err(ended) = http_server::serve(client, version, &Limits::default(), closing, handler).await {
            self.record().refuse(ended.reason, &ended.message);
        }
    }
}

/// Whether the caller is known, or would be if it connected now.
fn has_a_proxy(worker: &WorkerRef, caller: &Caller) -> bool {
    let snapshot = worker.shared.snapshot.load();
    let pod = || snapshot.workload_at(caller.address.ip());
    caller.identity.is_some() || pod().is_some_and(|pod| pod.protocol == WorkloadProtocol::Tunnel)
}

fn conclude(mut recorder: Box<Recorder>, ended: &RelayEnd) {
    recorder.outcome.request_bytes = ended.from_first;
    recorder.outcome.response_bytes = ended.from_second;
    match &ended.how {
        How::Finished | How::Idle => recorder.end(Reason::Ok, None),
        How::FirstFailed(error) if is_distrust(error) => {
            recorder.end(Reason::TrustEnded, Some(&error.to_string()))
        }
        How::FirstFailed(error) => recorder.end(Reason::DownstreamReset, Some(&error.to_string())),
        How::SecondFailed(error) => recorder.end(Reason::UpstreamReset, Some(&error.to_string())),
        How::Stopped => recorder.end(Reason::Draining, None),
    }
}

/// Reads into `first` what the client says, until it is clear whether that is HTTP, the application speaks first, or
/// the client has nothing more to say. A client that stops in the middle of a line may wait for an answer to what it
/// said, so bytes are held for no longer than `patience`.
async fn first_bytes<C>(
    client: &mut C,
    application: &TcpStream,
    first: &mut Vec<u8>,
    patience: Duration,
) -> Spoken
where
    C: AsyncRead + Unpin,
{
    let mut held_until = None;
    while first.len() < FIRST_LINE {
        let spoken = spoken(first);
        if spoken != Spoken::Unclear {
            return spoken;
        }
        if held_until.is_none() && !first.is_empty() {
            held_until = Some(Instant::now() + patience);
        }
        let held = async {
            match held_until {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        let read = tokio::select! {
            read = client.read_buf(first) => read,
            _ = application.readable() => return Spoken::Bytes,
            () = held => return Spoken::Unclear,
        };
        if !matches!(read, Ok(1..)) {
            return Spoken::Bytes;
        }
    }
    spoken(first)
}

/// What the beginning of a byte stream is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Unclear,
    Http(HttpVersion),
    Bytes,
}

/// HTTP/2 begins with its preface (RFC 9113 §3.4), HTTP/1 with a method and a line that ends in its version (RFC 9112
/// §3); empty lines before it are allowed there (§2.2).
pub(super) fn spoken(first: &[u8]) -> Spoken {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let start = first.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(first.len());
    let line = first.get(start..).unwrap_or_default();
    if line.starts_with(PREFACE) {
        return Spoken::Http(HttpVersion::Http2);
    }
    if PREFACE.starts_with(line) {
        return Spoken::Unclear;
    }
    let method = line.split(|b| matches!(b, b' ' | b'\r' | b'\n')).next().unwrap_or_default();
    if method.len() > 64
        || !method.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
    {
        return Spoken::Bytes;
    }
    match line.iter().position(|b| *b == b'\n') {
        None if line.len() < FIRST_LINE => Spoken::Unclear,
        None => Spoken::Bytes,
        Some(end) => {
            let line = line.get(..end).unwrap_or_default().trim_ascii_end();
            let version = line.rsplit(|b| matches!(b, b' ' | b'\t')).next().unwrap_or_default();
            if version.starts_with(b"HTTP/1.") { Spoken::Http(HttpVersion::Http1) } else { Spoken::Bytes }
        }
    }
}

/// What a caller without a proxy of its own gets in the place of the application's answer.
fn refusal(error: &SendError) -> Response<Body> {
    let status = match error.reason {
        Reason::UpstreamReset => StatusCode::BAD_GATEWAY,
        Reason::PlaintextRefused => StatusCode::FORBIDDEN,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = Response::new(Body::text(format!("weft: {}: {}\n", error.reason, error.message)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use weft_model::workload::MtlsMode;

    use super::*;
    use crate::telemetry::Security;
    use crate::world::{self, CALLEE, STRANGER, World};

    #[test]
    fn a_first_line_of_http_is_recognised_at_its_end_and_nothing_else_is() {
        for (first, expected) in [
            (&b""[..], Spoken::Unclear),
            (b"GET / HT", Spoken::Unclear),
            (b"GET / HTTP/1.1\r", Spoken::Unclear),
            (b"GET / HTTP/1.1\r\n", Spoken::Http(HttpVersion::Http1)),
            (b"\r\n\r\nBREW /pot HTTP/1.0\nx", Spoken::Http(HttpVersion::Http1)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", Spoken::Unclear),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0", Spoken::Http(HttpVersion::Http2)),
            (b"PING\r\n", Spoken::Bytes),
            (b"GET key\r\n", Spoken::Bytes),
            (b"\x16\x03\x01", Spoken::Bytes),
            (b"*1\r\n$4\r\n", Spoken::Bytes),
            (b"SSH-2.0-OpenSSH\r\n", Spoken::Bytes),
        ] {
            assert_eq!(spoken(first), expected, "{:?}", String::from_utf8_lossy(first));
        }
    }

    /// Serves a connection from the stranger to port 7009 of the callee, as one that was redirected.
    async fn called_by_a_stranger(world: &std::rc::Rc<World>) -> TcpStream {
        let (client, stream, peer) = world::connected(STRANGER).await;
        let world = world.clone();
        tokio::task::spawn_local(async move {
            let caller =
                Caller { address: peer, identity: None, claimed: None, security: Security::Plaintext };
            let to = SocketAddr::new(CALLEE.parse().unwrap(), 7009);
            let destination = Destination { worker: &world.worker, pod: &world.callee, to, caller: &caller };
            let application = destination.connect().await.unwrap();
            destination.carry(stream, application).await;
        });
        client
    }

    #[test]
    fn a_caller_that_enters_the_mesh_meanwhile_is_told_to_connect_anew() {
        world::run_with(MtlsMode::Permissive, |world| async move {
            world::echo_heads(7009).await;
            let mut client = called_by_a_stranger(&world).await;
            let get = b"GET / HTTP/1.1\r\nhost: callee\r\n\r\n";
            for protocol in [None, Some(WorkloadProtocol::Plaintext), Some(WorkloadProtocol::Tunnel)] {
                if let Some(protocol) = protocol {
                    world.put_stranger(protocol);
                }
                client.write_all(get).await.unwrap();
                let head = world::read_head(&mut client).await.unwrap().to_ascii_lowercase();
                assert!(head.starts_with("http/1.1 200"), "{head}");
                let told = head.contains("connection: close\r\n");
                assert_eq!(told, protocol == Some(WorkloadProtocol::Tunnel), "{protocol:?}: {head}");
                let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
                client.read_exact(&mut vec![0; length.parse().unwrap()]).await.unwrap();
            }
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the connection ends");
        });
    }
}
