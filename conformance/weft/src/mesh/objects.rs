//! The Kubernetes objects that the cases are made of, as YAML text. Each ends with `---`.

/// The echo server, where an image has it; a lab puts its own in place of it.
pub const ECHO: &str = "/usr/local/bin/weft-echo";
/// What pods name as their image; a cluster puts a real one in place of it.
pub const IMAGE: &str = "image: local";
/// The `controllerName` of Weft's GatewayClass, which is called `weft`.
pub const GATEWAYS: &str = "weft-mesh.dev/gateway";
/// The label that enrols a namespace; for another mesh its own goes in place of it.
pub const LABEL: &str = "weft-mesh.dev/mesh: enabled";

/// An enrolled (or not) namespace.
pub fn namespace(name: &str, enrolled: bool) -> String {
    let label = if enrolled { LABEL } else { "" };
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{label}}}}}\n---\n")
}

/// A pod in each node's own network that sees its processes and may do all there. What runs in `node/NODE` runs on that node: a
/// lab, where these are pods like others, calls its nodes so itself.
pub fn nodes() -> String {
    let node = |name: &str| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: node}}
spec:
  nodeName: {name}
  hostNetwork: true
  hostPID: true
  terminationGracePeriodSeconds: 1
  containers: [{{name: c, {IMAGE}, command: [sleep, infinity], securityContext: {{privileged: true}}}}]
---
"
        )
    };
    namespace("node", false) + &node("node1") + &node("node2")
}

/// A pod to call from.
pub fn sleeper(namespace: &str, name: &str, node: &str) -> String {
    pod(namespace, name, node, name, None, &["sleep", "infinity"])
}

/// A pod that runs one program, with the label `app: APP`; ready when `port` accepts connections.
pub fn pod(
    namespace: &str,
    name: &str,
    node: &str,
    app: &str,
    port: Option<u16>,
    program: &[&str],
) -> String {
    let command = serde_json::json!(program);
    let probe = port.map(|p| format!(", readinessProbe: {{tcpSocket: {{port: {p}}}, periodSeconds: 1}}"));
    let probe = probe.unwrap_or_default();
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {app}, all: \"yes\"}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: c, {IMAGE}, command: {command}{probe}}}]
---
"
    )
}

/// A pod of the echo server on port 8080 that calls itself by the pod's name, with further arguments.
pub fn echo(namespace: &str, name: &str, node: &str, more: &[&str]) -> String {
    let mut program = vec![ECHO, "--name", name, "--port", "8080"];
    program.extend(more);
    pod(namespace, name, node, name, Some(8080), &program)
}

/// A port of a Service: name, number, target port and `appProtocol` (empty: none).
#[derive(Clone, Copy, Debug)]
pub struct Port(pub &'static str, pub u16, pub u16, pub &'static str);

/// A dual-stack Service for the pods with `app: APP` (empty: no selector).
pub fn service(namespace: &str, name: &str, app: &str, ports: &[Port]) -> String {
    let selector = if app.is_empty() { String::new() } else { format!("selector: {{app: {app}}}, ") };
    let port = |Port(name, port, target, protocol): &Port| {
        let protocol = if protocol.is_empty() { String::new() } else { format!(", appProtocol: {protocol}") };
        format!("{{name: {name}, port: {port}, targetPort: {target}{protocol}}}")
    };
    let ports = ports.iter().map(port).collect::<Vec<_>>().join(", ");
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{ipFamilyPolicy: PreferDualStack, {selector}ports: [{ports}]}}
---
"
    )
}

/// For a [`gateway`]: HTTP on port 80.
pub const HTTP_LISTENER: &str = "listeners: [{name: http, port: 80, protocol: HTTP}]";

/// For a [`gateway`]: the ConfigMap of this name has its parameters.
pub fn parameters(name: &str) -> String {
    format!("infrastructure: {{parametersRef: {{group: '', kind: ConfigMap, name: {name}}}}}")
}

/// A Gateway of Weft's class: namespace, name, and the rest of its spec in flow style (`listeners: […]`).
pub fn gateway(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{gatewayClassName: weft, {spec}}}
---
"
    )
}

/// A route: kind, namespace, name, its parents in flow style, and the rest of its spec (`rules: […]`).
pub fn route(kind: &str, namespace: &str, name: &str, parents: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: {parents}
  {rules}
---
"
    )
}

/// Port 80 to the echo server's 8080.
pub const HTTP_PORTS: &[Port] = &[Port("http", 80, 8080, "http")];

/// A Service of namespace `a` whose own endpoints are v1's, and an HTTPRoute of that name with these rules.
pub fn http_route(name: &str, rules: &str) -> String {
    let parents = format!("[{{group: \"\", kind: Service, name: {name}}}]");
    service("a", name, "v1", HTTP_PORTS)
        + &route("HTTPRoute", "a", name, &parents, &format!("rules: [{rules}]"))
}

/// A rule with these matches and one backend, for a list of rules.
pub fn rule(matches: &str, backend: &str) -> String {
    format!("{{matches: [{matches}], backendRefs: [{{name: {backend}, port: 80}}]}},")
}
