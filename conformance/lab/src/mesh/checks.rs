//! Named checks of one mesh, each telling what did not hold as an error.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Mesh;

/// Runs checks against one mesh and gathers what does not hold.
#[derive(Debug)]
pub struct Checks<'a> {
    mesh: &'a Mesh,
    checks: crate::Checks,
}

impl<'a> Checks<'a> {
    /// No check yet.
    pub fn new(mesh: &'a Mesh) -> Self {
        Self { mesh, checks: crate::Checks::default() }
    }

    /// One sentence that must hold now.
    pub fn check(&mut self, claim: &str, body: impl FnOnce(&Mesh) -> Result<()>) {
        let mesh = self.mesh;
        self.checks.check(claim, || {
            if let Err(error) = body(mesh) {
                panic!("{claim}: {error:#}");
            }
        });
    }

    /// One sentence that must come to hold within five seconds: for edits under way.
    pub fn soon(&mut self, claim: &str, body: impl Fn(&Mesh) -> Result<()>) {
        self.check(claim, |mesh| soon(|| body(mesh)));
    }

    /// Ends the test.
    ///
    /// # Panics
    /// When a check failed.
    #[track_caller]
    pub fn finish(self) {
        self.checks.finish();
    }
}

/// Asks again for up to five seconds: for edits under way and for what is told a moment later (logs, counters, copies).
///
/// # Errors
/// The last answer's.
pub fn soon(mut ask: impl FnMut() -> Result<()>) -> Result<()> {
    #[allow(clippy::disallowed_methods, reason = "tests wait for real programs")]
    let start = Instant::now();
    loop {
        match ask() {
            Err(_) if start.elapsed() < Duration::from_secs(5) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            outcome => return outcome,
        }
    }
}
