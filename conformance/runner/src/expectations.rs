//! The expectations file: what is to become of every test of the suite. A difference either way is a failure, so a
//! test that begins to pass has to be written down as passing, and none can drop out unseen.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail};

use crate::outcome::Outcome;

/// What is to become of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// It runs and passes.
    Pass,
    /// The suite leaves it out, since Weft does not claim what it needs; with the reason.
    NotRun(String),
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("pass"),
            Self::NotRun(reason) => write!(f, "not run: {reason}"),
        }
    }
}

/// All expectations, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expectations(Vec<(String, Expectation)>);

impl Expectations {
    /// Reads the file: `NAME pass` or `NAME not run: REASON` on a line; `#` begins a comment.
    ///
    /// # Errors
    /// If a line says neither, gives no reason or names a test for the second time.
    pub fn parse(text: &str) -> Result<Self> {
        let mut all: Vec<(String, Expectation)> = Vec::new();
        let lines = text.lines().map(str::trim).enumerate();
        for (index, line) in lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#')) {
            let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let expectation = match rest.trim() {
                "pass" => Expectation::Pass,
                other => {
                    let reason = other.strip_prefix("not run:").map(str::trim).filter(|r| !r.is_empty());
                    let reason = reason.with_context(|| {
                        format!("line {}: write `{name} pass` or `{name} not run: REASON`", index + 1)
                    })?;
                    Expectation::NotRun(reason.to_owned())
                }
            };
            if all.iter().any(|(other, _)| other == name) {
                bail!("line {}: {name} is already there", index + 1);
            }
            all.push((name.to_owned(), expectation));
        }
        Ok(Self(all))
    }

    /// For a run of some tests only: the others are left out by it.
    #[must_use]
    pub fn only(self, runs: impl Fn(&str) -> bool) -> Self {
        let left_out = || Expectation::NotRun("it belongs to another run".to_owned());
        let each = self.0.into_iter().map(|(name, expectation)| {
            let expectation = if runs(&name) { expectation } else { left_out() };
            (name, expectation)
        });
        Self(each.collect())
    }

    /// The tests and what is expected of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Expectation)> {
        self.0.iter().map(|(name, expectation)| (name.as_str(), expectation))
    }

    /// How the file differs from the tests that the suite holds.
    #[must_use]
    pub fn missing_and_unknown(&self, suite: &[&str]) -> Vec<String> {
        let missing = suite.iter().filter(|name| self.iter().all(|(n, _)| n != **name));
        let unknown = self.iter().filter(|(name, _)| !suite.contains(name));
        let missing =
            missing.map(|name| format!("{name} is a test of the suite, but no expectation names it"));
        let unknown = unknown.map(|(name, _)| format!("{name} is expected, but the suite has no such test"));
        missing.chain(unknown).collect()
    }

    /// How a run differs from what is expected.
    #[must_use]
    pub fn differences(&self, outcomes: &BTreeMap<String, Outcome>) -> Vec<String> {
        let judge = |(name, expectation): (&str, &Expectation)| {
            let outcome = outcomes.get(name).map(|outcome| outcome.verdict);
            let fits = match expectation {
                Expectation::Pass => outcome == Some(crate::outcome::Verdict::Passed),
                Expectation::NotRun(_) => outcome == Some(crate::outcome::Verdict::Skipped),
            };
            let was = outcome.map_or_else(|| "never began".to_owned(), |outcome| outcome.to_string());
            (!fits).then(|| format!("{name} {was}; expected: {expectation}"))
        };
        let known = |name: &String| self.iter().any(|(n, _)| n == name);
        let unknown = outcomes.keys().filter(|name| !known(name));
        let unknown = unknown.map(|name| format!("{name} ran, but no expectation names it"));
        self.iter().filter_map(judge).chain(unknown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Verdict;

    fn run(of: &[(&str, Verdict)]) -> BTreeMap<String, Outcome> {
        let entry = |(name, verdict): &(&str, Verdict)| {
            ((*name).to_owned(), Outcome { verdict: *verdict, seconds: 0.0 })
        };
        of.iter().map(entry).collect()
    }

    const FILE: &str = "# comment\nA pass\n\nB   not run: no Gateways\n";

    #[test]
    fn file_without_a_reason_or_with_a_double_is_refused() {
        assert!(Expectations::parse(FILE).is_ok());
        for (text, told) in [
            ("A", "line 1"),
            ("A fail", "write `A pass`"),
            ("A pass\nB not run:", "line 2"),
            ("A pass\nA pass", "already there"),
        ] {
            let error = Expectations::parse(text).expect_err(text).to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn in_a_run_of_some_tests_the_others_must_not_run() {
        let file = Expectations::parse("A pass\nB pass").expect("file").only(|name| name == "A");
        assert!(file.differences(&run(&[("A", Verdict::Passed), ("B", Verdict::Skipped)])).is_empty());
        assert_eq!(file.differences(&run(&[("A", Verdict::Passed), ("B", Verdict::Passed)])).len(), 1);
    }

    #[test]
    fn file_and_suite_have_the_same_tests() {
        let file = Expectations::parse(FILE).expect("file");
        assert_eq!(file.missing_and_unknown(&["A", "B"]), Vec::<String>::new());
        assert_eq!(file.missing_and_unknown(&["A", "C"]).len(), 2);
    }

    #[test]
    fn difference_either_way_is_told() {
        use Verdict::{Failed, Passed, Skipped};
        let file = Expectations::parse(FILE).expect("file");
        assert_eq!(file.differences(&run(&[("A", Passed), ("B", Skipped)])), Vec::<String>::new());
        for wrong in [
            run(&[("A", Failed), ("B", Skipped)]),
            run(&[("A", Skipped), ("B", Skipped)]),
            run(&[("A", Passed), ("B", Passed)]),
            run(&[("A", Passed), ("B", Failed)]),
            run(&[("A", Passed)]),
            run(&[("A", Passed), ("B", Skipped), ("C", Passed)]),
        ] {
            assert_eq!(file.differences(&wrong).len(), 1, "{wrong:?}");
        }
    }
}
