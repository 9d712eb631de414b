//! A small API server in process, for programs that talk to one: lists in pages, watches, optimistic concurrency,
//! merge patches, statuses as a subresource; and what a real one does not do on request: malformed objects, forgotten
//! versions, failures. What it does is judged on a real API server elsewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a fixture for tests")]

mod store;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tower::Service;

use store::{Event, Failure, Store, Target};

/// A request that was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// `GET`, `POST` and so on; `WATCH` for a watch.
    pub method: String,
    /// The path.
    pub path: String,
    /// The query, not decoded.
    pub query: String,
    /// The body; null if there is none.
    pub body: Value,
}

/// Decides whether a call fails, with which HTTP status.
type Fault = Box<dyn FnMut(&Call) -> Option<u16> + Send>;

/// The server. Clones are the same server.
#[derive(Clone)]
pub struct ApiServer {
    state: Arc<Mutex<State>>,
    /// The newest version, and how often all watches have been ended.
    changed: watch::Sender<(u64, u64)>,
}

#[derive(Default)]
struct State {
    store: Store,
    calls: Vec<Call>,
    fault: Option<Fault>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Default for ApiServer {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Serves the built-in kinds, and no objects.
    pub fn new() -> Self {
        Self { state: Arc::default(), changed: watch::Sender::new((0, 0)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn edit<T>(&self, edit: impl FnOnce(&mut Store) -> T) -> T {
        let mut state = self.state();
        let result = edit(&mut state.store);
        let version = state.store.version();
        drop(state);
        self.changed.send_modify(|(newest, _)| *newest = version);
        result
    }

    /// Serves a kind in these versions and no others, and says so in its CustomResourceDefinition.
    pub fn define(&self, group: &str, kind: &str, versions: &[&str]) {
        let plural = store::plural(kind);
        let listed: Vec<_> = versions.iter().map(|name| json!({"name": name, "served": true})).collect();
        self.edit(|store| store.serve(&format!("{group}/{plural}"), versions));
        self.put(json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {"versions": listed},
            "status": {"conditions": [{"type": "Established", "status": "True"}]},
        }));
    }

    /// Removes a kind with its definition and its objects.
    pub fn undefine(&self, group: &str, kind: &str) {
        let plural = store::plural(kind);
        let collection = format!("{group}/{plural}");
        self.edit(|store| {
            store.remove_all(&collection);
            store.serve(&collection, &[]);
        });
        self.remove("apiextensions.k8s.io", "CustomResourceDefinition", "", &format!("{plural}.{group}"));
    }

    /// Creates or replaces an object: its version and UID are given out, its generation follows its spec.
    pub fn put(&self, object: Value) {
        self.edit(|store| store.put(object));
    }

    /// Puts any JSON in the place of an object, as it is.
    pub fn put_raw(&self, group: &str, kind: &str, namespace: &str, name: &str, object: Value) {
        self.edit(|store| store.put_raw(group, kind, namespace, name, object));
    }

    /// Deletes an object.
    pub fn remove(&self, group: &str, kind: &str, namespace: &str, name: &str) {
        self.edit(|store| store.remove(group, kind, namespace, name));
    }

    /// An object.
    pub fn get(&self, group: &str, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state().store.get(group, kind, namespace, name)
    }

    /// Forgets all events, so that watches from an older version are told that it is gone; and ends all watches.
    pub fn forget(&self) {
        self.edit(Store::forget);
        self.end_watches();
    }

    /// Ends all watches.
    pub fn end_watches(&self) {
        self.changed.send_modify(|(_, ended)| *ended += 1);
    }

    /// From now on calls fail when `fault` says so.
    pub fn fail(&self, fault: impl FnMut(&Call) -> Option<u16> + Send + 'static) {
        self.state().fault = Some(Box::new(fault));
    }

    /// From now on calls do not fail.
    pub fn heal(&self) {
        self.state().fault = None;
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// The calls so far that change something.
    pub fn writes(&self) -> Vec<Call> {
        let reads = ["GET", "WATCH"];
        self.calls().into_iter().filter(|call| !reads.contains(&call.method.as_str())).collect()
    }

    async fn answer<B>(self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body,
        B::Error: std::fmt::Debug,
    {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        let query = head.uri.query().unwrap_or_default().to_owned();
        let watch = query.split('&').any(|pair| pair == "watch=true");
        let method = if watch { "WATCH".to_owned() } else { head.method.to_string() };
        let call = Call { method, path: head.uri.path().to_owned(), query, body };
        // Without the lock: a fault may edit what is served.
        let mut fault = {
            let mut state = self.state();
            state.calls.push(call.clone());
            state.fault.take()
        };
        let code = fault.as_mut().and_then(|fault| fault(&call));
        if let Some(fault) = fault {
            self.state().fault.get_or_insert(fault);
        }
        if let Some(code) = code {
            return answered(Err(Failure::new(code, "Fault", "asked for by the test")));
        }
        if let Some(found) = self.state().store.discovery(&call.path) {
            return answered(Ok(found));
        }
        let target = self.state().store.target(&call.path, &call.query);
        match (call.method.as_str(), target) {
            (_, Err(failure)) => answered(Err(failure)),
            ("WATCH", Ok(target)) => self.watch(&target),
            (method, Ok(target)) => answered(self.edit(|store| store.call(method, &target, &call.body))),
        }
    }

    fn watch(&self, target: &Target) -> Response<Body> {
        let (lines, receiver) = mpsc::channel::<Bytes>(16);
        let (server, target) = (self.clone(), target.clone());
        let mut changed = self.changed.subscribe();
        let ended = changed.borrow().1;
        tokio::spawn(async move {
            let mut from = target.version();
            loop {
                let events = server.state().store.events(&target, from);
                for Event { version, line } in events {
                    from = version;
                    if lines.send(line.into()).await.is_err() {
                        return;
                    }
                }
                if changed.borrow_and_update().1 != ended {
                    return;
                }
                tokio::select! {
                    _ = changed.changed() => {}
                    () = lines.closed() => return,
                }
            }
        });
        let frames = ReceiverStream::new(receiver).map(|line| Ok(Frame::data(line)));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

fn answered(result: Result<Value, Failure>) -> Response<Body> {
    let (code, body) = match result {
        Ok(object) => (200, object),
        Err(failure) => (failure.code, failure.status()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

impl<B> Service<Request<B>> for ApiServer
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: std::fmt::Debug,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answer = self.clone().answer(request);
        Box::pin(async move { Ok(answer.await) })
    }
}
