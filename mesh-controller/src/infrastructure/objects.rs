//! The single objects of a Gateway.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::names::{self, CONTROLLER, GATEWAY_NAME, MANAGED_BY};
use super::parameters::{Parameters, ServiceType};
use super::request::Reach;
use super::{Settings, Subject, Transport};
use weft_model::workload::{LABEL_PREFIX, MESH_LABEL};

/// Where the kubelet's probes and scrapers are answered. All else that the admin endpoint says is said inside the pod only.
const ADMIN: u16 = 15_020;
/// How long open connections may last when a pod is told to go, unless the parameters say otherwise.
pub(super) const DRAIN_SECONDS: u32 = 10;
/// What a pod is given beyond that.
const GRACE_SECONDS: u32 = 15;
/// The name of the volumes' folder and of the trust bundle's key.
const TOKENS: &str = "/var/run/secrets/weft";
const TRUST: &str = "/etc/weft";
const ROOT: &str = "root.pem";

/// Builds the objects of one Gateway.
pub(super) struct Objects<'a> {
    pub(super) subject: &'a Subject,
    pub(super) settings: &'a Settings,
}

impl Objects<'_> {
    fn name(&self) -> String {
        names::object(&self.subject.name.name, &self.subject.class)
    }

    /// What the pods are found by. Nobody can change it: it is part of a Deployment that is immutable.
    fn selector(&self) -> Value {
        json!({GATEWAY_NAME: names::label(&self.subject.name.name), MANAGED_BY: CONTROLLER})
    }

    fn labels(&self) -> Map<String, Value> {
        let asked = self.subject.labels.iter().filter(|(name, _)| !name.starts_with(LABEL_PREFIX));
        let mut labels: Map<String, Value> =
            asked.map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        labels.insert(GATEWAY_NAME.to_owned(), names::label(&self.subject.name.name).into());
        labels.insert(MANAGED_BY.to_owned(), CONTROLLER.into());
        labels
    }

    fn annotations(&self) -> Map<String, Value> {
        let asked = self.subject.annotations.iter().filter(|(name, _)| !name.starts_with(LABEL_PREFIX));
        asked.map(|(name, value)| (name.clone(), value.as_str().into())).collect()
    }

    fn object(&self, api_version: &str, kind: &str, name: &str, rest: Value) -> Value {
        let Subject { name: gateway, uid, api_version: version, .. } = self.subject;
        let mut object = json!({
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": gateway.namespace,
                "labels": self.labels(),
                "annotations": self.annotations(),
                // Without `blockOwnerDeletion`, which takes a right to Gateways' finalizers.
                "ownerReferences": [{
                    "apiVersion": version, "kind": "Gateway", "name": gateway.name, "uid": uid, "controller": true,
                }],
            },
        });
        if let (Some(object), Value::Object(rest)) = (object.as_object_mut(), rest) {
            object.extend(rest);
        }
        object
    }

    /// Who the proxies are.
    pub(super) fn service_account(&self) -> Value {
        let rest = json!({"automountServiceAccountToken": false});
        self.object("v1", "ServiceAccount", &self.name(), rest)
    }

    /// The root that the proxies know the controller by; a pod can mount only what is in its own namespace.
    pub(super) fn trust(&self) -> Value {
        self.object("v1", "ConfigMap", &self.name(), json!({"data": {ROOT: self.settings.root_pem}}))
    }

    pub(super) fn disruption_budget(&self) -> Value {
        let spec = json!({
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": self.selector()},
        });
        self.object("policy/v1", "PodDisruptionBudget", &self.name(), json!({"spec": spec}))
    }

    /// One for each address that is asked for by value, and one for those that are not. What is reachable in the cluster only
    /// is none of a load balancer's, whatever its parameters say.
    pub(super) fn services(&self) -> Vec<Value> {
        let Subject { name, class, services, .. } = self.subject;
        let any = services.any.map(|reach| self.service(&self.name(), None, reach));
        let named = services.named.iter().map(|(address, reach)| {
            self.service(&names::service_for(&name.name, class, &address.to_string()), Some(*address), *reach)
        });
        any.into_iter().chain(named).collect()
    }

    fn service(&self, name: &str, address: Option<IpAddr>, reach: Reach) -> Value {
        let of_cluster = Parameters { service_type: ServiceType::ClusterIp, ..Parameters::default() };
        let parameters = match reach {
            Reach::AsConfigured => &self.subject.parameters,
            Reach::Cluster => &of_cluster,
        };
        let mut spec = json!({
            "type": parameters.service_type.as_str(),
            "selector": self.selector(),
            "ports": self.subject.ports.iter().map(port).collect::<Vec<_>>(),
        });
        let mut set = |key: &str, value: Value| {
            if let Some(spec) = spec.as_object_mut() {
                spec.insert(key.to_owned(), value);
            }
        };
        match address {
            None => set("ipFamilyPolicy", "PreferDualStack".into()),
            Some(address) => {
                set("ipFamilyPolicy", "SingleStack".into());
                set("ipFamilies", json!([if address.is_ipv4() { "IPv4" } else { "IPv6" }]));
                if parameters.service_type.has_load_balancer() {
                    set("loadBalancerIP", address.to_string().into());
                }
                if parameters.service_type == ServiceType::ClusterIp {
                    set("clusterIP", address.to_string().into());
                }
            }
        }
        if let Some(class) = parameters.load_balancer_class() {
            set("loadBalancerClass", class.into());
        }
        if let Some(policy) = parameters.external_traffic_policy() {
            set("externalTrafficPolicy", policy.into());
        }
        self.object("v1", "Service", name, json!({"spec": spec}))
    }

    pub(super) fn deployment(&self) -> Value {
        let mut labels = self.labels();
        // Gateways' pods are never captured: they dial what is in the mesh themselves, as who they are.
        labels.insert(MESH_LABEL.to_owned(), "disabled".into());
        let mut spec = json!({
            "selector": {"matchLabels": self.selector()},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": labels, "annotations": self.annotations()},
                "spec": self.pod(),
            },
        });
        // What is left out is somebody else's to decide, such as an autoscaler's.
        if let (Some(replicas), Some(spec)) = (self.subject.parameters.replicas, spec.as_object_mut()) {
            spec.insert("replicas".to_owned(), replicas.into());
        }
        self.object("apps/v1", "Deployment", &self.name(), json!({"spec": spec}))
    }

    fn pod(&self) -> Value {
        let parameters = &self.subject.parameters;
        let secrets = &self.settings.pull_secrets;
        let mut pod = json!({
            "serviceAccountName": self.name(),
            // Its only token is the one for the certificate authority, below.
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": self.drain() + GRACE_SECONDS,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
                // Listeners have low ports. The sysctl is one that Pod Security calls safe.
                "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
            },
            "topologySpreadConstraints": [{
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": self.selector()},
            }],
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "containers": [self.container()],
            "volumes": [
                {"name": "token", "projected": {"sources": [{
                    "serviceAccountToken": {"path": "token", "audience": "weft-ca", "expirationSeconds": 3600},
                }]}},
                {"name": "trust", "configMap": {"name": self.name()}},
            ],
        });
        if let Some(pod) = pod.as_object_mut() {
            if !secrets.is_empty() {
                let named: Vec<Value> = secrets.iter().map(|name| json!({"name": name})).collect();
                pod.insert("imagePullSecrets".to_owned(), named.into());
            }
            pod.extend(parameters.pod.clone());
        }
        pod
    }

    fn drain(&self) -> u32 {
        self.subject.parameters.drain_seconds.unwrap_or(DRAIN_SECONDS)
    }

    fn container(&self) -> Value {
        let Settings { image, pull_policy, .. } = self.settings;
        let from = |field: &str| json!({"fieldRef": {"fieldPath": field}});
        let probe = |path: &str, period: u32| json!({"httpGet": {"path": path, "port": "admin"}, "periodSeconds": period, "timeoutSeconds": 5});
        let mut liveness = probe("/healthz", 10);
        if let Some(liveness) = liveness.as_object_mut() {
            liveness.insert("failureThreshold".to_owned(), 6.into());
        }
        json!({
            "name": "weft-proxy",
            "image": image,
            "imagePullPolicy": pull_policy,
            "command": self.command(),
            "env": [
                {"name": "WEFT_POD_NAME", "valueFrom": from("metadata.name")},
                {"name": "WEFT_POD_NAMESPACE", "valueFrom": from("metadata.namespace")},
                {"name": "WEFT_POD_UID", "valueFrom": from("metadata.uid")},
                {"name": "WEFT_SERVICE_ACCOUNT", "valueFrom": from("spec.serviceAccountName")},
                {"name": "WEFT_POD_ADDRESSES", "valueFrom": from("status.podIPs")},
                {"name": "WEFT_MEMORY_LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
            ],
            "ports": [{"name": "admin", "containerPort": ADMIN, "protocol": "TCP"}],
            "livenessProbe": liveness,
            "readinessProbe": probe("/readyz", 1),
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "runAsNonRoot": true,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "resources": self.subject.parameters.resources(),
            "volumeMounts": [
                {"name": "token", "mountPath": TOKENS, "readOnly": true},
                {"name": "trust", "mountPath": TRUST, "readOnly": true},
            ],
        })
    }

    fn command(&self) -> Vec<String> {
        let Settings { controller, controller_name, trust_domain, .. } = self.settings;
        let mut command = vec![
            "/usr/local/bin/weft-proxy".to_owned(),
            "--role=gateway".to_owned(),
            format!("--gateway={}", self.subject.name),
            format!("--node-token-file={TOKENS}/token"),
            format!("--controller={controller}"),
            format!("--controller-name={controller_name}"),
            format!("--controller-ca={TRUST}/{ROOT}"),
            format!("--public-admin=[::]:{ADMIN}"),
            format!("--trust-domain={trust_domain}"),
            format!("--drain={}s", self.drain()),
        ];
        command.extend(self.subject.parameters.flags());
        command
    }
}

fn port((number, transport): &(u16, Transport)) -> Value {
    let (protocol, prefix) = match transport {
        Transport::Tcp => ("TCP", "tcp"),
        Transport::Udp => ("UDP", "udp"),
    };
    json!({"name": format!("{prefix}-{number}"), "port": number, "targetPort": number, "protocol": protocol})
}
