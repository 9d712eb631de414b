//! Events on pods: the first caller in plaintext that a workload's port refused.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use weft_model::{ObjectName, Text};

use super::pods::{Facts, Table};
use super::status::remedy;

/// After so long the next refusal of the same workload's port is a first one again. Events live for an hour.
const AGAIN: Duration = Duration::from_secs(3600);
/// Workloads' ports that are kept in mind; of further ones no event is made.
const MOST: usize = 1024;
/// Events that may wait to be written.
const WAITING: usize = 64;

/// A refused caller in plaintext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) uid: Text,
    pub(super) pod: ObjectName,
    pub(super) port: u16,
    pub(super) from: SocketAddr,
}

/// A workload's port: namespace, owner and number.
type Port = (Text, Text, u16);

/// What has been told already, and the way to the one who writes.
#[derive(Debug)]
pub(super) struct Refusals {
    told: Mutex<HashMap<Port, Instant>>,
    sender: mpsc::Sender<Refusal>,
    receiver: tokio::sync::Mutex<mpsc::Receiver<Refusal>>,
}

impl Default for Refusals {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self { told: Mutex::default(), sender, receiver: tokio::sync::Mutex::new(receiver) }
    }
}

impl Refusals {
    /// Has an event made of a refusal, if it is the first of its workload's port.
    pub(super) fn note(&self, refusal: Refusal, table: Option<&Table>, now: Instant) {
        let facts = table.and_then(|table| table.facts.get(&refusal.uid));
        if self.is_first(port(&refusal, facts), now) {
            // With many waiting, status and log say it too.
            let _ = self.sender.try_send(refusal);
        }
    }

    fn is_first(&self, port: Port, now: Instant) -> bool {
        let mut told = self.told.lock();
        told.retain(|_, at| now.saturating_duration_since(*at) < AGAIN);
        let first = !told.contains_key(&port) && told.len() < MOST;
        if first {
            told.insert(port, now);
        }
        first
    }
}

/// All pods of one owner are one workload; a pod without owner is its own.
fn port(refusal: &Refusal, facts: Option<&Facts>) -> Port {
    let owner = facts.and_then(|facts| facts.owner.as_ref());
    let workload = owner.map_or_else(
        || format!("Pod/{}", refusal.pod.name),
        |owner| format!("{}/{}", owner.kind, owner.name),
    );
    (refusal.pod.namespace.clone(), workload.into(), refusal.port)
}

/// Writes events for ever.
pub(super) async fn run(client: Client, node: &str, refusals: &Refusals) {
    let reporter = Reporter { controller: "weft-mesh.dev/agent".to_owned(), instance: Some(node.to_owned()) };
    let recorder = Recorder::new(client, reporter);
    let mut waiting = refusals.receiver.lock().await;
    while let Some(refusal) = waiting.recv().await {
        if let Err(error) = recorder.publish(&event(&refusal), &reference(&refusal)).await {
            tracing::warn!(pod = %refusal.pod, %error, "the event about a refused caller was not written");
        }
    }
}

fn event(refusal: &Refusal) -> Event {
    let Refusal { port, from, .. } = refusal;
    Event {
        type_: EventType::Warning,
        reason: "PlaintextRefused".to_owned(),
        note: Some(format!("{from} called port {port} in plaintext and was refused: {}", remedy(*port))),
        action: "Refuse".to_owned(),
        secondary: None,
    }
}

fn reference(refusal: &Refusal) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(refusal.pod.namespace.to_string()),
        name: Some(refusal.pod.name.to_string()),
        uid: Some(refusal.uid.to_string()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::pods::Owner;

    fn refusal(pod: &str, port: u16) -> Refusal {
        let from = "10.0.0.9:4000".parse().unwrap();
        Refusal { uid: pod.into(), pod: ObjectName::new("shop", pod), port, from }
    }

    #[test]
    fn first_refusal_of_a_workloads_port_is_told_and_told_again_after_a_time() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let owner = Owner { kind: "ReplicaSet".into(), name: "cart-1".into() };
        let facts = Facts { owner: Some(owner), ..Facts::default() };
        let mut table = Table::default();
        table.facts.extend([("a".into(), facts.clone()), ("b".into(), facts)]);
        let told = |pod, port, at| {
            refusals.note(refusal(pod, port), Some(&table), at);
            refusals.receiver.try_lock().unwrap().try_recv().is_ok()
        };
        assert!(told("a", 80, now));
        assert!(!told("a", 80, now) && !told("b", 80, now));
        assert!(told("b", 81, now) && told("alone", 80, now));
        assert!(told("b", 80, now + AGAIN));
    }

    #[test]
    fn event_names_caller_port_and_remedy() {
        let note = event(&refusal("cart", 8443)).note.unwrap();
        for part in [
            "10.0.0.9:4000",
            "port 8443",
            "weft-mesh.dev/plaintext-ports=8443",
            "weft-mesh.dev/mtls=permissive",
        ] {
            assert!(note.contains(part), "{part}: {note}");
        }
        assert!(note.len() < 1024);
    }
}
