//! `weft status`: nodes and pods as the cluster's objects and the proxies show them, and what the mesh does not cover.

mod coverage;
mod enrolment;
mod proxies;
#[cfg(test)]
mod tests;

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde::Serialize;
use weft_model::workload::MTLS_LABEL;

use self::enrolment::NamespaceRow;
use self::proxies::{Acknowledged, ProxyView, Views};
use crate::check::part;
use crate::cluster::{Cluster, ClusterArgs, Fact};
use crate::facts::Facts;
use crate::mesh::{MESHED, Mesh, condition, has_address, is_ready, node_of, pod_namespace};
use crate::output::{Format, OutputArgs, row, table};

/// Arguments of `weft status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft status                 all nodes, all pods of enrolled namespaces, and what is not covered
  weft status -n shop         only the pods of the namespace shop
  weft status -o json | jq '.pods[] | select(.kernel != \"True\") | .pod'

Whoever is bound to the ClusterRole and the Role weft-viewer may run it. What could not be asked is said at the end.")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Only the pods of this namespace.
    #[arg(short = 'n', long, value_name = "NAME")]
    namespace: Option<String>,
}

/// All that is shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    nodes: Vec<NodeRow>,
    namespaces: Vec<NamespaceRow>,
    pods: Vec<PodRow>,
    /// What the mesh does not cover, in sentences.
    not_covered: Vec<String>,
    /// What could not be asked, and why.
    not_asked: Vec<String>,
}

/// One node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeRow {
    node: String,
    /// `ready`, `not ready` or `none`.
    agent: &'static str,
    /// Likewise.
    proxy: &'static str,
    /// Version of the proxy.
    version: String,
    /// Pods that the labels enrol.
    enrolled: usize,
    /// Pods of which the agent says that kernel and proxy have them.
    meshed: usize,
    #[serde(flatten)]
    #[serde(skip_serializing_if = "Option::is_none")]
    view: Option<ProxyView>,
    #[serde(flatten)]
    #[serde(skip_serializing_if = "Option::is_none")]
    heard: Option<Acknowledged>,
}

/// One pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodRow {
    namespace: String,
    pod: String,
    node: String,
    /// The agent's word: `True`, `False`, or `-` when it has said nothing.
    kernel: String,
    /// `serving`, `not serving`, or `-` when the proxy could not be asked.
    proxy: &'static str,
    /// `strict` or `permissive`.
    callers: &'static str,
    /// Ports that labels open to callers in plaintext, as the proxy has it in force.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    plaintext_ports: Vec<u16>,
    /// The condition's reason and message, when it is not fulfilled.
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

/// `weft status`.
pub(crate) async fn run(arguments: StatusArgs) -> Result<u8> {
    let cluster = arguments.cluster.connect().await?;
    let status = Box::pin(ask(&cluster, arguments.namespace.as_deref())).await?;
    match arguments.output.output {
        Format::Text => print!("{}", status.text(Timestamp::now())),
        Format::Json => println!("{}", serde_json::to_string_pretty(&status)?),
    }
    Ok(0)
}

async fn ask(cluster: &Cluster, namespace: Option<&str>) -> Result<Status> {
    let facts = Box::pin(Facts::ask(cluster)).await?;
    let views = match &facts.pods {
        Ok(pods) => proxies::ask(cluster, pods, &facts.lease).await,
        Err(_) => Views::default(),
    };
    Ok(judge(&facts, &views, namespace)?)
}

/// What is shown of what is known. Without pods and namespaces there is nothing to show.
fn judge(facts: &Facts, views: &Views, namespace: Option<&str>) -> Fact<Status> {
    let mesh = Mesh::of(facts, namespace)?;
    let pods = mesh.pods().filter(|pod| mesh.enrolled(pod)).map(|pod| pod_row(pod, &mesh, views)).collect();
    let mut not_asked: Vec<String> =
        views.problems.iter().map(|problem| format!("proxies: {problem}")).collect();
    if let Err(error) = &facts.nodes {
        not_asked.push(format!("nodes: {error}"));
    }
    if let Err(error) = &facts.services {
        not_asked.push(format!("Services: {error}"));
    }
    Ok(Status {
        nodes: node_rows(facts, &mesh, views),
        namespaces: enrolment::rows(&mesh),
        pods,
        not_covered: coverage::gaps(facts, &mesh),
        not_asked,
    })
}

fn node_rows(facts: &Facts, mesh: &Mesh<'_>, views: &Views) -> Vec<NodeRow> {
    let everything = facts.pods.as_deref().unwrap_or_default();
    let state = |part_name: &'static str, node: &str| -> &'static str {
        let here: Vec<&Pod> = part(everything, part_name).filter(|pod| node_of(pod) == node).collect();
        match here.as_slice() {
            [] => "none",
            here if here.iter().any(|pod| is_ready(pod)) => "ready",
            _ => "not ready",
        }
    };
    let row = |node: String| {
        let here = || mesh.everywhere().filter(|pod| node_of(pod) == node && mesh.enrolled(pod));
        let proxy = part(everything, "weft-proxy").find(|pod| node_of(pod) == node && is_ready(pod));
        let version = proxy.and_then(|pod| pod.labels().get("app.kubernetes.io/version"));
        NodeRow {
            agent: state("weft-agent", &node),
            proxy: state("weft-proxy", &node),
            version: version.cloned().unwrap_or_else(|| "-".to_owned()),
            enrolled: here().count(),
            meshed: here().filter(|pod| word(pod) == "True").count(),
            view: views.of_node(&node).cloned(),
            heard: views.acknowledged(&node).cloned(),
            node,
        }
    };
    facts.nodes.iter().flatten().map(|node| row(node.name_any())).collect()
}

/// The agent's word about a pod.
fn word(pod: &Pod) -> &str {
    condition(pod, MESHED).map_or("-", |condition| condition.status.as_str())
}

fn pod_row(pod: &Pod, mesh: &Mesh<'_>, views: &Views) -> PodRow {
    let said = condition(pod, MESHED).filter(|condition| condition.status != "True");
    let message = said.map(|condition| {
        let reason = condition.reason.as_deref().unwrap_or_default();
        format!("{reason}: {}", condition.message.as_deref().unwrap_or_default())
    });
    let waiting = if has_address(pod) { "" } else { "has no address yet" };
    let permissive = mesh.namespace(pod_namespace(pod)).is_some_and(|namespace| {
        let labelled = namespace.labels().get(MTLS_LABEL).is_some_and(|value| value == "permissive");
        labelled || enrolment::is_open(namespace)
    });
    PodRow {
        namespace: pod_namespace(pod).to_owned(),
        pod: pod.name_any(),
        node: node_of(pod).to_owned(),
        kernel: word(pod).to_owned(),
        proxy: match views.of_node(node_of(pod)) {
            None => "-",
            Some(view) if view.serves(pod.metadata.uid.as_deref().unwrap_or_default()) => "serving",
            Some(_) => "not serving",
        },
        callers: if permissive { "permissive" } else { "strict" },
        plaintext_ports: views.open(node_of(pod), pod.metadata.uid.as_deref().unwrap_or_default()),
        message: message.unwrap_or_else(|| waiting.to_owned()),
    }
}

impl PodRow {
    /// `strict`, or `strict, plaintext at 9090`.
    fn callers(&self) -> String {
        match self.plaintext_ports.as_slice() {
            [] => self.callers.to_owned(),
            ports => {
                let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
                format!("{}, plaintext at {}", self.callers, ports.join(", "))
            }
        }
    }
}

impl Status {
    fn text(&self, now: Timestamp) -> String {
        let mut text = table(&self.node_table(now));
        text.push('\n');
        if !self.namespaces.is_empty() {
            text.push_str(&table(&NamespaceRow::table(&self.namespaces)));
            text.push('\n');
        }
        if self.pods.is_empty() {
            text.push_str(
                "No pod is enrolled: kubectl label namespace NAMESPACE weft-mesh.dev/mesh=enabled\n",
            );
        } else {
            let mut rows = vec![row(&["NAMESPACE", "POD", "NODE", "KERNEL", "PROXY", "CALLERS", "MESSAGE"])];
            rows.extend(self.pods.iter().map(|pod| {
                row(&[
                    &pod.namespace,
                    &pod.pod,
                    &pod.node,
                    &pod.kernel,
                    pod.proxy,
                    &pod.callers(),
                    &pod.message,
                ])
            }));
            text.push_str(&table(&rows));
        }
        for (title, lines) in [("Not covered", &self.not_covered), ("Could not be asked", &self.not_asked)] {
            if !lines.is_empty() {
                text.push_str(&format!("\n{title}:\n"));
                lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
            }
        }
        text
    }

    fn node_table(&self, now: Timestamp) -> Vec<Vec<String>> {
        let mut rows = vec![row(&[
            "NODE",
            "AGENT",
            "PROXY",
            "VERSION",
            "ENROLLED",
            "IN MESH",
            "CONFIG",
            "ACKNOWLEDGED",
            "CERTIFICATES",
        ])];
        for node in &self.nodes {
            let (config, certificates) = match &node.view {
                None => ("-".to_owned(), "-".to_owned()),
                Some(view) => (view.configuration(), view.certificates(now)),
            };
            let heard = node.heard.as_ref().map_or_else(|| "-".to_owned(), |heard| heard.text(now));
            let counts = (node.enrolled.to_string(), node.meshed.to_string());
            rows.push(row(&[
                &node.node,
                node.agent,
                node.proxy,
                &node.version,
                &counts.0,
                &counts.1,
                &config,
                &heard,
                &certificates,
            ]));
        }
        rows
    }
}
