//! Requests that are copied to mirrors: who gets a copy, of what, and that nobody waits for it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::FROM;
use crate::mesh::{Checks, HTTP_PORTS, Mesh, http_route, pod, service, soon};

/// An nginx that writes down method, path, host and body of what it gets.
pub(super) fn recorder(name: &str) -> String {
    let config = "user root; daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log stderr; events {} http { client_body_buffer_size 1m; log_format all escape=json '$request_method $request_uri $host [$request_body]'; access_log /tmp/copies all; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; server { listen 8080; listen [::]:8080; location / { proxy_pass http://127.0.0.1:8081; } } server { listen 127.0.0.1:8081; access_log off; location / { return 200 noted; } } }";
    let program = format!(
        "echo '{}' > /tmp/nginx.conf && exec nginx -c /tmp/nginx.conf",
        config.replace('\'', "'\\''")
    );
    pod("a", name, "node2", name, Some(8080), &["bash", "-c", &program])
        + &service("a", name, name, HTTP_PORTS)
}

pub(super) fn mirrors() -> String {
    let mirror = |to: &str, share: &str| {
        format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {to}, port: 80}}{share}}}}}")
    };
    let rule = |path: &str, filters: &[String]| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], filters: [{}], backendRefs: [{{name: v1, port: 80}}]}},",
            filters.join(", ")
        )
    };
    let rules = [
        rule("/two", &[mirror("mirror1", ""), mirror("mirror2", "")]),
        rule("/percent", &[mirror("mirror1", ", percent: 20")]),
        rule("/fraction", &[mirror("mirror2", ", fraction: {numerator: 1, denominator: 4}")]),
        rule("/none", &[mirror("mirror1", ", percent: 0")]),
        rule("/slow", &[mirror("slow", "")]),
        rule("/gone", &[mirror("closed", "")]),
    ];
    http_route("mirrored", &rules.concat())
}

fn copies(mesh: &Mesh, name: &str, path: &str) -> Result<Vec<String>> {
    let log = mesh.shell(&format!("a/{name}"), "cat /tmp/copies")?;
    Ok(log.lines().filter(|l| l.contains(path)).map(str::to_owned).collect())
}

pub(super) fn check_mirrors(checks: &mut Checks<'_>) {
    checks.check("mirror: two mirrors each get a copy with the same body", |m| {
        m.curl(FROM, &["--data-binary", "the whole body", "http://mirrored/two/1"])?.expect(200, "v1")?;
        for name in ["mirror1", "mirror2"] {
            soon(|| {
                let seen = copies(m, name, "/two/1")?;
                ensure!(
                    seen.len() == 1
                        && seen
                            .iter()
                            .all(|l| l.contains("POST /two/1 mirrored") && l.contains("[the whole body]")),
                    "{name}: {seen:?}"
                );
                Ok(())
            })?;
        }
        Ok(())
    });
    checks.check("mirror: a copy carries a body of many segments whole", |m| {
        let script = "head -c 300000 /dev/zero | tr '\\0' x | curl -sS -m 10 -o /dev/null -w '%{http_code}' -H 'Transfer-Encoding: chunked' -T - http://mirrored/two/large";
        let told = m.shell(FROM, script)?;
        ensure!(told == "200", "{told}");
        soon(|| {
            let seen = copies(m, "mirror1", "/two/large")?;
            let body = seen.first().map_or(0, |l| l.matches('x').count());
            ensure!(body == 300_000, "{} copies, {body} bytes", seen.len());
            Ok(())
        })
    });
    for (name, path, wanted) in
        [("mirror1", "/percent", 20), ("mirror2", "/fraction", 25), ("mirror1", "/none", 0)]
    {
        checks.check(&format!("mirror: {path} copies {wanted} of 100 requests"), |m| {
            let answered = m.many(FROM, 100, &format!("http://mirrored{path}"), &[])?;
            ensure!(answered.get("200 v1") == Some(&100), "{answered:?}");
            let near = || {
                let seen = copies(m, name, &format!("{path}?"))?.len();
                // Shares are exact over time; a run may begin anywhere in the cycle.
                ensure!(seen.abs_diff(wanted) <= 1, "{seen} copies");
                Ok(())
            };
            soon(near)?;
            std::thread::sleep(Duration::from_millis(300));
            near()
        });
    }
    for (path, claim) in
        [("/slow", "a slow mirror slows nothing"), ("/gone", "a mirror that refuses disturbs nothing")]
    {
        checks.check(&format!("mirror: {claim}"), |m| {
            #[allow(clippy::disallowed_methods)]
            let start = Instant::now();
            let answered = m.many(FROM, 20, &format!("http://mirrored{path}"), &["-d", "body"])?;
            ensure!(answered.get("200 v1") == Some(&20), "{answered:?}");
            // One after the other they would take a minute.
            ensure!(start.elapsed() < Duration::from_secs(30), "20 requests took {:?}", start.elapsed());
            Ok(())
        });
    }
}
