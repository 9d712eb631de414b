//! The callee's side: every request and connection for a pod of this node ends here, whichever way it came
//! (tunnel, same node, plaintext): first [`authorize`], then to the application.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::call::Caller;
use crate::pod::LocalPod;
use crate::send::bytes::Recorded;
use crate::send::{ByteStream, SendError};
use crate::worker::WorkerRef;

pub(crate) mod authorize;
mod forward;
mod http;
mod plaintext;
mod prefixed;
pub(crate) mod record;
pub(crate) mod tcp;

pub use http::handle_http;
pub use plaintext::accept_plaintext;

/// Connects to the application of `pod` at `to`, if `caller` may. The callee's outcome is told when the stream is dropped.
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
    let mut record = destination.record();
    match destination.connect().await {
        Ok(stream) => Ok(ByteStream::Recorded(Box::new(Recorded::new(stream, record)))),
        Err(failure) => {
            let error = SendError::from(failure);
            record.failed(&error);
            Err(error)
        }
    }
}
