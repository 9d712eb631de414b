//! What the callee's side is told of Service and route, for its telemetry. The texts are kept per connection, since
//! one connection's requests mostly take the same few ways.

use std::cell::RefCell;
use std::sync::Arc;

use weft_model::{ObjectName, Text};
use weft_routing::CompiledRule;

use crate::call::Claimed;
use crate::telemetry::Named;

/// Texts that one connection keeps of each kind.
const KEPT: usize = 8;

/// The texts of one connection.
#[derive(Debug, Default)]
pub(super) struct Claims {
    services: RefCell<Vec<(ObjectName, Text)>>,
    rules: RefCell<Vec<(Arc<CompiledRule>, Text)>>,
}

impl Claims {
    /// What is told of a request to `service` that `rule` decided about.
    pub(super) fn of(
        &self,
        service: Option<&Named<(ObjectName, u16)>>,
        rule: Option<&Arc<CompiledRule>>,
    ) -> Claimed {
        let service = match service {
            Some(Named::Known((service, _))) => {
                Some(kept(&self.services, service, |a, b| a == b, |service| service.to_string().into()))
            }
            Some(Named::Claimed(_)) | None => None,
        };
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
