//! The admin server: a small HTTP server that answers GET. Each part of a process registers what it answers by path;
//! `/healthz` and `/readyz` are always there. Meant for a loopback address or a cluster-internal port.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::backoff::Backoff;
use crate::metrics::{self, Metrics};

/// Connections served at a time; more wait.
const MAX_CONNECTIONS: usize = 32;
/// How long a client may take to send its request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// What the body is.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// Plain text; a full stop and a newline are the caller's.
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    /// A value as JSON, indented for people.
    pub fn json(value: &impl serde::Serialize) -> Self {
        match serde_json::to_vec_pretty(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Self { status: StatusCode::OK, content_type: "application/json", body: body.into() }
            }
            Err(error) => {
                Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot be written: {error}\n"))
            }
        }
    }
}

/// What is answered where anybody may ask, beside `/healthz` and `/readyz`.
pub const PUBLIC: [&str; 1] = ["/metrics"];

/// Which pages a listener gives.
#[derive(Clone, Copy, Debug)]
enum Pages {
    All,
    Public,
}

impl Pages {
    fn have(self, path: &str) -> bool {
        matches!(self, Self::All) || PUBLIC.contains(&path)
    }
}

/// What answers one path; it is given the query (without `?`, empty if there is none).
type Handler = Box<dyn Fn(&str) -> Answer + Send + Sync>;

/// What is to be said, if anything.
type Look = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// What the admin server answers.
#[derive(Default)]
pub struct Admin {
    handlers: BTreeMap<&'static str, Handler>,
    /// What keeps the process from being ready.
    missing: Vec<Look>,
    /// What a person should know although the process is ready.
    notes: Vec<Look>,
}

impl Admin {
    /// Answers nothing but `/healthz` and `/readyz` yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `handler` answer GET requests for `path`. It must not block.
    pub fn handle(&mut self, path: &'static str, handler: impl Fn(&str) -> Answer + Send + Sync + 'static) {
        self.handlers.insert(path, Box::new(handler));
    }

    /// `/readyz` says yes only while `is_so` does. `name` is what a person should read when it does not.
    pub fn ready_when(&mut self, name: &'static str, is_so: impl Fn() -> bool + Send + Sync + 'static) {
        self.ready_unless(move || (!is_so()).then(|| name.to_owned()));
    }

    /// `/readyz` says yes only while `missing` returns nothing; else it says what is missing.
    pub fn ready_unless(&mut self, missing: impl Fn() -> Option<String> + Send + Sync + 'static) {
        self.missing.push(Box::new(missing));
    }

    /// Adds lines to `/readyz`, whatever it says: what does not work though the process does.
    pub fn note(&mut self, note: impl Fn() -> Option<String> + Send + Sync + 'static) {
        self.notes.push(Box::new(note));
    }

    /// Serves `metrics` at `/metrics`.
    pub fn serve_metrics(&mut self, metrics: Arc<Metrics>) {
        self.handle("/metrics", move |_| match metrics.encode() {
            Ok(text) => {
                Answer { status: StatusCode::OK, content_type: metrics::CONTENT_TYPE, body: text.into() }
            }
            Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        });
    }

    /// Serves `GET /logging?level=DIRECTIVES`, which changes what is logged, and `GET /logging`, which shows it.
    /// A GET on purpose: it is idempotent, and `curl` says it without further words.
    pub fn serve_logging(&mut self, level: crate::logging::Level) {
        self.handle("/logging", move |query| {
            let changed = match query.strip_prefix("level=") {
                Some(directives) => level.set(directives),
                None => Ok(()),
            };
            match changed {
                Ok(()) => Answer::text(StatusCode::OK, format!("{}\n", level.directives())),
                Err(error) => Answer::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            }
        });
    }

    /// Opens the server's socket, so that a port in use is noticed before anything else starts. All addresses of a machine
    /// without IPv6 are those of IPv4.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
        let explain = |error: std::io::Error| {
            std::io::Error::new(error.kind(), format!("the admin server cannot listen on {address}: {error}"))
        };
        match TcpListener::bind(address).await {
            Err(error)
                if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
                    && address.ip() == Ipv6Addr::UNSPECIFIED =>
            {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await.map_err(explain)
            }
            bound => bound.map_err(explain),
        }
    }

    /// Answers on `listener` for ever.
    pub async fn serve(self, listener: TcpListener) -> Infallible {
        Arc::new(self).listen(listener, Pages::All).await
    }

    /// Answers on `listener` for ever, and on `public` nothing but [`PUBLIC`].
    pub async fn serve_apart(self, listener: TcpListener, public: TcpListener) -> Infallible {
        let admin = Arc::new(self);
        tokio::select! {
            never = Arc::clone(&admin).listen(listener, Pages::All) => never,
            never = admin.listen(public, Pages::Public) => never,
        }
    }

    async fn listen(self: Arc<Self>, listener: TcpListener, pages: Pages) -> Infallible {
        let admin = self;
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            let slot = slots.clone().acquire_owned().await;
            match listener.accept().await {
                Ok((stream, _)) => {
                    backoff.reset();
                    let admin = admin.clone();
                    tokio::spawn(async move {
                        admin.serve_connection(stream, pages).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin server cannot accept");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    async fn serve_connection(&self, stream: TcpStream, pages: Pages) {
        let service = service_fn(|request: Request<Incoming>| {
            let uri = request.uri();
            let answer = self.answer(pages, request.method(), uri.path(), uri.query().unwrap_or(""));
            std::future::ready(Ok::<_, Infallible>(response(answer)))
        });
        let result = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = result {
            tracing::debug!(%error, "an admin connection ended early");
        }
    }

    fn answer(&self, pages: Pages, method: &Method, path: &str, query: &str) -> Answer {
        if method != Method::GET && method != Method::HEAD {
            return Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
        }
        match path {
            "/healthz" => Answer::text(StatusCode::OK, "ok\n"),
            "/readyz" => self.readiness(),
            _ => {
                let handler = self.handlers.get(path).filter(|_| pages.have(path));
                handler.map_or_else(|| self.index(pages), |handler| handler(query))
            }
        }
    }

    fn readiness(&self) -> Answer {
        let said = |looks: &[Look]| looks.iter().filter_map(|look| look()).collect::<Vec<_>>();
        let missing = said(&self.missing).join(", ");
        let (status, first) = match missing.is_empty() {
            true => (StatusCode::OK, "ok".to_owned()),
            false => (StatusCode::SERVICE_UNAVAILABLE, format!("not yet: {missing}")),
        };
        let lines: Vec<_> = std::iter::once(first).chain(said(&self.notes)).collect();
        Answer::text(status, format!("{}\n", lines.join("\n")))
    }

    fn index(&self, pages: Pages) -> Answer {
        let mut body = "No such page. There are:\n/healthz\n/readyz\n".to_owned();
        for path in self.handlers.keys().filter(|path| pages.have(path)) {
            body.push_str(path);
            body.push('\n');
        }
        Answer::text(StatusCode::NOT_FOUND, body)
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.handlers.keys()).finish()
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    if answer.status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests;
