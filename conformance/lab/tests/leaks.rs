//! What is left behind: by pods that come and go, by a pod that ends while it answers, by a lab.
#![allow(
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use weft_conformance::objects::{namespace, nginx, shell, two_webs};
use weft_conformance::{Checks, Lab, address, curl, host};

const PATIENCE: Duration = Duration::from_secs(60);

const CROWD: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: { name: crowd, namespace: app }
spec:
  replicas: 5
  selector: { matchLabels: { app: crowd } }
  template:
    metadata: { labels: { app: crowd } }
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{ name: main, image: local, command: [python3, -m, http.server, '80', --bind, '::'], readinessProbe: { tcpSocket: { port: 80 }, periodSeconds: 1 } }]
---
apiVersion: v1
kind: Service
metadata: { name: crowd, namespace: app }
spec: { ipFamilyPolicy: PreferDualStack, selector: { app: crowd }, ports: [{ name: http, port: 80 }] }
";

/// Descriptors of Weft's processes by process, and how many of them are network namespaces.
fn census(lab: &Lab) -> Vec<(String, usize, usize)> {
    let status = lab.status().unwrap();
    let mut all = Vec::new();
    for daemon in status["daemons"].as_array().unwrap() {
        let script = format!("for f in /proc/{}/fd/*; do readlink $f; done", daemon["pid"]);
        let listed = lab.exec("node/node1", &["sh", "-c", &script]).unwrap().stdout;
        let namespaces = listed.lines().filter(|l| l.starts_with("net:[") || l.contains("/ns/net")).count();
        all.push((daemon["name"].as_str().unwrap().to_owned(), listed.lines().count(), namespaces));
    }
    all
}

#[test]
fn nothing_is_left_behind() {
    let lab = Lab::up(&two_webs()).unwrap();
    let mut checks = Checks::default();
    checks.check(
        "after pods have come, called and gone, every descriptor and namespace is given back",
        || {
            crowds(&lab);
        },
    );
    for web in ["web1", "web2"] {
        for ipv6 in [false, true] {
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            checks.check(
                &format!("a download ends with an error soon after {web} is deleted ({family})"),
                || {
                    deleted_while_answering(&lab, web, ipv6);
                },
            );
        }
    }
    checks.finish();
    down_leaves_nothing(lab, false);
    down_leaves_nothing(Lab::up(&two_webs()).unwrap(), true);
}

fn crowds(lab: &Lab) {
    let ready = |l: &Lab| l.pods("app", "crowd").unwrap().iter().filter(|p| p["ready"] == true).count();
    // Whatever is opened once and kept.
    curl(lab, "app/caller", &["http://web1/"]).ok();
    curl(lab, "app/caller", &["http://web2/"]).ok();
    let before = census(lab);
    assert!(before.iter().any(|(_, _, namespaces)| *namespaces > 0), "{before:?}");
    for _ in 0..3 {
        lab.apply("crowd", CROWD).unwrap();
        lab.wait_until("five pods", PATIENCE, |l| ready(l) == 5).unwrap();
        let names: Vec<String> = lab
            .pods("app", "crowd")
            .unwrap()
            .iter()
            .map(|p| p["name"].as_str().unwrap().to_owned())
            .collect();
        for name in names {
            let pod = format!("app/{name}");
            assert!(curl(lab, &pod, &["http://web2/"]).ok().contains("sa/default"));
            curl(lab, "app/caller", &["http://crowd/"]).ok();
        }
        lab.delete("crowd").unwrap();
        lab.wait_until("no pods", PATIENCE, |l| l.pods("app", "crowd").unwrap().is_empty()).unwrap();
    }
    lab.wait_until(&format!("as few descriptors as before: {before:?}"), PATIENCE, |l| {
        let now = census(l);
        // A kept tunnel between the lasting pods may have come or gone.
        let few = now.iter().zip(&before).all(|(n, b)| n.1 <= b.1 + 2 && n.2 <= b.2);
        if !few {
            eprintln!("  {now:?}");
            std::thread::sleep(Duration::from_millis(500));
        }
        few
    })
    .unwrap();
}

#[allow(clippy::disallowed_methods)]
fn deleted_while_answering(lab: &Lab, web: &str, ipv6: bool) {
    let url = format!("http://{}/slow", host(&address(lab, "app", web, ipv6)));
    let mut command = lab.exec_command("app/caller", &["curl", "-sS", "-m", "25", "-o", "/dev/null", &url]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let rest = [nginx("app", "web1", "node1"), nginx("app", "web2", "node2")];
    let kept = rest.iter().filter(|yaml| !yaml.contains(&format!("name: {web},")));
    let others = [namespace("app", "weft-mesh.dev/mesh: enabled"), shell("app", "caller", "node1")];
    let without: String = others.iter().chain(kept).map(String::as_str).collect();
    lab.apply("main", &without).unwrap();
    let start = Instant::now();
    let out = child.wait_with_output().unwrap();
    let took = start.elapsed();
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(matches!(out.status.code(), Some(18 | 52 | 56)), "{:?} {told}", out.status);
    // The pod has a second of its own to end, then DEL has two.
    assert!(took < Duration::from_secs(5), "{took:?}");
    lab.apply("main", &two_webs()).unwrap();
    lab.wait_until("the pod is back", PATIENCE, |l| {
        l.pods("app", web).unwrap().iter().any(|p| p["ready"] == true)
            && curl(l, "app/caller", &[&format!("http://{web}/")]).code == 0
    })
    .unwrap();
}

fn supervisor_pid(lab: &Lab) -> String {
    let text = std::fs::read_to_string(lab.state().join("supervisor.pid")).unwrap();
    text.split(' ').next().unwrap().to_owned()
}

fn start_of(pid: &str) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    (fields[0] != "Z").then(|| fields[19].to_owned())
}

/// The processes of this machine: number and time of start.
fn running() -> Vec<(String, String)> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter_map(|pid| start_of(&pid).map(|start| (pid, start))).collect()
}

/// Namespaces that these of the processes are in, as far as they still run. Only of processes that were there when a lab was:
/// the kernel gives the numbers of namespaces that have ended to new ones, of other labs and clusters on the machine.
fn namespaces(of: &[(String, String)]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (pid, _) in of.iter().filter(|(pid, start)| start_of(pid).as_ref() == Some(start)) {
        for kind in ["net", "mnt", "pid", "user"] {
            if let Ok(link) = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")) {
                all.insert(link.display().to_string());
            }
        }
    }
    all
}

/// The machine's packet filter and its links.
fn machine() -> (String, BTreeSet<String>) {
    let nft = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    let links = Command::new("ip").args(["-o", "link"]).output().unwrap();
    let links = String::from_utf8_lossy(&links.stdout);
    let links = links.lines().map(|line| line.split("mtu").next().unwrap_or_default().to_owned());
    (String::from_utf8_lossy(&nft.stdout).into_owned(), links.collect())
}

/// How many of them lead to a lab.
fn to_labs(links: &BTreeSet<String>) -> usize {
    links.iter().filter(|link| link.contains("weft-lab-")).count()
}

/// The lab goes, in order or by the death of its supervisor: nothing of it remains on the machine.
fn down_leaves_nothing(lab: Lab, kill: bool) {
    let (rules, links) = machine();
    assert!(to_labs(&links) > 0, "the lab's own link is not among these: {links:?}");
    let pid = supervisor_pid(&lab);
    let inner = std::fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    let own: BTreeSet<String> = {
        let own = std::fs::read_dir("/proc/self/ns").unwrap().flatten();
        own.filter_map(|e| Some(std::fs::read_link(e.path()).ok()?.display().to_string())).collect()
    };
    let mut processes = Vec::new();
    let mut theirs = BTreeSet::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        if std::fs::read_link(process.path().join("ns/pid")).is_ok_and(|l| l == inner) {
            let pid = process.file_name().into_string().unwrap();
            processes.extend(start_of(&pid).map(|start| (pid, start)));
            for kind in ["net", "mnt", "pid", "user"] {
                let link = std::fs::read_link(process.path().join("ns").join(kind));
                theirs.extend(link.ok().map(|l| l.display().to_string()).filter(|l| !own.contains(l)));
            }
        }
    }
    assert!(processes.len() > 8 && theirs.len() > 5, "{processes:?} {theirs:?}");
    let (state, everybody) = (lab.state(), running());
    if kill {
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    } else {
        assert!(lab.command(&["down"]).status().unwrap().success());
    }
    let gone = || processes.iter().all(|(pid, start)| start_of(pid).as_ref() != Some(start));
    lab.wait_until("all processes end", PATIENCE, |_| gone()).unwrap();
    lab.wait_until("all namespaces end", PATIENCE, |_| namespaces(&everybody).is_disjoint(&theirs)).unwrap();
    if kill {
        // Taking down what has died is no error, and removes its files.
        let out = lab.command(&["down"]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    assert!(!state.exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(lab.name()), "{mounts}");
    // Its link goes a moment after its namespace; nothing else has come.
    let gone = |now: &BTreeSet<String>| now.is_subset(&links) && to_labs(now) < to_labs(&links);
    lab.wait_until("the link goes", PATIENCE, |_| gone(&machine().1)).unwrap();
    assert_eq!(machine().0, rules);
    assert!(!Path::new("/run/netns").join("node1").exists());
}
