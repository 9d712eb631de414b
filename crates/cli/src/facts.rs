//! What `weft check` and `weft status` know about a cluster: everything is asked once, at the same time, and what was
//! not answered is kept with the reason. Judging is done elsewhere and needs no cluster.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};

use crate::cluster::{Cluster, Fact, Unknown, unknown};

/// Where Weft runs.
pub(crate) const HOME: &str = "weft-system";

/// Kinds of the Gateway API that Weft reads, with the names of their definitions.
pub(crate) const ROUTE_KINDS: [(&str, &str); 5] = [
    ("HTTPRoute", "httproutes"),
    ("GRPCRoute", "grpcroutes"),
    ("TLSRoute", "tlsroutes"),
    ("TCPRoute", "tcproutes"),
    ("UDPRoute", "udproutes"),
];
/// The definitions of what describes Gateways.
const GATEWAYS: [&str; 3] = [
    "gatewayclasses.gateway.networking.k8s.io",
    "gateways.gateway.networking.k8s.io",
    "listenersets.gateway.networking.k8s.io",
];
/// The definitions of XBackends and of the policies for backends.
const POLICIES: [&str; 3] = [
    "backendtlspolicies.gateway.networking.k8s.io",
    "xbackends.gateway.networking.x-k8s.io",
    "xbackendtrafficpolicies.gateway.networking.x-k8s.io",
];
/// Group of the routes.
pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Group of what is experimental.
pub(crate) const EXPERIMENTAL_GROUP: &str = "gateway.networking.x-k8s.io";

/// What was asked.
#[derive(Debug)]
pub(crate) struct Facts {
    /// `gitVersion` of the API server.
    pub(crate) version: Fact<String>,
    pub(crate) nodes: Fact<Vec<Node>>,
    pub(crate) namespaces: Fact<Vec<Namespace>>,
    pub(crate) pods: Fact<Vec<Pod>>,
    pub(crate) services: Fact<Vec<Service>>,
    pub(crate) network_policies: Fact<Vec<NetworkPolicy>>,
    pub(crate) service_ranges: Fact<Vec<ServiceCIDR>>,
    /// kubeadm's notes on the cluster; most clusters have none, most users may not read them.
    pub(crate) kubeadm: Fact<ConfigMap>,
    /// Definitions of the routes, and of XMesh; those that are there.
    pub(crate) definitions: Fact<Vec<CustomResourceDefinition>>,
    pub(crate) routes: Fact<Vec<DynamicObject>>,
    pub(crate) meshes: Fact<Vec<DynamicObject>>,
    /// GatewayClasses, Gateways and ListenerSets.
    pub(crate) gateways: Fact<Vec<DynamicObject>>,
    /// BackendTLSPolicies, XBackends and XBackendTrafficPolicies.
    pub(crate) policies: Fact<Vec<DynamicObject>>,
    /// In `weft-system`.
    pub(crate) deployments: Fact<Vec<Deployment>>,
    /// In `weft-system`.
    pub(crate) daemon_sets: Fact<Vec<DaemonSet>>,
    pub(crate) trust: Fact<ConfigMap>,
    pub(crate) lease: Fact<Lease>,
}

impl Facts {
    /// Asks the cluster.
    ///
    /// # Errors
    /// When it does not answer at all.
    pub(crate) async fn ask(cluster: &Cluster) -> Fact<Self> {
        let info = cluster.client.apiserver_version().await;
        let version = match info.map_err(|error| unknown(error, "the API server does not answer")) {
            Err(Unknown::Failed(error)) => return Err(Unknown::Failed(error)),
            other => other.map(|info| info.git_version),
        };
        let parts =
            async { tokio::join!(cluster.within::<Deployment>(HOME), cluster.within::<DaemonSet>(HOME)) };
        let core = async { tokio::join!(cluster.all(), cluster.all(), cluster.all(), cluster.all()) };
        let network = async {
            tokio::join!(cluster.all(), cluster.all(), cluster.one("kube-system", "kubeadm-config"))
        };
        let home =
            async { tokio::join!(cluster.one(HOME, "weft-trust"), cluster.one(HOME, "weft-controller")) };
        let gateway = async {
            let definitions = definitions(cluster).await;
            let (routes, meshes) = match &definitions {
                Ok(definitions) => tokio::join!(
                    objects(cluster, definitions, |kind| ROUTE_KINDS.iter().any(|(route, _)| *route == kind)),
                    objects(cluster, definitions, |kind| kind == "XMesh")
                ),
                Err(error) => (Err(error.clone()), Err(error.clone())),
            };
            (definitions, routes, meshes)
        };
        let judged =
            async { tokio::join!(of_definitions(cluster, &GATEWAYS), of_definitions(cluster, &POLICIES)) };
        let (parts, core, network, home, gateway, judged) =
            tokio::join!(parts, core, network, home, gateway, judged);
        Ok(Self {
            version,
            nodes: core.0,
            namespaces: core.1,
            pods: core.2,
            services: core.3,
            network_policies: network.0,
            service_ranges: network.1,
            kubeadm: network.2,
            definitions: gateway.0,
            routes: gateway.1,
            meshes: gateway.2,
            gateways: judged.0,
            policies: judged.1,
            deployments: parts.0,
            daemon_sets: parts.1,
            trust: home.0,
            lease: home.1,
        })
    }
}

/// The definitions of routes, grants and meshes.
pub(crate) async fn definitions(cluster: &Cluster) -> Fact<Vec<CustomResourceDefinition>> {
    let mut names: Vec<String> =
        ROUTE_KINDS.iter().map(|(_, plural)| format!("{plural}.{GATEWAY_GROUP}")).collect();
    names.push(format!("referencegrants.{GATEWAY_GROUP}"));
    names.push(format!("xmeshes.{EXPERIMENTAL_GROUP}"));
    defined(cluster, &names).await
}

/// The definitions of these names that are there. One by one: a cluster may have hundreds of others.
async fn defined(cluster: &Cluster, names: &[impl AsRef<str>]) -> Fact<Vec<CustomResourceDefinition>> {
    let answers =
        futures_util::future::join_all(names.iter().map(|name| cluster.global(name.as_ref()))).await;
    let mut found = Vec::new();
    for answer in answers {
        match answer {
            Ok(definition) => found.push(definition),
            Err(Unknown::Absent(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// All objects of the definitions of these names.
async fn of_definitions(cluster: &Cluster, names: &[&str]) -> Fact<Vec<DynamicObject>> {
    objects(cluster, &defined(cluster, names).await?, |_| true).await
}

/// All objects of some kinds, in the version that each is stored in.
async fn objects(
    cluster: &Cluster,
    definitions: &[CustomResourceDefinition],
    is_wanted: impl Fn(&str) -> bool,
) -> Fact<Vec<DynamicObject>> {
    let wanted = |definition: &&CustomResourceDefinition| is_wanted(&definition.spec.names.kind);
    let kinds: Vec<ApiResource> = definitions.iter().filter(wanted).filter_map(resource).collect();
    let answers = futures_util::future::join_all(kinds.iter().map(|kind| cluster.dynamic(kind))).await;
    let mut found = Vec::new();
    for (kind, answer) in kinds.iter().zip(answers) {
        for mut object in answer? {
            // Items of a list do not say what they are.
            object.types =
                Some(kube::api::TypeMeta { api_version: kind.api_version.clone(), kind: kind.kind.clone() });
            found.push(object);
        }
    }
    Ok(found)
}

/// How a definition's objects are asked for.
pub(crate) fn resource(definition: &CustomResourceDefinition) -> Option<ApiResource> {
    let spec = &definition.spec;
    let stored = spec.versions.iter().find(|version| version.storage && version.served);
    let version = stored.or_else(|| spec.versions.iter().find(|version| version.served))?;
    let kind = GroupVersionKind::gvk(&spec.group, &version.name, &spec.names.kind);
    Some(ApiResource::from_gvk_with_plural(&kind, &spec.names.plural))
}
