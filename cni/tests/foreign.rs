//! Pods that are not enrolled because of what others have put there: another mesh's redirect rules, and eBPF programs
//! at `connect()`. Real rules, and a real program (loaded by python3). Needs root in the first user namespace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use support::*;
use weft_cni::kernel::KernelError;
use weft_cni::kernel::capture::Capture;
use weft_cni::kernel::cgroup::refuse_socket_load_balancer;
use weft_cni::ruleset::TcpProbes;
use weft_runtime::netns::NetNamespace;

fn capture(wire: &Wire) -> Result<Capture, KernelError> {
    let marks = (0x1234_5678, 0x0bad_cafe);
    Capture::install(wire.pod.clone(), &addresses(), &cluster(), marks, TcpProbes::default(), None)
}

/// A table with one rule in a chain of this hook, as `nft -f` reads it.
fn table(family: &str, hook: &str, rule: &str) -> String {
    format!(
        "table {family} other {{\nchain jumped {{\n{rule}\n}}\nchain base {{\ntype nat hook {hook} priority -100;\njump jumped\n}}\n}}\n"
    )
}

#[test]
fn redirects_to_the_pod_itself_are_another_meshs_and_its_maker_is_named() {
    let wire = Wire::new();
    for (family, hook, rule, by) in [
        ("ip", "output", "meta l4proto tcp redirect to :15001", "Istio (the nft table ip other)"),
        ("inet", "prerouting", "tcp dport 80 redirect to :15006", "Istio (the nft table inet other)"),
        ("ip6", "output", "meta l4proto tcp redirect to :4140", "Linkerd (the nft table ip6 other)"),
        ("ip", "prerouting", "iifname \"eth0\" tcp dport 80 redirect to :9000", "by the nft table ip other"),
        ("ip", "output", "tcp dport 80 dnat to 127.0.0.1:9000", "by the nft table ip other"),
    ] {
        run(&wire.pod, "nft", &["-f", "-"], &table(family, hook, rule));
        let before = run(&wire.pod, "nft", &["list", "ruleset"], "");
        let error = capture(&wire).expect_err(rule);
        assert!(matches!(error, KernelError::Sidecar { .. }), "{rule}: {error}");
        assert!(error.to_string().contains(by), "{rule}: {error}");
        assert_eq!(run(&wire.pod, "nft", &["list", "ruleset"], ""), before, "nothing is left behind");
        drop(listen(&wire.pod, "[::]:15001"));
        run(&wire.pod, "nft", &["delete", "table", family, "other"], "");
    }
    capture(&wire).unwrap();
}

#[test]
fn rules_made_by_iptables_are_seen() {
    for (program, rule) in [
        ("iptables-nft", "-t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001"),
        ("iptables-legacy", "-t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 4143"),
    ] {
        let wire = Wire::new();
        run(&wire.pod, program, &rule.split(' ').collect::<Vec<_>>(), "");
        let error = capture(&wire).expect_err(program);
        assert!(matches!(error, KernelError::Sidecar { .. }), "{program}: {error}");
        if program == "iptables-legacy" {
            assert!(error.to_string().contains("Linkerd (the iptables table nat)"), "{error}");
        }
    }
}

#[test]
fn what_a_container_engine_in_the_pod_and_a_resolver_make_is_no_sidecar() {
    let wire = Wire::new();
    for (hook, rule) in [
        ("prerouting", "iifname != \"docker0\" tcp dport 8080 dnat to 172.17.0.2:80"),
        ("output", "ip daddr != 127.0.0.0/8 tcp dport 8080 dnat to 172.17.0.2:80"),
        ("prerouting", "iifname \"docker0\" tcp dport 80 redirect to :3128"),
        ("output", "udp dport 53 redirect to :5353"),
        ("output", "meta l4proto udp redirect to :5353"),
        ("postrouting", "ip saddr 172.17.0.0/16 masquerade"),
    ] {
        run(&wire.pod, "nft", &["-f", "-"], &table("ip", hook, rule));
        capture(&wire).unwrap_or_else(|error| panic!("{rule}: {error}")).remove();
        run(&wire.pod, "nft", &["delete", "table", "ip", "other"], "");
    }
    for program in ["iptables-nft", "iptables-legacy"] {
        let rule = "-t nat -A OUTPUT -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80";
        run(&wire.pod, program, &rule.split(' ').collect::<Vec<_>>(), "");
        capture(&wire).unwrap_or_else(|error| panic!("{program}: {error}")).remove();
    }
}

/// Loads a program that lets every connection pass and links it to a cgroup for as long as it runs.
const ATTACH: &str = r#"
import ctypes, os, platform, struct, sys
number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = libc.syscall(number, command, buffer, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), "bpf command %d" % command)
    return result
point = int(sys.argv[2])
code = ctypes.create_string_buffer(struct.pack("<BBhiBBhi", 0xb7, 0, 0, 1, 0x95, 0, 0, 0), 16)
license = ctypes.create_string_buffer(b"Apache-2.0")
load = struct.pack("<IIQQIIQII16sII", 18, 2, ctypes.addressof(code), ctypes.addressof(license), 0, 0, 0, 0, 0, b"", 0, point)
program = bpf(5, load)
link = bpf(28, struct.pack("<IIII", program, os.open(sys.argv[1], os.O_RDONLY), point, 0))
print("attached", flush=True)
sys.stdin.read()
"#;

/// Ended with the test, also when it fails.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn attach(cgroup: &str, point: u32) -> Ends {
    let mut child = Command::new("python3")
        .args(["-c", ATTACH, cgroup, &point.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs python3");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let child = Ends(child);
    assert_eq!(line.trim(), "attached", "this test needs root and cgroups of version 2 below /sys/fs/cgroup");
    child
}

fn is_refused(namespace: &NetNamespace, uid: &str) -> bool {
    match refuse_socket_load_balancer(namespace, uid) {
        Ok(()) => false,
        Err(KernelError::SocketLoadBalancer { cgroup }) => {
            assert!(cgroup.contains("kubepods-weft-test") && !cgroup.contains("/proc/"), "{cgroup}");
            true
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn program_at_connect_of_the_pods_cgroup_is_found_whether_the_pod_runs_yet_or_not() {
    let namespace = namespace();
    let cgroup = PodCgroup::new();
    let folder = cgroup.procs().trim_end_matches("/cgroup.procs").to_owned();
    let uid = folder.rsplit('/').next().unwrap().to_owned();
    assert!(!is_refused(&namespace, &uid));
    for point in [10, 11] {
        let _program = attach(&folder, point);
        assert!(is_refused(&namespace, &uid), "before the pod has a process");
    }
    let inner = format!("{folder}/container");
    std::fs::create_dir(&inner).unwrap();
    let sleep = namespace.run_in(|| Command::new("sleep").arg("300").spawn().unwrap()).unwrap();
    let sleep = Ends(sleep);
    std::fs::write(format!("{inner}/cgroup.procs"), sleep.0.id().to_string()).unwrap();
    let found = {
        let _program = attach(&folder, 10);
        is_refused(&namespace, "unknown")
    };
    // The kernel takes a link away a moment after its last holder.
    let pause = || std::thread::sleep(std::time::Duration::from_millis(10));
    let after = (0..500).inspect(|_| pause()).all(|_| is_refused(&namespace, "unknown"));
    drop(sleep);
    // The cgroup of an ended process is free a moment later.
    let removed = (0..500).inspect(|_| pause()).any(|_| std::fs::remove_dir(&inner).is_ok());
    assert!(removed, "{inner} stays");
    assert!(found, "a program of the cgroup above");
    assert!(!after, "without the program");
}
