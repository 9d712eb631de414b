//! What the admin server shows of a proxy: the configuration in force, certificates (never keys) and pods.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};
use weft_runtime::admin::{Admin, Answer};

use crate::certificates::Certificates;
use crate::pod::LocalPods;
use crate::state::Snapshot;
use crate::worker::Shared;

/// Registers `/config`, `/certificates` and `/pods`. `/config?PREFIX` shows only the resources whose names begin so,
/// for example `/config?Route/HTTPRoute/shop/`.
pub fn register(admin: &mut Admin, shared: &Arc<Shared>) {
    let of_config = Arc::clone(shared);
    admin.handle("/config", move |prefix| Answer::json(&of_config.snapshot.load().describe(prefix)));
    let of_certificates = Arc::clone(shared);
    admin.handle("/certificates", move |_| Answer::json(&certificates(&of_certificates.certificates)));
    let of_pods = Arc::clone(shared);
    admin.handle("/pods", move |_| Answer::json(&pods(&of_pods.pods.load(), &of_pods.snapshot.load())));
}

fn certificates(certificates: &Certificates) -> Vec<Value> {
    let describe = |leaf: &weft_tls::Leaf| {
        json!({
            "identity": leaf.identity,
            "serial": leaf.serial,
            "notBefore": time(leaf.not_before),
            "notAfter": time(leaf.not_after),
        })
    };
    certificates.list().iter().map(|certified| describe(&certified.leaf)).collect()
}

fn pods(pods: &LocalPods, snapshot: &Snapshot) -> Vec<Value> {
    let mut pods: Vec<_> = pods.iter().collect();
    pods.sort_by(|a, b| a.enrolled.pod.cmp(&b.enrolled.pod));
    let describe = |pod: &Arc<crate::pod::LocalPod>| {
        json!({
            "pod": pod.enrolled.pod,
            "uid": pod.enrolled.uid,
            "identity": pod.identity,
            "addresses": pod.enrolled.addresses,
            "connections": pod.scope.connections(),
            // As the configuration in force has it: `null` while that does not know the pod.
            "plaintextPorts": snapshot.workload(&pod.enrolled.uid).map(|of| of.plaintext_ports.clone()),
            "closing": pod.scope.closing.is_cancelled(),
        })
    };
    pods.into_iter().map(describe).collect()
}

fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use weft_api::delta::Change;
    use weft_model::service::Service;
    use weft_model::{ObjectName, Resource, ResourceName};

    use crate::config::SameNode;
    use crate::state::Snapshot;

    fn service(name: &str) -> Change {
        let name = ObjectName::new("shop", name);
        let resource = Resource::Service(Service::new(name));
        Change::Set(resource.name(), resource.into())
    }

    #[test]
    fn config_shows_what_is_in_force_and_what_was_rejected() {
        let refused = |name: &str| Change::Refused {
            name: ResourceName(name.into()),
            message: "unknown variant".to_owned(),
        };
        let snapshot = Snapshot::empty(Default::default(), SameNode::Direct).apply(
            7,
            [
                service("web"),
                service("cart"),
                refused("Route/HTTPRoute/shop/new"),
                refused("Service/shop/cart"),
            ],
        );
        let shown = snapshot.describe("");
        assert_eq!(shown["version"], 7);
        assert_eq!(shown["resources"].as_array().unwrap().len(), 1);
        assert_eq!(shown["resources"][0]["name"], "Service/shop/web");
        assert_eq!(shown["rejected"][0]["name"], "Route/HTTPRoute/shop/new");
        let mended = snapshot.apply(8, [service("cart")]).describe("Service/shop/c");
        assert_eq!(mended["resources"][0]["name"], "Service/shop/cart");
        assert_eq!(mended["rejected"].as_array().unwrap().len(), 1);
    }
}
