//! Events on Gateways: what one needs was refused.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use weft_model::ObjectName;

use super::super::follow::{explain, within};
use super::CALL;
use crate::infrastructure::names::CONTROLLER;
use crate::infrastructure::plan::{Desired, ForGateway};
use crate::infrastructure::refused::Refused;

/// The longest note that an API server takes, in bytes.
const LONGEST: usize = 1024;

/// Writes Events.
pub(super) struct Events(Recorder);

impl Events {
    pub(super) fn new(client: Client) -> Self {
        Self(Recorder::new(client, Reporter { controller: CONTROLLER.to_owned(), instance: None }))
    }

    /// One for every object that is refused and was not before. What cannot be written is logged: the Gateway's status
    /// says the same.
    pub(super) async fn tell(&self, before: &Refused, now: &Refused, desired: &Desired) {
        for (gateway, objects) in now {
            let Some(ForGateway::Exactly { uid, .. }) = desired.get(gateway) else { continue };
            let known = before.get(gateway);
            for (id, why) in objects.iter().filter(|(id, _)| known.is_none_or(|it| !it.contains_key(id))) {
                let note = shortened(&format!("{id}: {why}"));
                let event = Event {
                    type_: EventType::Warning,
                    reason: "NoResources".to_owned(),
                    note: Some(note),
                    action: "Apply".to_owned(),
                    secondary: None,
                };
                let published = within(CALL, self.0.publish(&event, &reference(gateway, uid))).await;
                if let Err(error) = published {
                    tracing::warn!(%gateway, error = explain(&error), "an Event could not be written");
                }
            }
        }
    }
}

fn reference(gateway: &ObjectName, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("gateway.networking.k8s.io/v1".to_owned()),
        kind: Some("Gateway".to_owned()),
        namespace: Some(gateway.namespace.to_string()),
        name: Some(gateway.name.to_string()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

fn shortened(note: &str) -> String {
    let end = note.floor_char_boundary(LONGEST);
    note.get(..end).unwrap_or_default().to_owned()
}
