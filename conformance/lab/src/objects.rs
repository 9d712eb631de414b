//! Objects for labs: nginx that says who called from where, pods to call from, Services.

/// A Namespace with these labels, such as `weft-mesh.dev/mesh: enabled`.
pub fn namespace(name: &str, labels: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name}, labels: {{ {labels} }} }}\n---\n")
}

/// What many tests begin with: in the enrolled namespace `app`, nginx `web1` on one node and `web2` on the other, and
/// `caller` on the first.
pub fn two_webs() -> String {
    [
        namespace("app", "weft-mesh.dev/mesh: enabled"),
        nginx("app", "web1", "node1"),
        nginx("app", "web2", "node2"),
        shell("app", "caller", "node1"),
    ]
    .concat()
}

/// A caller outside the mesh: `plain/stranger`, on the first node.
pub fn stranger() -> String {
    namespace("plain", "") + &shell("plain", "stranger", "node1")
}

/// A pod in which programs of the test run; its service account has its name.
pub fn shell(namespace: &str, name: &str, node: &str) -> String {
    pod(namespace, name, node, "[sleep, infinity]")
}

/// A pod with one program; its service account has its name.
pub fn pod(namespace: &str, name: &str, node: &str, command: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: {namespace}, labels: {{ app: {name} }} }}
spec:
  nodeName: {node}
  serviceAccountName: {name}
  terminationGracePeriodSeconds: 1
  containers: [{{ name: main, image: local, command: {command} }}]
---
"
    )
}

/// An nginx and its Service of the same name, dual stack. `/` answers `POD address=… caller=…`;
/// `/connection` the number of the connection and where it comes from; `/slow` sends 3 MB at 100 kB/s; port 81 of the Service leads where nobody listens.
pub fn nginx(namespace: &str, name: &str, node: &str) -> String {
    let config = "    user root; daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log stderr;
    events {}
    http {
      access_log off;
      server {
        listen 80; listen [::]:80;
        location / { return 200 \"$hostname address=$remote_addr caller=$http_x_forwarded_client_cert\\n\"; }
        location = /connection { return 200 \"$connection $remote_addr\"; }
        location = /slow { root /pages; limit_rate 100k; }
        location = /large { alias /pages/slow; }
      }
    }";
    let page = "x".repeat(100);
    let pages = format!("for i in $(seq 30000); do echo {page}; done > /pages/slow");
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{ name: {name}, namespace: {namespace} }}
data:
  nginx.conf: |
{config}
---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: {namespace}, labels: {{ app: {name} }} }}
spec:
  nodeName: {node}
  serviceAccountName: {name}
  terminationGracePeriodSeconds: 1
  containers:
  - name: nginx
    image: local
    command: [sh, -c, '{pages}; exec nginx -c /etc/web/nginx.conf']
    readinessProbe: {{ httpGet: {{ port: 80 }}, periodSeconds: 1 }}
    volumeMounts:
    - {{ name: config, mountPath: /etc/web }}
    - {{ name: tmp, mountPath: /tmp }}
    - {{ name: lib, mountPath: /var/lib/nginx }}
    - {{ name: pages, mountPath: /pages }}
  volumes:
  - {{ name: config, configMap: {{ name: {name} }} }}
  - {{ name: tmp, emptyDir: {{}} }}
  - {{ name: lib, emptyDir: {{}} }}
  - {{ name: pages, emptyDir: {{}} }}
---
"
    ) + &service(namespace, name, "{ name: http, port: 80 }, { name: closed, port: 81, appProtocol: http }")
}

/// A dual-stack Service of the pods with `app: NAME`.
pub fn service(namespace: &str, name: &str, ports: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: {namespace} }}
spec: {{ ipFamilyPolicy: PreferDualStack, selector: {{ app: {name} }}, ports: [{ports}] }}
---
"
    )
}
