//! The cluster that a command asks: found as kubectl finds it, never with more rights than its user has.

use std::path::PathBuf;

use anyhow::{Context, Result};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;

/// Objects asked for at a time.
const PAGE: u32 = 500;

/// Which cluster.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// Kubeconfig file [default: $KUBECONFIG, else ~/.kube/config, else the service account of the pod it runs in].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// Something that was asked for, or why it is not known.
pub(crate) type Fact<T> = Result<T, Unknown>;

/// Why something is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unknown {
    /// The user may not ask.
    #[error("{0}")]
    Forbidden(String),
    /// It does not exist, nor does perhaps its kind.
    #[error("{0} is not there")]
    Absent(String),
    /// The question failed.
    #[error("{0}")]
    Failed(String),
}

/// A connection.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
}

impl ClusterArgs {
    /// Reads the configuration; nothing is asked yet.
    pub(crate) async fn connect(&self) -> Result<Cluster> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            Some(file) => {
                let kubeconfig = Kubeconfig::read_from(file)
                    .with_context(|| format!("cannot read the kubeconfig {}", file.display()))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await?
            }
            None if self.context.is_some() => Config::from_kubeconfig(&options).await?,
            None => Config::infer().await.context(
                "no cluster: pass --kubeconfig, set KUBECONFIG, or put a kubeconfig at ~/.kube/config",
            )?,
        };
        Ok(Cluster { client: Client::try_from(config)? })
    }
}

impl Cluster {
    /// All objects of a kind.
    pub(crate) async fn all<K>(&self) -> Fact<Vec<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        list(&Api::all(self.client.clone()), &K::plural(&())).await
    }

    /// All objects of a kind in `weft-system`, or in another namespace.
    pub(crate) async fn within<K>(&self, namespace: &str) -> Fact<Vec<K>>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        list(&Api::namespaced(self.client.clone(), namespace), &K::plural(&())).await
    }

    /// All objects of a kind that is known only at run time. None if the cluster does not know the kind.
    pub(crate) async fn dynamic(&self, kind: &ApiResource) -> Fact<Vec<DynamicObject>> {
        match list(&Api::all_with(self.client.clone(), kind), &kind.plural).await {
            Err(Unknown::Absent(_)) => Ok(Vec::new()),
            other => other,
        }
    }

    /// One object of a namespace.
    pub(crate) async fn one<K>(&self, namespace: &str, name: &str) -> Fact<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        api.get(name).await.map_err(|error| unknown(error, &format!("{} {name}", K::kind(&()))))
    }

    /// One object without namespace.
    pub(crate) async fn global<K>(&self, name: &str) -> Fact<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::all(self.client.clone());
        api.get(name).await.map_err(|error| unknown(error, &format!("{} {name}", K::kind(&()))))
    }

    /// What a pod's port answers to a GET, through the API server.
    pub(crate) async fn of_pod<T: DeserializeOwned>(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        path: &str,
    ) -> Fact<T> {
        let url = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
        let request =
            http::Request::get(url).body(Vec::new()).map_err(|error| Unknown::Failed(error.to_string()))?;
        self.client.request(request).await.map_err(|error| unknown(error, &format!("pod {pod}")))
    }
}

async fn list<K>(api: &Api<K>, plural: &str) -> Fact<Vec<K>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut items = Vec::new();
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&parameters).await.map_err(|error| unknown(error, plural))?;
        items.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = ListParams::default().limit(PAGE).continue_token(&token),
            None => return Ok(items),
        }
    }
}

/// Why a question about `what` was not answered.
pub(crate) fn unknown(error: kube::Error, what: &str) -> Unknown {
    match error {
        kube::Error::Api(status) if status.code == 401 || status.code == 403 => {
            Unknown::Forbidden(status.message)
        }
        kube::Error::Api(status) if status.code == 404 => Unknown::Absent(what.to_owned()),
        kube::Error::Api(status) => Unknown::Failed(format!("{what}: {}", status.message)),
        error => {
            // The library's own sentence seldom says what failed; the sources do.
            let mut text = format!("{what}: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                let more = cause.to_string();
                if !text.contains(&more) {
                    text = format!("{text}: {more}");
                }
                source = cause.source();
            }
            Unknown::Failed(text)
        }
    }
}
