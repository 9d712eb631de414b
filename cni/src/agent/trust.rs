//! The file `root.pem`: what the node's proxy verifies the controller against. It comes from the ConfigMap
//! `weft-trust`, since the proxy itself does not talk to the API server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client};
use tokio::time::MissedTickBehavior;

use super::kubernetes;
use crate::files;

/// The ConfigMap, which the controller writes, and its key.
const NAME: &str = "weft-trust";
const KEY: &str = "root.pem";
/// How often the file is compared with what it should be.
const INTERVAL: Duration = Duration::from_secs(10);

/// Keeps `root.pem` in the runtime directory as the ConfigMap has it, for ever.
pub(super) async fn run(client: Client, namespace: &str, runtime_dir: &Path) {
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    let config = Config::default().fields(&format!("metadata.name={NAME}"));
    follow(kubernetes::watch("ConfigMap weft-trust", maps, config), runtime_dir.join(KEY)).await;
}

async fn follow(mut events: impl Stream<Item = Event<ConfigMap>> + Unpin, path: PathBuf) {
    let mut wanted: Option<String> = None;
    let mut timer = tokio::time::interval(INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::Apply(map) | Event::InitApply(map)) => {
                    wanted = roots(&map.data.unwrap_or_default()).or(wanted);
                }
                Some(Event::Delete(_)) => {
                    tracing::warn!("ConfigMap {NAME} was deleted; the last roots stay in force");
                }
                Some(Event::Init | Event::InitDone) => {}
                None => return,
            },
            _ = timer.tick() => {}
        }
        if let Some(text) = &wanted
            && let Err(error) = keep(&path, text)
        {
            tracing::warn!(path = %path.display(), %error, "the roots were not written; trying again");
        }
    }
}

/// The roots in a ConfigMap's data, if there are any: something else must not take the place of good ones.
fn roots(data: &BTreeMap<String, String>) -> Option<String> {
    let text = data.get(KEY).filter(|text| text.contains("-----BEGIN CERTIFICATE-----"));
    if text.is_none() {
        tracing::warn!("ConfigMap {NAME} has no PEM certificate under {KEY}; the last roots stay in force");
    }
    text.cloned()
}

fn keep(path: &Path, text: &str) -> std::io::Result<()> {
    if std::fs::read(path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(());
    }
    files::replace(path, text.as_bytes(), 0o644)?;
    tracing::info!(path = %path.display(), "wrote the controller's roots");
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn map(text: &str) -> ConfigMap {
        ConfigMap { data: Some([(KEY.to_owned(), text.to_owned())].into()), ..ConfigMap::default() }
    }

    #[tokio::test]
    async fn the_file_follows_the_map_and_never_becomes_worse() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY);
        let pem = |name: &str| format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n");
        let read = || std::fs::read_to_string(&path).ok();
        let follow = |events: Vec<Event<ConfigMap>>| follow(stream::iter(events), path.clone());
        follow(vec![Event::Init, Event::InitApply(map("nonsense")), Event::InitDone]).await;
        assert_eq!(read(), None);
        follow(vec![Event::InitApply(map(&pem("a"))), Event::Apply(map(&pem("b")))]).await;
        assert_eq!(read(), Some(pem("b")));
        std::fs::write(&path, "spoilt").unwrap();
        let worse = vec![
            Event::Apply(map(&pem("b"))),
            Event::Apply(map("")),
            Event::Apply(ConfigMap::default()),
            Event::Delete(map(&pem("b"))),
        ];
        follow(worse).await;
        assert_eq!(read(), Some(pem("b")));
    }
}
