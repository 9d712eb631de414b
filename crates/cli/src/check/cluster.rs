//! Checks of the cluster itself, useful before anything is installed.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use serde::Deserialize;

use super::list::View;
use super::parts::argument;
use super::verdict::{Finding, Verdict, error, info, warning};
use crate::cluster::Unknown;
use crate::facts::{GATEWAY_GROUP, HOME, ROUTE_KINDS};
use crate::mesh::{addresses, in_host_network, pod_name};

/// Tokens that name their pod and node, and ValidatingAdmissionPolicy.
const OLDEST_API_SERVER: (u32, u32) = (1, 30);
/// Address translation in nftables' inet family.
const OLDEST_KERNEL: (u32, u32) = (5, 2);
/// The release of the Gateway API that this release of Weft was made with.
const GATEWAY_API: (u32, u32) = (1, 7);
/// How many objects are named for one cause.
const NAMED: usize = 5;

/// WEFT001.
pub(super) fn version(view: &View<'_>) -> Verdict {
    let version = view.facts.version.as_ref().map_err(Clone::clone)?;
    Ok(match numbers(version) {
        Some(found) if found >= OLDEST_API_SERVER => Vec::new(),
        Some(_) => vec![error("", format!("the API server is {version}; Weft needs 1.30 or newer"))],
        None => vec![warning("", format!("the API server calls its version {version:?}"))],
    })
}

/// The first two numbers of `v1.35.4` or `6.8.0-31-generic`.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// WEFT002.
pub(super) fn definitions(view: &View<'_>) -> Verdict {
    let definitions = view.facts.definitions.as_ref().map_err(Clone::clone)?;
    let mut findings = Vec::new();
    for (kind, plural) in ROUTE_KINDS {
        let name = format!("{plural}.{GATEWAY_GROUP}");
        let missing = !definitions.iter().any(|definition| definition.name_any() == name);
        match kind {
            _ if !missing => {}
            // All that a route needs; the others are of the experimental channel, or of newer releases.
            "HTTPRoute" => findings.push(warning(
                format!("CustomResourceDefinition {name}"),
                "is not there: install the Gateway API's definitions, release 1.7, to use routes. \
                 Mutual TLS works without",
            )),
            _ => findings.push(info(
                format!("CustomResourceDefinition {name}"),
                format!("is not there: {kind} cannot be used"),
            )),
        }
    }
    for definition in definitions {
        let annotation = |key: &str| definition.annotations().get(&format!("{GATEWAY_GROUP}/{key}"));
        let object = format!("CustomResourceDefinition {}", definition.name_any());
        let Some(release) = annotation("bundle-version") else {
            findings.push(warning(object, "does not say which release of the Gateway API it is from"));
            continue;
        };
        match numbers(release) {
            Some(found) if found > GATEWAY_API => findings.push(warning(
                object,
                format!(
                    "is of release {release}, newer than this Weft: a route that uses what is new is refused"
                ),
            )),
            Some(found) if found < GATEWAY_API => findings.push(info(
                object,
                format!("is of release {release}; Weft knows 1.7: fields that came later cannot be used"),
            )),
            Some(_) => {}
            None => findings.push(warning(object, format!("calls its release {release:?}"))),
        }
    }
    Ok(findings)
}

/// WEFT003.
pub(super) fn nodes(view: &View<'_>) -> Verdict {
    let nodes = view.facts.nodes.as_ref().map_err(Clone::clone)?;
    Ok(nodes.iter().filter_map(node).collect())
}

fn node(node: &Node) -> Option<Finding> {
    let object = format!("Node {}", node.name_any());
    let about = node.status.as_ref()?.node_info.as_ref()?;
    if about.operating_system != "linux" {
        return Some(info(object, format!("runs {}: its pods are not enrolled", about.operating_system)));
    }
    match numbers(&about.kernel_version) {
        Some(found) if found >= OLDEST_KERNEL => None,
        Some(_) => Some(error(
            object,
            format!("has kernel {}; Weft's rules need 5.2 or newer", about.kernel_version),
        )),
        None => Some(warning(object, format!("calls its kernel {:?}", about.kernel_version))),
    }
}

/// WEFT004.
pub(super) fn rights(view: &View<'_>) -> Verdict {
    let nobody_asked = || Err(Unknown::Failed("not asked".to_owned()));
    let rights = view.rights.clone().unwrap_or_else(nobody_asked)?;
    let refused = rights.iter().filter(|right| !right.allowed);
    Ok(refused.map(|right| error("", format!("you may not {}", right.what))).collect())
}

/// WEFT005.
pub(super) fn admission(view: &View<'_>) -> Verdict {
    let namespaces = view.facts.namespaces.as_ref().map_err(Clone::clone)?;
    let Some(home) = namespaces.iter().find(|namespace| namespace.name_any() == HOME) else {
        return Ok(Vec::new());
    };
    let level = home.labels().get("pod-security.kubernetes.io/enforce").map(String::as_str);
    Ok(match level {
        Some("privileged") => Vec::new(),
        Some(level) => vec![error(
            format!("Namespace {HOME}"),
            format!(
                "admits pods of level {level} only, but agents are privileged: \
                 kubectl label --overwrite namespace {HOME} pod-security.kubernetes.io/enforce=privileged"
            ),
        )],
        None => vec![info(
            format!("Namespace {HOME}"),
            format!(
                "does not say that it admits privileged pods; if your cluster's default is stricter: \
                 kubectl label namespace {HOME} pod-security.kubernetes.io/enforce=privileged"
            ),
        )],
    })
}

/// WEFT006: given once Weft is installed, else what can be found.
pub(super) fn ranges(view: &View<'_>) -> Verdict {
    let installed = view.facts.deployments.as_deref().unwrap_or_default().iter();
    let controller = installed.filter_map(|deployment| deployment.spec.template.spec.as_ref()).next();
    let Some(controller) = controller else { return Ok(vec![suggestion(view)]) };
    let given = |flag| -> Vec<IpNet> {
        let text = argument(controller, flag).unwrap_or_default();
        text.split(',').filter_map(|range| range.parse().ok()).collect()
    };
    let (services, pods) = (given("--service-ranges"), given("--pod-ranges"));
    if services.is_empty() && pods.is_empty() {
        let problem = "clusterRanges is not set: all outbound TCP of enrolled pods is captured, and a cluster \
                       address that nobody knows counts as outside";
        return Ok(vec![warning("", problem), suggestion(view)]);
    }
    outside(view, &services, &pods)
}

/// Addresses that the given ranges do not hold.
fn outside(view: &View<'_>, service_ranges: &[IpNet], pod_ranges: &[IpNet]) -> Verdict {
    let within = |ranges: &[IpNet], address: &IpAddr| ranges.iter().any(|range| range.contains(address));
    let services = view.facts.services.as_ref().map_err(Clone::clone)?;
    let pods = view.facts.pods.as_ref().map_err(Clone::clone)?;
    let mut findings = Vec::new();
    for service in services {
        let spec = service.spec.as_ref();
        let of_spec = spec.and_then(|spec| spec.cluster_ips.as_ref()).into_iter().flatten();
        for address in of_spec.filter_map(|text| text.parse().ok()) {
            if !within(service_ranges, &address) {
                let name =
                    format!("Service {}/{}", service.namespace().unwrap_or_default(), service.name_any());
                findings.push(error(name, format!("has {address}, outside clusterRanges.services")));
            }
        }
    }
    for pod in pods.iter().filter(|pod| !in_host_network(pod)) {
        for address in addresses(pod) {
            if !within(pod_ranges, &address) {
                findings.push(error(pod_name(pod), format!("has {address}, outside clusterRanges.pods")));
            }
        }
    }
    let more = findings.len().saturating_sub(NAMED);
    findings.truncate(NAMED);
    if more > 0 {
        findings.push(error("", format!("{more} more addresses are outside")));
    }
    Ok(findings)
}

/// What to pass, as far as the cluster says it.
fn suggestion(view: &View<'_>) -> Finding {
    let kubeadm = view.facts.kubeadm.as_ref().ok().and_then(|map| {
        let text = map.data.as_ref()?.get("ClusterConfiguration")?;
        serde_saphyr::from_str::<Kubeadm>(text).ok()
    });
    let kubeadm = kubeadm.unwrap_or_default().networking;
    let mut services: Vec<String> = view
        .facts
        .service_ranges
        .iter()
        .flatten()
        .filter_map(|range| range.spec.as_ref()?.cidrs.clone())
        .flatten()
        .collect();
    if services.is_empty() {
        services = split(&kubeadm.service_subnet);
    }
    let pods = split(&kubeadm.pod_subnet);
    let of_nodes = || -> Vec<String> {
        let nodes = view.facts.nodes.iter().flatten();
        nodes.filter_map(|node| node.spec.as_ref()?.pod_cidrs.clone()).flatten().collect()
    };
    let say = |name: &str, found: &[String], otherwise: String| match found {
        [] => otherwise,
        found => format!("--set 'clusterRanges.{name}={{{}}}'", found.join(",")),
    };
    let unknown_pods = || match of_nodes() {
        nodes if nodes.is_empty() => {
            "and clusterRanges.pods, as your network plugin is configured".to_owned()
        }
        nodes => format!(
            "and clusterRanges.pods: the range that the nodes' ranges are taken from ({}{})",
            nodes.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", "),
            if nodes.len() > NAMED { ", …" } else { "" }
        ),
    };
    let services = say(
        "services",
        &services,
        "clusterRanges.services (the API server's --service-cluster-ip-range)".to_owned(),
    );
    let pods = say("pods", &pods, unknown_pods());
    info("", format!("pass to helm: {services} {pods}"))
}

fn split(ranges: &str) -> Vec<String> {
    ranges.split(',').map(str::trim).filter(|range| !range.is_empty()).map(str::to_owned).collect()
}

/// kubeadm's ClusterConfiguration, as far as it matters here.
#[derive(Default, Deserialize)]
struct Kubeadm {
    #[serde(default)]
    networking: KubeadmNetworking,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KubeadmNetworking {
    #[serde(default)]
    service_subnet: String,
    #[serde(default)]
    pod_subnet: String,
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_read_as_clusters_write_them() {
        for (text, expected) in [
            ("v1.35.4", Some((1, 35))),
            ("v1.31.2-eks-7f9249a", Some((1, 31))),
            ("6.8.0-31-generic", Some((6, 8))),
            ("5.15.167.4-microsoft-standard-WSL2", Some((5, 15))),
            ("unknown", None),
        ] {
            assert_eq!(numbers(text), expected, "{text}");
        }
    }
}
