//! Who may do and see what on a cluster with Weft: identities of calls, the chart's roles, `weft check` and `weft status`.

use serde_json::Value;

use super::FROM_MESH;
use super::weft::Weft;

pub(crate) fn calls_are_identified_and_nothing_is_amiss(weft: &Weft) {
    let answer = weft.until(FROM_MESH);
    assert!(answer.contains("called by URI=spiffe://cluster.local/ns/shop/sa/default"), "{answer}");
    let checked = weft.sh("weft check -o json");
    let report: Value = serde_json::from_str(&checked.stdout).unwrap();
    let bad = |check: &&Value| !matches!(check["result"].as_str(), Some("ok" | "info"));
    let findings: Vec<&Value> = report["checks"].as_array().unwrap().iter().filter(bad).collect();
    assert!(findings.is_empty() && checked.code == 0, "{findings:#?}");
    let status: Value = serde_json::from_str(&weft.ok("weft status -n shop -o json")).unwrap();
    for pod in status["pods"].as_array().unwrap() {
        assert_eq!((&pod["kernel"], &pod["proxy"]), (&"True".into(), &"serving".into()), "{status:#}");
    }
    assert_eq!(status["notAsked"], Value::Array(vec![]), "{status:#}");
    for node in status["nodes"].as_array().unwrap() {
        assert!(node["configVersion"].as_u64().unwrap() > 0, "{status:#}");
        assert!(!node["certificates"].as_array().unwrap().is_empty(), "{status:#}");
        assert!(node["acknowledgedVersion"].as_u64().unwrap() > 0, "{status:#}");
        assert!(node["acknowledged"].is_string(), "{status:#}");
    }
}

/// An agent's token changes the status of pods of its own node, and nothing else.
pub(crate) fn agents_are_bound_to_their_node(weft: &Weft) {
    let answer = |node: &str, path: &str, patch: &str| {
        weft.ok(&format!(
            "agent=$(kubectl -n weft-system get pods -l app.kubernetes.io/name=weft-agent \
               --field-selector spec.nodeName=node1 -o jsonpath='{{.items[0].metadata.name}}')
             token=$(kubectl -n weft-system create token weft-agent --bound-object-kind=Pod --bound-object-name=$agent)
             pod=$(kubectl -n weft-system get pods -l app.kubernetes.io/name=weft-proxy \
               --field-selector spec.nodeName={node} -o jsonpath='{{.items[0].metadata.name}}')
             curl -sk -X PATCH -H \"Authorization: Bearer $token\" \
               -H 'Content-Type: application/strategic-merge-patch+json' \
               \"https://10.10.0.1:6443/api/v1/{path}\" -d '{patch}'"
        ))
    };
    let status = r#"{"status": {"conditions": [{"type": "example.test/Touched", "status": "True"}]}}"#;
    let pod = "namespaces/weft-system/pods/$pod/status";
    assert!(answer("node1", pod, status).contains("\"kind\": \"Pod\""));
    let refused = "the agent of node1 may not change";
    assert!(answer("node2", pod, status).contains(refused));
    let labels = r#"{"metadata": {"labels": {"example.test/touched": "yes"}}}"#;
    assert!(answer("node1", "nodes/node2", labels).contains(refused));
    assert!(answer("node1", "nodes/node1", labels).contains("may change nothing of a node but"));
    let secrets = answer("node1", "namespaces/weft-system/secrets/weft-ca", labels);
    assert!(secrets.contains("cannot patch resource"), "{secrets}");
}

pub(crate) fn viewers_can_look_and_others_cannot(weft: &Weft) {
    let as_user = |name: &str, command: &str| {
        weft.sh(&format!(
            "file=$(mktemp); trap 'rm -f \"$file\"' EXIT
             kubectl create serviceaccount {name} --dry-run=client -o yaml | kubectl apply -f - >/dev/null
             token=$(kubectl create token {name})
             kubectl config view --raw --minify >\"$file\"
             kubectl --kubeconfig \"$file\" config set-credentials user --token=\"$token\" >/dev/null
             sed -i '/client-certificate-data/d; /client-key-data/d' \"$file\"
             {command} --kubeconfig \"$file\""
        ))
    };
    let looked = as_user("looker", "weft check");
    assert_eq!(looked.code, 0, "{}{}", looked.stdout, looked.stderr);
    let looked = as_user("looker", "weft status");
    assert!(!looked.stdout.contains("Could not be asked"), "{}", looked.stdout);
    let stranger = as_user("stranger", "weft check");
    assert_eq!(stranger.code, 2, "{}{}", stranger.stdout, stranger.stderr);
    assert!(stranger.stdout.contains("cannot list resource"), "{}", stranger.stdout);
    weft.ok("kubectl delete serviceaccount looker stranger");
}

/// The chart's roles have all that the programs ask for: neither they nor the API server speak of a refusal.
pub(crate) fn nothing_was_forbidden(weft: &Weft) {
    let logs = weft.ok("for part in controller agent proxy; do
           kubectl -n weft-system logs --prefix --tail=-1 -l app.kubernetes.io/name=weft-$part
         done");
    let refused: Vec<&str> = logs.lines().filter(|line| line.contains("orbidden")).collect();
    assert!(logs.lines().count() > 50 && refused.is_empty(), "{refused:#?}");
}
