//! HTTP itself through the mesh: upgrades, streaming, large bodies, trailers, interim answers, versions, and requests
//! that could be read in two ways.
#![allow(clippy::indexing_slicing, clippy::too_many_lines, reason = "tables of checks")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_conformance::hostile::SMUGGLING;
use weft_conformance::mesh::{
    Checks, HTTP_PORTS, Mesh, Port, echo, namespace, pod, route, service, sleeper, soon,
};

const FROM: &str = "a/near";
const PYTHON: &str = "/usr/bin/python3";
const UNDECLARED: &[Port] = &[Port("web", 80, 8080, "")];
const H2C: &[Port] = &[Port("web", 80, 8080, "kubernetes.io/h2c")];

fn topology() -> String {
    let mut yaml = namespace("a", true) + &sleeper("a", "near", "node1") + &sleeper("a", "loader", "node1");
    for (name, node, more) in
        [("v1", "node1", &[][..]), ("v2", "node2", &[]), ("trailers", "node2", &["--trailers"])]
    {
        yaml += &(echo("a", name, node, more) + &service("a", name, name, HTTP_PORTS));
    }
    let duplex = include_str!("programs/duplex_server.py");
    for (name, node) in [("duplex1", "node1"), ("duplex2", "node2")] {
        yaml += &pod("a", name, node, name, Some(8080), &[PYTHON, "-c", duplex]);
        yaml += &service("a", name, name, HTTP_PORTS);
    }
    for (name, node) in [("files1", "node1"), ("files2", "node2")] {
        yaml += &files(name, node);
    }
    yaml += &service("a", "covered", "v1", UNDECLARED);
    yaml += &route(
        "HTTPRoute",
        "a",
        "covered",
        "[{group: \"\", kind: Service, name: covered}]",
        "rules: [{backendRefs: [{name: v2-any, port: 80}]}]",
    );
    yaml += &(service("a", "v2-any", "v2", UNDECLARED) + &service("a", "v2-h2c", "v2", H2C));
    yaml
}

/// An nginx that takes files by PUT and gives them back; bodies for /small are limited to 1 KiB.
fn files(name: &str, node: &str) -> String {
    let config = "user root; daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log stderr; events {} http { client_max_body_size 0; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; access_log off; server { listen 8080; listen [::]:8080; root /tmp/files; location / { dav_methods PUT; create_full_put_path on; } location /small { client_max_body_size 1k; dav_methods PUT; } } }";
    let program =
        format!("mkdir -p /tmp/files; echo '{config}' > /tmp/nginx.conf && exec nginx -c /tmp/nginx.conf");
    pod("a", name, node, name, Some(8080), &["bash", "-c", &program]) + &service("a", name, name, HTTP_PORTS)
}

#[test]
fn http() {
    let mesh = weft_conformance::place::up(&topology());
    let mut checks = Checks::new(&mesh);
    check_upgrades(&mut checks);
    check_bodies(&mut checks);
    check_trailers(&mut checks);
    check_expect(&mut checks);
    check_versions(&mut checks);
    check_load(&mut checks);
    check_smuggling(&mut checks);
    checks.finish();
}

fn check_upgrades(checks: &mut Checks<'_>) {
    for host in ["v1", "v2", "covered"] {
        checks.check(&format!("a WebSocket to {host} is opened and carries bytes both ways"), |m| {
            let program = include_str!("programs/upgrade_client.py");
            let told = m.run(FROM, &[PYTHON, "-c", program, host, "/socket"])?;
            ensure!(told == "HTTP/1.1 101 Switching Protocols\n20 messages came back\n", "{told}");
            Ok(())
        });
    }
    checks.check("an upgrade that the application declines is an ordinary answer", |m| {
        let upgrade = ["-H", "Connection: Upgrade", "-H", "Upgrade: websocket"];
        let answer = m.curl(FROM, &[&upgrade[..], &["http://files2/nothing"]].concat())?;
        ensure!(answer.status == 404, "{answer:?}");
        Ok(())
    });
}

fn check_bodies(checks: &mut Checks<'_>) {
    for host in ["duplex1", "duplex2"] {
        checks.check(&format!("{host}: each chunk arrives before the next is sent, both ways"), |m| {
            m.run(FROM, &[PYTHON, "-c", include_str!("programs/duplex_client.py"), host]).map(drop)
        });
    }
    checks.check("50 MiB are made to be sent", |m| {
        m.run(
            FROM,
            &[
                "bash",
                "-c",
                "head -c 52428800 /dev/urandom > /tmp/large && sha256sum < /tmp/large > /tmp/large.sum",
            ],
        )
        .map(drop)
    });
    for host in ["files1", "files2"] {
        for (how, more) in [("with a length", ""), ("chunked", "-H 'Transfer-Encoding: chunked'")] {
            checks.check(&format!("50 MiB {how} to {host} and back are the same bytes"), |m| {
                let up = m.shell(FROM, &format!("curl -sS -m 60 {more} -T /tmp/large -o /dev/null -w '%{{http_code}}' http://{host}/large"))?;
                ensure!(up == "201" || up == "204", "upload: {up}");
                let stored = m.shell(&format!("a/{host}"), "sha256sum < /tmp/files/large")?;
                let back = m.shell(FROM, &format!("curl -sS -m 60 http://{host}/large | sha256sum"))?;
                let sent = m.shell(FROM, "cat /tmp/large.sum")?;
                ensure!(stored == sent, "what was stored differs");
                ensure!(back == sent, "what came back differs");
                Ok(())
            });
        }
    }
    checks.check("a caller that leaves in the middle of a download ends it at the application too", |m| {
        m.shell(FROM, "curl -sS -m 60 http://files2/large | head -c 1000 > /dev/null")?;
        soon(|| {
            let open =
                m.shell("a/files2", "ss -Htn state established '( sport = :8080 )' | awk '$2 > 0' | wc -l")?;
            ensure!(open.trim() == "0", "{open} connections still hold unsent bytes");
            Ok(())
        })
    });
}

fn check_trailers(checks: &mut Checks<'_>) {
    checks.check("an answer's trailers reach a caller who accepts them", |m| {
        let text = m.run(
            FROM,
            &[
                "curl",
                "-sS",
                "-m",
                "5",
                "--raw",
                "-i",
                "-H",
                "TE: trailers",
                "-H",
                "Connection: TE",
                "http://trailers/",
            ],
        )?;
        ensure!(text.to_ascii_lowercase().contains("\r\n0\r\nx-echo-trailer: trailers"), "{text}");
        Ok(())
    });
    checks.check("an answer's trailers reach a caller over HTTP/2", |m| {
        let text =
            m.run(FROM, &["curl", "-sS", "-m", "5", "-i", "--http2-prior-knowledge", "http://trailers/"])?;
        ensure!(text.to_ascii_lowercase().contains("x-echo-trailer: trailers"), "{text}");
        Ok(())
    });
    checks.check("a request's trailers reach the application", |m| {
        let request = b"POST / HTTP/1.1\r\nHost: v2\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 532\r\n\r\n";
        let text = m.pipe(FROM, &["socat", "-t3", "-", "TCP:v2:80,shut-none"], request)?;
        ensure!(text.contains("\"body\":\"hello\"") && text.contains("\"x-sum\":[\"532\"]"), "{text}");
        Ok(())
    });
}

fn check_expect(checks: &mut Checks<'_>) {
    for host in ["v1", "v2"] {
        checks.check(&format!("{host}: a caller that expects 100 gets it and then sends"), |m| {
            let script = format!("head -c 100000 /dev/zero | tr '\\0' x > /tmp/body; curl -v -sS -m 10 --expect100-timeout 8 -H 'Expect: 100-continue' -T /tmp/body http://{host}/put -o /tmp/answer -w '%{{http_code}} %{{time_total}} %{{size_upload}}\\n' 2>&1; grep -o 'x*\",\"bodyError' /tmp/answer | wc -c");
            let text = m.shell(FROM, &script)?;
            ensure!(text.contains("HTTP/1.1 100 Continue"), "{text}");
            let done = text.lines().find(|l| l.starts_with("200 ")).context(text.clone())?;
            let seconds: f32 = done.split(' ').nth(1).unwrap_or_default().parse()?;
            ensure!(seconds < 3.0 && done.ends_with(" 100000"), "{done}");
            ensure!(text.trim().ends_with("100013"), "{text}");
            Ok(())
        });
    }
    for (host, path) in [("files1", "/small/x"), ("files2", "/small/x"), ("duplex2", "/refuse")] {
        checks.check(&format!("{host}: an application's refusal comes instead of 100, and the body is not sent"), |m| {
            let script = format!("head -c 100000 /dev/zero > /tmp/body; curl -v -sS -m 10 --expect100-timeout 8 -H 'Expect: 100-continue' -T /tmp/body http://{host}{path} -o /dev/null -w '%{{http_code}} %{{size_upload}}\\n' 2>&1");
            let text = m.shell(FROM, &script)?;
            ensure!(!text.contains("100 Continue"), "{text}");
            ensure!(text.contains("413 0\n") || text.contains("403 0\n"), "{text}");
            Ok(())
        });
    }
}

fn check_versions(checks: &mut Checks<'_>) {
    let version = |m: &Mesh, arguments: &[&str]| -> Result<String> {
        let answer = m.curl(FROM, arguments)?;
        answer.expect(200, "")?;
        Ok(answer.echoed()?.get("version").and_then(Value::as_str).unwrap_or_default().to_owned())
    };
    for (claim, arguments, wanted) in [
        (
            "HTTP/2 to an undeclared port stays HTTP/2",
            &["--http2-prior-knowledge", "http://v2-any/"][..],
            "HTTP/2.0",
        ),
        (
            "HTTP/2 through a route on an undeclared port stays HTTP/2",
            &["--http2-prior-knowledge", "http://covered/"],
            "HTTP/2.0",
        ),
        ("HTTP/1.1 to an undeclared port stays HTTP/1.1", &["http://v2-any/"], "HTTP/1.1"),
        ("HTTP/1.1 to an h2c port becomes HTTP/2", &["http://v2-h2c/"], "HTTP/2.0"),
        ("HTTP/2 to an h2c port stays HTTP/2", &["--http2-prior-knowledge", "http://v2-h2c/"], "HTTP/2.0"),
        ("HTTP/1.0 is answered", &["-0", "http://v2/"], "HTTP/1.1"),
    ] {
        checks.check(claim, |m| {
            let seen = version(m, arguments)?;
            ensure!(seen == wanted, "the application saw {seen}");
            Ok(())
        });
    }
    checks.check("an upgrade to h2c is not passed on, the request is answered", |m| {
        version(m, &["--http2", "http://v2/"]).map(drop)
    });
    checks.check("an upgrade to h2c on an h2c port is answered too", |m| {
        version(m, &["--http2", "http://v2-h2c/"]).map(drop)
    });
    checks.check("HTTP/1.0 gets an answer without chunks, and the connection's end", |m| {
        let text = m.pipe(
            FROM,
            &["socat", "-t5", "-", "TCP:trailers:80,shut-none"],
            b"GET / HTTP/1.0\r\nHost: trailers\r\n\r\n",
        )?;
        ensure!(text.contains("200 OK") && !text.to_ascii_lowercase().contains("chunked"), "{text}");
        ensure!(text.trim_end().ends_with('}'), "{text}");
        Ok(())
    });
    for host in ["v1", "v2"] {
        checks.check(&format!("{host}: HEAD has the length of GET, no body, and leaves the connection usable"), |m| {
            let get = m.curl(FROM, &[&format!("http://{host}/same")])?;
            let text = m.pipe(FROM, &["socat", "-t3", "-", &format!("TCP:{host}:80,shut-none")], format!("HEAD /same HTTP/1.1\r\nHost: {host}\r\n\r\nGET /same HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
            let lower = text.to_ascii_lowercase();
            let heads: Vec<&str> = lower.split("http/1.1 200 ok").skip(1).collect();
            ensure!(heads.len() == 2, "{text}");
            ensure!(!heads[0].contains("\"name\"") && heads[0].contains("content-length: "), "{text}");
            ensure!(heads[1].contains("\"name\"") && get.status == 200, "{text}");
            Ok(())
        });
        checks.check(&format!("{host}: one connection carries many requests"), |m| {
            let text = m.run(
                FROM,
                &[
                    "curl",
                    "-sS",
                    "-m",
                    "10",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{num_connects}\n",
                    &format!("http://{host}/?[1-20]"),
                ],
            )?;
            let made: u32 = text.lines().filter_map(|l| l.parse::<u32>().ok()).sum();
            ensure!(made == 1 && text.lines().count() == 20, "{made} connections");
            Ok(())
        });
    }
    checks.check("an application that closes after each answer costs no request", |m| {
        // nginx's keepalive is on; Connection: close from the caller must not be passed on as the pool's.
        let counts = m.many(FROM, 50, "http://v2/", &["-H", "Connection: close"])?;
        ensure!(counts.get("200 v2") == Some(&50), "{counts:?}");
        Ok(())
    });
}

fn check_load(checks: &mut Checks<'_>) {
    for (claim, arguments) in [
        ("HTTP/1.1, same node", &["--h1", "-n2000", "-c20", "http://v1/"][..]),
        ("HTTP/1.1, two nodes", &["--h1", "-n2000", "-c20", "http://v2/"]),
        ("HTTP/2, two nodes", &["-n4000", "-c10", "-m20", "http://v2-h2c/"]),
        ("HTTP/2 to a route", &["-n4000", "-c10", "-m20", "http://covered/"]),
    ] {
        checks.check(&format!("h2load, {claim}: no request fails"), |m| {
            let text = m.run("a/loader", &[&["h2load"], arguments].concat())?;
            let line = text.lines().find(|l| l.starts_with("requests:")).context(text.clone())?;
            ensure!(line.contains(" 0 failed, 0 errored, 0 timeout"), "{line}");
            let codes = text.lines().find(|l| l.starts_with("status codes:")).context(text.clone())?;
            ensure!(codes.contains(" 0 3xx, 0 4xx, 0 5xx"), "{codes}");
            Ok(())
        });
    }
}

/// Bodies that show to be broken only after the head has been passed on.
const BROKEN_BODIES: &[(&str, &[u8])] = &[
    ("a chunk size with a prefix", b"0x5\r\nhello\r\n0\r\n\r\n"),
    ("a signed chunk size", b"+5\r\nhello\r\n0\r\n\r\n"),
    ("a chunk size beyond all bounds", b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    ("a chunk longer than it says", b"3\r\nhello\r\n0\r\n\r\n"),
    ("a chunk size in two words", b"5 5\r\nhello\r\n0\r\n\r\n"),
];

fn check_smuggling(checks: &mut Checks<'_>) {
    const NEXT: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: v2\r\n\r\n";
    let send = |m: &Mesh, host: &str, bytes: &[u8]| {
        m.pipe(FROM, &["timeout", "6", "socat", "-t4", "-", &format!("TCP:{host}:80,shut-none")], bytes)
    };
    for (claim, bytes) in SMUGGLING {
        checks.check(&format!("refused with 400: {claim}"), |m| {
            let text = send(m, "v2", &[*bytes, NEXT].concat())?;
            let answers = text.matches("\r\n\r\n").count();
            ensure!(text.starts_with("HTTP/1.1 400 ") || text.starts_with("HTTP/1.0 400 "), "{text:?}");
            ensure!(answers == 1 && !text.contains("/smuggled"), "{text:?}");
            Ok(())
        });
    }
    for (claim, body) in BROKEN_BODIES {
        for host in ["v1", "v2"] {
            checks.check(&format!("never answered 200 by {host}: {claim}"), |m| {
                let head =
                    format!("POST /broken HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n");
                let text = send(m, host, &[head.as_bytes(), body, NEXT].concat())?;
                ensure!(!text.contains(" 200 ") || text.contains("\"bodyError\":\""), "{text:?}");
                ensure!(!text.contains("/smuggled"), "{text:?}");
                Ok(())
            });
        }
    }
    checks.check("a head larger than the limit is 431", |m| {
        let script = "curl -sS -m 5 -o /dev/null -w '%{http_code}' -H \"X: $(head -c 120000 /dev/zero | tr '\\0' x)\" -H \"Y: $(head -c 120000 /dev/zero | tr '\\0' x)\" http://v2/";
        let told = m.shell(FROM, script)?;
        ensure!(told == "431", "{told}");
        Ok(())
    });
    checks.check("after all this the mesh still answers", |m| {
        std::thread::sleep(Duration::from_millis(100));
        m.curl(FROM, &["http://v2/"])?.expect(200, "v2")
    });
}
