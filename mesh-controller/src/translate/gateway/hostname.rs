//! Hostnames of listeners and routes: which have names in common. A wildcard stands for one label or more.

/// Whether two hostnames, lower case, have a name in common.
pub(crate) fn intersect(one: &str, other: &str) -> bool {
    match (one.strip_prefix('*'), other.strip_prefix('*')) {
        (None, None) => one == other,
        (Some(suffix), None) => covers(suffix, other),
        (None, Some(suffix)) => covers(suffix, one),
        (Some(one), Some(other)) => one.ends_with(other) || other.ends_with(one),
    }
}

/// `suffix` begins with a dot.
fn covers(suffix: &str, name: &str) -> bool {
    name.len() > suffix.len() && name.ends_with(suffix)
}

#[cfg(test)]
mod tests {
    use super::intersect;

    #[test]
    fn names_in_common_are_found_from_either_side() {
        for (one, other, common) in [
            ("a.example", "a.example", true),
            ("a.example", "b.example", false),
            ("*.example", "a.example", true),
            ("*.example", "a.b.example", true),
            ("*.example", "example", false),
            ("*.example", "notexample", false),
            ("*.com", "*.example.com", true),
            ("*.example.com", "*.other.com", false),
            ("*.example.com", "*.ample.com", false),
        ] {
            assert_eq!(intersect(one, other), common, "{one} {other}");
            assert_eq!(intersect(other, one), common, "{other} {one}");
        }
    }
}
