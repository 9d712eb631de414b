//! Routes of all kinds: where they are in force, what they do there, and what their status says.

use std::collections::{BTreeMap, BTreeSet};

use weft_model::route::{HttpRule, Match, PathMatch, Refusal, Route, RouteId, Rules, TcpRule, TlsRule};
use weft_model::{ObjectName, Resource, ResourceName, Text, gateway};

use super::backend::{AtGateways, Backends};
use super::fault::{Fault, Findings, References, RefusingRule};
use super::gateway::Gateways;
use super::gateway::attach::{self, GatewayParent};
use super::gateway::obeyed;
use super::gateway::policy::Policies;
use super::grant::Grants;
use super::parent::{self, Holders};
use super::service::Services;
use super::status::{CONTROLLER_NAME, ParentStatus, RouteStatus, Status};
use super::verdict::{self, Judged, OnServices};
use super::xbackend::{Ancestor, Referrers, XBackends};
use super::{Translated, grpc, http, tcp, tls};
use crate::inputs::{self, Inputs, Kind, ObjectId, RouteKind, RouteSpec};

/// What routes are converted by.
pub(crate) struct Context<'a> {
    pub(crate) inputs: &'a Inputs,
    pub(crate) services: &'a Services,
    pub(crate) xbackends: &'a XBackends<'a>,
    pub(crate) policies: &'a Policies<'a>,
}

/// What is to be said of routes that Gateways obey, in the form that they have there, by its name.
pub(crate) type Obeyed = BTreeMap<ResourceName, (ObjectId, References)>;

/// Converts every route that has a Service parent or is at a Gateway of ours.
pub(crate) fn convert(
    context: &Context<'_>,
    gateways: &mut Gateways<'_>,
    referrers: &mut Referrers,
    out: &mut Translated,
) -> Obeyed {
    let mut holders = Holders::default();
    let mut attached = Vec::new();
    for route in context.inputs.routes.values() {
        let attachments = parent::resolve(route, context.services);
        let at = attach::resolve(context.inputs, route, gateways);
        holders.compete(route, &attachments);
        if !attachments.is_empty() || !at.is_empty() {
            attached.push((route, attachments, at));
        }
    }
    let mut entries = Vec::new();
    for (route, _, at) in &attached {
        entries.push(at_gateways(context, route, at, referrers, out));
    }
    let chosen = obeyed::chosen(gateways, out);
    let mut obeyed = Obeyed::new();
    for ((route, attachments, _), mut parents) in attached.iter().zip(entries) {
        let on = OnServices { attachments, holders: &holders, chosen: &chosen };
        parents.extend(on_services(context, route, &on, referrers, out));
        parents.sort_by_key(|(place, _)| *place);
        let parents = parents.into_iter().map(|(_, parent)| parent).collect();
        out.statuses.insert(route.head.id.clone(), Status::Route(RouteStatus { parents }));
        obeyed.extend(for_gateways(context, route, &on, out));
    }
    obeyed
}

/// Says what becomes of the references of routes at the Gateways that obey them. Everything has been published.
pub(crate) fn judge_obeyed(obeyed: &Obeyed, referrers: &mut Referrers, out: &mut Translated) {
    for (name, (route, References { unresolved, xbackends })) in obeyed {
        let by =
            out.gateways.iter().filter(|(_, needs)| needs.names.contains(name)).map(|(gateway, _)| gateway);
        let by: Vec<&ObjectName> = by.collect();
        for gateway in &by {
            referrers.note(xbackends, &Ancestor::Gateway((*gateway).clone()));
        }
        let (Some(first), Some(Status::Route(status))) = (by.first(), out.statuses.get_mut(route)) else {
            continue;
        };
        let others = if by.len() > 1 { format!(" and {} more", by.len() - 1) } else { String::new() };
        let on_services =
            status.parents.iter_mut().filter(|parent| parent.controller_name == CONTROLLER_NAME);
        for condition in
            on_services.flat_map(|parent| &mut parent.conditions).filter(|it| it.kind == "ResolvedRefs")
        {
            let there = unresolved
                .iter()
                .map(|of| &of.message)
                .filter(|message| !condition.message.contains(message.as_str()));
            let there = verdict::list(there.cloned());
            if !there.is_empty() {
                let who = format!(" At Gateway {first}{others}, which obeys the Service's routes: {there}");
                condition.message.push_str(&who);
            }
        }
    }
}

/// A route of Services once more, if a Gateway obeys it on one of them: its backends are judged as at a Gateway, since
/// whoever can reach that could not call them otherwise.
fn for_gateways(
    context: &Context<'_>,
    route: &inputs::Route,
    on: &OnServices<'_>,
    out: &mut Translated,
) -> Option<(ResourceName, (ObjectId, References))> {
    if !on.attachments.iter().any(|attachment| on.chosen.needs(route, attachment)) {
        return None;
    }
    let parents = on.holders.won(route, on.attachments);
    if parents.is_empty() {
        return None;
    }
    let at = AtGateways { grants: Grants(context.inputs), policies: context.policies };
    let (published, findings) = publishable(context, route, Some(at));
    let published = Resource::Route(Route { parents, for_gateways: true, ..published? });
    let name = published.name();
    out.insert(published);
    Some((name, (route.head.id.clone(), findings.references)))
}

/// What a route is on Services.
fn on_services(
    context: &Context<'_>,
    route: &inputs::Route,
    on: &OnServices<'_>,
    referrers: &mut Referrers,
    out: &mut Translated,
) -> Vec<(usize, ParentStatus)> {
    if on.attachments.is_empty() {
        return Vec::new();
    }
    let parents = on.holders.won(route, on.attachments);
    let (published, findings) = publishable(context, route, None);
    for parent in &parents {
        referrers.note(&findings.references.xbackends, &Ancestor::Service(parent.service.clone()));
    }
    let entries = Judged { route, findings: &findings }.on_services(on, out);
    if let Some(published) = published.filter(|_| !parents.is_empty()) {
        out.insert(Resource::Route(Route { parents, ..published }));
    }
    entries
}

/// What a route is at Gateways: published once for each, since its backends are judged otherwise than on Services, and
/// a Gateway is to hear nothing of another.
fn at_gateways(
    context: &Context<'_>,
    route: &inputs::Route,
    parents: &[GatewayParent<'_>],
    referrers: &mut Referrers,
    out: &mut Translated,
) -> Vec<(usize, ParentStatus)> {
    if parents.is_empty() {
        return Vec::new();
    }
    let at = AtGateways { grants: Grants(context.inputs), policies: context.policies };
    let (published, findings) = publishable(context, route, Some(at));
    let mut listeners: BTreeMap<&ObjectName, BTreeSet<&gateway::Attachment>> = BTreeMap::new();
    for attachment in parents.iter().filter_map(|parent| parent.attached.as_ref().ok()).flatten() {
        listeners.entry(&attachment.gateway).or_default().insert(attachment);
    }
    for (gateway, listeners) in listeners {
        referrers.note(&findings.references.xbackends, &Ancestor::Gateway(gateway.clone()));
        if let Some(published) = &published {
            let listeners = listeners.into_iter().cloned().collect();
            out.insert(Resource::Route(Route { listeners, ..published.clone() }));
        }
    }
    Judged { route, findings: &findings }.at_gateways(parents)
}

/// The route with its rules and with no parents yet, and what is to be said about it.
fn publishable(
    context: &Context<'_>,
    route: &inputs::Route,
    at: Option<AtGateways<'_>>,
) -> (Option<Route>, Findings) {
    let (rules, mut findings) = convert_rules(context, route, at);
    let published = rules.map(|rules| {
        let mut published = Route {
            id: RouteId { kind: route.name.kind, name: route.name.name.clone() },
            generation: route.head.generation,
            created: route.head.created,
            parents: Vec::new(),
            listeners: Vec::new(),
            for_gateways: false,
            rules,
        };
        refuse_what_proxies_would(&mut published, &mut findings);
        published
    });
    (published, findings)
}

/// Proxies refuse rules that they cannot compile. The same check is made here, so that the status says what they do.
fn refuse_what_proxies_would(route: &mut Route, findings: &mut Findings) {
    let problems = weft_routing::validate::validate(route);
    let Rules::Http(rules) = &mut route.rules else { return };
    for problem in problems {
        let Some(rule) = rules.get_mut(problem.rule).filter(|rule| rule.refusal.is_none()) else { continue };
        let fault = Fault::unsupported(format!("{}: {}", problem.field, problem.message));
        rule.refusal = Some(fault.refusal());
        findings.refusing.push(RefusingRule {
            index: problem.rule,
            name: rule.name.as_deref().map(str::to_owned),
            fault,
        });
    }
    findings.refusing.sort_by_key(|rule| rule.index);
}

/// The rules, and what is to be said about them.
fn convert_rules(
    context: &Context<'_>,
    route: &inputs::Route,
    gateways: Option<AtGateways<'_>>,
) -> (Option<Rules>, Findings) {
    let mut findings = Findings::default();
    let (kind, ObjectName { namespace, name }) = (route.name.kind, &route.name.name);
    let from = Kind::Route(kind);
    let Context { services, xbackends, .. } = *context;
    let backends = Backends { services, xbackends, kind, from, namespace, route: name, gateways };
    let rules = match &route.spec {
        Ok(RouteSpec::Grpc(spec)) => Some(grpc::convert(spec, &backends, &mut findings)),
        Ok(RouteSpec::Http(spec)) => Some(http::convert(spec, &backends, &mut findings)),
        Ok(RouteSpec::Tls(spec)) => Some(tls::convert(spec, &backends, &mut findings)),
        Ok(RouteSpec::Tcp(spec)) => Some(tcp::convert(spec, &backends, &mut findings)),
        Ok(RouteSpec::Udp(spec)) => Some(tcp::convert_udp(spec, &backends, &mut findings)),
        Err(error) => {
            let fault = Fault::unsupported(format!(
                "this {} does not decode: {error}. Correct it, or use a Weft that knows what it says; until then all \
                 that it could match is refused",
                route.name.kind
            ));
            findings.rule(None, Some(fault.clone())).and_then(|refusal| refuse_all(route, refusal))
        }
    };
    (rules, findings)
}

/// One rule that refuses everything.
fn refuse_all(route: &inputs::Route, refusal: Refusal) -> Option<Rules> {
    let refusal = Some(refusal);
    let http = |path| {
        let matches = vec![Match { path, ..Match::default() }];
        Rules::Http(vec![HttpRule { matches, refusal: refusal.clone(), ..HttpRule::default() }])
    };
    Some(match route.name.kind {
        RouteKind::Grpc => http(PathMatch::Grpc { service: None, method: None, regex: false }),
        RouteKind::Http => http(PathMatch::default()),
        RouteKind::Tls => {
            let hostnames =
                route.hostnames.iter().map(|name| Text::from(name.to_ascii_lowercase())).collect();
            Rules::Tls(vec![TlsRule { name: None, hostnames, backends: Vec::new(), refusal }])
        }
        RouteKind::Tcp => Rules::Tcp(vec![TcpRule { name: None, backends: Vec::new(), refusal }]),
        RouteKind::Udp => Rules::Udp(vec![TcpRule { name: None, backends: Vec::new(), refusal }]),
    })
}
