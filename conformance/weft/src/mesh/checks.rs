//! Named checks of one mesh, each telling what did not hold as an error.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Mesh;

/// Runs checks against one mesh and gathers what does not hold.
#[derive(Debug)]
pub struct Checks<'a> {
    mesh: &'a Mesh,
    claims: crate::Claims,
}

impl<'a> Checks<'a> {
    /// No check yet.
    pub fn new(mesh: &'a Mesh) -> Self {
        Self { mesh, claims: crate::Claims::default() }
    }

    /// The mesh that is asked.
    #[must_use]
    pub fn mesh(&self) -> &'a Mesh {
        self.mesh
    }

    /// One sentence that must hold now.
    pub fn check(&mut self, claim: &str, body: impl FnOnce(&Mesh) -> Result<()>) {
        let mesh = self.mesh;
        self.claims.judge(claim, || body(mesh).map_err(|error| format!("{error:#}")));
    }

    /// One sentence that must come to hold soon: for edits under way.
    pub fn soon(&mut self, claim: &str, body: impl Fn(&Mesh) -> Result<()>) {
        self.check(claim, |mesh| soon(|| body(mesh)));
    }

    /// A sentence about what Weft alone promises; another mesh is not asked.
    pub fn own(&mut self, claim: &str, body: impl FnOnce(&Mesh) -> Result<()>) {
        if self.mesh.is_weft() {
            self.check(claim, body);
        }
    }

    /// How many checks there were, and the claims of those that failed.
    #[must_use]
    pub fn outcome(self) -> (usize, Vec<String>) {
        self.claims.outcome()
    }

    /// Ends the test.
    ///
    /// # Panics
    /// When a check failed.
    #[track_caller]
    pub fn finish(self) {
        self.claims.finish();
    }
}

/// Asks again for up to half a minute, though on a machine at rest it takes a moment: for edits under way and for what is told a moment later (logs, counters, copies).
///
/// # Errors
/// The last answer's.
pub fn soon(ask: impl FnMut() -> Result<()>) -> Result<()> {
    again(Duration::from_secs(30), ask)
}

/// Asks again for up to five minutes: for pods that start and namespaces that enter the mesh.
///
/// # Errors
/// The last answer's.
pub fn patiently(ask: impl FnMut() -> Result<()>) -> Result<()> {
    again(Duration::from_secs(300), ask)
}

fn again(patience: Duration, mut ask: impl FnMut() -> Result<()>) -> Result<()> {
    #[allow(clippy::disallowed_methods, reason = "tests wait for real programs")]
    let start = Instant::now();
    loop {
        match ask() {
            Err(_) if start.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(50));
            }
            outcome => return outcome,
        }
    }
}
