//! TLS for Weft: mutual TLS between proxies by SPIFFE identity, server TLS for the controller, TLS at a Gateway's
//! listeners and towards backends, the schedule of certificate renewal, and a reader of server names. The only crate that names rustls, webpki and aws-lc.
//!
//! Between our own programs TLS 1.3 only, X25519MLKEM768 preferred, no resumption, no tickets, no early data, no SNI
//! between proxies. With the outside world TLS 1.2 too, and tickets where clients show no certificate.
#![forbid(unsafe_code)]

mod alpn;
mod backend;
mod bundle;
mod certificate;
mod controller;
mod error;
mod frontend;
mod leaf;
mod peer;
pub mod pem;
mod provider;
mod public;
pub mod renewal;
pub mod sni;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
mod verify;
mod workload;

pub use alpn::Alpn;
pub use backend::{BackendTls, Carries, Roots};
pub use bundle::{BundleError, TrustBundle};
pub use controller::{ClientTls, ServerTls};
pub use error::{PeerCertificate, TlsError};
pub use frontend::{Clients, FrontendTls, Offer};
pub use leaf::{KeyRequest, Leaf, LeafError};
pub use peer::Peer;
pub use public::KeyPem;
pub use stream::TlsStream;
pub use workload::{Accepted, WorkloadTls};
