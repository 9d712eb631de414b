//! TLS for Weft: mutual TLS between proxies by SPIFFE identity, server TLS for the controller, the schedule of
//! certificate renewal, and a reader of server names. The only crate that names rustls, webpki and aws-lc.
//!
//! TLS 1.3 only, X25519MLKEM768 preferred, no resumption, no tickets, no early data, no SNI between proxies.
#![forbid(unsafe_code)]

mod alpn;
mod bundle;
mod certificate;
mod controller;
mod error;
mod leaf;
mod peer;
pub mod pem;
mod provider;
pub mod renewal;
pub mod sni;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
mod verify;
mod workload;

pub use alpn::Alpn;
pub use bundle::{BundleError, TrustBundle};
pub use controller::{ClientTls, ServerTls};
pub use error::{PeerCertificate, TlsError};
pub use leaf::{KeyRequest, Leaf, LeafError};
pub use peer::Peer;
pub use stream::TlsStream;
pub use workload::{Accepted, WorkloadTls};
