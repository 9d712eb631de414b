//! What one outcome becomes in metrics and in the access log.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use weft_model::route::{RouteId, RouteKind};
use weft_model::workload::{MtlsMode, Workload, WorkloadProtocol};
use weft_model::{ObjectName, Reason};

use super::*;

fn workload(name: &str) -> Party {
    Party::Workload(Arc::new(Workload {
        uid: format!("{name}-uid").into(),
        pod: ObjectName::new("shop", format!("{name}-x1")),
        workload: name.into(),
        node: "a".into(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        identity: format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap(),
        protocol: WorkloadProtocol::Tunnel,
        mtls: MtlsMode::Strict,
        plaintext_ports: Default::default(),
        proxy_source_ports: Default::default(),
        filtered_by: None,
        refuses_udp: false,
        transition: None,
    }))
}

fn outcome() -> Outcome {
    let mut labels = Labels::new(Reporter::Source, workload("web"), Protocol::Http1, Security::Mtls);
    labels.destination = workload("cart");
    labels.service = Some(Named::Known((ObjectName::new("shop", "cart"), 80)));
    let route = RouteId { kind: RouteKind::Http, name: ObjectName::new("shop", "split") };
    labels.route = Some(Named::Known(route));
    labels.rule = Some(RuleName::Index(0));
    labels.backend = Some((ObjectName::new("shop", "cart-v2"), 8080));
    labels.code = 200;
    let mut outcome = Outcome::new(labels);
    outcome.attempts = 1;
    outcome.request_bytes = 10;
    outcome.response_bytes = 1000;
    outcome.duration = Duration::from_millis(3);
    outcome.http = Some(HttpLine {
        method: http::Method::GET,
        uri: http::Uri::from_static("/items?id=1"),
        host: Some(http::HeaderValue::from_static("cart")),
        client: None,
    });
    outcome
}

fn encoded(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

#[test]
fn one_outcome_makes_every_series_with_the_same_labels() {
    let mut registry = Registry::with_prefix("weft");
    let telemetry = Telemetry::new(&mut registry, &AccessLogTarget::Off).unwrap();
    telemetry.record(&outcome());
    telemetry.record(&outcome());
    let traffic = "reporter=\"source\",source_namespace=\"shop\",source_workload=\"web\",\
        destination_namespace=\"shop\",destination_workload=\"cart\",destination_service=\"shop/cart\",\
        destination_port=\"80\",route=\"HTTPRoute/shop/split\",rule=\"0\",backend=\"shop/cart-v2:8080\",\
        protocol=\"http1\"";
    let labels = format!("{traffic},security=\"mtls\",code=\"200\",grpc_code=\"\",reason=\"ok\"");
    let text = encoded(&registry);
    for line in [
        format!("weft_requests_total{{{labels}}} 2"),
        format!("weft_request_bytes_total{{{traffic}}} 20"),
        format!("weft_response_bytes_total{{{traffic}}} 2000"),
        format!("weft_request_duration_seconds_count{{{traffic}}} 2"),
        format!("weft_request_duration_seconds_sum{{{traffic}}} 0.006"),
        format!("weft_request_duration_seconds_bucket{{le=\"0.0025\",{traffic}}} 0"),
        format!("weft_request_duration_seconds_bucket{{le=\"0.005\",{traffic}}} 2"),
        format!("weft_request_duration_seconds_bucket{{le=\"+Inf\",{traffic}}} 2"),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_byte_stream_counts_as_connection() {
    let mut registry = Registry::with_prefix("weft");
    let telemetry = Telemetry::new(&mut registry, &AccessLogTarget::Off).unwrap();
    let mut outcome = outcome();
    outcome.labels.protocol = Protocol::Tcp;
    telemetry.record(&outcome);
    let open = telemetry.open_connection(Listener::Outbound);
    assert!(encoded(&registry).contains("weft_connections_open{listener=\"outbound\"} 1"));
    drop(open);
    let text = encoded(&registry);
    assert!(text.contains("weft_connections_total{"));
    assert!(!text.contains("weft_requests_total{"));
    assert!(text.contains("weft_connections_open{listener=\"outbound\"} 0"));
}

#[test]
fn series_are_bounded_and_what_is_beyond_is_counted_under_other() {
    let mut registry = Registry::with_prefix("weft");
    let telemetry = Telemetry::new(&mut registry, &AccessLogTarget::Off).unwrap();
    let mut outcome = outcome();
    let beyond = 7;
    for number in 0..metrics::MAX_SERIES + beyond {
        outcome.labels.rule = Some(RuleName::Index(number));
        telemetry.record(&outcome);
    }
    let text = encoded(&registry);
    let series = text.lines().filter(|line| line.starts_with("weft_requests_total{")).count();
    assert_eq!(series, metrics::MAX_SERIES + 1);
    let other = text.lines().find(|line| line.starts_with("weft_requests_total{reporter=\"other\"")).unwrap();
    assert!(other.ends_with(&format!(" {beyond}")), "{other}");
    assert!(text.contains(&format!("weft_series_overflow_total {beyond}")));
}

/// What a log of these outcomes holds, once its thread has written them.
fn logged(outcomes: &[Outcome]) -> Vec<serde_json::Value> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let telemetry = Telemetry::new(&mut Registry::default(), &AccessLogTarget::File(path.clone())).unwrap();
    outcomes.iter().for_each(|outcome| telemetry.record(outcome));
    drop(telemetry);
    let whole = Cell::new(String::new());
    for _ in 0..1_000 {
        whole.set(std::fs::read_to_string(&path).unwrap());
        let text = whole.take();
        if text.lines().count() == outcomes.len() && text.ends_with('\n') {
            return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the log was not written");
}

#[test]
fn the_access_log_tells_the_same_outcome() {
    let mut refused = outcome();
    refused.labels.code = 503;
    refused.labels.reason = Reason::ConnectFailed;
    let own = RouteId { kind: RouteKind::Http, name: ObjectName::new("shop", "own") };
    refused.labels.service_route = Some((own, RuleName::Name("canary".into())));
    refused.message = Some("10.0.0.2:80: \"refused\"\n".into());
    let lines = logged(&[outcome(), refused]);
    let first = &lines[0];
    for (key, value) in [
        ("reporter", "source"),
        ("source_pod", "shop/web-x1"),
        ("source_workload", "web"),
        ("source_identity", "spiffe://cluster.local/ns/shop/sa/web"),
        ("destination_workload", "cart"),
        ("service", "shop/cart"),
        ("route", "HTTPRoute/shop/split"),
        ("rule", "0"),
        ("backend", "shop/cart-v2:8080"),
        ("security", "mtls"),
        ("protocol", "http1"),
        ("method", "GET"),
        ("authority", "cart"),
        ("path", "/items?id=1"),
        ("reason", "ok"),
    ] {
        assert_eq!(first[key], value, "{key} in {first}");
    }
    for (key, value) in [("port", 80), ("code", 200), ("attempts", 1), ("request_bytes", 10)] {
        assert_eq!(first[key], value, "{key} in {first}");
    }
    assert_eq!(first["duration_ms"], 3.0);
    assert!(first["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(lines[1]["message"], "10.0.0.2:80: \"refused\"\n");
    assert!(first["service_route"].is_null(), "{first}");
    assert_eq!(lines[1]["service_route"], "HTTPRoute/shop/own");
    assert_eq!(lines[1]["service_rule"], "canary");
}

#[test]
fn a_full_disk_costs_lines_and_is_counted() {
    let mut registry = Registry::with_prefix("weft");
    let target = AccessLogTarget::File("/dev/full".into());
    let telemetry = Telemetry::new(&mut registry, &target).unwrap();
    telemetry.record(&outcome());
    for _ in 0..1_000 {
        if encoded(&registry).contains("weft_access_log_dropped_total 1") {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the lost line was not counted");
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error_that_says_which() {
    let target = AccessLogTarget::File("/nonexistent/access.log".into());
    let error = Telemetry::new(&mut Registry::default(), &target).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/access.log"), "{error}");
}

#[test]
fn the_flag_names_its_targets() {
    for (text, target) in [
        ("off", AccessLogTarget::Off),
        ("-", AccessLogTarget::Stdout),
        ("/a", AccessLogTarget::File("/a".into())),
    ] {
        assert_eq!(text.parse(), Ok(target));
    }
}
