//! What Gateways, ListenerSets and policies refer to: certificates with keys, and roots.

use weft_model::{ObjectName, Text};

use super::Problem;
use crate::inputs::{Inputs, Kind, TRUST_BUNDLES};
use crate::translate::grant::Grants;

/// The object that refers: grants name its kind and namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Referrer<'a> {
    pub(crate) inputs: &'a Inputs,
    pub(crate) kind: Kind,
    pub(crate) namespace: &'a str,
}

/// A reference as it is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct To<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: &'a str,
}

impl To<'_> {
    fn is_core(&self, kind: Kind) -> bool {
        matches!(self.group, "" | "core") && self.kind == kind.as_str()
    }

    fn is_trust_bundle(&self) -> bool {
        self.group == TRUST_BUNDLES && self.kind == Kind::ClusterTrustBundle.as_str()
    }
}

impl Referrer<'_> {
    fn name(&self, to: &To<'_>) -> ObjectName {
        ObjectName::new(to.namespace.unwrap_or(self.namespace).to_owned(), to.name)
    }

    fn permitted(&self, kind: Kind, to: &To<'_>) -> Result<ObjectName, Problem> {
        let name = self.name(to);
        if Grants(self.inputs).permit(self.kind, self.namespace, kind, &name) {
            return Ok(name);
        }
        Err(Problem::new(
            "RefNotPermitted",
            format!(
                "{kind} {name} is in another namespace, where no ReferenceGrant permits references from {}s of \
                 namespace {}",
                self.kind, self.namespace
            ),
        ))
    }

    /// A Secret with a certificate and its key. `invalid`: the reason for one that cannot be used.
    pub(crate) fn certificate(&self, to: &To<'_>, invalid: &'static str) -> Result<ObjectName, Problem> {
        if !to.is_core(Kind::Secret) {
            let message =
                format!("{} {} is of a kind that is not supported; name a Secret", to.kind, self.name(to));
            return Err(Problem::new(invalid, message));
        }
        let name = self.permitted(Kind::Secret, to)?;
        let unusable = |why: &str| Problem::new(invalid, format!("Secret {name} cannot be used: {why}"));
        let secret = self.inputs.secrets.get(&name);
        // Of other types not even the existence is read.
        let secret =
            secret.ok_or_else(|| unusable("there is none of that name of type kubernetes.io/tls"))?;
        secret.pair.as_ref().map_err(|why| unusable(why))?;
        Ok(name)
    }

    /// A ConfigMap or ClusterTrustBundle with roots, as PEM. `reasons`: for another kind, and for one that cannot be used.
    pub(crate) fn roots(&self, to: &To<'_>, reasons: (&'static str, &'static str)) -> Result<Text, Problem> {
        if to.is_trust_bundle() {
            return self.trust_bundle(to, reasons);
        }
        if !to.is_core(Kind::ConfigMap) {
            let message = format!(
                "{} {} is of a kind that is not supported; name a ConfigMap or a ClusterTrustBundle",
                to.kind,
                self.name(to)
            );
            return Err(Problem::new(reasons.0, message));
        }
        let name = self.permitted(Kind::ConfigMap, to)?;
        let unusable = |why: &str| Problem::new(reasons.1, format!("ConfigMap {name} cannot be used: {why}"));
        let map = self.inputs.config_maps.get(&name).ok_or_else(|| unusable("it does not exist"))?;
        map.roots_pem.clone().map_err(|why| unusable(&why))
    }

    /// Of the cluster, so that no grant is asked for (GEP-5075).
    fn trust_bundle(&self, to: &To<'_>, reasons: (&'static str, &'static str)) -> Result<Text, Problem> {
        if !self.inputs.has_cluster_trust_bundles() {
            let message = "the API server serves no ClusterTrustBundles; name a ConfigMap";
            return Err(Problem::new(reasons.0, message));
        }
        let unusable = |why: &str| {
            Problem::new(reasons.1, format!("ClusterTrustBundle {} cannot be used: {why}", to.name))
        };
        let bundle = self.inputs.cluster_trust_bundles.get(to.name);
        bundle.ok_or_else(|| unusable("it does not exist"))?.roots_pem.clone().map_err(|why| unusable(&why))
    }
}
