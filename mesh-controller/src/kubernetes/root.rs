//! The authority's root on an API server: key and certificate in a Secret that whoever is first creates and all others
//! read; the certificate in a ConfigMap, for those who have to trust it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Error};
use serde_json::json;
use tokio::sync::watch;
use weft_ca::{Authority, NewRoot, RootError, Settings};
use weft_runtime::backoff::Backoff;

use super::follow::{Event, Selector, explain, follow, is, within};

/// The Secret, of type `kubernetes.io/tls`: `tls.key` and `tls.crt`.
pub const SECRET: &str = "weft-ca";
/// The ConfigMap.
pub const TRUST: &str = "weft-trust";
/// Its key.
pub const ROOT: &str = "root.pem";
/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);
/// How long an API server is waited for that does not answer, or not as it should.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no root to sign with.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The API server refused or did not answer.
    #[error("cannot {doing}: {why}")]
    Api {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        why: String,
    },
    /// The Secret is gone, and the mesh has had a root.
    #[error(
        "Secret {namespace}/{SECRET} does not exist, but ConfigMap {namespace}/{TRUST} says that the mesh has a root: \
         restore the Secret from a copy, or delete the ConfigMap as well to begin with a new root (every proxy must \
         then be given the new root certificate)"
    )]
    Lost {
        /// Weft's namespace.
        namespace: String,
    },
    /// It cannot be used.
    #[error(transparent)]
    Root(#[from] RootError),
}

fn api_error(doing: &'static str) -> impl FnOnce(Error) -> SecretError {
    move |error| SecretError::Api { doing, why: explain(&error) }
}

/// The authority, with the root in the Secret; the root is made if there never was one.
///
/// # Errors
/// See [`SecretError`]. An API server that does not answer is waited for, though not for ever.
pub async fn authority(
    client: &Client,
    namespace: &str,
    settings: Settings,
) -> Result<Authority, SecretError> {
    let patience = tokio::time::Instant::now() + PATIENCE;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        match open(client, namespace, &settings).await {
            Err(SecretError::Api { doing, why }) if tokio::time::Instant::now() < patience => {
                tracing::warn!("cannot {doing}: {why}; trying again");
                tokio::time::sleep(backoff.next_delay()).await;
            }
            done => return done,
        }
    }
}

async fn open(client: &Client, namespace: &str, settings: &Settings) -> Result<Authority, SecretError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let read =
        || async { within(CALL, secrets.get_opt(SECRET)).await.map_err(api_error("read Secret weft-ca")) };
    let secret = match read().await? {
        Some(secret) => secret,
        None => {
            create(client, &secrets, namespace, settings).await?;
            let gone = || SecretError::Api {
                doing: "read Secret weft-ca",
                why: "it is gone as soon as it was made".to_owned(),
            };
            read().await?.ok_or_else(gone)?
        }
    };
    let place = format!("Secret {namespace}/{SECRET}");
    let data = secret.data.unwrap_or_default();
    let part = |key: &str| data.get(key).map(|bytes| bytes.0.as_slice()).unwrap_or_default();
    let pem = [part("tls.key"), b"\n", part("tls.crt")].concat();
    Ok(Authority::from_pem(&pem, place, settings.clone(), SystemTime::now())?)
}

/// Makes the Secret, unless another replica is faster.
async fn create(
    client: &Client,
    secrets: &Api<Secret>,
    namespace: &str,
    settings: &Settings,
) -> Result<(), SecretError> {
    let trusts: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let trust = within(CALL, trusts.get_opt(TRUST)).await.map_err(api_error("read ConfigMap weft-trust"))?;
    if trust.is_some_and(|trust| published(&trust).is_some()) {
        return Err(SecretError::Lost { namespace: namespace.to_owned() });
    }
    let root = NewRoot::make(&settings.trust_domain, settings.root_lifetime, SystemTime::now())?;
    let data = [("tls.key", root.key_pem), ("tls.crt", root.certificate_pem)];
    let secret = Secret {
        metadata: metadata(SECRET),
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data.map(|(key, pem)| (key.to_owned(), ByteString(pem.into_bytes()))).into()),
        ..Secret::default()
    };
    match within(CALL, secrets.create(&PostParams::default(), &secret)).await {
        Ok(_) => {
            tracing::info!(namespace, trust_domain = %settings.trust_domain, "made a new root certificate in Secret {SECRET}");
            Ok(())
        }
        Err(error) if is(&error, 409) => Ok(()),
        Err(error) => Err(api_error("create Secret weft-ca")(error)),
    }
}

fn metadata(name: &str) -> ObjectMeta {
    let labels = [("app.kubernetes.io/part-of", "weft"), ("app.kubernetes.io/managed-by", "weft-controller")];
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        ..ObjectMeta::default()
    }
}

fn published(trust: &ConfigMap) -> Option<&str> {
    trust.data.as_ref()?.get(ROOT).map(String::as_str).filter(|pem| !pem.trim().is_empty())
}

/// Keeps the root certificate published, for ever: whatever else is written there is replaced, and what else the
/// ConfigMap holds is left alone. For the leader; may be dropped at any time.
pub async fn publish(client: Client, namespace: &str, root_pem: &str) -> Infallible {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let (seen, mut right) = watch::channel(None);
    let mut found = false;
    let selector = format!("metadata.name={TRUST}");
    let watching = follow(&api, Selector::fields(&selector), |event| match event {
        Event::ListBegins => found = false,
        Event::Found(trust) | Event::Applied(trust) => {
            found = true;
            seen.send_replace(Some(published(&trust) == Some(root_pem)));
        }
        Event::ListEnds if !found => drop(seen.send_replace(Some(false))),
        Event::Deleted(_) => drop(seen.send_replace(Some(false))),
        Event::ListEnds | Event::Watching => {}
        Event::Failed(error) => {
            tracing::warn!(error = explain(&error), "ConfigMap {TRUST} cannot be watched; trying again")
        }
    });
    let writing = async {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        loop {
            // The sender lives as long as the watch beside this.
            if right.wait_for(|right| *right == Some(false)).await.is_err() {
                std::future::pending::<()>().await;
            }
            match within(CALL, write(&api, root_pem)).await {
                Ok(()) => tracing::info!(namespace, "published the root certificate in ConfigMap {TRUST}"),
                Err(error) => {
                    tracing::warn!(
                        error = explain(&error),
                        "ConfigMap {TRUST} cannot be written; trying again"
                    )
                }
            }
            // The watch shows what came of it; until then nothing more is written.
            let delay = backoff.next_delay();
            if tokio::time::timeout(delay, right.changed()).await.is_ok() {
                backoff.reset();
            }
        }
    };
    tokio::select! {
        never = watching => never,
        never = writing => never,
    }
}

async fn write(api: &Api<ConfigMap>, root_pem: &str) -> Result<(), Error> {
    let patch = Patch::Merge(json!({"data": {ROOT: root_pem}}));
    match api.patch(TRUST, &PatchParams::default(), &patch).await {
        Err(error) if is(&error, 404) => {
            let data = BTreeMap::from([(ROOT.to_owned(), root_pem.to_owned())]);
            let trust = ConfigMap { metadata: metadata(TRUST), data: Some(data), ..ConfigMap::default() };
            api.create(&PostParams::default(), &trust).await.map(drop)
        }
        patched => patched.map(drop),
    }
}

#[cfg(test)]
mod tests;
