//! What became of each test, read from the lines that `go test -v` prints.

use std::collections::BTreeMap;
use std::fmt;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// The suite left it out.
    Skipped,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "was not run",
        })
    }
}

/// How a test ended, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// Its time, in seconds.
    pub seconds: f64,
}

/// The tests right below `parent` (a Go test function's name) that `output` tells the end of.
#[must_use]
pub fn read(output: &str, parent: &str) -> BTreeMap<String, Outcome> {
    output.lines().filter_map(|line| end_of(line.trim_start(), parent)).collect()
}

/// `--- PASS: TestConformance/Name (1.23s)`.
fn end_of(line: &str, parent: &str) -> Option<(String, Outcome)> {
    let (verdict, rest) = line.strip_prefix("--- ")?.split_once(": ")?;
    let verdict = match verdict {
        "PASS" => Verdict::Passed,
        "FAIL" => Verdict::Failed,
        "SKIP" => Verdict::Skipped,
        _ => return None,
    };
    let (name, time) = rest.rsplit_once(" (")?;
    let name = name.strip_prefix(parent)?.strip_prefix('/')?;
    let seconds = time.strip_suffix("s)")?.parse().ok()?;
    (!name.contains('/')).then(|| (name.to_owned(), Outcome { verdict, seconds }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_direct_tests_are_read_and_those_below_are_not() {
        let output = "\
=== RUN   TestConformance/MeshBasic
    suite.go:1: --- PASS is only text here
--- FAIL: TestConformance (12.00s)
    --- PASS: TestConformance/MeshBasic (0.48s)
        --- PASS: TestConformance/MeshBasic/0_request_to_'/' (0.40s)
    --- FAIL: TestConformance/MeshPorts (30.10s)
    --- SKIP: TestConformance/HTTPRouteWeight (0.00s)
FAIL";
        let read = read(output, "TestConformance");
        let verdicts: Vec<_> = read.iter().map(|(name, o)| (name.as_str(), o.verdict)).collect();
        assert_eq!(
            verdicts,
            [
                ("HTTPRouteWeight", Verdict::Skipped),
                ("MeshBasic", Verdict::Passed),
                ("MeshPorts", Verdict::Failed)
            ]
        );
        assert!((read["MeshPorts"].seconds - 30.1).abs() < f64::EPSILON);
    }
}
