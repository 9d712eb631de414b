//! Probes of strict pods: every kind works and tells the truth, and nobody else gets in by their way.
#![allow(
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use weft_conformance::{Checks, Lab, Options, access_log, address};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server with a certificate of its own making.
const TLS_SERVER: &str = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=app -keyout /tmp/k -out /tmp/c -days 2 2>/dev/null \
    && exec openssl s_server -quiet -accept 8443 -key /tmp/k -cert /tmp/c -www";

/// The stock gRPC implementation; its health is asked for by name.
const GRPC_SERVER: &str = r"
import grpc
from concurrent import futures

class Health(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == '/grpc.health.v1.Health/Check':
            answer = lambda request, context: b'\x08\x01' if request == b'\n\x04cart' else b'\x08\x02'
            return grpc.unary_unary_rpc_method_handler(answer)

server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(Health(),))
server.add_insecure_port('[::]:9000')
server.start()
server.wait_for_termination()
";

/// A pod with these fields of its container.
fn pod(namespace: &str, name: &str, command: &[&str], container: &str) -> String {
    let command = json!(command);
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers: [{{name: c, image: local, command: {command}{container}}}]
---
"
    )
}

fn echo(name: &str, container: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let program = program.ancestors().skip(1).take(3).map(|dir| dir.join("weft-echo")).find(|p| p.is_file());
    let program = program.expect("`cargo build --workspace --bins` first").display().to_string();
    pod("strict", name, &[&program, "--name", name, "--port", "8080"], container)
}

fn cluster() -> String {
    let namespace = |name: &str, label: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{weft-mesh.dev/mesh: {label}}}}}\n---\n"
        )
    };
    let http = ", readinessProbe: {httpGet: {port: 8080, path: '/healthz?x=1', httpHeaders: [{name: X-Probe, value: yes1}]}, periodSeconds: 1}";
    let tcp = ", readinessProbe: {tcpSocket: {port: web}, periodSeconds: 1, failureThreshold: 1}, ports: [{name: web, containerPort: 8080}]";
    [
        namespace("strict", "enabled"),
        namespace("plain", "disabled"),
        echo("http", http),
        echo("tcp", tcp),
        echo("both", ", livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}, readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}"),
        pod("strict", "https", &["bash", "-c", TLS_SERVER], ", startupProbe: {httpGet: {port: 8443, scheme: HTTPS}, periodSeconds: 1, failureThreshold: 30}"),
        pod("strict", "grpc", &["/usr/bin/python3", "-c", GRPC_SERVER], ", readinessProbe: {grpc: {port: 9000, service: cart}, periodSeconds: 1, timeoutSeconds: 3}"),
        pod("strict", "exec", &["sleep", "infinity"], ", readinessProbe: {exec: {command: [\"true\"]}, periodSeconds: 1}"),
        pod("plain", "stranger", &["sleep", "infinity"], ""),
    ]
    .concat()
}

/// A shell script on the node: what it printed.
fn on_node(lab: &Lab, script: &str) -> String {
    let out = lab.exec("node/node1", &["bash", "-c", script]).unwrap();
    out.stdout + &out.stderr
}

fn refused_for(lab: &Lab, reason: &str) -> usize {
    access_log(lab, "node1").iter().filter(|line| line["reason"] == reason).count()
}

fn ready(lab: &Lab, pod: &str) -> bool {
    lab.pods("strict", pod).unwrap()[0]["ready"] == true
}

#[test]
fn strict_pods_are_probed_and_nobody_else_gets_in_that_way() {
    let options =
        Options { environment: vec![("WEFT_ACCESS_LOG".to_owned(), "-".to_owned())], ..Options::default() };
    // Every pod becomes ready, or this fails.
    let lab = Lab::up_with(&cluster(), &options).unwrap();
    let mut checks = Checks::default();
    checks.check("the lab's pods are enrolled and strict", || {
        let stranger = lab
            .exec("plain/stranger", &["curl", "-sS", "-m", "3", &url(&lab, "http", "/healthz?x=1")])
            .unwrap();
        assert_ne!(stranger.code, 0, "{stranger:?}");
    });
    another_process(&lab, &mut checks);
    masqueraded(&lab, &mut checks);
    pod_in_the_hosts_network(&lab, &mut checks);
    truth(&lab, &mut checks);
    checks.finish();
}

fn url(lab: &Lab, pod: &str, path: &str) -> String {
    format!("http://{}:8080{path}", address(lab, "strict", pod, false))
}

const DECLARED: &str = "-H 'X-Probe: yes1'";

fn another_process(lab: &Lab, checks: &mut Checks) {
    let get = |path: &str, more: &str| {
        on_node(
            lab,
            &format!("curl -sS -m 5 -o /dev/null -w '%{{http_code}}' {more} '{}'", url(lab, "http", path)),
        )
    };
    checks.check("another process of the node may do what is declared", || {
        assert_eq!(get("/healthz?x=1", DECLARED), "200")
    });
    checks.check("and nothing else", || {
        assert_eq!(get("/admin", DECLARED), "403");
        assert_eq!(get("/healthz?x=1", ""), "403");
        assert_eq!(get("/healthz?x=1", &format!("{DECLARED} -X POST")), "403");
        lab.wait_until("three refusals in the log", PATIENCE, |l| refused_for(l, "probe_refused") >= 3)
            .unwrap();
    });
    checks.check("a port that is probed by TCP takes no byte", || {
        let ip = address(lab, "strict", "tcp", false);
        let said = on_node(
            lab,
            &format!("curl -sS -m 5 http://{ip}:8080/; exec 3<>/dev/tcp/{ip}/8080 && echo open"),
        );
        assert!(said.contains("reset") && said.contains("open"), "{said}");
    });
}

/// As a NodePort's clients: forwarded by the node, under its address.
fn masqueraded(lab: &Lab, checks: &mut Checks) {
    let stranger = address(lab, "plain", "stranger", false);
    let rule = format!("ip saddr {stranger} tcp dport 8080 masquerade");
    let table =
        format!("table ip nodeport {{ chain after {{ type nat hook postrouting priority 90; {rule}; }}; }}");
    on_node(lab, &format!("echo '{table}' | nft -f -"));
    checks.check("a client behind the node's address is refused", || {
        let before = refused_for(lab, "plaintext_refused");
        let script = format!("curl -sS -m 3 {DECLARED} '{}'", url(lab, "http", "/healthz?x=1"));
        let out = lab.exec("plain/stranger", &["bash", "-c", &script]).unwrap();
        assert!(out.code != 0 && out.stderr.contains("reset"), "{out:?}");
        // The line is written when the connection has ended, which may be after its caller has heard.
        lab.wait_until("the refusal in the log", PATIENCE, |l| refused_for(l, "plaintext_refused") > before)
            .unwrap();
    });
    on_node(lab, "nft delete table ip nodeport");
}

fn pod_in_the_hosts_network(lab: &Lab, checks: &mut Checks) {
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/systemd"];
    let name = format!("weft-lab-pods-{}", std::process::id());
    let made = roots.iter().map(|root| std::path::Path::new(root).join(&name));
    let made = made.into_iter().find(|path| {
        path.parent().is_some_and(|root| root.join("cgroup.procs").exists())
            && std::fs::create_dir(path).is_ok()
    });
    checks.check("a pod in the host's network is refused", || {
        let cgroup = made.as_ref().expect("root and a cgroup file system at /sys/fs/cgroup");
        let call = format!("curl -sS -m 5 {DECLARED} '{}'", url(lab, "http", "/healthz?x=1"));
        let exec = lab.exec_command("node/node1", &["bash", "-c", &call]);
        let script = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", cgroup.display());
        let mut command = Command::new("bash");
        command.args(["-c", &script, "bash"]).arg(exec.get_program()).args(exec.get_args());
        let out = command.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && said.contains("reset"), "{said}");
    });
    if let Some(cgroup) = made {
        let _ = std::fs::remove_dir(cgroup);
    }
}

fn truth(lab: &Lab, checks: &mut Checks) {
    checks.check("a probe that gets 500 fails, and one that waits times out", || {
        let probe = |path: &str| {
            format!(", readinessProbe: {{httpGet: {{port: 8080, path: '{path}'}}, periodSeconds: 1}}")
        };
        let pods = echo("broken", &probe("/?status=500")) + &echo("slow", &probe("/?delay=5000"));
        lab.apply("sick", &pods).unwrap();
        let told = |pod: &str, word: &str| {
            let pods = lab.pods("strict", pod).unwrap();
            pods.first().is_some_and(|pod| {
                pod["ready"] == false && pod["message"].as_str().is_some_and(|m| m.contains(word))
            })
        };
        lab.wait_until("the kubelet sees 500", PATIENCE, |_| told("broken", "500")).unwrap();
        lab.wait_until("the kubelet waits no longer", PATIENCE, |_| told("slow", "port 8080")).unwrap();
    });
    checks.check("a TCP probe fails while the application does not listen, and liveness restarts it", || {
        let deaf = pod(
            "strict",
            "deaf",
            &["sleep", "infinity"],
            ", readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}",
        );
        let dead = pod(
            "strict",
            "dead",
            &["sleep", "infinity"],
            ", livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 2}",
        );
        lab.apply("deaf", &(deaf + &dead)).unwrap();
        let restarted = |lab: &Lab| {
            lab.pods("strict", "dead")
                .unwrap()
                .first()
                .is_some_and(|pod| pod["containers"][0]["restarts"].as_u64() > Some(0))
        };
        lab.wait_until("liveness restarts the container", PATIENCE, restarted).unwrap();
        assert!(!ready(lab, "deaf") && ready(lab, "tcp"));
    });
}
