//! What the suite holds, as its own test program tells it (`conformance/suite/list_test.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// Domains that documentation may use (RFC 2606), and those of the projects themselves.
const EVERYBODYS: [&str; 6] =
    ["example.com", "example.net", "example.org", "k8s.io", "kubernetes.io", "github.com"];
/// Ordinary words of the trade that the suite happens to use as names.
const ORDINARY: [&str; 2] = ["cross-namespace", "x-version"];

/// The suite's tests, features, words and images.
#[derive(Clone, Debug, Deserialize)]
pub struct Listing {
    /// The release of the Gateway API that the suite belongs to.
    pub version: String,
    /// All tests, in the order in which they run.
    pub tests: Vec<Test>,
    features: Vec<String>,
    words: Vec<String>,
    /// The container images that the suite's pods run.
    pub images: Vec<String>,
}

/// One test.
#[derive(Clone, Debug, Deserialize)]
pub struct Test {
    /// Its short name.
    pub name: String,
    /// The features without which the suite leaves it out.
    pub features: Vec<String>,
}

impl Listing {
    /// Reads what the test program wrote.
    ///
    /// # Errors
    /// If the file is not there or holds something else.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", file.display()))
    }

    /// The tests' names, in the order in which they run.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.tests.iter().map(|test| test.name.as_str()).collect()
    }

    /// Every feature with the tests that need it, as the file with them should be.
    #[must_use]
    pub fn features(&self) -> String {
        let mut features: BTreeMap<&str, Vec<&str>> =
            self.features.iter().map(|feature| (feature.as_str(), Vec::new())).collect();
        for test in &self.tests {
            for feature in &test.features {
                features.entry(feature).or_default().push(&test.name);
            }
        }
        let head = format!(
            "# The features of the official suite {}, each with the tests that need it. Written by\n\
             # `cargo xtask conformance --list`.\n",
            self.version
        );
        let line = |(feature, tests): (&str, Vec<&str>)| {
            format!("{feature} {}", tests.join(" ")).trim_end().to_owned() + "\n"
        };
        features.into_iter().map(line).fold(head, |text, line| text + &line)
    }

    /// The words that nothing outside `conformance/` may contain, as the file with them should be.
    #[must_use]
    pub fn words(&self) -> String {
        let images = self.images.iter().filter_map(|image| image.rsplit('/').next()?.split(':').next());
        let names = self.names().into_iter().filter(|name| !self.features.iter().any(|f| f == name));
        let words: BTreeSet<&str> =
            self.words.iter().map(String::as_str).chain(images).chain(names).filter(|w| is_own(w)).collect();
        let head = format!(
            "# Names, host names and images of the official suite {}, and its tests. Written by\n\
             # `cargo xtask conformance --list`; `cargo xtask tidy` fails where one occurs outside this folder.\n",
            self.version
        );
        words.into_iter().fold(head, |text, word| text + word + "\n")
    }
}

fn is_own(word: &str) -> bool {
    let of = |domain: &&str| word == *domain || word.strip_suffix(*domain).is_some_and(|w| w.ends_with('.'));
    let example = EVERYBODYS.iter().take(3).any(|domain| word == *domain);
    let project = EVERYBODYS.iter().skip(3).any(of);
    !(word.starts_with('*') || example || project || ORDINARY.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_suites_own() {
        let listing: Listing = serde_json::from_value(serde_json::json!({
            "version": "v1", "features": ["MeshPorts"], "images": ["r.example/a/shout:v1"],
            "tests": [{"name": "MeshPorts", "features": []}, {"name": "MeshWeights", "features": []}],
            "words": ["shout-v1", "x-version", "*.x.example.com", "example.com", "abc.example.com", "a.k8s.io"],
        }))
        .expect("listing");
        assert!(listing.features().ends_with("\nMeshPorts\n"), "{}", listing.features());
        let text = listing.words();
        let words: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(words, ["MeshWeights", "abc.example.com", "shout", "shout-v1"]);
    }
}
