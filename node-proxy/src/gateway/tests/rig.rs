//! A Gateway `infra/front` whose listeners are all on one port.

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use weft_model::gateway::{Attachment, Gateway, Listener, ListenerId, ListenerProtocol};
use weft_model::route::*;
use weft_model::{ObjectName, Resource};

use crate::call::{self, Accepted};
use crate::outbound::http::tests::world::{World, pod};
use crate::pod::LocalPod;

pub(super) struct Rig<'w> {
    world: &'w World,
    socket: TcpListener,
    pod: Arc<LocalPod>,
    pub(super) port: u16,
}

pub(super) fn listener(name: &str, hostname: Option<&str>) -> Listener {
    Listener {
        id: ListenerId { listener_set: None, name: name.into() },
        port: 0,
        protocol: ListenerProtocol::Http,
        hostname: hostname.map(Into::into),
        tls: None,
        refusal: None,
    }
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
        let route =
            Route { id, generation: 1, created: 0, parents: vec![], listeners: vec![attachment], rules };
        self.world.set(Resource::Route(route));
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
