//! HTTPRoute: matches, filters, mirrors, CORS, timeouts and retries, as an application and its caller see them.
#![allow(clippy::indexing_slicing, clippy::too_many_lines, reason = "tables of checks")]

mod mirrors;
mod resilience;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::mirrors::{check_mirrors, mirrors, recorder};
use self::resilience::{check_retries, check_timeouts, retries, timeouts};
use crate::mesh::{
    Answer, Checks, HTTP_PORTS, Mesh, Port, echo, http_route, namespace, rule, service, sleeper, soon,
};

const FROM: &str = "a/near";

/// The objects.
pub fn topology() -> String {
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

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    check_matches(checks);
    check_headers(checks);
    check_redirects(checks);
    check_rewrites(checks);
    check_mirrors(checks);
    check_cors(checks);
    check_timeouts(checks);
    check_retries(checks);
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
    checks.own("a rule's name stands in the access log", |m| {
        m.curl(FROM, &["http://matched/named-for-the-log"])?;
        soon(|| {
            let log = m.proxy_log("node1")?;
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
