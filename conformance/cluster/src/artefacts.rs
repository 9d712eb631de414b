//! What a cluster runs and applies that does not come from Debian: Kubernetes, CoreDNS, the Gateway API's CRDs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::config::Channel;
use crate::go::{self, Module};

/// The Kubernetes that the cluster is. 1.35 is the newest that works with Debian's containerd 1.6.
const KUBE: Module = Module {
    name: "kube",
    folder: "conformance/cluster/go/kube",
    what: "Kubernetes' own programs as one binary",
    usually: "6 minutes",
    programs: &[(".", "kube")],
    is_static: false,
    ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.35.4 \
              -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=35",
};

const COREDNS: Module = Module::plain(
    "conformance/cluster/go/coredns",
    "coredns",
    "the cluster's DNS server",
    "1 minute",
    &[(".", "coredns")],
);

const HELM: Module = Module::plain(
    "conformance/cluster/go/helm",
    "helm",
    "helm",
    "2 minutes",
    &[("helm.sh/helm/v4/cmd/helm", "helm")],
);

/// The real helm, built when somebody asks for it.
///
/// # Errors
/// When it cannot be built.
pub fn helm() -> Result<PathBuf> {
    Ok(go::build(&HELM)?.join("helm"))
}

/// The program that is kubectl when it is called so, built when somebody asks for it.
///
/// # Errors
/// When it cannot be built.
pub fn kubectl() -> Result<PathBuf> {
    Ok(go::build(&KUBE)?.join("kube"))
}

/// Where each artefact is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Artefacts {
    /// All of Kubernetes' programs, by the name that it is called by.
    pub(crate) kube: PathBuf,
    /// Static CoreDNS.
    pub(crate) coredns: PathBuf,
    /// A channel's CRDs and its admission policy.
    pub(crate) crds: Option<PathBuf>,
    /// This program, and the pod's first process.
    pub(crate) pause: PathBuf,
}

impl Artefacts {
    /// Builds what is not there yet.
    pub(crate) fn obtain(channel: Channel) -> Result<Self> {
        let own = std::env::current_exe()?;
        let pause = own.with_file_name("weft-cluster-pause");
        if !pause.exists() {
            bail!("{} is not there: cargo build -p weft-cluster", pause.display());
        }
        Ok(Self {
            kube: go::build(&KUBE)?.join("kube"),
            coredns: go::build(&COREDNS)?.join("coredns"),
            crds: channel.folder().map(crds).transpose()?,
            pause,
        })
    }
}

/// The folder with a channel's CRDs and its admission policy, from the Gateway API's own Go module.
fn crds(channel: &str) -> Result<PathBuf> {
    // The version is the suite's, so that it finds the CRDs that it was written for.
    let module = go::workspace().join("conformance/suite");
    let requirements = fs::read(module.join("go.sum"))?;
    let key = go::hex(&<sha2::Sha256 as sha2::Digest>::digest(&requirements));
    let folder = go::kept("gateway-api-crds", &key, |new| {
        println!("== fetching the Gateway API's CRDs (a Go module)");
        let output =
            go::go(&module)?.args(["mod", "download", "-json", "sigs.k8s.io/gateway-api"]).output()?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let Some(source) = answer.get("Dir").and_then(|dir| dir.as_str()) else {
            bail!("go mod download: {answer}{}", String::from_utf8_lossy(&output.stderr));
        };
        for channel in ["experimental", "standard"] {
            fs::create_dir(new.join(channel))?;
            let from = PathBuf::from(source).join("config/crd").join(channel);
            for entry in fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))? {
                let name = entry?.file_name();
                // Kustomize's own file is not a manifest.
                if name != "kustomization.yaml" {
                    fs::write(new.join(channel).join(&name), fs::read(from.join(&name))?)?;
                }
            }
        }
        Ok(())
    })?;
    Ok(folder.join(channel))
}
