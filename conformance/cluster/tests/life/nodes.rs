//! Weft's node side on real kubelets and containerd: the plugin is kept in place, pods of every kind are right, only its own
//! proxy gets a node's configuration, and pods and nodes that end without a word leave nothing behind.

use serde_json::Value;

use super::weft::{self, Weft};
use super::{FROM_MESH, FROM_OUTSIDE};

const CONFLIST: &str = "/etc/cni/net.d/10-pods.conflist";
const NODES: [&str; 2] = ["node1", "node2"];

/// All of it; pods of node2 are started anew.
pub(crate) fn check(weft: &Weft) {
    plugin_stays_in_place(weft);
    pods_of_every_kind_are_right(weft);
    only_its_own_proxy_gets_a_nodes_configuration(weft);
    pod_that_is_deleted_by_force_is_ended(weft);
    node_that_lost_power_starts_nothing_outside_the_mesh(weft);
    weft.ok("kubectl delete namespace yard --timeout=2m");
}

fn on(weft: &Weft, node: &str, script: &str) -> String {
    let out = weft.cluster.exec_on(node, &["sh", "-c", script]).unwrap();
    format!("{}{}", out.stdout, out.stderr)
}

fn status(weft: &Weft, node: &str) -> Value {
    serde_json::from_str(&on(weft, node, "curl -s http://127.0.0.1:15020/status")).unwrap_or_default()
}

fn pods(weft: &Weft, namespace: &str, selector: &str) -> Vec<Value> {
    let list = weft.get(&["pods", "--namespace", namespace, "--selector", selector]);
    list["items"].as_array().unwrap().clone()
}

/// Status and reason of the pod's condition.
fn meshed(pod: &Value) -> Option<(String, String)> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|one| one["type"] == "weft-mesh.dev/Meshed")?;
    Some((condition["status"].as_str()?.to_owned(), condition["reason"].as_str()?.to_owned()))
}

fn plugin_stays_in_place(weft: &Weft) {
    println!("== the entry comes back when the cluster's CNI rewrites its file, and stays last");
    let list = || -> Value {
        serde_json::from_str(&on(weft, "node1", &format!("cat {CONFLIST}"))).unwrap_or_default()
    };
    let types = || -> Vec<String> {
        let plugins = list()["plugins"].as_array().cloned().unwrap_or_default();
        plugins.iter().map(|plugin| plugin["type"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let chained = types();
    assert_eq!(chained.last().map(String::as_str), Some("weft-cni"), "{chained:?}");
    let mut other = list();
    other["plugins"].as_array_mut().unwrap().rotate_right(1);
    on(
        weft,
        "node1",
        &format!(
            "cp {CONFLIST} /run/as-it-was; echo '{other}' >{CONFLIST}.new; mv {CONFLIST}.new {CONFLIST}"
        ),
    );
    weft.eventually("last again", types, |found| *found == chained);
    on(weft, "node1", &format!("mv /run/as-it-was {CONFLIST}"));
    on(weft, "node1", "rm /opt/cni/bin/weft-cni");
    let binary = || on(weft, "node1", "echo '{}' | CNI_COMMAND=VERSION /opt/cni/bin/weft-cni");
    weft.eventually("the plugin is back", binary, |said| said.contains("supportedVersions"));
}

fn pods_of_every_kind_are_right(weft: &Weft) {
    println!(
        "== a job with an init container and a sidecar calls from each of them; the host's network is left alone"
    );
    weft.cluster.apply(include_str!("nodes/kinds.yaml")).unwrap();
    weft.ok("kubectl -n yard wait job once --for=condition=Complete --timeout=90s");
    let ended = || pods(weft, "yard", "job-name=once");
    weft.eventually("a pod that has ended says nothing", ended, |all| {
        all.iter().all(|pod| meshed(pod).is_none())
    });
    weft.ok("kubectl -n yard wait pod host taken --for=condition=Ready --timeout=1m");
    let host = pods(weft, "yard", "app=host");
    assert_eq!(meshed(&host[0]), None);
    println!("== an application on one of Weft's ports is told");
    let taken = || pods(weft, "yard", "app=taken").first().and_then(meshed);
    weft.ok("kubectl -n yard label pod taken weft-mesh.dev/mesh=enabled --overwrite");
    weft.eventually("port taken", taken, |found| *found == Some(("False".into(), "PortTaken".into())));
    weft.ok("kubectl -n yard delete pod taken host");
}

fn only_its_own_proxy_gets_a_nodes_configuration(weft: &Weft) {
    println!(
        "== tokens of tenants, of no pod, for another audience and of another node give no configuration"
    );
    let program = weft::programs().join("weft-proxy");
    let logs = weft.cluster.state().folder().join("nodes/node1/var-log");
    std::fs::copy(program, logs.join("proxy")).unwrap();
    let service = weft.get(&["service", "--namespace=weft-system", "weft-controller"]);
    let address = service["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let asks = |arguments: &[&str]| {
        let token = weft.cluster.kubectl(&[&["create", "token"], arguments].concat()).unwrap();
        std::fs::write(logs.join("token"), token).unwrap();
        on(
            weft,
            "node1",
            &format!(
                "timeout 3 /var/log/proxy --node node1 --node-token-file /var/log/token --agent-socket /none \
                 --controller {address}:15012 --controller-ca /run/weft/root.pem --admin 127.0.0.1:15999"
            ),
        )
    };
    let bound = |pod: &Value| {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
        [
            "--bound-object-kind=Pod".to_owned(),
            format!("--bound-object-name={}", text("name")),
            format!("--bound-object-uid={}", text("uid")),
        ]
    };
    let tenant = bound(&pods(weft, "shop", "app=client")[0]);
    let proxies = pods(weft, "weft-system", "app.kubernetes.io/name=weft-proxy");
    let of = |node: &str| bound(proxies.iter().find(|pod| pod["spec"]["nodeName"] == node).unwrap());
    let (own, other) = (of("node1"), of("node2"));
    let words = |start: &[&str], bound: &[String; 3]| -> Vec<String> {
        start.iter().map(|word| (*word).to_owned()).chain(bound.iter().cloned()).collect()
    };
    let proxy = ["weft-proxy", "--namespace=weft-system", "--audience=weft-ca"];
    for (what, arguments, told) in [
        (
            "a tenant's",
            words(&["default", "--namespace=shop", "--audience=weft-ca"], &tenant),
            "the proof from spiffe://cluster.local/ns/shop/sa/default",
        ),
        ("without the audience", words(&proxy[..2], &own), "the node proof is not valid"),
        ("of no pod", proxy.map(str::to_owned).into(), "the node proof is not valid"),
        ("of another node's proxy", words(&proxy, &other), "the proof from node node2"),
        ("the proxy's own", words(&proxy, &own), "configuration in force"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = asks(&arguments);
        assert!(said.contains(told), "{what}: {said}");
        assert_eq!(said.contains("configuration in force"), what == "the proxy's own", "{what}: {said}");
        println!("   {what}: {told}");
    }
    std::fs::remove_file(logs.join("token")).unwrap();
}

fn pod_that_is_deleted_by_force_is_ended(weft: &Weft) {
    println!("== a pod that is deleted by force leaves nothing with agent and proxy");
    weft.ok("kubectl -n yard run forced --image=curlimages/curl:8 --command -- sleep infinity
         kubectl -n yard wait pod forced --for=condition=weft-mesh.dev/Meshed --timeout=2m");
    let known = || NODES.map(|node| status(weft, node).to_string().contains("forced"));
    assert_ne!(known(), [false, false]);
    weft.ok("kubectl -n yard delete pod forced --force --grace-period=0");
    weft.eventually("forgotten", known, |known| *known == [false, false]);
    assert_eq!(NODES.map(|node| status(weft, node)["strayNamespaces"].clone()), [0, 0]);
}

fn node_that_lost_power_starts_nothing_outside_the_mesh(weft: &Weft) {
    println!("== a node that lost power: pods wait for the agent and start in the mesh");
    let ended = weft.cluster.command("restart-node").arg("node2").status().unwrap();
    assert!(ended.success());
    let here = || status(weft, "node2");
    weft.eventually("the agent is back", here, |status| {
        status["missing"].is_null() && status["node"] == "node2"
    });
    assert_eq!(here()["foundUnmeshed"], 0);
    let all = || pods(weft, "shop", "app");
    let right = |pod: &Value| {
        let enrolled = meshed(pod) == Some(("True".into(), "Enrolled".into()));
        enrolled && pod["status"]["containerStatuses"][0]["ready"] == true
    };
    weft.eventually("all run in the mesh", all, |all| all.len() == 5 && all.iter().all(right));
    weft.until(FROM_MESH);
    weft.until(&format!("if {FROM_OUTSIDE} 2>&1; then exit 1; fi"));
}
