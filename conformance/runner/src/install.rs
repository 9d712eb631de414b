//! Weft on the cluster, by its Helm chart as users install it.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};
use weft_cluster::Cluster;

/// The `controllerName` of Weft's mesh.
const CONTROLLER: &str = "weft-mesh.dev/mesh";
/// The GatewayClass that comes with Weft.
const CLASS: &str = "weft";
/// The ranges of a test cluster, IPv4 and IPv6.
const SERVICES: &str = "{10.96.0.0/16,fd00:10:96::/112}";
const PODS: &str = "{10.244.0.0/16,fd00:10:244::/48}";

/// How Weft gets onto a cluster.
#[derive(Debug)]
pub struct Chart {
    helm: PathBuf,
    folder: PathBuf,
    /// Changes with the images, whose tag does not: pods start anew when it does.
    images: String,
}

impl Chart {
    /// The chart of the checkout, for images from this archive.
    ///
    /// # Errors
    /// If helm cannot be built or the archive cannot be read.
    pub fn new(workspace: &Path, archive: &Path) -> Result<Self> {
        let content = std::fs::read(archive).with_context(|| format!("reading {}", archive.display()))?;
        let digest: String = Sha256::digest(&content).iter().take(8).map(|b| format!("{b:02x}")).collect();
        Ok(Self { helm: weft_cluster::helm()?, folder: workspace.join("deploy/helm/weft"), images: digest })
    }

    /// Installs or upgrades, and waits until everything is rolled out.
    ///
    /// # Errors
    /// If helm says no or something does not become ready.
    pub fn install(&self, cluster: &Cluster, same_node: &str) -> Result<()> {
        let path = |path: &Path| path.display().to_string();
        let mut words: Vec<String> = [&path(&self.helm), "upgrade", "--install", "weft", &path(&self.folder)]
            .map(str::to_owned)
            .into();
        words.extend(
            ["--namespace=weft-system", "--create-namespace", "--wait", "--timeout=5m"].map(str::to_owned),
        );
        for (name, value) in [
            ("clusterRanges.services", SERVICES),
            ("clusterRanges.pods", PODS),
            ("proxy.sameNode", same_node),
        ] {
            words.push(format!("--set={name}={value}"));
        }
        for part in ["controller", "agent", "proxy"] {
            words.push(format!("--set-string={part}.podAnnotations.weft-mesh\\.dev/images={}", self.images));
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        cluster.exec(&words)?.ok().context("helm upgrade --install weft")?;
        for workload in ["deployment/weft-controller", "daemonset/weft-agent", "daemonset/weft-proxy"] {
            let rollout = ["rollout", "status", workload, "--namespace=weft-system", "--timeout=180s"];
            cluster.kubectl(&rollout)?;
        }
        Ok(())
    }
}

/// The name of Weft's XMesh, once its status claims features.
///
/// # Errors
/// If there is none within a minute.
#[allow(clippy::disallowed_methods, reason = "waits for a real cluster")]
pub fn mesh(cluster: &Cluster) -> Result<String> {
    let start = Instant::now();
    loop {
        let all = cluster.get(&["xmeshes.gateway.networking.x-k8s.io"])?;
        let meshes = all.pointer("/items").and_then(Value::as_array).into_iter().flatten();
        let mut own = meshes.filter(|mesh| text(mesh, "/spec/controllerName") == CONTROLLER);
        let claims = |mesh: &&Value| {
            let features = mesh.pointer("/status/supportedFeatures").and_then(Value::as_array);
            features.is_some_and(|features| !features.is_empty())
        };
        if let Some(mesh) = own.find(claims) {
            return Ok(text(mesh, "/metadata/name").to_owned());
        }
        if start.elapsed() > Duration::from_secs(60) {
            bail!("no XMesh of {CONTROLLER} claims features: {all}");
        }
        sleep(Duration::from_millis(500));
    }
}

/// The GatewayClass that comes with Weft.
#[derive(Clone, Debug)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// The features that its status claims.
    pub features: Vec<String>,
}

/// Waits until the GatewayClass that comes with Weft claims features.
///
/// # Errors
/// If it does not within a minute.
#[allow(clippy::disallowed_methods, reason = "waits for a real cluster")]
pub fn class(cluster: &Cluster) -> Result<Class> {
    let start = Instant::now();
    loop {
        let class = cluster.get(&["gatewayclasses.gateway.networking.k8s.io"])?;
        let all = class.pointer("/items").and_then(Value::as_array).into_iter().flatten();
        let own = all.filter(|class| text(class, "/metadata/name") == CLASS);
        let claims = own.filter_map(|class| class.pointer("/status/supportedFeatures")?.as_array());
        let features: Vec<String> =
            claims.flatten().map(|feature| text(feature, "/name").to_owned()).collect();
        if !features.is_empty() {
            return Ok(Class { name: CLASS.to_owned(), features });
        }
        if start.elapsed() > Duration::from_secs(60) {
            bail!("GatewayClass {CLASS} claims no features: {class}");
        }
        sleep(Duration::from_millis(500));
    }
}

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}
