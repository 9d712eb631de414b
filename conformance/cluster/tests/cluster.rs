//! The test cluster is what it says: two nodes with a real network between them, DNS, load balancers, tokens; and it leaves
//! nothing behind, however it ends. Needs root and what `cargo xtask setup` installs. One test, since a cluster takes its time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod leftovers;

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use leftovers::Footprint;
use weft_cluster::Cluster;
use weft_cluster::image::{self, Image};

/// A cluster that is taken down when the test ends, also when it fails.
struct Up(Cluster);

impl Drop for Up {
    fn drop(&mut self) {
        if let Err(error) = self.0.down() {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn clusters_serve_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let tools = tools(folder.path());
    let one = Up(cluster("a"));
    one.0.up(&["--dual-stack", "--taint", "example.test/starting:NoSchedule"]).unwrap();
    println!("== up again is the same cluster, with other options an error");
    one.0.up(&["--dual-stack", "--taint", "example.test/starting:NoSchedule"]).unwrap();
    one.0.up(&["--nodes", "3"]).unwrap_err();
    nodes_are_as_asked(&one.0);
    api_is_closed_to_strangers(&one.0);
    one.0.load_images(&[&tools]).unwrap();
    start_pods(&one.0);
    pods_reach_services_by_name(&one.0);
    load_balancers_answer(&one.0);
    nothing_outside_is_reached(&one.0);
    tokens_are_reviewed(&one.0);

    println!("== a second cluster with the same addresses, beside the first");
    let two = Up(cluster("b"));
    two.0.up(&["--nodes", "1", "--crds", "none"]).unwrap();
    assert_eq!(two.0.get(&["crd"]).unwrap()["items"].as_array().unwrap().len(), 0);
    a_crash_leaves_nothing_running(&two.0);
    two.0.up(&["--nodes", "1", "--crds", "none"]).unwrap();
    down_leaves_nothing(&two.0);

    println!("== the first is none the worse for it");
    a_node_comes_back_after_its_end(&one.0);
    load_balancers_answer(&one.0);
    down_leaves_nothing(&one.0);
}

fn cluster(suffix: &str) -> Cluster {
    let name = format!("test-{}-{suffix}", std::process::id());
    Cluster::new(&name, Path::new(env!("CARGO_BIN_EXE_weft-cluster")))
}

/// Answers one HTTP request with the node's name: reads to the empty line first.
const ANSWER: &str = r#"while read -r line && [ "${line%?}" ]; do :; done
printf 'HTTP/1.0 200 OK\r\n\r\n%s\n' "$NODE"
"#;

/// An image with a shell and what the checks call, from this machine's own programs.
fn tools(folder: &Path) -> PathBuf {
    let mut image = Image::new("weft-cluster-test/tools:1", "65532");
    for program in ["cat", "curl", "hostname", "sleep", "socat"] {
        image.program(&Path::new("/usr/bin").join(program), program).unwrap();
    }
    image.program_at(Path::new("/bin/sh"), "bin/sh").unwrap();
    image.texts.insert("answer".to_owned(), ANSWER.to_owned());
    let archive = folder.join("tools.tar");
    image::write(&[image], &archive).unwrap();
    archive
}

/// Asks again until the answer is right; the last answer is in the failure.
fn eventually<T: std::fmt::Debug>(claim: &str, mut ask: impl FnMut() -> T, right: impl Fn(&T) -> bool) {
    let mut last = None;
    for _ in 0..240 {
        let answer = ask();
        if right(&answer) {
            println!("   {claim}");
            return;
        }
        last = Some(answer);
        sleep(Duration::from_millis(250));
    }
    panic!("not so: {claim}; the last answer was {last:?}");
}

fn nodes_are_as_asked(cluster: &Cluster) {
    println!("== nodes have both families, their taint and a zone each");
    let nodes = cluster.get(&["nodes"]).unwrap();
    for (node, name) in nodes["items"].as_array().unwrap().iter().zip(["node1", "node2"]) {
        assert_eq!(node["metadata"]["name"], name);
        assert_eq!(node["spec"]["taints"][0]["key"], "example.test/starting");
        assert_eq!(node["metadata"]["labels"]["topology.kubernetes.io/zone"], name.replace("node", "zone"));
        let addresses = node["status"]["addresses"].as_array().unwrap();
        assert_eq!(addresses.iter().filter(|a| a["type"] == "InternalIP").count(), 2);
    }
    let crds = cluster.kubectl(&["get", "crd", "--output=name"]).unwrap();
    assert!(crds.contains("xmeshes.gateway.networking.x-k8s.io"), "{crds}");
    println!("== the channel's admission policy is in force");
    let standard = cluster.get(&["crd", "gateways.gateway.networking.k8s.io"]).unwrap();
    let mut other = standard;
    other["metadata"]["annotations"]["gateway.networking.k8s.io/bundle-version"] = "v1.0.0".into();
    let refused = cluster.apply(&trim(&mut other)).unwrap_err();
    assert!(format!("{refused:#}").contains("safe-upgrades"), "{refused:#}");
}

/// What the API server adds may not be applied.
fn trim(object: &mut serde_json::Value) -> String {
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    object.to_string()
}

fn api_is_closed_to_strangers(cluster: &Cluster) {
    println!("== strangers may ask the API server for its health, and for nothing else");
    let ask = |path: &str| {
        let url = format!("https://10.10.0.1:6443{path}");
        cluster.exec(&["curl", "-sko", "/dev/null", "-w", "%{http_code}", &url]).unwrap().stdout
    };
    assert_eq!(ask("/livez"), "200");
    assert_eq!(ask("/version"), "401");
    assert_eq!(ask("/api/v1/namespaces"), "401");
    println!("== a node may not do what is not its own business");
    let label = |node: &str, label: &str| {
        let kubeconfig = "/etc/kubernetes/kubelet.kubeconfig";
        let kubectl = ["kubectl", "--kubeconfig", kubeconfig, "label", "--overwrite", "node", node, label];
        cluster.exec_on("node1", &kubectl).unwrap().stderr
    };
    assert_eq!(label("node1", "example.test/a=b"), "");
    let refused = label("node1", "node-restriction.kubernetes.io/a=b");
    assert!(refused.contains("is not allowed to modify labels"), "{refused}");
    let refused = label("node2", "example.test/a=b");
    assert!(refused.contains("only its own Node object"), "{refused}");
}

fn start_pods(cluster: &Cluster) {
    println!("== a pod on each node");
    // The cluster's own root is as good a bundle as any.
    let root = std::fs::read_to_string(cluster.state().folder().join("pki/ca.crt")).unwrap();
    let indented: String = root.lines().map(|line| format!("    {line}\n")).collect();
    cluster.apply(&include_str!("pods.yaml").replace("BUNDLE\n", &indented)).unwrap();
    cluster.kubectl(&["rollout", "status", "daemonset/echo", "--timeout=120s"]).unwrap();
    cluster
        .kubectl(&["wait", "--for=condition=Ready", "pod/caller1", "pod/caller2", "--timeout=120s"])
        .unwrap();
}

/// `curl` in a pod.
fn curl(cluster: &Cluster, pod: &str, url: &str) -> String {
    let out = cluster.kubectl(&["exec", pod, "--", "curl", "-gsS", "-m", "3", url]);
    out.unwrap_or_else(|error| format!("{error:#}")).trim().to_owned()
}

fn pods_reach_services_by_name(cluster: &Cluster) {
    println!("== from both nodes to both nodes, by name and address, in both families");
    let service = cluster.get(&["service", "echo"]).unwrap();
    let v6 = service["spec"]["clusterIPs"][1].as_str().unwrap().to_owned();
    let urls = [
        "http://echo/".to_owned(),
        "http://echo.default.svc.cluster.local/".to_owned(),
        format!("http://[{v6}]/"),
    ];
    for pod in ["caller1", "caller2"] {
        for url in &urls {
            for node in ["node1", "node2"] {
                let claim = format!("{pod} reaches {node} by {url}");
                eventually(&claim, || curl(cluster, pod, url), |answer| answer == node);
            }
        }
    }
    println!("== names that do not exist are said not to");
    assert!(curl(cluster, "caller1", "http://nobody.example/").contains("Could not resolve host"));
    let logs = cluster.kubectl(&["logs", "daemonset/echo", "--all-pods"]).unwrap();
    assert!(logs.contains("listening"), "{logs}");
}

fn load_balancers_answer(cluster: &Cluster) {
    println!("== load balancers' addresses: the next free one, or the one that is asked for");
    let host = |url: &str| cluster.exec(&["curl", "-gsS", "-m", "3", url]).unwrap().stdout.trim().to_owned();
    let ingress = |service: &str| {
        let object = cluster.get(&["service", service]).unwrap();
        let all = object["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        all.iter().map(|i| i["ip"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    eventually("both families", || ingress("echo"), |all| *all == ["10.10.1.1", "fd00:10:1::1"]);
    eventually("as asked", || ingress("echo-local"), |all| *all == ["10.10.1.200"]);
    for url in ["http://10.10.1.1/", "http://[fd00:10:1::1]/"] {
        eventually(url, || host(url), |answer| answer.starts_with("node"));
    }
    eventually("local traffic finds its node", || host("http://10.10.1.200/"), |answer| answer == "node2");
    let events = || cluster.kubectl(&["events", "--for=service/echo-taken"]).unwrap();
    eventually("an address has one owner", events, |e| {
        e.contains("10.10.1.200 belongs to Service default/echo-local")
    });
}

fn nothing_outside_is_reached(cluster: &Cluster) {
    println!("== nothing outside the cluster can be reached");
    let routes = cluster.exec(&["ip", "-4", "route", "show", "default"]).unwrap().stdout;
    assert_eq!(routes, "");
    for pod in ["caller1", "caller2"] {
        let answer = curl(cluster, pod, "http://192.0.2.1/");
        assert!(answer.contains("onnect"), "{answer}");
    }
}

fn tokens_are_reviewed(cluster: &Cluster) {
    println!("== a projected token proves its pod and node, for its audience");
    let token = cluster.kubectl(&["exec", "caller1", "--", "cat", "/var/run/secrets/test/token"]).unwrap();
    let review = |audience: &str| {
        let review = serde_json::json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token.trim(), "audiences": [audience]},
        });
        let mut command = cluster.command("kubectl");
        command.args(["--", "create", "--output=json", "-f", "-"]);
        let answer = weft_cluster::feed(&mut command, &review.to_string()).unwrap().ok().unwrap();
        serde_json::from_str::<serde_json::Value>(&answer).unwrap()["status"].take()
    };
    let status = review("example-audience");
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:default");
    let extra = &status["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/pod-name"][0], "caller1");
    assert_eq!(extra["authentication.kubernetes.io/node-name"][0], "node1");
    assert_eq!(review("another")["authenticated"], serde_json::Value::Null);
    println!("== a trust bundle reaches a pod");
    let bundle =
        cluster.kubectl(&["exec", "caller1", "--", "cat", "/var/run/secrets/test/bundle.pem"]).unwrap();
    assert!(bundle.contains("BEGIN CERTIFICATE"), "{bundle}");
}

fn a_node_comes_back_after_its_end(cluster: &Cluster) {
    println!("== a node that loses power comes back, and its pods with it");
    let restarts = || {
        let pod = cluster.get(&["pod", "caller1"]).unwrap();
        let ready = pod["status"]["containerStatuses"][0]["ready"] == true;
        (ready, pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap())
    };
    assert_eq!(restarts(), (true, 0));
    let ended = cluster.command("restart-node").arg("node1").status().unwrap();
    assert!(ended.success());
    eventually("the pod runs again", restarts, |(ready, count)| *ready && *count > 0);
    eventually("and reaches others", || curl(cluster, "caller1", "http://echo/"), |answer| answer == "node2");
}

fn a_crash_leaves_nothing_running(cluster: &Cluster) {
    println!("== a supervisor that is killed takes everything along");
    let footprint = Footprint::of(cluster);
    footprint.kill_supervisor();
    eventually("no process is left", || footprint.processes(), Vec::is_empty);
    assert_eq!(footprint.mounts(), Vec::<String>::new());
}

fn down_leaves_nothing(cluster: &Cluster) {
    println!("== down leaves nothing");
    let footprint = Footprint::of(cluster);
    assert!(
        !footprint.processes().is_empty()
            && !footprint.cgroups().is_empty()
            && !footprint.mounts().is_empty()
    );
    cluster.down().unwrap();
    assert_eq!(footprint.processes(), Vec::<String>::new());
    assert_eq!(footprint.cgroups(), Vec::<PathBuf>::new());
    assert_eq!(footprint.mounts(), Vec::<String>::new());
    assert!(!cluster.state().folder().exists());
}
