//! Labels that name ports of pods: those open to plaintext callers of strict pods (`weft-mesh.dev/plaintext-ports`), and
//! those whose application does without its callers' addresses (`weft-mesh.dev/proxy-source-ports`). On a pod they name
//! ports of its containers, on a Service ports of the Service: meant are then their target ports on its pods. A label
//! with anything in it that makes no sense has no effect.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_api::node::{INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, TUNNEL_PORT};
use weft_model::ObjectName;
use weft_model::workload::{PLAINTEXT_PORTS_LABEL, PROXY_SOURCE_PORTS_LABEL, Workload};

use super::workload::Workloads;
use crate::inputs::Inputs;

/// A label, and where its ports are noted.
struct PortLabel {
    key: &'static str,
    ports: fn(&mut Workload) -> &mut BTreeSet<u16>,
}

const LABELS: [PortLabel; 2] = [
    PortLabel { key: PLAINTEXT_PORTS_LABEL, ports: |workload| &mut workload.plaintext_ports },
    PortLabel { key: PROXY_SOURCE_PORTS_LABEL, ports: |workload| &mut workload.proxy_source_ports },
];

/// Notes on every pod the ports that its own labels and those of its Services name.
pub(crate) fn convert(inputs: &Inputs, workloads: &mut Workloads, notices: &mut BTreeSet<String>) {
    for label in &LABELS {
        label.convert(inputs, workloads, notices);
    }
}

impl PortLabel {
    fn convert(&self, inputs: &Inputs, workloads: &mut Workloads, notices: &mut BTreeSet<String>) {
        for (name, pod) in &inputs.pods {
            let Some(value) = self.value(pod.metadata.labels.as_ref()) else { continue };
            match items(value).and_then(|items| of_pod(pod, &items)) {
                Ok(ports) => self.note(workloads, pod, ports),
                Err(problem) => self.notice(notices, &format!("pod {name}"), value, &problem),
            }
        }
        for (name, service) in &inputs.services {
            let Some(value) = self.value(service.metadata.labels.as_ref()) else { continue };
            match items(value).and_then(|items| of_service(service, &items)) {
                Ok(targets) => {
                    for pod in pods_of(inputs, name, service) {
                        let ports = targets.iter().filter_map(|target| resolve(pod, target));
                        self.note(workloads, pod, ports);
                    }
                }
                Err(problem) => self.notice(notices, &format!("Service {name}"), value, &problem),
            }
        }
    }

    fn value<'a>(&self, labels: Option<&'a BTreeMap<String, String>>) -> Option<&'a str> {
        labels?.get(self.key).map(String::as_str)
    }

    fn notice(&self, notices: &mut BTreeSet<String>, object: &str, value: &str, problem: &str) {
        notices.insert(format!(
            "{object}: label {}={value:?} has no effect: {problem}; give numbers or names of TCP ports, joined by \
             \"_\", such as 9090_metrics",
            self.key
        ));
    }

    fn note(&self, workloads: &mut Workloads, pod: &Pod, ports: impl IntoIterator<Item = u16>) {
        if let Some(workload) = pod.metadata.uid.as_deref().and_then(|uid| workloads.by_uid_mut(uid)) {
            (self.ports)(workload).extend(ports);
        }
    }
}

/// A port as a label names it.
#[derive(Debug, PartialEq, Eq)]
enum Item<'a> {
    Number(u16),
    Name(&'a str),
}

fn items(value: &str) -> Result<Vec<Item<'_>>, String> {
    let item = |text| match text {
        "" if value.is_empty() => Err("it names no port".to_owned()),
        "" => Err("a port is missing between two \"_\"".to_owned()),
        number if number.bytes().all(|byte| byte.is_ascii_digit()) => match number.parse() {
            Ok(1..) if is_own(number) => Err(format!("port {number} belongs to Weft itself")),
            Ok(port @ 1..) => Ok(Item::Number(port)),
            _ => Err(format!("{number} is no port number")),
        },
        name => Ok(Item::Name(name)),
    };
    value.split('_').map(item).collect()
}

fn is_own(number: &str) -> bool {
    [OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT, TUNNEL_PORT].iter().any(|own| number.parse() == Ok(*own))
}

/// A number need not be declared: `containerPort` is only information.
fn of_pod(pod: &Pod, items: &[Item<'_>]) -> Result<BTreeSet<u16>, String> {
    let port = |item: &Item<'_>| match item {
        Item::Number(number) => Ok(*number),
        Item::Name(name) => {
            named(pod, name).ok_or_else(|| format!("no container of the pod has a TCP port named {name:?}"))
        }
    };
    items.iter().map(port).collect()
}

/// The target ports of the Service ports that are named.
fn of_service(service: &Service, items: &[Item<'_>]) -> Result<Vec<IntOrString>, String> {
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.selector.as_ref()).is_none_or(BTreeMap::is_empty) {
        return Err(
            "the Service has no selector, so its pods are not known: label the pods instead".to_owned()
        );
    }
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let tcp = |port: &&ServicePort| is_tcp(port.protocol.as_deref());
    let target = |item: &Item<'_>| {
        let found = ports.iter().filter(tcp).find(|port| match item {
            Item::Number(number) => port.port == i32::from(*number),
            Item::Name(name) => port.name.as_deref() == Some(*name),
        });
        match (found, item) {
            (Some(port), _) => Ok(port.target_port.clone().unwrap_or(IntOrString::Int(port.port))),
            (None, Item::Number(number)) => Err(format!("the Service has no TCP port {number}")),
            (None, Item::Name(name)) => Err(format!("the Service has no TCP port named {name:?}")),
        }
    };
    items.iter().map(target).collect()
}

fn pods_of<'a>(
    inputs: &'a Inputs,
    service_name: &'a ObjectName,
    service: &'a Service,
) -> impl Iterator<Item = &'a Pod> {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selects = move |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        let has = |(key, value)| labels.is_some_and(|labels| labels.get(key) == Some(value));
        selector.is_some_and(|selector| selector.iter().all(has))
    };
    let beside = inputs.pods.iter().filter(|(name, _)| name.namespace == service_name.namespace);
    beside.map(|(_, pod)| &**pod).filter(move |pod| selects(pod))
}

/// `None`: this pod has no such port, so the Service does not lead to it there.
fn resolve(pod: &Pod, target: &IntOrString) -> Option<u16> {
    let port = match target {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|port| *port > 0),
        IntOrString::String(name) => named(pod, name),
    };
    port.filter(|port| !is_own(&port.to_string()))
}

/// The TCP port of that name of a container, or of an init container that goes on running.
fn named(pod: &Pod, name: &str) -> Option<u16> {
    let spec = pod.spec.as_ref()?;
    let goes_on = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let init = spec.init_containers.iter().flatten().filter(goes_on);
    let mut ports = spec.containers.iter().chain(init).flat_map(|container| container.ports.iter().flatten());
    let this = |port: &&ContainerPort| port.name.as_deref() == Some(name) && is_tcp(port.protocol.as_deref());
    ports.find(this).and_then(|port| u16::try_from(port.container_port).ok())
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_numbers_and_names_joined_by_underscores() {
        use Item::{Name, Number};
        assert_eq!(
            items("9090_http-metrics_8443"),
            Ok(vec![Number(9090), Name("http-metrics"), Number(8443)])
        );
        assert_eq!(items("web"), Ok(vec![Name("web")]));
        for wrong in
            ["", "_", "9090_", "9090__1", "0", "70000", "15001", "80_15006", "015008", "99999999999999999999"]
        {
            assert!(items(wrong).is_err(), "{wrong:?}");
        }
    }
}
