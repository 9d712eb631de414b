//! What is made for a Gateway, and what parameters change of it.

use serde_json::json;

use super::parameters::{Reference, ServiceType};
use super::request::{Reach, Services};
use super::*;

pub(crate) fn settings() -> Settings {
    Settings {
        image: "weft/weft-proxy:1".into(),
        pull_policy: "IfNotPresent".into(),
        pull_secrets: Vec::new(),
        controller: "weft-controller.weft-system.svc:15012".into(),
        controller_name: "weft-controller.weft-system.svc".into(),
        root_pem: "PEM".into(),
        trust_domain: TrustDomain("cluster.local".into()),
    }
}

pub(crate) fn subject() -> Subject {
    Subject {
        name: ObjectName::new("shop", "front"),
        uid: "u".into(),
        api_version: "gateway.networking.k8s.io/v1".into(),
        class: "weft".into(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        services: Services { any: Some(Reach::AsConfigured), named: BTreeMap::new() },
        ports: BTreeSet::from([(80, Transport::Tcp), (53, Transport::Udp)]),
        parameters: Parameters::default(),
    }
}

fn of_kind<'v>(all: &'v [Value], kind: &str) -> Vec<&'v Value> {
    all.iter().filter(|object| object["kind"] == kind).collect()
}

fn texts(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn everything_belongs_to_the_gateway_and_carries_its_name() {
    let all = desired(&subject(), &settings());
    let kinds: Vec<&str> = all.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(kinds, ["ServiceAccount", "ConfigMap", "PodDisruptionBudget", "Service", "Deployment"]);
    for object in &all {
        assert_eq!(object["metadata"]["name"], "front-weft");
        assert_eq!(object["metadata"]["namespace"], "shop");
        assert_eq!(object["metadata"]["labels"][names::GATEWAY_NAME], "front");
        let owner = &object["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["uid"], &owner["kind"]), (&json!("u"), &json!("Gateway")));
        assert!(owner.get("blockOwnerDeletion").is_none());
    }
    assert_eq!(of_kind(&all, "PodDisruptionBudget")[0]["spec"]["maxUnavailable"], 1);
}

#[test]
fn infrastructure_labels_and_annotations_are_on_everything_and_on_pods_but_never_change_ours() {
    let mut subject = subject();
    let labels = [("team", "web"), ("weft-mesh.dev/mesh", "enabled"), (names::GATEWAY_NAME, "another")];
    subject.labels = texts(&labels);
    subject.annotations = texts(&[("note", "a")]);
    for object in desired(&subject, &settings()) {
        let mut places = vec![&object["metadata"]];
        places.extend(object.pointer("/spec/template/metadata"));
        for place in places {
            assert_eq!(place["labels"]["team"], "web");
            assert_eq!(place["labels"][names::GATEWAY_NAME], "front");
            assert_eq!(place["annotations"]["note"], "a");
            assert_ne!(place["labels"]["weft-mesh.dev/mesh"], "enabled");
        }
    }
    let all = desired(&subject, &settings());
    let labels = &of_kind(&all, "Deployment")[0]["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["weft-mesh.dev/mesh"], "disabled");
}

/// The points of the profile `restricted` of the Pod Security Standards that a pod has to say something about.
#[test]
fn pods_ask_for_nothing_that_pod_security_restricted_refuses() {
    let all = desired(&subject(), &settings());
    let pod = &of_kind(&all, "Deployment")[0]["spec"]["template"]["spec"];
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(container["seccompProfile"]["type"], "RuntimeDefault");
    for volume in pod["volumes"].as_array().unwrap() {
        assert!(volume.get("projected").or_else(|| volume.get("configMap")).is_some());
    }
    let sysctls = pod["securityContext"]["sysctls"].as_array().unwrap();
    assert!(sysctls.iter().all(|sysctl| sysctl["name"] == "net.ipv4.ip_unprivileged_port_start"));
}

#[test]
fn each_requested_address_has_a_service_of_one_family() {
    let mut subject = subject();
    subject.services.any = None;
    subject.services.named =
        ["203.0.113.1", "2001:db8::1"].map(|a| (a.parse().unwrap(), Reach::AsConfigured)).into();
    let all = desired(&subject, &settings());
    let services = of_kind(&all, "Service");
    let asked: Vec<_> =
        services.iter().map(|s| (&s["spec"]["loadBalancerIP"], &s["spec"]["ipFamilies"])).collect();
    let (v4, v6) = (json!("203.0.113.1"), json!("2001:db8::1"));
    assert_eq!(asked, [(&v4, &json!(["IPv4"])), (&v6, &json!(["IPv6"]))]);
    assert_ne!(services[0]["metadata"]["name"], services[1]["metadata"]["name"]);
    let ports = &services[0]["spec"]["ports"];
    assert_eq!(ports[0], json!({"name": "udp-53", "port": 53, "targetPort": 53, "protocol": "UDP"}));
    assert_eq!(ports[1]["protocol"], "TCP");

    subject.ports.clear();
    assert!(of_kind(&desired(&subject, &settings()), "Service").is_empty());
}

#[test]
fn what_is_to_be_reached_in_the_cluster_only_is_given_no_load_balancer() {
    let mut subject = subject();
    let given = texts(&[("loadBalancerClass", "example.com/x"), ("externalTrafficPolicy", "Local")]);
    subject.parameters = Parameters::read([&given]).unwrap();
    subject.services = Services {
        any: Some(Reach::Cluster),
        named: [("10.96.0.7".parse().unwrap(), Reach::Cluster)].into(),
    };
    let all = desired(&subject, &settings());
    let services = of_kind(&all, "Service");
    for service in &services {
        assert_eq!(service["spec"]["type"], "ClusterIP");
        for field in ["loadBalancerClass", "loadBalancerIP", "externalTrafficPolicy"] {
            assert_eq!(service["spec"].get(field), None, "{field}");
        }
    }
    let asked: Vec<_> = services.iter().map(|service| service["spec"].get("clusterIP")).collect();
    assert_eq!(asked, [None, Some(&json!("10.96.0.7"))]);
}

#[test]
fn parameters_shape_what_is_made_and_those_of_the_gateway_win() {
    let class = texts(&[
        ("replicas", "2"),
        ("serviceType", "ClusterIP"),
        ("workers", "3"),
        ("maxConnections", "500"),
    ]);
    let own = texts(&[
        ("replicas", "4"),
        ("resources", "limits: {cpu: 2, memory: 64Mi}"),
        ("nodeSelector", "disk: fast"),
        ("tolerations", "[{operator: Exists}]"),
    ]);
    let mut subject = subject();
    subject.parameters = Parameters::read([&class, &own]).unwrap();
    assert_eq!(subject.parameters.service_type, ServiceType::ClusterIp);
    let all = desired(&subject, &settings());
    let deployment = of_kind(&all, "Deployment")[0];
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(deployment["spec"]["replicas"], 4);
    assert_eq!(pod["nodeSelector"], json!({"disk": "fast"}));
    assert_eq!(pod["containers"][0]["resources"]["limits"]["memory"], "64Mi");
    let command = pod["containers"][0]["command"].as_array().unwrap();
    for flag in ["--workers=3", "--max-connections-per-pod=500"] {
        assert!(command.contains(&json!(flag)), "{command:?}");
    }
    assert_eq!(of_kind(&all, "Service")[0]["spec"]["type"], "ClusterIP");
}

#[test]
fn proxies_before_the_gateway_are_believed_only_if_parameters_say_so() {
    let flags = |of: &[(&str, &str)]| -> Vec<String> {
        let mut subject = subject();
        subject.parameters = Parameters::read([&texts(of)]).unwrap();
        let all = desired(&subject, &settings());
        let command = &of_kind(&all, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["command"];
        let words = command.as_array().unwrap().iter().filter_map(|word| word.as_str());
        words
            .filter(|word| word.contains("trusted") || word.contains("proxy-protocol"))
            .map(str::to_owned)
            .collect()
    };
    assert!(flags(&[]).is_empty());
    let told = flags(&[("trustedProxies", "10.0.0.0/8, 192.0.2.7,fd00::/8"), ("proxyProtocol", "required")]);
    assert_eq!(told, ["--trusted-proxies=10.0.0.0/8,192.0.2.7/32,fd00::/8", "--proxy-protocol"]);
    assert_eq!(flags(&[("trustedHops", "2"), ("proxyProtocol", "off")]), ["--trusted-hops=2"]);
    let both = texts(&[("trustedHops", "2"), ("trustedProxies", "10.0.0.0/8")]);
    assert!(Parameters::read([&both]).unwrap_err().0.contains("exclude each other"));
}

#[test]
fn replicas_are_left_to_an_autoscaler_unless_they_are_given() {
    let all = desired(&subject(), &settings());
    assert!(of_kind(&all, "Deployment")[0]["spec"].get("replicas").is_none());
}

#[test]
fn parameters_that_cannot_be_used_are_said_by_name() {
    for (key, value) in [
        ("replica", "1"),
        ("replicas", "-1"),
        ("replicas", "many"),
        ("serviceType", "ExternalName"),
        ("resources", "limit: {cpu: 1}"),
        ("resources", "limits: {cpu: lots}"),
        ("resources", "{"),
        ("tolerations", "operator: Exists"),
        ("nodeSelector", "a: [b]"),
        ("externalTrafficPolicy", "local"),
        ("accessLog", "maybe"),
        ("maxConnections", "all"),
        ("trustedProxies", "10.0.0.0/33"),
        ("trustedHops", "many"),
        ("proxyProtocol", "on"),
    ] {
        let refused = Parameters::read([&texts(&[(key, value)])]).unwrap_err();
        assert!(refused.0.contains(key), "{refused}");
    }
    let odd = Reference { group: "example.com", kind: "Settings", name: "a" };
    assert!(odd.config_map().unwrap_err().0.contains("Settings.example.com"));
    assert_eq!(Reference { group: "", kind: "ConfigMap", name: "a" }.config_map().unwrap(), "a");
}
