//! TLSRoutes, TCPRoutes and UDPRoutes: rules that choose a backend per connection or flow.

use std::cmp::Reverse;
use std::sync::Arc;

use ahash::AHashMap;
use weft_model::Text;
use weft_model::route::{Backend, Refusal, Route, Rules};

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
    routes.sort_by_key(|route| (route.created, route.id.name.to_string()));
    routes
}

/// TLSRoutes of one Service port: by server name, passed through.
#[derive(Debug, Default)]
pub struct TlsTable {
    exact: AHashMap<Box<str>, Arc<StreamRule>>,
    /// By the part after `*.`.
    wildcard: AHashMap<Box<str>, Arc<StreamRule>>,
    /// Of a rule without hostnames: every server name.
    any: Option<Arc<StreamRule>>,
}

impl TlsTable {
    /// The table of these TLSRoutes; routes of other kinds are left out.
    pub fn compile(routes: &[Arc<Route>]) -> Self {
        let mut table = Self::default();
        for route in by_age(routes) {
            let Rules::Tls(rules) = &route.rules else { continue };
            for (index, rule) in rules.iter().enumerate() {
                let compiled = StreamRule::new(route, index, &rule.name, &rule.backends, &rule.refusal);
                if rule.hostnames.is_empty() {
                    table.any.get_or_insert_with(|| Arc::clone(&compiled));
                }
                for hostname in &rule.hostnames {
                    table.insert(&hostname.to_ascii_lowercase(), &compiled);
                }
            }
        }
        table
    }

    /// The first to claim a name keeps it: routes come in order of precedence.
    fn insert(&mut self, hostname: &str, rule: &Arc<StreamRule>) {
        let (map, name) = match hostname.strip_prefix("*.") {
            Some(suffix) => (&mut self.wildcard, suffix),
            None => (&mut self.exact, hostname),
        };
        map.entry(name.into()).or_insert_with(|| Arc::clone(rule));
    }

    /// The rule for a server name: the exact hostname, else the longest wildcard (`*.` stands for one or more labels),
    /// else a rule without hostnames. `None`, also for a client that sends no server name: refuse (`no_sni_match`).
    pub fn select(&self, server_name: Option<&str>) -> Option<&Arc<StreamRule>> {
        let name = server_name.filter(|name| !name.is_empty())?.to_ascii_lowercase();
        if let Some(rule) = self.exact.get(name.as_str()) {
            return Some(rule);
        }
        let mut rest = name.as_str();
        while let Some((label, suffix)) = rest.split_once('.') {
            if let Some(rule) = self.wildcard.get(suffix).filter(|_| !label.is_empty()) {
                return Some(rule);
            }
            rest = suffix;
        }
        self.any.as_ref()
    }

    /// Every hostname with its rule, those that win first: for `weft explain`.
    pub fn hostnames(&self) -> Vec<(String, &Arc<StreamRule>)> {
        let exact = self.exact.iter().map(|(name, rule)| ((0, Reverse(name.len())), name.to_string(), rule));
        let wildcard =
            self.wildcard.iter().map(|(name, rule)| ((1, Reverse(name.len())), format!("*.{name}"), rule));
        let mut all: Vec<_> = exact.chain(wildcard).collect();
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
