//! Clients of a public listener that mean harm, or are broken: they are refused within limits, cost no more memory than these
//! let them, and keep nobody else from being served. Then the Gateway goes, with what is open.
#![allow(
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use weft_conformance::hostile::{
    CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, SMUGGLING, field,
    frame, preface, request,
};
use weft_conformance::objects::{namespace, nginx, stranger};
use weft_conformance::{Checks, Lab, curl, host};

/// What is waited for comes after 75 s at the latest.
const PATIENCE: Duration = Duration::from_secs(150);
/// How many connections a port may have open.
const MOST: usize = 400;
/// What a part of a head holds that is as large as heads may be.
const PART: usize = 60_000;
/// How many frames, heads and parts a flood has. A listener that takes them all has some gigabytes then.
const FLOOD: usize = 20_000;
/// The memory limit of the Gateway `small`, in KiB.
const LIMIT: u64 = 160 * 1024;
/// How many streams a connection may have.
const STREAMS: usize = 200;
/// By how much all that may raise the proxy's memory, in KiB: what `MOST` parts need, twice.
const ROOM: u64 = 128 * 1024;

const GATEWAY: &str = "
apiVersion: v1
kind: ConfigMap
metadata: { name: front, namespace: shop }
data: { maxConnections: '400' }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: front, namespace: shop }
spec:
  gatewayClassName: weft
  infrastructure: { parametersRef: { group: '', kind: ConfigMap, name: front } }
  listeners:
  - { name: http, port: 80, protocol: HTTP }
  - { name: other, port: 8080, protocol: HTTP }
  - { name: tls, port: 8443, protocol: TLS, hostname: front.example, tls: { mode: Passthrough } }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: small, namespace: shop }
data: { resources: 'limits: { memory: 160Mi }' }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: small, namespace: shop }
spec:
  gatewayClassName: weft
  infrastructure: { parametersRef: { group: '', kind: ConfigMap, name: small } }
  listeners: [{ name: http, port: 80, protocol: HTTP }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: front, namespace: shop }
spec:
  parentRefs: [{ name: front, sectionName: http }, { name: front, sectionName: other }, { name: small }]
  rules: [{ backendRefs: [{ name: v1, port: 80 }] }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: { name: front, namespace: shop }
spec:
  parentRefs: [{ name: front, sectionName: tls }]
  hostnames: [front.example]
  rules: [{ backendRefs: [{ name: v1, port: 80 }] }]
---
";

fn cluster() -> String {
    [namespace("shop", "weft-mesh.dev/mesh: enabled"), nginx("shop", "v1", "node1"), stranger()].concat()
}

fn connect(address: &str, port: u16) -> TcpStream {
    let stream = TcpStream::connect((address, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything that comes until the other end closes or resets.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return all,
            Ok(length) => all.extend_from_slice(&part[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                return all;
            }
            Err(error) => {
                panic!("the connection is still open: {error}, after {:?}", String::from_utf8_lossy(&all))
            }
        }
    }
}

/// The answer to bytes that nothing follows.
fn answer(address: &str, port: u16, bytes: &[u8]) -> String {
    let mut stream = connect(address, port);
    let _ = stream.write_all(bytes);
    String::from_utf8_lossy(&rest(&mut stream)).into_owned()
}

/// Sends `next` again and again over HTTP/2, and reads nothing meanwhile; what a GOAWAY says why it was not taken.
fn flood(address: &str, mut next: impl FnMut(usize) -> Vec<u8>) -> String {
    let mut stream = connect(address, 80);
    stream.write_all(&preface()).unwrap();
    let sent = (0..FLOOD).find(|number| stream.write_all(&next(*number)).is_err());
    assert!(sent.is_some(), "all of it was taken");
    let told = rest(&mut stream);
    let mut frames = &told[..];
    while frames.len() >= 9 {
        let length = usize::from(frames[1]) << 8 | usize::from(frames[2]);
        if frames[3] == GOAWAY {
            return String::from_utf8_lossy(&frames[9 + 8..9 + length]).into_owned();
        }
        frames = frames.get(9 + length..).unwrap_or_default();
    }
    String::new()
}

fn stream_id(number: usize) -> u32 {
    u32::try_from(2 * number + 1).unwrap()
}

/// The status of an answer on this port, 0 if there is none.
fn status(address: &str, port: u16) -> String {
    let url = format!("http://{}:{port}/", host(address));
    let arguments = ["-s", "-m", "8", "-o", "/dev/null", "-w", "%{http_code}", &url];
    let out = Command::new("curl").args(arguments).stdin(Stdio::null()).output().expect("curl");
    String::from_utf8(out.stdout).unwrap()
}

/// The memory of a Gateway's proxy in KiB: what it has now, and the most that it has had.
fn memory(lab: &Lab, gateway: &str) -> [u64; 2] {
    let script = format!(
        "for p in /proc/[0-9]*; do
        if grep -qxz -- --gateway=shop/{gateway} $p/cmdline; then grep -E 'VmRSS|VmHWM' $p/status; fi; done"
    );
    let text = lab.exec("node/node1", &["sh", "-c", &script]).unwrap().ok();
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{text}"));
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    [of("VmRSS"), of("VmHWM")]
}

/// How often something was refused by a Gateway for this reason.
fn refused(lab: &Lab, gateway: &str, reason: &str) -> f64 {
    let pods = lab.pods("shop", &format!("{gateway}-weft")).unwrap();
    let address = pods[0]["addresses"][0].as_str().unwrap();
    let text = curl(lab, "plain/stranger", &[&format!("http://{address}:15020/metrics")]).ok();
    let reason = format!("reason=\"{reason}\"");
    let told = text.lines().filter(|line| line.contains("_total{") && line.contains(&reason));
    told.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn bad_clients() {
    let lab = Lab::up(&cluster()).unwrap();
    lab.apply("gateway", GATEWAY).unwrap();
    let address = |gateway: &str| {
        let status = lab.object_status("Gateway", "shop", gateway)?;
        let all = status["status"]["addresses"].as_array()?.clone();
        all.iter().filter_map(|one| Some(one["value"].as_str()?.to_owned())).find(|one| !one.contains(':'))
    };
    let serves = |gateway: &str, port: u16| address(gateway).is_some_and(|at| status(&at, port) == "200");
    for (gateway, port) in [("front", 80), ("front", 8080), ("small", 80)] {
        lab.wait_until("the Gateway serves", PATIENCE, |_| serves(gateway, port)).unwrap();
    }
    let at = address("front").unwrap();
    let [before, _] = memory(&lab, "front");
    let mut checks = Checks::default();

    // These wait for their end from now on.
    let mut silent: Vec<TcpStream> =
        [(8443, &b"\x16\x03\x01\x02\x00\x01"[..]), (8080, b"GET / HTTP/1.1\r\nHo")]
            .into_iter()
            .map(|(port, part)| {
                let mut stream = connect(&at, port);
                stream.write_all(part).unwrap();
                stream
            })
            .collect();

    for (claim, bytes) in SMUGGLING {
        checks.check(&format!("refused with 400: {claim}"), || {
            let next = b"GET /smuggled HTTP/1.1\r\nHost: front.example\r\n\r\n";
            let text = answer(&at, 80, &[*bytes, next].concat());
            assert!(text.starts_with("HTTP/1.1 400 ") || text.starts_with("HTTP/1.0 400 "), "{text:?}");
            assert_eq!(text.matches("\r\n\r\n").count(), 1, "{text:?}");
        });
    }
    checks.check("heads that are too large or have too many fields are 431", || {
        let head = b"GET / HTTP/1.1\r\nHost: front.example\r\n";
        for more in [[b"X: ".to_vec(), vec![b'x'; 1 << 20]].concat(), b"X: y\r\n".repeat(200)] {
            let text = answer(&at, 80, &[head, &more[..], b"\r\n\r\n"].concat());
            assert!(text.starts_with("HTTP/1.1 431 "), "{text:?}");
        }
    });
    checks.check("what is no TLS, and a ClientHello without end, get nothing on a port of TLS", || {
        let hello = [&b"\x16\x03\x01\x40\x00\x01\x00\xff\xff"[..], &vec![0; 1 << 20]].concat();
        for bytes in [b"GET / HTTP/1.1\r\nHost: front.example\r\n\r\n".to_vec(), vec![b'x'; 1 << 20], hello] {
            assert_eq!(answer(&at, 8443, &bytes), "");
        }
    });
    checks.check("HTTP/2: streams that are opened and reset at once end the connection", || {
        let told = flood(&at, |number| {
            let id = stream_id(number);
            let open = frame(HEADERS, END_HEADERS | END_STREAM, id, &request("GET", "/slow"));
            [open, frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat()
        });
        assert_eq!(told, "too_many_resets");
    });
    checks.check("HTTP/2: a head without end ends the connection", || {
        let told = flood(&at, |number| match number {
            0 => frame(HEADERS, 0, 1, &request("GET", "/")),
            _ => frame(CONTINUATION, 0, 1, &field("x", &"y".repeat(120)).repeat(100)),
        });
        assert_eq!(told, "too_many_continuations");
    });
    checks.check("HTTP/2: fields that unfold to many times their size end the connection", || {
        // The first field goes into the table, where each of the others, of one byte, finds it (RFC 7541 §6.1).
        let mut large = field("x", &"y".repeat(120));
        large[0] = 0x40;
        let fields = [request("GET", "/slow"), large, vec![0xbe; 12_000]].concat();
        let told = flood(&at, |number| frame(HEADERS, END_HEADERS | END_STREAM, stream_id(number), &fields));
        assert_eq!(told, "header_list_way_too_large");
    });
    checks.check("HTTP/2: frames that want an answer are not taken from who reads none", || {
        let mut stream = connect(&at, 80);
        stream.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
        stream.write_all(&preface()).unwrap();
        let wants = [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, b"anything")].concat().repeat(100);
        let stopped = (0..FLOOD).find(|_| stream.write_all(&wants).is_err());
        assert!(stopped.is_some(), "all of them were taken");
    });
    checks.check("a port that is full of unfinished heads refuses others, and the other ports serve", || {
        let part = [&b"GET / HTTP/1.1\r\nHost: front.example\r\nX: "[..], &vec![b'x'; PART]].concat();
        let mut slow: Vec<TcpStream> = (0..MOST + 100).map(|_| connect(&at, 80)).collect();
        for stream in &mut slow {
            let _ = stream.write_all(&part);
        }
        lab.wait_until("the port is full", PATIENCE, |_| status(&at, 80) == "000").unwrap();
        for _ in 0..10 {
            assert_eq!(status(&at, 8080), "200");
        }
        assert!(refused(&lab, "front", "overloaded") > 0.0);
        lab.wait_until("the port serves again", PATIENCE, |_| status(&at, 80) == "200").unwrap();
        for stream in &mut slow {
            rest(stream);
        }
    });
    checks.check("who begins and says no more is let go", || {
        for stream in &mut silent {
            rest(stream);
        }
    });
    checks.check("all of it took bounded memory, and broke nothing", || {
        let [_, most] = memory(&lab, "front");
        println!("  {before} KiB before, {most} KiB at most");
        assert!(most < before + ROOM, "{before} KiB before, {most} KiB at most");
        let pods = lab.pods("shop", "front-weft").unwrap();
        assert_eq!((pods.len(), &pods[0]["containers"][0]["restarts"]), (1, &0.into()), "{pods:?}");
        for reason in ["bad_request", "headers_too_large", "no_sni_match"] {
            assert!(refused(&lab, "front", reason) > 0.0, "{reason}");
        }
    });
    checks.check(
        "clients that ask for much and read nothing are refused before the memory is used up",
        || {
            let at = address("small").unwrap();
            let asked = (0..STREAMS).map(|number| {
                frame(HEADERS, END_HEADERS | END_STREAM, stream_id(number), &request("GET", "/large"))
            });
            let asking = [preface(), asked.collect::<Vec<_>>().concat()].concat();
            let [before, _] = memory(&lab, "small");
            let mut greedy = Vec::new();
            while refused(&lab, "small", "overloaded") == 0.0 {
                assert!(greedy.len() < 250, "nothing was refused: {:?} KiB", memory(&lab, "small"));
                let mut stream = connect(&at, 80);
                let _ = stream.write_all(&asking);
                greedy.push(stream);
                // What these ask for comes in meanwhile.
                std::thread::sleep(Duration::from_millis(100));
            }
            let [_, most] = memory(&lab, "small");
            println!("  {before} KiB before, {most} KiB at most, with {} connections", greedy.len());
            assert!(most < LIMIT, "{most} KiB at most");
            drop(greedy);
            lab.wait_until("it serves again", PATIENCE, |_| status(&at, 80) == "200").unwrap();
        },
    );
    checks.check(
        "a Gateway that is deleted does not wait for a download that takes longer than its drain",
        || {
            // 3 MB at 100 kB/s.
            let url = format!("http://{at}:8080/slow");
            let arguments = ["-sS", "-o", "/dev/null", "-w", "%{size_download}", &url];
            let mut download = Command::new("curl");
            download.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let download = download.spawn().expect("curl");
            std::thread::sleep(Duration::from_secs(2));
            lab.delete("gateway").unwrap();
            lab.wait_until("its pods are gone", PATIENCE, |l| {
                l.pods("shop", "front-weft").is_ok_and(|pods| pods.is_empty())
            })
            .unwrap();
            for kind in ["Deployment", "Service", "ServiceAccount", "ConfigMap", "PodDisruptionBudget"] {
                assert!(lab.object(kind, "shop", "front-weft").is_none(), "{kind}");
            }
            let out = download.wait_with_output().unwrap();
            let size: u64 = String::from_utf8(out.stdout).unwrap().parse().unwrap();
            assert!(
                !out.status.success() && (300_000..2_900_000).contains(&size),
                "{size} bytes came, {}",
                out.status
            );
        },
    );
    checks.finish();
}
