//! Readiness probes. They are made inside the pod's network namespace, over loopback: a mesh
//! never captures that, so a probe says whether the application answers, not the mesh.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::network;

/// What a probe does.
pub(crate) enum Check {
    Tcp(u16),
    Http { port: u16, path: String },
    Exec(Vec<String>),
}

impl Check {
    /// The probe's action; an error for what the lab does not do.
    pub(crate) fn of(container: &Container, probe: &Probe) -> Result<Self, String> {
        let port = |p: &IntOrString| {
            port_number(container, p).ok_or_else(|| format!("readinessProbe: no port {p:?}"))
        };
        if let Some(http) = &probe.http_get {
            if http.scheme.as_deref() == Some("HTTPS") {
                return Err("readinessProbe: the lab does not probe by HTTPS".to_owned());
            }
            let path = http.path.clone().unwrap_or_else(|| "/".to_owned());
            return Ok(Self::Http { port: port(&http.port)?, path });
        }
        if let Some(tcp) = &probe.tcp_socket {
            return Ok(Self::Tcp(port(&tcp.port)?));
        }
        if let Some(exec) = &probe.exec {
            return Ok(Self::Exec(exec.command.clone().unwrap_or_default()));
        }
        Err("readinessProbe: the lab knows httpGet, tcpSocket and exec".to_owned())
    }
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

/// Makes a network probe, blocking, on a thread in the pod's namespace.
pub(crate) fn probe_network(netns: &Path, check: &Check, timeout: Duration) -> Result<(), String> {
    let (port, request) = match check {
        Check::Tcp(port) => (*port, None),
        Check::Http { port, path } => (
            *port,
            Some(format!(
                "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: kube-probe/weft-lab\r\nConnection: close\r\n\r\n"
            )),
        ),
        Check::Exec(_) => return Err("not a network probe".to_owned()),
    };
    network::in_netns(netns, move || attempt(port, request.as_deref(), timeout))
        .map_err(|e| format!("{e:#}"))?
}

fn attempt(port: u16, request: Option<&str>, timeout: Duration) -> Result<(), String> {
    let loopbacks = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let mut stream = Err("no loopback".to_owned());
    for ip in loopbacks {
        stream = TcpStream::connect_timeout(&SocketAddr::new(ip, port), timeout)
            .map_err(|e| format!("port {port}: {e}"));
        if stream.is_ok() {
            break;
        }
    }
    let mut stream = stream?;
    let Some(request) = request else { return Ok(()) };
    let told = |e: std::io::Error| format!("port {port}: {e}");
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
        Err(format!("port {port}: HTTP status {code}"))
    }
}
