//! The steps of enrolment that touch the kernel, each to be run with the thread inside the pod's network namespace
//! (see [`inside`]): sysctls, routes, listening sockets, nft rules, the list of sockets, and finding a pod's namespace.

pub mod capture;
pub mod cgroup;
pub mod conntrack;
pub mod find;
pub mod foreign;
pub mod listen;
mod netlink;
pub mod nft;
pub mod old;
pub mod owner;
pub mod route;
pub mod sock_diag;
pub mod sysctl;

use std::io::{self, Write};
use std::process::{Command, Stdio};

use weft_runtime::netns::NetNamespace;

/// Why the kernel is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A program is not installed.
    #[error("the program {program} is not installed on this node: install the package {package}")]
    MissingProgram {
        /// The program.
        program: &'static str,
        /// The package that has it, by its usual name.
        package: &'static str,
    },
    /// A program refused.
    #[error("{program} {arguments} failed: {message}")]
    Program {
        /// The program.
        program: &'static str,
        /// What it was asked.
        arguments: String,
        /// What it said.
        message: String,
    },
    /// The system refused.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A port that Weft needs is taken by the application.
    #[error(
        "port {port} in the pod is taken by {by}; Weft needs 15001, 15006 and 15008: move the application to \
         another port or label the pod weft-mesh.dev/mesh: disabled"
    )]
    PortTaken {
        /// The port.
        port: u16,
        /// The program, or a text that says it was not found.
        by: String,
    },
    /// Another mesh's rules are in the pod.
    #[error(
        "the pod's traffic is already redirected by {by}; two meshes cannot share a pod: take that sidecar out of the \
         pod (for Istio the label sidecar.istio.io/inject: \"false\", for Linkerd the annotation linkerd.io/inject: disabled) \
         or label the pod weft-mesh.dev/mesh: disabled"
    )]
    Sidecar {
        /// Whose rules, and in which table.
        by: String,
    },
    /// Programs that may rewrite what `connect()` dials.
    #[error(
        "an eBPF program at connect() is attached to {cgroup}: a socket-level load balancer would hide Services \
         from Weft, and no route would apply. Confine it to the host's namespace (Cilium: \
         socketLB.hostNamespaceOnly=true) and then start weft-agent with --allow-socket-load-balancer, or label the \
         pod weft-mesh.dev/mesh: disabled"
    )]
    SocketLoadBalancer {
        /// The cgroup that was asked, as a path of the node.
        cgroup: String,
    },
    /// What was read back is not what was installed.
    #[error("{what} in the pod's namespace differ from what was installed")]
    Differs {
        /// Rules, routes, or settings.
        what: &'static str,
    },
}

impl KernelError {
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}

/// Runs `work` with this thread inside `namespace`.
///
/// # Errors
/// Those of `work`, or when the namespace cannot be entered.
pub fn inside<T>(
    namespace: &NetNamespace,
    work: impl FnOnce() -> Result<T, KernelError>,
) -> Result<T, KernelError> {
    namespace
        .run_in(work)
        .map_err(KernelError::system("entering the pod's network namespace (the agent needs SYS_ADMIN)"))?
}

/// Runs a program, which inherits the namespace this thread is in, and returns what it printed.
fn run(
    program: &'static str,
    package: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<String, KernelError> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin"))
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => KernelError::MissingProgram { program, package },
            _ => KernelError::system(format!("starting {program}"))(error),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read everything says why on stderr: that is the better message.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(KernelError::system(format!("waiting for {program}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(KernelError::Program { program, arguments: arguments.join(" "), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_program_is_named_with_its_package() {
        let error = run("weft-no-such-program", "nftables", &[], "").unwrap_err().to_string();
        assert!(error.contains("weft-no-such-program") && error.contains("package nftables"), "{error}");
    }

    #[test]
    fn refusal_of_a_program_is_told_in_its_own_words() {
        let error = run("nft", "nftables", &["-f", "-"], "nonsense").unwrap_err();
        assert!(
            matches!(&error, KernelError::Program { message, .. } if message.contains("nonsense")),
            "{error}"
        );
    }
}
