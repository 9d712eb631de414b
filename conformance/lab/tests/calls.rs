//! Who calls, from where, and who is refused: on real packets, in both address families, on one
//! node and between nodes.
#![allow(
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::time::{Duration, Instant};

use weft_conformance::objects::{namespace, nginx, shell};
use weft_conformance::{Checks, Lab, access_log, address, admin, curl, host, metric};

const PATIENCE: Duration = Duration::from_secs(60);
const FAMILIES: [(&str, bool); 2] = [("-4", false), ("-6", true)];

fn cluster(labels: &str) -> String {
    [
        namespace("app", labels),
        namespace("plain", ""),
        nginx("app", "web1", "node1"),
        nginx("app", "web2", "node2"),
        nginx("plain", "outside", "node2"),
        shell("app", "caller", "node1"),
        shell("app", "other", "node1"),
        shell("app", "far", "node2"),
        shell("plain", "stranger", "node1"),
    ]
    .concat()
}

/// What nginx says to a caller whose identity is known.
fn answer(lab: &Lab, pod: &str, caller: &str, ipv6: bool) -> String {
    let from = address(lab, "app", caller, ipv6);
    format!("{pod} address={from} caller=URI=spiffe://cluster.local/ns/app/sa/{caller}\n")
}

#[test]
fn calls_carry_address_and_identity_and_strangers_are_refused() {
    let lab = Lab::up(&cluster("weft-mesh.dev/mesh: enabled")).unwrap();
    let mut checks = Checks::default();
    callers(&lab, &mut checks);
    own(&lab, &mut checks);
    identities(&lab, &mut checks);
    strangers(&lab, &mut checks);
    dead_ends(&lab, &mut checks);
    permissive(&lab, &mut checks);
    sources_given_up(&lab, &mut checks);
    checks.finish();
}

fn callers(lab: &Lab, checks: &mut Checks) {
    for (family, ipv6) in FAMILIES {
        for web in ["web1", "web2"] {
            for caller in ["caller", "other", "far"] {
                checks.check(&format!("{web} sees address and identity of {caller} (curl {family})"), || {
                    let url = format!("http://{web}/");
                    let got = curl(lab, &format!("app/{caller}"), &[family, &url]).ok();
                    assert_eq!(got, answer(lab, web, caller, ipv6));
                });
            }
            checks.check(&format!("{web} sees them too when called by pod address (curl {family})"), || {
                let url = format!("http://{}/", host(&address(lab, "app", web, ipv6)));
                let got = curl(lab, "app/caller", &[&url]).ok();
                assert_eq!(got, answer(lab, web, "caller", ipv6));
            });
        }
        checks.check(&format!("what a caller claims to be is removed (curl {family})"), || {
            let claim = "x-forwarded-client-cert: URI=spiffe://cluster.local/ns/app/sa/root";
            let got = curl(lab, "app/caller", &[family, "-H", claim, "http://web2/"]).ok();
            assert_eq!(got, answer(lab, "web2", "caller", ipv6));
        });
        checks.check(&format!("a pod outside the mesh is called as ever (curl {family})"), || {
            let got = curl(lab, "app/caller", &[family, "http://outside.plain/"]).ok();
            assert_eq!(got, format!("outside address={} caller=\n", address(lab, "app", "caller", ipv6)));
        });
    }
}

fn own(lab: &Lab, checks: &mut Checks) {
    for (family, ipv6) in FAMILIES {
        checks.check(&format!("a pod reaches itself through its Service (curl {family})"), || {
            // The short name is the pod's own in /etc/hosts.
            let got = curl(lab, "app/web1", &[family, "http://web1.app/"]).ok();
            assert_eq!(got, answer(lab, "web1", "web1", ipv6));
        });
        checks.check(&format!("a pod reaches its own address (curl {family})"), || {
            let own = address(lab, "app", "web1", ipv6);
            let got = curl(lab, "app/web1", &[&format!("http://{}/", host(&own))]).ok();
            assert_eq!(got, format!("web1 address={own} caller=\n"));
        });
    }
    checks.check("a pod reaches its own loopback", || {
        let got = curl(lab, "app/web1", &["http://127.0.0.1/"]).ok();
        assert_eq!(got, "web1 address=127.0.0.1 caller=\n");
    });
}

fn identities(lab: &Lab, checks: &mut Checks) {
    for (node, expected) in [("node1", vec!["caller", "other", "web1"]), ("node2", vec!["far", "web2"])] {
        checks.check(&format!("the proxy of {node} holds certificates of that node's pods only"), || {
            let all: Vec<serde_json::Value> =
                serde_json::from_str(&admin(lab, node, "certificates")).unwrap();
            let mut names: Vec<_> = all.iter().map(|c| c["identity"].as_str().unwrap()).collect();
            names.sort_unstable();
            let expected: Vec<_> =
                expected.iter().map(|n| format!("spiffe://cluster.local/ns/app/sa/{n}")).collect();
            assert_eq!(names, expected);
        });
    }
    checks.check("no private key is on disk, but the authority's own root", || {
        let state = lab.state();
        let search = ["grep", "-rlaE", "PRIVATE KEY"];
        let found = std::process::Command::new(search[0]).args(&search[1..]).arg(&state).output().unwrap();
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        let root = state.join("ca/root.pem");
        assert_eq!(found.trim(), root.display().to_string());
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&root).unwrap().permissions().mode() & 0o077, 0);
        for node in ["node1", "node2"] {
            let told =
                lab.exec(&format!("node/{node}"), &["grep", "-rla", "PRIVATE KEY", "/run/weft"]).unwrap();
            assert_eq!((told.code, told.stdout.as_str()), (1, ""));
        }
    });
}

fn strangers(lab: &Lab, checks: &mut Checks) {
    checks.check("a process of the pod's own node may do what its probe declares, and nothing else", || {
        let web = address(lab, "app", "web2", false);
        let get = |path: &str| {
            let url = format!("http://{web}{path}");
            curl(lab, "node/node2", &["-o", "/dev/null", "-w", "%{http_code}", &url]).stdout
        };
        assert_eq!((get("/"), get("/slow")), ("200".to_owned(), "403".to_owned()));
    });
    for (from, node) in [("plain/stranger", "stranger"), ("node/node1", "node1")] {
        for (family, ipv6) in FAMILIES {
            let web = address(lab, "app", "web2", ipv6);
            let service = lab.object("Service", "app", "web2").unwrap();
            let ips = service["spec"]["clusterIPs"].as_array().unwrap().clone();
            let service = ips.iter().filter_map(|v| v.as_str()).find(|a| a.contains(':') == ipv6).unwrap();
            for (what, target) in [("pod address", web.as_str()), ("Service address", service)] {
                // The lab's nodes forward Service addresses for pods, not for themselves.
                if node != "stranger" && what == "Service address" {
                    continue;
                }
                checks.check(&format!("{node} is refused at a {what} (curl {family})"), || {
                    let before = refused(lab);
                    let got = curl(lab, from, &[&format!("http://{}/", host(target))]);
                    assert!(got.code == 56 || got.code == 7 || got.code == 52, "{got:?}");
                    assert_eq!(got.stdout, "");
                    lab.wait_until("metric and log", PATIENCE, |l| {
                        let now = refused(l);
                        now.0 > before.0 && now.1 > before.1
                    })
                    .unwrap();
                });
            }
        }
    }
    checks.check("a caller that spoofs the tunnel's port in plaintext is refused", || {
        let got =
            curl(lab, "plain/stranger", &[&format!("http://{}:15008/", address(lab, "app", "web2", false))]);
        assert_ne!(got.code, 0, "{got:?}");
        assert!(!got.stdout.contains("web2"), "{got:?}");
    });
    for port in [15001, 15006] {
        checks.check(&format!("port {port} of a pod is no way in"), || {
            let url = format!("http://{}:{port}/", address(lab, "app", "web2", false));
            for from in ["plain/stranger", "app/caller"] {
                let got = curl(lab, from, &[&url]);
                assert!(got.code != 0 || got.stdout.starts_with("weft: loop"), "{from}: {got:?}");
            }
        });
    }
}

/// `plaintext_refused` at node2: in the metric and in the access log.
fn refused(lab: &Lab) -> (f64, usize) {
    let labels = [("reason", "plaintext_refused"), ("reporter", "destination")];
    let counted = metric(lab, "node2", "weft_connections_total", &labels);
    let log = access_log(lab, "node2");
    let lines = log.iter().filter(|l| {
        l["reason"] == "plaintext_refused"
            && l["reporter"] == "destination"
            && l["destination_pod"] == "app/web2"
    });
    (counted, lines.count())
}

fn dead_ends(lab: &Lab, checks: &mut Checks) {
    checks.check("a closed port that speaks HTTP is answered with 503 and connect_failed", || {
        let got = curl(lab, "app/caller", &["-w", " %{http_code}", "http://web2:81/"]).ok();
        assert!(got.contains("weft: connect_failed") && got.ends_with(" 503"), "{got}");
        logged(lab, "node1", "connect_failed");
    });
    for (family, ipv6) in FAMILIES {
        for web in ["web1", "web2"] {
            checks.check(
                &format!("a closed port of {web} ends the connection at once (curl {family})"),
                || {
                    let url = format!("http://{}:8111/", host(&address(lab, "app", web, ipv6)));
                    let (got, took) = timed(|| curl(lab, "app/caller", &[&url]));
                    assert!(got.code == 7 || got.code == 56 || got.code == 52, "{got:?}");
                    assert!(took < Duration::from_secs(2), "{took:?}");
                },
            );
        }
    }
    for unknown in ["10.244.2.77", "10.96.77.77", "[fd00:10:244:2::77]", "[fd00:10:96::77]"] {
        checks.check(&format!("{unknown}, which nobody has, is refused after 2 s"), || {
            let (got, took) = timed(|| curl(lab, "app/caller", &[&format!("http://{unknown}/")]));
            assert!(got.code == 56 || got.code == 52, "{got:?}");
            assert!(took > Duration::from_millis(1500) && took < Duration::from_millis(3500), "{took:?}");
            let line = logged(lab, "node1", "unknown_destination");
            assert!(line["duration_ms"].as_f64().unwrap() > 1500.0, "{line}");
        });
    }
    checks.check("an address outside the cluster is left alone", || {
        // The lab's DNS server: TCP to it is not captured.
        let logged = || {
            access_log(lab, "node1").iter().filter(|line| line.to_string().contains("192.168.77.1")).count()
        };
        let before = logged();
        let got = lab
            .exec("app/caller", &["socat", "-u", "OPEN:/dev/null", "TCP:192.168.77.1:53,connect-timeout=3"]);
        let got = got.unwrap();
        assert!(got.code == 0 || got.stderr.contains("refused"), "{got:?}");
        assert_eq!(logged(), before);
    });
    checks.check("headers beyond the limit are answered with 431", || {
        let script = "curl -sS -m 8 -o /dev/null -w '%{http_code}' -H \"x: $(head -c 100000 /dev/zero | tr '\\0' a)\" http://web2/";
        assert_eq!(lab.exec("app/caller", &["sh", "-c", script]).unwrap().ok(), "431");
        logged(lab, "node1", "headers_too_large");
    });
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    #[allow(clippy::disallowed_methods)]
    let start = Instant::now();
    let got = work();
    (got, start.elapsed())
}

/// Waits until the newest line that tells of a failure gives this reason.
fn logged(lab: &Lab, node: &str, reason: &str) -> serde_json::Value {
    let last = || access_log(lab, node).into_iter().rfind(|l| l["reason"] == reason);
    lab.wait_until(reason, PATIENCE, |_| last().is_some()).unwrap();
    last().unwrap()
}

fn permissive(lab: &Lab, checks: &mut Checks) {
    let label = |labels: &str| lab.apply("main", &cluster(labels)).unwrap();
    let served = |l: &Lab| curl(l, "plain/stranger", &["http://web2.app/"]).code == 0;
    checks.check("a permissive namespace serves a stranger, without an identity", || {
        label("weft-mesh.dev/mesh: enabled, weft-mesh.dev/mtls: permissive");
        lab.wait_until("served", PATIENCE, served).unwrap();
        for (family, ipv6) in FAMILIES {
            let claim = "x-forwarded-client-cert: URI=spiffe://cluster.local/ns/app/sa/root";
            let got = curl(lab, "plain/stranger", &[family, "-H", claim, "http://web2.app/"]).ok();
            let from = address(lab, "plain", "stranger", ipv6);
            assert_eq!(got, format!("web2 address={from} caller=\n"));
        }
    });
    checks.check("meshed callers keep their identity there", || {
        let got = curl(lab, "app/caller", &["-4", "http://web2/"]).ok();
        assert_eq!(got, answer(lab, "web2", "caller", false));
    });
    checks.check("strict again, the stranger is refused again", || {
        label("weft-mesh.dev/mesh: enabled");
        lab.wait_until("refused", PATIENCE, |l| !served(l)).unwrap();
        assert_eq!(
            curl(lab, "app/caller", &["-4", "http://web2/"]).ok(),
            answer(lab, "web2", "caller", false)
        );
    });
}

/// The connection of `web2` that a caller's request came over, and the address that it came from.
fn connection(lab: &Lab, caller: &str, family: &str) -> (String, String) {
    let said = curl(lab, &format!("app/{caller}"), &[family, "http://web2.app/connection"]).ok();
    let (number, from) = said.split_once(' ').unwrap();
    (number.to_owned(), from.to_owned())
}

fn sources_given_up(lab: &Lab, checks: &mut Checks) {
    const CALLERS: [&str; 3] = ["caller", "other", "far"];
    let connections = |l: &Lab, family: &str| CALLERS.map(|caller| connection(l, caller, family).0);
    let distinct = |mut numbers: Vec<String>| {
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len()
    };
    checks.check("callers of different addresses share no connection to the application", || {
        for (family, _) in FAMILIES {
            assert_eq!(distinct(connections(lab, family).to_vec()), CALLERS.len());
        }
    });
    checks.check("where a Service's label gives addresses up they do, and the application sees its own", || {
        let label = "metadata: { name: shared, namespace: app, labels: { weft-mesh.dev/proxy-source-ports: \"8000\" } }";
        let ports = "spec: { selector: { app: web2 }, ports: [{ port: 8000, targetPort: 80 }] }";
        lab.apply("shared", &format!("apiVersion: v1\nkind: Service\n{label}\n{ports}\n")).unwrap();
        for (family, ipv6) in FAMILIES {
            let own = address(lab, "app", "web2", ipv6);
            let given_up = |l: &Lab| CALLERS.iter().all(|caller| connection(l, caller, family).1 == own);
            lab.wait_until("the application sees its own address", PATIENCE, given_up).unwrap();
            // Each worker of the proxy has connections of its own, and keeps them for seconds.
            let shared = |l: &Lab| distinct(connections(l, family).to_vec()) < CALLERS.len();
            lab.wait_until("two callers share a connection", PATIENCE, shared).unwrap();
            let said = curl(lab, "app/other", &[family, "http://web2/"]).ok();
            let identity = "URI=spiffe://cluster.local/ns/app/sa/other";
            assert_eq!(said, format!("web2 address={own} caller={identity}\n"), "still known by its identity");
        }
    });
}
