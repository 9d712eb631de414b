//! What a reviewed token says about its holder.

use std::collections::BTreeMap;
use std::fmt;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// Since Kubernetes 1.30.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// The pod that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BoundPod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

impl fmt::Display for BoundPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.namespace, self.name, self.uid)
    }
}

/// The user of a token review, if it is a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) service_account: String,
    pub(super) pod: BoundPod,
    pub(super) node: Option<String>,
}

/// The user is no pod.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a service account with a token that is bound to a pod")]
pub(super) struct NotBound(String);

impl Claims {
    /// Reads a user's name and extra values.
    pub(super) fn of(username: &str, extra: &BTreeMap<String, Vec<String>>) -> Result<Self, NotBound> {
        let one = |key: &str| match extra.get(key).map(Vec::as_slice) {
            Some([value]) if !value.is_empty() => Some(value.clone()),
            _ => None,
        };
        let read = || {
            let account = username.strip_prefix("system:serviceaccount:")?;
            let (namespace, service_account) = account.split_once(':')?;
            let pod = BoundPod { namespace: namespace.to_owned(), name: one(POD_NAME)?, uid: one(POD_UID)? };
            let whole =
                !namespace.is_empty() && !service_account.is_empty() && !service_account.contains(':');
            whole.then(|| Self { service_account: service_account.to_owned(), pod, node: one(NODE_NAME) })
        };
        read().ok_or_else(|| NotBound(username.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_service_accounts_with_a_bound_pod_are_read() {
        let extra = |entries: &[(&str, &[&str])]| -> BTreeMap<String, Vec<String>> {
            let owned = |values: &&[&str]| values.iter().map(|value| (*value).to_owned()).collect();
            entries.iter().map(|(key, values)| ((*key).to_owned(), owned(values))).collect()
        };
        let bound = extra(&[(POD_NAME, &["a"]), (POD_UID, &["u"])]);
        let claims = Claims::of("system:serviceaccount:shop:cart", &bound).unwrap();
        assert_eq!((claims.pod.to_string().as_str(), &*claims.service_account), ("shop/a (u)", "cart"));
        assert_eq!(claims.node, None);
        for (username, extra) in [
            ("", bound.clone()),
            ("system:node:one", bound.clone()),
            ("system:serviceaccount:shop", bound.clone()),
            ("system:serviceaccount::cart", bound.clone()),
            ("system:serviceaccount:shop:", bound.clone()),
            ("system:serviceaccount:shop:cart:more", bound),
            ("system:serviceaccount:shop:cart", extra(&[])),
            ("system:serviceaccount:shop:cart", extra(&[(POD_NAME, &["a"])])),
            ("system:serviceaccount:shop:cart", extra(&[(POD_UID, &["u"])])),
            ("system:serviceaccount:shop:cart", extra(&[(POD_NAME, &["a", "b"]), (POD_UID, &["u"])])),
            ("system:serviceaccount:shop:cart", extra(&[(POD_NAME, &[""]), (POD_UID, &["u"])])),
        ] {
            assert!(Claims::of(username, &extra).is_err(), "{username} {extra:?}");
        }
    }
}
