//! What `weft status` shows of a cluster and of proxies that answered.

use super::proxies::Views;
use super::{Status, judge};
use crate::testing::{HEALTHY, facts};

const CERTIFICATES: &str = r#"[{"identity": "spiffe://cluster.local/ns/shop/sa/default",
    "notBefore": "2026-11-21T10:00:00Z", "notAfter": "2026-11-22T10:00:00Z"}]"#;

const PODS: &str =
    r#"[{"uid": "uid-web", "plaintextPorts": [9090, 9443]}, {"uid": "uid-new", "plaintextPorts": null}]"#;
const NODES: &str = r#"{
    "node1": {"streams": 1, "inForce": 12, "sent": 12, "acknowledged": "2026-11-21T11:59:56Z"},
    "node2": {"streams": 1, "inForce": 11, "sent": 12, "acknowledged": "2026-11-21T11:00:00Z"}
}"#;

fn text(status: &Status) -> String {
    status.text("2026-11-21T12:00:00Z".parse().unwrap())
}

fn shown(changes: &[&str], namespace: Option<&str>) -> String {
    let views = Views::with("node1", r#"{"version": 12, "rejected": []}"#, CERTIFICATES, PODS, NODES);
    let facts = facts(&[&[HEALTHY], changes].concat());
    text(&judge(&facts, &views, namespace).unwrap())
}

#[test]
fn nodes_and_pods_are_shown_with_what_kernel_and_proxy_say() {
    let expected = "\
NODE   AGENT  PROXY  VERSION  ENROLLED  IN MESH  CONFIG  ACKNOWLEDGED          CERTIFICATES
node1  ready  ready  0.1.0    1         1        12      the newest, 4 s ago   1, the oldest 2 h, the next ends in 22 h
node2  ready  ready  0.1.0    1         1        -       11 of 12, 60 min ago  -

NAMESPACE  POD  NODE   KERNEL  PROXY    CALLERS                          MESSAGE
shop       web  node1  True    serving  strict, plaintext at 9090, 9443
shop       db   node2  True    -        strict
"
    .replace("0.1.0", env!("CARGO_PKG_VERSION"));
    assert_eq!(shown(&[], None), expected);
}

#[test]
fn what_is_not_covered_is_named() {
    let host = "kind: Pod\nmetadata: {name: host, namespace: shop}\nspec: {hostNetwork: true, containers: [{name: c}]}";
    let out = "kind: Pod\nmetadata: {name: out, namespace: shop, labels: {weft-mesh.dev/mesh: disabled}}\nspec: {containers: [{name: c}]}";
    let dns = "kind: Service\nmetadata: {name: dns, namespace: shop}\nspec: {ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}";
    let strong = "kind: Pod\nmetadata: {name: strong, namespace: shop}\nspec: {containers: [{name: c, securityContext: {privileged: true}}]}";
    let text = shown(&[host, out, dns, strong], None);
    for line in [
        "Pod shop/host is in its node's network: not in the mesh",
        "1 pod of Namespace shop left out by the label weft-mesh.dev/mesh=disabled",
        "Service shop/dns: 53/UDP is not encrypted",
        "Pod shop/strong has a privileged container and can get around the capture of what it sends",
    ] {
        assert!(text.contains(&format!("\n  {line}\n")), "{line}: {text}");
    }
}

#[test]
fn a_labelled_namespace_that_is_exempt_is_named_and_its_pods_are_not_expected_in_the_mesh() {
    let agents = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: weft-agent, namespace: weft-system}\nspec: {selector: {}, \
        template: {spec: {containers: [{name: weft-agent, command: [weft-agent, \"--exempt-namespace=storage,shop\"]}]}}}";
    let text = shown(&[agents], None);
    let line = "Namespace shop is labelled, but exempt: its pods are never enrolled";
    assert!(text.contains(&format!("\n  {line}\n")), "{text}");
    assert!(text.contains("No pod is enrolled") && !text.contains("left out by the label"), "{text}");
}

#[test]
fn what_could_not_be_asked_is_said() {
    let mut facts = facts(&[HEALTHY]);
    facts.nodes = Err(crate::cluster::Unknown::Forbidden("nodes is forbidden".to_owned()));
    let mut views = Views::default();
    views.problems.insert("pods/proxy is forbidden".to_owned());
    let text = text(&judge(&facts, &views, None).unwrap());
    assert!(text.contains("  proxies: pods/proxy is forbidden\n  nodes: nodes is forbidden\n"), "{text}");
}

#[test]
fn an_empty_namespace_says_how_to_enrol_it() {
    assert!(
        shown(&[], Some("other")).contains("kubectl label namespace NAMESPACE weft-mesh.dev/mesh=enabled")
    );
}

#[test]
fn a_permissive_namespace_and_a_pod_outside_the_mesh_are_shown_so() {
    let namespace = "kind: Namespace\nmetadata: {name: shop, labels: {weft-mesh.dev/mesh: enabled, weft-mesh.dev/mtls: permissive}}";
    let pod = HEALTHY.split("\n---\n").find(|text| text.contains("name: web, namespace: shop, uid")).unwrap();
    let out = pod.replace(
        "status: \"True\", reason: Meshed, message: \"\"",
        "status: \"False\", reason: PortInUse, message: port 15001 is taken",
    );
    let text = shown(&[namespace, &out.replace("uid-web", "uid-other")], None);
    let line = text.lines().find(|line| line.starts_with("shop       web")).unwrap();
    assert_eq!(
        line,
        "shop       web  node1  False   not serving  permissive  PortInUse: port 15001 is taken"
    );
}

#[test]
fn a_namespace_on_its_way_into_the_mesh_is_shown_with_what_is_waited_for() {
    let enrolling = "kind: Namespace\nmetadata: {name: shop, labels: {weft-mesh.dev/mesh: enabled}}\n\
        status: {conditions: [{type: weft-mesh.dev/Enrolled, status: \"False\", reason: Enrolling, message: 1 of 2}]}";
    let text = shown(&[enrolling], None);
    assert!(text.contains("\nNAMESPACE  ENROLMENT  MESSAGE\nshop       Enrolling  1 of 2\n"), "{text}");
    assert!(text.contains("shop       web  node1  True    serving  permissive"), "{text}");
    let strict = enrolling.replace("\"False\", reason: Enrolling", "\"True\", reason: Strict");
    let text = shown(&[&strict], None);
    assert!(text.contains("\nshop       Strict\n"), "{text}");
    assert!(text.contains("shop       web  node1  True    serving  strict"), "{text}");
}
