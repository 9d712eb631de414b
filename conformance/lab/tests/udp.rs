//! UDPRoutes on Services with real programs and packets: shares per flow, answers from the address that was asked, consumer
//! routes, backends that cannot be used, and what is told of it. And Service addresses outside the cluster's ranges.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use weft_conformance::objects::{namespace, service, shell};
use weft_conformance::{Checks, Lab, access_log, host, metric};

const PATIENCE: Duration = Duration::from_secs(60);

/// Answers each datagram with its name and who sent it, and each connection with its name.
fn echo(name: &str, node: &str) -> String {
    let answer = format!("read asked; echo {name} \\\\$SOCAT_PEERADDR");
    let udp = format!("socat UDP6-RECVFROM:5300,ipv6only=0,fork SYSTEM:\\\"{answer}\\\"");
    let tcp = format!("socat TCP6-LISTEN:5300,ipv6only=0,fork,reuseaddr SYSTEM:\\\"echo {name}\\\"");
    weft_conformance::objects::pod("app", name, node, &format!("[sh, -c, \"{tcp} & {udp}\"]"))
        + &service(
            "app",
            name,
            "{ name: udp, port: 53, targetPort: 5300, protocol: UDP }, { name: tcp, port: 53, targetPort: 5300 }",
        )
}

/// The Service that is called: nobody is behind it but by routes. It has addresses of every kind.
const FRONT: &str = "apiVersion: v1
kind: Service
metadata: { name: front, namespace: app }
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  externalIPs: [192.0.2.53]
  selector: { app: v1 }
  ports:
  - { name: udp, port: 53, targetPort: 5300, protocol: UDP, nodePort: 30053 }
  - { name: tcp, port: 53, targetPort: 5300, nodePort: 30054 }
---
";

fn cluster() -> String {
    [
        namespace("app", "weft-mesh.dev/mesh: enabled"),
        namespace("other", "weft-mesh.dev/mesh: enabled"),
        echo("v1", "node1"),
        echo("v2", "node2"),
        FRONT.to_owned(),
        shell("app", "caller", "node1"),
        shell("other", "caller", "node1"),
    ]
    .concat()
}

fn route(kind: &str, namespace: &str, port: &str, backends: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1alpha2
kind: {kind}
metadata: {{ name: split, namespace: {namespace} }}
spec:
  parentRefs: [{{ group: '', kind: Service, namespace: app, name: front{port} }}]
  rules: [{{ backendRefs: [{backends}] }}]
---
"
    )
}

const QUARTER: &str = "{ name: v1, port: 53, weight: 1 }, { name: v2, port: 53, weight: 3 }";

fn front(lab: &Lab, ipv6: bool) -> String {
    let service = lab.object("Service", "app", "front").unwrap();
    let ips = service["spec"]["clusterIPs"].as_array().unwrap();
    ips.iter().filter_map(|ip| ip.as_str()).find(|ip| ip.contains(':') == ipv6).unwrap().to_owned()
}

/// What comes back for one datagram, each from a port of its own: one flow each. socat takes answers only from where it
/// sent to. It ends with an answer's 45 bytes.
fn ask(lab: &Lab, caller: &str, at: &str, flows: u32) -> Vec<String> {
    let family = if at.starts_with('[') { "UDP6" } else { "UDP4" };
    let script = format!(
        "for i in $(seq {flows}); do echo hello | socat -T 4 -t 4 - {family}:{at},readbytes=45; done 2>/dev/null"
    );
    let told = lab.exec(caller, &["sh", "-c", &script]).unwrap();
    told.stdout.lines().map(str::to_owned).collect()
}

fn counted(answers: &[String]) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for answer in answers {
        *counted.entry(answer.split(' ').next().unwrap().to_owned()).or_default() += 1;
    }
    counted
}

fn shares(v1: usize, v2: usize) -> BTreeMap<String, usize> {
    [("v1".to_owned(), v1), ("v2".to_owned(), v2)].into_iter().filter(|(_, share)| *share > 0).collect()
}

#[test]
fn datagrams_follow_udproutes() {
    let lab = Lab::up(&cluster()).unwrap();
    let mut checks = Checks::default();
    checks.check("without a route UDP is left to kube-proxy", || {
        assert_eq!(counted(&ask(&lab, "app/caller", &format!("{}:53", front(&lab, false)), 4)), shares(4, 0));
        assert!(udp_log(&lab).is_empty());
    });
    split(&lab, &mut checks);
    told(&lab, &mut checks);
    tcp_addresses(&lab, &mut checks);
    unusable(&lab, &mut checks);
    consumer(&lab, &mut checks);
    refusing(&lab, &mut checks);
    checks.finish();
}

fn udp_log(lab: &Lab) -> Vec<serde_json::Value> {
    access_log(lab, "node1").into_iter().filter(|line| line["protocol"] == "udp").collect()
}

fn split(lab: &Lab, checks: &mut Checks) {
    lab.apply("route", &route("UDPRoute", "app", "", QUARTER)).unwrap();
    lab.wait_until("the route is obeyed", PATIENCE, |l| {
        counted(&ask(l, "app/caller", &format!("{}:53", front(l, false)), 4)).contains_key("v2")
    })
    .unwrap();
    for ipv6 in [false, true] {
        let at = format!("{}:53", host(&front(lab, ipv6)));
        checks.check(
            &format!("flows are shared out by weight, and answered from where they were sent to ({at})"),
            || {
                assert_eq!(counted(&ask(lab, "app/caller", &at, 8)), shares(2, 6));
            },
        );
        checks.check(
            &format!("a flow stays with its backend, and callees see the caller's address ({at})"),
            || {
                let family = if ipv6 { "UDP6" } else { "UDP4" };
                let script = format!(
                    "(for i in 1 2 3 4 5; do echo hello; sleep 0.3; done) | socat -T 3 -t 2 - {family}:{at}"
                );
                let told = lab.exec("app/caller", &["sh", "-c", &script]).unwrap().ok();
                let answers: Vec<String> = told.lines().map(str::to_owned).collect();
                assert_eq!(answers.len(), 5, "{told}");
                assert_eq!(counted(&answers).len(), 1, "{told}");
                let caller: std::net::Ipv4Addr =
                    weft_conformance::address(lab, "app", "caller", false).parse().unwrap();
                let [a, b, c, d] = caller.octets();
                let mapped = format!("{a:02x}{b:02x}:{c:02x}{d:02x}]");
                assert!(ipv6 || answers.iter().all(|answer| answer.ends_with(&mapped)), "{told}");
            },
        );
    }
    for at in ["192.0.2.53:53", "192.168.77.11:30053", "192.168.77.12:30053"] {
        checks.check(&format!("the same holds at {at}"), || {
            assert_eq!(counted(&ask(lab, "app/caller", at, 8)), shares(2, 6));
        });
    }
    checks.check("other UDP is left alone", || {
        let v1 = weft_conformance::address(lab, "app", "v1", false);
        assert_eq!(counted(&ask(lab, "app/caller", &format!("{v1}:5300"), 2)), shares(2, 0));
    });
}

fn told(lab: &Lab, checks: &mut Checks) {
    checks.check("status says that it is in force and not encrypted", || {
        lab.wait_until("status", PATIENCE, |l| l.object_status("UDPRoute", "app", "split").is_some())
            .unwrap();
        let status = lab.object_status("UDPRoute", "app", "split").unwrap();
        let conditions = &status["status"]["parents"][0]["conditions"];
        assert_eq!(conditions[0]["type"], "Accepted", "{status}");
        assert_eq!(conditions[0]["status"], "True", "{status}");
        assert!(conditions[0]["message"].as_str().unwrap().contains("not encrypted"), "{status}");
        assert_eq!(conditions[1]["status"], "True", "{status}");
    });
    checks.check("each flow is told once, as plaintext, with its route", || {
        // A flow of one datagram ends half a minute after its answer.
        lab.wait_until("the flows end", 2 * PATIENCE, |l| {
            udp_log(l).iter().filter(|line| line["reason"] == "ok").count() >= 40
        })
        .unwrap();
        let line = udp_log(lab).into_iter().find(|line| line["reason"] == "ok").unwrap();
        assert_eq!(line["security"], "plaintext", "{line}");
        assert_eq!(line["service"], "app/front", "{line}");
        assert_eq!(line["route"], "UDPRoute/app/split", "{line}");
        assert_eq!(line["request_bytes"], 6, "{line}");
        let labels = [("protocol", "udp"), ("security", "plaintext"), ("reason", "ok")];
        assert!(metric(lab, "node1", "weft_connections_total", &labels) >= 40.0);
    });
}

fn tcp_addresses(lab: &Lab, checks: &mut Checks) {
    lab.apply("tcp", &route("TCPRoute", "app", "", QUARTER)).unwrap();
    let call = |at: &str| {
        let call =
            format!("for i in $(seq 8); do socat -T 5 -u TCP4:{at},connect-timeout=5 -; done 2>/dev/null");
        let told = lab.exec("app/caller", &["sh", "-c", &call]).unwrap();
        counted(&told.stdout.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let cluster_ip = format!("{}:53", front(lab, false));
    lab.wait_until("the route is obeyed", PATIENCE, |_| call(&cluster_ip) == shares(2, 6)).unwrap();
    for at in [&cluster_ip, "192.0.2.53:53", "192.168.77.11:30054", "192.168.77.12:30054"] {
        checks.check(&format!("a TCPRoute holds at {at}"), || assert_eq!(call(at), shares(2, 6)));
    }
}

fn unusable(lab: &Lab, checks: &mut Checks) {
    checks.check("a backend that does not exist loses its share, and the log says why", || {
        lab.apply(
            "route",
            &route("UDPRoute", "app", "", "{ name: v1, port: 53 }, { name: nosuch, port: 53 }"),
        )
        .unwrap();
        let at = format!("{}:53", front(lab, false));
        lab.wait_until("half is lost", PATIENCE, |l| counted(&ask(l, "app/caller", &at, 4)) == shares(2, 0))
            .unwrap();
        lab.wait_until("the log", PATIENCE, |l| {
            udp_log(l).iter().any(|line| line["reason"] == "invalid_backend")
        })
        .unwrap();
        let status = lab.object_status("UDPRoute", "app", "split").unwrap();
        assert_eq!(status["status"]["parents"][0]["conditions"][1]["reason"], "BackendNotFound", "{status}");
    });
}

fn refusing(lab: &Lab, checks: &mut Checks) {
    checks.check("a callee can refuse routed UDP", || {
        lab.apply("route", &route("UDPRoute", "app", "", "{ name: v1, port: 53 }")).unwrap();
        let at = format!("{}:53", front(lab, false));
        lab.wait_until("it holds", PATIENCE, |l| counted(&ask(l, "app/caller", &at, 2)) == shares(2, 0))
            .unwrap();
        let before = udp_log(lab).len();
        let labels = "weft-mesh.dev/mesh: enabled, weft-mesh.dev/udp: refuse";
        let refusing = cluster().replacen(
            &namespace("app", "weft-mesh.dev/mesh: enabled"),
            &namespace("app", labels),
            1,
        );
        lab.apply("main", &refusing).unwrap();
        lab.wait_until("it is refused", PATIENCE, |l| ask(l, "app/caller", &at, 2).is_empty()).unwrap();
        let refused =
            |l: &Lab| udp_log(l).into_iter().skip(before).any(|line| line["reason"] == "plaintext_refused");
        lab.wait_until("the log says so", PATIENCE, refused).unwrap();
    });
}

fn consumer(lab: &Lab, checks: &mut Checks) {
    checks.check("a consumer route holds for its own namespace, and for that one alone", || {
        lab.apply(
            "route",
            &route("UDPRoute", "other", ", port: 53", "{ name: v2, namespace: app, port: 53 }"),
        )
        .unwrap();
        let at = format!("{}:53", front(lab, false));
        lab.wait_until("it holds", PATIENCE, |l| counted(&ask(l, "other/caller", &at, 3)) == shares(0, 3))
            .unwrap();
        lab.wait_until("not for others", PATIENCE, |l| {
            counted(&ask(l, "app/caller", &at, 3)) == shares(3, 0)
        })
        .unwrap();
    });
}
