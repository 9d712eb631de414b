//! The Helm chart, by the real helm but without a cluster: it lints, renders as committed, and refuses what is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

fn helm(arguments: &[&str]) -> Output {
    let program = weft_cluster::helm().unwrap();
    Command::new(program).args(arguments).current_dir(root().join("deploy/helm")).output().unwrap()
}

/// What the chart renders, in the namespace where it belongs.
fn render(arguments: &[&str]) -> Result<String, String> {
    let all = [&["template", "weft", "weft", "--namespace", "weft-system"], arguments].concat();
    let output = helm(&all);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Compares with the committed file; writes it when `UPDATE_GOLDEN` is set.
fn golden(file: &str, rendered: &str) {
    let path = root().join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, rendered).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some(line) = rendered.lines().zip(committed.lines()).position(|(new, old)| new != old) {
        let (new, old) = (rendered.lines().nth(line).unwrap(), committed.lines().nth(line).unwrap());
        panic!("{file}, line {}: committed {old:?}, rendered {new:?}; cargo xtask golden", line + 1);
    }
    assert_eq!(rendered.lines().count(), committed.lines().count(), "{file}: cargo xtask golden");
}

#[test]
fn the_chart_lints() {
    let output = helm(&["lint", "weft", "--strict", "--namespace", "weft-system"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn golden_of_the_default_values_is_what_weft_install_prints() {
    let heading = "\
# Weft with the chart's default values, without its hooks: what `weft install` prints. Made by `cargo xtask golden`.
---
apiVersion: v1
kind: Namespace
metadata:
  name: weft-system
  labels:
    # Agents are privileged.
    pod-security.kubernetes.io/enforce: privileged
";
    let rendered = render(&["--no-hooks"]).unwrap();
    golden("deploy/weft.yaml", &format!("{heading}{rendered}"));
}

#[test]
fn golden_of_every_value_holds() {
    let values = root().join("conformance/cluster/tests/chart/every-value.values.yaml");
    let rendered = render(&["--values", values.to_str().unwrap()]).unwrap();
    golden("conformance/cluster/tests/chart/every-value.golden.yaml", &rendered);
}

#[test]
fn every_value_is_in_the_example_that_sets_all_of_them() {
    let keys = |path: &str| -> Vec<String> {
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with(['#', '-']));
        let keys = lines.filter_map(|line| line.split_once(':').map(|(key, _)| key.to_owned()));
        // Two levels: what is deeper is Kubernetes' own.
        keys.filter(|key| key.len() - key.trim_start().len() <= 2).collect()
    };
    assert_eq!(
        keys("deploy/helm/weft/values.yaml")
            .into_iter()
            .filter(|key| !key.trim().is_empty())
            .collect::<Vec<_>>(),
        keys("conformance/cluster/tests/chart/every-value.values.yaml")
    );
}

#[test]
fn values_that_are_wrong_are_refused_by_name() {
    for (wrong, said) in [
        ("proxy.drian=3s", "'drian' not allowed"),
        ("trustdomain=x", "'trustdomain' not allowed"),
        ("proxy.drain=fast", "/proxy/drain"),
        ("proxy.drain=100ms", "/proxy/drain"),
        ("proxy.sameNode=sometimes", "/proxy/sameNode"),
        ("controller.replicas=0", "/controller/replicas"),
        ("controller.replicas=two", "/controller/replicas"),
        ("controller.logFormat=yaml", "/controller/logFormat"),
        ("agent.cniConfDir=etc/cni", "/agent/cniConfDir"),
        ("clusterRanges.services={10.96.0.0}", "/clusterRanges/services"),
        ("clusterRanges.pods={10.0.0.0/33}", "/clusterRanges/pods"),
        ("exemptNamespaces={Not_A_Name}", "/exemptNamespaces"),
        ("trustDomain=has space", "/trustDomain"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("uninstall.timeout=0.5h", "/uninstall/timeout"),
        ("viewers[0].kind=Team", "/viewers"),
    ] {
        let complaint = render(&["--set", wrong]).expect_err(wrong);
        assert!(complaint.contains(said), "{wrong}: {complaint}");
    }
}

#[test]
fn what_a_schema_cannot_say_is_refused_with_what_to_do() {
    let elsewhere = helm(&["template", "weft", "weft", "--namespace", "mesh"]);
    let complaint = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    assert!(complaint.contains("pass --namespace weft-system"), "{complaint}");
    let half = render(&["--set", "clusterRanges.services={10.96.0.0/16}"]).unwrap_err();
    assert!(half.contains("set both or neither"), "{half}");
    let apart = render(&["--set", "agent.nodeSelector.mesh=yes"]).unwrap_err();
    assert!(apart.contains("a node needs both or neither"), "{apart}");
}

#[test]
fn nobody_gets_rights_by_wildcard_and_only_one_part_is_privileged() {
    let rendered = render(&[]).unwrap();
    for document in rendered.split("\n---\n") {
        let kind = document.lines().find_map(|line| line.strip_prefix("kind: ")).unwrap_or_default();
        if kind.ends_with("Role") {
            let rules = document.split_once("\nrules:").map_or("", |(_, rules)| rules);
            assert!(!rules.contains('*'), "{document}");
        }
        let privileged = document.contains("privileged: true") || document.contains("hostNetwork: true");
        assert!(!privileged || document.contains("name: weft-agent"), "{document}");
    }
    assert_eq!(rendered.matches("privileged: true").count(), 1);
}

#[test]
fn hooks_hold_all_that_may_delete_what_weft_made() {
    let lasting = render(&["--no-hooks"]).unwrap();
    assert!(!lasting.contains("delete]"), "rights to delete outlast the uninstallation");
    let with_hooks = render(&["--show-only", "templates/uninstall.yaml"]).unwrap();
    assert_eq!(with_hooks.matches("helm.sh/hook: pre-delete").count(), 6);
    let without = render(&["--set", "uninstall.enabled=false"]).unwrap();
    assert!(!without.contains("helm.sh/hook"));
}
