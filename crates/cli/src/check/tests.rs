//! What each check finds, on a cluster in which all is well but for one thing.

use jiff::Timestamp;

use super::list::{CHECKS, View};
use super::rights::Right;
use super::verdict::{Finding, Severity};
use super::{Powers, judge};
use crate::cluster::Unknown;
use crate::facts::Facts;
use crate::testing::{HEALTHY, facts};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn view(facts: &Facts) -> View<'_> {
    View { facts, rights: None, namespace: None, now: at("2026-11-21T12:00:10Z") }
}

/// What a check finds on the healthy cluster with these changes.
fn found(id: &str, changes: &[&str]) -> Vec<Finding> {
    let facts = facts(&[&[HEALTHY], changes].concat());
    let check = CHECKS.iter().find(|check| check.id == id).unwrap();
    (check.judge)(&view(&facts)).unwrap()
}

/// The only thing that a check finds.
fn only(id: &str, change: &str) -> Finding {
    let found = found(id, &[change]);
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

#[track_caller]
fn says(finding: &Finding, severity: Severity, object: &str, words: &str) {
    assert_eq!((finding.severity, finding.object.as_str()), (severity, object), "{finding:?}");
    assert!(finding.message.contains(words), "{finding:?}");
}

#[test]
fn a_healthy_cluster_passes_every_check() {
    let facts = facts(&[HEALTHY]);
    for check in CHECKS.iter().filter(|check| check.id != "WEFT004") {
        assert_eq!((check.judge)(&view(&facts)), Ok(vec![]), "{}", check.id);
    }
    let report = judge(&view(&facts), false);
    assert_eq!(report.exit_code(), 0, "{}", report.text());
    assert!(report.text().ends_with("0 checks with errors, 0 with warnings.\n"), "{}", report.text());
}

#[test]
fn ids_are_unique_and_in_order() {
    let ids: Vec<&str> = CHECKS.iter().map(|check| check.id).collect();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(ids, sorted);
}

#[test]
fn what_cannot_be_asked_is_said_and_decides_the_exit_code() {
    let mut facts = facts(&[HEALTHY]);
    facts.network_policies = Err(Unknown::Forbidden("networkpolicies is forbidden".to_owned()));
    let report = judge(&view(&facts), false);
    assert_eq!(report.exit_code(), 2);
    assert!(report.text().contains("could not be looked at: networkpolicies is forbidden"));
    facts.version = Ok("v1.29.1".to_owned());
    assert_eq!(judge(&view(&facts), false).exit_code(), 1, "an error counts more");
    let json = serde_json::to_value(judge(&view(&facts), false)).unwrap();
    assert_eq!(json["checks"][0]["id"], "WEFT001");
    assert_eq!(json["checks"][0]["result"], "error");
    assert_eq!(json["checks"][0]["hint"], "docs/checks.md#weft001");
}

#[test]
fn an_old_api_server_is_an_error() {
    let mut facts = facts(&[HEALTHY]);
    facts.version = Ok("v1.29.9-gke.100".to_owned());
    let found = super::cluster::version(&view(&facts)).unwrap();
    says(&found[0], Severity::Error, "", "v1.29.9-gke.100; Weft needs 1.30");
}

#[test]
fn missing_and_foreign_definitions_are_named() {
    let mut empty = facts(&[HEALTHY]);
    empty.definitions = Ok(vec![]);
    let found = super::cluster::definitions(&view(&empty)).unwrap();
    let name = "CustomResourceDefinition httproutes.gateway.networking.k8s.io";
    says(&found[0], Severity::Warning, name, "install the Gateway API's definitions");
    assert_eq!(found.len(), 5);
    for (release, severity, words) in
        [("v1.9.0", Severity::Warning, "newer than this Weft"), ("v1.2.1", Severity::Info, "came later")]
    {
        let crd = HEALTHY.split("\n---\n").find(|text| text.contains("name: httproutes")).unwrap();
        says(&only("WEFT002", &crd.replace("v1.7.0", release)), severity, name, words);
    }
}

#[test]
fn nodes_with_an_old_kernel_or_another_system_are_named() {
    let node = HEALTHY.split("\n---\n").find(|text| text.contains("name: node1")).unwrap();
    says(&only("WEFT003", &node.replace("6.18.5", "4.19.0-26-amd64")), Severity::Error, "Node node1", "5.2");
    let windows = node.replace("operatingSystem: linux", "operatingSystem: windows");
    says(&only("WEFT003", &windows), Severity::Info, "Node node1", "not enrolled");
}

#[test]
fn missing_rights_are_named_before_an_installation() {
    let facts = facts(&[HEALTHY]);
    let right = |what: &str, allowed| Right { what: what.to_owned(), allowed };
    let rights = vec![right("create daemonsets in weft-system", false), right("create namespaces", true)];
    let view = View { rights: Some(Ok(rights)), ..view(&facts) };
    let found = super::cluster::rights(&view).unwrap();
    assert_eq!(found.len(), 1);
    says(&found[0], Severity::Error, "", "you may not create daemonsets in weft-system");
}

#[test]
fn a_namespace_that_refuses_privileged_pods_is_an_error() {
    let namespace = "kind: Namespace\nmetadata: {name: weft-system, labels: {pod-security.kubernetes.io/enforce: baseline}}";
    says(&only("WEFT005", namespace), Severity::Error, "Namespace weft-system", "baseline only");
}

#[test]
fn addresses_outside_the_given_ranges_are_named() {
    let service = "kind: Service\nmetadata: {name: odd, namespace: shop}\nspec: {clusterIP: 10.97.0.1, clusterIPs: [10.97.0.1]}";
    says(&only("WEFT006", service), Severity::Error, "Service shop/odd", "10.97.0.1, outside");
}

#[test]
fn ranges_are_suggested_where_they_can_be_found() {
    let mut facts = facts(&[
        HEALTHY,
        "kind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [10.96.0.0/16, 'fd96::/112']}",
    ]);
    facts.deployments = Ok(vec![]);
    let found = super::cluster::ranges(&view(&facts)).unwrap();
    says(&found[0], Severity::Info, "", "--set 'clusterRanges.services={10.96.0.0/16,fd96::/112}'");
    says(&found[0], Severity::Info, "", "10.244.1.0/24, 10.244.2.0/24");
    let mut with_kubeadm = crate::testing::facts(&[
        HEALTHY,
        "kind: ConfigMap\nmetadata: {name: kubeadm-config}\ndata:\n  ClusterConfiguration: |\n    networking:\n      podSubnet: 10.244.0.0/16\n      serviceSubnet: 10.96.0.0/12\n",
    ]);
    with_kubeadm.deployments = Ok(vec![]);
    let found = super::cluster::ranges(&view(&with_kubeadm)).unwrap();
    says(&found[0], Severity::Info, "", "--set 'clusterRanges.services={10.96.0.0/12}'");
    says(&found[0], Severity::Info, "", "--set 'clusterRanges.pods={10.244.0.0/16}'");
}

#[test]
fn a_controller_without_ready_replicas_or_leader_is_an_error() {
    let controller = HEALTHY.split("\n---\n").find(|text| text.contains("kind: Deployment")).unwrap();
    let object = "Deployment weft-system/weft-controller";
    let down = controller.replace("readyReplicas: 2", "readyReplicas: 0");
    says(&only("WEFT010", &down), Severity::Error, object, "no replica is ready");
    let half = controller.replace("readyReplicas: 2", "readyReplicas: 1");
    says(&only("WEFT010", &half), Severity::Warning, object, "1 of 2");
    let mut facts = facts(&[HEALTHY]);
    let late = View { now: at("2026-11-21T12:05:00Z"), ..view(&facts) };
    let found = super::parts::controller(&late).unwrap();
    says(&found[0], Severity::Error, "Lease weft-system/weft-controller", "5 min ago");
    facts.deployments = Ok(vec![]);
    says(&super::parts::controller(&view(&facts)).unwrap()[0], Severity::Error, "", "is not installed");
}

#[test]
fn a_node_without_agent_or_proxy_is_named() {
    for (id, part) in [("WEFT011", "weft-agent"), ("WEFT012", "weft-proxy")] {
        let name = format!("name: {part}-node2");
        let pod = HEALTHY.split("\n---\n").find(|text| text.contains(&name)).unwrap();
        let down = pod.replace("status: \"True\"", "status: \"False\"");
        assert_ne!(down, pod);
        says(&only(id, &down), Severity::Error, "Node node2", "is ready");
    }
}

#[test]
fn nodes_that_get_no_agent_by_their_labels_are_not_missed() {
    let windows = "kind: Node\nmetadata: {name: win, labels: {kubernetes.io/os: windows}}";
    assert_eq!(found("WEFT011", &[windows]), vec![]);
}

#[test]
fn different_versions_are_told_apart_from_a_rollout() {
    let pod = HEALTHY.split("\n---\n").find(|text| text.contains("name: weft-proxy-node2")).unwrap();
    let old = pod.replace("VERSION", "0.0.9");
    says(&only("WEFT013", &old), Severity::Warning, "weft-proxy", "1 of 0.0.9");
    let both = pod.replace("weft-proxy-node2", "weft-proxy-node1").replace("VERSION", "0.0.9");
    let found = found("WEFT013", &[&old, &both]);
    says(&found[0], Severity::Error, "", "different versions: 0.0.9, ");
}

#[test]
fn a_node_that_still_waits_for_its_agent_is_named() {
    let node = "kind: Node\nmetadata: {name: node3}\nspec: {taints: [{key: weft-mesh.dev/agent-not-ready, effect: NoSchedule}]}";
    says(&only("WEFT014", node), Severity::Warning, "Node node3", "agent-not-ready");
}

#[test]
fn a_missing_broken_or_ending_root_is_named() {
    let object = "ConfigMap weft-system/weft-trust";
    let broken = "kind: ConfigMap\nmetadata: {name: weft-trust}\ndata: {root.pem: nonsense}";
    says(&only("WEFT015", broken), Severity::Error, object, "no certificate");
    let facts = facts(&[HEALTHY]);
    let later = View { now: at("2030-01-01T00:00:00Z"), ..view(&facts) };
    assert_eq!(super::parts::trust(&later).unwrap(), vec![]);
    let ended = View { now: at("2037-01-01T00:00:00Z"), ..view(&facts) };
    says(&super::parts::trust(&ended).unwrap()[0], Severity::Error, object, "that ended at");
}

#[test]
fn a_mesh_object_that_is_not_accepted_says_why() {
    let mesh = "kind: XMesh\napiVersion: gateway.networking.x-k8s.io/v1alpha1\nmetadata: {name: weft}\nspec: {controllerName: weft-mesh.dev/mesh}\nstatus: {conditions: [{type: Accepted, status: \"False\", message: parametersRef is not supported}]}";
    says(&only("WEFT016", mesh), Severity::Error, "XMesh weft", "parametersRef is not supported");
}

#[test]
fn misspelt_labels_are_errors_that_say_what_to_write() {
    let namespace = "kind: Namespace\nmetadata: {name: shop, labels: {weft-mesh.dev/mesh: enabeld}}";
    says(&only("WEFT020", namespace), Severity::Error, "Namespace shop", "write enabled or disabled");
    let key = "kind: Namespace\nmetadata: {name: x, labels: {weft-mesh.dev/mesch: enabled}}";
    says(&only("WEFT020", key), Severity::Error, "Namespace x", "weft-mesh.dev/mesch, which means nothing");
    let system = "kind: Namespace\nmetadata: {name: kube-system, labels: {weft-mesh.dev/mesh: enabled}}";
    says(&only("WEFT020", system), Severity::Warning, "Namespace kube-system", "never enrolled");
    let pod = "kind: Pod\nmetadata: {name: p, namespace: shop, labels: {weft-mesh.dev/mesh: 'off'}}";
    says(&only("WEFT021", pod), Severity::Error, "Pod shop/p", "weft-mesh.dev/mesh=off");
    let gateway = "kind: Pod\nmetadata: {name: g, namespace: shop, labels: {weft-mesh.dev/managed-by: weft-controller}}";
    assert_eq!(found("WEFT021", &[gateway]), vec![], "what the controller puts on Gateways' pods");
}

#[test]
fn enrolled_pods_that_are_not_in_the_mesh_say_why() {
    let pod = HEALTHY.split("\n---\n").find(|text| text.contains("name: web, namespace: shop, uid")).unwrap();
    let out = pod.replace(
        "status: \"True\", reason: Meshed, message: \"\"",
        "status: \"False\", reason: PortInUse, message: port 15001 is taken by python3",
    );
    says(&only("WEFT022", &out), Severity::Error, "Pod shop/web", "PortInUse: port 15001");
    let silent = pod.replace("weft-mesh.dev/Meshed", "Other");
    says(&only("WEFT022", &silent), Severity::Error, "Pod shop/web", "agent ready?");
    let ended = out.replace("phase: Running", "phase: Succeeded");
    assert_eq!(found("WEFT022", &[&ended]), vec![]);
    let disabled = out.replace("{app: web}", "{app: web, weft-mesh.dev/mesh: disabled}");
    assert_eq!(found("WEFT022", &[&disabled]), vec![]);
}

#[test]
fn pods_in_their_nodes_network_are_named() {
    let pod = "kind: Pod\nmetadata: {name: host, namespace: shop}\nspec: {hostNetwork: true, containers: [{name: c}]}";
    says(&only("WEFT023", pod), Severity::Warning, "Pod shop/host", "node's network");
}

#[test]
fn pods_that_can_change_their_own_network_are_told_by_how() {
    let pod = |spec: &str| format!("kind: Pod\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}");
    let asked =
        pod("{containers: [{name: c, securityContext: {capabilities: {add: [NET_ADMIN], drop: [ALL]}}}]}");
    says(&only("WEFT024", &asked), Severity::Warning, "Pod shop/p", "the capability NET_ADMIN");
    let default = pod("{containers: [{name: c}]}");
    says(&only("WEFT024", &default), Severity::Info, "Namespace shop", "1 pod run as root");
    let user = pod("{securityContext: {runAsUser: 1000}, containers: [{name: c}]}");
    assert_eq!(found("WEFT024", &[&user]), vec![]);
    let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(serde_json::json!({
        "metadata": {}, "spec": {"containers": [{"name": "c", "securityContext": {"privileged": true}}]}
    }))
    .unwrap();
    assert_eq!(super::powers(&pod), Powers::Asked("a privileged container".to_owned()));
}

#[test]
fn sidecars_of_other_meshes_are_named() {
    let pod = "kind: Pod\nmetadata: {name: p, namespace: shop}\nspec: {containers: [{name: c}], initContainers: [{name: istio-proxy, restartPolicy: Always}]}";
    says(&only("WEFT025", pod), Severity::Error, "Pod shop/p", "Istio's sidecar");
}

fn policy(spec: &str) -> String {
    format!("kind: NetworkPolicy\nmetadata: {{name: np, namespace: shop}}\nspec: {spec}")
}

#[test]
fn network_policies_that_list_ports_must_admit_the_tunnel() {
    for spec in [
        "{podSelector: {}, ingress: [{ports: [{port: 80}]}]}",
        "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 80}]}]}",
        "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}], ports: [{port: 5432, protocol: TCP}]}]}",
        "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/16}}], ports: [{port: http}]}]}",
        "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: weft-mesh.dev/mesh, operator: Exists}]}}], ports: [{port: 80}]}]}",
    ] {
        says(&only("WEFT030", &policy(spec)), Severity::Error, "NetworkPolicy shop/np", "port: 15008");
    }
}

#[test]
fn network_policies_that_do_not_concern_the_tunnel_are_left_alone() {
    for spec in [
        // Everything, nothing, or the tunnel among others.
        "{podSelector: {}}",
        "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}",
        "{podSelector: {}, ingress: [{ports: [{port: 80}, {port: 15008}]}]}",
        "{podSelector: {}, ingress: [{ports: [{port: 15000, endPort: 16000}]}]}",
        "{podSelector: {}, ingress: [{ports: [{port: 80}]}, {ports: [{port: 15008}]}]}",
        // Nobody of the mesh at either end.
        "{podSelector: {matchLabels: {app: nobody}}, ingress: [{ports: [{port: 80}]}]}",
        "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {no: body}}}], ports: [{port: 80}]}]}",
        "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 80}]}]}",
        // Not TCP.
        "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}]}]}",
    ] {
        assert_eq!(found("WEFT030", &[&policy(spec)]), vec![], "{spec}");
    }
}

#[test]
fn refused_routes_repeat_what_their_status_says() {
    let route = HEALTHY.split("\n---\n").find(|text| text.contains("kind: HTTPRoute\nmetadata")).unwrap();
    let refused = route.replace(
        "{type: Accepted, status: \"True\", reason: Accepted, message: \"\", ",
        "{type: Accepted, status: \"False\", reason: NoMatchingParent, message: there is no such port, ",
    );
    assert_ne!(refused, route);
    let finding = only("WEFT031", &refused);
    says(
        &finding,
        Severity::Warning,
        "HTTPRoute shop/web",
        "Accepted False, NoMatchingParent: there is no such port",
    );
    let foreign = refused.replace("controllerName: weft-mesh.dev/mesh", "controllerName: example.com/other");
    assert_eq!(found("WEFT031", &[&foreign]), vec![], "another controller's word");
    says(&only("WEFT032", &foreign), Severity::Warning, "HTTPRoute shop/web", "Service shop/web");
    let edited = route.replace("generation: 3}", "generation: 4}");
    says(&only("WEFT032", &edited), Severity::Warning, "HTTPRoute shop/web", "as it is now");
    let gateway = route.replace("{group: \"\", kind: Service, name: web}", "{name: gateway}");
    assert_eq!(found("WEFT032", &[&gateway]), vec![], "Gateways are not the mesh's");
}

/// The object of the healthy cluster that has these words, with some of its words replaced.
#[track_caller]
fn changed(words: &str, changes: &[(&str, &str)]) -> String {
    let mut text = HEALTHY.split("\n---\n").find(|text| text.contains(words)).unwrap().to_owned();
    for (old, new) in changes {
        assert!(text.contains(old), "{old}: {text}");
        text = text.replacen(old, new, 1);
    }
    text
}

#[test]
fn routes_that_are_refused_at_gateways_are_named() {
    let change = [
        ("{group: \"\", kind: Service, name: web}", "{name: front, sectionName: http}"),
        ("parentRef: {group: \"\", kind: Service, name: web}", "parentRef: {name: front, sectionName: http}"),
        ("controllerName: weft-mesh.dev/mesh", "controllerName: weft-mesh.dev/gateway"),
        (
            "{type: ResolvedRefs, status: \"True\", reason: ResolvedRefs",
            "{type: ResolvedRefs, status: \"False\", reason: RefNotPermitted",
        ),
    ];
    let refused = changed("kind: HTTPRoute\nmetadata", &change);
    let words = "Gateway shop/front listener http: ResolvedRefs False, RefNotPermitted";
    says(&only("WEFT033", &refused), Severity::Warning, "HTTPRoute shop/web", words);
    assert_eq!(found("WEFT031", &[&refused]), vec![], "Gateways are not the mesh's");
    let foreign =
        refused.replace("controllerName: weft-mesh.dev/gateway", "controllerName: example.com/other");
    assert_eq!(found("WEFT033", &[&foreign]), vec![], "another controller's word");
}

#[test]
fn gateways_and_listeners_that_are_not_in_force_are_named() {
    let not_programmed = (
        "{type: Programmed, status: \"True\", reason: Programmed, message: \"\", observedGeneration: 2}\n  listeners",
        "{type: Programmed, status: \"False\", reason: AddressNotAssigned, message: no address, observedGeneration: 2}\n  listeners",
    );
    let gateway = "kind: Gateway\n";
    let finding = only("WEFT034", &changed(gateway, &[not_programmed]));
    says(
        &finding,
        Severity::Warning,
        "Gateway shop/front",
        "Programmed False, AddressNotAssigned: no address",
    );
    let conflicted = [(
        "{type: Conflicted, status: \"False\", reason: NoConflicts",
        "{type: Conflicted, status: \"True\", reason: HostnameConflict",
    )];
    let finding = only("WEFT034", &changed(gateway, &conflicted));
    says(
        &finding,
        Severity::Warning,
        "Gateway shop/front",
        "listener http: Conflicted True, HostnameConflict",
    );
    let edited = changed(gateway, &[("generation: 2}", "generation: 3}")]);
    says(&only("WEFT034", &edited), Severity::Warning, "Gateway shop/front", "as it is now");
    let refused = [(
        "{type: Accepted, status: \"True\", reason: Accepted",
        "{type: Accepted, status: \"False\", reason: NotAllowed",
    )];
    let finding = only("WEFT034", &changed("kind: ListenerSet\n", &refused));
    says(&finding, Severity::Warning, "ListenerSet shop/more", "Accepted False, NotAllowed");

    let foreign = changed(gateway, &[not_programmed, ("gatewayClassName: weft", "gatewayClassName: other")]);
    assert_eq!(found("WEFT034", &[&foreign]), vec![], "a Gateway of another class");
    let set = changed(
        "kind: ListenerSet\n",
        &[refused[0], ("{parentRef: {name: front}", "{parentRef: {name: other}")],
    );
    assert_eq!(found("WEFT034", &[&set]), vec![], "listeners of another's Gateway");
}

#[test]
fn policies_that_are_not_in_force_are_named() {
    let conflicted = [(
        "status: \"True\", reason: Accepted, message: \"\"",
        "status: \"False\", reason: Conflicted, message: an older one",
    )];
    let traffic = "kind: XBackendTrafficPolicy\n";
    let words = "Service shop/web: Accepted False, Conflicted: an older one";
    says(
        &only("WEFT035", &changed(traffic, &conflicted)),
        Severity::Warning,
        "XBackendTrafficPolicy shop/web",
        words,
    );
    let edited = changed(traffic, &[("generation: 1}", "generation: 2}")]);
    says(
        &only("WEFT035", &edited),
        Severity::Warning,
        "XBackendTrafficPolicy shop/web",
        "as it is now for Service",
    );
    let foreign = changed(traffic, &[conflicted[0], ("weft-mesh.dev/mesh", "example.com/other")]);
    says(&only("WEFT035", &foreign), Severity::Warning, "XBackendTrafficPolicy shop/web", "for its Services");

    let refused =
        [("\"True\", reason: Accepted, message: named", "\"False\", reason: Unsupported, message: no TLS")];
    says(
        &only("WEFT035", &changed("kind: XBackend\n", &refused)),
        Severity::Warning,
        "XBackend shop/versions",
        "Service shop/web: Accepted False, Unsupported: no TLS",
    );

    let unresolved =
        [("status: \"True\", reason: ResolvedRefs", "status: \"False\", reason: InvalidCACertificateRef")];
    let tls = "kind: BackendTLSPolicy\n";
    let words = "Gateway shop/front: ResolvedRefs False, InvalidCACertificateRef";
    says(
        &only("WEFT035", &changed(tls, &unresolved)),
        Severity::Warning,
        "BackendTLSPolicy shop/secure",
        words,
    );
    let unused = changed(tls, &[("weft-mesh.dev/gateway", "example.com/other")]);
    assert_eq!(found("WEFT035", &[&unused]), vec![], "no Gateway of Weft's leads to its target");
}

#[test]
fn one_namespace_alone_can_be_asked_about() {
    let pod = |namespace: &str| {
        format!(
            "kind: Pod\nmetadata: {{name: p, namespace: {namespace}, labels: {{weft-mesh.dev/mesh: 'off'}}}}"
        )
    };
    let facts = facts(&[HEALTHY, &pod("shop"), &pod("other")]);
    let view = View { namespace: Some("other"), ..view(&facts) };
    let found = super::pods::pod_labels(&view).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].object, "Pod other/p");
}
