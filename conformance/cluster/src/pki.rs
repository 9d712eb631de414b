//! The cluster's certificate authority, its certificates, and the kubeconfigs that hold them. Made anew with every cluster.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::json;

use crate::config::{API_SERVICE_V4, Config, DOMAIN, HOST_V4, HOST_V6};

/// Who has a kubeconfig besides the nodes: file name, common name, group.
const CLIENTS: [(&str, &str, Option<&str>); 5] = [
    ("admin", "admin", Some("system:masters")),
    ("controller-manager", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    ("proxy", "system:kube-proxy", None),
    ("load-balancer", "system:cloud-controller-manager", Some("system:masters")),
];

/// An authority that signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A signed certificate and its key.
struct Leaf {
    certificate: String,
    key: String,
}

/// Writes everything into `pki/` and the administrator's kubeconfig beside it.
pub(crate) fn write(config: &Config) -> Result<()> {
    let folder = config.state.pki();
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
    let ca = Authority::new("kubernetes")?;
    let file = |name: &str, content: &str| {
        fs::write(folder.join(name), content).with_context(|| format!("cannot write {name}"))
    };
    file("ca.crt", &ca.certificate)?;
    file("ca.key", &ca.issuer.key().serialize_pem())?;
    let front = Authority::new("front-proxy")?;
    file("front-proxy-ca.crt", &front.certificate)?;
    save(&folder, "front-proxy", &front.sign("front-proxy", None, &[])?)?;
    let serving = ca.sign("kube-apiserver", None, &serving_names(config)?)?;
    save(&folder, "apiserver", &serving)?;
    save(
        &folder,
        "apiserver-kubelet",
        &ca.sign("kube-apiserver-kubelet-client", Some("system:masters"), &[])?,
    )?;
    let tokens = KeyPair::generate()?;
    file("sa.key", &tokens.serialize_pem())?;
    file("sa.pub", &tokens.public_key_pem())?;
    for (name, user, group) in CLIENTS {
        file(&format!("{name}.kubeconfig"), &kubeconfig(&ca, &ca.sign(user, group, &[])?))?;
    }
    for node in config.all_nodes() {
        let leaf = ca.sign(&format!("system:node:{}", node.name()), Some("system:nodes"), &[])?;
        file(&format!("{}.kubeconfig", node.name()), &kubeconfig(&ca, &leaf))?;
    }
    fs::copy(folder.join("admin.kubeconfig"), config.state.kubeconfig())?;
    Ok(())
}

fn save(folder: &Path, name: &str, leaf: &Leaf) -> Result<()> {
    fs::write(folder.join(format!("{name}.crt")), &leaf.certificate)?;
    fs::write(folder.join(format!("{name}.key")), &leaf.key)?;
    Ok(())
}

fn serving_names(config: &Config) -> Result<Vec<SanType>> {
    let mut names = Vec::new();
    let service = format!("kubernetes.default.svc.{DOMAIN}");
    for name in ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", &service] {
        names.push(SanType::DnsName(name.try_into()?));
    }
    let addresses = [HOST_V4, API_SERVICE_V4, Ipv4Addr::LOCALHOST].map(IpAddr::V4);
    names.extend(addresses.map(SanType::IpAddress));
    names.extend(config.dual_stack.then_some(SanType::IpAddress(IpAddr::V6(HOST_V6))));
    Ok(names)
}

impl Authority {
    fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = named(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    fn sign(&self, user: &str, group: Option<&str>, names: &[SanType]) -> Result<Leaf> {
        let key = KeyPair::generate()?;
        let mut params = named(user, group);
        params.subject_alt_names = names.to_vec();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        Ok(Leaf { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

/// Kubernetes reads the user from the common name and the group from the organisation.
fn named(user: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user);
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name = name;
    params
}

/// JSON is YAML. Everything is inside, so that the file can be read from any mount namespace.
fn kubeconfig(ca: &Authority, leaf: &Leaf) -> String {
    let data = |pem: &str| STANDARD.encode(pem);
    let value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "weft", "cluster": {
            "server": format!("https://{HOST_V4}:6443"),
            "certificate-authority-data": data(&ca.certificate),
        }}],
        "users": [{"name": "user", "user": {
            "client-certificate-data": data(&leaf.certificate),
            "client-key-data": data(&leaf.key),
        }}],
        "contexts": [{"name": "weft", "context": {"cluster": "weft", "user": "user"}}],
        "current-context": "weft",
    });
    format!("{value:#}\n")
}
