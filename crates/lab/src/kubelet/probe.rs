//! Probes as the kubelet makes them: from the node's own network namespace to the pod's address. TLS and gRPC are left
//! to curl.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::network;

/// What a probe does.
pub(crate) enum Check {
    Tcp(u16),
    Http(Get),
    /// As `Http`, over TLS whose certificate is not verified.
    Https(Get),
    Grpc {
        port: u16,
        service: String,
    },
    Exec(Vec<String>),
}

/// An HTTP request.
pub(crate) struct Get {
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
}

impl Check {
    /// The probe's action; an error for what the lab does not do.
    pub(crate) fn of(container: &Container, probe: &Probe) -> Result<Self, String> {
        let port = |p: &IntOrString| port_number(container, p).ok_or_else(|| format!("probe: no port {p:?}"));
        if let Some(http) = &probe.http_get {
            let get = Get::of(http, port(&http.port)?);
            return Ok(if http.scheme.as_deref() == Some("HTTPS") {
                Self::Https(get)
            } else {
                Self::Http(get)
            });
        }
        if let Some(tcp) = &probe.tcp_socket {
            return Ok(Self::Tcp(port(&tcp.port)?));
        }
        if let Some(grpc) = &probe.grpc {
            let port = u16::try_from(grpc.port).map_err(|_| format!("probe: no port {}", grpc.port))?;
            return Ok(Self::Grpc { port, service: grpc.service.clone().unwrap_or_default() });
        }
        if let Some(exec) = &probe.exec {
            return Ok(Self::Exec(exec.command.clone().unwrap_or_default()));
        }
        Err("probe: none of httpGet, tcpSocket, grpc and exec".to_owned())
    }

    /// The curl command, without the program's name, and what it reads, for what is left to curl.
    pub(crate) fn curl(&self, ip: IpAddr, timeout: Duration) -> Option<(Vec<String>, Vec<u8>)> {
        let mut arguments = vec!["-sS".to_owned(), "-m".to_owned(), timeout.as_secs_f64().to_string()];
        match self {
            Self::Https(get) => {
                arguments.extend(["-k", "-f", "-o", "/dev/null", "-A", AGENT].map(str::to_owned));
                for (name, value) in &get.headers {
                    arguments.extend(["-H".to_owned(), format!("{name}: {value}")]);
                }
                arguments.push(format!("https://{}{}", SocketAddr::new(ip, get.port), get.path));
                Some((arguments, Vec::new()))
            }
            Self::Grpc { port, service } => {
                arguments.extend(
                    ["--http2-prior-knowledge", "-A", AGENT, "--data-binary", "@-"].map(str::to_owned),
                );
                for header in ["content-type: application/grpc", "te: trailers"] {
                    arguments.extend(["-H".to_owned(), header.to_owned()]);
                }
                let at = SocketAddr::new(ip, *port);
                arguments.push(format!("http://{at}/grpc.health.v1.Health/Check"));
                Some((arguments, check_request(service)))
            }
            _ => None,
        }
    }
}

const AGENT: &str = "kube-probe/weft-lab";
/// A gRPC message with `HealthCheckResponse { status: SERVING }`.
pub(crate) const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";

impl Get {
    fn of(http: &HTTPGetAction, port: u16) -> Self {
        let path = http.path.as_deref().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        let headers = http.http_headers.iter().flatten();
        let headers = headers.map(|header| (header.name.clone(), header.value.clone())).collect();
        Self { port, path: format!("{slash}{path}"), headers }
    }

    fn request(&self, at: SocketAddr) -> String {
        let declared = |name: &str| self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut text = format!("GET {} HTTP/1.1\r\n", self.path);
        let own = [("Host", at.to_string()), ("User-Agent", AGENT.to_owned()), ("Accept", "*/*".to_owned())];
        for (name, value) in own.iter().filter(|(name, _)| !declared(name)) {
            text += &format!("{name}: {value}\r\n");
        }
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text + "Connection: close\r\n\r\n"
    }
}

/// `HealthCheckRequest` as one gRPC message. Services' names are shorter than 128 bytes.
fn check_request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.extend([0x0a, u8::try_from(service.len()).unwrap_or(u8::MAX)]);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0][..], &length, &message].concat()
}

/// A port by number or by the container's name for it.
pub(crate) fn port_number(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let found = container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name))?;
            u16::try_from(found.container_port).ok()
        }
    }
}

/// Makes a TCP or HTTP probe, blocking, on a thread in the node's namespace.
pub(crate) fn probe_network(
    netns: &Path,
    ip: IpAddr,
    check: &Check,
    timeout: Duration,
) -> Result<(), String> {
    let (port, get) = match check {
        Check::Tcp(port) => (*port, None),
        Check::Http(get) => (get.port, Some(get)),
        _ => return Err("not a probe that is made here".to_owned()),
    };
    let at = SocketAddr::new(ip, port);
    let request = get.map(|get| get.request(at));
    network::in_netns(netns, move || attempt(at, request.as_deref(), timeout))
        .map_err(|e| format!("{e:#}"))?
}

fn attempt(at: SocketAddr, request: Option<&str>, timeout: Duration) -> Result<(), String> {
    let told = |e: std::io::Error| format!("port {}: {e}", at.port());
    let mut stream = TcpStream::connect_timeout(&at, timeout).map_err(told)?;
    let Some(request) = request else { return Ok(()) };
    stream.set_read_timeout(Some(timeout)).map_err(told)?;
    stream.write_all(request.as_bytes()).map_err(told)?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).map_err(told)?;
    // Read on, so that the application sees a proper end.
    let _ = stream.take(64 << 10).read_to_end(&mut Vec::new());
    let code = std::str::from_utf8(&head).ok().and_then(|h| h.get(9..12)).unwrap_or_default().to_owned();
    if code.starts_with('2') || code.starts_with('3') {
        Ok(())
    } else {
        Err(format!("port {}: HTTP status {code}", at.port()))
    }
}
