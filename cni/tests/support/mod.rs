//! Two network namespaces joined by a veth pair: `pod` (10.1.0.2, fd01::2) and `peer` (10.1.0.1, fd01::1), which is
//! the pod's gateway. They end with the test, whatever happens. Needs root, or a user namespace of one's own.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};
use weft_cni::kernel::capture::Capture;
use weft_cni::ruleset::TcpProbes;
use weft_runtime::fd::SeqPacket;
use weft_runtime::netns::NetNamespace;

pub const POD: [&str; 2] = ["10.1.0.2", "fd01::2"];
pub const PEER: [&str; 2] = ["10.1.0.1", "fd01::1"];
pub const SERVICE: [&str; 2] = ["10.96.0.10:80", "[fd96::10]:80"];
/// The peer too, but outside the cluster's ranges.
pub const OUTSIDE: [&str; 2] = ["192.0.2.1", "fdee::1"];
pub const LIMIT: Duration = Duration::from_secs(20);

pub struct Wire {
    pub pod: NetNamespace,
    pub peer: NetNamespace,
}

pub fn cluster() -> Vec<IpNet> {
    ["10.1.0.0/16", "10.96.0.0/16", "fd01::/64", "fd96::/64"].map(|range| range.parse().unwrap()).to_vec()
}

pub fn addresses() -> Vec<IpAddr> {
    POD.map(|address| address.parse().unwrap()).to_vec()
}

pub fn namespace() -> NetNamespace {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root or a user namespace with SYS_ADMIN");
        NetNamespace::current().unwrap()
    })
    .join()
    .unwrap()
}

/// Runs a program in a namespace and returns what it printed.
pub fn run(namespace: &NetNamespace, program: &str, arguments: &[&str], input: &str) -> String {
    let output = namespace
        .run_in(|| {
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        })
        .unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Wire {
    pub fn new() -> Self {
        let (pod, peer) = (namespace(), namespace());
        let far = format!("/proc/{}/fd/{}", std::process::id(), peer.as_fd().as_raw_fd());
        run(
            &pod,
            "ip",
            &["-batch", "-"],
            &format!(
                "link set lo up\nlink add eth0 type veth peer name eth0 netns {far}\nlink set eth0 up\n\
                 addr add 10.1.0.2/24 dev eth0\naddr add fd01::2/64 dev eth0 nodad\n"
            ),
        );
        run(
            &peer,
            "ip",
            &["-batch", "-"],
            "link set lo up\nlink set eth0 up\naddr add 10.1.0.1/24 dev eth0\naddr add fd01::1/64 dev eth0 nodad\n\
             addr add 192.0.2.1/32 dev lo\naddr add fdee::1/128 dev lo\n",
        );
        let routes = "route add default via 10.1.0.1\nroute add default via fd01::1\n";
        run(&pod, "ip", &["-batch", "-"], routes);
        Self { pod, peer }
    }

    pub fn capture(&self) -> Capture {
        self.capture_with(TcpProbes::default())
    }

    pub fn capture_with(&self, probes: TcpProbes) -> Capture {
        let marks = (0x1234_5678, 0x0bad_cafe);
        Capture::install(self.pod.clone(), &addresses(), &cluster(), marks, probes, None).unwrap()
    }
}

/// Listens, be it after a while: a program that another test starts just now holds copies of this process's sockets until it
/// runs, closed ones among them.
pub fn listen(namespace: &NetNamespace, address: &str) -> TcpListener {
    let start = Instant::now();
    loop {
        match namespace.run_in(|| TcpListener::bind(address)).unwrap() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && start.elapsed() < LIMIT => {
                std::thread::sleep(Duration::from_millis(5));
            }
            bound => return bound.unwrap(),
        }
    }
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

pub fn dial(namespace: &NetNamespace, to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = namespace.run_in(|| TcpStream::connect_timeout(&to, LIMIT)).unwrap()?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// Connects to an agent whose socket is there: between that and its listening there is a moment.
pub fn connect_to_agent(folder: &Path) -> SeqPacket {
    let start = Instant::now();
    loop {
        match SeqPacket::connect(&folder.join("run/agent.sock")) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && start.elapsed() < LIMIT => {
                std::thread::sleep(Duration::from_millis(5));
            }
            connected => return connected.unwrap(),
        }
    }
}

/// Accepts within the limit, also from a non-blocking listener.
pub fn accept(listener: impl AsFd) -> (TcpStream, SocketAddr) {
    let listener = TcpListener::from(listener.as_fd().try_clone_to_owned().unwrap());
    let mut waiting = [nix::poll::PollFd::new(listener.as_fd(), nix::poll::PollFlags::POLLIN)];
    let timeout = nix::poll::PollTimeout::try_from(LIMIT).unwrap();
    assert_eq!(nix::poll::poll(&mut waiting, timeout).unwrap(), 1, "no connection arrived");
    let (stream, from) = listener.accept().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    (stream, SocketAddr::new(from.ip().to_canonical(), from.port()))
}

/// Both directions carry bytes.
pub fn assert_alive(one: &mut TcpStream, other: &mut TcpStream) {
    let mut byte = [0];
    one.write_all(b"a").unwrap();
    other.read_exact(&mut byte).unwrap();
    other.write_all(b"b").unwrap();
    one.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"b");
}

/// A cgroup with the name of a pod's, in whichever hierarchy this machine lets a test make one.
pub struct PodCgroup(std::path::PathBuf);

impl PodCgroup {
    pub fn new() -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("kubepods-weft-test-{}-{count}", std::process::id());
        let roots =
            ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/systemd"];
        let usable = |root: &&&str| Path::new(root).join("cgroup.procs").exists();
        let mut made = roots.iter().filter(usable).map(|root| Path::new(root).join(&name));
        let made = made.find(|path| std::fs::create_dir(path).is_ok());
        Self(made.expect("these tests need root and a cgroup file system at /sys/fs/cgroup"))
    }

    /// Where a process writes its number to become part of it.
    pub fn procs(&self) -> String {
        self.0.join("cgroup.procs").display().to_string()
    }
}

impl Drop for PodCgroup {
    fn drop(&mut self) {
        // Its processes may take a moment to be gone.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} stays", self.0.display());
    }
}
