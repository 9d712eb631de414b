//! Gateways in a lab: reached from the machine and from pods, beside the same routes on Services; certificates, protocols,
//! TLS to backends inside the mesh, and changes under load.
#![allow(
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use weft_conformance::load::{Load, none_failed};
use weft_conformance::mesh::{self, HTTP_LISTENER, parameters};
use weft_conformance::objects::{namespace, nginx, pod, service, shell, stranger};
use weft_conformance::{Checks, Lab, access_log, curl, host, place};

const PATIENCE: Duration = Duration::from_secs(60);
const IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/front-weft";
/// Between two looks at a route that was changed.
const PAUSE: Duration = Duration::from_millis(5);
/// How often the route is changed under load.
const CHANGES: u32 = 100;
const WEBSOCKET: &str = include_str!("programs/upgrade_client.py");

/// A key and a certificate that signs itself, as PEM.
struct Pair {
    key: String,
    certificate: String,
}

impl Pair {
    fn new(name: &str) -> Self {
        // No certificate authority, as applications' certificates are none.
        let config = format!(
            "[req]\ndistinguished_name=dn\nx509_extensions=ext\nprompt=no\n[dn]\nCN={name}\n\
             [ext]\nsubjectAltName=DNS:{name}\nbasicConstraints=CA:FALSE\n"
        );
        let program = "openssl req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -keyout - -out - -config <(echo \"$0\")";
        let out = Command::new("bash").args(["-c", program, &config]).output().expect("bash and openssl");
        let text = String::from_utf8(out.stdout).unwrap();
        let at = text.find("-----BEGIN CERTIFICATE").expect("a certificate");
        Self { key: text[..at].to_owned(), certificate: text[at..].to_owned() }
    }

    fn secret(&self, name: &str) -> String {
        let block = |pem: &str| pem.replace('\n', "\n    ");
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{ name: {name}, namespace: shop }}\ntype: kubernetes.io/tls\n\
             stringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n---\n",
            block(self.certificate.trim()),
            block(self.key.trim()),
        )
    }

    fn roots(&self, name: &str) -> String {
        let pem = self.certificate.trim().replace('\n', "\n    ");
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name}, namespace: shop }}\ndata:\n  ca.crt: |\n    {pem}\n---\n"
        )
    }
}

/// An nginx that speaks TLS alone and says by what name it was asked for.
fn secure() -> String {
    let config = "user root; daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log stderr; events {} http { access_log off; server { listen 8443 ssl; listen [::]:8443 ssl; ssl_protocols TLSv1.3; ssl_certificate /cert/tls.crt; ssl_certificate_key /cert/tls.key; location / { return 200 \"secure $ssl_protocol $ssl_server_name\\n\"; } } }";
    let run = format!("mkdir -p /var/lib/nginx; echo '{config}' > /tmp/n.conf; exec nginx -c /tmp/n.conf");
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: secure, namespace: shop, labels: {{ app: secure }} }}
spec:
  nodeName: node2
  serviceAccountName: secure
  terminationGracePeriodSeconds: 1
  containers:
  - name: nginx
    image: local
    command: [bash, -c, {run:?}]
    readinessProbe: {{ tcpSocket: {{ port: 8443 }}, periodSeconds: 1 }}
    volumeMounts: [{{ name: cert, mountPath: /cert }}]
  volumes: [{{ name: cert, secret: {{ secretName: secure }} }}]
---
"
    ) + &service("shop", "secure", "{ name: https, port: 443, targetPort: 8443 }")
}

fn policy(hostname: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{ name: secure, namespace: shop }}
spec:
  targetRefs: [{{ group: '', kind: Service, name: secure }}]
  validation: {{ hostname: {hostname}, caCertificateRefs: [{{ group: '', kind: ConfigMap, name: secure }}] }}
---
"
    )
}

/// Echoes lines of TCP and says who sent a datagram.
fn bytes() -> String {
    let program = "socat TCP6-LISTEN:5300,ipv6only=0,fork,reuseaddr EXEC:cat & exec socat UDP6-RECVFROM:5300,ipv6only=0,fork EXEC:cat";
    let ports = "{ name: tcp, port: 9000, targetPort: 5300 }, { name: udp, port: 5353, targetPort: 5300, protocol: UDP }";
    pod("shop", "bytes", "node2", &format!("[bash, -c, '{program}']")) + &service("shop", "bytes", ports)
}

fn websockets() -> String {
    let command = format!("[{}, --name, socket]", place::echo_program());
    pod("shop", "socket", "node2", &command)
        + &service("shop", "socket", "{ name: http, port: 80, targetPort: 8080, appProtocol: http }")
}

const FRONT: &str = "allowedListeners: { namespaces: { from: Same } }, listeners: [
  { name: http, port: 80, protocol: HTTP },
  { name: https, port: 443, protocol: HTTPS, tls: { certificateRefs: [{ name: front }] } },
  { name: tls, port: 8443, protocol: TLS, hostname: secure.example, tls: { mode: Passthrough } },
  { name: tcp, port: 9000, protocol: TCP },
  { name: udp, port: 5353, protocol: UDP }]";

/// One route on a Service and at the Gateway; and what is at the Gateway alone.
const ROUTES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: both, namespace: shop }
spec:
  parentRefs:
  - { name: front }
  - { group: '', kind: Service, name: v1, port: 80 }
  rules:
  - matches: [{ path: { value: /old } }]
    filters: [{ type: RequestRedirect, requestRedirect: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /new }, statusCode: 302 } }]
  - matches: [{ headers: [{ name: x-version, value: '2' }] }]
    backendRefs: [{ name: v2, port: 80 }]
  - matches: [{ path: { value: /gone } }]
    backendRefs: []
  - backendRefs: [{ name: v1, port: 80 }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: front, namespace: shop }
spec:
  parentRefs: [{ name: front }]
  rules:
  - matches: [{ path: { value: /socket } }]
    backendRefs: [{ name: socket, port: 80 }]
  - matches: [{ path: { value: /secure } }]
    backendRefs: [{ name: secure, port: 443 }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: { name: front, namespace: shop }
spec:
  parentRefs: [{ name: front, sectionName: tls }]
  hostnames: [secure.example]
  rules: [{ backendRefs: [{ name: secure, port: 443 }] }]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: { name: front, namespace: shop }
spec:
  parentRefs: [{ name: front, sectionName: tcp }]
  rules: [{ backendRefs: [{ name: bytes, port: 9000 }] }]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: UDPRoute
metadata: { name: front, namespace: shop }
spec:
  parentRefs: [{ name: front, sectionName: udp }]
  rules: [{ backendRefs: [{ name: bytes, port: 5353 }] }]
---
";

/// A listener that comes and goes.
const SET: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: { name: more, namespace: shop }
spec:
  parentRef: { name: front }
  listeners: [{ name: more, port: 8081, protocol: HTTP }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: more, namespace: shop }
spec:
  parentRefs: [{ kind: ListenerSet, group: gateway.networking.k8s.io, name: more }]
  rules: [{ backendRefs: [{ name: v2, port: 80 }] }]
---
";

/// Parameters and route of a Gateway behind another proxy, here HAProxy on this machine.
const EDGE: &str = "
apiVersion: v1
kind: ConfigMap
metadata: { name: edge, namespace: shop }
data: { proxyProtocol: required, trustedProxies: 127.0.0.0/8 }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: edge, namespace: shop }
spec:
  parentRefs: [{ name: edge }]
  rules: [{ backendRefs: [{ name: socket, port: 80 }] }]
---
";

/// All but what changes in the course of the test.
fn cluster(of_secure: &Pair) -> String {
    [
        namespace("shop", "weft-mesh.dev/mesh: enabled"),
        nginx("shop", "v1", "node1"),
        nginx("shop", "v2", "node2"),
        shell("shop", "caller", "node1"),
        stranger(),
        of_secure.secret("secure"),
        of_secure.roots("secure"),
        secure(),
        bytes(),
        websockets(),
        ROUTES.to_owned(),
        EDGE.to_owned(),
        mesh::gateway("shop", "edge", &format!("{}, {HTTP_LISTENER}", parameters("edge"))),
    ]
    .concat()
}

/// What a program of this machine says.
fn here(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).stdin(Stdio::null()).output().expect(program);
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn get(arguments: &[&str]) -> String {
    here("curl", &[&["-sS", "-m", "8"], arguments].concat())
}

fn say(line: &str, to: &str) -> String {
    here("bash", &["-c", &format!("echo {line} | socat -t 3 -T 3 - {to}")])
}

/// Where a Gateway is reached, IPv4 first, as soon as it is programmed there.
fn addresses(lab: &Lab, gateway: &str) -> [String; 2] {
    let all = || {
        let status = lab.object_status("Gateway", "shop", gateway)?;
        let addresses = status["status"]["addresses"].as_array()?.clone();
        let mut all: Vec<String> =
            addresses.iter().filter_map(|a| Some(a["value"].as_str()?.to_owned())).collect();
        all.sort_by_key(|address| address.contains(':'));
        all.try_into().ok()
    };
    lab.wait_until("the Gateway has two addresses", PATIENCE, |_| all().is_some()).unwrap();
    all().unwrap()
}

/// What the echo server was told of the client: by whom, and in which scheme.
fn forwarded(answer: &str) -> [String; 2] {
    let echoed: serde_json::Value = serde_json::from_str(answer).unwrap_or_else(|_| panic!("{answer}"));
    ["x-forwarded-for", "x-forwarded-proto"]
        .map(|name| echoed["headers"][name][0].as_str().unwrap_or("").to_owned())
}

/// A process of this machine that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An HAProxy on this machine that says who calls it by the PROXY protocol; and where it is called.
fn haproxy(lab: &Lab, version: &str, to: &str) -> (Process, String) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
         listen front\n  bind {free}\n  server gateway {to} {version}\n"
    );
    let file = lab.state().join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let child = Command::new("haproxy")
        .arg("-db")
        .arg("-f")
        .arg(&file)
        .stdin(Stdio::null())
        .spawn()
        .expect("haproxy");
    lab.wait_until("HAProxy listens", PATIENCE, |_| TcpStream::connect(free).is_ok()).unwrap();
    (Process(child), format!("http://{free}/"))
}

/// The access log of a Gateway's only proxy.
fn gateway_log(lab: &Lab, deployment: &str) -> Vec<serde_json::Value> {
    let pods = lab.pods("shop", deployment).unwrap();
    weft_conformance::log_lines(&lab.logs(&format!("shop/{}", pods[0]["name"].as_str().unwrap())))
}

/// Changes the route that is at the Gateway and on the Service, where the controller reads it: the lab itself looks at its
/// folder a few times a second only.
fn change(lab: &Lab, number: u32) {
    let file = lab.state().join("cluster/HTTPRoute/shop/both.json");
    let mut route = lab.object("HTTPRoute", "shop", "both").unwrap();
    let header = serde_json::json!({"name": "x-change", "value": number.to_string()});
    let last = route["spec"]["rules"].as_array_mut().and_then(|rules| rules.last_mut()).unwrap();
    last["filters"] =
        serde_json::json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [header]}}]);
    route["metadata"]["generation"] = (number + 1).into();
    let new = lab.state().join("cluster/HTTPRoute/shop/.both.new");
    std::fs::write(&new, route.to_string()).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// A connection to a Gateway's HTTP listener that asks again and again.
struct Client {
    input: TcpStream,
    output: BufReader<TcpStream>,
}

impl Client {
    fn new(address: &str) -> Self {
        let stream = TcpStream::connect((address, 80)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { input: stream.try_clone().unwrap(), output: BufReader::new(stream) }
    }

    /// Asks until an answer says `number` in `x-change`. Each answer's status is 200.
    fn wait_for(&mut self, number: u32) {
        let field = format!("x-change: {number}");
        for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
            let (status, fields, _) = exchange(&mut self.input, &mut self.output, "/");
            assert_eq!(status, "HTTP/1.1 200 OK");
            if fields.contains(&field) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        panic!("the Gateway does not follow change {number} of the route");
    }
}

/// One request: the status line, the fields in lower case and the body of its answer.
fn exchange(input: &mut impl Write, output: &mut impl BufRead, path: &str) -> (String, Vec<String>, String) {
    write!(input, "GET {path} HTTP/1.1\r\nHost: front.example\r\n\r\n").unwrap();
    let line = |output: &mut dyn BufRead| {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    };
    let status = line(output);
    let mut fields = Vec::new();
    loop {
        match line(output) {
            end if end.is_empty() => break,
            field => fields.push(field.to_lowercase()),
        }
    }
    let length = fields.iter().find_map(|field| field.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or_default()];
    output.read_exact(&mut body).unwrap();
    (status, fields, String::from_utf8(body).unwrap())
}

/// A connection of `openssl s_client` that stays open between requests.
struct Kept {
    _program: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Kept {
    fn open(at: &str) -> Self {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-connect", at, "-servername", "front.example"]);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("openssl");
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { _program: Process(child), input, output }
    }

    /// The status line and the body of an answer.
    fn get(&mut self, path: &str) -> (String, String) {
        let (status, _, body) = exchange(&mut self.input, &mut self.output, path);
        (status, body)
    }
}

/// What a listener shows to whoever connects.
fn shown(at: &str) -> String {
    let text = here(
        "bash",
        &[
            "-c",
            &format!(
                "openssl s_client -connect {at} -servername front.example </dev/null 2>&1 | openssl x509 2>&1"
            ),
        ],
    );
    text.trim().to_owned()
}

#[test]
fn gateway() {
    let (front, renewed, secure) =
        (Pair::new("front.example"), Pair::new("front.example"), Pair::new("secure.example"));
    let lab = Lab::up(&cluster(&secure)).unwrap();
    lab.apply("secret", &front.secret("front")).unwrap();
    lab.apply("policy", &policy("secure.example")).unwrap();
    lab.apply("gateway", &mesh::gateway("shop", "front", FRONT)).unwrap();
    let [v4, v6] = addresses(&lab, "front");
    let mut checks = Checks::default();
    let programmed = |lab: &Lab| {
        let text = lab.status().unwrap_or_default();
        let pods = text["pods"].as_array().is_some_and(|pods| pods.iter().all(|pod| pod["ready"] == true));
        pods && text["waiting"].as_array().is_some_and(Vec::is_empty)
    };
    lab.wait_until("everything is ready", PATIENCE * 2, programmed).unwrap();

    checks.check("the machine and pods in and out of the mesh reach it in both families", || {
        for address in [&v4, &v6] {
            let url = format!("http://{}/", host(address));
            assert!(get(&[&url]).starts_with("v1 "), "{}", get(&[&url]));
            for caller in ["plain/stranger", "shop/caller"] {
                assert!(curl(&lab, caller, &[&url]).ok().starts_with("v1 "), "{caller} {url}");
            }
        }
    });
    checks.check("applications see the Gateway's identity as the caller", || {
        let told = get(&[&format!("http://{v4}/")]);
        assert!(told.contains(IDENTITY), "{told}");
    });
    checks.check("one route gives the same answers at the Gateway and on the Service", || {
        let form = ["-o", "/dev/stdout", "-w", "%{http_code} %{redirect_url}"];
        for request in [&["/"][..], &["/old/page"], &["/", "-H", "x-version: 2"], &["/gone"], &["/gone/x"]] {
            let (path, more) = request.split_first().unwrap();
            let told = |answer: &str| {
                let words: Vec<_> = answer.split_whitespace().filter(|w| !w.contains('=')).collect();
                let [v4, v1] = [&*format!("http://{v4}"), "http://v1"];
                words.join(" ").replace(v4, "").replace(v1, "")
            };
            let at_gateway = told(&get(&[&[&*format!("http://{v4}{path}")], &form[..], more].concat()));
            let service =
                curl(&lab, "shop/caller", &[&[&*format!("http://v1{path}")], &form[..], more].concat());
            let on_service = told(&service.ok());
            assert_eq!(at_gateway, on_service, "{request:?}");
            assert!(!at_gateway.is_empty());
        }
    });
    checks.check("a changed Secret is shown to new connections and ends none", || {
        let at = format!("{v4}:443");
        assert_eq!(shown(&at), front.certificate.trim());
        let mut kept = Kept::open(&at);
        let (status, body) = kept.get("/");
        assert!(status == "HTTP/1.1 200 OK" && body.starts_with("v1 "), "{status} {body}");
        lab.apply("secret", &renewed.secret("front")).unwrap();
        lab.wait_until("the new certificate is shown", PATIENCE, |_| {
            shown(&at) == renewed.certificate.trim()
        })
        .unwrap();
        assert_eq!(kept.get("/").0, "HTTP/1.1 200 OK");
    });
    checks.check("a WebSocket is opened and carries bytes both ways", || {
        let told = here("python3", &["-c", WEBSOCKET, &v4, "/socket"]);
        assert_eq!(told, "HTTP/1.1 101 Switching Protocols\n20 messages came back\n");
    });
    checks.check("bytes and datagrams are carried in both families", || {
        for address in [&v4, &v6] {
            let family = if address.contains(':') { "6" } else { "4" };
            assert_eq!(say("over-tcp", &format!("TCP{family}:{}:9000", host(address))), "over-tcp\n");
            assert_eq!(say("over-udp", &format!("UDP{family}:{}:5353", host(address))), "over-udp\n");
        }
    });
    checks.check("TLS passes through to the application, by server name", || {
        let roots = lab.state().join("roots.pem");
        std::fs::write(&roots, &secure.certificate).unwrap();
        let roots = roots.display().to_string();
        let resolve = format!("secure.example:8443:{v4}");
        let through = get(&["--cacert", &roots, "--resolve", &resolve, "https://secure.example:8443/"]);
        assert_eq!(through, "secure TLSv1.3 secure.example\n");
    });
    checks.check("a backend in the mesh with a BackendTLSPolicy is called by TLS inside the tunnel", || {
        let url = format!("http://{v4}/secure");
        assert_eq!(get(&[&url]), "secure TLSv1.3 secure.example\n");
        let log = access_log(&lab, "node2");
        let of_gateway = |line: &&serde_json::Value| {
            line["reporter"] == "destination"
                && line["source_identity"] == IDENTITY
                && line.to_string().contains("8443")
        };
        let line = log.iter().rev().find(of_gateway).expect("a tunnel from the Gateway to the pod");
        assert_eq!(line["security"], "mtls", "{line}");
        lab.apply("policy", &policy("another.example")).unwrap();
        let code = || get(&["-o", "/dev/null", "-w", "%{http_code}", &url]);
        lab.wait_until("a backend by another name is refused", PATIENCE, |_| code() == "503").unwrap();
        lab.apply("policy", &policy("secure.example")).unwrap();
        lab.wait_until("the backend is called again", PATIENCE, |_| code() == "200").unwrap();
    });
    checks.check("what a client says of others is replaced, and a proxy before the Gateway is believed where that is set", || {
        let forged = ["-H", "x-forwarded-for: 203.0.113.9", "-H", "x-forwarded-proto: https"];
        let said = get(&[&forged[..], &[&format!("http://{v4}/socket")]].concat());
        let machine = v4.rsplit_once('.').map(|(range, _)| format!("{range}.1")).unwrap();
        assert_eq!(forwarded(&said), [&*machine, "http"]);

        let [edge, _] = addresses(&lab, "edge");
        for version in ["send-proxy", "send-proxy-v2"] {
            let (_proxy, at) = haproxy(&lab, version, &format!("{edge}:80"));
            let said = get(&[&forged[..], &[&at]].concat());
            assert_eq!(forwarded(&said), ["203.0.113.9, 127.0.0.1", "https"], "{version}");
        }
        let log = gateway_log(&lab, "edge-weft");
        let line = log.iter().rev().find(|line| line["path"] == "/").expect("a line of the access log");
        assert_eq!(line["client"], "203.0.113.9", "{line}");
        assert!(line["source"].as_str().is_some_and(|source| source.starts_with("127.0.0.1:")), "{line}");

        let direct = get(&[&format!("http://{edge}/")]);
        assert!(direct.contains("reset") || direct.contains("Empty reply"), "{direct}");
        let refused = |lab: &Lab| gateway_log(lab, "edge-weft").iter().any(|line| line["reason"] == "bad_proxy_header");
        lab.wait_until("the refusal is told", PATIENCE, refused).unwrap();
    });
    checks.check("a Gateway's pod tells strangers its health and metrics, and nothing else", || {
        let pods = lab.pods("shop", "front-weft").unwrap();
        let address = pods[0]["addresses"][0].as_str().unwrap();
        let code = |port: &str, path: &str| {
            let url = format!("http://{address}:{port}{path}");
            curl(&lab, "plain/stranger", &["-o", "/dev/null", "-w", "%{http_code}", &url]).stdout
        };
        for (path, expected) in
            [("/readyz", "200"), ("/metrics", "200"), ("/config", "404"), ("/logging", "404")]
        {
            assert_eq!(code("15020", path), expected, "{path}");
        }
        assert_eq!(code("15000", "/config"), "000");
        let inside = curl(&lab, "shop/deploy/front-weft", &["http://127.0.0.1:15000/config"]).ok();
        assert!(inside.contains("front"), "{inside}");
    });
    checks.check("listeners come and go without touching the connections of others", || {
        let load = ["keep", "new"].map(|mode| Load::start(&lab, "plain/stranger", mode, &v4, "80"));
        let mut kept = Kept::open(&format!("{v4}:443"));
        assert_eq!(kept.get("/").0, "HTTP/1.1 200 OK");
        let url = format!("http://{v4}:8081/");
        for _ in 0..3 {
            lab.apply("set", SET).unwrap();
            lab.wait_until("the listener serves", PATIENCE, |_| get(&[&url]).starts_with("v2 ")).unwrap();
            lab.delete("set").unwrap();
            lab.wait_until("the listener is gone", PATIENCE, |_| get(&[&url]).contains("Failed to connect"))
                .unwrap();
        }
        assert_eq!(kept.get("/").0, "HTTP/1.1 200 OK");
        none_failed(load.into(), true);
    });
    checks.check("a hundred changes of a route are followed one by one without a failed request", || {
        let mut load = Vec::new();
        for mode in ["keep", "new"] {
            load.push(Load::start(&lab, "plain/stranger", mode, &v4, "80"));
            load.push(Load::start(&lab, "shop/caller", mode, "v1", "80"));
        }
        let mut client = Client::new(&v4);
        for number in 1..=CHANGES {
            change(&lab, number);
            client.wait_for(number);
        }
        let service = ["-o", "/dev/null", "-w", "%header{x-change}", "http://v1/"];
        let last = |lab: &Lab| curl(lab, "shop/caller", &service).stdout == CHANGES.to_string();
        lab.wait_until("the Service follows the route", PATIENCE, last).unwrap();
        none_failed(load, true);
    });
    checks.check("the lab's status names listeners and parents", || {
        let told = String::from_utf8(lab.command(&["status"]).output().unwrap().stdout).unwrap();
        for words in ["listener udp, 1 route", "Service v1 port 80", &v4] {
            assert!(told.contains(words), "{words}: {told}");
        }
    });
    checks.check("nothing in the lab calls the machine", || {
        let machine = v4.rsplit_once('.').map(|(range, _)| format!("{range}.1")).unwrap();
        let server = std::net::TcpListener::bind((machine.as_str(), 0)).unwrap();
        let url = format!("http://{machine}:{}/", server.local_addr().unwrap().port());
        for caller in ["plain/stranger", "shop/caller", "node/node1"] {
            let out = curl(&lab, caller, &["-m", "3", &url]);
            assert_ne!(out.code, 0, "{caller}: {out:?}");
        }
        server.set_nonblocking(true).unwrap();
        assert!(server.accept().is_err());
    });
    checks.check("a Gateway that is removed takes everything with it", || {
        lab.delete("gateway").unwrap();
        lab.wait_until("its pods are gone", PATIENCE, |lab| {
            lab.pods("shop", "front-weft").is_ok_and(|p| p.is_empty())
        })
        .unwrap();
        for kind in ["Deployment", "Service", "ServiceAccount", "ConfigMap", "PodDisruptionBudget"] {
            assert!(lab.object(kind, "shop", "front-weft").is_none(), "{kind}");
        }
        assert!(lab.object_status("Gateway", "shop", "front").is_none());
        assert!(get(&[&format!("http://{v4}/")]).contains("Failed to connect"));
    });
    checks.check("the link to the machine goes with the lab", || {
        let number = v4.split('.').nth(2).unwrap();
        let index = format!("/sys/class/net/weft-lab-{number}/ifindex");
        let before = std::fs::read_to_string(&index).unwrap();
        lab.command(&["down"]).output().unwrap();
        // Another lab may have taken the name at once.
        assert_ne!(std::fs::read_to_string(&index).ok(), Some(before));
    });
    checks.finish();
}
