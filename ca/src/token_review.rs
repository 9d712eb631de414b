//! Proof by a service-account token, which the API server reviews. Only the node proxy's own service account, in a
//! live pod of Weft's own DaemonSet, is a node's proxy; every other pod proves itself and nothing more.

mod cache;
mod claims;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use weft_model::{Identity, TrustDomain};

use crate::authenticate::{Authenticator, Caller, Node, ProofError};
use cache::Cache;
use claims::{BoundPod, Claims, NotBound};

/// All questions to the API server that one proof takes, together.
const LIMIT: Duration = Duration::from_secs(10);
/// Questions at a time: callers that nobody knows yet must not flood the API server.
const AT_A_TIME: usize = 16;
/// The longest proof that is looked at, in bytes. Tokens of service accounts have one to two thousand.
const LONGEST: usize = 16 * 1024;

/// Who is a node's proxy in this cluster.
#[derive(Clone, Debug)]
pub struct TokenReviewSettings {
    /// The audience that tokens must be made for: `weft-ca`.
    pub audience: String,
    /// The trust domain of the callers' identities.
    pub trust_domain: TrustDomain,
    /// The namespace that Weft is installed in: `weft-system`.
    pub namespace: String,
    /// The service account of the node's proxies there: `weft-proxy`.
    pub service_account: String,
    /// The DaemonSet of the node's proxies there: `weft-proxy`.
    pub daemon_set: String,
    /// How long an answer holds. So long a token of a pod that is gone is still believed.
    pub keep: Duration,
}

impl TokenReviewSettings {
    /// The usual names, in the namespace that Weft is installed in.
    pub fn new(trust_domain: TrustDomain, namespace: impl Into<String>) -> Self {
        Self {
            audience: "weft-ca".into(),
            trust_domain,
            namespace: namespace.into(),
            service_account: "weft-proxy".into(),
            daemon_set: "weft-proxy".into(),
            keep: Duration::from_secs(10),
        }
    }
}

/// Has the API server judge tokens. Needs the rights to create `tokenreviews`, and to get `pods` and the DaemonSet.
pub struct TokenReviewAuthenticator {
    client: Client,
    settings: TokenReviewSettings,
    cache: Cache,
    turns: Semaphore,
}

/// Why a token proves nobody. Logged; the caller is told no more than that the proof is not valid.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the API server does not accept the token: {0}")]
    NotAuthenticated(String),
    #[error("the token is not for the audience {0}")]
    Audience(String),
    #[error(transparent)]
    NotBound(#[from] NotBound),
    #[error("its pod {0} does not exist any longer")]
    Gone(BoundPod),
    #[error("its pod {0} has ended")]
    Ended(BoundPod),
    #[error("its pod {pod} is bound to {found:?}, and the token to {claimed:?}")]
    Node { pod: BoundPod, claimed: String, found: String },
    #[error("its pod {0} is not bound to a node")]
    NoNode(BoundPod),
    #[error("its pod {0} runs as another service account")]
    ServiceAccount(BoundPod),
    #[error("{0}/{1} is no identity")]
    Name(String, String),
}

/// What stands between a token and its judgement.
enum Stopped {
    Refused(Refusal),
    Unavailable(String),
}

impl<R: Into<Refusal>> From<R> for Stopped {
    fn from(refusal: R) -> Self {
        Self::Refused(refusal.into())
    }
}

fn unavailable(asked: &str) -> impl FnOnce(kube::Error) -> Stopped {
    let asked = asked.to_owned();
    move |error| Stopped::Unavailable(format!("asking the API server for {asked}: {error}"))
}

impl TokenReviewAuthenticator {
    /// Judges tokens through this client.
    pub fn new(client: Client, settings: TokenReviewSettings) -> Self {
        let cache = Cache::new(settings.keep);
        Self { client, settings, cache, turns: Semaphore::new(AT_A_TIME) }
    }

    async fn judge(&self, token: &str) -> Result<Caller, ProofError> {
        let judged = async {
            let _turn = self.turns.acquire().await;
            self.caller(token).await
        };
        match tokio::time::timeout(LIMIT, judged).await {
            Ok(Ok(caller)) => Ok(caller),
            Ok(Err(Stopped::Refused(refusal))) => {
                tracing::warn!(%refusal, "a token was refused");
                Err(ProofError::Invalid)
            }
            Ok(Err(Stopped::Unavailable(why))) => Err(ProofError::Unavailable(why)),
            Err(_) => Err(ProofError::Unavailable(format!("the API server did not answer within {LIMIT:?}"))),
        }
    }

    async fn caller(&self, token: &str) -> Result<Caller, Stopped> {
        let claims = self.review(token).await?;
        let pod = self.pod(&claims).await?;
        let node = node(&claims, &pod)?;
        let of_proxy = claims.pod.namespace == self.settings.namespace
            && claims.service_account == self.settings.service_account;
        if of_proxy && self.belongs_to_daemon_set(&pod).await? {
            return Ok(Caller::Node(Node { name: node }));
        }
        Ok(Caller::Workload(self.identity(&claims)?))
    }

    async fn review(&self, token: &str) -> Result<Claims, Stopped> {
        let audience = &self.settings.audience;
        let spec = TokenReviewSpec { audiences: Some(vec![audience.clone()]), token: token.to_owned() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let reviewed =
            reviews.create(&PostParams::default(), &review).await.map_err(unavailable("a token review"))?;
        let status = reviewed.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Err(Refusal::NotAuthenticated(status.error.unwrap_or_default()).into());
        }
        // An API server that knows no audiences answers none, and has then judged by its own.
        if !status.audiences.iter().flatten().any(|found| found == audience) {
            return Err(Refusal::Audience(audience.clone()).into());
        }
        Ok(claims_of(status)?)
    }

    /// The pod that the token is bound to, if it lives and is what the token says.
    async fn pod(&self, claims: &Claims) -> Result<Pod, Stopped> {
        let bound = &claims.pod;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &bound.namespace);
        let found = pods.get_opt(&bound.name).await.map_err(unavailable(&format!("pod {bound}")))?;
        let pod = found
            .filter(|pod| pod.metadata.uid.as_deref() == Some(&bound.uid))
            .ok_or_else(|| Refusal::Gone(bound.clone()))?;
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        // A pod that is being deleted goes on: a proxy that drains still renews.
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return Err(Refusal::Ended(bound.clone()).into());
        }
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        if account.unwrap_or("default") != claims.service_account {
            return Err(Refusal::ServiceAccount(bound.clone()).into());
        }
        Ok(pod)
    }

    /// Is the pod controlled by the DaemonSet that there is now under that name?
    async fn belongs_to_daemon_set(&self, pod: &Pod) -> Result<bool, Stopped> {
        let name = &self.settings.daemon_set;
        let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
        let owner = owners.iter().find(|owner| {
            owner.controller == Some(true) && owner.kind == "DaemonSet" && owner.api_version == "apps/v1"
        });
        let Some(owner) = owner.filter(|owner| owner.name == *name) else { return Ok(false) };
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let set = sets.get_opt(name).await.map_err(unavailable(&format!("DaemonSet {name}")))?;
        Ok(set.and_then(|set| set.metadata.uid).is_some_and(|uid| uid == owner.uid))
    }

    fn identity(&self, claims: &Claims) -> Result<Identity, Refusal> {
        let (namespace, account) = (claims.pod.namespace.as_str(), claims.service_account.as_str());
        let identity = Identity {
            trust_domain: self.settings.trust_domain.clone(),
            namespace: namespace.into(),
            service_account: account.into(),
        };
        // Through its text, which refuses characters that no identity has.
        let name = |_| Refusal::Name(namespace.to_owned(), account.to_owned());
        identity.to_string().parse().map_err(name)
    }
}

fn claims_of(status: TokenReviewStatus) -> Result<Claims, NotBound> {
    let user = status.user.unwrap_or_default();
    let extra: BTreeMap<String, Vec<String>> = user.extra.unwrap_or_default();
    Claims::of(user.username.as_deref().unwrap_or_default(), &extra)
}

/// The node of a token: by its claim, else by the pod; where there are both, they must agree.
fn node(claims: &Claims, pod: &Pod) -> Result<String, Refusal> {
    let found = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let found = found.ok_or_else(|| Refusal::NoNode(claims.pod.clone()))?;
    match &claims.node {
        Some(claimed) if *claimed != found => {
            Err(Refusal::Node { pod: claims.pod.clone(), claimed: claimed.clone(), found })
        }
        _ => Ok(found),
    }
}

impl Authenticator for TokenReviewAuthenticator {
    async fn authenticate(&self, proof: &str) -> Result<Caller, ProofError> {
        // What is no token at all need not bother the API server.
        if proof.len() > LONGEST || proof.split('.').count() != 3 {
            return Err(ProofError::Invalid);
        }
        self.cache.get(proof, Instant::now(), || self.judge(proof)).await
    }
}

impl std::fmt::Debug for TokenReviewAuthenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenReviewAuthenticator").field("settings", &self.settings).finish_non_exhaustive()
    }
}
