//! All checks, in the order in which they are shown. An id never changes its meaning and is never used again;
//! `docs/checks.md` has a section for each.

use jiff::Timestamp;

use super::rights::Right;
use super::verdict::Verdict;
use super::{cluster, parts, pods, policies, routes, statuses};
use crate::cluster::Fact;
use crate::facts::Facts;

/// What a check may look at.
pub(crate) struct View<'a> {
    pub(crate) facts: &'a Facts,
    /// What the user may do; asked only before an installation.
    pub(crate) rights: Option<Fact<Vec<Right>>>,
    /// Only this namespace is asked about.
    pub(crate) namespace: Option<&'a str>,
    pub(crate) now: Timestamp,
}

/// When a check makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Before Weft is installed.
    Before,
    /// Before and afterwards.
    Always,
    /// Once it is installed.
    Installed,
}

/// One check.
pub(crate) struct Check {
    pub(crate) id: &'static str,
    /// What is so if it finds nothing.
    pub(crate) title: &'static str,
    pub(crate) when: When,
    pub(crate) judge: fn(&View<'_>) -> Verdict,
}

const fn check(id: &'static str, when: When, title: &'static str, judge: fn(&View<'_>) -> Verdict) -> Check {
    Check { id, title, when, judge }
}

/// All of them.
pub(crate) const CHECKS: &[Check] = &[
    check("WEFT001", When::Always, "the API server is new enough", cluster::version),
    check("WEFT002", When::Always, "the Gateway API's definitions are there", cluster::definitions),
    check("WEFT003", When::Always, "the nodes can carry Weft", cluster::nodes),
    check("WEFT004", When::Before, "you may install Weft", cluster::rights),
    check("WEFT005", When::Always, "weft-system admits privileged pods", cluster::admission),
    check("WEFT006", When::Always, "the cluster's ranges are known", cluster::ranges),
    check("WEFT010", When::Installed, "the controller is ready and one replica leads", parts::controller),
    check("WEFT011", When::Installed, "an agent is ready on every node", parts::agents),
    check("WEFT012", When::Installed, "a proxy is ready on every node", parts::proxies),
    check("WEFT013", When::Installed, "all parts are of one version", parts::versions),
    check("WEFT014", When::Installed, "no node waits for its agent", parts::taints),
    check("WEFT015", When::Installed, "the root certificate is published and valid", parts::trust),
    check("WEFT016", When::Installed, "the mesh's own object is accepted", parts::mesh_object),
    check("WEFT020", When::Installed, "labels on namespaces are understood", pods::namespace_labels),
    check("WEFT021", When::Installed, "labels on pods are understood", pods::pod_labels),
    check("WEFT022", When::Installed, "every enrolled pod is in the mesh", pods::meshed),
    check(
        "WEFT023",
        When::Installed,
        "no pod of an enrolled namespace is in its node's network",
        pods::host_network,
    ),
    check("WEFT024", When::Installed, "no enrolled pod can get around its capture", pods::capabilities),
    check("WEFT025", When::Installed, "no enrolled pod has another mesh's sidecar", pods::sidecars),
    check("WEFT030", When::Installed, "NetworkPolicies admit TCP 15008", policies::tunnel_port),
    check("WEFT031", When::Installed, "routes on Services are accepted", routes::accepted),
    check("WEFT032", When::Installed, "routes on Services are judged", routes::judged),
    check("WEFT033", When::Installed, "routes at Gateways are accepted", routes::accepted_at_gateways),
    check("WEFT034", When::Installed, "Gateways and their listeners are in force", statuses::gateways),
    check("WEFT035", When::Installed, "XBackends and policies for backends are in force", statuses::policies),
];
