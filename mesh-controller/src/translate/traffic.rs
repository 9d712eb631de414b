//! XBackendTrafficPolicies: which is in force on which Service, and what their statuses say. A policy is told of at each
//! Service that it targets, which is what callers in the mesh reach, and at each Gateway through which one is reached.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_gateway_api::xbackendtrafficpolicies::{
    XBackendTrafficPolicyRetryConstraint as Constraint, XBackendTrafficPolicySpec as Spec,
};
use weft_model::traffic::{BackendTraffic, RetryConstraint};
use weft_model::{ObjectName, Resource, ResourceName};

use super::gateway::Problem;
use super::service::{Form, Services};
use super::status::{
    AncestorStatus, CONTROLLER_NAME, Condition, GATEWAY_CONTROLLER_NAME, PolicyStatus, Status,
    StatusParentRef,
};
use super::{Translated, duration, session};
use crate::inputs::Inputs;
use crate::inputs::gateway::BackendTrafficPolicy;

/// The longest interval and the shortest of a budget, as the API has them.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3_600));

/// All policies.
#[derive(Debug)]
pub(crate) struct TrafficPolicies<'a> {
    all: Vec<Judged<'a>>,
}

#[derive(Debug)]
struct Judged<'a> {
    policy: &'a BackendTrafficPolicy,
    /// What becomes of it on each Service that it targets.
    targets: BTreeMap<ObjectName, Result<(), Problem>>,
}

/// Decides between the policies of each Service: of those that can be in force the oldest is, then the one of the lesser name.
/// They are not merged. What is in force is published with the Service.
pub(crate) fn convert<'a>(
    inputs: &'a Inputs,
    services: &Services,
    out: &mut Translated,
) -> TrafficPolicies<'a> {
    let mut sorted: Vec<_> = inputs.backend_traffic_policies.iter().collect();
    sorted.sort_by_key(|(name, policy)| (policy.head.created, (*name).clone()));
    let mut holders: BTreeMap<ObjectName, &ObjectName> = BTreeMap::new();
    let mut all = Vec::new();
    for (name, policy) in sorted {
        let read = read(policy);
        let mut targets = BTreeMap::new();
        for service in policy.services() {
            let verdict = judge(&read, &service, services, holders.get(&service).copied());
            if let Ok(traffic) = &verdict {
                holders.insert(service.clone(), name);
                publish(&service, traffic, out);
            }
            targets.insert(service, verdict.map(|_| ()));
        }
        all.push(Judged { policy, targets });
    }
    TrafficPolicies { all }
}

fn judge(
    read: &Result<BackendTraffic, Problem>,
    service: &ObjectName,
    services: &Services,
    holder: Option<&ObjectName>,
) -> Result<BackendTraffic, Problem> {
    let traffic = read.clone()?;
    let Some(facts) = services.get(service) else {
        return Err(Problem::new("TargetNotFound", format!("Service {service} does not exist")));
    };
    if facts.form == Form::ExternalName {
        let message = format!("Service {service} is of type ExternalName, which has no endpoints");
        return Err(Problem::new("Invalid", message));
    }
    if let Some(problem) = traffic.session.as_ref().and_then(|_| session::excluded(service, facts)) {
        return Err(Problem::new("Invalid", problem));
    }
    if let Some(holder) = holder {
        let message = format!("the older XBackendTrafficPolicy {holder} holds for Service {service}");
        return Err(Problem::new("Conflicted", message));
    }
    Ok(traffic)
}

fn publish(service: &ObjectName, traffic: &BackendTraffic, out: &mut Translated) {
    let name = ResourceName(format!("Service/{service}").into());
    if let Some(Resource::Service(service)) = out.resources.get_mut(&name) {
        service.traffic = Some(traffic.clone());
    }
}

fn read(policy: &BackendTrafficPolicy) -> Result<BackendTraffic, Problem> {
    let name = policy.head.name();
    let invalid = |message: String| Problem::new("Invalid", message);
    let spec: &Spec = policy
        .spec
        .as_ref()
        .map_err(|error| invalid(format!("this XBackendTrafficPolicy does not decode: {error}")))?;
    let retry = spec.retry_constraint.as_ref().map(constraint).transpose().map_err(invalid)?;
    let place = format!("XBackendTrafficPolicy/{name}");
    let session = spec.session_persistence.as_ref().map(|written| session::convert(written, &place));
    let session = session.transpose().map_err(|fault| invalid(fault.message))?;
    if let Some(problem) = session.as_ref().and_then(weft_routing::validate::session) {
        return Err(invalid(problem));
    }
    Ok(BackendTraffic { policy: name.clone(), retry, session })
}

fn constraint(of: &Constraint) -> Result<RetryConstraint, String> {
    let default = RetryConstraint::default();
    let interval = |field: &str, text: Option<&String>, default| match text {
        Some(text) => duration::parse(field, text).map_err(|fault| fault.message),
        None => Ok(default),
    };
    let number = |field: &str, value: Option<i64>, most: u32, default: u32| match value {
        Some(value) => u32::try_from(value)
            .ok()
            .filter(|value| *value <= most)
            .ok_or_else(|| format!("{field}: {value} is not from 0 to {most}")),
        None => Ok(default),
    };
    let (budget, rate) = (of.budget.as_ref(), of.min_retry_rate.as_ref());
    let read = RetryConstraint {
        percent: number(
            "retryConstraint.budget.percent",
            budget.and_then(|of| of.percent),
            100,
            default.percent,
        )?,
        interval: interval(
            "retryConstraint.budget.interval",
            budget.and_then(|of| of.interval.as_ref()),
            default.interval,
        )?,
        min_count: number(
            "retryConstraint.minRetryRate.count",
            rate.and_then(|of| of.count),
            1_000_000,
            default.min_count,
        )?,
        min_interval: interval(
            "retryConstraint.minRetryRate.interval",
            rate.and_then(|of| of.interval.as_ref()),
            default.min_interval,
        )?,
    };
    let (least, most) = INTERVALS;
    if read.interval < least || read.interval > most {
        return Err("retryConstraint.budget.interval: it must be from 1s to 1h".to_owned());
    }
    if read.min_interval.is_zero() || read.min_interval > most {
        return Err("retryConstraint.minRetryRate.interval: it must be above 0s and at most 1h".to_owned());
    }
    Ok(read)
}

impl TrafficPolicies<'_> {
    /// Says of each policy what becomes of it. What Gateways need is known.
    pub(crate) fn judge(&self, out: &mut Translated) {
        for judged in &self.all {
            let mut ancestors: Vec<AncestorStatus> = judged.on_services().collect();
            ancestors.extend(judged.at_gateways(out));
            let id = judged.policy.head.id.clone();
            out.statuses.insert(id, Status::Policy(PolicyStatus { ancestors }));
        }
    }
}

impl Judged<'_> {
    fn on_services(&self) -> impl Iterator<Item = AncestorStatus> {
        self.targets.iter().map(|(service, verdict)| AncestorStatus {
            ancestor_ref: StatusParentRef::service(service),
            controller_name: CONTROLLER_NAME,
            conditions: vec![self.accepted(verdict.as_ref().err(), false)],
        })
    }

    fn at_gateways(&self, out: &Translated) -> Vec<AncestorStatus> {
        let mut ancestors = Vec::new();
        for (gateway, needs) in &out.gateways {
            let needed = |(service, _): &(&ObjectName, _)| {
                needs.names.contains(&ResourceName(format!("Service/{service}").into()))
            };
            let verdicts: Vec<_> = self.targets.iter().filter(needed).map(|(_, verdict)| verdict).collect();
            let problem = verdicts.iter().find_map(|verdict| verdict.as_ref().err());
            if verdicts.is_empty() {
                continue;
            }
            let partly = verdicts.iter().any(|verdict| verdict.is_ok());
            ancestors.push(AncestorStatus {
                ancestor_ref: StatusParentRef::gateway(gateway),
                controller_name: GATEWAY_CONTROLLER_NAME,
                conditions: vec![self.accepted(problem, partly)],
            });
        }
        ancestors
    }

    fn accepted(&self, problem: Option<&Problem>, partly: bool) -> Condition {
        let (status, reason, message) = match problem {
            None => ("True", "Accepted", "The policy is in force.".to_owned()),
            Some(problem) if partly => (
                "True",
                "Accepted",
                format!("The policy is in force, but not on all targets: {}.", problem.message),
            ),
            Some(problem) => ("False", problem.reason, problem.message.clone()),
        };
        Condition::new("Accepted", status, reason, message, self.policy.head.generation)
    }
}
