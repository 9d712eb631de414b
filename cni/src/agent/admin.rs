//! What the agent's admin server shows: `/status` for people and `weft status`, `/metrics`, `/readyz`, `/healthz`.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde_json::{Value, json};
use weft_runtime::admin::{Admin, Answer};
use weft_runtime::logging::Level;
use weft_runtime::metrics::Metrics;

use super::health::Health;
use super::install::Installed;
use super::members::Members;
use super::status::{PodState, PodStatus, Status};

/// Everything that is answered. Ready means: the pods are known and the plugin is in place. A proxy comes and goes by
/// itself; whether one is there is in `/status`.
pub(super) fn admin(members: &Arc<Members>, health: &Health, level: Level) -> Admin {
    let mut admin = Admin::new();
    let mut metrics = Metrics::new("weft_agent");
    metrics.register_collector(Board(members.clone()));
    admin.serve_metrics(Arc::new(metrics));
    admin.serve_logging(level);
    let (pods, installed) = (health.pods.clone(), health.installed.clone());
    admin.ready_when("the pods of this node", move || pods.borrow().is_some());
    admin
        .ready_when("the CNI plugin (see /status)", move || matches!(*installed.borrow(), Installed::Yes(_)));
    let (members, health) = (members.clone(), health.clone());
    admin.handle("/status", move |_| Answer::json(&shown(&members, &health)));
    admin
}

fn shown(members: &Members, health: &Health) -> Value {
    let away = members.unserved_for(Instant::now()).is_some();
    let plugin = match &*health.installed.borrow() {
        Installed::Unknown | Installed::Removed => json!({"installed": false}),
        Installed::No(problem) => json!({"installed": false, "problem": problem}),
        Installed::Yes(file) => json!({"installed": true, "file": file}),
    };
    members.board.read(|status| {
        let pods: Vec<Value> = status.pods.iter().map(|(uid, pod)| shown_pod(uid, pod, away)).collect();
        json!({
            "node": status.node,
            "version": env!("CARGO_PKG_VERSION"),
            "missing": health.missing(),
            "plugin": plugin,
            "proxyConnected": status.proxy_connected,
            "repairs": status.repairs,
            "resetConnections": status.reset_connections,
            "oldConnectionsEnded": status.old_connections_ended,
            "strayNamespaces": status.stray_namespaces,
            "foundUnmeshed": status.found_unmeshed,
            "pods": pods,
        })
    })
}

/// `kernel`: the rules are there and were as installed when last compared. `proxy`: the connected proxy has confirmed
/// the pod.
fn shown_pod(uid: &str, pod: &PodStatus, away: bool) -> Value {
    json!({
        "namespace": *pod.pod.namespace,
        "name": *pod.pod.name,
        "uid": uid,
        "state": pod.state,
        "reason": pod.reason,
        "error": pod.error,
        "oldConnections": pod.old_connections,
        "oldConnectionsEnd": pod.old_connections_end,
        "kernel": pod.captured && pod.verified,
        "proxy": pod.state == PodState::Enrolled && pod.error.is_none() && !away,
    })
}

/// The status as metrics, made when they are asked for.
struct Board(Arc<Members>);

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Board")
    }
}

impl Collector for Board {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.0.board.read(Status::clone);
        for (name, help, counter) in [
            (
                "found_unmeshed_pods",
                "Pods that ran outside the mesh when the agent started, although they are to be in it",
                status.found_unmeshed,
            ),
            (
                "old_connections_ended",
                "Connections older than their pod's enrolment that were reset",
                status.old_connections_ended,
            ),
            ("repairs", "How often a pod's rules, routes, settings or sockets were put back", status.repairs),
            (
                "reset_connections",
                "Connections that were reset because no proxy came in time",
                status.reset_connections,
            ),
        ] {
            let metric = ConstCounter::new(counter);
            let metric_encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(metric_encoder)?;
        }
        let stray = i64::try_from(status.stray_namespaces).unwrap_or(i64::MAX);
        for (name, help, value) in [
            ("proxy_connected", "Whether a proxy is connected", i64::from(status.proxy_connected)),
            ("stray_namespaces", "Network namespaces without a pod that agent or proxy hold open", stray),
        ] {
            let gauge = ConstGauge::new(value);
            let metric_encoder = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric_encoder)?;
        }
        let help = "Pods by state and reason";
        let kind = prometheus_client::metrics::MetricType::Gauge;
        let mut family = encoder.encode_descriptor("pods", help, None, kind)?;
        for ((state, reason), number) in by_reason(&status) {
            let labels = [("state", state), ("reason", reason)];
            ConstGauge::new(number).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn by_reason(status: &Status) -> std::collections::BTreeMap<(&'static str, &'static str), i64> {
    let mut counts = std::collections::BTreeMap::new();
    for pod in status.pods.values() {
        *counts.entry((pod.state.name(), pod.reason)).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tokio::sync::watch;
    use weft_model::ObjectName;

    use super::*;
    use crate::agent::config::Config;
    use crate::agent::members::MemberError;

    #[test]
    fn status_and_metrics_say_what_kernel_and_proxy_have() {
        let config = Config::parse_from(["weft-agent", "--node=one", "--folder=none"]);
        let (_tables, pods) = watch::channel(None);
        let members = Arc::new(Members::new(config, pods.clone(), watch::channel(Arc::default()).1));
        let (_installed, installed) = watch::channel(Installed::No("no list".into()));
        let health = Health { pods, installed, link: members.link.subscribe() };
        let pod = |error: Option<&MemberError>| {
            let state = if error.is_some() { PodState::NotEnrolled } else { PodState::Enrolled };
            let captured = !matches!(error, Some(MemberError::NoNamespace));
            PodStatus { captured, ..PodStatus::new(ObjectName::new("shop", "a"), state, error) }
        };
        members.board.update(|status| {
            status.repairs = 3;
            status.pods.insert("u1".into(), pod(None));
            status.pods.insert("u2".into(), pod(Some(&MemberError::NoProxy)));
            status.pods.insert("u3".into(), pod(Some(&MemberError::NoNamespace)));
        });
        let text = shown(&members, &health);
        assert_eq!(text["missing"], "the pods of this node are not known yet");
        assert_eq!(text["plugin"]["problem"], "no list");
        let views: Vec<_> = text["pods"].as_array().unwrap().iter().collect();
        let view = |place: usize| (views[place]["kernel"].as_bool(), views[place]["proxy"].as_bool());
        assert_eq!(view(0), (Some(true), Some(false)), "no proxy is connected");
        assert_eq!(view(1), (Some(true), Some(false)));
        assert_eq!(view(2), (Some(false), Some(false)));
        let mut metrics = Metrics::new("weft_agent");
        metrics.register_collector(Board(members));
        let text = metrics.encode().unwrap();
        for line in [
            "weft_agent_repairs_total 3",
            "weft_agent_proxy_connected 0",
            "weft_agent_pods{state=\"enrolled\",reason=\"Enrolled\"} 1",
            "weft_agent_pods{state=\"notEnrolled\",reason=\"NoNamespace\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
