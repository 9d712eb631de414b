//! What the callee's side is told of Service and route, for its telemetry. The texts are kept per connection, since
//! one connection's requests mostly take the same few ways.

use std::cell::RefCell;
use std::sync::Arc;

use weft_model::{ObjectName, Text};
use weft_routing::CompiledRule;

use crate::call::Claimed;
use crate::telemetry::{Labels, Named};

/// Texts that one connection keeps of each kind.
const KEPT: usize = 8;

/// The texts of one connection.
#[derive(Debug, Default)]
pub(super) struct Claims {
    services: RefCell<Vec<(ObjectName, Text)>>,
    rules: RefCell<Vec<(Arc<CompiledRule>, Text)>>,
}

impl Claims {
    /// What is told of a request with these labels that `rule` decided about.
    pub(super) fn of(&self, labels: &Labels, rule: Option<&Arc<CompiledRule>>) -> Claimed {
        // At a Gateway nobody calls a Service: the backend's counts.
        let service = match &labels.service {
            Some(Named::Known((service, _))) => Some(service),
            Some(Named::Claimed(_)) => None,
            None => labels.backend.as_ref().map(|(service, _)| service),
        };
        let text = |service: &ObjectName| service.to_string().into();
        let service = service.map(|service| kept(&self.services, service, |a, b| a == b, text));
        let route = rule.map(|rule| kept(&self.rules, rule, Arc::ptr_eq, |rule| rule.label().into()));
        Claimed { service, route }
    }
}

fn kept<K: Clone>(
    texts: &RefCell<Vec<(K, Text)>>,
    key: &K,
    same: impl Fn(&K, &K) -> bool,
    make: impl Fn(&K) -> Text,
) -> Text {
    let mut texts = texts.borrow_mut();
    if let Some((_, text)) = texts.iter().find(|(known, _)| same(known, key)) {
        return Text::clone(text);
    }
    let text = make(key);
    if texts.len() == KEPT {
        texts.clear();
    }
    texts.push((key.clone(), Text::clone(&text)));
    text
}
