//! What `parametersRef` can say, of a Gateway and of its class: a ConfigMap whose keys are these settings.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::inputs::unknown_field;

/// The longest drain, in seconds: what belongs to a Gateway that is deleted is to be gone soon.
const LONGEST_DRAIN: u32 = 3600;

/// The most connections that a port of a proxy may have; more than a process has descriptors.
const MOST_CONNECTIONS: u32 = 1_000_000;

/// The most proxies that a request comes through.
const MOST_HOPS: u32 = 16;

/// The settings of a Gateway's proxies. What is not given has the default that stands with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// `replicas`: how many proxies; left to others, and to begin with 1, if not given.
    pub replicas: Option<u32>,
    /// `serviceType`.
    pub service_type: ServiceType,
    /// `loadBalancerClass` of the Services.
    pub load_balancer_class: Option<String>,
    /// `externalTrafficPolicy` of the Services: `Cluster` or `Local`.
    pub external_traffic_policy: Option<String>,
    /// `drainSeconds`: how long open connections may last when a pod is told to go.
    pub drain_seconds: Option<u32>,
    /// `workers`: threads that carry traffic.
    pub workers: Option<u32>,
    /// `maxConnections`: how many connections each port of a proxy may have open at a time.
    pub max_connections: Option<u32>,
    /// `accessLog`: `on` or `off`.
    pub access_log: Option<bool>,
    /// `trustedProxies`: ranges of proxies before these, which are believed in what they say of clients.
    pub trusted_proxies: Vec<IpNet>,
    /// `trustedHops`: how many proxies are before these, wherever they call from.
    pub trusted_hops: Option<u32>,
    /// `proxyProtocol`: `required` or `off`.
    pub proxy_protocol: bool,
    /// `serviceRoutes`: `obey` or `ignore`.
    pub service_routes: bool,
    /// `log`: what is logged.
    pub log: Option<String>,
    /// `resources` of the container.
    pub resources: Option<Value>,
    /// Fields of the pod that are set as they stand: `nodeSelector`, `tolerations`, `affinity`,
    /// `topologySpreadConstraints`, `priorityClassName`, `runtimeClassName`.
    pub pod: Map<String, Value>,
}

/// `spec.type` of a Gateway's Services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// Reachable from outside by an address of its own.
    #[default]
    LoadBalancer,
    /// Reachable by a port of every node.
    NodePort,
    /// Reachable inside the cluster only.
    ClusterIp,
}

impl ServiceType {
    /// As Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
            Self::ClusterIp => "ClusterIP",
        }
    }

    /// Whether an address is allotted by a load balancer.
    pub const fn has_load_balancer(self) -> bool {
        matches!(self, Self::LoadBalancer)
    }
}

/// Parameters that cannot be used, in words for the Gateway's status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidParameters(pub String);

/// A reference to parameters.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    /// `group`.
    pub group: &'a str,
    /// `kind`.
    pub kind: &'a str,
    /// `name`.
    pub name: &'a str,
}

impl Reference<'_> {
    /// The ConfigMap's name, if it is one that is referred to.
    ///
    /// # Errors
    /// It is another kind.
    pub fn config_map(&self) -> Result<&str, InvalidParameters> {
        let Self { group, kind, name } = self;
        if matches!(*group, "" | "core") && *kind == "ConfigMap" {
            return Ok(name);
        }
        let shown = if group.is_empty() { (*kind).to_owned() } else { format!("{kind}.{group}") };
        Err(InvalidParameters(format!(
            "parametersRef names {shown} {name:?}: parameters are a ConfigMap (group \"\")"
        )))
    }
}

impl Parameters {
    /// Reads ConfigMaps one after the other, each over the ones before: a class's first, then its Gateway's.
    ///
    /// # Errors
    /// A key that is not known, or a value that is not what it should be.
    pub fn read<'a>(
        layers: impl IntoIterator<Item = &'a BTreeMap<String, String>>,
    ) -> Result<Self, InvalidParameters> {
        let mut parameters = Self::default();
        for (key, value) in layers.into_iter().flatten() {
            parameters
                .set(key, value.trim())
                .map_err(|why| InvalidParameters(format!("the parameter {key}: {why}")))?;
        }
        if parameters.trusted_hops.is_some_and(|hops| hops > 0) && !parameters.trusted_proxies.is_empty() {
            let why = "the parameters trustedHops and trustedProxies exclude each other: give one of them";
            return Err(InvalidParameters(why.to_owned()));
        }
        Ok(parameters)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "replicas" => self.replicas = Some(number(value, u32::try_from(i32::MAX).unwrap_or(u32::MAX))?),
            "serviceType" => self.service_type = service_type(value)?,
            "loadBalancerClass" => self.load_balancer_class = Some(value.to_owned()),
            "externalTrafficPolicy" => {
                self.external_traffic_policy = Some(one_of(value, &["Cluster", "Local"])?)
            }
            "drainSeconds" => self.drain_seconds = Some(number(value, LONGEST_DRAIN)?),
            "workers" => self.workers = Some(number(value, 1024)?),
            "maxConnections" => self.max_connections = Some(number(value, MOST_CONNECTIONS)?),
            "accessLog" => self.access_log = Some(one_of(value, &["on", "off"])? == "on"),
            "trustedProxies" => self.trusted_proxies = ranges(value)?,
            "trustedHops" => self.trusted_hops = Some(number(value, MOST_HOPS)?),
            "proxyProtocol" => self.proxy_protocol = one_of(value, &["required", "off"])? == "required",
            "serviceRoutes" => self.service_routes = one_of(value, &["obey", "ignore"])? == "obey",
            "log" => self.log = Some(value.to_owned()),
            "resources" => self.resources = Some(resources(value)?),
            "nodeSelector" => self.set_pod::<BTreeMap<String, String>>(key, value)?,
            "tolerations" => self.set_pod::<Vec<Toleration>>(key, value)?,
            "affinity" => self.set_pod::<Affinity>(key, value)?,
            "topologySpreadConstraints" => self.set_pod::<Vec<TopologySpreadConstraint>>(key, value)?,
            "priorityClassName" | "runtimeClassName" => drop(self.pod.insert(key.to_owned(), value.into())),
            _ => {
                return Err("there is none of this name; there are replicas, serviceType, loadBalancerClass, \
                            externalTrafficPolicy, drainSeconds, workers, maxConnections, accessLog, log, trustedProxies, trustedHops, \
                            proxyProtocol, serviceRoutes, resources, nodeSelector, tolerations, affinity, topologySpreadConstraints, priorityClassName and runtimeClassName"
                    .to_owned());
            }
        }
        Ok(())
    }

    fn set_pod<T: DeserializeOwned + Serialize>(&mut self, key: &str, value: &str) -> Result<(), String> {
        self.pod.insert(key.to_owned(), typed::<T>(value)?);
        Ok(())
    }

    /// The container's resources.
    pub(super) fn resources(&self) -> Value {
        let usual = || json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}});
        self.resources.clone().unwrap_or_else(usual)
    }

    /// The Services' class; only load balancers have one.
    pub(super) fn load_balancer_class(&self) -> Option<&str> {
        self.load_balancer_class.as_deref().filter(|_| self.service_type.has_load_balancer())
    }

    /// The Services' policy; it is about clients outside the cluster.
    pub(super) fn external_traffic_policy(&self) -> Option<&str> {
        self.external_traffic_policy.as_deref().filter(|_| self.service_type != ServiceType::ClusterIp)
    }

    /// Flags of the proxy.
    pub(super) fn flags(&self) -> impl Iterator<Item = String> {
        let log = self.log.as_ref().map(|log| format!("--log={log}"));
        let workers = self.workers.map(|workers| format!("--workers={workers}"));
        let most = self.max_connections.map(|most| format!("--max-connections-per-pod={most}"));
        let access = self.access_log.map(|on| format!("--access-log={}", if on { "-" } else { "off" }));
        let ranges = self.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let proxies = (!ranges.is_empty()).then(|| format!("--trusted-proxies={ranges}"));
        let hops = self.trusted_hops.filter(|hops| *hops > 0).map(|hops| format!("--trusted-hops={hops}"));
        let header = self.proxy_protocol.then(|| "--proxy-protocol".to_owned());
        [log, workers, most, access, proxies, hops, header].into_iter().flatten()
    }
}

fn number(value: &str, most: u32) -> Result<u32, String> {
    let number = value.parse().ok().filter(|number| *number <= most);
    number.ok_or_else(|| format!("{value:?} is not a number from 0 to {most}"))
}

/// Address ranges, or single addresses, separated by commas.
fn ranges(value: &str) -> Result<Vec<IpNet>, String> {
    let range = |text: &str| {
        let text = text.trim();
        let one = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse().or_else(|_| one()).map_err(|_| format!("{text:?} is no range such as 10.0.0.0/8"))
    };
    value.split(',').filter(|text| !text.trim().is_empty()).map(range).collect()
}

fn one_of(value: &str, known: &[&str]) -> Result<String, String> {
    match known.contains(&value) {
        true => Ok(value.to_owned()),
        false => Err(format!("{value:?} is not one of {}", known.join(", "))),
    }
}

fn service_type(value: &str) -> Result<ServiceType, String> {
    let all = [ServiceType::LoadBalancer, ServiceType::NodePort, ServiceType::ClusterIp];
    let found = all.into_iter().find(|known| known.as_str() == value);
    found.ok_or_else(|| format!("{value:?} is not one of LoadBalancer, NodePort, ClusterIP"))
}

/// A value in YAML or JSON that has to be of a type, field by field.
fn typed<T: DeserializeOwned + Serialize>(text: &str) -> Result<Value, String> {
    let raw: Value = serde_saphyr::from_str(text).map_err(|error| format!("it is no YAML: {error}"))?;
    let decoded = T::deserialize(&raw).map_err(|error| error.to_string())?;
    let known = serde_json::to_value(&decoded).map_err(|error| error.to_string())?;
    match unknown_field(&raw, &known, String::new()) {
        Some(field) => Err(format!("the field {} is not known", field.trim_start_matches('.'))),
        None => Ok(raw),
    }
}

fn resources(text: &str) -> Result<Value, String> {
    let value = typed::<ResourceRequirements>(text)?;
    for kind in ["requests", "limits"] {
        let quantities = value.get(kind).and_then(Value::as_object);
        for (name, quantity) in quantities.into_iter().flatten() {
            let text = quantity.as_str().map_or_else(|| quantity.to_string(), str::to_owned);
            if !is_quantity(&text) {
                return Err(format!("{kind}.{name}: {text:?} is not a quantity such as 100m or 64Mi"));
            }
        }
    }
    Ok(value)
}

/// Kubernetes' quantities: a decimal number, and a suffix or an exponent.
fn is_quantity(text: &str) -> bool {
    const SUFFIXES: [&str; 15] =
        ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let exponent = || {
        let digits = suffix.strip_prefix(['e', 'E'])?.trim_start_matches(['+', '-']);
        (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then_some(())
    };
    number.parse::<f64>().is_ok() && (SUFFIXES.contains(&suffix) || suffix == "Ei" || exponent().is_some())
}
