//! The agent's connection to the API server: watches that begin again by themselves, and the last known objects of one.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use kube::runtime::utils::Backoff as Pace;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use weft_model::ObjectName;
use weft_runtime::backoff::Backoff;

/// How long one watch lasts at most, in seconds, before it is asked for anew where it ended: so long a connection to
/// an API server that has silently gone is not noticed.
const WATCH_SECONDS: u32 = 60;
/// Between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A client for the cluster that this process runs in, or for the kubeconfig of its environment.
///
/// # Errors
/// When there is neither.
pub(super) async fn client() -> std::io::Result<Client> {
    Client::try_default().await.map_err(|error| {
        let problem = format!(
            "--kubernetes needs a service account in a pod, or a kubeconfig named by KUBECONFIG: {error}"
        );
        std::io::Error::other(problem)
    })
}

/// The time, as objects have it: in whole seconds.
pub(super) fn now() -> String {
    format!("{:.0}", jiff::Timestamp::now())
}

/// Watches for ever. Failures are logged, and tried again after a pause.
pub(super) fn watch<K>(
    what: &'static str,
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = Event<K>> + Send + Unpin
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    told(what, watch_objects(api, config.timeout(WATCH_SECONDS)))
}

fn told<T>(
    what: &'static str,
    events: impl Stream<Item = watcher::Result<T>> + Send,
) -> impl Stream<Item = T> + Send + Unpin
where
    T: Send,
{
    let paced = events.backoff(Pauses(Backoff::new(PAUSES.0, PAUSES.1)));
    let told = paced.filter_map(move |event| {
        if let Err(error) = &event {
            tracing::warn!(what, %error, "watching; what is known of it stays in force");
        }
        std::future::ready(event.ok())
    });
    Box::pin(told)
}

struct Pauses(Backoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0.next_delay())
    }
}

impl Pace for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// The last known form of every object of one watch. An object that cannot be read keeps its last good form, and
/// until a list is complete the one before stays in force.
#[derive(Debug)]
pub(super) struct Mirror<T> {
    what: &'static str,
    current: BTreeMap<ObjectName, T>,
    /// The list that is being received.
    coming: Option<BTreeMap<ObjectName, T>>,
    /// A list has been received.
    known: bool,
}

impl<T: Clone + PartialEq> Mirror<T> {
    pub(super) const fn new(what: &'static str) -> Self {
        Self { what, current: BTreeMap::new(), coming: None, known: false }
    }

    /// The objects; `None` until there has been a list.
    pub(super) fn objects(&self) -> Option<&BTreeMap<ObjectName, T>> {
        self.known.then_some(&self.current)
    }

    /// Takes an event in. `read` gives an object's form, or nothing if it has none that makes sense.
    pub(super) fn take<K: Resource>(&mut self, event: Event<K>, read: impl Fn(&K) -> Option<T>) {
        match event {
            Event::Init => self.coming = Some(BTreeMap::new()),
            Event::InitApply(object) | Event::Apply(object) => self.put(&object, read),
            Event::Delete(object) => {
                self.current.remove(&name(&object));
            }
            Event::InitDone => {
                if let Some(coming) = self.coming.take() {
                    self.current = coming;
                }
                self.known = true;
            }
        }
    }

    fn put<K: Resource>(&mut self, object: &K, read: impl Fn(&K) -> Option<T>) {
        let name = name(object);
        let value = read(object).or_else(|| {
            tracing::warn!(what = self.what, object = %name, "not readable; its last good form stays");
            self.current.get(&name).cloned()
        });
        if let Some(value) = value {
            self.coming.as_mut().unwrap_or(&mut self.current).insert(name, value);
        }
    }
}

fn name<K: Resource>(object: &K) -> ObjectName {
    let metadata = object.meta();
    ObjectName::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, value: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.data = Some([("value".to_owned(), value.to_owned())].into());
        object
    }

    fn read(object: &ConfigMap) -> Option<String> {
        object.data.as_ref()?.get("value").filter(|value| *value != "broken").cloned()
    }

    fn shown(mirror: &Mirror<String>) -> Option<Vec<(String, String)>> {
        let objects = mirror.objects()?;
        Some(objects.iter().map(|(name, value)| (name.name.to_string(), value.clone())).collect())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        Some(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn what_is_known_stays_until_a_new_list_is_complete() {
        let mut mirror = Mirror::new("test");
        mirror.take(Event::Init, read);
        mirror.take(Event::InitApply(object("a", "1")), read);
        mirror.take(Event::InitApply(object("b", "1")), read);
        assert_eq!(shown(&mirror), None);
        mirror.take(Event::<ConfigMap>::InitDone, read);
        assert_eq!(shown(&mirror), pairs(&[("a", "1"), ("b", "1")]));
        mirror.take(Event::Init, read);
        mirror.take(Event::InitApply(object("b", "2")), read);
        assert_eq!(shown(&mirror), pairs(&[("a", "1"), ("b", "1")]));
        mirror.take(Event::<ConfigMap>::InitDone, read);
        assert_eq!(shown(&mirror), pairs(&[("b", "2")]));
        mirror.take(Event::Apply(object("c", "1")), read);
        mirror.take(Event::Delete(object("b", "2")), read);
        assert_eq!(shown(&mirror), pairs(&[("c", "1")]));
    }

    #[test]
    fn an_object_that_cannot_be_read_keeps_its_last_good_form_and_harms_no_other() {
        let mut mirror = Mirror::new("test");
        mirror.take(Event::Init, read);
        mirror.take(Event::InitApply(object("new", "broken")), read);
        mirror.take(Event::InitApply(object("a", "1")), read);
        mirror.take(Event::<ConfigMap>::InitDone, read);
        assert_eq!(shown(&mirror), pairs(&[("a", "1")]));
        mirror.take(Event::Apply(object("a", "broken")), read);
        assert_eq!(shown(&mirror), pairs(&[("a", "1")]));
        mirror.take(Event::Init, read);
        mirror.take(Event::InitApply(object("a", "broken")), read);
        mirror.take(Event::<ConfigMap>::InitDone, read);
        assert_eq!(shown(&mirror), pairs(&[("a", "1")]));
    }
}
