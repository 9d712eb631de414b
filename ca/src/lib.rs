//! Weft's certificate authority: a root of its own on disk, leaves for workloads on proof of the node, and the trust
//! bundle. A library: the controller embeds it.
//!
//! * [`Authority`]: the root, and what it signs.
//! * [`Authenticator`]: how a node proves who it is; [`NodeSecretAuthenticator`] by a shared secret.
//! * [`CertificatesService`]: the gRPC service, with the question who may ask for what.
#![forbid(unsafe_code)]

mod authenticate;
mod authority;
mod rate;
mod request;
mod root;
mod service;

pub use authenticate::{Authenticator, Node, NodeSecretAuthenticator, ProofError, authenticate};
pub use authority::{Authority, ServingCertificate, Settings, SignError};
pub use root::RootError;
pub use service::{CertificatesService, IdentitiesOnNode, Rate};
