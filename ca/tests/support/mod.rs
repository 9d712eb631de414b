//! The certificate service over real TLS and gRPC, for the tests in this folder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::HashSet;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Status};
use weft_api::proto::SignRequest;
use weft_api::proto::certificates_client::CertificatesClient;
use weft_api::proto::certificates_server::CertificatesServer;
use weft_ca::{Authenticator, Authority, CertificatesService, IdentitiesOnNode};
use weft_model::{Identity, ObjectName};
use weft_tls::{ClientTls, KeyRequest, ServerTls, TlsStream, WorkloadTls};

const NAME: &str = "weft-controller.weft-system.svc";

/// Who runs where.
pub(crate) struct Pods(HashSet<(Identity, String)>);

impl Pods {
    /// These identities on these nodes.
    pub(crate) fn of<const N: usize>(pods: [(Identity, &str); N]) -> Self {
        Self(pods.into_iter().map(|(identity, node)| (identity, node.to_owned())).collect())
    }
}

impl IdentitiesOnNode for Pods {
    fn runs_on(&self, identity: &Identity, node: &str) -> bool {
        self.0.contains(&(identity.clone(), node.to_owned()))
    }

    fn is_of_gateway(&self, identity: &Identity, gateway: &ObjectName) -> bool {
        identity.namespace == gateway.namespace
            && *identity.service_account == format!("{}-weft", gateway.name)
    }
}

/// Serves on the loopback device; a client of it.
pub(crate) async fn serve<A: Authenticator>(
    authority: &Arc<Authority>,
    service: CertificatesServer<CertificatesService<A, Pods>>,
) -> CertificatesClient<Channel> {
    let serving = authority.serving_certificate(NAME, SystemTime::now()).unwrap();
    let tls = ServerTls::new(serving.chain_der, serving.key_pkcs8_der).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let incoming = incoming.then(move |stream| {
        let tls = tls.clone();
        async move { tls.accept(stream?).await.map(Served).map_err(io::Error::other) }
    });
    tokio::spawn(Server::builder().serve_with_incoming(service, incoming));
    let roots = authority.trust_bundle().borrow().clone();
    let tls = ClientTls::new(&roots, NAME).unwrap();
    let connector = tower::service_fn(move |_: Uri| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            tls.connect(stream).await.map(TokioIo::new).map_err(io::Error::other)
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{NAME}")).unwrap();
    CertificatesClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

/// A call with a proof.
pub(crate) fn with_proof<T>(message: T, proof: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(proof) = proof {
        request.metadata_mut().insert("authorization", proof.parse().unwrap());
    }
    request
}

/// Asks for a certificate of `asked`, with a request made for `named`, and checks what comes.
pub(crate) async fn ask(
    authority: &Authority,
    client: &mut CertificatesClient<Channel>,
    proof: Option<&str>,
    asked: &str,
    named: &Identity,
) -> Result<(), Status> {
    let key = KeyRequest::new(named).unwrap();
    let message = SignRequest { csr_der: key.csr_der().to_vec(), identity: asked.into() };
    let chain = client.sign(with_proof(message, proof)).await?.into_inner().chain_der;
    let leaf = key.into_leaf(chain).unwrap();
    let bundle = authority.trust_bundle().borrow().clone();
    WorkloadTls::check_at(&leaf, &bundle, SystemTime::now()).unwrap();
    Ok(())
}

/// What a server needs to know of a stream for tonic.
struct Served(TlsStream<TcpStream>);

impl Connected for Served {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Served {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Served {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
