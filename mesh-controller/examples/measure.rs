//! Measures what a change costs in a large mesh: `cargo run --profile fast --example measure`. Prints, proves nothing.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_controller::inputs::{Inputs, Object};
use weft_controller::publish::Publisher;
use weft_controller::translate::translate;
use weft_model::{MeshConfig, TrustDomain};

const SERVICES: usize = 5_000;
const PODS: usize = 20_000;
const TIMES: usize = 10;

fn main() {
    let mut inputs = Inputs::new(MeshConfig {
        trust_domain: TrustDomain("cluster.local".into()),
        cluster_domain: "cluster.local".into(),
        service_ranges: Vec::new(),
        pod_ranges: Vec::new(),
    });
    let objects: Vec<Value> = objects();
    let (decoded, took) = timed(|| {
        let decoded: Vec<Object> =
            objects.into_iter().map(|object| Object::decode(object).unwrap()).collect();
        for object in &decoded {
            inputs.insert(object);
        }
        decoded.len()
    });
    println!("decode {decoded} objects: {took:?}");

    let mut publisher = Publisher::new(0);
    let (mut translating, mut publishing) = (Vec::new(), Vec::new());
    for weight in 1..=TIMES {
        inputs.insert(&Object::decode(route(0, weight)).unwrap());
        let (translated, took) = timed(|| translate(&inputs));
        translating.push(took);
        let (_, took) = timed(|| {
            publisher.publish(translated.resources, &translated.nodes, &translated.gateways).unwrap()
        });
        publishing.push(took);
    }
    let first = publishing.remove(0);
    println!(
        "translate {SERVICES} Services with a route each and {PODS} pods: median {:?}",
        median(translating)
    );
    println!("publish: first {first:?}, one route changed: median {:?}", median(publishing));
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    (work(), began.elapsed())
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort();
    durations.get(durations.len() / 2).copied().unwrap_or_default()
}

fn route(index: usize, weight: usize) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"namespace": "shop", "name": format!("s{index}"), "generation": 1},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": format!("s{index}"), "port": 80}],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/api"}, "headers": [{"name": "x", "value": "y"}]}],
                    "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a", "value": "b"}]}}],
                    "backendRefs": [{"name": format!("s{index}"), "port": 80, "weight": weight}],
                },
                {"backendRefs": [{"name": format!("s{index}"), "port": 80}, {"name": "s1", "port": 80, "weight": 1}]},
            ],
        },
    })
}

fn objects() -> Vec<Value> {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "shop", "labels": {"weft-mesh.dev/mesh": "enabled"}},
    });
    let address = |index: usize| format!("10.{}.{}.{}", index >> 16 & 255, index >> 8 & 255, index & 255);
    let service = |index: usize| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": format!("s{index}")},
            "spec": {"clusterIP": address(1 << 20 | index), "ports": [{"port": 80}]},
        })
    };
    let pod = |index: usize| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "shop", "name": format!("p{index}"), "uid": format!("u{index}")},
            "spec": {"nodeName": format!("n{}", index % 100), "containers": []},
            "status": {"phase": "Running", "podIPs": [{"ip": address(index)}]},
        })
    };
    let slice = |index: usize| {
        let endpoints: Vec<Value> = (0..PODS / SERVICES)
            .map(|part| index + part * SERVICES)
            .map(|pod| json!({"addresses": [address(pod)], "targetRef": {"kind": "Pod", "uid": format!("u{pod}")}}))
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": "shop", "name": format!("s{index}-1"),
                "labels": {"kubernetes.io/service-name": format!("s{index}")},
            },
            "addressType": "IPv4", "ports": [{"port": 8080, "name": ""}], "endpoints": endpoints,
        })
    };
    let per_service = (0..SERVICES).flat_map(|index| [service(index), slice(index), route(index, 1)]);
    std::iter::once(namespace).chain(per_service).chain((0..PODS).map(pod)).collect()
}
