//! What is refused, with which words, and what is filled in.

use serde_json::{Value, json};

use super::{accepted, refused, yaml};
use crate::admit;

/// An HTTPRoute with these rules, indented by two.
fn route(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: cart, port: 80}}]\n  rules:\n  {rules}\n"
    )
}

#[test]
fn defaults_of_a_route_are_filled_in() {
    let object = accepted(&route("- backendRefs: [{name: v1, port: 80}]"));
    let rule = object.pointer("/spec/rules/0").unwrap();
    assert_eq!(rule["matches"], json!([{"path": {"type": "PathPrefix", "value": "/"}}]));
    let backend = &rule["backendRefs"][0];
    assert_eq!(
        (&backend["weight"], &backend["kind"], &backend["group"]),
        (&json!(1), &json!("Service"), &json!(""))
    );
}

#[test]
fn a_network_policy_judges_the_directions_that_it_has_rules_for() {
    let policy = |rules: &str| {
        let spec = format!("{{podSelector: {{}}, {rules}}}");
        accepted(&format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: a}}, spec: {spec}}}"
        ))
    };
    let both = policy("egress: [{ports: [{port: 80}]}]");
    assert_eq!(both["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(both.pointer("/spec/egress/0/ports/0/protocol"), Some(&json!("TCP")));
    assert_eq!(policy("ingress: []")["spec"]["policyTypes"], json!(["Ingress"]));
}

#[test]
fn refusals_of_a_route_name_the_field_and_the_reason() {
    for (rules, expected) in [
        ("- nonsense: 1", "spec.rules[0].nonsense: unknown field"),
        ("- matches: [{path: {value: /a, typ: Exact}}]", "spec.rules[0].matches[0].path.typ: unknown field"),
        ("- backendRefs: [{port: 80}]", "spec.rules[0].backendRefs[0].name: required field is missing"),
        (
            "- backendRefs: [{name: a, port: 80, weight: 1000001}]",
            "spec.rules[0].backendRefs[0].weight: must be at most 1000000, is 1000001",
        ),
        (
            "- backendRefs: [{name: a, port: 0}]",
            "spec.rules[0].backendRefs[0].port: must be at least 1, is 0",
        ),
        (
            "- backendRefs: [{name: a, port: \"80\"}]",
            "spec.rules[0].backendRefs[0].port: must be of type integer, not string",
        ),
        (
            "- matches: [{path: {type: Suffix, value: /a}}]",
            "spec.rules[0].matches[0].path.type: must be one of \"Exact\", \"PathPrefix\", \"RegularExpression\", is \"Suffix\"",
        ),
        (
            "- matches: [{headers: [{name: \"bad name\", value: x}]}]",
            "spec.rules[0].matches[0].headers[0].name: \"bad name\" must match ^[A-Za-z0-9!#$%&'*+\\-.^_\\x60|~]+$",
        ),
        (
            "- matches: [{headers: [{name: a, value: x}, {name: a, value: \"y\"}]}]",
            "spec.rules[0].matches[0].headers[1]: another item has the same name",
        ),
        // CEL rules, with the CRD's own words.
        (
            "- matches: [{path: {type: Exact, value: a}}]",
            "spec.rules[0].matches[0].path: value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']",
        ),
        (
            "- timeouts: {request: 1s, backendRequest: 2s}",
            "spec.rules[0].timeouts: backendRequest timeout cannot be longer than request timeout",
        ),
        (
            "- filters: [{type: RequestRedirect}]",
            "spec.rules[0].filters[0]: filter.requestRedirect must be specified for RequestRedirect filter.type",
        ),
        (
            "- filters: [{type: CORS, cors: {allowOrigins: [\"*\", \"https://a\"]}}]",
            "spec.rules[0].filters[0].cors.allowOrigins: AllowOrigins cannot contain '*' alongside other origins",
        ),
        ("- backendRefs: [{name: a}]", "spec.rules[0].backendRefs[0]: Must have port for Service reference"),
        (
            "- filters: [{type: RequestRedirect, requestRedirect: {statusCode: 300}}]",
            "spec.rules[0].filters[0].requestRedirect.statusCode: must be one of 301, 302, 303, 307, 308, is 300",
        ),
    ] {
        assert_eq!(refused(&route(rules)), [expected], "{rules}");
    }
}

#[test]
fn rules_of_other_crds_hold() {
    let tls = |hostname: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {{name: t, namespace: a}}, spec: \
             {{hostnames: [\"{hostname}\"], rules: [{{backendRefs: [{{name: b, port: 443}}]}}]}}}}"
        )
    };
    accepted(&tls("*.example.com"));
    assert!(refused(&tls("192.168.0.1")).concat().contains("IP"), "{:?}", refused(&tls("192.168.0.1")));
    assert!(!refused(&tls("a.*.com")).is_empty());
    let grpc = |method: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {{name: g, namespace: a}}, spec: \
             {{rules: [{{matches: [{{method: {{{method}}}}}]}}]}}}}"
        )
    };
    accepted(&grpc("service: Foo.bar_2, method: Get"));
    assert!(!refused(&grpc("service: foo/bar")).is_empty());
    assert!(!refused(&grpc("type: Exact")).is_empty());
    let address = |routability: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: g, namespace: a}}, spec: \
             {{gatewayClassName: weft, addresses: [{{value: 10.0.0.1, routability: {routability}}}], \
             listeners: [{{name: http, port: 80, protocol: HTTP}}]}}}}"
        )
    };
    for good in ["Cluster", "example.com/internal"] {
        accepted(&address(good));
    }
    for bad in ["Example.com/x", "k8s.io/x", "gateway.k8s.io/x"] {
        assert!(!refused(&address(bad)).is_empty(), "{bad}");
    }
    let selecting = |label: &str| {
        format!(
            "{{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XBackend, metadata: {{name: b, namespace: a}}, \
             spec: {{type: EndpointSelector, endpointSelector: {{matchLabels: {{{label}: x}}}}, port: {{number: 80}}}}}}"
        )
    };
    for good in ["app", "app.kubernetes.io/name"] {
        accepted(&selecting(good));
    }
    for bad in ["-app", "Example.com/app"] {
        assert!(!refused(&selecting(bad)).is_empty(), "{bad}");
    }
}

#[test]
fn transition_rules_are_judged_on_updates() {
    let class = |controller: &str| {
        yaml(&format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {{name: weft}}, spec: \
             {{controllerName: {controller}}}}}"
        ))
    };
    let (one, other) = (class("weft-mesh.dev/one"), class("weft-mesh.dev/other"));
    assert!(admit(one.clone(), None).is_ok());
    assert!(admit(one.clone(), Some(&one)).is_ok());
    let errors = admit(one, Some(&other)).unwrap_err();
    assert_eq!(errors[0].to_string(), "spec.controllerName: field is immutable");
}

#[test]
fn older_served_versions_are_converted_and_others_refused() {
    let grant = "{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: a}, \
                 spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: b}], to: [{group: \"\", kind: Service}]}}";
    assert_eq!(accepted(grant)["apiVersion"], "gateway.networking.k8s.io/v1");
    let tcp = "{apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TCPRoute, metadata: {name: t, namespace: a}, \
               spec: {rules: [{backendRefs: [{name: b, port: 80}]}]}}";
    assert_eq!(accepted(tcp)["apiVersion"], "gateway.networking.k8s.io/v1");
    assert_eq!(
        refused(&tcp.replace("v1alpha2", "v9")),
        [
            "apiVersion: TCPRoute has no version v9: use gateway.networking.k8s.io/v1 or gateway.networking.k8s.io/v1alpha2"
        ]
    );
}

#[test]
fn defaults_of_built_in_kinds_are_filled_in() {
    let service = accepted(
        "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: a}, spec: {ports: [{port: 80}]}}",
    );
    assert_eq!(service["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    assert_eq!(service["spec"]["type"], "ClusterIP");
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a}, spec: {containers: [{name: c, image: i, \
               resources: {limits: {cpu: 1}}, readinessProbe: {httpGet: {port: 80}}, ports: [{containerPort: 80}]}]}}";
    let pod = accepted(pod);
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["restartPolicy"], "Always");
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["ports"][0]["protocol"], "TCP");
    assert_eq!(container["readinessProbe"]["httpGet"], json!({"port": 80, "path": "/", "scheme": "HTTP"}));
    let deployment = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: a}, spec: {selector: {matchLabels: \
                      {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}";
    assert_eq!(accepted(deployment)["spec"]["replicas"], 1);
    let namespace = accepted("{apiVersion: v1, kind: Namespace, metadata: {name: a}}");
    assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "a");
}

#[test]
fn refusals_of_built_in_kinds_name_the_field_and_the_reason() {
    let service = |spec: &str| {
        format!("{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: a}}, spec: {{{spec}}}}}")
    };
    for (text, expected) in [
        (service("prots: [], ports: [{port: 80}]"), vec!["spec.prots: unknown field"]),
        (service("prots: [{port: 80}]"), vec!["spec.prots: unknown field"]),
        (service("ports: [{port: 80, tagretPort: 8080}]"), vec!["spec.ports[0].tagretPort: unknown field"]),
        (
            service("ports: [{port: 70000}]"),
            vec![
                "spec.ports[0].port: must be between 1 and 65535, is 70000",
                "spec.ports[0].targetPort: must be between 1 and 65535, is 70000",
            ],
        ),
        (
            service("ports: [{port: 80}, {port: 81, name: b}]"),
            vec!["spec.ports[0].name: required when there are several ports"],
        ),
        (
            service("type: Nodeport, ports: [{port: 80}]"),
            vec!["spec.type: must be ClusterIP, NodePort, LoadBalancer or ExternalName, is Nodeport"],
        ),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: A_b}}".to_owned(),
            vec![
                "metadata.name: \"A_b\" is not allowed: lower-case letters, digits and '-', ends alphanumeric",
            ],
        ),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: a, namespace: b}}".to_owned(),
            vec!["metadata.namespace: Namespace lives in no namespace: remove it"],
        ),
        (
            "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}".to_owned(),
            vec!["metadata.namespace: required field is missing"],
        ),
    ] {
        let found: Vec<String> = match admit(yaml(&text), None) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn a_value_of_the_wrong_type_is_found() {
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a}, spec: {containers: [{name: c, image: i, \
                ports: [{containerPort: http}]}]}}";
    let messages = refused(text);
    assert!(
        messages[0].starts_with("spec.containers[0].ports[0].containerPort: invalid type: string \"http\""),
        "{messages:?}"
    );
}

#[test]
fn unknown_kinds_say_which_are_known() {
    let messages = refused("{apiVersion: v1, kind: Teapot, metadata: {name: t}}");
    assert!(
        messages[0].starts_with("unknown kind Teapot of v1: Weft works with Namespace, Service,"),
        "{messages:?}"
    );
}

#[test]
fn admitting_twice_changes_nothing() {
    let once = accepted(&route("- backendRefs: [{name: v1, port: 80}]"));
    let twice: Value = admit(once.clone(), Some(&once)).unwrap();
    assert_eq!(once, twice);
}
