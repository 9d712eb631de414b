//! How far namespaces are on their way into the mesh and out of it, as the controller wrote it on them.

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use kube::ResourceExt as _;
use serde::Serialize;

use crate::mesh::Mesh;
use crate::output::row;

/// The condition of a Namespace that says it.
const ENROLLED: &str = "weft-mesh.dev/Enrolled";

/// One namespace that the controller says something of.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NamespaceRow {
    namespace: String,
    /// `Enrolling`, `Strict`, `PodsNotMeshed` or `Leaving`.
    enrolment: String,
    /// Whether every running pod that is to be in the mesh is.
    complete: bool,
    message: String,
}

/// All of them.
pub(super) fn rows(mesh: &Mesh<'_>) -> Vec<NamespaceRow> {
    let said = mesh.namespaces().filter_map(|namespace| Some((namespace, condition(namespace)?)));
    let row = |(namespace, condition): (&Namespace, &NamespaceCondition)| NamespaceRow {
        namespace: namespace.name_any(),
        enrolment: condition.reason.clone().unwrap_or_default(),
        complete: condition.status == "True",
        message: condition.message.clone().unwrap_or_default(),
    };
    said.map(row).collect()
}

/// Whether callers in plaintext are let in for the time being, whatever the namespace's labels say.
pub(super) fn is_open(namespace: &Namespace) -> bool {
    let reason = condition(namespace).and_then(|condition| condition.reason.as_deref());
    matches!(reason, Some("Enrolling" | "Leaving"))
}

fn condition(namespace: &Namespace) -> Option<&NamespaceCondition> {
    let conditions = namespace.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == ENROLLED)
}

impl NamespaceRow {
    /// As a table with its heading.
    pub(super) fn table(rows: &[Self]) -> Vec<Vec<String>> {
        let mut table = vec![row(&["NAMESPACE", "ENROLMENT", "MESSAGE"])];
        table.extend(rows.iter().map(|one| {
            // All is well: nothing more to be said.
            let message = if one.complete { "" } else { &one.message };
            row(&[&one.namespace, &one.enrolment, message])
        }));
        table
    }
}
