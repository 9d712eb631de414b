//! Named checks: all of them run, and those that do not hold are listed at the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Named checks over one lab or cluster.
#[derive(Debug, Default)]
pub struct Claims {
    failed: Vec<String>,
    count: usize,
}

impl Claims {
    /// Runs one check; a panic inside is its failure.
    #[allow(clippy::disallowed_methods, reason = "tells how long a check took")]
    pub fn check(&mut self, claim: &str, body: impl FnOnce()) {
        self.count += 1;
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(body));
        let word = if outcome.is_ok() { "holds" } else { "FAILS" };
        eprintln!("{word} {claim} ({:.1} s)", start.elapsed().as_secs_f32());
        if outcome.is_err() {
            self.failed.push(claim.to_owned());
        }
    }

    /// How many checks there were, and the claims of those that failed.
    #[must_use]
    pub fn outcome(self) -> (usize, Vec<String>) {
        (self.count, self.failed)
    }

    /// Ends the test.
    ///
    /// # Panics
    /// When a check failed.
    #[track_caller]
    pub fn finish(self) {
        let (count, failed) = self.outcome();
        assert!(failed.is_empty(), "{} of {count} checks failed:\n  {}", failed.len(), failed.join("\n  "));
    }
}
