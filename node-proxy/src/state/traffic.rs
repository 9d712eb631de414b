//! What XBackendTrafficPolicies say of Services, with the budgets that are counted in. A budget outlives every change but
//! that of its limits.

use std::sync::Arc;

use ahash::HashMap;
use weft_model::ObjectName;
use weft_model::service::Service;
use weft_model::session::SessionPersistence;
use weft_model::traffic::BackendTraffic;

use super::Snapshot;
use crate::outbound::resilience::budget::RetryBudget;

/// By Service. Few have one, so that a change copies them all.
pub(super) type ByService = Arc<HashMap<ObjectName, Traffic>>;

/// What a policy says of one Service.
#[derive(Clone, Debug)]
pub struct Traffic {
    stated: BackendTraffic,
    budget: Option<Arc<RetryBudget>>,
}

impl Traffic {
    /// What further tries are taken from, if the policy says so.
    pub fn budget(&self) -> Option<&RetryBudget> {
        self.budget.as_deref()
    }

    /// The policy's `sessionPersistence`.
    pub const fn session(&self) -> Option<&SessionPersistence> {
        self.stated.session.as_ref()
    }
}

impl Snapshot {
    /// What a policy says of a Service.
    pub fn traffic(&self, service: &ObjectName) -> Option<&Traffic> {
        if self.traffic.is_empty() { None } else { self.traffic.get(service) }
    }

    /// Takes over what a Service says now.
    pub(super) fn put_traffic(&mut self, service: &Service) {
        let Some(stated) = &service.traffic else { return self.forget_traffic(&service.name) };
        let old = self.traffic.get(&service.name);
        if old.is_some_and(|old| old.stated == *stated) {
            return;
        }
        let counted = old.and_then(|old| old.budget.clone());
        let budget = stated.retry.map(|limits| match counted.filter(|budget| budget.limits() == limits) {
            Some(budget) => budget,
            None => Arc::new(RetryBudget::new(limits)),
        });
        let traffic = Traffic { stated: stated.clone(), budget };
        Arc::make_mut(&mut self.traffic).insert(service.name.clone(), traffic);
    }

    pub(super) fn forget_traffic(&mut self, service: &ObjectName) {
        if self.traffic.contains_key(service) {
            Arc::make_mut(&mut self.traffic).remove(service);
        }
    }
}
