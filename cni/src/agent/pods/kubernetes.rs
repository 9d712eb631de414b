//! Pods and namespaces from the API server: this node's pods, and of namespaces the metadata alone; and whether Weft
//! is being uninstalled. While the API server is away the last table stays in force.

use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Pod as PodObject};
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use tokio::sync::watch;
use weft_model::workload::{Exempt, MESH_LABEL};
use weft_model::{Text, uninstall};

use super::{Facts, Pod, PodSource, Table};
use crate::agent::kubernetes::{self, Mirror};

/// The DaemonSet whose annotation says that Weft is being uninstalled.
const AGENTS: &str = "weft-agent";

/// The API server, for the pods of one node.
pub struct Kubernetes {
    client: Client,
    node: Text,
    namespace: Text,
    exempt: Exempt,
}

impl Kubernetes {
    /// Watches through this client. `namespace`: where Weft is installed.
    #[must_use]
    pub const fn new(client: Client, node: Text, namespace: Text, exempt: Exempt) -> Self {
        Self { client, node, namespace, exempt }
    }
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").field("node", &self.node).finish_non_exhaustive()
    }
}

/// What is known from all watches.
struct Known {
    node: Text,
    exempt: Exempt,
    pods: Mirror<(Pod, Facts)>,
    namespaces: Mirror<Option<Text>>,
    /// Of the agents' DaemonSet, whether it is being uninstalled.
    leaving: Mirror<bool>,
    /// What it said last: when it is deleted the agent is about to end, and must not begin to enrol anew.
    last: bool,
}

impl Known {
    const fn new(node: Text, exempt: Exempt) -> Self {
        Self {
            node,
            exempt,
            pods: Mirror::new("pods"),
            namespaces: Mirror::new("namespaces"),
            leaving: Mirror::new("DaemonSet weft-agent"),
            last: false,
        }
    }

    /// `None` until all lists have been received: a pod must not be judged by a part of what decides about it.
    fn table(&mut self) -> Option<Table> {
        let leaving = self.leaving.objects()?.values().next().copied().unwrap_or(self.last);
        self.last = leaving;
        let (pods, namespaces) = (self.pods.objects()?, self.namespaces.objects()?);
        // Asked for by field, and looked at nevertheless.
        let here = pods.iter().filter(|(_, (pod, _))| pod.node.as_ref() == Some(&self.node));
        let mut table = Table { leaving, exempt: self.exempt.clone(), ..Table::default() };
        for (name, (pod, facts)) in here {
            table.facts.insert(pod.uid.clone(), facts.clone());
            table.pods.insert(name.clone(), pod.clone());
        }
        table.namespaces =
            namespaces.iter().map(|(name, label)| (name.name.clone(), label.clone())).collect();
        Some(table)
    }
}

/// Not the typed object: a value of a newer API would make the whole pod unreadable.
fn read(object: &DynamicObject) -> Option<(Pod, Facts)> {
    let value = serde_json::to_value(object).ok()?;
    Some((Pod::from_object(&value)?, Facts::from_object(&value)))
}

fn is_leaving<K>(set: &PartialObjectMeta<K>) -> bool {
    let note = set.metadata.annotations.as_ref().and_then(|notes| notes.get(uninstall::ANNOTATION));
    note.is_some_and(|note| note == "true")
}

impl PodSource for Kubernetes {
    async fn run(self, tables: watch::Sender<Option<Arc<Table>>>) {
        let resource = ApiResource::erase::<PodObject>(&());
        let pods: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let agents: Api<PartialObjectMeta<DaemonSet>> = Api::namespaced(self.client, &self.namespace);
        let own = Config::default().fields(&format!("metadata.name={AGENTS}"));
        let here = Config::default().fields(&format!("spec.nodeName={}", self.node));
        let mut pods = kubernetes::watch("pods", pods, here);
        let mut namespaces = kubernetes::watch("namespaces", namespaces, Config::default());
        let mut agents = kubernetes::watch("DaemonSet weft-agent", agents, own);
        let mut known = Known::new(self.node, self.exempt);
        loop {
            tokio::select! {
                Some(event) = pods.next() => known.pods.take(event, read),
                Some(event) = namespaces.next() => known.namespaces.take(event, |object| {
                    let label = object.metadata.labels.as_ref().and_then(|labels| labels.get(MESH_LABEL));
                    Some(label.map(|value| value.as_str().into()))
                }),
                Some(event) = agents.next() => known.leaving.take(event, |set| Some(is_leaving(set))),
                else => return,
            }
            let Some(table) = known.table() else { continue };
            super::publish(&tables, table);
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;
    use crate::agent::pods::Decision;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    fn pod(name: &str, node: &str) -> DynamicObject {
        object(
            json!({"metadata": {"namespace": "shop", "name": name, "uid": name}, "spec": {"nodeName": node}}),
        )
    }

    fn agents(known: &mut Known, note: Option<&str>) {
        let mut set = PartialObjectMeta::<DaemonSet>::default();
        set.metadata.name = Some(AGENTS.into());
        set.metadata.annotations =
            note.map(|note| [(uninstall::ANNOTATION.to_owned(), note.to_owned())].into());
        let read = |set: &PartialObjectMeta<DaemonSet>| Some(is_leaving(set));
        for event in [Event::Init, Event::InitApply(set), Event::InitDone] {
            known.leaving.take(event, read);
        }
    }

    fn namespaces(known: &mut Known, label: Option<&str>) {
        let read = |_: &Namespace| Some(label.map(Into::into));
        known.namespaces.take(Event::Init, read);
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some("shop".into());
        known.namespaces.take(Event::InitApply(namespace), read);
        known.namespaces.take(Event::<Namespace>::InitDone, read);
    }

    #[test]
    fn nothing_is_judged_before_pods_and_namespaces_are_known() {
        let mut known = Known::new("one".into(), Exempt::default());
        known.pods.take(Event::Init, read);
        known.pods.take(Event::InitApply(pod("a", "one")), read);
        known.pods.take(Event::<DynamicObject>::InitDone, read);
        assert!(known.table().is_none());
        namespaces(&mut known, Some("enabled"));
        assert!(known.table().is_none());
        agents(&mut known, None);
        let table = known.table().unwrap();
        let pod = table.pods.values().next().unwrap();
        assert_eq!(table.decide(pod), Decision::Enrol);
        for (note, decision) in
            [(Some("true"), Decision::Leave), (Some("false"), Decision::Enrol), (None, Decision::Enrol)]
        {
            agents(&mut known, note);
            assert_eq!(known.table().unwrap().decide(pod), decision, "{note:?}");
        }
    }

    #[test]
    fn pods_of_other_nodes_and_without_a_uid_are_left_out_and_the_rest_is_there() {
        let mut known = Known::new("one".into(), Exempt::default());
        namespaces(&mut known, None);
        agents(&mut known, None);
        known.pods.take(Event::Init, read);
        for pod in [
            pod("a", "one"),
            pod("b", "two"),
            object(json!({"metadata": {"namespace": "shop", "name": "c"}, "spec": {"nodeName": "one"}})),
            object(json!({"metadata": {"namespace": "shop", "name": "d", "uid": "d"},
                "spec": {"nodeName": "one", "hostNetwork": "perhaps", "serviceAccountName": 7},
                "status": {"phase": "Dreaming", "podIPs": [{"ip": "no"}, 3], "containerStatuses": "none"}})),
        ] {
            known.pods.take(Event::InitApply(pod), read);
        }
        known.pods.take(Event::<DynamicObject>::InitDone, read);
        let table = known.table().unwrap();
        let names: Vec<&str> = table.pods.keys().map(|name| &*name.name).collect();
        assert_eq!(names, ["a", "d"]);
    }
}
