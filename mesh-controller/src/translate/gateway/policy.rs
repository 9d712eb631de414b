//! BackendTLSPolicies: which is in force on which Service port, and what their statuses say.

use std::collections::BTreeMap;

use weft_gateway_api::backendtlspolicies::{
    BackendTlsPolicySpec as Spec, BackendTlsPolicyValidation as Validation,
    BackendTlsPolicyValidationSubjectAltNames as AltName,
    BackendTlsPolicyValidationSubjectAltNamesType as AltNameType,
};
use weft_model::gateway::{BackendRoots, BackendTls, ShownCertificate, SubjectAltName};
use weft_model::route::Refusal;
use weft_model::{ObjectName, Resource, ResourceName, Text};

use super::Problem;
use super::reference::{Referrer, To};
use crate::inputs::gateway::BackendTlsPolicy;
use crate::inputs::{Inputs, Kind};
use crate::translate::Translated;
use crate::translate::service::Services;
use crate::translate::status::{
    AncestorStatus, Condition, GATEWAY_CONTROLLER_NAME, PolicyStatus, Status, StatusParentRef,
};

/// All policies.
#[derive(Debug, Default)]
pub(crate) struct Policies<'a> {
    all: Vec<Facts<'a>>,
    /// By Service and port: a place in `all`.
    in_force: BTreeMap<(ObjectName, u16), usize>,
}

#[derive(Debug)]
struct Facts<'a> {
    policy: &'a BackendTlsPolicy,
    targets: Vec<(ObjectName, Option<Text>)>,
    roots: BackendRoots,
    /// Why it cannot be carried out.
    unaccepted: Option<Problem>,
    /// Why not all its references lead anywhere.
    unresolved: Option<Problem>,
    /// The older policies that hold its targets.
    lost_to: Vec<ObjectName>,
}

/// Reads them, and decides between those with one target: the older one holds it, then the one of the lesser name. One
/// that names a port comes before one that names none.
pub(crate) fn resolve<'a>(inputs: &'a Inputs, services: &Services) -> Policies<'a> {
    let mut sorted: Vec<_> = inputs.backend_tls_policies.iter().collect();
    sorted.sort_by_key(|(name, policy)| (policy.head.created, (*name).clone()));
    let mut all: Vec<Facts<'a>> = Vec::new();
    let mut holders: BTreeMap<(ObjectName, Option<Text>), usize> = BTreeMap::new();
    for (_, policy) in sorted {
        let mut facts = read(inputs, policy);
        for target in &facts.targets {
            match holders.get(target).and_then(|place| all.get(*place)) {
                Some(holder) => facts.lost_to.push(holder.policy.head.name().clone()),
                None => drop(holders.insert(target.clone(), all.len())),
            }
        }
        all.push(facts);
    }
    let mut in_force = BTreeMap::new();
    for (service, facts) in services {
        for port in &facts.ports {
            let named = port.name.clone().and_then(|name| holders.get(&(service.clone(), Some(name))));
            if let Some(place) = named.or_else(|| holders.get(&(service.clone(), None))) {
                in_force.insert((service.clone(), port.number), *place);
            }
        }
    }
    Policies { all, in_force }
}

fn read<'a>(inputs: &Inputs, policy: &'a BackendTlsPolicy) -> Facts<'a> {
    let none = BackendRoots::Pem(Vec::new());
    let targets = policy.targets();
    let mut facts =
        Facts { policy, targets, roots: none, unaccepted: None, unresolved: None, lost_to: Vec::new() };
    match &policy.spec {
        Ok(spec) => read_roots(inputs, spec, &mut facts),
        Err(error) => {
            let message = format!("this BackendTLSPolicy does not decode: {error}");
            facts.unaccepted = Some(Problem::new("Invalid", message));
        }
    }
    facts
}

fn read_roots(inputs: &Inputs, spec: &Spec, facts: &mut Facts<'_>) {
    if let Some(option) = spec.options.iter().flat_map(BTreeMap::keys).next() {
        let message = format!("the option {option} is not supported; remove it");
        facts.unaccepted = Some(Problem::new("Invalid", message));
    }
    let namespace = &*facts.policy.head.name().namespace;
    let by = Referrer { inputs, kind: Kind::BackendTlsPolicy, namespace };
    let (trusted, unresolved) = trusted(&by, &spec.validation);
    facts.unresolved = unresolved;
    match trusted {
        Ok(roots) => facts.roots = roots,
        Err(problem) => drop(facts.unaccepted.get_or_insert(problem)),
    }
}

/// What backends are verified against, or why none could be; and why not all references lead anywhere.
pub(crate) fn trusted(
    by: &Referrer<'_>,
    validation: &Validation,
) -> (Result<BackendRoots, Problem>, Option<Problem>) {
    match validation.well_known_ca_certificates.as_deref() {
        Some("System") => return (Ok(BackendRoots::System), None),
        Some(other) if !other.is_empty() => {
            let message = format!("wellKnownCACertificates {other} is not supported; use System");
            return (Err(Problem::new("Invalid", message)), None);
        }
        _ => {}
    }
    let (mut roots, mut unresolved) = (Vec::new(), None);
    for of in validation.ca_certificate_refs.iter().flatten() {
        let to = To { group: &of.group, kind: &of.kind, namespace: None, name: &of.name };
        match by.roots(&to, ("InvalidKind", "InvalidCACertificateRef")) {
            Ok(pem) => roots.push(pem),
            Err(problem) => drop(unresolved.get_or_insert(problem)),
        }
    }
    // Of several roots, those that can be used are: fewer backends are trusted than was meant, never more.
    if roots.is_empty() {
        let why = unresolved.as_ref().map_or("it names none", |problem: &Problem| &problem.message);
        let problem = Problem::new("NoValidCACertificate", format!("no backend could be verified: {why}"));
        return (Err(problem), unresolved);
    }
    (Ok(BackendRoots::Pem(roots)), unresolved)
}

pub(crate) fn alt_names(list: &[AltName]) -> Vec<SubjectAltName> {
    let name = |of: &AltName| match of.r#type {
        AltNameType::Hostname => of.hostname.as_deref().map(|name| SubjectAltName::Hostname(name.into())),
        AltNameType::Uri => of.uri.as_deref().map(|uri| SubjectAltName::Uri(uri.into())),
    };
    list.iter().filter_map(name).collect()
}

impl Policies<'_> {
    /// Whether a Service port is reached by TLS, as a policy says.
    pub(crate) fn holds(&self, service: &ObjectName, port: u16) -> bool {
        self.in_force.contains_key(&(service.clone(), port))
    }

    /// Publishes what is in force.
    pub(crate) fn publish(&self, out: &mut Translated) {
        for ((service, port), place) in &self.in_force {
            let Some(facts) = self.all.get(*place) else { continue };
            let validation = facts.policy.spec.as_ref().ok().map(|spec| &spec.validation);
            let listed = validation.and_then(|validation| validation.subject_alt_names.as_deref());
            out.insert(Resource::BackendTls(BackendTls {
                service: service.clone(),
                port: *port,
                policy: facts.policy.head.name().clone(),
                hostname: validation.map(|of| of.hostname.as_str()).unwrap_or_default().into(),
                subject_alt_names: alt_names(listed.unwrap_or_default()),
                roots: facts.roots.clone(),
                shown: ShownCertificate::Gateways,
                in_mesh: false,
                refusal: facts.unaccepted.as_ref().map(|problem| Refusal {
                    message: format!("BackendTLSPolicy {}: {}", facts.policy.head.name(), problem.message)
                        .into(),
                }),
            }));
        }
    }

    /// Says of each policy what becomes of it at the Gateways that its Services are reached through.
    pub(crate) fn judge(&self, out: &mut Translated) {
        for facts in &self.all {
            let key =
                |(service, _): &(ObjectName, Option<Text>)| ResourceName(format!("Service/{service}").into());
            let names: Vec<ResourceName> = facts.targets.iter().map(key).collect();
            let concerned = |needs: &super::GatewayNeeds| names.iter().any(|name| needs.names.contains(name));
            let gateways = out.gateways.iter().filter(|(_, needs)| concerned(needs)).map(|(name, _)| name);
            let ancestor = |gateway: &ObjectName| AncestorStatus {
                ancestor_ref: StatusParentRef::gateway(gateway),
                controller_name: GATEWAY_CONTROLLER_NAME,
                conditions: facts.conditions(),
            };
            let ancestors = gateways.map(ancestor).collect();
            out.statuses.insert(facts.policy.head.id.clone(), Status::Policy(PolicyStatus { ancestors }));
        }
    }
}

impl Facts<'_> {
    fn conditions(&self) -> Vec<Condition> {
        let generation = self.policy.head.generation;
        let (status, reason, message) = match (&self.unaccepted, self.lost_to.first()) {
            (Some(problem), _) => ("False", problem.reason, problem.message.clone()),
            (None, Some(holder)) if self.lost_to.len() == self.targets.len() => (
                "False",
                "Conflicted",
                format!("the older BackendTLSPolicy {holder} holds for the same target"),
            ),
            (None, Some(holder)) => (
                "True",
                "Accepted",
                format!("The policy is in force, but not on all targets: {holder} holds for one of them."),
            ),
            (None, None) => ("True", "Accepted", "The policy is in force.".to_owned()),
        };
        let accepted = Condition::new("Accepted", status, reason, message, generation);
        let resolved = match &self.unresolved {
            None => Condition::new(
                "ResolvedRefs",
                "True",
                "ResolvedRefs",
                "All references are resolved.",
                generation,
            ),
            Some(problem) => {
                Condition::new("ResolvedRefs", "False", problem.reason, problem.message.as_str(), generation)
            }
        };
        vec![accepted, resolved]
    }
}
