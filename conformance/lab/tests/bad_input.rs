//! What a mesh makes of wrong files, a full disk, missing programs and missing rights.
#![allow(
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use weft_conformance::objects::two_webs;
use weft_conformance::{Checks, Lab, Options, address, curl, metric};

const PATIENCE: Duration = Duration::from_secs(60);

fn served(lab: &Lab) -> String {
    curl(lab, "app/caller", &["http://web2/"]).ok()
}

#[test]
fn wrong_input_is_told_and_harms_nobody() {
    let full = ("WEFT_ACCESS_LOG".to_owned(), "/dev/full".to_owned());
    let options = Options { environment: vec![full], ..Options::default() };
    let lab = Lab::up_with(&two_webs(), &options).unwrap();
    let mut checks = Checks::default();
    checks.check("with a full disk for the access log traffic goes on, and lost lines are counted", || {
        let before = metric(&lab, "node1", "weft_access_log_dropped_total", &[]);
        for _ in 0..20 {
            served(&lab);
        }
        lab.wait_until("20 lost lines", PATIENCE, |l| {
            metric(l, "node1", "weft_access_log_dropped_total", &[]) >= before + 20.0
        })
        .unwrap();
    });
    objects(&lab, &mut checks);
    checks.check("an admin port in use is told with address and advice", || {
        let script = format!(
            "timeout 5 {} --node node1 --node-secret-file /dev/null --agent-socket /tmp/none.sock \
             --controller 192.168.77.1:15010 --controller-ca {}/ca/root.crt 2>&1; echo code=$?",
            binary("weft-proxy").display(),
            lab.state().display()
        );
        let told = lab.exec("node/node1", &["sh", "-c", &script]).unwrap().stdout;
        assert!(told.contains("127.0.0.1:15000") && told.contains("in use"), "{told}");
        assert!(!told.contains("code=0") && !told.contains("code=124"), "{told}");
    });
    checks.check("all processes have lived through it", || {
        for daemon in lab.status().unwrap()["daemons"].as_array().unwrap() {
            assert_eq!(daemon["restarts"], 0, "{daemon}");
        }
    });
    drop(lab);
    machine(&mut checks);
    checks.finish();
}

/// A route on web2 that sends /x to the path.
fn route(name: &str, to: &str, more: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: {name}, namespace: app }}
spec:
  parentRefs: [{{ group: '', kind: Service, name: web2, port: 80 }}]
  {more}
  rules:
  - matches: [{{ path: {{ value: /x }} }}]
    filters: [{{ type: RequestRedirect, requestRedirect: {{ path: {{ type: ReplaceFullPath, replaceFullPath: {to} }} }} }}]
  - backendRefs: [{{ name: web2, port: 80 }}]
---
"
    )
}

fn objects(lab: &Lab, checks: &mut Checks) {
    let rejected = |l: &Lab| l.status().unwrap()["rejected"].to_string();
    let location = |l: &Lab| {
        curl(l, "app/caller", &["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "http://web2/x"])
            .ok()
    };
    checks.check("malformed YAML changes nothing and is told with file and line", || {
        lab.write("bad.yaml", "apiVersion: v1\nkind: [\n").unwrap();
        lab.wait_until("told", PATIENCE, |l| l.status().unwrap().to_string().contains("bad.yaml:")).unwrap();
        served(lab);
        lab.apply("bad", "# nothing\n").unwrap();
    });
    checks.check("an unknown field is refused with its name, and the old object stays in force", || {
        lab.apply("route", &route("a", "/first", "")).unwrap();
        lab.wait_until("first", PATIENCE, |l| location(l).ends_with("/first")).unwrap();
        lab.apply("route", &route("a", "/second", "parentRef: []")).unwrap();
        lab.wait_until("told", PATIENCE, |l| rejected(l).contains("parentRef")).unwrap();
        assert!(location(lab).ends_with("/first"), "{}", location(lab));
        lab.apply("route", &route("a", "/first", "")).unwrap();
    });
    checks.check(
        "of routes that say different things of the same request the oldest wins, for every call",
        || {
            lab.apply("another", &route("b", "/newer", "")).unwrap();
            std::thread::sleep(Duration::from_secs(1));
            for _ in 0..10 {
                assert!(location(lab).ends_with("/first"), "{}", location(lab));
            }
            lab.delete("route").unwrap();
            lab.wait_until("the other", PATIENCE, |l| location(l).ends_with("/newer")).unwrap();
            lab.delete("another").unwrap();
            lab.wait_until("none", PATIENCE, |l| location(l).starts_with("200")).unwrap();
        },
    );
    checks.check("the same object in two files is told, and calls go on", || {
        lab.apply("twice", &(route("c", "/one", "") + &route("c", "/two", ""))).unwrap();
        lab.wait_until("told", PATIENCE, |l| rejected(l).contains("HTTPRoute app/c")).unwrap();
        // The first one is in force, once the proxy has it.
        lab.wait_until("the first", PATIENCE, |l| location(l).ends_with("/one")).unwrap();
        for _ in 0..5 {
            assert!(location(lab).ends_with("/one"), "{}", location(lab));
        }
        lab.delete("twice").unwrap();
    });
    checks.check("a pod object that claims another pod's address takes no call from it", || {
        lab.wait_until("no route", PATIENCE, |l| location(l).starts_with("200")).unwrap();
        // As a broken CNI plugin or a stale object would show it.
        let mut ghost = lab.object("Pod", "app", "web2").unwrap();
        ghost["metadata"]["name"] = "ghost".into();
        ghost["metadata"]["uid"] = "00000000-0000-0000-0000-000000000001".into();
        ghost["metadata"]["creationTimestamp"] = "2030-01-01T00:00:00Z".into();
        ghost["spec"]["serviceAccountName"] = "ghost".into();
        ghost["spec"]["nodeName"] = "node1".into();
        let file = lab.state().join("cluster/Pod/app/ghost.json");
        std::fs::write(&file, ghost.to_string()).unwrap();
        let refused = |l: &Lab| curl(l, "app/caller", &["http://web2/"]).stdout;
        lab.wait_until("the refusal names the cause", PATIENCE, |l| refused(l).contains("address_conflict"))
            .unwrap();
        // Agents look for the pod's namespace every second.
        std::thread::sleep(Duration::from_secs(3));
        for url in ["http://web2/".to_owned(), format!("http://{}/", address(lab, "app", "web2", false))] {
            let got = curl(lab, "app/caller", &["-w", " %{http_code}", &url]);
            eprintln!("  {url}: {got:?}");
            // Served by web2, or refused; never answered by somebody else.
            assert!(
                got.stdout.starts_with("web2 address=") || got.code != 0 || got.stdout.contains("weft: "),
                "{got:?}"
            );
        }
        let _ = std::fs::remove_file(&file);
        // Nobody has touched web2's rules meanwhile, so that nothing waits for their repair.
        let repairs = lab.exec("node/node2", &["cat", "/run/weft/agent-status.json"]).unwrap().ok();
        assert!(repairs.contains("\"repairs\": 0"), "{repairs}");
        lab.wait_until("served again", PATIENCE, |l| {
            curl(l, "app/caller", &["http://web2/"]).stdout.starts_with("web2")
        })
        .unwrap();
    });
}

fn binary(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join(name)
}

fn told(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// `weft lab` in a folder of its own, as a user without any right, after `before` in a shell.
fn as_nobody(home: &Path, before: &str, arguments: &str) -> Output {
    let weft = home.join("bin/weft");
    let line = format!(
        "{before} exec setpriv --reuid 65534 --regid 65534 --clear-groups {} lab {arguments}",
        weft.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &line]).current_dir(home);
    command.env("WEFT_LAB_STATE_DIR", home.join("state")).output().unwrap()
}

fn machine(checks: &mut Checks) {
    let home = tempfile::Builder::new().prefix("weft-test-").tempdir().unwrap();
    let home = home.path();
    std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(home.join("bin")).unwrap();
    for name in ["weft", "weft-agent", "weft-cni", "weft-controller", "weft-proxy"] {
        let to = home.join("bin").join(name);
        if std::fs::hard_link(binary(name), &to).is_err() {
            std::fs::copy(binary(name), &to).unwrap();
        }
    }
    std::fs::create_dir(home.join("state")).unwrap();
    std::os::unix::fs::chown(home.join("state"), Some(65534), Some(65534)).unwrap();
    std::fs::write(home.join("cluster.yaml"), two_webs()).unwrap();
    let name = format!("n-{}", std::process::id());
    let up = format!("up --name {name} -f cluster.yaml");
    for (program, package) in [("nft", "nftables"), ("ip", "iproute2")] {
        checks.check(&format!("without {program} the lab says which package has it"), || {
            let hide =
                format!("for p in $(which -a {program}); do mount --bind /dev/null $(readlink -f $p); done;");
            let out = as_nobody(home, &hide, &up);
            assert!(!out.status.success() && told(&out).contains(package), "{}", told(&out));
        });
    }
    checks.check("a user without any right runs the whole mesh", || {
        let out = as_nobody(home, "", &up);
        let said = told(&out);
        let called =
            as_nobody(home, "", &format!("exec --name {name} app/caller -- curl -sS -m 5 http://web2/"));
        let down = as_nobody(home, "", &format!("down --name {name}"));
        assert!(out.status.success(), "{said}");
        assert!(
            told(&called).contains("caller=URI=spiffe://cluster.local/ns/app/sa/caller"),
            "{}",
            told(&called)
        );
        assert!(down.status.success(), "{}", told(&down));
    });
    checks.check("without user namespaces such a user is told what is missing", || {
        // A user namespace of its own, all users mapped, in which no further one may be made.
        let weft = home.join("bin/weft");
        let script = format!(
            "unshare --user sleep 20 & child=$!; sleep 0.3; \
             for map in uid_map gid_map; do echo 0 0 65535 > /proc/$child/$map; done; \
             nsenter --user=/proc/$child/ns/user -S 0 -G 0 sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; \
             exec setpriv --reuid 65534 --regid 65534 --clear-groups {} lab {up}'; code=$?; kill $child; exit $code",
            weft.display()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir(home).env("WEFT_LAB_STATE_DIR", home.join("state"));
        let out = command.output().unwrap();
        let said = told(&out);
        // Nothing to do, unless it could be brought up after all.
        as_nobody(home, "", &format!("down --name {name}"));
        assert!(!out.status.success() && said.contains("user namespace"), "{said}");
    });
}
