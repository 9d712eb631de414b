//! What the user may do, asked of the API server itself.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;

use crate::cluster::{Cluster, Fact, unknown};
use crate::facts::HOME;

/// One thing that an installation does.
#[derive(Clone, Debug)]
pub(crate) struct Right {
    pub(crate) what: String,
    pub(crate) allowed: bool,
}

/// Kinds that an installation creates: group, plural, whether in `weft-system`.
const CREATED: &[(&str, &str, bool)] = &[
    ("", "namespaces", false),
    ("", "serviceaccounts", true),
    ("", "services", true),
    ("apps", "deployments", true),
    ("apps", "daemonsets", true),
    ("policy", "poddisruptionbudgets", true),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", false),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", false),
];

/// Asks about everything that an installation creates.
pub(crate) async fn ask(cluster: &Cluster) -> Fact<Vec<Right>> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let questions = CREATED.iter().map(|(group, resource, namespaced)| {
        let reviews = reviews.clone();
        async move {
            let attributes = ResourceAttributes {
                verb: Some("create".to_owned()),
                group: Some((*group).to_owned()),
                resource: Some((*resource).to_owned()),
                namespace: namespaced.then(|| HOME.to_owned()),
                ..ResourceAttributes::default()
            };
            let spec = SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                ..SelfSubjectAccessReviewSpec::default()
            };
            let question = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
            let answer = reviews
                .create(&PostParams::default(), &question)
                .await
                .map_err(|error| unknown(error, "selfsubjectaccessreviews"))?;
            let within = if *namespaced { format!(" in {HOME}") } else { String::new() };
            let allowed = answer.status.is_some_and(|status| status.allowed);
            Ok(Right { what: format!("create {resource}{within}"), allowed })
        }
    });
    futures_util::future::join_all(questions).await.into_iter().collect()
}
