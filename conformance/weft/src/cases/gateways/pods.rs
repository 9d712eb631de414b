//! The pods that are made for a Gateway: in a namespace that enforces the strictest Pod Security standard and is in the mesh,
//! of a Gateway with a long name, scaled by somebody else, and gone with it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{CLIENTS, NAMESPACE as ROUTES, PLAIN, rule};
use crate::mesh::{Checks, Mesh, gateway, gateway_addresses, host, patiently, route};

/// How long after its Gateway the last of what was made for it may be gone.
const GONE: Duration = Duration::from_secs(30);
const NAMESPACE: &str = "guarded";
/// What is made for Gateways.
const MADE: &str = "deployments,replicasets,pods,services,serviceaccounts,configmaps,poddisruptionbudgets";
const LABELS: &str = "weft-mesh.dev/mesh: enabled, pod-security.kubernetes.io/enforce: restricted";

/// As long as a name may be.
fn name() -> String {
    ["edge", &"x".repeat(120), &"y".repeat(127)].join(".")
}

/// The Gateway, whose pods have an annotation of this value.
fn long(annotation: &str) -> String {
    let listener = PLAIN.replace('}', ", allowedRoutes: {namespaces: {from: All}}}");
    let infrastructure = format!("infrastructure: {{annotations: {{example.com/is: {annotation}}}}}");
    gateway(NAMESPACE, &name(), &format!("{infrastructure}, listeners: [{listener}]"))
}

/// The sentences.
pub(super) fn run(checks: &mut Checks<'_>) {
    checks.check("a Gateway with the longest of names serves where Pod Security is restricted", |m| {
        let namespace = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}, labels: {{{LABELS}}}}}\n"
        );
        m.apply("guarded", &namespace)?;
        m.apply("long", &long("first"))?;
        let parents = format!("[{{namespace: {NAMESPACE}, name: {}}}]", name());
        let rules = format!("rules: [{}]", rule("/long", &["v1"]));
        m.apply("long-route", &route("HTTPRoute", ROUTES, "long", &parents, &rules))?;
        patiently(|| {
            let address = gateway_addresses(m, NAMESPACE, &name())?.remove(0);
            m.curl(CLIENTS[0], &[&format!("http://{}/long", host(&address))])?.expect(200, "v1")
        })
    });
    checks.check("its pods are not in the mesh, and have a label by which they are found", |m| {
        let pods = made(m, "pods")?;
        ensure!(!pods.is_empty(), "there is none");
        for pod in pods {
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let meshed = conditions.iter().find(|one| one["type"] == "weft-mesh.dev/Meshed");
            ensure!(meshed.is_none_or(|meshed| meshed["status"] != "True"), "{conditions:?}");
            let label = pod["metadata"]["labels"]["gateway.networking.k8s.io/gateway-name"].as_str();
            ensure!(label.is_some_and(|label| label.starts_with("edge")), "{label:?}");
        }
        Ok(())
    });
    checks.check("as many pods as somebody else asks for stay when the Gateway changes", scaled);
    checks.check("one of them at a time may be evicted", |m| {
        patiently(|| {
            let budgets = made(m, "poddisruptionbudgets")?;
            let budget = budgets.first().context("there is no PodDisruptionBudget")?;
            let [most, allowed] =
                [&budget["spec"]["maxUnavailable"], &budget["status"]["disruptionsAllowed"]];
            ensure!(most == 1 && allowed == 1, "{budget}");
            Ok(())
        })
    });
    checks.check("all that was made for it is gone half a minute after it", gone);
}

fn scaled(mesh: &Mesh) -> Result<()> {
    let name = deployment(mesh)?["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    mesh.kubectl(&["scale", "deployment", &name, "--replicas=2", "--namespace=guarded"], "")?;
    mesh.apply("long", &long("second"))?;
    patiently(|| {
        let deployment = deployment(mesh)?;
        let [spec, status] = ["spec", "status"].map(|part| &deployment[part]);
        let annotation = &spec["template"]["metadata"]["annotations"]["example.com/is"];
        let ready = (
            annotation == "second",
            &spec["replicas"],
            &status["updatedReplicas"],
            &status["availableReplicas"],
        );
        let two = &Value::from(2);
        ensure!(ready == (true, two, two, two), "{spec} {status}");
        Ok(())
    })
}

fn gone(mesh: &Mesh) -> Result<()> {
    #[allow(clippy::disallowed_methods, reason = "it is about real time")]
    let begin = Instant::now();
    mesh.delete("long")?;
    patiently(|| {
        let left = made(mesh, MADE)?;
        ensure!(left.is_empty(), "{} are left", left.len());
        Ok(())
    })?;
    let took = begin.elapsed();
    ensure!(took <= GONE, "it took {took:?}");
    Ok(())
}

fn deployment(mesh: &Mesh) -> Result<Value> {
    made(mesh, "deployments")?.pop().context("there is no Deployment")
}

/// What was made for Gateways in the namespace, of these kinds.
fn made(mesh: &Mesh, kinds: &str) -> Result<Vec<Value>> {
    let which = ["--namespace=guarded", "--selector=weft-mesh.dev/managed-by=weft-controller"];
    let list = mesh.kubectl(&[&["get", kinds, "--output=json"], &which[..]].concat(), "")?;
    let list: Value = serde_json::from_str(&list)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}
