//! The leg to the application, with the caller's source address, or the pod's own where a label says so
//! (`dataplane.md` rules 16 to 18).

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

/// Sends a request over a connection that only requests from the same address share, or all of the port where callers'
/// addresses are given up.
pub(crate) async fn request(
    worker: &WorkerRef,
    pod: &Arc<LocalPod>,
    to: SocketAddr,
    caller: SocketAddr,
    version: HttpVersion,
    request: Box<Request<Body>>,
) -> Result<Response<Body>, SendError> {
    exchange::exchange(&worker.pools, &dial(worker, pod, to, caller), version, request).await
}

/// Connects.
pub(crate) async fn connect(
    worker: &WorkerRef,
    pod: &Arc<LocalPod>,
    to: SocketAddr,
    caller: SocketAddr,
) -> Result<TcpStream, Failure> {
    dial(worker, pod, to, caller).run_plain(worker.pools.deadlines()).await
}

fn dial(worker: &WorkerRef, pod: &Arc<LocalPod>, to: SocketAddr, caller: SocketAddr) -> Dial {
    let snapshot = worker.shared.snapshot.load();
    let workload = snapshot.workload(&pod.enrolled.uid);
    let gives_up = workload.is_some_and(|workload| workload.proxy_source_ports.contains(&to.port()));
    // From the application's own address, as when the pod calls itself.
    let caller = if gives_up { SocketAddr::new(to.ip(), 0) } else { caller };
    Dial { pod: pod.clone(), to, way: Way::Application { caller } }
}
