//! HBONE with a stranger at the other end: Istio's own client and server, built from Istio's Go module, with
//! certificates of this lab's authority.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use weft_cluster::go::{Module, build};
use weft_conformance::objects::{namespace, nginx, pod, service, shell};
use weft_conformance::{Checks, Lab, Options, Output, access_log, address, curl, host};

const ISTIO: Module = Module::plain(
    "conformance/lab/go/hbone",
    "hbone",
    "Istio's HBONE client and server",
    "1 min",
    &[(".", "hbone")],
);

/// Where the server listens in the pod: Weft's own listener has 15008 there.
const ASIDE: u16 = 16008;
const PATIENCE: Duration = Duration::from_secs(60);

fn cluster() -> String {
    let line = "[socat, 'TCP6-LISTEN:9000,fork,reuseaddr,ipv6only=0', 'SYSTEM:read line; echo got $line']";
    let serve = "[sh, -c, 'socat TCP6-LISTEN:9001,fork,reuseaddr,ipv6only=0 SYSTEM:sha256sum & \
                 exec socat TCP6-LISTEN:9000,fork,reuseaddr,ipv6only=0 EXEC:cat']";
    [
        namespace("app", "weft-mesh.dev/mesh: enabled"),
        namespace("plain", ""),
        nginx("app", "web", "node2"),
        pod("app", "bytes", "node2", line),
        pod("app", "foreign", "node2", serve),
        service(
            "app",
            "foreign",
            "{ name: bytes, port: 90, targetPort: 9000 }, { name: sum, port: 91, targetPort: 9001 }",
        ),
        shell("app", "caller", "node1"),
        shell("plain", "stranger", "node1"),
    ]
    .concat()
}

/// A certificate of the lab's authority for a service account of `app`, as `NAME.crt` and `NAME.key`.
fn certify(lab: &Lab, files: &Path, name: &str) {
    let (authority, files) = (lab.state().join("ca"), files.display());
    let script = format!(
        "set -e; cd {files}; cp {0}/root.crt root.crt
         openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key
         openssl req -new -key {name}.key -subj / -out {name}.csr
         printf '%s\\n' basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature \
           extendedKeyUsage=serverAuth,clientAuth subjectAltName=critical,URI:{1} > {name}.ext
         openssl x509 -req -in {name}.csr -CA root.crt -CAkey {0}/root.pem -days 1 -extfile {name}.ext -out {name}.new
         mv {name}.new {name}.crt",
        authority.display(),
        identity(name)
    );
    let out = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn identity(name: &str) -> String {
    format!("spiffe://cluster.local/ns/app/sa/{name}")
}

/// Istio's client in an unmeshed pod, as the service account `caller`.
struct Client<'a> {
    lab: &'a Lab,
    program: PathBuf,
    files: &'a Path,
}

impl Client<'_> {
    /// Asks the tunnel port of `pod` for `to`, expects this service account there, and says `input`.
    fn call(&self, pod: &str, to: &str, expect: &str, input: &str) -> Output {
        let file = |name: &str| self.files.join(name).display().to_string();
        let (proxy, expect) = (format!("{}:15008", host(pod)), identity(expect));
        let program = self.program.display().to_string();
        let words = [
            "timeout",
            "8",
            &program,
            "-certificate",
            &file("caller.crt"),
            "-key",
            &file("caller.key"),
            "-root",
            &file("root.crt"),
            "-expect",
            &expect,
            "-proxy",
            &proxy,
            "-to",
            to,
        ];
        let mut command = self.lab.exec_command("plain/stranger", &words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Output { code: out.status.code().unwrap_or(-1), stdout: text(&out.stdout), stderr: text(&out.stderr) }
    }
}

impl Client<'_> {
    /// Istio's server beside the applications of `app/foreign`, with that pod's identity; what it says is in `said`.
    fn serve(&self) -> Child {
        let file = |name: &str| self.files.join(name).display().to_string();
        let program = self.program.display().to_string();
        let words = [
            &program,
            "-listen",
            &format!(":{ASIDE}"),
            "-certificate",
            &file("foreign.crt"),
            "-key",
            &file("foreign.key"),
            "-root",
            &file("root.crt"),
        ];
        let mut command = self.lab.exec_command("app/foreign", &words);
        let said = std::fs::File::create(self.files.join("said")).unwrap();
        command.stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap()
    }
}

#[test]
fn streams_pass_between_weft_and_istio_both_ways() {
    let bin = build(&ISTIO).unwrap();
    let files = tempfile::tempdir().unwrap();
    let environment = vec![("WEFT_ACCESS_LOG".to_owned(), "-".to_owned())];
    let options = Options { environment, ..Options::default() };
    let lab = Lab::up_with(&cluster(), &options).unwrap();
    for name in ["caller", "foreign"] {
        certify(&lab, files.path(), name);
    }
    let client = Client { lab: &lab, program: bin.join("hbone"), files: files.path() };
    let mut checks = Checks::default();
    istio_calls(&client, &mut checks);
    let mut server = client.serve();
    weft_calls(&lab, files.path(), &mut checks);
    server.kill().unwrap();
    server.wait().unwrap();
    checks.finish();
}

fn istio_calls(client: &Client<'_>, checks: &mut Checks) {
    let lab = client.lab;
    for ipv6 in [false, true] {
        let (bytes, web) = (address(lab, "app", "bytes", ipv6), address(lab, "app", "web", ipv6));
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        checks.check(&format!("Istio's client reaches an application of a Weft pod ({family})"), || {
            let got = client.call(&bytes, &format!("{}:9000", host(&bytes)), "bytes", "hello\n");
            // Istio's package logs to the same place.
            assert!(got.stdout.lines().any(|line| line == "got hello"), "{got:?}");
        });
        checks.check(&format!("its identity and address reach an HTTP application ({family})"), || {
            let request = "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
            let got = client.call(&web, &format!("{}:80", host(&web)), "web", request);
            let from = address(lab, "plain", "stranger", ipv6);
            assert!(got.stdout.contains(&format!("caller=URI={}", identity("caller"))), "{got:?}");
            assert!(got.stdout.contains(&format!("address={from} ")), "{got:?}");
        });
    }
    let (bytes, web) = (address(lab, "app", "bytes", false), address(lab, "app", "web", false));
    checks.check("a Weft pod is no way to another pod", || {
        let got = client.call(&bytes, &format!("{web}:80"), "bytes", "");
        assert!(got.code != 0 && got.stderr.contains("400"), "{got:?}");
    });
    checks.check("a port where nobody listens is told as 503", || {
        let got = client.call(&bytes, &format!("{bytes}:9999"), "bytes", "");
        assert!(got.code != 0 && got.stderr.contains("503"), "{got:?}");
    });
}

fn weft_calls(lab: &Lab, files: &Path, checks: &mut Checks) {
    lab.wait_until("Istio's server listens", PATIENCE, |l| {
        l.exec("app/foreign", &["ss", "-Hltn"]).unwrap().stdout.contains(&format!(":{ASIDE}"))
    })
    .unwrap();
    // The pod is enrolled, so that Weft calls it by tunnel; what comes to its tunnel port goes to the stranger.
    let rules = format!(
        "add table inet aside; add chain inet aside in {{ type nat hook prerouting priority -110; }}; \
         add rule inet aside in tcp dport 15008 redirect to :{ASIDE}"
    );
    lab.exec("app/foreign", &["nft", &rules]).unwrap().ok();
    let served = || std::fs::read_to_string(files.join("said")).unwrap();
    for ipv6 in [false, true] {
        let to = format!("{}:9000", host(&address(lab, "app", "foreign", ipv6)));
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        checks.check(&format!("a Weft pod's byte stream passes through Istio's server ({family})"), || {
            let script = format!("echo hello | timeout 5 socat -t2 - TCP:{to}");
            assert_eq!(lab.exec("app/caller", &["bash", "-c", &script]).unwrap().ok(), "hello\n");
            let said = format!("CONNECT {to} by {} from", identity("caller"));
            lab.wait_until("the server tells who called", PATIENCE, |_| served().contains(&said)).unwrap();
        });
    }
    checks.check("three megabytes and a half-close arrive whole, through the Service", || {
        let script = "head -c 3000000 /dev/urandom > /tmp/data; sha256sum < /tmp/data; timeout 10 socat -t5 - TCP:foreign:91 < /tmp/data";
        let told = lab.exec("app/caller", &["bash", "-c", script]).unwrap().ok();
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines.len() == 2 && lines[0] == lines[1], "{told}");
    });
    checks.check("a server with another identity than the pod's is refused by name", || {
        // The same server at the tunnel port of a pod that it is not.
        let rules = format!(
            "add table inet aside; add chain inet aside in {{ type nat hook prerouting priority -110; }}; \
             add rule inet aside in ip daddr {} tcp dport 15008 dnat ip to {}",
            address(lab, "app", "bytes", false),
            address(lab, "app", "foreign", false),
        );
        lab.exec("node/node2", &["nft", &rules]).unwrap().ok();
        let to = address(lab, "app", "bytes", false);
        let got = curl(lab, "app/caller", &[&format!("telnet://{to}:9000")]);
        assert_ne!(got.code, 0, "{got:?}");
        let named = |line: &serde_json::Value| {
            let message = line["message"].to_string();
            line["reason"] == "tls_failed" && message.contains("sa/foreign") && message.contains("sa/bytes")
        };
        lab.wait_until("told", PATIENCE, |l| access_log(l, "node1").iter().any(named)).unwrap();
        lab.exec("node/node2", &["nft", "delete table inet aside"]).unwrap().ok();
    });
}
