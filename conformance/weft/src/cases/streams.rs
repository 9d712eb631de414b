//! Byte streams: TLSRoute by server name, TCPRoute by weight, servers that speak first, half-close and reset. And streams and
//! datagrams at a Gateway.
#![allow(clippy::indexing_slicing, clippy::too_many_lines, reason = "tables of checks")]

use super::services::{datagrams, shares};
use crate::mesh::{
    Checks, GATEWAYS, Mesh, Port, gateway, gateway_addresses, host, namespace, patiently, pod, route,
    service, sleeper, soon, tally,
};
use anyhow::{Context, Result, ensure};

const FROM: &str = "a/near";
const PYTHON: &str = "/usr/bin/python3";
const TLS: &[Port] = &[Port("tls", 443, 8443, "")];
const TCP: &[Port] = &[Port("tcp", 90, 9000, "")];

/// A server that speaks first: its name; then everything comes back.
pub(super) fn greeter(name: &str, node: &str) -> String {
    let answer = format!("SYSTEM:echo {name}; cat");
    pod(
        "a",
        name,
        node,
        name,
        Some(9000),
        &["socat", "-t15", "TCP6-LISTEN:9000,fork,reuseaddr,ipv6only=0", &answer],
    ) + &service("a", name, name, TCP)
}

/// A server that answers only after its caller has finished: how many bytes came.
fn counter(name: &str, node: &str) -> String {
    let answer = "SYSTEM:n=$(wc -c); echo got $n";
    pod(
        "a",
        name,
        node,
        name,
        Some(9000),
        &["socat", "-t15", "TCP6-LISTEN:9000,fork,reuseaddr,ipv6only=0", answer],
    ) + &service("a", name, name, TCP)
}

pub(super) fn tls_server(name: &str, node: &str, serve: &str) -> String {
    let program = format!(
        "cd /tmp && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} -keyout key.pem -out cert.pem 2>/dev/null && {serve}"
    );
    pod("a", name, node, name, Some(8443), &["bash", "-c", &program]) + &service("a", name, name, TLS)
}

fn servers() -> String {
    let nginx = "user root; daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log stderr; events {} http { client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; access_log off; server { listen 8443 ssl; listen [::]:8443 ssl; ssl_certificate /tmp/cert.pem; ssl_certificate_key /tmp/key.pem; location / { return 200 \"tls1 $ssl_server_name\"; } } }";
    let sshd = "mkdir -p /run/sshd /tmp/ssh && ssh-keygen -q -t ed25519 -N '' -f /tmp/ssh/key && exec /usr/sbin/sshd -D -e -f /dev/null -p 9000 -h /tmp/ssh/key -o PidFile=none";
    let mut yaml =
        greeter("g1", "node1") + &greeter("g2", "node2") + &counter("c1", "node1") + &counter("c2", "node2");
    yaml += &tls_server(
        "tls1",
        "node1",
        &format!("echo '{nginx}' > nginx.conf && exec nginx -c /tmp/nginx.conf"),
    );
    yaml += &tls_server(
        "tls2",
        "node2",
        "exec openssl s_server -quiet -accept 8443 -cert cert.pem -key key.pem -www",
    );
    yaml += &(pod("a", "ssh", "node2", "ssh", Some(9000), &["bash", "-c", sshd])
        + &service("a", "ssh", "ssh", TCP));
    let resets = &[Port("meet", 91, 9001, ""), Port("leave", 92, 9002, "")];
    for (name, node) in [("r1", "node1"), ("r2", "node2")] {
        yaml += &pod(
            "a",
            name,
            node,
            name,
            Some(9002),
            &[PYTHON, "-c", include_str!("programs/reset_server.py")],
        );
        yaml += &service("a", name, name, resets);
        yaml += &service("a", &name.replace('r', "closed"), name, &[Port("closed", 93, 9, "")]);
    }
    yaml
}

/// The objects.
pub fn topology() -> String {
    let mut yaml = namespace("a", true) + &sleeper("a", "near", "node1") + &servers();
    let parent = |name: &str| format!("[{{group: \"\", kind: Service, name: {name}}}]");
    for name in ["by-name", "half"] {
        yaml += &service("a", name, "tls1", TLS);
    }
    let by_name = |name: &str, host: &str, to: &str| {
        let spec = format!("hostnames: ['{host}']\n  rules: [{{backendRefs: [{{name: {to}, port: 443}}]}}]");
        route("TLSRoute", "a", name, &parent("by-name"), &spec)
    };
    yaml += &(by_name("exact", "one.example", "tls1") + &by_name("wild", "*.two.example", "tls2"));
    yaml += &by_name("deeper", "three.two.example", "tls1");
    // The weaker kind on the same port.
    yaml += &route(
        "TCPRoute",
        "a",
        "weaker",
        &parent("by-name"),
        "rules: [{backendRefs: [{name: g1, port: 90}]}]",
    );
    yaml += &route(
        "TLSRoute",
        "a",
        "half",
        &parent("half"),
        "hostnames: [half.example]\n  rules: [{backendRefs: [{name: tls2, port: 443}, {name: missing, port: 443}]}]",
    );
    for (name, backends) in [
        ("weighted", "{name: g1, port: 90, weight: 3}, {name: g2, port: 90, weight: 1}"),
        ("broken", "{name: missing, port: 90}"),
        ("ssh-routed", "{name: ssh, port: 90}"),
        ("counted", "{name: c2, port: 90}"),
    ] {
        yaml += &service("a", name, "g1", TCP);
        yaml +=
            &route("TCPRoute", "a", name, &parent(name), &format!("rules: [{{backendRefs: [{backends}]}}]"));
    }
    yaml + &at_gateway()
}

/// A Gateway for connections and datagrams, two servers of datagrams, and a client outside the mesh.
fn at_gateway() -> String {
    let mut yaml = namespace("out", false) + &sleeper("out", "client", "node1");
    let listeners = "listeners: [{name: tcp, port: 90, protocol: TCP}, {name: udp, port: 53, protocol: UDP}]";
    yaml += &gateway("a", "front", listeners);
    yaml += &(datagrams("u1", "node1") + &datagrams("u2", "node2"));
    for (kind, one, other, port) in [("TCPRoute", "g1", "g2", 90), ("UDPRoute", "u1", "u2", 53)] {
        let parent = format!("[{{name: front, port: {port}}}]");
        let backends =
            format!("{{name: {one}, port: {port}, weight: 1}}, {{name: {other}, port: {port}, weight: 3}}");
        yaml += &route(kind, "a", "front", &parent, &format!("rules: [{{backendRefs: [{backends}]}}]"));
    }
    yaml
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    check_tls(checks);
    check_tcp(checks);
    check_ends(checks);
    if checks.mesh().is_weft() {
        check_gateway(checks);
    }
}

/// The subject of the certificate that a TLS caller with this server name is shown, or what went wrong.
fn subject(mesh: &Mesh, host: &str, name: &str) -> Result<String> {
    let name = if name.is_empty() { "-noservername".to_owned() } else { format!("-servername {name}") };
    let text =
        mesh.shell(FROM, &format!("timeout 30 openssl s_client -connect {host}:443 {name} </dev/null 2>&1"))?;
    let subject = text.lines().find_map(|l| l.trim().strip_prefix("subject=").map(|s| s.replace(' ', "")));
    Ok(subject.unwrap_or_else(|| {
        if text.contains("errno=104") || text.contains("unexpected eof") { "reset".to_owned() } else { text }
    }))
}

fn check_tls(checks: &mut Checks<'_>) {
    checks.check("a TCPRoute beside TLSRoutes is refused as Conflicted", |m| {
        let told = m.condition("TCPRoute", "a", "weaker", "Accepted")?;
        ensure!(told == "False Conflicted", "{told}");
        Ok(())
    });
    for (name, wanted) in [
        ("one.example", "CN=tls1"),
        ("ONE.example", "CN=tls1"),
        ("a.two.example", "CN=tls2"),
        ("a.b.two.example", "CN=tls2"),
        ("three.two.example", "CN=tls1"),
        ("two.example", "reset"),
        ("other.example", "reset"),
        ("", "reset"),
    ] {
        checks.check(&format!("TLSRoute: server name {name:?} leads to {wanted}"), |m| {
            let told = subject(m, "by-name", name)?;
            ensure!(told == wanted, "{told}");
            Ok(())
        });
    }
    checks.check("TLSRoute: curl gets a page from nginx, end to end encrypted", |m| {
        let told = m.run(
            FROM,
            &["curl", "-sSk", "-m", "20", "--connect-to", "::by-name:443", "https://one.example/"],
        )?;
        ensure!(told == "tls1 one.example", "{told}");
        Ok(())
    });
    checks.check("TLSRoute: a port with TLSRoutes refuses what is not TLS", |m| {
        let told = m.shell(FROM, "curl -sS -m 20 http://by-name:443/")?;
        ensure!(told.starts_with("curl: (56)") || told.starts_with("curl: (52)"), "{told}");
        Ok(())
    });
    checks.check("TLSRoute: an invalid backend's share is reset, exactly by weight", |m| {
        let mut ends = Vec::new();
        for _ in 0..10 {
            ends.push(subject(m, "half", "half.example")?);
        }
        let counts = tally(&ends.join("\n"));
        ensure!(counts.get("CN=tls2") == Some(&5) && counts.get("reset") == Some(&5), "{counts:?}");
        Ok(())
    });
    for name in ["tls1", "tls2"] {
        checks.check(&format!("TLS without routes is passed on as it is to {name}"), |m| {
            let told = subject(m, name, "any.example")?;
            ensure!(told == format!("CN={name}"), "{told}");
            Ok(())
        });
    }
}

fn check_tcp(checks: &mut Checks<'_>) {
    checks.check("TCPRoute: weights hold per connection, exactly", |m| {
        let text =
            m.shell(FROM, "for i in $(seq 40); do timeout 30 socat -t10 - TCP:weighted:90 </dev/null; done")?;
        let counts = tally(&text);
        ensure!(counts.get("g1") == Some(&30) && counts.get("g2") == Some(&10), "{counts:?}");
        Ok(())
    });
    checks.check("TCPRoute: an invalid backend's connections are reset", |m| {
        let told =
            m.run(FROM, &[PYTHON, "-c", include_str!("programs/reset_client.py"), "meet", "broken", "90"]);
        let told = told.unwrap_or_else(|e| e.to_string());
        ensure!(told == "reset\n" || told.contains("ConnectionResetError"), "{told}");
        Ok(())
    });
    for family in ["TCP4", "TCP6"] {
        for host in ["g1", "g2", "weighted"] {
            checks.check(&format!("a server that speaks first is heard at {host} by {family}"), |m| {
                let told = m.shell(
                    FROM,
                    &format!("(sleep 0.3; echo hello) | timeout 30 socat -t10 - {family}:{host}:90"),
                )?;
                let mut lines = told.lines();
                ensure!(
                    lines.next().is_some_and(|l| l.starts_with('g')) && lines.next() == Some("hello"),
                    "{told}"
                );
                Ok(())
            });
        }
    }
    for host in ["ssh", "ssh-routed"] {
        checks.check(&format!("OpenSSH agrees on keys at {host}"), |m| {
            let told =
                m.shell(FROM, &format!("ssh-keyscan -T 20 -p 90 -t ed25519 {host} 2>&1; cat /dev/null"))?;
            let key = m.shell("a/ssh", "cut -d' ' -f2 /tmp/ssh/key.pub")?;
            ensure!(told.contains(key.trim()) && told.contains("SSH-2.0-OpenSSH"), "{told}");
            Ok(())
        });
    }
    for host in ["g1", "g2"] {
        checks.check(&format!("20 MiB to {host} come back as the same bytes"), |m| {
            let script = format!("head -c 20971520 /dev/urandom > /tmp/sent; timeout 120 socat -t10 - TCP:{host}:90 < /tmp/sent | tail -c +4 | cmp - /tmp/sent && echo same");
            let told = m.shell(FROM, &script)?;
            ensure!(told == "same\n", "{told}");
            Ok(())
        });
    }
}

fn check_ends(checks: &mut Checks<'_>) {
    for host in ["c1", "c2", "counted"] {
        checks.check(&format!("half-close: {host} answers after its caller has finished sending"), |m| {
            let told =
                m.shell(FROM, &format!("head -c 100000 /dev/zero | timeout 30 socat -t15 - TCP:{host}:90"))?;
            ensure!(told == "got 100000\n", "{told}");
            Ok(())
        });
    }
    let client = include_str!("programs/reset_client.py");
    for host in ["r1", "r2"] {
        checks.check(&format!("reset: {host}'s reset reaches the caller as one"), |m| {
            let told = m.run(FROM, &[PYTHON, "-c", client, "meet", host, "91"])?;
            ensure!(told == "reset\n", "{told}");
            Ok(())
        });
        checks.check(&format!("the beginning of a line reaches {host} although nothing follows"), |m| {
            let script = format!(
                "exec 3<>/dev/tcp/{}/90; printf HELLO >&3; timeout 30 head -c 8 <&3",
                host.replace('r', "g")
            );
            let told = m.shell(FROM, &script)?;
            ensure!(told.ends_with("HELLO"), "{told}");
            Ok(())
        });
        checks.check(&format!("reset: the caller's reset reaches {host} as one"), |m| {
            m.shell(&format!("a/{host}"), "rm -f /tmp/ended")?;
            m.run(FROM, &[PYTHON, "-c", client, "leave", host, "92"])?;
            soon(|| {
                let told = m.shell(&format!("a/{host}"), "cat /tmp/ended")?;
                let last = told.lines().last().context("nothing yet")?;
                ensure!(last == "reset", "{told}");
                Ok(())
            })
        });
    }
    for host in ["closed1", "closed2"] {
        checks.check(&format!("a port on which nothing listens is reset at once: {host}"), |m| {
            let told = m.run(FROM, &[PYTHON, "-c", client, "meet", host, "93"]);
            let told = told.unwrap_or_else(|e| e.to_string());
            ensure!(told == "reset\n" || told.contains("ConnectionResetError"), "{told}");
            Ok(())
        });
    }
}

fn check_gateway(checks: &mut Checks<'_>) {
    for kind in ["TCPRoute", "UDPRoute"] {
        checks.check(&format!("a {kind} at a Gateway is accepted"), |m| {
            patiently(|| {
                for (condition, wanted) in
                    [("Accepted", "True Accepted"), ("ResolvedRefs", "True ResolvedRefs")]
                {
                    let told = m.condition_by(GATEWAYS, [kind, "a", "front"], condition)?;
                    ensure!(told == wanted, "{told}");
                }
                let all = gateway_addresses(m, "a", "front")?;
                ensure!(all.len() == 2, "{all:?}");
                Ok(())
            })
        });
    }
    for (number, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        for pod in ["out/client", FROM] {
            checks.check(
                &format!("a Gateway shares out {pod}'s connections by weight, exactly ({family})"),
                |m| {
                    let address = host(&gateway_addresses(m, "a", "front")?[number]);
                    let connect = format!("timeout 30 socat -t10 - TCP:{address}:90 </dev/null");
                    patiently(|| {
                        ensure!(m.shell(pod, &connect)?.starts_with('g'), "not yet");
                        Ok(())
                    })?;
                    let told = m.shell(pod, &format!("for i in $(seq 8); do {connect}; done"))?;
                    let counts = tally(&told);
                    ensure!(counts.get("g1") == Some(&2) && counts.get("g2") == Some(&6), "{told}");
                    Ok(())
                },
            );
            checks.check(
                &format!("a Gateway shares out {pod}'s flows of datagrams by weight, exactly ({family})"),
                |m| {
                    let at = format!("{}:53", host(&gateway_addresses(m, "a", "front")?[number]));
                    patiently(|| shares(m, pod, &at, [2, 6]))
                },
            );
        }
    }
}
