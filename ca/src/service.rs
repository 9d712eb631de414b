//! The certificate service: who may ask for what.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};
use weft_api::proto;
use weft_api::proto::certificates_server::{Certificates, CertificatesServer};
use weft_model::{Identity, ObjectName};
use weft_tls::TrustBundle;

use crate::authenticate::{Authenticator, Caller, authenticate};
use crate::authority::{Authority, SignError};
pub use crate::rate::Rate;
use crate::rate::Rates;

/// What the controller knows about who runs where.
pub trait IdentitiesOnNode: Send + Sync + 'static {
    /// Whether a live pod (bound to the node, neither terminal nor being deleted) runs as this identity there.
    fn runs_on(&self, identity: &Identity, node: &str) -> bool;

    /// Whether the proxies of this Gateway run as this identity.
    fn is_of_gateway(&self, identity: &Identity, gateway: &ObjectName) -> bool;
}

/// The gRPC service `Certificates`.
pub struct CertificatesService<A, I> {
    authority: Arc<Authority>,
    authenticator: Arc<A>,
    identities: Arc<I>,
    rates: Mutex<Rates>,
}

impl<A: Authenticator, I: IdentitiesOnNode> CertificatesService<A, I> {
    /// A service to add to a server. `rate` bounds each caller.
    pub fn server(
        authority: Arc<Authority>,
        authenticator: Arc<A>,
        identities: Arc<I>,
        rate: Rate,
    ) -> CertificatesServer<Self> {
        let rates = Mutex::new(Rates::new(rate));
        CertificatesServer::new(Self { authority, authenticator, identities, rates })
    }

    fn signed(
        &self,
        caller: &Caller,
        request: &proto::SignRequest,
    ) -> Result<(Identity, Vec<Vec<u8>>), Status> {
        if !self.rates.lock().take(&caller.to_string(), Instant::now()) {
            let why = format!("{caller} asks for certificates too fast: wait and ask again");
            return Err(Status::resource_exhausted(why));
        }
        let identity: Identity =
            request.identity.parse().map_err(|error: weft_model::identity::NotAnIdentity| {
                Status::invalid_argument(error.to_string())
            })?;
        if identity.trust_domain != *self.authority.trust_domain() {
            let own = self.authority.trust_domain();
            let why = format!("{identity} is not of this mesh's trust domain {own}");
            return Err(Status::permission_denied(why));
        }
        self.may_have(caller, &identity).map_err(Status::permission_denied)?;
        match self.authority.sign(&request.csr_der, &identity, SystemTime::now()) {
            Ok(chain) => Ok((identity, chain)),
            Err(error @ SignError::Request(_)) => Err(Status::invalid_argument(error.to_string())),
            Err(error @ SignError::TrustDomain { .. }) => Err(Status::permission_denied(error.to_string())),
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }

    fn may_have(&self, caller: &Caller, identity: &Identity) -> Result<(), String> {
        match caller {
            Caller::Node(node) if self.identities.runs_on(identity, &node.name) => Ok(()),
            Caller::Node(node) => {
                Err(format!("no live pod with the identity {identity} is bound to node {}", node.name))
            }
            Caller::Gateway(gateway) if self.identities.is_of_gateway(identity, gateway) => Ok(()),
            Caller::Gateway(gateway) => Err(format!(
                "the proxies of Gateway {gateway} are not {identity}: they may ask for their own identity only"
            )),
            Caller::Workload(own) if own == identity => Ok(()),
            Caller::Workload(own) => {
                Err(format!("{own} is no node's proxy: it may ask for its own identity only"))
            }
        }
    }
}

#[tonic::async_trait]
impl<A: Authenticator, I: IdentitiesOnNode> Certificates for CertificatesService<A, I> {
    async fn sign(
        &self,
        request: Request<proto::SignRequest>,
    ) -> Result<Response<proto::SignResponse>, Status> {
        let caller = authenticate(&*self.authenticator, request.metadata()).await?;
        match self.signed(&caller, request.get_ref()) {
            Ok((identity, chain_der)) => {
                tracing::info!(%caller, %identity, "signed a certificate");
                Ok(Response::new(proto::SignResponse { chain_der }))
            }
            Err(status) => {
                let identity = request.get_ref().identity.as_str();
                tracing::warn!(%caller, identity, code = ?status.code(), why = status.message(), "refused a certificate");
                Err(status)
            }
        }
    }

    type WatchTrustBundleStream = Pin<Box<dyn Stream<Item = Result<proto::TrustBundle, Status>> + Send>>;

    async fn watch_trust_bundle(
        &self,
        request: Request<proto::WatchTrustBundleRequest>,
    ) -> Result<Response<Self::WatchTrustBundleStream>, Status> {
        authenticate(&*self.authenticator, request.metadata()).await?;
        let bundles = WatchStream::new(self.authority.trust_bundle());
        Ok(Response::new(Box::pin(bundles.map(|bundle| Ok(to_proto(&bundle))))))
    }
}

fn to_proto(bundle: &TrustBundle) -> proto::TrustBundle {
    proto::TrustBundle {
        trust_domain: bundle.trust_domain().to_string(),
        roots_der: bundle.roots().map(<[u8]>::to_vec).collect(),
    }
}

impl<A, I> std::fmt::Debug for CertificatesService<A, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificatesService").field("authority", &self.authority).finish_non_exhaustive()
    }
}
