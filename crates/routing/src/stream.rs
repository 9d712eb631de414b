//! TLSRoutes, TCPRoutes and UDPRoutes: rules that choose a backend per connection or flow.

use std::cmp::Reverse;
use std::sync::Arc;

use weft_model::Text;
use weft_model::route::{Backend, Refusal, Route, Rules, TlsRule};

use crate::host::HostMap;
use crate::rule::schedule_of;
use crate::schedule::WeightSchedule;

/// A rule of a TLSRoute, TCPRoute or UDPRoute as part of one Service port's table.
#[derive(Debug)]
pub struct StreamRule {
    /// The route it is from.
    pub route: Arc<Route>,
    /// Its place among the route's rules, from 0.
    pub index: usize,
    /// The rule's name.
    pub name: Option<Text>,
    /// Set when the rule cannot be carried out: connections are refused with `invalid_route`.
    pub refusal: Option<Refusal>,
    backends: Vec<Backend>,
    schedule: Option<WeightSchedule>,
}

impl StreamRule {
    fn new(
        route: &Arc<Route>,
        index: usize,
        name: &Option<Text>,
        backends: &[Backend],
        refusal: &Option<Refusal>,
    ) -> Arc<Self> {
        Arc::new(Self {
            route: Arc::clone(route),
            index,
            name: name.clone(),
            refusal: refusal.clone(),
            backends: backends.to_vec(),
            schedule: schedule_of(backends),
        })
    }

    /// All backends of the rule.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// The backend whose turn it is, by weight. `None`: no backend, or all weights are 0; the connection is refused.
    pub fn next_backend(&self) -> Option<&Backend> {
        self.backends.get(self.schedule.as_ref()?.next())
    }

    /// How telemetry and `weft-meta` name the rule: `TCPRoute/ns/name/<rule name or index>`.
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("{}/{name}", self.route.id),
            None => format!("{}/{}", self.route.id, self.index),
        }
    }
}

/// The order in which routes win ties: the oldest, then by namespace and name.
pub(crate) fn by_age(routes: &[Arc<Route>]) -> Vec<&Arc<Route>> {
    let mut routes: Vec<_> = routes.iter().collect();
    routes.sort_by_cached_key(|route| age(route));
    routes
}

fn age(route: &Route) -> (i64, String) {
    (route.created, route.id.name.to_string())
}

fn tls_rules(route: &Arc<Route>) -> Vec<(&TlsRule, Arc<StreamRule>)> {
    let Rules::Tls(rules) = &route.rules else { return Vec::new() };
    let compile = |(index, rule)| {
        let rule: &TlsRule = rule;
        let TlsRule { name, backends, refusal, .. } = rule;
        (rule, StreamRule::new(route, index, name, backends, refusal))
    };
    rules.iter().enumerate().map(compile).collect()
}

/// TLSRoutes of one Service port or listener: by server name.
#[derive(Debug, Default)]
pub struct TlsTable(HostMap<Arc<StreamRule>>);

impl TlsTable {
    /// The table of these TLSRoutes, by the hostnames of their rules; routes of other kinds are left out.
    pub fn compile(routes: &[Arc<Route>]) -> Self {
        let mut table = Self::default();
        for route in by_age(routes) {
            for (rule, compiled) in tls_rules(route) {
                table.insert(rule.hostnames.iter().map(|name| &**name), &compiled);
            }
        }
        table
    }

    /// The table of these TLSRoutes, by the hostnames given with each.
    pub(crate) fn with_hostnames(routes: impl IntoIterator<Item = (Arc<Route>, Vec<String>)>) -> Self {
        let mut routes: Vec<_> = routes.into_iter().collect();
        routes.sort_by_cached_key(|(route, _)| age(route));
        let mut table = Self::default();
        for (route, hostnames) in &routes {
            for (_, compiled) in tls_rules(route) {
                table.insert(hostnames.iter().map(String::as_str), &compiled);
            }
        }
        table
    }

    /// The first to claim a name keeps it: routes come in order of precedence. No name: every one.
    fn insert<'a>(&mut self, hostnames: impl ExactSizeIterator<Item = &'a str>, rule: &Arc<StreamRule>) {
        if hostnames.len() == 0 {
            self.0.entry(None, || Arc::clone(rule));
        }
        for hostname in hostnames {
            self.0.entry(Some(hostname), || Arc::clone(rule));
        }
    }

    /// The rule for a server name: the exact hostname, else the longest wildcard (`*.` stands for one or more labels),
    /// else a rule without hostnames. `None`, also for a client that sends no server name: refuse (`no_sni_match`).
    pub fn select(&self, server_name: Option<&str>) -> Option<&Arc<StreamRule>> {
        let name = server_name.filter(|name| !name.is_empty())?.to_ascii_lowercase();
        self.0.covering(&name).next()
    }

    /// Every hostname with its rule, those that win first: for `weft explain`.
    pub fn hostnames(&self) -> Vec<(String, &Arc<StreamRule>)> {
        let text = |wildcard, name: &str| if wildcard { format!("*.{name}") } else { name.to_owned() };
        let named = self.0.named();
        let mut all: Vec<_> = named
            .map(|(wildcard, name, rule)| ((wildcard, Reverse(name.len())), text(wildcard, name), rule))
            .collect();
        all.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        all.into_iter().map(|(_, name, rule)| (name, rule)).collect()
    }
}

/// TCPRoutes of one TCP port, or UDPRoutes of one UDP port, of a Service. Only one rule can be in force: the oldest route's first.
#[derive(Debug)]
pub struct TcpTable {
    rule: Arc<StreamRule>,
}

impl TcpTable {
    /// The table of these TCPRoutes or UDPRoutes; `None` if none of them has a rule.
    pub fn compile(routes: &[Arc<Route>]) -> Option<Self> {
        by_age(routes).into_iter().find_map(|route| {
            let (Rules::Tcp(rules) | Rules::Udp(rules)) = &route.rules else { return None };
            let rule = rules.first()?;
            Some(Self { rule: StreamRule::new(route, 0, &rule.name, &rule.backends, &rule.refusal) })
        })
    }

    /// The rule for every connection or flow.
    pub fn rule(&self) -> &Arc<StreamRule> {
        &self.rule
    }
}
