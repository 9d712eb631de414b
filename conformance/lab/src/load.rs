//! Programs in a lab's pods that call until they are told to end, and tell how it went.

use weft_conformance_cases::load;
pub use weft_conformance_cases::load::Ended;

use crate::Lab;

/// A program that calls until it is told to end.
#[derive(Debug)]
pub struct Load(load::Load);

impl Load {
    /// Starts calling from a pod, in one of the modes of [`load::Load::start`].
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(lab: &Lab, from: &str, mode: &str, host: &str, port: &str) -> Self {
        let at = (host, port.parse().unwrap());
        let command = |program: &[&str]| lab.exec_command(from, program);
        Self(load::Load::start_by(command, from, mode, at, &[]).unwrap())
    }

    /// Ends it.
    ///
    /// # Panics
    /// When it broke down.
    pub fn end(self) -> Ended {
        self.0.end().unwrap()
    }
}

/// Ends all, of whom none may have failed once; in the end they are to have called through the mesh or not.
///
/// # Panics
/// When a call failed, when there were too few to tell, or when the last went the other way.
pub fn none_failed(all: Vec<Load>, tunnelled: bool) {
    let mut wrong = Vec::new();
    for Ended { what, mode, ok, failed, last, .. } in all.into_iter().map(Load::end) {
        let enough = if mode == "slow" { 4 } else { 20 };
        if ok < enough || !failed.is_empty() {
            wrong.push(format!("{what}: {ok} went well, these failed: {failed:?}"));
        }
        if mode == "new" && last.contains("spiffe://") != tunnelled {
            wrong.push(format!("{what}: last {last}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
