//! Weft's certificate authority: a root of its own, on disk or kept by its user, leaves for workloads on proof of the node, and the trust
//! bundle. A library: the controller embeds it.
//!
//! * [`Authority`]: the root, and what it signs. [`NewRoot`] makes a root to be kept elsewhere than on disk.
//! * [`Authenticator`]: how a caller proves who it is: [`TokenReviewAuthenticator`] by a service-account token that the
//!   API server reviews, [`NodeSecretAuthenticator`] by a secret that is shared with a node.
//! * [`CertificatesService`]: the gRPC service, with the question who may ask for what.
#![forbid(unsafe_code)]

mod authenticate;
mod authority;
mod directory;
mod rate;
mod request;
mod root;
mod service;
mod token_review;

pub use authenticate::{Authenticator, Caller, Node, NodeSecretAuthenticator, ProofError, authenticate};
pub use authority::{Authority, ServingCertificate, Settings, SignError};
pub use root::{NewRoot, RootError};
pub use service::{CertificatesService, IdentitiesOnNode, Rate};
pub use token_review::{TokenReviewAuthenticator, TokenReviewSettings};
