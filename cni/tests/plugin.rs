//! The plugin's binary, called as a container runtime does it, against an agent of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_api::cni::{Request, Response};

struct Call {
    success: bool,
    printed: Option<Value>,
}

fn call(command: &str, config: &Value, extra: &[(&str, &str)]) -> Call {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weft-cni"))
        .env_clear()
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_NETNS", "/proc/self/ns/net")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin")
        .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart;K8S_POD_UID=u1")
        .envs(extra.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // A VERSION call may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(config.to_string().as_bytes());
    let output = child.wait_with_output().unwrap();
    let printed = (!output.stdout.is_empty()).then(|| serde_json::from_slice(&output.stdout).unwrap());
    Call { success: output.status.success(), printed }
}

/// An agent that gives one answer and returns what it was asked.
fn agent(answer: Response) -> (tempfile::TempDir, String, JoinHandle<Request>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cni.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        writeln!(stream, "{}", serde_json::to_string(&answer).unwrap()).unwrap();
        serde_json::from_str(&line).unwrap()
    });
    (folder, path.to_str().unwrap().to_owned(), asked)
}

fn config(version: &str, socket: &str) -> Value {
    json!({"cniVersion": version, "name": "pods", "type": "weft-cni", "agentSocket": socket, "timeout": 2,
        "prevResult": {"cniVersion": version, "ips": [{"address": "10.1.0.2/24", "interface": 0},
            {"address": "fd01::2/64"}], "interfaces": [{"name": "eth0", "sandbox": "/x"}], "dns": {},
            "routes": [{"dst": "0.0.0.0/0", "foreign": 1}]}})
}

fn code(call: &Call) -> u64 {
    let printed = call.printed.as_ref().unwrap();
    assert!(!call.success && printed["cniVersion"].is_string() && printed["msg"].is_string(), "{printed}");
    printed["code"].as_u64().unwrap()
}

#[test]
fn versions_are_told_without_an_agent() {
    let call = call("VERSION", &json!({"cniVersion": "1.0.0"}), &[]);
    assert!(call.success);
    let expected = json!({"cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]});
    assert_eq!(call.printed.unwrap(), expected);
}

#[test]
fn add_asks_the_agent_and_passes_the_result_on_in_every_version() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let (_folder, socket, asked) = agent(Response::Ok);
        let config = config(version, &socket);
        let call = call("ADD", &config, &[]);
        assert!(call.success);
        let mut expected = config["prevResult"].clone();
        if version.starts_with('0') {
            expected["ips"][0]["version"] = "4".into();
            expected["ips"][1]["version"] = "6".into();
        }
        assert_eq!(call.printed.unwrap(), expected, "{version}");
        let Request::Add(sandbox) = asked.join().unwrap() else { panic!() };
        assert_eq!(sandbox.container_id, "c1");
        assert_eq!(sandbox.pod.unwrap().to_string(), "shop/cart");
        assert_eq!(sandbox.uid.as_deref(), Some("u1"));
        assert_eq!(sandbox.addresses.len(), 2);
    }
}

#[test]
fn result_of_an_older_version_is_converted() {
    let (_folder, socket, _asked) = agent(Response::Ok);
    let mut config = config("1.0.0", &socket);
    config["prevResult"]["cniVersion"] = "0.4.0".into();
    config["prevResult"]["ips"][0]["version"] = "4".into();
    let printed = call("ADD", &config, &[]).printed.unwrap();
    assert_eq!(printed["cniVersion"], "1.0.0");
    assert!(printed["ips"][0].get("version").is_none());
}

#[test]
fn refusal_of_the_agent_is_the_plugins_error() {
    let (_folder, socket, _asked) = agent(Response::Error { code: 100, message: "no nft".to_owned() });
    let call = call("ADD", &config("1.0.0", &socket), &[]);
    assert_eq!(code(&call), 100);
    assert_eq!(call.printed.unwrap()["msg"], "no nft");
}

#[test]
fn without_an_agent_pods_wait_except_in_excluded_namespaces() {
    let config = config("1.1.0", "/nonexistent/cni.sock");
    assert_eq!(code(&call("ADD", &config, &[])), 11);
    assert_eq!(code(&call("CHECK", &config, &[])), 11);
    assert_eq!(code(&call("STATUS", &config, &[])), 50);
    let mut tolerant = config.clone();
    tolerant["statusChecksProxy"] = false.into();
    assert!(call("STATUS", &tolerant, &[]).success, "a node's other pods start without a proxy");
    let system = [("CNI_ARGS", "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns")];
    let passed = call("ADD", &config, &system);
    assert!(passed.success);
    assert_eq!(passed.printed.unwrap(), config["prevResult"]);
    assert!(call("DEL", &config, &[]).success);
}

#[test]
fn del_never_fails_and_never_waits_long() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cni.sock");
    // Accepts nothing, answers nothing.
    let _hanging = UnixListener::bind(&path).unwrap();
    let start = Instant::now();
    assert!(call("DEL", &config("1.0.0", path.to_str().unwrap()), &[]).success);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(call("DEL", &json!("garbage"), &[]).success);
    assert!(
        call("DEL", &config("1.0.0", "/nonexistent"), &[("CNI_CONTAINERID", ""), ("CNI_NETNS", "")]).success
    );
}

#[test]
fn wrong_calls_are_told_apart() {
    let config = config("1.0.0", "/nonexistent");
    assert_eq!(code(&call("ADD", &json!({"cniVersion": "2.0.0", "prevResult": {}}), &[])), 1);
    assert_eq!(code(&call("ADD", &json!({"cniVersion": "1.0.0"}), &[])), 7);
    assert_eq!(code(&call("ADD", &json!([1]), &[])), 6);
    assert_eq!(code(&call("ADD", &config, &[("CNI_CONTAINERID", "")])), 4);
    assert_eq!(code(&call("ADD", &config, &[("CNI_NETNS", "")])), 4);
    assert_eq!(code(&call("", &config, &[])), 4);
    assert_eq!(code(&call("STATUS", &config, &[])), 1);
    let mut newest = config;
    newest["cniVersion"] = "1.1.0".into();
    assert_eq!(code(&call("GC", &newest, &[])), 7);
}

#[test]
fn garbage_collection_names_the_valid_containers() {
    let (_folder, socket, asked) = agent(Response::Ok);
    let mut config = config("1.1.0", &socket);
    config["cni.dev/valid-attachments"] = json!([{"containerID": "a", "ifname": "eth0"}]);
    assert!(call("GC", &config, &[]).success);
    assert_eq!(asked.join().unwrap(), Request::Gc { valid: vec!["a".to_owned()] });
}
