//! What `spec.addresses` of a Gateway asks for, and by which Services it can be had (GEP-5093).

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_gateway_api::gateways::GatewaySpec;

/// From where an address has to be reachable: `routability`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routability {
    /// Empty: from wherever the Service's type makes it so.
    Default,
    /// `Cluster`: from inside the cluster, by a ClusterIP.
    Cluster,
    /// `testing.x-k8s.io/sentinel`: nothing is promised, so that it is as good as the default, and reported as asked for.
    Sentinel,
    /// Another, which nothing can be given for.
    Unknown(String),
}

/// What conformance tests ask for.
const SENTINEL: &str = "testing.x-k8s.io/sentinel";

impl Routability {
    fn read(text: &str) -> Self {
        match text {
            "" => Self::Default,
            "Cluster" => Self::Cluster,
            SENTINEL => Self::Sentinel,
            other => Self::Unknown(other.to_owned()),
        }
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Default => "",
            Self::Cluster => "Cluster",
            Self::Sentinel => SENTINEL,
            Self::Unknown(other) => other,
        }
    }
}

/// An entry of `spec.addresses` of type `IPAddress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The address; `None`: any will do.
    pub value: Option<IpAddr>,
    /// From where it has to be reachable.
    pub routability: Routability,
}

/// What a Service is made like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Of the type that the parameters say.
    AsConfigured,
    /// Of type `ClusterIP`, whatever they say.
    Cluster,
}

/// The Services that a Gateway has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// The one for addresses that are not named.
    pub any: Option<Reach>,
    /// Those for addresses that are, one for each.
    pub named: BTreeMap<IpAddr, Reach>,
}

/// Whether `spec.addresses` asks for nothing: then whatever the Gateway's Service is given is its address.
pub fn asks_for_none(spec: &GatewaySpec) -> bool {
    spec.addresses.as_ref().is_none_or(Vec::is_empty)
}

/// What is asked for, in the order of the spec. A value that is no address is left out: such a Gateway is refused.
pub fn requests(spec: &GatewaySpec) -> Vec<Request> {
    let of_type_ip = spec
        .addresses
        .iter()
        .flatten()
        .filter(|of| of.r#type.as_deref().is_none_or(|kind| kind == "IPAddress"));
    let request = |of: &weft_gateway_api::gateways::GatewayAddresses| {
        let value = match of.value.as_deref().filter(|value| !value.is_empty()) {
            Some(value) => Some(value.parse().ok()?),
            None => None,
        };
        let routability = Routability::read(of.routability.as_deref().unwrap_or_default());
        Some(Request { value, routability })
    };
    of_type_ip.filter_map(request).collect()
}

/// The Services by which the addresses that `spec.addresses` asks for can be had.
pub fn services(spec: &GatewaySpec) -> Services {
    let mut services = Services::default();
    if asks_for_none(spec) {
        services.any = Some(Reach::AsConfigured);
    }
    for Request { value, routability } in requests(spec) {
        let reach = match routability {
            Routability::Default | Routability::Sentinel => Reach::AsConfigured,
            Routability::Cluster => Reach::Cluster,
            Routability::Unknown(_) => continue,
        };
        match value {
            Some(value) => drop(services.named.insert(value, reach)),
            // What is reachable from elsewhere has a ClusterIP too.
            None => services.any = Some(services.any.map_or(reach, |other| other.min(reach))),
        }
    }
    services
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(addresses: serde_json::Value) -> Services {
        let spec = json!({"gatewayClassName": "weft", "listeners": [], "addresses": addresses});
        services(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn only_what_asks_for_no_more_than_the_cluster_gets_a_service_of_the_cluster() {
        use Reach::{AsConfigured, Cluster};
        let any = |addresses| of(addresses).any;
        assert_eq!(any(json!([])), Some(AsConfigured));
        assert_eq!(any(json!([{"value": ""}])), Some(AsConfigured));
        assert_eq!(any(json!([{"routability": "Cluster"}])), Some(Cluster));
        assert_eq!(any(json!([{"routability": "Cluster"}, {"routability": ""}])), Some(AsConfigured));
        assert_eq!(any(json!([{"routability": SENTINEL}, {"routability": "Cluster"}])), Some(AsConfigured));
        assert_eq!(any(json!([{"routability": "example.com/intranet"}])), None);
        assert_eq!(any(json!([{"value": "192.0.2.1"}])), None);
        let named =
            of(json!([{"value": "10.96.0.7", "routability": "Cluster"}, {"value": "2001:db8::1"}])).named;
        let wanted = [("10.96.0.7", Cluster), ("2001:db8::1", AsConfigured)];
        assert_eq!(named, wanted.map(|(address, reach)| (address.parse().unwrap(), reach)).into());
    }
}
