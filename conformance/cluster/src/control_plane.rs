//! etcd and Kubernetes' own programs on the cluster's host: their command lines.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::config::{Config, DOMAIN, HOST_V4, PODS_V4, PODS_V6, SERVICES_V4, SERVICES_V6};
use crate::keep::Program;

const ETCD: &str = "http://127.0.0.1:2379";

/// Starts what must be there before the API server answers.
pub(crate) fn start_api(config: &Config) -> Result<()> {
    let data = config.state.work().join("etcd");
    let etcd = [
        format!("--data-dir={}", data.display()),
        // The cluster does not outlive the machine: nothing is gained by waiting for disks.
        "--unsafe-no-fsync".to_owned(),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
    ];
    Program {
        name: "etcd".to_owned(),
        executable: "/usr/bin/etcd".into(),
        called: "etcd".to_owned(),
        arguments: etcd.to_vec(),
        log: config.state.logs().join("etcd.log"),
    }
    .keep()?;
    write_authentication(&config.state.pki().join("authentication.json"))?;
    kube(config, "kube-apiserver", api_server(config)).keep()
}

/// Starts the rest.
pub(crate) fn start_controllers(config: &Config) -> Result<()> {
    kube(config, "kube-controller-manager", controller_manager(config)).keep()?;
    let scheduler = vec![kubeconfig(config, "scheduler"), "--leader-elect=false".to_owned()];
    kube(config, "kube-scheduler", scheduler).keep()?;
    kube(config, "load-balancer", vec![kubeconfig(config, "load-balancer")]).keep()
}

fn kube(config: &Config, program: &str, arguments: Vec<String>) -> Program {
    Program {
        name: program.to_owned(),
        executable: config.artefacts.kube.clone(),
        called: program.to_owned(),
        arguments,
        log: config.state.logs().join(format!("{program}.log")),
    }
}

fn kubeconfig(config: &Config, name: &str) -> String {
    format!("--kubeconfig={}", config.state.pki().join(format!("{name}.kubeconfig")).display())
}

/// Strangers may ask for health and nothing else.
fn write_authentication(file: &Path) -> Result<()> {
    let paths = ["/livez", "/readyz", "/healthz"].map(|path| json!({"path": path}));
    let value = json!({
        "apiVersion": "apiserver.config.k8s.io/v1beta1",
        "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": true, "conditions": paths},
    });
    fs::write(file, value.to_string()).with_context(|| format!("cannot write {}", file.display()))
}

fn api_server(config: &Config) -> Vec<String> {
    let pki = config.state.pki();
    let mut arguments: Vec<String> = [
        ("client-ca-file", "ca.crt"),
        ("tls-cert-file", "apiserver.crt"),
        ("tls-private-key-file", "apiserver.key"),
        ("service-account-key-file", "sa.pub"),
        ("service-account-signing-key-file", "sa.key"),
        ("kubelet-client-certificate", "apiserver-kubelet.crt"),
        ("kubelet-client-key", "apiserver-kubelet.key"),
        ("requestheader-client-ca-file", "front-proxy-ca.crt"),
        ("proxy-client-cert-file", "front-proxy.crt"),
        ("proxy-client-key-file", "front-proxy.key"),
        ("authentication-config", "authentication.json"),
    ]
    .iter()
    .map(|(flag, file)| format!("--{flag}={}", pki.join(file).display()))
    .collect();
    arguments.extend(
        [
            "--secure-port=6443",
            "--bind-address=0.0.0.0",
            "--allow-privileged=true",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--kubelet-preferred-address-types=InternalIP",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            "--enable-aggregator-routing=true",
            // Off by default while they are beta.
            "--runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true",
            "--feature-gates=ClusterTrustBundle=true,ClusterTrustBundleProjection=true",
        ]
        .map(str::to_owned),
    );
    arguments.push(format!("--etcd-servers={ETCD}"));
    arguments.push(format!("--advertise-address={HOST_V4}"));
    arguments.push(format!("--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}"));
    arguments.push(format!("--service-cluster-ip-range={}", config.families(SERVICES_V4, SERVICES_V6)));
    arguments
}

fn controller_manager(config: &Config) -> Vec<String> {
    let pki = config.state.pki();
    let file = |flag: &str, file: &str| format!("--{flag}={}", pki.join(file).display());
    vec![
        kubeconfig(config, "controller-manager"),
        file("service-account-private-key-file", "sa.key"),
        file("root-ca-file", "ca.crt"),
        file("cluster-signing-cert-file", "ca.crt"),
        file("cluster-signing-key-file", "ca.key"),
        "--use-service-account-credentials=true".to_owned(),
        // Each node's CNI configuration says its range.
        "--allocate-node-cidrs=false".to_owned(),
        format!("--cluster-cidr={}", config.families(PODS_V4, PODS_V6)),
        format!("--service-cluster-ip-range={}", config.families(SERVICES_V4, SERVICES_V6)),
        "--leader-elect=false".to_owned(),
        "--feature-gates=ClusterTrustBundle=true".to_owned(),
    ]
}
