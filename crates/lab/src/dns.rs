//! Plays the cluster's DNS: Services, headless Services and their pods in `cluster.local`
//! (Kubernetes DNS-Based Service Discovery 1.1.0). Of names elsewhere only those exist that a Service's annotations give an
//! address, as external-dns would: nothing leaves the lab.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

use crate::apiserver::Store;
use crate::config::{CLUSTER_DOMAIN, LAB_V4, LAB_V6, LabConfig};
use crate::objects::{Key, text};

/// Short, so that an edit shows soon.
const TTL: u32 = 5;
/// A UDP answer larger than this is truncated and asked for again over TCP (RFC 1035 §4.2.1).
const UDP_LIMIT: usize = 512;

/// Everything that has a name: lower case, without the final dot.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Zone {
    names: BTreeMap<String, Vec<Entry>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Entry {
    Address(IpAddr),
    Alias(String),
    Service { port: u16, target: String },
}

/// The addresses of the Service `kube-system/kube-dns`.
pub(crate) fn service_addresses(config: &LabConfig) -> Vec<IpAddr> {
    let mut all = vec![IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10))];
    all.extend(config.ipv6.then(|| IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xa))));
    all
}

/// The Service and EndpointSlices through which pods reach this server.
pub(crate) fn objects(config: &LabConfig) -> Vec<(Key, Value)> {
    let ports = |target: bool| {
        let port = |name: &str, protocol: &str| {
            let mut port = json!({"name": name, "port": 53, "protocol": protocol});
            if target {
                crate::objects::set(&mut port, "targetPort", json!(53));
            }
            port
        };
        json!([port("dns", "UDP"), port("dns-tcp", "TCP")])
    };
    let ips = service_addresses(config);
    let families: Vec<&str> = ips.iter().map(|ip| if ip.is_ipv6() { "IPv6" } else { "IPv4" }).collect();
    let mut all = vec![(
        Key::new("Service", "kube-system", "kube-dns"),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {
                "type": "ClusterIP", "clusterIP": ips.first(), "clusterIPs": ips, "ipFamilies": families,
                "ipFamilyPolicy": "PreferDualStack", "ports": ports(true), "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster",
            },
        }),
    )];
    let backends = [("IPv4", IpAddr::V4(LAB_V4)), ("IPv6", IpAddr::V6(LAB_V6))];
    for (family, address) in backends.into_iter().filter(|(f, _)| families.contains(f)) {
        let name = format!("kube-dns-{}", family.to_lowercase());
        all.push((
            Key::new("EndpointSlice", "kube-system", &name),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": name, "namespace": "kube-system", "labels": {"kubernetes.io/service-name": "kube-dns"}},
                "addressType": family,
                "endpoints": [{"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false}}],
                "ports": ports(false),
            }),
        ));
    }
    all
}

impl Zone {
    /// The zone of the present objects.
    pub(crate) fn of(store: &Store) -> Self {
        let mut zone = Self::default();
        for (key, service) in store.kind("Service") {
            zone.add_service(key, service);
            zone.add_public(service);
        }
        for (key, slice) in store.kind("EndpointSlice") {
            let label = slice.pointer("/metadata/labels").and_then(|l| l.get("kubernetes.io/service-name"));
            let Some(service) = label.and_then(Value::as_str) else { continue };
            let owner = store.get(&Key::new("Service", &key.namespace, service));
            if owner.is_some_and(|s| text(s, "/spec/clusterIP") == "None") {
                let unready_too =
                    owner.is_some_and(|s| s.pointer("/spec/publishNotReadyAddresses") == Some(&json!(true)));
                zone.add_headless(&domain(&key.namespace, service), slice, unready_too);
            }
        }
        zone
    }

    fn add(&mut self, name: &str, entry: Entry) {
        let entries = self.names.entry(name.to_lowercase()).or_default();
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }

    fn add_service(&mut self, key: &Key, service: &Value) {
        let name = domain(&key.namespace, &key.name);
        self.names.entry(name.clone()).or_default();
        let external = text(service, "/spec/externalName");
        if text(service, "/spec/type") == "ExternalName" && !external.is_empty() {
            self.add(&name, Entry::Alias(external.trim_end_matches('.').to_owned()));
            return;
        }
        for ip in service.pointer("/spec/clusterIPs").and_then(Value::as_array).into_iter().flatten() {
            if let Some(ip) = ip.as_str().and_then(|ip| ip.parse().ok()) {
                self.add(&name, Entry::Address(ip));
            }
        }
        if text(service, "/spec/clusterIP") != "None" {
            for port in service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten() {
                self.add_port(&name, port, &name);
            }
        }
    }

    /// `hostname` and `target` of external-dns.
    fn add_public(&mut self, service: &Value) {
        let annotation = |name: &str| {
            let all = service.pointer("/metadata/annotations")?;
            all.get(format!("external-dns.alpha.kubernetes.io/{name}"))?.as_str()
        };
        let (Some(names), Some(targets)) = (annotation("hostname"), annotation("target")) else { return };
        let targets: Vec<IpAddr> = targets.split(',').filter_map(|ip| ip.trim().parse().ok()).collect();
        for name in names.split(',').map(|name| name.trim().trim_end_matches('.')) {
            for target in &targets {
                self.add(name, Entry::Address(*target));
            }
        }
    }

    fn add_port(&mut self, service: &str, port: &Value, target: &str) {
        let number = port.get("port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok());
        if let (Some(number), name @ 1..) = (number, text(port, "/name").len()) {
            let _ = name;
            let protocol = text(port, "/protocol").to_lowercase();
            let srv = format!("_{}._{protocol}.{service}", text(port, "/name"));
            self.add(&srv, Entry::Service { port: number, target: target.to_owned() });
        }
    }

    fn add_headless(&mut self, name: &str, slice: &Value, unready_too: bool) {
        for endpoint in slice.get("endpoints").and_then(Value::as_array).into_iter().flatten() {
            let ready = endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true);
            if !ready && !unready_too {
                continue;
            }
            for ip in endpoint.get("addresses").and_then(Value::as_array).into_iter().flatten() {
                let Some(ip) = ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok()) else { continue };
                let host = match text(endpoint, "/hostname") {
                    "" => ip.to_string().replace(['.', ':'], "-"),
                    hostname => hostname.to_owned(),
                };
                let host = format!("{host}.{name}");
                self.add(name, Entry::Address(ip));
                self.add(&host, Entry::Address(ip));
                for port in slice.get("ports").and_then(Value::as_array).into_iter().flatten() {
                    self.add_port(name, port, &host);
                }
            }
        }
    }

    /// The answer to one request, or nothing for what is no request.
    fn answer(&self, request: &[u8], udp: bool) -> Option<Vec<u8>> {
        let request = Message::from_vec(request).ok()?;
        if request.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
        reply.metadata.recursion_desired = request.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.metadata.authoritative = true;
        match request.queries.first() {
            Some(query) if request.metadata.op_code == OpCode::Query => {
                reply.add_query(query.clone());
                let (code, records) = self.look_up(query.name(), query.query_type());
                reply.metadata.response_code = code;
                reply.add_answers(records);
            }
            _ => reply.metadata.response_code = ResponseCode::NotImp,
        }
        let bytes = reply.to_vec().ok()?;
        let limit = UDP_LIMIT.max(request.edns.as_ref().map_or(0, |e| usize::from(e.max_payload())));
        if udp && bytes.len() > limit { reply.truncate().to_vec().ok() } else { Some(bytes) }
    }

    fn look_up(&self, name: &Name, kind: RecordType) -> (ResponseCode, Vec<Record>) {
        let asked = name.to_lowercase().to_ascii();
        let asked = asked.trim_end_matches('.');
        let Some(entries) = self.names.get(asked) else {
            // A parent of an existing name is empty, not missing (RFC 8020).
            let below = format!(".{asked}");
            let exists = self.names.keys().any(|n| n.ends_with(&below));
            return (if exists { ResponseCode::NoError } else { ResponseCode::NXDomain }, Vec::new());
        };
        let records = entries
            .iter()
            .filter_map(|entry| entry.record(kind))
            .map(|data| Record::from_rdata(name.clone(), TTL, data));
        (ResponseCode::NoError, records.collect())
    }
}

impl Entry {
    fn record(&self, kind: RecordType) -> Option<RData> {
        match (self, kind) {
            (Self::Address(IpAddr::V4(ip)), RecordType::A) => Some(RData::A(A(*ip))),
            (Self::Address(IpAddr::V6(ip)), RecordType::AAAA) => Some(RData::AAAA(AAAA(*ip))),
            (Self::Alias(to), RecordType::A | RecordType::AAAA | RecordType::CNAME) => {
                Some(RData::CNAME(CNAME(name(to)?)))
            }
            (Self::Service { port, target }, RecordType::SRV) => {
                Some(RData::SRV(SRV::new(0, 100, *port, name(target)?)))
            }
            _ => None,
        }
    }
}

fn name(text: &str) -> Option<Name> {
    Name::from_ascii(format!("{text}.")).ok()
}

fn domain(namespace: &str, service: &str) -> String {
    format!("{service}.{namespace}.svc.{CLUSTER_DOMAIN}")
}

/// Serves the zone on the bridge's addresses, over UDP and TCP.
pub(crate) async fn serve(config: &LabConfig, zone: watch::Receiver<Arc<Zone>>) -> Result<()> {
    let mut ips = vec![IpAddr::V4(LAB_V4)];
    ips.extend(config.ipv6.then_some(IpAddr::V6(LAB_V6)));
    for ip in ips {
        let udp = UdpSocket::bind((ip, 53)).await.with_context(|| format!("cannot serve DNS on {ip}"))?;
        tokio::spawn(serve_udp(udp, zone.clone()));
        let tcp = TcpListener::bind((ip, 53)).await.with_context(|| format!("cannot serve DNS on {ip}"))?;
        tokio::spawn(accept(tcp, zone.clone()));
    }
    Ok(())
}

async fn serve_udp(socket: UdpSocket, zone: watch::Receiver<Arc<Zone>>) {
    let mut buffer = vec![0; 4096];
    loop {
        // An ICMP error about an earlier answer shows here; it concerns nobody else.
        let Ok((size, from)) = socket.recv_from(&mut buffer).await else { continue };
        let zone = Arc::clone(&zone.borrow());
        if let Some(reply) = buffer.get(..size).and_then(|request| zone.answer(request, true)) {
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

async fn accept(listener: TcpListener, zone: watch::Receiver<Arc<Zone>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let serve = serve_tcp(stream, zone.clone());
                tokio::spawn(tokio::time::timeout(Duration::from_secs(30), serve));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn serve_tcp(mut stream: TcpStream, zone: watch::Receiver<Arc<Zone>>) -> std::io::Result<()> {
    loop {
        let size = usize::from(stream.read_u16().await?);
        let mut request = vec![0; size];
        stream.read_exact(&mut request).await?;
        let zone = Arc::clone(&zone.borrow());
        let Some(reply) = zone.answer(&request, false) else { return Ok(()) };
        stream.write_u16(u16::try_from(reply.len()).unwrap_or(u16::MAX)).await?;
        stream.write_all(&reply).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        let mut zone = Zone::default();
        zone.add_service(
            &Key::new("Service", "shop", "web"),
            &json!({"spec": {"clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1", "fd00:10:96::1"], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}),
        );
        let slice = json!({"endpoints": [
            {"addresses": ["10.244.1.2"], "conditions": {"ready": true}},
            {"addresses": ["10.244.2.2"], "conditions": {"ready": false}},
        ], "ports": []});
        zone.add_headless("db.shop.svc.cluster.local", &slice, false);
        zone.add_public(&json!({"metadata": {"annotations": {
            "external-dns.alpha.kubernetes.io/hostname": "api.example, www.example.",
            "external-dns.alpha.kubernetes.io/target": "203.0.113.1, 2001:db8::1",
        }}}));
        zone
    }

    fn ask(name: &str, kind: RecordType) -> (ResponseCode, Vec<RData>) {
        let (code, records) = zone().look_up(&Name::from_ascii(name).unwrap(), kind);
        (code, records.into_iter().map(|r| r.data).collect())
    }

    #[test]
    fn names_elsewhere_are_those_of_annotations() {
        let address = RData::A(A::new(203, 0, 113, 1));
        for name in ["api.example.", "www.example."] {
            assert_eq!(ask(name, RecordType::A), (ResponseCode::NoError, vec![address.clone()]));
            assert_eq!(ask(name, RecordType::AAAA).1.len(), 1);
        }
        assert_eq!(ask("elsewhere.example.", RecordType::A).0, ResponseCode::NXDomain);
    }

    #[test]
    fn service_resolves_per_family() {
        assert_eq!(ask("WEB.shop.svc.cluster.local.", RecordType::A).1, vec![RData::A(A::new(10, 96, 1, 1))]);
        assert_eq!(ask("web.shop.svc.cluster.local.", RecordType::AAAA).1.len(), 1);
        assert_eq!(ask("_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV).1.len(), 1);
        assert_eq!(ask("web.shop.svc.cluster.local.", RecordType::TXT), (ResponseCode::NoError, vec![]));
    }

    #[test]
    fn headless_service_resolves_to_ready_pods() {
        assert_eq!(ask("db.shop.svc.cluster.local.", RecordType::A).1, vec![RData::A(A::new(10, 244, 1, 2))]);
        assert_eq!(ask("10-244-1-2.db.shop.svc.cluster.local.", RecordType::A).1.len(), 1);
    }

    #[test]
    fn unknown_names_do_not_exist_but_their_parents_may() {
        assert_eq!(ask("other.shop.svc.cluster.local.", RecordType::A).0, ResponseCode::NXDomain);
        assert_eq!(ask("example.org.", RecordType::A).0, ResponseCode::NXDomain);
        assert_eq!(ask("shop.svc.cluster.local.", RecordType::A).0, ResponseCode::NoError);
    }
}
