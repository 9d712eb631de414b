//! The plugin as container runtimes call it: every version of the CNI specification that runtimes use, after the real
//! `ptp` and `bridge`, and every verb. The newest plugins and the reference runtime library are built from their own
//! Go module, since Debian's plugins know CNI 1.0.0 at most.
#![allow(
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use weft_cluster::go::{Module, build};
use weft_conformance::objects::{nginx, shell, stranger, two_webs};
use weft_conformance::{Checks, Lab, Options, address, curl, host};

const PATIENCE: Duration = Duration::from_secs(60);
const DEBIAN: &str = "/usr/lib/cni";

/// The newest plugins, and `cnitool`, which drives them by the reference library.
const NEWEST: Module = Module::plain(
    "conformance/lab/go/cni-plugins",
    "cni-plugins",
    "CNI plugins of specification 1.1, and the reference library's own driver",
    "1 min",
    &[
        ("github.com/containernetworking/plugins/plugins/main/ptp", "ptp"),
        ("github.com/containernetworking/plugins/plugins/main/bridge", "bridge"),
        ("github.com/containernetworking/plugins/plugins/ipam/host-local", "host-local"),
        ("github.com/containernetworking/plugins/plugins/meta/portmap", "portmap"),
        ("github.com/containernetworking/cni/cnitool", "cnitool"),
    ],
);

/// `host_port`: the plain nginx is to be had at its node's port 8088. (CHECK of Debian's portmap fails for pods of two
/// families, whoever calls it.)
fn cluster(host_port: bool) -> String {
    let mut open = nginx("plain", "open", "node1");
    if host_port {
        let ports = "    ports: [{ containerPort: 80, hostPort: 8088 }]\n    readinessProbe";
        open = open.replace("    readinessProbe", ports);
    }
    two_webs() + &stranger() + &open
}

/// The folder of Weft's programs: above the test's own.
fn programs() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().skip(1).take(3).find(|dir| dir.join("weft-cni").is_file()).unwrap().to_owned()
}

/// A lab with this network, CNI version, folder of plugins and folder of Weft's programs.
fn lab(network: &str, version: &str, plugins: &Path, programs: &Path) -> Lab {
    let mut arguments =
        ["--cni-network", network, "--cni-version", version, "--cni-upkeep", "1"].map(str::to_owned).to_vec();
    for (flag, folder) in [("--cni-plugins", plugins), ("--bin-dir", programs)] {
        arguments.extend([flag.to_owned(), folder.display().to_string()]);
    }
    let options = Options { arguments, ..Options::default() };
    Lab::up_with(&cluster(network == "bridge" && version == "1.1.0"), &options)
        .unwrap_or_else(|error| panic!("{network} {version}: {error:#}"))
}

/// What CHECK last found about a pod.
fn network_of(lab: &Lab, namespace: &str, pod: &str) -> Value {
    lab.pods(namespace, pod).unwrap()[0]["network"].clone()
}

/// What the plugins gave a pod of node1.
fn result_of(lab: &Lab, uid: &str) -> Value {
    let file = lab.state().join(format!("nodes/node1/attachments/{uid}.json"));
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn uid(lab: &Lab, namespace: &str, pod: &str) -> String {
    lab.pods(namespace, pod).unwrap()[0]["uid"].as_str().unwrap().to_owned()
}

fn agent_status(lab: &Lab) -> Value {
    let text = lab.exec("node/node1", &["cat", "/run/weft/agent-status.json"]).unwrap().ok();
    serde_json::from_str(&text).unwrap()
}

/// Enrolled and plain pods talk as they are to, on one node and between two, in both families.
fn traffic(lab: &Lab) {
    for (web, ipv6) in [("web1", false), ("web1", true), ("web2", false), ("web2", true)] {
        let at = address(lab, "app", web, ipv6);
        let got = curl(lab, "app/caller", &[&format!("http://{}/", host(&at))]).ok();
        let caller = address(lab, "app", "caller", ipv6);
        assert!(got.contains("caller=URI=spiffe://") && got.contains(&format!("address={caller} ")), "{got}");
        let refused = curl(lab, "plain/stranger", &[&format!("http://{}/", host(&at))]);
        assert_ne!(refused.code, 0, "{refused:?}");
    }
    curl(lab, "app/caller", &["http://web1/"]).ok();
    curl(lab, "plain/stranger", &["http://open/"]).ok();
    for ipv6 in [false, true] {
        let at = address(lab, "plain", "open", ipv6);
        curl(lab, "plain/stranger", &[&format!("http://{}/", host(&at))]).ok();
    }
}

#[test]
fn every_version_and_network_carries_traffic() {
    let newest = build(&NEWEST).unwrap();
    let debian = Path::new(DEBIAN);
    let mut checks = Checks::default();
    for (network, version, plugins) in [
        ("ptp", "0.3.1", debian),
        ("bridge", "0.4.0", debian),
        ("bridge", "1.0.0", debian),
        ("ptp", "1.1.0", newest.as_path()),
    ] {
        let lab = lab(network, version, plugins, &programs());
        checks.check(&format!("{network}, CNI {version}: pods are enrolled and call each other"), || {
            traffic(&lab)
        });
        checks.check(&format!("{network}, CNI {version}: the result is in the list's version"), || {
            let result = result_of(&lab, &uid(&lab, "app", "caller"));
            assert_eq!(result["cniVersion"], version);
            assert_eq!(result["ips"].as_array().unwrap().len(), 2, "{result}");
            // `ips[].version` went with 1.0.0.
            let told = result["ips"].as_array().unwrap().iter().all(|ip| ip.get("version").is_some());
            assert_eq!(told, version.starts_with('0'), "{result}");
        });
        if version != "0.3.1" {
            checks.check(&format!("{network}, CNI {version}: CHECK passes for every pod"), || all_pass(&lab));
        }
    }
    checks.finish();
}

fn all_pass(lab: &Lab) {
    lab.wait_until("CHECK has passed", PATIENCE, |l| {
        let status = l.status().unwrap();
        status["pods"].as_array().unwrap().iter().all(|p| p["network"] == "passed")
    })
    .unwrap();
}

#[test]
fn newest_specification_behind_a_bridge_with_every_verb() {
    let plugins = build(&NEWEST).unwrap();
    // Links, so that a program can be taken away.
    let links = tempfile::tempdir().unwrap();
    for program in ["weft-cni", "weft-agent", "weft-proxy", "weft-controller"] {
        symlink(programs().join(program), links.path().join(program)).unwrap();
    }
    let lab = lab("bridge", "1.1.0", &plugins, links.path());
    let mut checks = Checks::default();
    checks.check("pods are enrolled and call each other", || traffic(&lab));
    checks.check("arguments of a capability reach the plugin that declares it: hostPort", || {
        for node in ["192.168.77.11", "[fd00:192:168:77::11]"] {
            let got =
                lab.exec("node/node2", &["curl", "-sS", "-m", "5", &format!("http://{node}:8088/")]).unwrap();
            assert!(got.stdout.starts_with("open "), "{got:?}");
        }
    });
    checks.check("CHECK passes for every pod", || all_pass(&lab));
    checks.check("CHECK fails when Weft's rules were tampered with, and passes when they are back", || {
        tampered(&lab, "weft-cni", |lab| {
            lab.exec("app/caller", &["nft", "flush", "ruleset"]).unwrap().ok();
        });
        let got = curl(&lab, "app/caller", &["http://web2/"]).ok();
        assert!(got.contains("caller=URI=spiffe://"), "{got}");
    });
    checks.check("CHECK fails when the interface's plugin finds its work undone", || {
        let route = lab.exec("plain/stranger", &["ip", "route", "show", "default"]).unwrap().ok();
        lab.exec("plain/stranger", &["ip", "route", "del", "default"]).unwrap().ok();
        lab.wait_until("CHECK fails", PATIENCE, |l| {
            network_of(l, "plain", "stranger")["failed"].as_str().is_some_and(|why| why.contains("bridge"))
        })
        .unwrap();
        let words: Vec<&str> = ["ip", "route", "add"].into_iter().chain(route.split_whitespace()).collect();
        lab.exec("plain/stranger", &words).unwrap().ok();
        all_pass(&lab);
    });
    checks.check("GC ends an attachment whose DEL never came", || forgotten(&lab, &plugins));
    checks.check("STATUS fails while the node has no proxy, and no pod starts meanwhile", || {
        no_status(&lab, links.path(), "proxy");
    });
    checks.check("STATUS fails while the node has no agent, and no pod starts meanwhile", || {
        no_status(&lab, links.path(), "agent");
    });
    checks.finish();
}

/// The agent puts back what it finds changed every ten seconds: when it was faster than CHECK, once more.
fn tampered(lab: &Lab, plugin: &str, tamper: impl Fn(&Lab)) {
    let failed =
        |l: &Lab| network_of(l, "app", "caller")["failed"].as_str().is_some_and(|why| why.contains(plugin));
    let repairs = |l: &Lab| agent_status(l)["repairs"].as_u64().unwrap();
    let seen = (0..5).any(|_| {
        let before = repairs(lab);
        tamper(lab);
        lab.wait_until("noticed", PATIENCE, |l| failed(l) || repairs(l) > before).unwrap();
        failed(lab)
    });
    assert!(seen, "CHECK never failed");
    all_pass(lab);
}

/// Another runtime, driven by the reference library, attaches a sandbox on node1 and forgets it.
fn forgotten(lab: &Lab, tools: &Path) {
    let state = lab.state();
    // A pod of this node that only the API knows: the lab's own kubelet has not started it.
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "ghost", "namespace": "app", "uid": "ghost-uid"},
        "spec": {"nodeName": "node1", "serviceAccountName": "default", "containers": []}, "status": {"phase": "Pending"}});
    std::fs::write(state.join("cluster/Pod/app/ghost.json"), pod.to_string()).unwrap();
    let on_node = |words: &[&str]| lab.exec("node/node1", words).unwrap();
    let mut sandbox = lab.exec_command("node/node1", &["sh", "-c", "echo $$; exec unshare -n sleep 600"]);
    let mut sandbox = sandbox.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut pid = String::new();
    BufReader::new(sandbox.stdout.as_mut().unwrap()).read_line(&mut pid).unwrap();
    let netns = format!("/proc/{}/ns/net", pid.trim());
    let lists = state.join("nodes/node1/cni").display().to_string();
    let cnitool = |verb: &str| {
        let path = format!("CNI_PATH={}:{}", tools.display(), programs().display());
        let lists = format!("NETCONFPATH={lists}");
        let pod = "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=app;K8S_POD_NAME=ghost;K8S_POD_UID=ghost-uid";
        let program = tools.join("cnitool").display().to_string();
        on_node(&["env", &path, &lists, pod, &program, verb, "weft-lab", &netns])
    };
    let enrolled = |l: &Lab| agent_status(l)["pods"]["ghost-uid"]["state"] == "enrolled";
    cnitool("status").ok();
    let result: Value = serde_json::from_str(&cnitool("add").ok()).unwrap();
    assert_eq!(result["cniVersion"], "1.1.0");
    // The lab's own rounds of GC do not know this attachment: they may end it from now on, and must. The API keeps the
    // pod, so nothing else would.
    on_node(&["kill", "-9", pid.trim()]).ok();
    sandbox.wait().unwrap();
    lab.wait_until("the attachment is ended", PATIENCE, |l| !enrolled(l)).unwrap();
    // The others stay.
    assert_eq!(agent_status(lab)["pods"][uid(lab, "app", "caller")]["state"], "enrolled");
    all_pass(lab);
    std::fs::remove_file(state.join("cluster/Pod/app/ghost.json")).unwrap();
}

/// Without this process on node1 a new pod waits and is told that STATUS fails; with it, it starts.
fn no_status(lab: &Lab, links: &Path, word: &str) {
    let (link, aside) = (links.join(format!("weft-{word}")), links.join("aside"));
    std::fs::rename(&link, &aside).unwrap();
    lab.kill_daemon(&format!("node1/{word}")).unwrap();
    let name = format!("late-{word}");
    lab.apply("late", &shell("app", &name, "node1")).unwrap();
    let pod = |l: &Lab| l.pods("app", &name).unwrap().first().cloned().unwrap_or_default();
    lab.wait_until("the pod is told why it waits", PATIENCE, |l| {
        let message = pod(l)["message"].as_str().unwrap_or_default().to_owned();
        message.contains("STATUS by weft-cni") && message.contains(word)
    })
    .unwrap();
    assert_eq!(pod(lab)["addresses"], json!([]));
    std::fs::rename(&aside, &link).unwrap();
    lab.wait_until("the pod starts", PATIENCE, |l| pod(l)["ready"] == true).unwrap();
    lab.delete("late").unwrap();
}
