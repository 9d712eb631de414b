//! What is kept and shown of a namespace's enrolment.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use weft_model::Text;

/// Annotations of a Namespace that the next controller goes on from.
pub const STATE_ANNOTATION: &str = "weft-mesh.dev/enrolment";
/// Since when, as RFC 3339.
pub const SINCE_ANNOTATION: &str = "weft-mesh.dev/enrolment-since";
/// The condition of a Namespace that tells users.
pub const CONDITION: &str = "weft-mesh.dev/Enrolled";

/// As many pods or nodes are named in a condition.
const NAMED: usize = 20;

/// How far a namespace is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Its running pods are being enrolled; plaintext callers are let in.
    Enrolling,
    /// Its pods are in the mesh, new ones at once.
    #[default]
    Strict,
    /// It was unlabelled; its pods are being released.
    Leaving,
    /// It is not in the mesh, and something has to be said all the same. Nothing of it is kept.
    Outside,
}

impl Phase {
    /// Every phase of a namespace that is, or was until just now, in the mesh.
    pub const ALL: [Self; 3] = [Self::Enrolling, Self::Strict, Self::Leaving];

    /// The word for annotation, metric and log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enrolling => "enrolling",
            Self::Strict => "strict",
            Self::Leaving => "leaving",
            Self::Outside => "outside",
        }
    }
}

/// What outlives the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The phase.
    pub phase: Phase,
    /// When it began.
    pub since: Timestamp,
}

impl Record {
    /// Reads a Namespace's annotations. `None`: it has no such annotation. What cannot be read is taken to be strict:
    /// it was in the mesh, and no mistake may open it.
    pub fn read<'a>(annotation: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let word = annotation(STATE_ANNOTATION)?;
        let since = annotation(SINCE_ANNOTATION).and_then(|text| text.parse().ok());
        let phase = Phase::ALL.into_iter().find(|phase| phase.as_str() == word);
        Some(match (phase, since) {
            (Some(phase), Some(since)) => Self { phase, since },
            (Some(Phase::Leaving), None) => Self { phase: Phase::Leaving, since: Timestamp::UNIX_EPOCH },
            _ => Self { phase: Phase::Strict, since: since.unwrap_or(Timestamp::UNIX_EPOCH) },
        })
    }

    /// As annotations.
    pub fn annotations(&self) -> BTreeMap<&'static str, String> {
        let since = self.since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        BTreeMap::from([(STATE_ANNOTATION, self.phase.as_str().to_owned()), (SINCE_ANNOTATION, since)])
    }
}

/// A namespace's enrolment, as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceState {
    /// The phase.
    pub phase: Phase,
    /// When it began.
    pub since: Timestamp,
    /// Its running pods that are to be in the mesh.
    pub pods: usize,
    /// Those of them that are not.
    pub missing: Vec<Missing>,
    /// Nodes whose proxies are waited for.
    pub behind: Vec<Text>,
    /// What of its labels means nothing, and what to write instead.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mislabelled: Vec<String>,
}

/// A pod that is to be in the mesh and is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    /// Its name.
    pub pod: Text,
    /// Its node.
    pub node: Text,
    /// Why, and what to do.
    pub why: String,
}

impl NamespaceState {
    /// What outlives the process.
    pub fn record(&self) -> Option<Record> {
        (self.phase != Phase::Outside).then_some(Record { phase: self.phase, since: self.since })
    }

    /// The condition [`CONDITION`] of the Namespace, without its time.
    pub fn condition(&self) -> Value {
        let (status, reason) = match self.phase {
            Phase::Enrolling => ("False", "Enrolling"),
            Phase::Strict if self.missing.is_empty() => ("True", "Strict"),
            Phase::Strict => ("False", "PodsNotMeshed"),
            Phase::Leaving => ("False", "Leaving"),
            Phase::Outside => ("False", "InvalidLabel"),
        };
        let message = match (self.phase, self.mislabelled.join("; it ")) {
            (_, wrong) if wrong.is_empty() => self.message(),
            (Phase::Outside, wrong) => format!("{}; it {wrong}", self.message()),
            (_, wrong) => format!("{}. The namespace {wrong}", self.message()),
        };
        json!({"type": CONDITION, "status": status, "reason": reason, "message": message})
    }

    fn message(&self) -> String {
        let Self { pods, missing, .. } = self;
        let named = |missing: &Missing| format!("{} on {}: {}", missing.pod, missing.node, missing.why);
        let list = shortened(missing.iter().map(named));
        match self.phase {
            Phase::Enrolling if missing.is_empty() && self.behind.is_empty() => {
                format!("all {pods} running pods are served; plaintext is refused in a moment")
            }
            Phase::Enrolling if missing.is_empty() => format!(
                "all {pods} running pods are served; plaintext callers are let in until the proxies on these nodes \
                 know it: {}",
                shortened(self.behind.iter().map(ToString::to_string))
            ),
            Phase::Enrolling => format!(
                "{} of {pods} running pods are served, plaintext callers are let in. Not yet: {list}",
                pods.saturating_sub(missing.len())
            ),
            Phase::Strict if missing.is_empty() => {
                "every running pod is served; plaintext callers are refused unless weft-mesh.dev/mtls says otherwise"
                    .to_owned()
            }
            Phase::Strict => format!(
                "{} of {pods} running pods are not in the mesh and cannot be called by pods that are: {list}",
                missing.len()
            ),
            Phase::Leaving => "the label is gone: callers are told, then the pods are released".to_owned(),
            Phase::Outside => "the namespace is not in the mesh".to_owned(),
        }
    }
}

fn shortened(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(NAMED);
    let mut text = all.take(NAMED).collect::<Vec<_>>().join("; ");
    if more > 0 {
        text += &format!("; and {more} more");
    }
    text
}
