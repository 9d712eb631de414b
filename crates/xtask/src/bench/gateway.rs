//! The bench of a Gateway's hop: Weft, HAProxy, nginx and Envoy between the same client and the same nginx, all on one
//! node and outside the mesh, by protocol.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::cpu::Process;
use super::load::{BIG, Load};
use super::{PathUnderTest, topology};
use crate::lab::Lab;

/// Where each hop listens. HTTP/2 has a port of its own, since not everybody tells it from HTTP/1.1.
pub(super) const HTTP: u16 = 8080;
const HTTP2: u16 = 8081;
const HTTPS: u16 = 8443;
const TCP: u16 = 9000;
const UDP: u16 = 5353;
/// The Gateway.
pub(super) const GATEWAY: &str = "bench";
/// The pod that calls.
const CLIENT: &str = "peers/client";

/// Writes what Weft and its peers need; the manifests.
pub(super) fn write(files: &Path, envoy: Option<&Path>) -> Result<String> {
    fs::write(files.join("big"), "x".repeat(BIG))?;
    fs::write(files.join("echo.py"), ECHO)?;
    fs::write(files.join("haproxy-edge.cfg"), haproxy(files))?;
    fs::write(files.join("nginx-edge.conf"), nginx(files))?;
    let at = files.display();
    let mut manifests =
        weft(&fs::read_to_string(files.join("peer.crt"))?, &fs::read_to_string(files.join("peer.key"))?);
    manifests += &pod("echo", &format!("python3 {at}/echo.py {UDP}"));
    manifests += &pod("haproxy-edge", &format!("haproxy -db -f {at}/haproxy-edge.cfg"));
    manifests += &pod("nginx-edge", &format!("nginx -c {at}/nginx-edge.conf"));
    if let Some(envoy) = envoy {
        fs::write(files.join("envoy-edge.yaml"), topology::envoy_edge(files, HTTP, HTTPS))?;
        let command = format!(
            "{} --concurrency 1 --disable-hot-restart -l error -c {at}/envoy-edge.yaml",
            envoy.display()
        );
        manifests += &pod("envoy-edge", &command);
    }
    Ok(manifests)
}

const ECHO: &str = "import socket, sys
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.bind(('::', int(sys.argv[1])))
while True:
    server.sendto(*server.recvfrom(2048))
";

fn pod(name: &str, command: &str) -> String {
    let ports = [("http", HTTP), ("http2", HTTP2), ("https", HTTPS), ("tcp", TCP)];
    let tcp = ports.map(|(name, port)| format!("{{ name: {name}, port: {port} }}")).join(", ");
    topology::pod_with_ports(
        "peers",
        name,
        "node1",
        command,
        &format!("{tcp}, {{ name: udp, port: {UDP}, protocol: UDP }}"),
    )
}

fn weft(certificate: &str, key: &str) -> String {
    let block = |pem: &str| pem.trim().replace('\n', "\n    ");
    let route = |kind: &str, section: &str, backend: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: {section}, namespace: peers }}\n\
             spec:\n  parentRefs: [{{ name: {GATEWAY}, sectionName: {section} }}]\n  rules: [{{ backendRefs: [{{ {backend} }}] }}]\n"
        )
    };
    let web = "name: local, port: 80";
    let udp = format!("name: echo, port: {UDP}");
    [
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: bench, namespace: peers }}\n\
             data: {{ workers: '1', accessLog: 'off', nodeSelector: '{{kubernetes.io/hostname: node1}}' }}\n\
             ---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: bench, namespace: peers }}\ntype: kubernetes.io/tls\n\
             stringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n\
             ---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: {GATEWAY}, namespace: peers }}\n\
             spec:\n  gatewayClassName: weft\n  \
             infrastructure: {{ parametersRef: {{ group: '', kind: ConfigMap, name: bench }} }}\n  listeners:\n  \
             - {{ name: http, port: {HTTP}, protocol: HTTP }}\n  \
             - {{ name: https, port: {HTTPS}, protocol: HTTPS, tls: {{ certificateRefs: [{{ name: bench }}] }} }}\n  \
             - {{ name: tcp, port: {TCP}, protocol: TCP }}\n  - {{ name: udp, port: {UDP}, protocol: UDP }}\n",
            block(certificate),
            block(key),
        ),
        route("HTTPRoute", "http", web),
        route("HTTPRoute", "https", web),
        route("TCPRoute", "tcp", web).replace("k8s.io/v1\n", "k8s.io/v1alpha2\n"),
        route("UDPRoute", "udp", &udp).replace("k8s.io/v1\n", "k8s.io/v1alpha2\n"),
    ]
    .concat()
}

fn haproxy(files: &Path) -> String {
    format!(
        "global\n  nbthread 1\n  maxconn 8192\n  tune.ssl.default-dh-param 2048\ndefaults\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
         default-server init-addr last,libc,none resolvers lab\nresolvers lab\n  parse-resolv-conf\n  hold valid 60s\n\
         frontend web\n  mode http\n  bind :{HTTP}\n  bind :{HTTP2} proto h2\n  bind :{HTTPS} ssl crt {}/peer.pem alpn h2,http/1.1\n  default_backend web\n\
         backend web\n  mode http\n  http-reuse always\n  server s local.peers.svc.cluster.local:80\n\
         frontend bytes\n  mode tcp\n  bind :{TCP}\n  default_backend bytes\n\
         backend bytes\n  mode tcp\n  server s local.peers.svc.cluster.local:80\n",
        files.display()
    )
}

fn nginx(files: &Path) -> String {
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         daemon off; master_process off; pid {0}/nginx-edge.pid; error_log stderr crit; events {{ worker_connections 8192; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {0}/eb; proxy_temp_path {0}/ep; \
         fastcgi_temp_path {0}/ef; uwsgi_temp_path {0}/eu; scgi_temp_path {0}/es; \
         upstream web {{ server local.peers.svc.cluster.local:80; keepalive 64; keepalive_requests 1000000000; }} \
         server {{ listen {HTTP}; listen {HTTP2} http2; listen {HTTPS} ssl http2; ssl_protocols TLSv1.3; ssl_certificate {0}/peer.crt; ssl_certificate_key {0}/peer.key; \
         http2_max_requests 1000000000; \
         location / {{ proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection ''; }} }} }}\n\
         stream {{ upstream bytes {{ server local.peers.svc.cluster.local:80; }} server {{ listen {TCP}; proxy_pass bytes; }} \
         upstream echo {{ server echo.peers.svc.cluster.local:{UDP}; }} server {{ listen {UDP} udp; proxy_pass echo; }} }}\n",
        files.display()
    )
}

/// The paths, and whose CPU time counts on each.
pub(super) fn paths(lab: &Lab, envoy: bool) -> Result<Vec<PathUnderTest>> {
    let of_lab = format!("{}/", lab.name);
    let mut hops = vec![
        (
            "weft",
            format!("{GATEWAY}-weft"),
            Process::find(&["weft-proxy", &format!("--gateway=peers/{GATEWAY}")])?,
        ),
        ("haproxy", "haproxy-edge".to_owned(), Process::find(&["haproxy", &of_lab, "haproxy-edge."])?),
        ("nginx", "nginx-edge".to_owned(), Process::find(&["nginx", &of_lab, "nginx-edge."])?),
    ];
    if envoy {
        hops.push(("envoy", "envoy-edge".to_owned(), Process::find(&["envoy", &of_lab, "envoy-edge."])?));
    }
    let addresses = hops.iter().map(|(_, host, _)| ipv4(lab, host)).collect::<Result<Vec<_>>>()?;
    let mut paths = Vec::new();
    for (load, what) in KINDS {
        for ((program, _, process), address) in hops.iter().zip(&addresses) {
            let Some(url) = url(*load, what, program, address) else { continue };
            // HAProxy carries no datagrams.
            let peer = if *load == Load::Datagrams { "nginx" } else { "haproxy" };
            paths.push(PathUnderTest {
                name: format!("{program}, {what}"),
                compared_with: format!("{peer}, {what}"),
                load: *load,
                client: CLIENT,
                url,
                processes: vec![process.clone()],
            });
        }
    }
    Ok(paths)
}

/// The IPv4 address of a Service. A Gateway's has one of each family and its peers' have none of IPv6, whose packets cost
/// the kernel more.
fn ipv4(lab: &Lab, host: &str) -> Result<String> {
    let found = lab.exec(CLIENT, &["getent", "ahostsv4", host])?;
    let address = found.split_whitespace().next();
    address.map(str::to_owned).with_context(|| format!("{host} has no IPv4 address"))
}

const TCP_BYTES: &str = "TCP, 1 MiB responses";
const KINDS: &[(Load, &str)] = &[
    (Load::Requests, "HTTP/1.1"),
    (Load::Streams, "HTTP/2"),
    (Load::Handshakes, "new TLS connections"),
    (Load::Bytes, "TLS, 1 MiB responses"),
    (Load::Bytes, TCP_BYTES),
    (Load::Datagrams, "UDP"),
];

/// What is called through Weft's Gateway.
pub(super) fn own_url() -> String {
    format!("http://{GATEWAY}-weft:{HTTP}/")
}

/// What is called; `None`: the program cannot carry this.
fn url(load: Load, what: &str, program: &str, host: &str) -> Option<String> {
    let one_port = ["weft", "envoy"].contains(&program);
    Some(match load {
        Load::Requests => format!("http://{host}:{HTTP}/"),
        Load::Streams => format!("http://{host}:{}/", if one_port { HTTP } else { HTTP2 }),
        Load::Handshakes => format!("https://{host}:{HTTPS}/"),
        Load::Bytes if what == TCP_BYTES && program == "envoy" => return None,
        Load::Bytes if what == TCP_BYTES => format!("http://{host}:{TCP}/big"),
        Load::Bytes => format!("https://{host}:{HTTPS}/big"),
        Load::Datagrams if ["haproxy", "envoy"].contains(&program) => return None,
        Load::Datagrams => format!("{host} {UDP}"),
    })
}
