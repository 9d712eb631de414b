//! The callee's side: every request and connection for a pod of this node ends here, whichever way it came
//! (tunnel, same node, plaintext): first [`authorize`], then to the application.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::call::Caller;
use crate::pod::LocalPod;
use crate::send::bytes::Pipe;
use crate::send::{ByteStream, SendError};
use crate::worker::WorkerRef;

pub(crate) mod authorize;
mod forward;
mod http;
mod plaintext;
mod probe;
pub(crate) mod record;
pub(crate) mod tcp;
mod watched;

pub use http::handle_http;
pub use plaintext::accept_plaintext;

/// Connects to the application of `pod` at `to`, if `caller` may. Bytes from a pod of the same node pass the same way
/// as bytes out of a tunnel do, HTTP among them included.
///
/// # Errors
/// Always `not_established`.
pub async fn connect_bytes(
    worker: &WorkerRef,
    pod: &Arc<LocalPod>,
    to: SocketAddr,
    caller: &Caller,
) -> Result<ByteStream, SendError> {
    let destination = tcp::Destination { worker, pod, to, caller };
    match destination.connect().await {
        Ok(application) => {
            let (ours, theirs) = Pipe::pair();
            let (worker, pod, caller) = (worker.clone(), pod.clone(), caller.clone());
            tokio::task::spawn_local(async move {
                let destination = tcp::Destination { worker: &worker, pod: &pod, to, caller: &caller };
                pod.scope.until_ended(destination.carry(ours, application)).await;
            });
            Ok(ByteStream::Local(theirs))
        }
        Err(failure) => {
            let error = SendError::from(failure);
            destination.record().failed(&error);
            Err(error)
        }
    }
}
