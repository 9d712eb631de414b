//! Weft on a real cluster from its installation to its end, as a user does it: the task pages of the book are run as they
//! stand, and between two of them what they promise is looked at more closely. Needs root, what `cargo xtask setup` installs,
//! and the programs that `cargo xtask test` builds. One test, since a cluster takes its time; `WEFT_KEEP_CLUSTER=1` leaves it up.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a panic is how a test fails"
)]

mod access;
mod away;
mod nodes;
mod pages;
mod traces;
mod weft;

use traces::Traces;
use weft::Weft;

/// From a pod of the mesh; the callee says who called.
const FROM_MESH: &str = "kubectl -n shop exec deployment/web -- curl -fsS --max-time 10 http://catalog/";
/// From a pod outside of it.
const FROM_OUTSIDE: &str =
    "kubectl -n legacy exec deployment/job -- curl -fsS --max-time 10 http://catalog.shop/";

#[test]
fn an_installation_lives_and_goes() {
    let weft = Weft::start("life", &[]);
    // What the pages begin with is there before Weft: running pods are enrolled, and what is left behind can be compared.
    weft.ok("kubectl apply -f deploy/examples/tasks.yaml");
    weft.ok("for namespace in shop partner legacy; do
           kubectl -n $namespace wait deployment --all --for=condition=Available --timeout=5m
         done");
    let before = Traces::of(&weft);
    let pods = weft.pods("shop");
    weft.ok("kubectl taint node node2 weft-mesh.dev/agent-not-ready=:NoSchedule");
    pages::run(&weft, "install");
    weft.until("test -z \"$(kubectl get node node2 -o jsonpath='{.spec.taints}')\"");
    pages::run(&weft, "enrol-a-namespace");
    access::calls_are_identified_and_nothing_is_amiss(&weft);
    access::agents_are_bound_to_their_node(&weft);
    for page in ["route-between-versions", "consumer-routes", "mtls-and-what-is-not-covered"] {
        pages::run(&weft, page);
    }
    for page in ["network-policy", "troubleshooting", "nodes"] {
        pages::run(&weft, page);
    }
    away::an_upgrade_fails_no_request(&weft);
    assert_eq!(weft.pods("shop"), pods, "pods were restarted or replaced");
    away::an_exempt_namespace_stays_outside_whatever_its_labels(&weft);
    nodes::check(&weft);
    let pods = weft.pods("shop");
    away::deleting_the_proxies_leaves_pods_closed(&weft);
    away::deleting_the_agents_lets_no_enrolled_pod_start(&weft);
    access::viewers_can_look_and_others_cannot(&weft);
    access::nothing_was_forbidden(&weft);
    away::an_uninstallation_that_fails_deletes_nothing(&weft);
    away::uninstalling_opens_pods_without_restarting_them(&weft);
    assert_eq!(weft.pods("shop"), pods, "pods were restarted or replaced");
    Traces::of(&weft).assert_same(&before);
}
