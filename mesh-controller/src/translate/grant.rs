//! ReferenceGrants: which objects may refer to which objects of another namespace. Judged before anything is looked up,
//! so that a reference that is not permitted tells nobody what exists.

use weft_model::ObjectName;

use crate::inputs::{EXPERIMENTAL, GATEWAY_API, Inputs, Kind};

/// The grants that there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grants<'a>(pub(crate) &'a Inputs);

impl Grants<'_> {
    /// Whether an object of the Gateway API, of this kind and in this namespace, may refer to a Secret, ConfigMap or
    /// Service.
    pub(crate) fn permit(&self, from: Kind, namespace: &str, to: Kind, name: &ObjectName) -> bool {
        if *name.namespace == *namespace {
            return true;
        }
        let group = if from == Kind::XBackend { EXPERIMENTAL } else { GATEWAY_API };
        let grants = self.0.reference_grants.iter().filter(|(grant, _)| grant.namespace == name.namespace);
        grants.into_iter().any(|(_, grant)| {
            let from_is = |of: &weft_gateway_api::referencegrants::ReferenceGrantFrom| {
                of.group == group && of.kind == from.as_str() && of.namespace == namespace
            };
            let to_is = |of: &weft_gateway_api::referencegrants::ReferenceGrantTo| {
                matches!(of.group.as_str(), "" | "core")
                    && of.kind == to.as_str()
                    && of.name.as_deref().is_none_or(|named| named.is_empty() || *named == *name.name)
            };
            grant.from.iter().any(from_is) && grant.to.iter().any(to_is)
        })
    }
}
