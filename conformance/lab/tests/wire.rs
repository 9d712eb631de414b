//! What passes between nodes, seen by tcpdump, and what strangers can do to a pod's tunnel port
//! with openssl, socat and Python.
#![allow(
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::process::{Child, Stdio};
use std::time::Duration;

use weft_conformance::objects::{namespace, nginx, pod, service, shell};
use weft_conformance::{Checks, Lab, access_log, address, curl, metric};

const PATIENCE: Duration = Duration::from_secs(60);
/// What must never be seen on the wire.
const SECRET: &str = "plain-enough-to-grep-for";

fn cluster() -> String {
    let echo = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("weft-echo");
    let echo = echo.display();
    [
        namespace("app", "weft-mesh.dev/mesh: enabled"),
        namespace("plain", ""),
        nginx("app", "web2", "node2"),
        pod("app", "grpc", "node2", &format!("[{echo}, --port, '9000', --trailers]")),
        service("app", "grpc", "{ name: grpc, port: 9000, appProtocol: kubernetes.io/h2c }"),
        pod("app", "bytes", "node2", "[socat, 'TCP6-LISTEN:7000,fork,reuseaddr', 'EXEC:cat']"),
        service("app", "bytes", "{ name: bytes, port: 7000 }"),
        shell("app", "caller", "node1"),
        shell("plain", "stranger", "node1"),
        shell("plain", "sink", "node2"),
    ]
    .concat()
}

/// tcpdump on the bridge between the nodes, into memory.
struct Tap(Child);

impl Tap {
    fn start(lab: &Lab) -> Self {
        let mut command =
            lab.command(&["capture", "--", "-i", "br0", "--immediate-mode", "-A", "-s", "0", "-n", "tcp"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It says when it listens.
        let mut line = String::new();
        let mut told = std::io::BufReader::new(child.stderr.take().unwrap());
        while !line.contains("listening on") {
            line.clear();
            assert_ne!(std::io::BufRead::read_line(&mut told, &mut line).unwrap(), 0, "tcpdump ended");
        }
        Self(child)
    }

    /// All packets' bytes so far, as text.
    fn end(self, lab: &Lab) -> String {
        std::thread::sleep(Duration::from_millis(500));
        lab.exec("node/node1", &["pkill", "-INT", "-x", "tcpdump"]).unwrap().ok();
        let out = self.0.wait_with_output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

#[test]
fn only_mutual_tls_between_nodes_and_nothing_else_gets_in() {
    let lab = Lab::up(&cluster()).unwrap();
    let mut checks = Checks::default();
    plaintext(&lab, &mut checks);
    handshakes(&lab, &mut checks);
    stuck(&lab, &mut checks);
    node_proof(&lab, &mut checks);
    checks.check("both proxies have lived through all of it", || {
        let status = lab.status().unwrap();
        for daemon in status["daemons"].as_array().unwrap() {
            assert_eq!(daemon["restarts"], 0, "{daemon}");
        }
    });
    checks.finish();
}

/// One call in each protocol that carries the secret and brings it back.
fn calls(lab: &Lab) {
    let header = format!("x-secret: {SECRET}");
    let got = curl(lab, "app/caller", &["-H", &header, "-d", SECRET, "http://web2/"]);
    assert_eq!(got.code, 0, "{got:?}");
    let h2 = ["--http2-prior-knowledge", "-H", &header, "-H", "content-type: application/grpc", "-d", SECRET];
    let got = curl(lab, "app/caller", &[&h2[..], &["http://grpc:9000/a.B/C"]].concat()).ok();
    assert!(got.contains(SECRET), "{got}");
    for family in ["TCP4", "TCP6"] {
        let script = format!("(echo {SECRET}; sleep 0.3) | socat -t 2 - {family}:bytes:7000");
        let got = lab.exec("app/caller", &["sh", "-c", &script]).unwrap().ok();
        assert_eq!(got.trim(), SECRET);
    }
}

fn plaintext(lab: &Lab, checks: &mut Checks) {
    checks.check("the tap sees what is not encrypted", || {
        let tap = Tap::start(lab);
        let sink = address(lab, "plain", "sink", false);
        let server =
            lab.exec_command("plain/sink", &["socat", "-u", "TCP-LISTEN:7000", "OPEN:/dev/null"]).spawn();
        let mut server = server.unwrap();
        let script = format!("sleep 0.3; echo {SECRET} | socat -u - TCP:{sink}:7000");
        lab.exec("plain/stranger", &["sh", "-c", &script]).unwrap().ok();
        server.wait().unwrap();
        assert!(tap.end(lab).contains(SECRET));
    });
    checks.check("nothing of HTTP, gRPC or TCP between meshed pods is to be read on the wire", || {
        let tap = Tap::start(lab);
        calls(lab);
        let seen = tap.end(lab);
        assert!(seen.contains(".15008"), "no tunnel was seen: {} bytes", seen.len());
        assert!(!seen.contains(SECRET));
        for word in ["HTTP/1.1", "x-secret", "weft-meta", "PRI * HTTP/2"] {
            assert!(!seen.contains(word), "{word} is on the wire");
        }
    });
}

/// `tls_failed` at node2: in the metric and in the access log.
fn failed(lab: &Lab) -> (f64, usize) {
    let counted = metric(lab, "node2", "weft_connections_total", &[("reason", "tls_failed")]);
    let lines = access_log(lab, "node2");
    (counted, lines.iter().filter(|l| l["reason"] == "tls_failed" && l["message"].is_string()).count())
}

/// The script cannot get in, and leaves a reason in log and metric.
fn refused(lab: &Lab, script: &str) {
    let before = failed(lab);
    let web = address(lab, "app", "web2", false);
    let got = lab.exec("plain/stranger", &["sh", "-c", &script.replace("WEB", &web)]).unwrap();
    assert!(!got.stdout.contains("address="), "it got in: {got:?}");
    lab.wait_until(&format!("a reason; {got:?}"), PATIENCE, |l| {
        let now = failed(l);
        now.0 > before.0 && now.1 > before.1
    })
    .unwrap();
}

fn handshakes(lab: &Lab, checks: &mut Checks) {
    let send = "(printf 'GET / HTTP/1.1\\r\\nhost: web2\\r\\nweft-meta: port=80\\r\\n\\r\\n'; sleep 1)";
    let make = "cd /tmp && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k -out c -subj / \
        -addext subjectAltName=URI:spiffe://cluster.local/ns/app/sa/caller 2>/dev/null";
    let cases = [
        (
            "a caller without a certificate",
            format!("{send} | timeout 5 openssl s_client -quiet -alpn weft-h1 -connect WEB:15008"),
        ),
        (
            "a caller with a certificate of its own making",
            format!(
                "{make}; {send} | timeout 5 openssl s_client -quiet -alpn weft-h1 -cert c -key k -connect WEB:15008"
            ),
        ),
        (
            "TLS 1.2",
            format!(
                "{make}; {send} | timeout 5 openssl s_client -quiet -tls1_2 -cert c -key k -connect WEB:15008"
            ),
        ),
        (
            "another ALPN",
            format!(
                "{make}; {send} | timeout 5 openssl s_client -quiet -alpn http/1.1 -cert c -key k -connect WEB:15008"
            ),
        ),
        (
            "no ALPN",
            format!("{make}; {send} | timeout 5 openssl s_client -quiet -cert c -key k -connect WEB:15008"),
        ),
        ("garbage", "head -c 4096 /dev/urandom | timeout 5 socat -t 1 - TCP:WEB:15008".to_owned()),
        ("plain HTTP", "curl -s -m 5 http://WEB:15008/".to_owned()),
        (
            "half a hello",
            "(printf '\\026\\003\\001\\002\\000\\001'; sleep 0.2) | timeout 5 socat -t 1 - TCP:WEB:15008"
                .to_owned(),
        ),
    ];
    for (what, script) in cases {
        checks.check(&format!("{what} is refused at the tunnel's port, with a reason"), || {
            refused(lab, &script)
        });
    }
    checks.check("the certificate that a pod shows bears its identity and nothing but TLS 1.3 is spoken", || {
        let web = address(lab, "app", "web2", false);
        let script = format!("openssl s_client -alpn h2 -connect {web}:15008 </dev/null 2>&1 | tee /tmp/said | openssl x509 -noout -ext subjectAltName; cat /tmp/said");
        let said = lab.exec("plain/stranger", &["sh", "-c", &script]).unwrap().stdout;
        assert!(said.contains("URI:spiffe://cluster.local/ns/app/sa/web2"), "{said}");
        assert!(said.contains("TLSv1.3") && said.contains("ALPN protocol: h2"), "{said}");
    });
}

fn stuck(lab: &Lab, checks: &mut Checks) {
    let script = "import socket,sys,time\n\
        all=[socket.create_connection((sys.argv[1],15008)) for _ in range(200)]\n\
        for s in all[::2]: s.send(b'\\x16\\x03\\x01')\n\
        print('open',flush=True)\n\
        start=time.time()\n\
        for s in all:\n\
        \x20try:\n\
        \x20 s.settimeout(40)\n\
        \x20 while s.recv(4096): pass\n\
        \x20except ConnectionError: pass\n\
        print('closed after',time.time()-start,flush=True)\n";
    checks.check(
        "200 connections that say nothing disturb no other caller, and are ended by a deadline",
        || {
            let web = address(lab, "app", "web2", false);
            let before = failed(lab);
            let mut command = lab.exec_command("plain/stranger", &["python3", "-c", script, &web]);
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut told = std::io::BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            std::io::BufRead::read_line(&mut told, &mut line).unwrap();
            assert_eq!(line, "open\n");
            for _ in 0..10 {
                let got =
                    curl(lab, "app/caller", &["-w", "%{time_total}", "-o", "/dev/null", "http://web2/"]).ok();
                assert!(got.parse::<f64>().unwrap() < 0.5, "{got}");
            }
            line.clear();
            std::io::BufRead::read_line(&mut told, &mut line).unwrap();
            child.wait().unwrap();
            let took: f64 =
                line.trim().rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(took < 15.0, "{took}");
            lab.wait_until("200 reasons", PATIENCE, |l| failed(l).0 >= before.0 + 200.0).unwrap();
        },
    );
}

fn node_proof(lab: &Lab, checks: &mut Checks) {
    let secret = |node: &str| lab.state().join("secrets").join(node).display().to_string();
    let cases = [
        ("a forged secret", "node1", lab.state().join("forged").display().to_string()),
        ("another node's secret", "node2", secret("node1")),
    ];
    std::fs::write(lab.state().join("forged"), "0123456789").unwrap();
    for (what, node, file) in cases {
        checks.check(&format!("the controller gives nothing to a proxy with {what}"), || {
            let proxy = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("weft-proxy");
            let script = format!(
                "timeout 3 {} --node {node} --node-secret-file {file} \
                 --agent-socket /tmp/none.sock --admin 127.0.0.1:15999 --controller 192.168.77.1:15010 \
                 --controller-ca {}/ca/root.crt 2>&1 & sleep 2; curl -s http://127.0.0.1:15999/config; wait",
                proxy.display(),
                lab.state().display()
            );
            let told = lab.exec("node/node1", &["sh", "-c", &script]).unwrap().stdout;
            assert!(told.contains("node proof is not valid"), "{told}");
            assert!(!told.contains("web2"), "{told}");
        });
    }
}
