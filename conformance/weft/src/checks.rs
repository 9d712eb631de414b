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
    pub fn check(&mut self, claim: &str, body: impl FnOnce()) {
        self.judge(claim, || {
            body();
            Ok(())
        });
    }

    /// Runs one check that says what does not hold.
    #[allow(clippy::disallowed_methods, reason = "tells how long a check took")]
    pub fn judge(&mut self, claim: &str, body: impl FnOnce() -> Result<(), String>) {
        self.count += 1;
        let start = Instant::now();
        // Who panics has said why.
        let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err("see above".to_owned()));
        let took = start.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => eprintln!("holds {claim} ({took:.1} s)"),
            Err(why) => {
                eprintln!("FAILS {claim} ({took:.1} s)\n      {why}");
                self.failed.push(claim.to_owned());
            }
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
