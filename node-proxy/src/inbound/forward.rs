//! The leg to the application, with the caller's source address (`dataplane.md` rules 16 to 18).

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use tokio::net::TcpStream;

use crate::body::Body;
use crate::http_server::HttpVersion;
use crate::pod::LocalPod;
use crate::send::{SendError, exchange};
use crate::tunnel::dial::{Dial, Failure, Way};
use crate::worker::WorkerRef;

/// Sends a request over a connection that only requests from the same address share.
pub(crate) async fn request(
    worker: &WorkerRef,
    pod: &Arc<LocalPod>,
    to: SocketAddr,
    caller: SocketAddr,
    version: HttpVersion,
    request: Request<Body>,
) -> Result<Response<Body>, SendError> {
    exchange::exchange(&worker.pools, &dial(pod, to, caller), version, request).await
}

/// Connects.
pub(crate) async fn connect(
    worker: &WorkerRef,
    pod: &Arc<LocalPod>,
    to: SocketAddr,
    caller: SocketAddr,
) -> Result<TcpStream, Failure> {
    dial(pod, to, caller).run_plain(worker.pools.deadlines()).await
}

fn dial(pod: &Arc<LocalPod>, to: SocketAddr, caller: SocketAddr) -> Dial {
    Dial { pod: pod.clone(), to, way: Way::Application { caller } }
}
