//! Everything that an installation could leave behind: objects, marks on the objects of others, files and rules on nodes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::weft::Weft;

/// What there is, one line each.
#[derive(Debug)]
pub(crate) struct Traces(BTreeSet<String>);

/// Objects that come and go by themselves: pods are looked at for marks only.
const RESTLESS: &str = "^(pods|events|events.events.k8s.io|pods.metrics.k8s.io|leases.coordination.k8s.io)$";
/// Objects of others on which programs leave notes.
const MARKED: &str = "pods,namespaces,nodes,services,httproutes.gateway.networking.k8s.io";
/// Files where a node's runtime and agent have theirs, and what is Weft's in every network namespace. The folder /run/weft is
/// the kubelet's doing.
const ON_A_NODE: &str = r#"
find /etc/cni /opt/cni/bin /run/weft -type f -exec sha256sum {} + 2>/dev/null
find /run/weft /var/log -mindepth 1 -name '*weft*' -not -path '/var/log/pods/*' -not -path '/var/log/containers/*' 2>/dev/null
for netns in /run/netns/*; do
  inside() { nsenter --net="$netns" "$@" 2>/dev/null; }
  { inside nft list tables | grep weft
    inside ip rule | grep -Ev 'lookup (local|main|default)'
    inside ip -6 rule | grep -Ev 'lookup (local|main)'
    inside sysctl net.ipv4.tcp_fwmark_accept net.ipv4.fwmark_reflect net.ipv6.fwmark_reflect | grep -v ' = 0'
    inside sysctl net.netfilter.nf_conntrack_tcp_loose | grep -v ' = 1'
    inside ss -Hltn '( sport = :15001 or sport = :15006 or sport = :15008 )'
  } | sed "s|^|$(basename "$netns"): |"
done
"#;

impl Traces {
    /// As it is now.
    pub(crate) fn of(weft: &Weft) -> Self {
        let objects = weft.ok(&format!(
            "for kind in $(kubectl api-resources --verbs=list -o name | grep -Ev '{RESTLESS}'); do
               kubectl get \"$kind\" -A --ignore-not-found -o custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name --no-headers
             done | sed 's/  */ /g'"
        ));
        let mut lines: BTreeSet<String> = objects.lines().map(str::to_owned).collect();
        let all = weft.get(&[MARKED, "--all-namespaces"]);
        for object in all["items"].as_array().unwrap() {
            let metadata = &object["metadata"];
            let name = format!("{} {}/{}", object["kind"], metadata["namespace"], metadata["name"]);
            marks(object, "", &mut |path| {
                lines.insert(format!("{name} has {path}"));
            });
        }
        for node in ["node1", "node2"] {
            let output = weft.cluster.exec_on(node, &["sh", "-c", ON_A_NODE]).unwrap();
            lines.extend(output.stdout.lines().map(|line| format!("{node}: {line}")));
        }
        Self(lines)
    }

    /// Nothing more and nothing less than before.
    #[track_caller]
    pub(crate) fn assert_same(&self, before: &Self) {
        let more: Vec<&String> = self.0.difference(&before.0).collect();
        let less: Vec<&String> = before.0.difference(&self.0).collect();
        assert!(more.is_empty() && less.is_empty(), "left behind: {more:#?}\ngone: {less:#?}");
    }
}

/// Where Weft's name occurs in an object.
fn marks(value: &Value, path: &str, found: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) if text.contains("weft-mesh.dev") => found(&format!("{path}={text}")),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| marks(item, &format!("{path}/{i}"), found));
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                let path = format!("{path}/{key}");
                if key.contains("weft-mesh.dev") {
                    found(&path);
                }
                marks(field, &path, found);
            }
        }
        _ => {}
    }
}
