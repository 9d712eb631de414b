//! The bench's folder: a meshed namespace for Weft and an unmeshed one with HAProxy and Envoy, on the same two nodes,
//! in front of the same nginx.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::gateway;
use crate::run;

/// Name and URL of a peer's path.
pub(super) fn peer_path(peer: &str, two_nodes: bool) -> (&'static str, &'static str) {
    match (peer, two_nodes) {
        ("haproxy", false) => ("haproxy one hop", "http://haproxy-one:8080/"),
        ("haproxy", true) => ("haproxy pair, mTLS", "http://haproxy-near:8080/"),
        (_, false) => ("envoy one hop", "http://envoy-one:8080/"),
        (_, true) => ("envoy pair, mTLS", "http://envoy-near:8080/"),
    }
}

/// Writes the programs' configuration files and the manifests; returns the manifests' folder.
pub(super) fn write(folder: &Path, envoy: Option<&Path>) -> Result<PathBuf> {
    let (files, manifests_folder) = (folder.join("files"), folder.join("manifests"));
    fs::create_dir_all(&files)?;
    fs::create_dir_all(&manifests_folder)?;
    certificates(&files)?;
    fs::write(files.join("nginx.conf"), nginx(&files))?;
    let mut manifests = String::from(NAMESPACES);
    for (namespace, server, node) in [
        ("mesh", "local", "node1"),
        ("mesh", "remote", "node2"),
        ("peers", "local", "node1"),
        ("peers", "remote", "node2"),
    ] {
        let command = format!("nginx -c {}/nginx.conf", files.display());
        manifests += &pod(namespace, server, node, &command, 80);
    }
    for (role, node) in [("one", "node1"), ("near", "node1"), ("far", "node2")] {
        let config = files.join(format!("haproxy-{role}.cfg"));
        fs::write(&config, haproxy(role, &files))?;
        manifests += &pod(
            "peers",
            &format!("haproxy-{role}"),
            node,
            &format!("haproxy -db -f {}", config.display()),
            8080,
        );
        let Some(envoy) = envoy else { continue };
        let config = files.join(format!("envoy-{role}.yaml"));
        fs::write(&config, envoy_config(role, &files))?;
        let command = format!(
            "{} --concurrency 1 --disable-hot-restart -l error -c {}",
            envoy.display(),
            config.display()
        );
        manifests += &pod("peers", &format!("envoy-{role}"), node, &command, 8080);
    }
    manifests += &gateway::write(&files, envoy)?;
    fs::write(manifests_folder.join("bench.yaml"), manifests)?;
    Ok(manifests_folder)
}

const NAMESPACES: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: mesh, labels: { weft-mesh.dev/mesh: enabled } }
---
apiVersion: v1
kind: Namespace
metadata: { name: peers }
---
apiVersion: v1
kind: Pod
metadata: { name: client, namespace: mesh }
spec: { nodeName: node1, containers: [{ name: c, image: local, command: [sleep, infinity] }] }
---
apiVersion: v1
kind: Pod
metadata: { name: client, namespace: peers }
spec: { nodeName: node1, containers: [{ name: c, image: local, command: [sleep, infinity] }] }
"#;

fn pod(namespace: &str, name: &str, node: &str, command: &str, port: u16) -> String {
    let ports = format!("{{ name: http, port: {port}, targetPort: {port} }}");
    pod_with_ports(namespace, name, node, command, &ports)
}

/// A pod with one program, and its Service.
pub(super) fn pod_with_ports(namespace: &str, name: &str, node: &str, command: &str, ports: &str) -> String {
    let words: Vec<_> = command.split(' ').map(|w| format!("{w:?}")).collect();
    format!(
        r#"---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: {namespace}, labels: {{ app: {name} }} }}
spec: {{ nodeName: {node}, containers: [{{ name: c, image: local, command: [{}] }}] }}
---
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: {namespace} }}
spec: {{ selector: {{ app: {name} }}, ports: [{ports}] }}
"#,
        words.join(", ")
    )
}

/// One P-256 authority and one leaf that both ends of a peer's pair use.
fn certificates(folder: &Path) -> Result<()> {
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem && \
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=peer -addext subjectAltName=DNS:peer -keyout peer.key -out peer.csr && \
        openssl x509 -req -in peer.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copy -out peer.crt && cat peer.crt peer.key > peer.pem && chmod 644 *";
    run::read(Command::new("sh").args(["-c", script]).current_dir(folder)).map(drop)
}

fn nginx(files: &Path) -> String {
    let body = "x".repeat(1024);
    format!(
        "daemon off; worker_processes 1; pid {0}/nginx.pid; error_log stderr crit; events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; \
         fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s; \
         server {{ listen 80 reuseport; listen [::]:80 reuseport; location / {{ return 200 \"{body}\"; }} location = /big {{ root {0}; }} }} }}\n",
        files.display()
    )
}

fn haproxy(role: &str, files: &Path) -> String {
    let tls = format!("ssl crt {0}/peer.pem ca-file {0}/ca.pem", files.display());
    let (bind, server) = match role {
        "one" => (String::new(), "local.peers.svc.cluster.local:80".to_owned()),
        "near" => (
            String::new(),
            format!("haproxy-far.peers.svc.cluster.local:8080 {tls} verify required ssl-min-ver TLSv1.3"),
        ),
        _ => (
            format!("{tls} verify required ssl-min-ver TLSv1.3"),
            "remote.peers.svc.cluster.local:80".to_owned(),
        ),
    };
    format!(
        "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
         http-reuse always\n  default-server init-addr last,libc,none resolvers lab\nresolvers lab\n  parse-resolv-conf\n  hold valid 60s\n\
         frontend f\n  bind :8080 {bind}\n  default_backend b\nbackend b\n  server s {server}\n"
    )
}

/// Types of Envoy's configuration begin so.
const TYPES: &str = "type.googleapis.com/envoy.extensions";

fn envoy_config(role: &str, files: &Path) -> String {
    let server_tls = envoy_tls("Downstream", "require_client_certificate: true, ", true, files);
    let client_tls = envoy_tls("Upstream", "", true, files);
    let (listener_tls, cluster_tls, host, port) = match role {
        "one" => (String::new(), String::new(), "local", 80),
        "near" => (String::new(), client_tls, "envoy-far", 8080),
        _ => (server_tls, String::new(), "remote", 80),
    };
    let listeners = envoy_listener(8080, &listener_tls);
    format!("static_resources:\n  listeners:\n{listeners}{}", envoy_cluster(host, port, &cluster_tls))
}

/// The edge: plaintext, and TLS without clients' certificates.
pub(super) fn envoy_edge(files: &Path, http: u16, https: u16) -> String {
    let tls = envoy_tls("Downstream", "", false, files);
    let listeners = envoy_listener(http, "") + &envoy_listener(https, &tls);
    format!("static_resources:\n  listeners:\n{listeners}{}", envoy_cluster("local", 80, ""))
}

fn envoy_tls(side: &str, more: &str, verify: bool, files: &Path) -> String {
    let roots = format!(", validation_context: {{ trusted_ca: {{ filename: {}/ca.pem }} }}", files.display());
    let roots = if verify { &*roots } else { "" };
    format!(
        "transport_socket: {{ name: tls, typed_config: {{ '@type': {TYPES}.transport_sockets.tls.v3.{side}TlsContext, {more}\
         common_tls_context: {{ tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}, \
         tls_certificates: [{{ certificate_chain: {{ filename: {0}/peer.crt }}, private_key: {{ filename: {0}/peer.key }} }}]{roots} }} }} }}, ",
        files.display()
    )
}

fn envoy_listener(port: u16, tls: &str) -> String {
    format!(
        "  - {{ address: {{ socket_address: {{ address: 0.0.0.0, port_value: {port} }} }}, filter_chains: [{{ {tls}filters: [{{ name: http, \
         typed_config: {{ '@type': {TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: h, \
         route_config: {{ virtual_hosts: [{{ name: v, domains: ['*'], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: c }} }}] }}] }}, \
         http_filters: [{{ name: router, typed_config: {{ '@type': {TYPES}.filters.http.router.v3.Router }} }}] }} }}] }}] }}\n"
    )
}

fn envoy_cluster(host: &str, port: u16, tls: &str) -> String {
    format!(
        "  clusters:\n  - {{ name: c, type: STRICT_DNS, dns_lookup_family: V4_ONLY, {tls}load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: \
         {{ socket_address: {{ address: {host}, port_value: {port} }} }} }} }}] }}] }} }}\n"
    )
}
