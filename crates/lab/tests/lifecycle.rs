//! The lab's life: up, edits while it runs, down, and death of its supervisor. Needs root or user
//! namespaces, nft, ip, the CNI plugins, curl and python3; fails without them.
// A panic is how a test fails; clippy's own exemption covers only the test functions themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use weft_testkit::Lab;

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n";
const PATIENCE: Duration = Duration::from_secs(60);

fn sleeper(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: a}}\nspec: {{containers: [{{name: c, command: [sleep, infinity]}}]}}\n---\n"
    )
}

fn web(replicas: u8, text: &str) -> String {
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: page, namespace: a}}
data: {{index.html: '{text}'}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: a}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: web
        command: [python3, -m, http.server, '8080', --bind, '::', -d, /pages]
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{port: http}}, periodSeconds: 1}}
        volumeMounts: [{{name: page, mountPath: /pages}}]
      volumes: [{{name: page, configMap: {{name: page}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: a}}
spec: {{ipFamilyPolicy: PreferDualStack, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: http}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: pods, namespace: a}}
spec: {{clusterIP: None, ipFamilyPolicy: PreferDualStack, selector: {{app: web}}, ports: [{{port: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: empty, namespace: a}}
spec: {{selector: {{app: nothing}}, ports: [{{port: 80}}]}}
---
"
    )
}

/// Processes of the machine whose command line names the lab's state folder or whose root it is.
fn processes_of(state: &Path) -> usize {
    let state = state.display().to_string();
    let proc = std::fs::read_dir("/proc").unwrap().flatten();
    proc.filter(|p| {
        std::fs::read(p.path().join("cmdline")).is_ok_and(|c| String::from_utf8_lossy(&c).contains(&state))
    })
    .count()
}

fn supervisor_pid(lab: &Lab) -> String {
    let text = std::fs::read_to_string(lab.state().join("supervisor.pid")).unwrap();
    text.split(' ').next().unwrap().to_owned()
}

/// The machine's numbers of all processes in the lab's pid namespace, with their start times.
fn processes_in(lab: &Lab) -> Vec<(String, String)> {
    let namespace = std::fs::read_link(format!("/proc/{}/ns/pid", supervisor_pid(lab))).unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let inside = all.filter(|p| std::fs::read_link(p.path().join("ns/pid")).is_ok_and(|l| l == namespace));
    inside
        .map(|p| p.file_name().into_string().unwrap())
        .filter_map(|pid| Some((start_of(&pid)?, pid)))
        .map(|(s, p)| (p, s))
        .collect()
}

fn start_of(pid: &str) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // A process that only waits to be collected has ended.
    (fields[0] != "Z").then(|| fields[19].to_owned())
}

fn all_gone(processes: &[(String, String)]) -> bool {
    processes.iter().all(|(pid, start)| start_of(pid).as_ref() != Some(start))
}

#[test]
fn exec_passes_input_output_and_exit_code() {
    let lab = Lab::up_without_mesh(&(NAMESPACE.to_owned() + &sleeper("one"))).unwrap();
    let out = lab.exec("a/one", &["sh", "-c", "hostname; echo no >&2; exit 7"]).unwrap();
    assert_eq!((out.code, out.stdout.as_str(), out.stderr.as_str()), (7, "one\n", "no\n"));
    let missing = lab.exec("a/one", &["no-such-program"]).unwrap();
    assert_eq!(missing.code, 125);
    assert!(missing.stderr.contains("is not on this machine"), "{}", missing.stderr);
}

#[test]
fn what_a_container_writes_stays_in_the_lab() {
    let lab = Lab::up_without_mesh(&(NAMESPACE.to_owned() + &sleeper("one") + &sleeper("two"))).unwrap();
    let mark = format!("/etc/weft-mark-{}", lab.name());
    lab.exec("a/one", &["touch", &mark]).unwrap().ok();
    assert!(!Path::new(&mark).exists());
    assert_ne!(lab.exec("a/two", &["ls", &mark]).unwrap().code, 0);
    lab.exec("a/one", &["sh", "-c", "rm -f /dev/null; echo x > /dev/weft-mark; echo y > /dev/shm/weft-mark"])
        .unwrap();
    assert!(Path::new("/dev/null").metadata().unwrap().file_type().is_char_device());
    assert!(!Path::new("/dev/weft-mark").exists() && !Path::new("/dev/shm/weft-mark").exists());
}

#[test]
fn pods_reach_services_and_names_in_both_families() {
    let lab = Lab::up_without_mesh(&(NAMESPACE.to_owned() + &sleeper("client") + &web(2, "hello"))).unwrap();
    let nodes: Vec<_> = lab.pods("a", "web").unwrap().iter().map(|p| p["node"].clone()).collect();
    assert_ne!(nodes[0], nodes[1], "two replicas spread over two nodes");
    for family in ["-4", "-6"] {
        for name in ["web", "web.a", "web.a.svc.cluster.local"] {
            let url = format!("http://{name}/");
            assert_eq!(
                lab.exec("a/client", &["curl", "-sS", "-m", "5", family, &url]).unwrap().ok(),
                "hello"
            );
        }
        assert_eq!(
            lab.exec("a/client", &["curl", "-sS", "-m", "5", family, "http://pods:8080/"]).unwrap().ok(),
            "hello"
        );
        // A pod that reaches itself through its Service.
        for _ in 0..6 {
            assert_eq!(
                lab.exec("a/deploy/web", &["curl", "-sS", "-m", "5", family, "http://web/"]).unwrap().ok(),
                "hello"
            );
        }
    }
    let refused = lab.exec("a/client", &["curl", "-sS", "-m", "5", "http://empty/"]).unwrap();
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    let unknown = lab.exec("a/client", &["curl", "-sS", "-m", "5", "http://elsewhere/"]).unwrap();
    assert_eq!(unknown.code, 6, "{}", unknown.stderr);
}

#[test]
fn edits_take_effect_while_the_lab_runs() {
    let lab = Lab::up_without_mesh(&(NAMESPACE.to_owned() + &sleeper("client"))).unwrap();
    lab.apply("web", &web(1, "first")).unwrap();
    let ready = |lab: &Lab, n: usize| {
        let pods = lab.pods("a", "web").unwrap();
        pods.len() == n && pods.iter().all(|p| p["ready"] == true)
    };
    lab.wait_until("one web pod", PATIENCE, |l| ready(l, 1)).unwrap();
    lab.apply("web", &web(3, "first")).unwrap();
    lab.wait_until("three web pods", PATIENCE, |l| ready(l, 3)).unwrap();
    lab.apply("web", &web(3, "second")).unwrap();
    lab.wait_until("the new page", PATIENCE, |l| {
        l.exec("a/client", &["curl", "-s", "-m", "5", "http://web/"]).unwrap().stdout == "second"
    })
    .unwrap();
    lab.apply(
        "bad",
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: a}\nspec: {ports: [{port: 0}]}\n",
    )
    .unwrap();
    let rejected = lab.status().unwrap()["rejected"].to_string();
    assert!(rejected.contains("bad.yaml:1") && rejected.contains("Service a/bad"), "{rejected}");
    lab.apply("web", "kind: [").unwrap();
    assert!(ready(&lab, 3), "a file that cannot be read changes nothing");
    lab.delete("web").unwrap();
    lab.wait_until("no web pods", PATIENCE, |l| l.pods("a", "web").unwrap().is_empty()).unwrap();
    assert!(lab.object("Service", "a", "web").is_none());
}

#[test]
fn a_container_that_ends_is_started_again() {
    let yaml = "apiVersion: v1\nkind: Pod\nmetadata: {name: short, namespace: a}\nspec: {containers: [{name: c, command: [sh, -c, 'sleep 1000 & sleep 0.2; exit 3']}]}\n";
    let lab = Lab::up_without_mesh(&(NAMESPACE.to_owned() + yaml)).unwrap();
    lab.wait_until("a restart", PATIENCE, |l| {
        l.pods("a", "short").unwrap()[0]["containers"][0]["restarts"].as_u64() >= Some(2)
    })
    .unwrap();
    // The present life has at most its two; every life before left one behind if nobody ended it.
    let left = lab.exec("node/node1", &["sh", "-c", "pgrep -xc sleep; true"]).unwrap().ok();
    assert!(left.trim().parse::<u32>().unwrap() <= 2, "{left}");
}

#[test]
fn down_leaves_nothing() {
    let lab = Lab::up_without_mesh(&(NAMESPACE.to_owned() + &sleeper("one"))).unwrap();
    let processes = processes_in(&lab);
    assert!(processes.len() >= 3);
    let state = lab.state();
    assert!(lab.command(&["down"]).status().unwrap().success());
    // The kernel tells of the end a moment before the last entry of /proc is gone.
    lab.wait_until("all processes end", Duration::from_secs(1), |_| all_gone(&processes)).unwrap();
    assert!(!state.exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(lab.name()), "{mounts}");
    assert_eq!(processes_of(&state), 0);
}

#[test]
fn kill_of_the_supervisor_leaves_nothing_running_and_up_cleans_the_rest() {
    let lab = Lab::up_without_mesh(&(NAMESPACE.to_owned() + &sleeper("one"))).unwrap();
    let pid = supervisor_pid(&lab);
    let processes = processes_in(&lab);
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    lab.wait_until("all processes end", PATIENCE, |_| all_gone(&processes)).unwrap();
    let told = lab.command(&["status"]).output().unwrap();
    assert!(String::from_utf8_lossy(&told.stderr).contains("no lab named"));
    let folder = lab.state().parent().unwrap().parent().unwrap().join("objects");
    let again = lab.command(&["up", "--no-mesh", "--folder", folder.to_str().unwrap()]).output().unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert!(String::from_utf8_lossy(&again.stdout).contains("left behind"));
    let second = lab.command(&["up", "--no-mesh", "--folder", folder.to_str().unwrap()]).output().unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains("already running"));
}

#[test]
fn invalid_yaml_is_told_with_file_and_line() {
    let error = Lab::up_without_mesh("kind: Namespace\nmetadata: {name: [}\n").unwrap_err().to_string();
    assert!(error.contains("main.yaml:2"), "{error}");
}

#[test]
fn a_lab_runs_without_root() {
    let home = tempfile::tempdir().unwrap();
    let test = std::env::current_exe().unwrap();
    let weft = test.ancestors().nth(2).unwrap().join("weft");
    std::fs::copy(&weft, home.path().join("weft")).unwrap();
    std::fs::write(home.path().join("a.yaml"), NAMESPACE.to_owned() + &sleeper("one") + &web(1, "rootless"))
        .unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.arg(home.path().join("weft")).arg("lab").args(arguments).current_dir(home.path());
        command.env("WEFT_LAB_STATE_DIR", home.path().join("state")).output().unwrap()
    };
    assert!(Command::new("chown").arg("-R").arg("65534").arg(home.path()).status().unwrap().success());
    let up = run(&["up", "--no-mesh", "-f", "a.yaml"]);
    let told = String::from_utf8_lossy(&up.stderr).into_owned();
    let page = run(&["exec", "a/one", "--", "curl", "-sS", "-m", "5", "http://web/"]);
    let down = run(&["down"]);
    assert!(up.status.success(), "{told}");
    assert_eq!(
        String::from_utf8_lossy(&page.stdout),
        "rootless",
        "{}",
        String::from_utf8_lossy(&page.stderr)
    );
    assert!(down.status.success());
}
