//! Nothing outside `conformance/` may know the official suite: no name, host name or image of its manifests, and none of
//! its tests. What is there must work for everybody's Services, not for those.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;

/// The suite's own words, one on a line; written by `cargo xtask conformance --list`.
const WORDS: &str = "conformance/words";
/// What every namespace and class of the suite begins with.
const PREFIX: &str = concat!("gateway-", "conformance");
/// The Gateway API's own text is not ours to change.
const UPSTREAM: [&str; 2] = ["crates/gateway-api/crds/", "crates/gateway-api/src/generated/"];

/// Checks every text file that git knows or would add.
pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let words = std::fs::read_to_string(root.join(WORDS)).with_context(|| format!("reading {WORDS}"))?;
    let words: BTreeSet<&str> = words.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let mut findings = Vec::new();
    for path in run::read(&mut list)?.lines() {
        if path.starts_with("conformance/") || UPSTREAM.iter().any(|prefix| path.starts_with(prefix)) {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        findings.extend(judge(&text, &words).into_iter().map(|word| {
            format!("{path}: names {word:?}, which is the official suite's; only conformance/ may know it")
        }));
    }
    Ok(findings)
}

/// The words of the suite in a text.
fn judge<'a>(text: &'a str, words: &BTreeSet<&str>) -> BTreeSet<&'a str> {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let tokens = text.split(|c: char| !inside(c)).map(|token| token.trim_matches(['.', '-']));
    let tokens: BTreeSet<&str> = tokens.filter(|token| !token.is_empty()).collect();
    let mut found = BTreeSet::new();
    for token in tokens {
        found.extend(parts(token).filter(|part| words.contains(part) || part.starts_with(PREFIX)));
    }
    found
}

/// `a.b.c`, `a.b`, `a`, `b.c`, `b`, `c`: a host name is found in a longer one, and a Service in its host name.
fn parts(token: &str) -> impl Iterator<Item = &str> {
    let starts = std::iter::once(0).chain(token.match_indices('.').map(|(at, _)| at + 1));
    starts.filter_map(|start| token.get(start..)).flat_map(|tail| {
        let ends = tail.match_indices('.').map(|(at, _)| at).chain(std::iter::once(tail.len()));
        ends.filter_map(move |end| tail.get(..end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_suite_are_found_and_others_are_not() {
        let words = BTreeSet::from(["shout-v1", "abc.shout.com", "MeshShouts"]);
        for (text, expected) in [
            ("to: shout-v1", vec!["shout-v1"]),
            ("http://shout-v1.ns.svc:80/", vec!["shout-v1"]),
            ("host \"x.abc.shout.com\".", vec!["abc.shout.com"]),
            ("MeshShouts, MeshShoutsToo", vec!["MeshShouts"]),
            (concat!("in gateway-", "conformance-x"), vec![concat!("gateway-", "conformance-x")]),
            ("shout-v1x my-shout-v1 shout.com shout", vec![]),
        ] {
            assert_eq!(judge(text, &words).into_iter().collect::<Vec<_>>(), expected, "{text}");
        }
    }
}
