//! A proxy's side of the config stream, for tests of the controller.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses its part")]

use std::net::SocketAddr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use weft_api::delta::Replica;
use weft_api::proto::config_client::ConfigClient;
use weft_api::proto::config_request::Request as Message;
use weft_api::proto::{Ack, ConfigRequest, ConfigResponse, Hello, Served};
use weft_model::route::Rules;
use weft_model::workload::{MtlsMode, WorkloadProtocol};
use weft_model::{Resource, ResourceName};
use weft_tls::ClientTls;

pub const NAME: &str = "weft-controller.weft-system.svc";
pub const WAIT: Duration = Duration::from_secs(60);

/// A connection to a controller, made when it is first needed.
pub fn channel(address: SocketAddr, tls: ClientTls) -> Channel {
    let connector = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let stream = tls.connect(TcpStream::connect(address).await?).await;
            stream.map(TokioIo::new).map_err(std::io::Error::other)
        }
    });
    Endpoint::from_static("http://controller").connect_with_connector_lazy(connector)
}

pub fn with_proof<T>(message: T, proof: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<_> = format!("Bearer {proof}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// A proxy's side of the stream.
pub struct Proxy {
    pub requests: mpsc::Sender<ConfigRequest>,
    pub responses: Streaming<ConfigResponse>,
    pub replica: Replica,
}

impl Proxy {
    pub async fn connect(
        channel: Channel,
        node: &str,
        proof: &str,
        replica: Replica,
    ) -> Result<Self, Status> {
        let hello = Hello { node: node.to_owned(), ..Hello::default() };
        Self::greet(channel, hello, proof, replica).await
    }

    /// As the proxy of a Gateway, `namespace/name`.
    pub async fn connect_gateway(channel: Channel, gateway: &str, proof: &str) -> Result<Self, Status> {
        let hello = Hello { gateway: gateway.to_owned(), ..Hello::default() };
        Self::greet(channel, hello, proof, Replica::default()).await
    }

    async fn greet(
        channel: Channel,
        mut hello: Hello,
        proof: &str,
        mut replica: Replica,
    ) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(4);
        hello.bucket_digests = replica.connect();
        requests.send(ConfigRequest { request: Some(Message::Hello(hello)) }).await.unwrap();
        let stream = with_proof(ReceiverStream::new(receiver), proof);
        let responses = ConfigClient::new(channel).stream(stream).await?.into_inner();
        Ok(Self { requests, responses, replica })
    }

    /// Takes in one publication, acknowledges it and returns the names of what came.
    pub async fn take(&mut self) -> Result<Vec<String>, Status> {
        let mut names = Vec::new();
        loop {
            let message = tokio::time::timeout(WAIT, self.responses.next()).await.expect("nothing came");
            let message = message.expect("the stream ended")?;
            names.extend(message.upserts.iter().map(|upsert| upsert.name.clone()));
            names.extend(message.removals.iter().map(|name| format!("-{name}")));
            if self.replica.apply(message).unwrap().is_some() {
                let ack = Ack { version: self.replica.version(), rejections: Vec::new() };
                self.requests.send(ConfigRequest { request: Some(Message::Ack(ack)) }).await.unwrap();
                return Ok(names);
            }
        }
    }

    pub async fn report(&self, served: &[&str]) {
        let served =
            Served { pod_uids: served.iter().map(ToString::to_string).collect(), ..Served::default() };
        self.requests.send(ConfigRequest { request: Some(Message::Served(served)) }).await.unwrap();
    }

    /// How a pod is called, and what its proxy does with plaintext.
    pub fn workload(&self, uid: &str) -> (WorkloadProtocol, MtlsMode) {
        match &**self.replica.resource(&ResourceName(format!("Workload/{uid}").into())).unwrap() {
            Resource::Workload(workload) => (workload.protocol, workload.mtls),
            other => panic!("{other:?}"),
        }
    }

    /// The weight of the route's one backend.
    pub fn weight(&self) -> Option<u32> {
        let name = ResourceName("Route/HTTPRoute/shop/cart".into());
        match &**self.replica.resource(&name)? {
            Resource::Route(route) => match &route.rules {
                Rules::Http(rules) => Some(rules[0].backends[0].weight),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Looks until there is something.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = tokio::time::Instant::now() + WAIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < until, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
