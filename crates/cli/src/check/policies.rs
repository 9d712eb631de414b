//! WEFT030: NetworkPolicies see the tunnel's port, TCP 15008, whatever port a caller dialled. One that lists ports must
//! admit it where both ends are enrolled (dataplane rule 24).

use std::collections::BTreeMap;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;

use super::list::View;
use super::verdict::{Finding, Verdict, error};
use crate::mesh::{Mesh, addresses, pod_namespace};
use crate::output::count;

/// Where tunnels arrive.
const TUNNEL_PORT: i32 = 15008;

/// WEFT030.
pub(super) fn tunnel_port(view: &View<'_>) -> Verdict {
    let policies = view.facts.network_policies.as_ref().map_err(Clone::clone)?;
    let mesh = Mesh::of(view.facts, None)?;
    let asked = |policy: &&NetworkPolicy| {
        view.namespace.is_none_or(|only| policy.namespace().is_some_and(|namespace| namespace == only))
    };
    Ok(policies.iter().filter(asked).flat_map(|policy| judge(policy, &mesh)).collect())
}

fn judge(policy: &NetworkPolicy, mesh: &Mesh<'_>) -> Vec<Finding> {
    let Some(spec) = &policy.spec else { return Vec::new() };
    let namespace = policy.namespace().unwrap_or_default();
    let everything = LabelSelector::default();
    let selector = spec.pod_selector.as_ref().unwrap_or(&everything);
    let selected = mesh.everywhere().filter(|pod| {
        pod_namespace(pod) == namespace && mesh.enrolled(pod) && matches(selector, pod.labels())
    });
    let pods = selected.count();
    if pods == 0 {
        return Vec::new();
    }
    let direction = |name: &str, implied: bool| match &spec.policy_types {
        Some(types) => types.iter().any(|one| one == name),
        None => implied,
    };
    let object = format!("NetworkPolicy {namespace}/{}", policy.name_any());
    let mut findings = Vec::new();
    if direction("Ingress", true) {
        let rules = spec.ingress.iter().flatten().map(|rule| (rule.from.as_ref(), rule.ports.as_ref()));
        if lacks_tunnel(rules, &namespace, mesh) {
            findings.push(error(&*object, sentence(pods, "from", "to")));
        }
    }
    if direction("Egress", spec.egress.is_some()) {
        let rules = spec.egress.iter().flatten().map(|rule| (rule.to.as_ref(), rule.ports.as_ref()));
        if lacks_tunnel(rules, &namespace, mesh) {
            findings.push(error(&*object, sentence(pods, "to", "from")));
        }
    }
    findings
}

fn sentence(pods: usize, peers: &str, own: &str) -> String {
    format!(
        "lists ports {own} {} in the mesh, but not TCP {TUNNEL_PORT}: calls {peers} other pods in the mesh \
         arrive there and are dropped. Add {{protocol: TCP, port: {TUNNEL_PORT}}} to the rule",
        count(pods, "pod")
    )
}

type Rule<'a> = (Option<&'a Vec<NetworkPolicyPeer>>, Option<&'a Vec<NetworkPolicyPort>>);

/// Some rule admits enrolled peers on listed TCP ports, and no rule admits the same peers on the tunnel's port.
fn lacks_tunnel<'a>(rules: impl Iterator<Item = Rule<'a>>, namespace: &str, mesh: &Mesh<'_>) -> bool {
    let rules: Vec<Rule<'a>> = rules.collect();
    let admits = |peers: Option<&Vec<NetworkPolicyPeer>>| {
        rules.iter().any(|(others, ports)| {
            let covers = others.is_none_or(Vec::is_empty) || *others == peers;
            covers && ports.is_none_or(|ports| ports.is_empty() || ports.iter().any(is_tunnel))
        })
    };
    rules.iter().any(|(peers, ports)| {
        let lists_tcp = ports.is_some_and(|ports| ports.iter().any(is_tcp));
        lists_tcp && !admits(*peers) && meets_enrolled(*peers, namespace, mesh)
    })
}

fn is_tcp(port: &NetworkPolicyPort) -> bool {
    port.protocol.as_deref().unwrap_or("TCP") == "TCP"
}

fn is_tunnel(port: &NetworkPolicyPort) -> bool {
    is_tcp(port)
        && match (&port.port, port.end_port) {
            (None, _) => true,
            (Some(IntOrString::Int(first)), Some(last)) => (*first..=last).contains(&TUNNEL_PORT),
            (Some(IntOrString::Int(only)), None) => *only == TUNNEL_PORT,
            (Some(IntOrString::String(_)), _) => false,
        }
}

/// Whether any of these peers is in the mesh.
fn meets_enrolled(peers: Option<&Vec<NetworkPolicyPeer>>, namespace: &str, mesh: &Mesh<'_>) -> bool {
    let mut enrolled = mesh.everywhere().filter(|pod| mesh.enrolled(pod));
    match peers {
        Some(peers) if !peers.is_empty() => {
            enrolled.any(|pod| peers.iter().any(|peer| is_peer(peer, pod, namespace, mesh)))
        }
        _ => enrolled.next().is_some(),
    }
}

fn is_peer(peer: &NetworkPolicyPeer, pod: &Pod, namespace: &str, mesh: &Mesh<'_>) -> bool {
    if let Some(block) = &peer.ip_block {
        let within =
            |range: &str, address| range.parse::<IpNet>().is_ok_and(|range| range.contains(&address));
        return addresses(pod).any(|address| {
            let excepted = block.except.iter().flatten().any(|range| within(range, address));
            within(&block.cidr, address) && !excepted
        });
    }
    let in_namespace = match &peer.namespace_selector {
        Some(selector) => {
            mesh.namespace(pod_namespace(pod)).is_some_and(|one| matches(selector, one.labels()))
        }
        None => pod_namespace(pod) == namespace,
    };
    in_namespace && peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, pod.labels()))
}

/// Whether a label selector selects an object with these labels.
fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let by_label = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let by_expression = selector.match_expressions.iter().flatten().all(|expression| {
        let value = labels.get(&expression.key);
        let among = || value.is_some_and(|value| expression.values.iter().flatten().any(|one| one == value));
        match expression.operator.as_str() {
            "In" => among(),
            "NotIn" => !among(),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    by_label && by_expression
}
