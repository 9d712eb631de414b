//! Which pods are in the mesh, and that entering and leaving it breaks no open connection.
#![allow(
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::process::{Child, Stdio};
use std::time::Duration;

use weft_conformance::objects::{namespace, nginx, shell};
use weft_conformance::{Checks, Lab, Options, address, curl};

const PATIENCE: Duration = Duration::from_secs(60);
const ENABLED: &str = "weft-mesh.dev/mesh: enabled";

/// A cluster whose namespace `late` has these labels.
fn cluster(late: &str) -> String {
    let labelled = |yaml: String, label: &str| {
        yaml.replacen("labels: { app:", &format!("labels: {{ weft-mesh.dev/mesh: {label}, app:"), 1)
    };
    [
        namespace("app", ENABLED),
        namespace("late", late),
        namespace("plain", ""),
        nginx("app", "web2", "node2"),
        labelled(shell("app", "shy", "node1"), "disabled"),
        labelled(shell("plain", "keen", "node1"), "enabled"),
        shell("app", "caller", "node1"),
        nginx("late", "server", "node2"),
        nginx("late", "near", "node1"),
        shell("late", "client", "node1"),
        labelled(shell("kube-system", "system", "node1"), "enabled"),
        shell("plain", "stranger", "node1"),
    ]
    .concat()
}

/// A download that takes 30 s and was begun now, in the pod.
fn download(lab: &Lab, from: &str, url: &str) -> Child {
    let mut command = lab.exec_command(from, &["curl", "-sS", "-N", "-m", "60", "-o", "/dev/null", url]);
    command.stderr(Stdio::piped()).spawn().unwrap()
}

fn lives(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_none()
}

/// Whether calls of the pod carry an identity.
fn meshed(lab: &Lab, pod: &str) -> bool {
    let got = curl(lab, pod, &["http://web2.app/"]);
    got.code == 0 && got.stdout.contains("caller=URI=spiffe://")
}

#[test]
fn pods_enter_and_leave_the_mesh_without_losing_a_connection() {
    let lab = Lab::up(&cluster("")).unwrap();
    let mut checks = Checks::default();
    labels(&lab, &mut checks);
    moves(&lab, &mut checks);
    waiting(&lab, &mut checks);
    checks.finish();
}

#[test]
fn connections_older_than_the_enrolment_are_reset_after_the_grace() {
    let environment = vec![("WEFT_ENROL_GRACE".to_owned(), "10s".to_owned())];
    let lab = Lab::up_with(&cluster(""), &Options { environment, ..Options::default() }).unwrap();
    let mut checks = Checks::default();
    let url = format!("http://{}/slow", address(&lab, "late", "server", false));
    let mut old = download(&lab, "late/client", &url);
    lab.wait_until("the download", PATIENCE, |l| peers(l, "late/client").contains(":80")).unwrap();
    lab.apply("main", &cluster(ENABLED)).unwrap();
    checks.check("they are counted and live on at first", || {
        for node in ["node1", "node2"] {
            let counted = |l: &Lab| agent_status(l, node).contains("\"oldConnections\": 1");
            lab.wait_until(&format!("counted at {node}"), PATIENCE, counted).unwrap();
        }
    });
    let mut captured = download(&lab, "late/client", "http://server.late/slow");
    checks.check("then they are reset, and captured ones are not", || {
        let ended = |l: &Lab, node| !agent_status(l, node).contains("\"oldConnectionsEnded\": 0");
        lab.wait_until("reset", PATIENCE, |l| ended(l, "node1") || ended(l, "node2")).unwrap();
        assert!(!old.wait().unwrap().success());
        std::thread::sleep(Duration::from_secs(1));
        assert!(lives(&mut captured));
    });
    for child in [&mut old, &mut captured] {
        let _ = child.kill();
        let _ = child.wait();
    }
    checks.finish();
}

fn peers(lab: &Lab, pod: &str) -> String {
    lab.exec(pod, &["ss", "-Htn", "state", "established"]).unwrap().ok()
}

fn labels(lab: &Lab, checks: &mut Checks) {
    checks.check("the namespace's label enrols its pods", || assert!(meshed(lab, "app/caller")));
    checks.check("a pod's own label `disabled` wins", || {
        let got = curl(lab, "app/shy", &["http://web2/"]);
        assert_ne!(got.code, 0, "{got:?}");
    });
    checks.check("a pod's own label `enabled` wins", || assert!(meshed(lab, "plain/keen")));
    checks.check("kube-system is never enrolled", || {
        let got = curl(lab, "kube-system/system", &["http://web2.app/"]);
        assert_ne!(got.code, 0, "{got:?}");
        assert_eq!(rules(lab, "kube-system/system"), "");
    });
    checks.check("a pod outside the mesh has no rule and no listening socket of Weft", || {
        assert_eq!(rules(lab, "plain/stranger"), "");
        assert!(!sockets(lab, "plain/stranger").contains(":1500"));
        assert!(sockets(lab, "app/caller").contains(":15001"));
    });
}

fn rules(lab: &Lab, pod: &str) -> String {
    lab.exec(pod, &["nft", "list", "ruleset"]).unwrap().ok()
}

fn sockets(lab: &Lab, pod: &str) -> String {
    lab.exec(pod, &["ss", "-Hltn"]).unwrap().ok()
}

fn agent_status(lab: &Lab, node: &str) -> String {
    lab.exec(&format!("node/{node}"), &["cat", "/run/weft/agent-status.json"]).unwrap().ok()
}

fn moves(lab: &Lab, checks: &mut Checks) {
    let within = ["server", "near"];
    let urls: Vec<String> = within
        .iter()
        .flat_map(|name| [false, true].map(|v6| (name, v6)))
        .map(|(name, v6)| format!("http://{}/slow", weft_conformance::host(&address(lab, "late", name, v6))))
        .collect();
    // Begun before anybody of `late` is in the mesh.
    let mut old: Vec<Child> = urls.iter().map(|url| download(lab, "late/client", url)).collect();
    std::thread::sleep(Duration::from_millis(500));
    checks.check("labelling a running namespace enrols its running pods", || {
        lab.apply("main", &cluster(ENABLED)).unwrap();
        lab.wait_until("enrolled", PATIENCE, |l| meshed(l, "late/client")).unwrap();
        let refused = |l: &Lab| curl(l, "plain/stranger", &["http://server.late/"]).code != 0;
        lab.wait_until("strict", PATIENCE, refused).unwrap();
    });
    checks.check("connections opened before the enrolment live on", || {
        std::thread::sleep(Duration::from_secs(1));
        assert!(old.iter_mut().all(lives));
    });
    let mut captured: Vec<Child> = urls.iter().map(|url| download(lab, "late/client", url)).collect();
    std::thread::sleep(Duration::from_millis(500));
    checks.check("taking the label away releases the running pods", || {
        lab.apply("main", &cluster("")).unwrap();
        lab.wait_until("released", PATIENCE, |l| !meshed(l, "late/client")).unwrap();
        let served = |l: &Lab| curl(l, "plain/stranger", &["http://server.late/"]).code == 0;
        lab.wait_until("no longer strict", PATIENCE, served).unwrap();
    });
    checks.check("captured connections survive the release, and so do older ones", || {
        std::thread::sleep(Duration::from_secs(2));
        for (index, child) in captured.iter_mut().enumerate() {
            assert!(lives(child), "captured: {}", urls[index]);
        }
        assert!(old.iter_mut().all(lives));
    });
    checks.check("when the last captured connection has ended, nothing of Weft is left in the pod", || {
        for child in captured.iter_mut().chain(&mut old) {
            // `exec` steps into the pod by forking: ended inside, below.
            let _ = child.kill();
        }
        lab.exec("late/client", &["sh", "-c", "pkill -x curl; true"]).unwrap().ok();
        for name in ["late/client", "late/server", "late/near"] {
            lab.wait_until(&format!("{name} is clean"), PATIENCE, |l| rules(l, name).is_empty()).unwrap();
            assert!(!sockets(lab, name).contains(":1500"), "{}", sockets(lab, name));
        }
    });
    for child in captured.iter_mut().chain(&mut old) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn waiting(lab: &Lab, checks: &mut Checks) {
    checks.check("while no proxy runs, a new pod waits and is told why; then it starts", || {
        let status = lab.status().unwrap();
        let daemons = status["daemons"].as_array().unwrap();
        let pid = daemons.iter().find(|d| d["name"] == "node1/proxy").unwrap()["pid"].to_string();
        lab.exec("node/node1", &["kill", "-STOP", &pid]).unwrap().ok();
        lab.apply("new", &(shell("app", "new", "node1") + &shell("plain", "free", "node1"))).unwrap();
        let message = |l: &Lab| l.pods("app", "new").unwrap()[0]["message"].as_str().unwrap_or("").to_owned();
        lab.wait_until("a message", PATIENCE, |l| !message(l).is_empty()).unwrap();
        let told = message(lab);
        assert!(told.contains("weft-cni") && told.contains("proxy"), "{told}");
        assert_eq!(lab.pods("plain", "free").unwrap()[0]["ready"], true);
        lab.exec("node/node1", &["kill", "-CONT", &pid]).unwrap().ok();
        lab.wait_until("ready", PATIENCE, |l| l.pods("app", "new").unwrap()[0]["ready"] == true).unwrap();
        assert!(meshed(lab, "app/new"));
    });
    checks.check(
        "a pod whose application has Weft's port is not enrolled, and the status says who has it",
        || {
            let squatter = shell("plain", "squatter", "node1")
                .replace("[sleep, infinity]", "[socat, 'TCP-LISTEN:15001,fork,reuseaddr', 'SYSTEM:true']");
            lab.apply("squatter", &squatter).unwrap();
            lab.wait_until("listens", PATIENCE, |l| {
                l.pods("plain", "squatter").unwrap().iter().any(|p| p["ready"] == true)
                    && sockets(l, "plain/squatter").contains(":15001")
            })
            .unwrap();
            lab.apply(
                "squatter",
                &squatter.replacen("labels: {", "labels: { weft-mesh.dev/mesh: enabled,", 1),
            )
            .unwrap();
            lab.wait_until("told", PATIENCE, |l| agent_status(l, "node1").contains("15001")).unwrap();
            let told = agent_status(lab, "node1");
            assert!(told.contains("socat") && told.contains("plain/squatter"), "{told}");
            assert_eq!(rules(lab, "plain/squatter"), "");
        },
    );
}
