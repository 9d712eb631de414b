//! Namespaces that are labelled and unlabelled while their pods are called: nobody notices, and nothing opens again.
#![allow(
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::time::Duration;

use serde_json::Value;
use weft_conformance::load::{Load, none_failed};
use weft_conformance::objects::{namespace, nginx, pod, service, shell};
use weft_conformance::{Checks, Lab, Options, curl};

/// More than a whole enrolment may take.
const PATIENCE: Duration = Duration::from_secs(60);
const ENABLED: &str = "weft-mesh.dev/mesh: enabled";

/// `back` is called from `front` and from itself, over a node's border and within it; `plain` is never in the mesh.
fn cluster(label: &str) -> String {
    let echo = "[socat, 'TCP6-LISTEN:9000,ipv6only=0,fork,reuseaddr', 'EXEC:cat']";
    [
        namespace("front", label),
        namespace("back", label),
        namespace("plain", ""),
        nginx("back", "web", "node2"),
        nginx("back", "near", "node1"),
        pod("back", "echo", "node2", echo),
        service("back", "echo", "{ name: echo, port: 9000 }"),
        shell("back", "inner", "node1"),
        shell("front", "caller", "node1"),
        shell("plain", "stranger", "node1"),
    ]
    .concat()
}

/// A namespace with a pod that cannot be enrolled, for it has Weft's port, and one that can.
fn odd(name: &str, labels: &str) -> String {
    let squatter = "[socat, 'TCP-LISTEN:15001,fork,reuseaddr', 'SYSTEM:true']";
    namespace(name, labels) + &pod(name, "squatter", "node1", squatter) + &nginx(name, "web", "node2")
}

/// All that the requirements speak of, at once.
fn all(lab: &Lab) -> Vec<Load> {
    let mut all = Vec::new();
    for (from, host) in [
        ("front/caller", "web.back"),
        ("front/caller", "near.back"),
        ("back/inner", "web.back"),
        ("back/inner", "near.back"),
    ] {
        all.extend(["keep", "slow", "new"].map(|mode| Load::start(lab, from, mode, host, "80")));
    }
    all.push(Load::start(lab, "front/caller", "stream", "echo.back", "9000"));
    all.push(Load::start(lab, "back/inner", "stream", "echo.back", "9000"));
    all
}

fn condition(lab: &Lab, namespace: &str) -> Value {
    let status = lab.object_status("Namespace", "_", namespace).unwrap_or_default();
    status["status"]["conditions"][0].clone()
}

fn reason(lab: &Lab, namespace: &str) -> String {
    condition(lab, namespace)["reason"].as_str().unwrap_or("none").to_owned()
}

fn controller(lab: &Lab) -> Option<String> {
    let status = lab.status().unwrap();
    let daemons = status["daemons"].as_array().unwrap();
    daemons.iter().find(|d| d["name"] == "controller")?["pid"].as_i64().map(|pid| pid.to_string())
}

/// What the controller answers at `/enrolment`; null while it does not.
fn told(lab: &Lab, namespace: &str) -> Value {
    let Some(pid) = controller(lab) else { return Value::Null };
    let url = "http://127.0.0.1:15000/enrolment";
    let out = lab.exec("node/node1", &["nsenter", "-n", "-t", &pid, "curl", "-sSf", "-m", "5", url]).unwrap();
    let all: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
    all[namespace].clone()
}

fn stranger_gets_through(lab: &Lab, host: &str) -> bool {
    curl(lab, "plain/stranger", &[&format!("http://{host}/")]).code == 0
}

/// Kills the controller and waits until the next one answers.
fn kill_controller(lab: &Lab, namespace: &str) {
    let before = controller(lab).unwrap();
    lab.kill_daemon("controller").unwrap();
    lab.wait_until("another controller", PATIENCE, |l| {
        controller(l).is_some_and(|pid| pid != before) && !told(l, namespace).is_null()
    })
    .unwrap();
}

#[test]
fn running_namespaces_are_enrolled_and_released_under_load() {
    let environment = vec![("WEFT_ENROL_DEADLINE".to_owned(), "20s".to_owned())];
    let lab = Lab::up_with(&cluster(""), &Options { environment, ..Options::default() }).unwrap();
    let mut checks = Checks::default();
    checks.check("labelling under load: no call fails, the namespaces are `enrolling`, then strict", || {
        enrol(&lab);
    });
    checks.check("a controller that is killed when namespaces are strict never opens them", || {
        killed_when_strict(&lab);
    });
    checks.check("unlabelling under load: no call fails, and plaintext callers are let in", || {
        release(&lab);
    });
    lab.apply("odd", &(odd("odd", "") + &odd("eager", ""))).unwrap();
    lab.wait_until("listening", PATIENCE, |l| {
        ["odd", "eager"].iter().all(|one| {
            stranger_gets_through(l, &format!("web.{one}")) && squats(l, &format!("{one}/squatter"))
        })
    })
    .unwrap();
    let immediate = format!("{ENABLED}, weft-mesh.dev/enrol: immediate");
    lab.apply("odd", &(odd("odd", ENABLED) + &odd("eager", &immediate))).unwrap();
    checks.check("a controller that is killed in the middle of enrolling goes on where it was", || {
        killed_while_enrolling(&lab);
    });
    checks.check("with `immediate`, a pod made after the label is strict at once", || {
        immediate_is_strict(&lab)
    });
    checks.check("at the deadline a namespace is closed, and told which pod is missing and why", || {
        deadline(&lab);
    });
    checks.finish();
}

fn squats(lab: &Lab, pod: &str) -> bool {
    lab.exec(pod, &["ss", "-Hltn"]).unwrap().stdout.contains(":15001")
}

fn enrol(lab: &Lab) {
    let load = all(lab);
    std::thread::sleep(Duration::from_secs(2));
    lab.apply("main", &cluster(ENABLED)).unwrap();
    lab.wait_until("enrolling", PATIENCE, |l| {
        ["front", "back"].iter().all(|one| reason(l, one) == "Enrolling")
    })
    .unwrap();
    let told = told(lab, "back");
    assert_eq!(told["phase"], "enrolling", "{told}");
    assert_eq!(condition(lab, "back")["status"], "False");
    assert!(stranger_gets_through(lab, "web.back"));
    lab.wait_until("strict", PATIENCE, |l| ["front", "back"].iter().all(|one| reason(l, one) == "Strict"))
        .unwrap();
    lab.wait_until("plaintext is refused", PATIENCE, |l| {
        ["web.back", "near.back"].iter().all(|host| !stranger_gets_through(l, host))
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    none_failed(load, true);
    assert_eq!(condition(lab, "back")["status"], "True");
}

fn killed_when_strict(lab: &Lab) {
    let strangers =
        ["web.back", "near.back"].map(|host| Load::start(lab, "plain/stranger", "new", host, "80"));
    let steady = Load::start(lab, "front/caller", "new", "web.back", "80");
    kill_controller(lab, "back");
    // Past its wait for the proxies' reports.
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(reason(lab, "back"), "Strict");
    for ended in strangers.map(Load::end) {
        assert_eq!(ended.ok, 0, "{ended:?}");
        assert!(ended.failed.len() > 20, "{ended:?}");
    }
    none_failed(vec![steady], true);
}

fn release(lab: &Lab) {
    let load = all(lab);
    std::thread::sleep(Duration::from_secs(2));
    lab.apply("main", &cluster("")).unwrap();
    lab.wait_until("out of the mesh", PATIENCE, |l| {
        ["front", "back"].iter().all(|one| l.object_status("Namespace", "_", one).is_none())
    })
    .unwrap();
    assert!(["web.back", "near.back"].iter().all(|host| stranger_gets_through(lab, host)));
    std::thread::sleep(Duration::from_secs(2));
    none_failed(load, false);
}

fn killed_while_enrolling(lab: &Lab) {
    let steady = ["keep", "new"].map(|mode| Load::start(lab, "front/caller", mode, "web.odd", "80"));
    lab.wait_until("enrolling", PATIENCE, |l| {
        reason(l, "odd") == "Enrolling" && told(l, "odd")["phase"] == "enrolling"
    })
    .unwrap();
    let since = |lab: &Lab| {
        let status = lab.object_status("Namespace", "_", "odd").unwrap();
        status["metadata"]["annotations"]["weft-mesh.dev/enrolment-since"].clone()
    };
    let before = since(lab);
    kill_controller(lab, "odd");
    assert_eq!(told(lab, "odd")["phase"], "enrolling");
    assert_eq!(since(lab), before);
    assert!(stranger_gets_through(lab, "web.odd"));
    std::thread::sleep(Duration::from_secs(2));
    none_failed(steady.into(), false);
}

fn immediate_is_strict(lab: &Lab) {
    lab.apply("fresh", &nginx("eager", "fresh", "node2")).unwrap();
    lab.wait_until("ready", PATIENCE, |l| l.pods("eager", "fresh").unwrap()[0]["ready"] == true).unwrap();
    assert!(!stranger_gets_through(lab, "fresh.eager"));
    assert!(stranger_gets_through(lab, "web.eager"), "made before the label");
    assert_eq!(told(lab, "eager")["phase"], "enrolling");
}

fn deadline(lab: &Lab) {
    for one in ["odd", "eager"] {
        lab.wait_until("closed", PATIENCE, |l| reason(l, one) == "PodsNotMeshed").unwrap();
        let message = condition(lab, one)["message"].to_string();
        assert!(
            ["squatter", "node1", "15001", "socat"].iter().all(|word| message.contains(word)),
            "{message}"
        );
        let host = format!("web.{one}");
        lab.wait_until("plaintext is refused", PATIENCE, |l| !stranger_gets_through(l, &host)).unwrap();
        assert_eq!(told(lab, one)["phase"], "strict");
    }
}
