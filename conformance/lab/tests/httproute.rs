//! HTTPRoute: matches, filters, mirrors, CORS, timeouts and retries, as an application and its caller see them.
#![allow(clippy::indexing_slicing, clippy::too_many_lines, reason = "tables of checks")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_conformance::mesh::{
    Answer, Checks, HTTP_PORTS, Mesh, Port, echo, http_route, namespace, pod, rule, service, sleeper, soon,
};

const FROM: &str = "a/near";

fn topology() -> String {
    let mut yaml = namespace("a", true) + &sleeper("a", "near", "node1");
    for (name, node, more) in [
        ("v1", "node1", &[][..]),
        ("v2", "node2", &[]),
        ("slow", "node2", &["--delay", "3000"]),
        ("flaky", "node2", &["--fail", "2"]),
        ("weak", "node1", &["--fail", "9"]),
    ] {
        yaml += &(echo("a", name, node, more) + &service("a", name, name, HTTP_PORTS));
    }
    for name in ["mirror1", "mirror2"] {
        yaml += &recorder(name);
    }
    // Nothing listens on the target port of `closed`.
    yaml += &service("a", "closed", "v2", &[Port("http", 80, 9, "http")]);
    yaml +=
        &[matches(), headers(), redirects(), rewrites(), mirrors(), cors(), timeouts(), retries()].concat();
    yaml
}

/// An nginx that writes down method, path, host and body of what it gets.
fn recorder(name: &str) -> String {
    let config = "user root; daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log stderr; events {} http { client_body_buffer_size 1m; log_format all escape=json '$request_method $request_uri $host [$request_body]'; access_log /tmp/copies all; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; server { listen 8080; listen [::]:8080; location / { proxy_pass http://127.0.0.1:8081; } } server { listen 127.0.0.1:8081; access_log off; location / { return 200 noted; } } }";
    let program = format!(
        "echo '{}' > /tmp/nginx.conf && exec nginx -c /tmp/nginx.conf",
        config.replace('\'', "'\\''")
    );
    pod("a", name, "node2", name, Some(8080), &["bash", "-c", &program])
        + &service("a", name, name, HTTP_PORTS)
}

#[test]
fn httproute() {
    let mesh = Mesh::up(&topology());
    let mut checks = Checks::new(&mesh);
    check_matches(&mut checks);
    check_headers(&mut checks);
    check_redirects(&mut checks);
    check_rewrites(&mut checks);
    check_mirrors(&mut checks);
    check_cors(&mut checks);
    check_timeouts(&mut checks);
    check_retries(&mut checks);
    checks.finish();
}

fn matches() -> String {
    let rules = [
        rule("{path: {type: Exact, value: /exact}}", "v2"),
        rule("{path: {type: PathPrefix, value: /prefix}}", "v2"),
        rule("{path: {type: PathPrefix, value: /slash/}}", "v2"),
        rule("{path: {type: RegularExpression, value: '/re/[0-9]+'}}", "v2"),
        rule(
            "{path: {value: /header}, headers: [{name: X-Color, value: blue}, {name: x-size, value: big}]}",
            "v2",
        ),
        rule(
            "{path: {value: /regex}, headers: [{name: x-version, type: RegularExpression, value: 'v[0-9]+'}]}",
            "v2",
        ),
        rule("{path: {value: /query}, queryParams: [{name: q, value: 'a b'}]}", "v2"),
        rule(
            "{path: {value: /qregex}, queryParams: [{name: q, type: RegularExpression, value: 'x+'}]}",
            "v2",
        ),
        rule("{path: {value: /method}, method: DELETE}", "v2"),
        rule(
            "{path: {value: /either}, headers: [{name: x-a, value: a}]}, {path: {value: /either}, method: PUT}",
            "v2",
        ),
        "{name: the-rest, matches: [{path: {value: /}}], backendRefs: [{name: v1, port: 80}]}".to_owned(),
    ];
    http_route("matched", &rules.concat())
}

fn check_matches(checks: &mut Checks<'_>) {
    let v2 = [
        ("exact path", "/exact", &[][..]),
        ("exact path with a query", "/exact?a=b", &[]),
        ("prefix itself", "/prefix", &[]),
        ("prefix and a slash", "/prefix/", &[]),
        ("whole segments below a prefix", "/prefix/more", &[]),
        ("a prefix's trailing slash does not count", "/slash", &[]),
        ("path expression", "/re/12", &[]),
        ("two headers, names without case", "/header", &["-H", "x-color: blue", "-H", "X-Size: big"]),
        ("header expression", "/regex", &["-H", "x-version: v12"]),
        ("query parameter, decoded", "/query?q=a%20b", &[]),
        ("the first of several query parameters", "/query?q=a%20b&q=c", &[]),
        ("query parameter expression", "/qregex?q=xxx", &[]),
        ("method", "/method", &["-X", "DELETE"]),
        ("the first of two matches", "/either", &["-H", "x-a: a"]),
        ("the second of two matches", "/either", &["-X", "PUT"]),
    ];
    let v1 = [
        ("exact path with more", "/exact/", &[][..]),
        ("exact path, other case", "/Exact", &[]),
        ("prefix that is not a whole segment", "/prefixed", &[]),
        ("path expression must match the whole path", "/re/12/x", &[]),
        ("one of two headers", "/header", &["-H", "x-color: blue"]),
        ("header value, other case", "/header", &["-H", "x-color: Blue", "-H", "X-Size: big"]),
        ("header expression must match the whole value", "/regex", &["-H", "x-version: v12b"]),
        ("other query parameter", "/query?q=other", &[]),
        ("other method", "/method", &[]),
        ("neither of two matches", "/either", &[]),
    ];
    for (name, rows) in [("v2", &v2[..]), ("v1", &v1[..])] {
        for (claim, path, arguments) in rows {
            checks.check(&format!("match: {claim} goes to {name}"), |m| {
                m.curl(FROM, &[*arguments, &[&format!("http://matched{path}")]].concat())?.expect(200, name)
            });
        }
    }
    checks.check("match: several values of one header are joined", |m| {
        let joined = m.curl(FROM, &["-H", "x-version: v1", "-H", "x-version: v2", "http://matched/regex"])?;
        joined.expect(200, "v1")
    });
    checks.check("a rule's name stands in the access log", |m| {
        m.curl(FROM, &["http://matched/named-for-the-log"])?;
        soon(|| {
            let log = m.lab().logs("node1/proxy");
            let line = log
                .lines()
                .find(|l| l.contains("/named-for-the-log") && l.contains("\"reporter\":\"source\""));
            let line: Value = serde_json::from_str(line.context("no line")?)?;
            ensure!(line["rule"] == "the-rest", "{line}");
            ensure!(line["route"] == "HTTPRoute/a/matched", "{line}");
            Ok(())
        })
    });
}

fn headers() -> String {
    let modifier = |kind: &str, field: &str, mark: &str| {
        format!(
            "{{type: {kind}, {field}: {{set: [{{name: X-Set, value: {mark}-set}}], add: [{{name: X-Add, value: {mark}-add}}], remove: [X-Remove]}}}}"
        )
    };
    let both = |mark: &str| {
        format!(
            "[{}, {}]",
            modifier("RequestHeaderModifier", "requestHeaderModifier", mark),
            modifier("ResponseHeaderModifier", "responseHeaderModifier", mark)
        )
    };
    let rules = format!(
        "{{matches: [{{path: {{value: /rule}}}}], filters: {rule}, backendRefs: [{{name: v2, port: 80}}]}},
         {{matches: [{{path: {{value: /backend}}}}], backendRefs: [{{name: v2, port: 80, filters: {backend}}}]}},
         {{matches: [{{path: {{value: /both}}}}], filters: {rule}, backendRefs: [{{name: v2, port: 80, filters: {backend}}}]}},",
        rule = both("rule"),
        backend = both("backend"),
    );
    http_route("headers", &rules)
}

fn check_headers(checks: &mut Checks<'_>) {
    let send = |m: &Mesh, path: &str| -> Result<Answer> {
        let given = [
            "-H",
            "x-set: a",
            "-H",
            "x-set: b",
            "-H",
            "x-add: mine",
            "-H",
            "x-remove: me",
            "-H",
            "x-keep: k",
        ];
        let answer = "set=x-set:app&set=x-add:app&set=x-remove:app&set=x-keep:app";
        let answer = m.curl(FROM, &[&given[..], &[&format!("http://headers/{path}?{answer}")]].concat())?;
        answer.expect(200, "v2")?;
        Ok(answer)
    };
    for mark in ["rule", "backend"] {
        checks.check(&format!("request headers are modified at the {mark}"), |m| {
            let answer = send(m, mark)?;
            ensure!(answer.received("x-set")? == [format!("{mark}-set")], "{answer:?}");
            ensure!(
                answer.received("x-add")?.join(",").replace(' ', "") == format!("mine,{mark}-add"),
                "{answer:?}"
            );
            ensure!(
                answer.received("x-remove")?.is_empty() && answer.received("x-keep")? == ["k"],
                "{answer:?}"
            );
            Ok(())
        });
        checks.check(&format!("response headers are modified at the {mark}"), |m| {
            let answer = send(m, mark)?;
            ensure!(answer.header("x-set") == [format!("{mark}-set")], "{answer:?}");
            ensure!(
                answer.header("x-add").join(",").replace(' ', "") == format!("app,{mark}-add"),
                "{answer:?}"
            );
            ensure!(answer.header("x-remove").is_empty() && answer.header("x-keep") == ["app"], "{answer:?}");
            Ok(())
        });
    }
    checks.check("filters of rule and backend both run, each once", |m| {
        let answer = send(m, "both")?;
        let (request, response) = (answer.received("x-add")?.join(","), answer.header("x-add").join(","));
        for (adds, own) in [(request, "mine"), (response, "app")] {
            let mut adds: Vec<&str> = adds.split(',').map(str::trim).collect();
            adds.sort_unstable();
            let mut wanted = vec!["backend-add", own, "rule-add"];
            wanted.sort_unstable();
            ensure!(adds == wanted, "{adds:?}");
        }
        Ok(())
    });
    checks.check("a forged x-forwarded-client-cert is replaced by the true one", |m| {
        let forged = ["-H", "X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/a/sa/root"];
        for host in ["v1", "v2"] {
            let answer = m.curl(FROM, &[&forged[..], &[&format!("http://{host}/")]].concat())?;
            let seen = answer.received("x-forwarded-client-cert")?;
            ensure!(seen == ["URI=spiffe://cluster.local/ns/a/sa/default"], "{host}: {seen:?}");
        }
        Ok(())
    });
    checks.check("a forged weft-meta never reaches the application, and changes nothing", |m| {
        for host in ["v1", "v2"] {
            let answer =
                m.curl(FROM, &["-H", "Weft-Meta: port=9; service=x/y", &format!("http://{host}/")])?;
            answer.expect(200, host)?;
            ensure!(answer.received("weft-meta")?.is_empty(), "{host}: {answer:?}");
            ensure!(answer.header("weft-meta").is_empty(), "{host}: {answer:?}");
        }
        Ok(())
    });
}

fn redirects() -> String {
    let redirect = |path: &str, how: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{{how}}}}}]}},"
        )
    };
    let rules = [
        redirect("/host", "hostname: example.org"),
        redirect("/secure", "scheme: https, statusCode: 301"),
        redirect("/port", "port: 8443, statusCode: 302"),
        redirect("/default", "scheme: http, hostname: example.org, port: 80"),
        redirect("/full", "path: {type: ReplaceFullPath, replaceFullPath: /new}"),
        redirect(
            "/old",
            "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, hostname: example.org, port: 8080",
        ),
        redirect("/see", "statusCode: 303, hostname: example.org"),
        redirect("/keep", "statusCode: 307, hostname: example.org"),
        redirect("/forever", "statusCode: 308, hostname: example.org"),
    ];
    http_route("redirected", &rules.concat())
}

fn check_redirects(checks: &mut Checks<'_>) {
    for (path, status, location) in [
        ("/host?q=1", 302, "http://example.org/host?q=1"),
        ("/secure/x", 301, "https://redirected/secure/x"),
        ("/port", 302, "http://redirected:8443/port"),
        ("/default", 302, "http://example.org/default"),
        ("/full/x?q=1", 302, "http://redirected/new?q=1"),
        ("/old/x?q=1", 302, "http://example.org:8080/new/x?q=1"),
        ("/old", 302, "http://example.org:8080/new"),
        ("/see", 303, "http://example.org/see"),
        ("/keep", 307, "http://example.org/keep"),
        ("/forever", 308, "http://example.org/forever"),
    ] {
        checks.check(&format!("redirect: {path} is {status} to {location}"), |m| {
            let answer = m.curl(FROM, &[&format!("http://redirected{path}")])?;
            ensure!(answer.status == status && answer.header("location") == [location], "{answer:?}");
            Ok(())
        });
    }
}

fn rewrites() -> String {
    let rewrite = |how: &str| format!("[{{type: URLRewrite, urlRewrite: {{{how}}}}}]");
    let at_rule = |path: &str, how: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], filters: {}, backendRefs: [{{name: v2, port: 80}}]}},",
            rewrite(how)
        )
    };
    let at_backend = |path: &str, how: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: v2, port: 80, filters: {}}}]}},",
            rewrite(how)
        )
    };
    let prefix = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}";
    let rules = [
        at_rule("/host", "hostname: rewritten.example"),
        at_rule("/full", "path: {type: ReplaceFullPath, replaceFullPath: /all}"),
        at_rule("/old", prefix),
        at_rule("/root", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}"),
        at_backend("/bhost", "hostname: rewritten.example"),
        at_backend("/bold", prefix),
    ];
    http_route("rewritten", &rules.concat())
}

fn check_rewrites(checks: &mut Checks<'_>) {
    for (path, reached, host) in [
        ("/host/x", "/host/x", "rewritten.example"),
        ("/full/x?q=1", "/all?q=1", "rewritten"),
        ("/old/x?q=1", "/new/x?q=1", "rewritten"),
        ("/old", "/new", "rewritten"),
        ("/root/x", "/x", "rewritten"),
        ("/root", "/", "rewritten"),
        ("/bhost", "/bhost", "rewritten.example"),
        ("/bold/x", "/new/x", "rewritten"),
    ] {
        checks.check(&format!("rewrite: {path} reaches the application as {reached} of {host}"), |m| {
            let answer = m.curl(FROM, &[&format!("http://rewritten{path}")])?;
            answer.expect(200, "v2")?;
            ensure!(answer.path()? == reached && answer.received("host")? == [host], "{answer:?}");
            Ok(())
        });
    }
}

fn mirrors() -> String {
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

fn check_mirrors(checks: &mut Checks<'_>) {
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
            std::thread::sleep(Duration::from_millis(300));
            let seen = copies(m, name, &format!("{path}?"))?.len();
            // Shares are exact over time; a run may begin anywhere in the cycle.
            ensure!(seen.abs_diff(wanted) <= 1, "{seen} copies");
            Ok(())
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
            ensure!(start.elapsed() < Duration::from_millis(1500), "20 requests took {:?}", start.elapsed());
            Ok(())
        });
    }
}

fn cors() -> String {
    let filter = "{type: CORS, cors: {allowOrigins: ['https://app.example', 'https://*.trusted.example'], allowMethods: [GET, PUT], allowHeaders: [x-one, x-two], exposeHeaders: [x-shown], allowCredentials: true, maxAge: 600}}";
    http_route("cors", &format!("{{filters: [{filter}], backendRefs: [{{name: v2, port: 80}}]}},"))
}

fn check_cors(checks: &mut Checks<'_>) {
    let preflight = |m: &Mesh, origin: &str| {
        let origin = format!("Origin: {origin}");
        let head = [
            "-X",
            "OPTIONS",
            "-H",
            &origin,
            "-H",
            "Access-Control-Request-Method: PUT",
            "-H",
            "Access-Control-Request-Headers: x-one",
            "http://cors/",
        ];
        m.curl(FROM, &head)
    };
    checks.check("CORS: a preflight is answered without the application", |m| {
        let answer = preflight(m, "https://app.example")?;
        ensure!(answer.status == 200 || answer.status == 204, "{answer:?}");
        ensure!(answer.body.is_empty(), "{answer:?}");
        ensure!(answer.header("access-control-allow-origin") == ["https://app.example"], "{answer:?}");
        ensure!(answer.header("access-control-allow-credentials") == ["true"], "{answer:?}");
        ensure!(answer.header("access-control-max-age") == ["600"], "{answer:?}");
        let methods = answer.header("access-control-allow-methods").join(",");
        ensure!(methods.contains("GET") && methods.contains("PUT"), "{answer:?}");
        let headers = answer.header("access-control-allow-headers").join(",").to_ascii_lowercase();
        ensure!(headers.contains("x-one") && headers.contains("x-two"), "{answer:?}");
        Ok(())
    });
    checks.check("CORS: an origin by wildcard is allowed by its own name", |m| {
        let answer = preflight(m, "https://shop.trusted.example")?;
        ensure!(
            answer.header("access-control-allow-origin") == ["https://shop.trusted.example"],
            "{answer:?}"
        );
        Ok(())
    });
    checks.check("CORS: another origin's preflight carries no permission", |m| {
        let answer = preflight(m, "https://evil.example")?;
        ensure!(answer.header("access-control-allow-origin").is_empty(), "{answer:?}");
        Ok(())
    });
    checks.check(
        "CORS: an actual request reaches the application and its answer carries the permission",
        |m| {
            let answer = m.curl(FROM, &["-H", "Origin: https://app.example", "http://cors/"])?;
            answer.expect(200, "v2")?;
            ensure!(answer.header("access-control-allow-origin") == ["https://app.example"], "{answer:?}");
            ensure!(
                answer.header("access-control-expose-headers").join(",").eq_ignore_ascii_case("x-shown"),
                "{answer:?}"
            );
            Ok(())
        },
    );
    checks.check("CORS: an actual request of another origin carries no permission", |m| {
        let answer = m.curl(FROM, &["-H", "Origin: https://evil.example", "http://cors/"])?;
        ensure!(answer.header("access-control-allow-origin").is_empty(), "{answer:?}");
        Ok(())
    });
}

fn timeouts() -> String {
    let rule = |path: &str, timeouts: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], timeouts: {{{timeouts}}}, backendRefs: [{{name: v2, port: 80}}]}},"
        )
    };
    let rules = [
        rule("/request", "request: 300ms"),
        rule("/attempt", "backendRequest: 300ms"),
        rule("/never", "request: 0s"),
    ];
    http_route("timed", &rules.concat())
}

fn check_timeouts(checks: &mut Checks<'_>) {
    for (path, reason) in [("/request", "request_timeout"), ("/attempt", "backend_timeout")] {
        checks.check(&format!("timeout: {path} is 504 after its time"), |m| {
            #[allow(clippy::disallowed_methods)]
            let start = Instant::now();
            let answer = m.curl(FROM, &[&format!("http://timed{path}?delay=3000")])?;
            ensure!(answer.status == 504 && answer.body.contains(reason), "{answer:?}");
            let took = start.elapsed();
            ensure!((Duration::from_millis(290)..Duration::from_millis(1500)).contains(&took), "{took:?}");
            Ok(())
        });
        checks.check(&format!("timeout: {path} leaves quick answers alone"), |m| {
            m.curl(FROM, &[&format!("http://timed{path}?delay=50")])?.expect(200, "v2")
        });
    }
    checks.check("timeout: 0s is no limit", |m| {
        m.curl(FROM, &["http://timed/never?delay=700"])?.expect(200, "v2")
    });
}

fn retries() -> String {
    let rule = |path: &str, backend: &str, more: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], {more}, backendRefs: [{{name: {backend}, port: 80}}]}},"
        )
    };
    let rules = [
        rule("/codes", "flaky", "retry: {codes: [503], attempts: 3, backoff: 10ms}"),
        rule("/other", "v2", "retry: {codes: [500], attempts: 3, backoff: 10ms}"),
        rule("/few", "weak", "retry: {codes: [503], attempts: 2, backoff: 10ms}"),
        rule("/refused", "closed", "retry: {attempts: 2, backoff: 10ms}"),
        rule("/once", "closed", "retry: {attempts: 0}"),
        rule(
            "/spanning",
            "v2",
            "retry: {codes: [503], attempts: 9, backoff: 10ms}, timeouts: {request: 500ms}",
        ),
    ];
    http_route("retried", &rules.concat())
}

/// The `attempts` that the access log tells of a request.
fn attempts(mesh: &Mesh, path: &str) -> Result<u64> {
    let mut found = 0;
    soon(|| {
        let log = mesh.lab().logs("node1/proxy");
        let line = log
            .lines()
            .find(|l| l.contains(path) && l.contains("\"reporter\":\"source\""))
            .context("no line")?;
        let line: Value = serde_json::from_str(line)?;
        found = line["attempts"].as_u64().context(line.to_string())?;
        Ok(())
    })?;
    Ok(found)
}

fn check_retries(checks: &mut Checks<'_>) {
    checks.check("retry: a listed code is tried again until it is good", |m| {
        m.curl(FROM, &["--data-binary", "kept", "http://retried/codes/a"])?.expect(200, "flaky")?;
        ensure!(attempts(m, "/codes/a")? == 3);
        Ok(())
    });
    checks.check("retry: a code that is not listed is not tried again", |m| {
        m.curl(FROM, &["http://retried/other/a?status=503"])?.expect(503, "v2")?;
        ensure!(attempts(m, "/other/a")? == 1);
        Ok(())
    });
    checks.check("retry: after the last attempt the answer is the application's own", |m| {
        m.curl(FROM, &["http://retried/few/a"])?.expect(503, "weak")?;
        ensure!(attempts(m, "/few/a")? == 3);
        Ok(())
    });
    checks.check("retry: a refused connection is tried again and ends as 503", |m| {
        let answer = m.curl(FROM, &["http://retried/refused/a"])?;
        ensure!(answer.status == 503 && answer.body.contains("connect_failed"), "{answer:?}");
        let attempts = attempts(m, "/refused/a")?;
        ensure!(attempts == 3, "{attempts} attempts");
        Ok(())
    });
    checks.check("retry: attempts 0 is one try", |m| {
        m.curl(FROM, &["http://retried/once/a"])?.expect(503, "")?;
        let attempts = attempts(m, "/once/a")?;
        ensure!(attempts == 1, "{attempts} attempts");
        Ok(())
    });
    checks.check("retry: the request timeout spans all attempts", |m| {
        #[allow(clippy::disallowed_methods)]
        let start = Instant::now();
        let answer = m.curl(FROM, &["http://retried/spanning/a?status=503&delay=200"])?;
        ensure!(answer.status == 504, "{answer:?}");
        ensure!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
        let attempts = attempts(m, "/spanning/a")?;
        ensure!((2..=3).contains(&attempts), "{attempts} attempts");
        Ok(())
    });
}
