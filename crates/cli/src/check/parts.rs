//! Checks of Weft's own parts.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt as _;
use serde_json::Value;

use super::list::View;
use super::verdict::{Finding, Severity, Verdict, error, finding, info, warning};
use crate::cluster::Unknown;
use crate::facts::HOME;
use crate::mesh::{age, is_ready, node_of, pod_namespace};

/// What keeps pods off a fresh node until it has an agent.
const TAINT: &str = "weft-mesh.dev/agent-not-ready";
/// A root that ends sooner is worth a word.
const ROOT_ENDS_SOON: i64 = 30 * 86_400;
/// This program's version, which is every part's of its release.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The value of a flag written `--flag=value` in a pod's only container.
pub(super) fn argument<'a>(pod: &'a PodSpec, flag: &str) -> Option<&'a str> {
    let container = pod.containers.first()?;
    let words = container.command.iter().flatten().chain(container.args.iter().flatten());
    words.filter_map(|word| word.strip_prefix(flag)?.strip_prefix('=')).next()
}

/// The label of a part's version.
const VERSION_LABEL: &str = "app.kubernetes.io/version";

/// WEFT010.
pub(super) fn controller(view: &View<'_>) -> Verdict {
    let deployments = view.facts.deployments.as_ref().map_err(Clone::clone)?;
    let Some(controller) = deployments.iter().find(|object| object.name_any() == "weft-controller") else {
        return Ok(vec![error(
            "",
            format!("there is no Deployment weft-controller in {HOME}: Weft is not installed"),
        )]);
    };
    let object = format!("Deployment {HOME}/weft-controller");
    let wanted = controller.spec.replicas.unwrap_or(1);
    let ready = controller.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let mut findings = Vec::new();
    if ready == 0 {
        findings.push(error(
            object,
            "no replica is ready: changes and new certificates wait; traffic goes on with what proxies have",
        ));
    } else if ready < wanted {
        findings.push(warning(object, format!("{ready} of {wanted} replicas are ready")));
    }
    findings.extend(leader(view)?);
    Ok(findings)
}

fn leader(view: &View<'_>) -> Result<Option<Finding>, Unknown> {
    let object = format!("Lease {HOME}/weft-controller");
    let lease = match &view.facts.lease {
        Ok(lease) => lease,
        Err(Unknown::Absent(_)) => return Ok(Some(error(object, "is not there: no replica leads yet"))),
        Err(error) => return Err(error.clone()),
    };
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
    let duration = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(15);
    Ok(match renewed {
        _ if holder.is_empty() => Some(error(object, "nobody holds it: statuses are not written")),
        Some(at) if view.now.as_second() - at.as_second() > 2 * i64::from(duration) => {
            Some(error(object, format!("was renewed {} ago by {holder}: nobody leads", age(at, view.now))))
        }
        _ => None,
    })
}

/// WEFT011.
pub(super) fn agents(view: &View<'_>) -> Verdict {
    on_every_node(
        view,
        "weft-agent",
        Severity::Error,
        "no agent is ready: no enrolled pod starts there, and nobody checks its pods' rules",
    )
}

/// WEFT012.
pub(super) fn proxies(view: &View<'_>) -> Verdict {
    on_every_node(view, "weft-proxy", Severity::Error, "no proxy is ready: its enrolled pods are cut off")
}

fn on_every_node(view: &View<'_>, name: &str, severity: Severity, effect: &str) -> Verdict {
    let sets = view.facts.daemon_sets.as_ref().map_err(Clone::clone)?;
    let nodes = view.facts.nodes.as_ref().map_err(Clone::clone)?;
    let pods = view.facts.pods.as_ref().map_err(Clone::clone)?;
    let Some(set) = sets.iter().find(|object| object.name_any() == name) else {
        return Ok(vec![error("", format!("there is no DaemonSet {name} in {HOME}"))]);
    };
    let selector = set.spec.template.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    let ready: BTreeSet<&str> = part(pods, name).filter(|pod| is_ready(pod)).map(node_of).collect();
    let expected = nodes.iter().filter(|node| {
        let labels = node.labels();
        selector.is_none_or(|selector| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
    });
    let missing = expected.map(|node| node.name_any()).filter(|node| !ready.contains(node.as_str()));
    Ok(missing.map(|node| finding(severity, format!("Node {node}"), effect)).collect())
}

/// The pods of one of Weft's parts.
pub(crate) fn part<'a>(pods: &'a [Pod], name: &'a str) -> impl Iterator<Item = &'a Pod> {
    pods.iter().filter(move |pod| {
        let label = pod.labels().get("app.kubernetes.io/name");
        pod_namespace(pod) == HOME && label.is_some_and(|label| label == name)
    })
}

/// WEFT013.
pub(super) fn versions(view: &View<'_>) -> Verdict {
    let pods = view.facts.pods.as_ref().map_err(Clone::clone)?;
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    let mut findings = Vec::new();
    for name in ["weft-controller", "weft-agent", "weft-proxy"] {
        let mut of_part: BTreeMap<&str, usize> = BTreeMap::new();
        for pod in part(pods, name) {
            let version = pod.labels().get(VERSION_LABEL).map_or("unknown", String::as_str);
            *of_part.entry(version).or_default() += 1;
        }
        if of_part.len() > 1 {
            let list: Vec<String> = of_part.iter().map(|(version, n)| format!("{n} of {version}")).collect();
            findings.push(warning(name, format!("is being replaced: {}", list.join(", "))));
        }
        for (version, n) in of_part {
            *found.entry(version).or_default() += n;
        }
    }
    if found.len() > 1 && findings.is_empty() {
        let list: Vec<&str> = found.keys().copied().collect();
        findings.push(error("", format!("the parts are of different versions: {}", list.join(", "))));
    }
    if !found.is_empty() && !found.contains_key(VERSION) {
        let list: Vec<&str> = found.keys().copied().collect();
        let message =
            format!("this command is of version {VERSION}, Weft in the cluster of {}", list.join(", "));
        findings.push(warning("", message));
    }
    Ok(findings)
}

/// WEFT014.
pub(super) fn taints(view: &View<'_>) -> Verdict {
    let nodes = view.facts.nodes.as_ref().map_err(Clone::clone)?;
    let tainted = nodes.iter().filter(|node| {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
        taints.is_some_and(|taints| taints.iter().any(|taint| taint.key == TAINT))
    });
    let message = format!("still has the taint {TAINT}: its agent has not said that it is ready");
    Ok(tainted.map(|node| warning(format!("Node {}", node.name_any()), message.clone())).collect())
}

/// WEFT015.
pub(super) fn trust(view: &View<'_>) -> Verdict {
    let object = format!("ConfigMap {HOME}/weft-trust");
    let map = match &view.facts.trust {
        Ok(map) => map,
        Err(Unknown::Absent(_)) => {
            let problem = "is not there: the controller has not published its root, and proxies wait for it";
            return Ok(vec![error(object, problem)]);
        }
        Err(error) => return Err(error.clone()),
    };
    let text = map.data.as_ref().and_then(|data| data.get("root.pem")).map_or("", String::as_str);
    let blocks: Result<Vec<_>, _> = x509_parser::pem::Pem::iter_from_buffer(text.as_bytes()).collect();
    let Some(blocks) = blocks.ok().filter(|blocks| !blocks.is_empty()) else {
        return Ok(vec![error(object, "holds no certificate under root.pem")]);
    };
    let mut findings = Vec::new();
    for block in blocks {
        let Ok(certificate) = block.parse_x509() else {
            findings.push(error(object.clone(), "holds something that is no certificate"));
            continue;
        };
        let end = certificate.validity().not_after.timestamp();
        let left = end - view.now.as_second();
        let when = Timestamp::from_second(end).map(|time| time.to_string()).unwrap_or_default();
        if left <= 0 {
            findings.push(error(object.clone(), format!("holds a root that ended at {when}")));
        } else if left < ROOT_ENDS_SOON {
            findings.push(warning(object.clone(), format!("holds a root that ends at {when}")));
        }
    }
    Ok(findings)
}

fn is_ours(mesh: &Value) -> bool {
    mesh.pointer("/spec/controllerName").is_some_and(|name| name == super::routes::CONTROLLER_NAME)
}

/// WEFT016.
pub(super) fn mesh_object(view: &View<'_>) -> Verdict {
    let meshes = view.facts.meshes.as_ref().map_err(Clone::clone)?;
    let ours = meshes.iter().find(|mesh| is_ours(&mesh.data));
    let Some(mesh) = ours else {
        let has_kind = view.facts.definitions.iter().flatten().any(|crd| crd.spec.names.kind == "XMesh");
        let missing = "there is no XMesh of Weft: the controller makes one when the definition is there";
        return Ok(if has_kind { vec![warning("", missing)] } else { vec![info("", missing)] });
    };
    let object = format!("XMesh {}", mesh.name_any());
    let conditions = mesh.data.pointer("/status/conditions").and_then(Value::as_array);
    let accepted = conditions.into_iter().flatten().find(|condition| condition["type"] == "Accepted");
    Ok(match accepted {
        Some(condition) if condition["status"] == "True" => Vec::new(),
        Some(condition) => {
            vec![error(object, condition["message"].as_str().unwrap_or("is not accepted"))]
        }
        None => vec![warning(object, "has no condition Accepted yet")],
    })
}
