//! A small HTTP/1.1 and h2c server for tests: answers with what it received, as JSON, so that a
//! test sees exactly what reached the application. It can also fail, wait, send trailers, take
//! over upgraded connections, or speak first on plain TCP. Told to end it ends at once, or gracefully.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use clap::Parser;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRAILER, UPGRADE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// Answers each request with its own description. A request may ask for more by query:
/// `status=503` sets the status, `delay=250` waits so many milliseconds first, `set=NAME:VALUE` sets a header of the answer.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-echo")]
struct Options {
    /// Port to listen on, on all addresses of both families.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// What the answer calls this server [default: the host name].
    #[arg(long)]
    name: Option<String>,
    /// Answer this many requests with 503 before the first good one.
    #[arg(long, default_value_t = 0)]
    fail: u32,
    /// Wait this many milliseconds before each answer.
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// Send trailers `x-echo-trailer: NAME` after each body.
    #[arg(long)]
    trailers: bool,
    /// Be a plain TCP server that sends this line first and then echoes bytes.
    #[arg(long)]
    tcp_banner: Option<String>,
    /// On SIGTERM accept nothing more and finish what is open: an HTTP/1.1 connection ends with its next response, and
    /// six seconds later all do. Without this, SIGTERM is the end of everything at once.
    #[arg(long)]
    graceful: bool,
}

/// How long a graceful end lasts at most: longer than callers keep idle connections.
const GRACE: Duration = Duration::from_secs(6);

struct Server {
    options: Options,
    name: String,
    requests: AtomicU32,
    /// No further request on the connections that are open.
    ending: AtomicBool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let name = options.name.clone().unwrap_or_else(host);
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, options.port)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(("0.0.0.0", options.port)).await?,
    };
    let server =
        Arc::new(Server { options, name, requests: AtomicU32::new(0), ending: AtomicBool::new(false) });
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = terminate.recv() => break,
        };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            if let Err(error) = server.connection(stream, from).await {
                eprintln!("{from}: {error}");
            }
        });
    }
    drop(listener);
    if server.options.graceful {
        server.ending.store(true, Ordering::Relaxed);
        let all_ended = async {
            // Each connection holds the server.
            while Arc::strong_count(&server) > 1 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(GRACE, all_ended).await;
    }
    Ok(())
}

impl Server {
    async fn connection(self: Arc<Self>, mut stream: TcpStream, from: SocketAddr) -> Result<()> {
        if let Some(banner) = &self.options.tcp_banner {
            stream.write_all(format!("{banner}\n").as_bytes()).await?;
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await?;
            writer.shutdown().await?;
            return Ok(());
        }
        let mut start = [0; 4];
        let h2 = loop {
            let size = stream.peek(&mut start).await?;
            match start.get(..size) {
                Some([]) | None => return Ok(()),
                Some(b"PRI ") => break true,
                Some(bytes) if b"PRI ".starts_with(bytes) => {
                    tokio::time::sleep(Duration::from_millis(1)).await
                }
                Some(_) => break false,
            }
        };
        let service = service_fn(move |request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.answer(request, from).await) }
        });
        let io = TokioIo::new(stream);
        if h2 {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(io, service)
                .await?;
        } else {
            hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await?;
        }
        Ok(())
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
        from: SocketAddr,
    ) -> Response<BoxBody<Bytes, Infallible>> {
        let query = |name: &str| {
            let query = request.uri().query().unwrap_or_default();
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
        };
        let delay = query("delay").and_then(|d| d.parse().ok()).unwrap_or(self.options.delay);
        let asked =
            query("status").and_then(|s| s.parse::<u16>().ok()).and_then(|s| StatusCode::from_u16(s).ok());
        let set = asked_headers(request.uri().query().unwrap_or_default());
        tokio::time::sleep(Duration::from_millis(delay)).await;
        if let Some(protocol) = request.headers().get(UPGRADE).cloned() {
            tokio::spawn(echo_upgraded(hyper::upgrade::on(&mut request)));
            return upgraded(protocol);
        }
        let version = request.version();
        let count = self.requests.fetch_add(1, Ordering::Relaxed);
        let failing = count < self.options.fail;
        let status = if failing { StatusCode::SERVICE_UNAVAILABLE } else { asked.unwrap_or(StatusCode::OK) };
        let description = self.describe(request, from).await;
        let text = Bytes::from(format!("{description}\n"));
        let mut response = Response::new(self.body(text));
        *response.status_mut() = status;
        if self.ending.load(Ordering::Relaxed) && version == Version::HTTP_11 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().extend(set);
        if self.options.trailers {
            response.headers_mut().insert(TRAILER, HeaderValue::from_static(TRAILER_NAME));
        }
        response
    }

    fn body(&self, text: Bytes) -> BoxBody<Bytes, Infallible> {
        if !self.options.trailers {
            return Full::new(text).boxed();
        }
        let mut trailers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&self.name) {
            trailers.insert(HeaderName::from_static(TRAILER_NAME), value);
        }
        Unmeasured(Full::new(text).with_trailers(std::future::ready(Some(Ok(trailers)))).boxed()).boxed()
    }

    async fn describe(&self, request: Request<Incoming>, from: SocketAddr) -> Value {
        let (head, body) = request.into_parts();
        let received = body.collect().await;
        let (body, trailers, error) = match received {
            Ok(whole) => {
                let trailers = whole.trailers().map(fields).unwrap_or_default();
                (String::from_utf8_lossy(&whole.to_bytes()).into_owned(), trailers, None)
            }
            Err(error) => (String::new(), BTreeMap::new(), Some(error.to_string())),
        };
        json!({
            "name": self.name,
            "method": head.method.as_str(),
            "path": head.uri.path_and_query().map_or("", |p| p.as_str()),
            "authority": head.uri.authority().map(ToString::to_string),
            "version": format!("{:?}", head.version),
            "headers": fields(&head.headers),
            "body": body,
            "bodyError": error,
            "trailers": trailers,
            "from": from.ip().to_canonical(),
        })
    }
}

/// A body that does not tell its length: with a length no trailers could follow it in HTTP/1.1.
struct Unmeasured(BoxBody<Bytes, Infallible>);

impl Body for Unmeasured {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }
}

const TRAILER_NAME: &str = "x-echo-trailer";

fn fields(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        all.entry(name.to_string()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    all
}

/// The headers that a query asks for by `set=NAME:VALUE`.
fn asked_headers(query: &str) -> HeaderMap {
    let pairs = query.split('&').filter_map(|pair| pair.strip_prefix("set=")?.split_once(':'));
    pairs.filter_map(|(name, value)| Some((name.parse::<HeaderName>().ok()?, value.parse().ok()?))).collect()
}

/// Accepts whatever protocol was asked for; its bytes come back as they are.
fn upgraded(protocol: HeaderValue) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(Full::new(Bytes::new()).boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, protocol);
    response
}

async fn echo_upgraded(upgrade: hyper::upgrade::OnUpgrade) {
    let Ok(stream) = upgrade.await else { return };
    let mut io = TokioIo::new(stream);
    let mut buffer = [0; 4096];
    while let Ok(size @ 1..) = io.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..size) else { return };
        if io.write_all(bytes).await.is_err() {
            return;
        }
    }
}
