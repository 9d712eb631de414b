//! An HTTPRoute or GRPCRoute rule with what a proxy needs for each request prepared.

use std::sync::Arc;

use weft_model::route::{Backend, HttpRule, Refusal, Route, Rules};

use crate::schedule::WeightSchedule;
use crate::validate;

/// A rule of an HTTPRoute or GRPCRoute as part of one Service port's table.
#[derive(Debug)]
pub struct CompiledRule {
    /// The route it is from.
    pub route: Arc<Route>,
    /// Its place among the route's rules, from 0.
    pub index: usize,
    /// The rule itself.
    pub spec: HttpRule,
    /// Set when the rule cannot be carried out: what it matches is refused with `invalid_route`.
    pub refusal: Option<Refusal>,
    schedule: Option<WeightSchedule>,
}

impl CompiledRule {
    /// Prepares rule `index` of `route`. A refusal of the rule itself wins over `fault`, a defect found on compiling.
    pub(crate) fn new(route: &Arc<Route>, index: usize, spec: &HttpRule, fault: Option<Refusal>) -> Self {
        Self {
            route: Arc::clone(route),
            index,
            spec: spec.clone(),
            refusal: spec.refusal.clone().or(fault),
            schedule: schedule_of(&spec.backends),
        }
    }

    /// The backend whose turn it is, by weight. `None`: no backend, or all weights are 0; the answer is 500
    /// (`invalid_backend`), as it is for a chosen [`weft_model::route::BackendTarget::Invalid`].
    pub fn next_backend(&self) -> Option<&Backend> {
        self.spec.backends.get(self.schedule.as_ref()?.next())
    }

    /// How telemetry and `weft-meta` name the rule: `HTTPRoute/ns/name/<rule name or index>`.
    pub fn label(&self) -> String {
        match &self.spec.name {
            Some(name) => format!("{}/{name}", self.route.id),
            None => format!("{}/{}", self.route.id, self.index),
        }
    }
}

/// An HTTPRoute or GRPCRoute with its rules prepared. Tables made of one share its rules, and so their turns by weight.
#[derive(Clone, Debug)]
pub(crate) struct RouteRules {
    pub(crate) route: Arc<Route>,
    pub(crate) rules: Vec<Arc<CompiledRule>>,
}

/// Prepares a route's rules; `None` for another kind of route.
pub(crate) fn rules_of(route: &Arc<Route>) -> Option<RouteRules> {
    let Rules::Http(rules) = &route.rules else { return None };
    let compile = |(index, spec)| Arc::new(CompiledRule::new(route, index, spec, validate::fault_of(spec)));
    let rules = rules.iter().enumerate().map(compile).collect();
    Some(RouteRules { route: Arc::clone(route), rules })
}

pub(crate) fn schedule_of(backends: &[Backend]) -> Option<WeightSchedule> {
    WeightSchedule::new(&backends.iter().map(|backend| backend.weight).collect::<Vec<_>>())
}
