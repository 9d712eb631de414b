//! `weft check --explain ID`: the book's page on checks is inside the program, so that the hint is there without a network.

use anyhow::{Result, bail};

use super::list::CHECKS;

/// The book's page, from where this file is.
const PAGE: &str = include_str!("../../../../docs/checks.md");

/// The section of one check.
///
/// # Errors
/// When there is no such check.
pub(super) fn section(id: &str) -> Result<String> {
    let id = id.to_uppercase();
    if !CHECKS.iter().any(|check| check.id == id) {
        let ids: Vec<&str> = CHECKS.iter().map(|check| check.id).collect();
        bail!("there is no check {id}; there are {}", ids.join(", "));
    }
    let begins = |line: &str| line == format!("## {id}");
    let lines = PAGE.lines().skip_while(|line| !begins(line));
    let mut text = String::new();
    for line in lines.take_while(|line| begins(line) || !line.starts_with("## ")) {
        text.push_str(line);
        text.push('\n');
    }
    Ok(format!("{}\n", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_a_section_that_repeats_its_title() {
        for check in CHECKS {
            let section = section(check.id).unwrap();
            assert!(section.contains(check.title), "{}: {section:?}", check.id);
            assert!(section.lines().count() > 2, "{}: {section:?}", check.id);
        }
        let sections = PAGE.lines().filter(|line| line.starts_with("## WEFT")).count();
        assert_eq!(sections, CHECKS.len(), "a section without a check");
    }

    #[test]
    fn an_unknown_id_is_answered_with_those_that_exist() {
        assert!(section("weft999").unwrap_err().to_string().contains("WEFT001"));
        assert!(section("weft001").unwrap().starts_with("## WEFT001"));
    }
}
