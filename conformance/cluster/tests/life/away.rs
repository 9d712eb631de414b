//! Parts of Weft that are replaced or taken away while pods call each other: an upgrade, what is deleted without uninstalling,
//! and the end.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::weft::Weft;
use super::{FROM_MESH, FROM_OUTSIDE, pages};

/// Waits until a call is refused; what it says.
#[track_caller]
fn refused(weft: &Weft, call: &str) -> String {
    weft.until(&format!("if {call} 2>&1; then exit 1; fi"))
}

/// Binds the ServiceAccount `looker` to what the chart has for viewers.
const LOOKER: &str = "--set 'viewers[0].kind=ServiceAccount' --set 'viewers[0].name=looker' \
                      --set 'viewers[0].namespace=default'";

/// Agents and proxies of both nodes are replaced while a pod calls, and each node has a ready proxy at any time.
pub(crate) fn an_upgrade_fails_no_request(weft: &Weft) {
    let upgraded = AtomicBool::new(false);
    println!("== an upgrade, while a pod calls");
    let printed = thread::scope(|scope| {
        let watched = scope.spawn(|| {
            let mut looks = 0_u32;
            while !upgraded.load(Ordering::Relaxed) {
                let proxies =
                    weft.get(&["pods", "--namespace=weft-system", "-lapp.kubernetes.io/name=weft-proxy"]);
                let nodes: BTreeSet<&str> = ready(&proxies).collect();
                assert_eq!(nodes.len(), 2, "a node without a ready proxy: {nodes:?}");
                looks += 1;
                thread::sleep(Duration::from_millis(200));
            }
            looks
        });
        let printed = weft.sh(UPGRADE);
        upgraded.store(true, Ordering::Relaxed);
        assert!(watched.join().unwrap() > 10);
        printed
    });
    assert_eq!(printed.code, 0, "{}{}\n{}", printed.stdout, printed.stderr, weft.state());
    let (good, bad) = printed.stdout.trim().lines().last().unwrap().split_once(' ').unwrap();
    assert!(good.parse::<u32>().unwrap() > 50, "{good} requests are no load");
    assert_eq!(bad, "0", "requests failed: {}{}\n{}", printed.stdout, printed.stderr, weft.state());
    let levels = weft.get(&["pods", "--namespace=weft-system"]).to_string();
    for part in ["weft-controller", "weft-agent", "weft-proxy"] {
        assert!(
            levels.contains(&format!("info,{}=debug", part.replace('-', "_"))),
            "{part} was not upgraded"
        );
    }
}

/// Prints how many requests went well and how many did not, on connections of their own and on ones that are kept.
const UPGRADE: &str = r#"
load=$(mktemp); trap 'rm -f "$load"' EXIT
kubectl -n shop exec deployment/web -- sh -c '
  call() { curl -sS --max-time 30 -o /dev/null -w "%{http_code}\n" "$@"; }
  { while [ ! -e /tmp/upgraded ]; do call http://catalog/; done &
    while [ ! -e /tmp/upgraded ]; do call --rate 10/s "http://catalog/?n=[1-20]"; done; wait; } |
  { good=0; bad=0; while read -r code; do if [ "$code" = 200 ]; then good=$((good + 1)); else bad=$((bad + 1)); fi; done
    echo "$good $bad"; }' >"$load" &
helm upgrade weft deploy/helm/weft --namespace weft-system --reuse-values --wait --timeout 10m \
  --set controller.log='info\,weft_controller=debug' --set agent.log='info\,weft_agent=debug' \
  --set proxy.log='info\,weft_proxy=debug' --set exemptNamespaces='{legacy}' >/dev/null
kubectl -n weft-system rollout status --timeout=10m deployment/weft-controller daemonset/weft-agent daemonset/weft-proxy >/dev/null
kubectl -n shop exec deployment/web -- sh -c ': >/tmp/upgraded'
wait
cat "$load"
"#;

/// Nodes of pods that are ready.
fn ready(pods: &Value) -> impl Iterator<Item = &str> {
    let is_ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
    };
    pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(is_ready)
        .map(|pod| pod["spec"]["nodeName"].as_str().unwrap())
}

/// The upgrade has exempted `legacy`.
pub(crate) fn an_exempt_namespace_stays_outside_whatever_its_labels(weft: &Weft) {
    println!("== an exempt namespace is labelled: its pods, running and new, stay outside, and that is said");
    weft.ok("kubectl label namespace legacy weft-mesh.dev/mesh=enabled");
    // Not by a rollout, which would leave a ReplicaSet behind.
    weft.ok(
        "kubectl -n legacy delete pods --all && kubectl -n legacy rollout status deployment/job --timeout=3m",
    );
    refused(weft, FROM_OUTSIDE);
    let pods = weft.get(&["pods", "--namespace=legacy"]);
    assert!(!pods.to_string().contains("weft-mesh.dev/Meshed"), "{pods:#}");
    let said = "Namespace legacy is labelled, but exempt: its pods are never enrolled";
    assert!(weft.ok("weft status -n legacy").contains(said));
    let checked = weft.sh("weft check -n legacy").stdout;
    assert!(checked.contains("WEFT020") && checked.contains("is labelled, but exempt"), "{checked}");
    weft.ok("kubectl label namespace legacy weft-mesh.dev/mesh-");
}

pub(crate) fn deleting_the_proxies_leaves_pods_closed(weft: &Weft) {
    println!("== the proxies' DaemonSet is deleted: pods stay closed");
    weft.ok("kubectl -n weft-system delete daemonset weft-proxy --cascade=foreground --timeout=5m");
    refused(weft, FROM_OUTSIDE);
    refused(weft, FROM_MESH);
    let checked = weft.sh("weft check");
    assert_eq!(checked.code, 1);
    assert!(checked.stdout.contains("ERROR    WEFT012"), "{}", checked.stdout);
    weft.install(LOOKER);
    weft.until(FROM_MESH);
    refused(weft, FROM_OUTSIDE);
}

pub(crate) fn deleting_the_agents_lets_no_enrolled_pod_start(weft: &Weft) {
    println!("== the agents' DaemonSet is deleted: pods in the mesh go on, and new ones wait");
    weft.ok("kubectl -n weft-system delete daemonset weft-agent --cascade=foreground --timeout=5m");
    weft.ok(FROM_MESH);
    refused(weft, FROM_OUTSIDE);
    weft.ok("kubectl -n shop run late --image=curlimages/curl:8 --command -- sleep infinity");
    weft.until(
        "kubectl -n shop get events --field-selector reason=FailedCreatePodSandBox -o jsonpath='{.items[*].message}' \
           | grep 'weft-agent at /run/weft/cni.sock did not answer'",
    );
    assert_eq!(weft.ok("kubectl -n shop get pod late -o jsonpath='{.status.phase}'"), "Pending");
    println!(
        "== they come back with evictUnmeshed and no exemption: what started outside the mesh meanwhile is made anew"
    );
    weft.ok("kubectl label namespace legacy weft-mesh.dev/mesh=enabled");
    let before = weft.pods("legacy");
    weft.install("--set agent.evictUnmeshed=true --set-json 'exemptNamespaces=[]'");
    weft.ok("kubectl -n shop wait pod late --for=condition=Ready --timeout=3m");
    weft.ok("kubectl -n shop exec late -- curl -fsS --max-time 10 http://catalog/");
    weft.ok("kubectl -n shop delete pod late --grace-period=1");
    weft.eventually(
        "all are others",
        || weft.pods("legacy"),
        |now| now.len() == 1 && now.is_disjoint(&before),
    );
    weft.ok("kubectl -n legacy wait pod --all --for=condition=weft-mesh.dev/Meshed --timeout=3m");
    weft.ok("kubectl label namespace legacy weft-mesh.dev/mesh-");
    refused(weft, FROM_OUTSIDE);
}

pub(crate) fn an_uninstallation_that_fails_deletes_nothing(weft: &Weft) {
    println!("== uninstall with a hook that cannot run");
    weft.ok("kubectl -n weft-system create quota none --hard=pods=0");
    let ended = weft.sh("helm uninstall weft --namespace weft-system --timeout 10s");
    assert_ne!(ended.code, 0, "{}", ended.stdout);
    for part in ["controller", "agent", "proxy"] {
        let ready = format!(
            "kubectl -n weft-system get pods -l app.kubernetes.io/name=weft-{part} --no-headers | grep -c ' 1/1 '"
        );
        assert_eq!(weft.ok(&ready).trim(), "2", "{part}");
    }
    weft.ok(FROM_MESH);
    refused(weft, FROM_OUTSIDE);
    weft.ok("kubectl -n weft-system delete quota none");
}

pub(crate) fn uninstalling_opens_pods_without_restarting_them(weft: &Weft) {
    println!("== uninstall");
    let uninstalls = |commands: &str| !commands.contains("helm upgrade");
    pages::run_some(weft, "upgrade-and-uninstall", uninstalls);
    let route = weft.get(&["httproute", "--namespace=shop", "catalog"]);
    assert_eq!(route["status"]["parents"], Value::Array(vec![]), "{route:#}");
    weft.ok("kubectl delete httproute --all -n shop; kubectl delete httproute --all -n partner");
    weft.ok("kubectl label namespace shop partner weft-mesh.dev/mesh-");
    weft.ok(FROM_OUTSIDE);
    let answer = weft.ok(FROM_MESH);
    assert!(!answer.contains("spiffe"), "{answer}");
}
