//! A Gateway `infra/front` whose listeners are all on one port.

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use weft_model::gateway::{
    Attachment, Certificate, Gateway, Listener, ListenerId, ListenerProtocol, ListenerTls, Secret,
};
use weft_model::route::*;
use weft_model::{ObjectName, Resource};
use weft_tls::testing::TestCa;
use weft_tls::{BackendTls, Carries, Roots, TlsError, TlsStream};

use crate::call::{self, Accepted};
use crate::outbound::http::tests::world::{World, pod};
use crate::pod::LocalPod;

pub(super) struct Rig<'w> {
    world: &'w World,
    socket: TcpListener,
    pub(super) pod: Arc<LocalPod>,
    pub(super) port: u16,
}

pub(super) fn listener(name: &str, hostname: Option<&str>) -> Listener {
    Listener {
        id: ListenerId { listener_set: None, name: name.into() },
        port: 0,
        protocol: ListenerProtocol::Http,
        hostname: hostname.map(Into::into),
        tls: None,
        filters: vec![],
        service_routes: false,
        refusal: None,
        refused_without: vec![],
    }
}

/// A listener of HTTPS or TLS that ends TLS with certificate `shop/<certificate>`.
pub(super) fn terminating(
    protocol: ListenerProtocol,
    name: &str,
    hostname: Option<&str>,
    certificate: &str,
) -> Listener {
    let certificates = vec![ObjectName::new("shop", certificate)];
    let tls = Some(ListenerTls::Terminate { certificates, client_validation: None });
    Listener { protocol, tls, ..listener(name, hostname) }
}

pub(super) fn passing(name: &str, hostname: Option<&str>) -> Listener {
    let (protocol, tls) = (ListenerProtocol::Tls, Some(ListenerTls::Passthrough));
    Listener { protocol, tls, ..listener(name, hostname) }
}

pub(super) fn exact(value: &str) -> Match {
    Match { path: PathMatch::Exact { value: value.into() }, ..Match::default() }
}

fn gateway() -> ObjectName {
    ObjectName::new("infra", "front")
}

impl<'w> Rig<'w> {
    pub(super) async fn new(world: &'w World, listeners: Vec<Listener>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let pod = pod("infra", "10.9.0.1:1".parse().unwrap());
        let rig = Self { world, socket, pod, port };
        rig.listeners(listeners);
        rig
    }

    /// These are the Gateway's listeners now, all on the rig's port.
    pub(super) fn listeners(&self, listeners: Vec<Listener>) {
        let listeners = listeners.into_iter().map(|l| Listener { port: self.port, ..l }).collect();
        let gateway = Gateway { name: gateway(), generation: 1, listeners, client_certificate: None };
        self.world.set(Resource::Gateway(gateway));
    }

    /// An HTTPRoute on a listener.
    pub(super) fn attach(&self, name: &str, listener: &str, hostnames: &[&str], rules: Vec<HttpRule>) {
        self.attach_kind(RouteKind::Http, name, (listener, hostnames), Rules::Http(rules));
    }

    pub(super) fn attach_kind(
        &self,
        kind: RouteKind,
        name: &str,
        (listener, hostnames): (&str, &[&str]),
        rules: Rules,
    ) {
        let attachment = Attachment {
            gateway: gateway(),
            listener: ListenerId { listener_set: None, name: listener.into() },
            hostnames: hostnames.iter().map(|name| (*name).into()).collect(),
        };
        let id = RouteId { kind, name: ObjectName::new("shop", name) };
        let route = Route {
            id,
            generation: 1,
            created: 0,
            parents: vec![],
            listeners: vec![attachment],
            for_gateways: false,
            rules,
        };
        self.world.set(Resource::Route(route));
    }

    /// Secret `shop/<name>`.
    pub(super) fn certificate(&self, name: &str, (chain, key): (String, String)) {
        self.world.set(Resource::Certificate(Certificate {
            name: ObjectName::new("shop", name),
            chain_pem: chain.into(),
            key_pem: Secret(key.into()),
        }));
    }

    /// A client's connection by TLS, with `name` as server name.
    pub(super) async fn connect_tls(
        &self,
        (ca, name): (&TestCa, &str),
        carries: Carries,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        let client = BackendTls::new(name, &[], Roots::Pem(&[&ca.root_pem()]), None).unwrap();
        client.connect(self.connect().await, carries).await
    }

    /// A client's connection to the port, which is served.
    pub(super) async fn connect(&self) -> TcpStream {
        let address = self.socket.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), self.socket.accept());
        let (stream, peer) = far.unwrap();
        let listener = call::Listener::Gateway(self.port);
        let accepted =
            Accepted { pod: self.pod.clone(), scope: self.pod.scope.clone(), listener, stream, peer };
        let worker = self.world.worker.clone();
        tokio::task::spawn_local(super::super::serve(worker, accepted, self.port));
        near.unwrap()
    }
}
