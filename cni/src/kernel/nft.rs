//! Installing the rules with the `nft` program and reading them back.

use std::sync::OnceLock;

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

/// Compares Weft's table with `ruleset`. Run inside the pod's namespace.
///
/// nft prints rules in a form that depends on its version, so both sides of the comparison are printed by the nft of
/// this node: one from the pod, one from a namespace of our own where nothing else can have touched it.
///
/// # Errors
/// [`KernelError::Differs`], or when nft fails for another reason.
pub fn verify(ruleset: &Ruleset) -> Result<(), KernelError> {
    let expected = printed(ruleset)?;
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

fn list() -> Result<String, KernelError> {
    run("nft", PACKAGE, &["--numeric", "--stateless", "list", "table", "inet", TABLE], "")
}

/// How this node's nft prints `ruleset`.
fn printed(ruleset: &Ruleset) -> Result<String, KernelError> {
    static LAST: Mutex<Option<(Ruleset, String)>> = Mutex::new(None);
    static REFERENCE: OnceLock<NetNamespace> = OnceLock::new();
    let mut last = LAST.lock();
    if let Some((known, text)) = last.as_ref()
        && known == ruleset
    {
        return Ok(text.clone());
    }
    let namespace = match REFERENCE.get() {
        Some(namespace) => namespace,
        None => {
            let fresh = new_namespace()?;
            REFERENCE.get_or_init(|| fresh)
        }
    };
    let text = inside(namespace, || {
        install(ruleset)?;
        list()
    })?;
    *last = Some((ruleset.clone(), text.clone()));
    Ok(text)
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
