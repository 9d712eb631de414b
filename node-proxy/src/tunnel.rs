//! Between proxies: one port (15008), TLS 1.3 both ways, what is inside chosen by ALPN (`docs/dataplane.md`, On the wire).

mod accept;
pub mod dial;
pub mod hbone;
mod http;
pub mod meta;
pub(crate) mod pool;
pub(crate) mod proofs;
mod renew;
pub(crate) mod trusted;

pub use accept::accept;

#[cfg(test)]
mod tests;
