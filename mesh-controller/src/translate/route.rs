//! Routes of all kinds: where they are in force, what they do there, and what their status says.

use weft_model::route::{HttpRule, Match, PathMatch, Refusal, Route, RouteId, Rules, TcpRule, TlsRule};
use weft_model::{Resource, Text};

use super::backend::Backends;
use super::fault::{Fault, Findings, RefusingRule};
use super::parent::{self, Attachment, Holders};
use super::service::Services;
use super::status::{RouteStatus, Status};
use super::verdict::{self, Judged};
use super::{Translated, grpc, http, tcp, tls};
use crate::inputs::{self, Inputs, RouteKind, RouteSpec};

/// Converts every route that has a Service parent.
pub(crate) fn convert(inputs: &Inputs, services: &Services, out: &mut Translated) {
    let mut holders = Holders::default();
    let mut attached: Vec<(&inputs::Route, Vec<Attachment<'_>>)> = Vec::new();
    for route in inputs.routes.values() {
        let attachments = parent::resolve(route, services);
        if !attachments.is_empty() {
            holders.compete(route, &attachments);
            attached.push((route, attachments));
        }
    }
    for (route, attachments) in attached {
        let (rules, mut findings) = convert_rules(route, services);
        let published = rules.map(|rules| {
            let id = RouteId { kind: route.name.kind, name: route.name.name.clone() };
            let parents = holders.won(route, &attachments);
            let mut published = Route {
                id,
                generation: route.head.generation,
                created: route.head.created,
                parents,
                listeners: Vec::new(),
                rules,
            };
            refuse_what_proxies_would(&mut published, &mut findings);
            published
        });
        let judged = Judged { route, attachments: &attachments, holders: &holders, findings: &findings };
        let parents = verdict::judge(&judged, out);
        out.statuses.insert(route.head.id.clone(), Status::Route(RouteStatus { parents }));
        if let Some(published) = published.filter(|published| !published.parents.is_empty()) {
            out.insert(Resource::Route(published));
        }
    }
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
fn convert_rules(route: &inputs::Route, services: &Services) -> (Option<Rules>, Findings) {
    let mut findings = Findings::default();
    let backends = Backends { services, kind: route.name.kind, namespace: &route.name.name.namespace };
    let rules = match &route.spec {
        Ok(RouteSpec::Grpc(spec)) => Some(grpc::convert(spec, &backends, &mut findings)),
        Ok(RouteSpec::Http(spec)) => Some(http::convert(spec, &backends, &mut findings)),
        Ok(RouteSpec::Tls(spec)) => Some(tls::convert(spec, &backends, &mut findings)),
        Ok(RouteSpec::Tcp(spec)) => Some(tcp::convert(spec, &backends, &mut findings)),
        Ok(RouteSpec::Udp(spec)) => {
            let fault = Fault::unsupported("UDPRoute on a Service is not carried yet");
            Some(tcp::convert_udp(spec, &backends, Some(&fault), &mut findings))
        }
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
