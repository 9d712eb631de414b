//! Between proxies: one port (15008), TLS 1.3 both ways, what is inside chosen by ALPN (design §3.3).

pub mod dial;
pub mod hbone;
pub mod meta;
pub(crate) mod pool;

use crate::call::Accepted;
use crate::worker::WorkerRef;

/// Serves one connection that a pod's tunnel listener (15008) accepted. Never fails: refusals are logged and counted.
pub async fn accept(worker: WorkerRef, accepted: Accepted) {
    let _ = (worker, accepted);
}
