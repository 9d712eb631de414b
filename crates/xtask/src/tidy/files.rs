//! Rules about single files: each says what it is for, none grows without bound, none skips a test.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::run;

/// Lines a source file may have before its tests.
const MAX_LINES: usize = 500;
/// Lines of tests that may stand at the end of a source file; longer ones go to a sibling file.
const MAX_TEST_LINES: usize = 100;
/// The one module that may hold `unsafe`: this file and its children.
const UNSAFE_MODULE: &str = "crates/runtime/src/fd.rs";

/// Checks every Rust file that git knows or would add.
pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"]).current_dir(root);
    let mut findings = Vec::new();
    for path in run::read(&mut list)?.lines().filter(|p| !p.contains("/generated/")) {
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        findings.extend(check_file(path, &text).into_iter().map(|f| format!("{path}: {f}")));
    }
    Ok(findings)
}

fn check_file(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if !text.trim_start_matches("#![cfg(test)]").trim_start().starts_with("//!") {
        findings.push("does not open with `//!`, saying what it is for".to_owned());
    }
    let is_test = path.contains("/tests/") || path.ends_with("/tests.rs") || path.contains("/benches/");
    let tests_start = text.lines().position(|l| l.trim() == "mod tests {").unwrap_or(usize::MAX);
    let lines = text.lines().count();
    if !is_test && lines.min(tests_start) > MAX_LINES {
        findings.push(format!(
            "{} lines without its tests; split it (at most {MAX_LINES})",
            lines.min(tests_start)
        ));
    }
    if tests_start < lines && lines - tests_start > MAX_TEST_LINES {
        findings.push(format!("{} lines of tests inside; move them to a sibling file", lines - tests_start));
    }
    // Spelt in two parts so that this file does not find itself.
    if text.contains(concat!("#[", "ignore")) {
        findings.push("skips a test; mend it or remove it".to_owned());
    }
    if text.contains(concat!("todo!", "(")) || text.contains(concat!("unimplemented!", "(")) {
        findings.push("holds an unfinished place".to_owned());
    }
    let declares_it =
        path == "crates/runtime/src/lib.rs" && text.matches(concat!("allow(", "unsafe_code)")).count() == 1;
    if path != UNSAFE_MODULE && !declares_it && text.contains(concat!("allow(", "unsafe_code)")) {
        findings.push(format!("allows unsafe code; that belongs in {UNSAFE_MODULE}"));
    }
    let is_crate_root =
        path.ends_with("src/lib.rs") || path.ends_with("src/main.rs") || path.contains("/src/bin/");
    if is_crate_root && !path.starts_with("crates/runtime/") && !text.contains("#![forbid(unsafe_code)]") {
        findings.push("a crate root without `#![forbid(unsafe_code)]`".to_owned());
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::check_file;

    #[test]
    fn each_rule_finds_its_fault() {
        let long = "//! x\n".to_owned() + &"fn f() {}\n".repeat(500);
        let cases = [
            ("a/src/x.rs", "fn f() {}".to_owned(), "does not open"),
            ("a/src/x.rs", long, "lines without its tests"),
            ("a/src/x.rs", "//! x\nmod tests {\n".to_owned() + &"//\n".repeat(101), "sibling"),
            ("a/src/x.rs", format!("//! x\n#[{}]\n", "ignore"), "skips a test"),
            ("a/src/x.rs", format!("//! x\n{}()\n", "todo!"), "unfinished"),
            ("a/src/x.rs", format!("//! x\n#![allow({})]\n", "unsafe_code"), "unsafe"),
            ("a/src/lib.rs", "//! x\n".to_owned(), "forbid"),
        ];
        for (path, text, expected) in cases {
            let findings = check_file(path, &text);
            assert!(findings.iter().any(|f| f.contains(expected)), "{expected}: {findings:?}");
        }
        assert_eq!(check_file("a/src/x.rs", "//! x\nfn f() {}\n"), Vec::<String>::new());
    }
}
