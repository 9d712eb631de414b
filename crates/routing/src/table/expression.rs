//! Regular expressions of matches: the whole value must match.

use regex::bytes::{Regex, RegexBuilder};

/// Bytes a compiled expression may take: enough for any written by hand, little enough for thousands of rules.
const SIZE_LIMIT: usize = 1 << 20;

/// Compiles `expression` so that it must match from the first to the last byte.
pub(crate) fn full_match(expression: &str) -> Result<Regex, regex::Error> {
    // First by itself, so that `a)|(b` is an error and not a way out of the anchors.
    RegexBuilder::new(expression).size_limit(SIZE_LIMIT).build()?;
    RegexBuilder::new(&anchored(expression)).size_limit(SIZE_LIMIT).build()
}

pub(crate) fn anchored(expression: &str) -> String {
    format!(r"\A(?:{expression})\z")
}
