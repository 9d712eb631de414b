//! The GatewayClass that comes with Weft: made by the leader when the kind is there and the object is not. Its spec is
//! its owner's and is never changed; its status is written with all others.

use std::convert::Infallible;
use std::time::Duration;

use kube::api::PostParams;
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use tokio::sync::watch;
use weft_runtime::backoff::Backoff;

use super::follow::{Event, Selector, explain, follow, is, within};
use super::raw::Raw;
use super::watch::while_served;
use crate::infrastructure::class;
use crate::infrastructure::names::{CLASS, CONTROLLER_NAME};

const GROUP: &str = "gateway.networking.k8s.io";
const DEFINITION: &str = "gatewayclasses.gateway.networking.k8s.io";
/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);

/// Keeps the GatewayClass there, for ever. For the leader; may be dropped at any time.
pub async fn keep(client: Client) -> Infallible {
    let client = &client;
    while_served(client, DEFINITION, |version| async move { keep_version(client, &version).await }).await
}

async fn keep_version(client: &Client, version: &str) -> Infallible {
    let kind = GroupVersionKind::gvk(GROUP, version, "GatewayClass");
    let resource = ApiResource::from_gvk_with_plural(&kind, "gatewayclasses");
    let api: Api<Raw> = Api::all_with(client.clone(), &resource);
    // Whether the object is there; `None` until it is known.
    let (told, mut there) = watch::channel(None);
    let mut found = false;
    let fields = format!("metadata.name={CLASS}");
    let watching = follow(&api, Selector::fields(&fields), |event| match event {
        Event::ListBegins => found = false,
        Event::Found(object) => {
            found = true;
            warn_of_another(&object);
        }
        Event::ListEnds => drop(told.send_replace(Some(found))),
        Event::Applied(_) => drop(told.send_replace(Some(true))),
        Event::Deleted(_) => drop(told.send_replace(Some(false))),
        Event::Watching => {}
        Event::Failed(error) => {
            tracing::warn!(error = explain(&error), "GatewayClass cannot be watched; trying again")
        }
    });
    let object = Raw::from(class(&resource.api_version));
    let making = async {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        loop {
            // The sender lives as long as the watch beside this.
            if there.wait_for(|there| *there == Some(false)).await.is_err() {
                std::future::pending::<()>().await;
            }
            match within(CALL, api.create(&PostParams::default(), &object)).await {
                Ok(_) => tracing::info!("made GatewayClass {CLASS}"),
                // Somebody else made it: the watch brings it.
                Err(error) if is(&error, 409) => {}
                Err(error) => {
                    tracing::warn!(
                        error = explain(&error),
                        "GatewayClass {CLASS} cannot be made; trying again"
                    );
                }
            }
            // The watch shows what came of it; until then nothing more is tried.
            if tokio::time::timeout(backoff.next_delay(), there.changed()).await.is_ok() {
                backoff.reset();
            }
        }
    };
    tokio::select! {
        never = watching => never,
        never = making => never,
    }
}

fn warn_of_another(object: &Raw) {
    let controller = object.text("/spec/controllerName");
    if controller != CONTROLLER_NAME {
        tracing::warn!(
            controller,
            "GatewayClass {CLASS} is another controller's: make one with controllerName {CONTROLLER_NAME}"
        );
    }
}

#[cfg(test)]
mod tests {
    use weft_testkit::apiserver::ApiServer;

    use super::*;

    #[tokio::test]
    async fn class_is_made_when_its_kind_appears_and_again_when_it_is_deleted() {
        let api = ApiServer::new();
        let client = Client::new(api.clone(), "default");
        let keeping = tokio::spawn(async move { match keep(client).await {} });
        let class = || api.get(GROUP, "GatewayClass", "", CLASS);
        let until_there = async || {
            let there = async {
                while class().is_none() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), there).await.unwrap();
        };
        api.define(GROUP, "GatewayClass", &["v1"]);
        until_there().await;
        assert_eq!(class().unwrap()["spec"]["controllerName"], CONTROLLER_NAME);
        api.remove(GROUP, "GatewayClass", "", CLASS);
        until_there().await;
        keeping.abort();
    }
}
