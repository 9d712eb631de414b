//! Installing the rules with the `nft` program and reading them back.

use nix::sched::{CloneFlags, unshare};
use parking_lot::Mutex;
use weft_runtime::netns::NetNamespace;

use super::{KernelError, inside, run};
use crate::ruleset::{Ruleset, TABLE};

const PACKAGE: &str = "nftables";

/// Replaces Weft's table in one transaction. Run inside the pod's namespace.
///
/// # Errors
/// When nft is missing or refuses; nothing has changed then.
pub fn install(ruleset: &Ruleset) -> Result<(), KernelError> {
    apply(&ruleset.script())
}

fn apply(script: &str) -> Result<(), KernelError> {
    run("nft", PACKAGE, &["-f", "-"], script).map(drop)
}

/// Compares Weft's table with `expected`, which is what [`printed`] gave. Run inside the pod's namespace.
///
/// # Errors
/// [`KernelError::Differs`], or when nft fails for another reason.
pub fn verify(expected: &str) -> Result<(), KernelError> {
    match list() {
        Ok(found) if found == expected => Ok(()),
        Ok(_) => Err(KernelError::Differs { what: "the nft rules" }),
        Err(KernelError::Program { .. }) => {
            Err(KernelError::Differs { what: "the nft rules (table absent)" })
        }
        Err(error) => Err(error),
    }
}

/// Removes Weft's table if it is there. Run inside the pod's namespace.
///
/// # Errors
/// When nft is missing or refuses.
pub fn remove() -> Result<(), KernelError> {
    apply(&format!("add table inet {TABLE}\ndelete table inet {TABLE}\n"))
}

/// Is there a table of Weft? Run inside the pod's namespace.
#[must_use]
pub fn is_installed() -> bool {
    list().is_ok()
}

fn list() -> Result<String, KernelError> {
    run("nft", PACKAGE, &["--numeric", "--stateless", "list", "table", "inet", TABLE], "")
}

/// The namespace of our own, once there is one.
static REFERENCE: Mutex<Option<NetNamespace>> = Mutex::new(None);

/// The namespace that [`printed`] uses, if it has been made.
#[must_use]
pub fn reference() -> Option<NetNamespace> {
    REFERENCE.lock().clone()
}

/// How this node's nft prints `ruleset`.
///
/// nft prints rules in a form that depends on its version, so both sides of a comparison are printed by the nft of
/// this node: one from the pod, one from a namespace of our own where nothing else can have touched it.
///
/// # Errors
/// When nft is missing or refuses.
pub fn printed(ruleset: &Ruleset) -> Result<String, KernelError> {
    // Held throughout: the namespace has room for one table of ours.
    let mut reference = REFERENCE.lock();
    let namespace = match reference.take() {
        Some(namespace) => namespace,
        None => new_namespace()?,
    };
    let text = inside(&namespace, || {
        install(ruleset)?;
        list()
    });
    *reference = Some(namespace);
    text
}

fn new_namespace() -> Result<NetNamespace, KernelError> {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        NetNamespace::current()
    });
    made.join()
        .unwrap_or_else(|_| Err(std::io::Error::other("the thread panicked")))
        .map_err(KernelError::system("making a network namespace (the agent needs SYS_ADMIN)"))
}
