//! What `weft check` prints.

use std::fmt::Write as _;

use serde::Serialize;

use super::list::Check;
use super::verdict::{Finding, Severity, Verdict};
use crate::output::count;

/// Findings of one check that are shown as text; JSON holds all of them.
const SHOWN: usize = 10;

/// All checks with what they found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// This command's version.
    version: &'static str,
    /// The API server's version.
    kubernetes: String,
    checks: Vec<Checked>,
}

/// One check.
#[derive(Debug, Serialize)]
struct Checked {
    id: &'static str,
    title: &'static str,
    result: Outcome,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    findings: Vec<Finding>,
    /// Why it could not be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// The section of the book that says what to do.
    hint: String,
}

/// The worst that a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    Info,
    Warning,
    Error,
    Unknown,
}

impl Outcome {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "ERROR",
            Self::Unknown => "?",
        }
    }
}

impl Report {
    pub(super) fn new<'a>(kubernetes: String, checks: impl Iterator<Item = (&'a Check, Verdict)>) -> Self {
        let checks = checks.map(|(check, verdict)| {
            let (result, findings, problem) = match verdict {
                Ok(findings) => (outcome(&findings), findings, None),
                Err(unknown) => (Outcome::Unknown, Vec::new(), Some(unknown.to_string())),
            };
            let hint = format!("docs/checks.md#{}", check.id.to_lowercase());
            Checked { id: check.id, title: check.title, result, findings, problem, hint }
        });
        Self { version: env!("CARGO_PKG_VERSION"), kubernetes, checks: checks.collect() }
    }

    pub(super) fn exit_code(&self) -> u8 {
        let any = |outcome| self.checks.iter().any(|check| check.result == outcome);
        match () {
            () if any(Outcome::Error) => 1,
            () if any(Outcome::Unknown) => super::NOT_CHECKED,
            () => 0,
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("Weft {} on Kubernetes {}\n\n", self.version, self.kubernetes);
        for check in &self.checks {
            let _ = writeln!(text, "{:<7}  {}  {}", check.result.word(), check.id, check.title);
            if let Some(problem) = &check.problem {
                let _ = writeln!(text, "           could not be looked at: {problem}");
            }
            for finding in check.findings.iter().take(SHOWN) {
                let _ = writeln!(text, "           {}", line(finding, check.result));
            }
            if let Some(more) = check.findings.len().checked_sub(SHOWN).filter(|more| *more > 0) {
                let _ = writeln!(text, "           and {more} more: --output json shows all");
            }
        }
        let _ = writeln!(text, "\n{}", self.summary());
        text
    }

    fn summary(&self) -> String {
        let with = |outcome| self.checks.iter().filter(move |check| check.result == outcome);
        let (errors, warnings) = (with(Outcome::Error).count(), with(Outcome::Warning).count());
        let unknown = with(Outcome::Unknown).count();
        let mut parts =
            vec![format!("{} with errors", count(errors, "check")), format!("{warnings} with warnings")];
        if unknown > 0 {
            parts.push(format!("{unknown} that could not be made"));
        }
        let worst = [Outcome::Error, Outcome::Warning, Outcome::Unknown];
        match worst.into_iter().find_map(|outcome| with(outcome).next()) {
            Some(check) => format!("{}. What to do: weft check --explain {}", parts.join(", "), check.id),
            None => format!("{}.", parts.join(", ")),
        }
    }
}

/// One finding; its severity is said where it is not the check's.
fn line(finding: &Finding, of_check: Outcome) -> String {
    let severity = match of_check == outcome(std::slice::from_ref(finding)) {
        true => String::new(),
        false => format!("({}) ", finding.severity.word()),
    };
    match finding.object.is_empty() {
        true => format!("{severity}{}", finding.message),
        false => format!("{severity}{}: {}", finding.object, finding.message),
    }
}

fn outcome(findings: &[Finding]) -> Outcome {
    match findings.iter().map(|finding| finding.severity).max() {
        None => Outcome::Ok,
        Some(Severity::Info) => Outcome::Info,
        Some(Severity::Warning) => Outcome::Warning,
        Some(Severity::Error) => Outcome::Error,
    }
}
