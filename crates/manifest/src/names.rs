//! Kubernetes' rules for names (RFC 1123 and 1035, as apimachinery's validation reads them).

/// `[a-z0-9]` and inside also `-`, at most 63.
pub(crate) fn is_dns_label(name: &str) -> bool {
    (1..=63).contains(&name.len()) && is_label_part(name)
}

/// As [`is_dns_label`], beginning with a letter.
pub(crate) fn is_dns_1035_label(name: &str) -> bool {
    is_dns_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase())
}

/// Labels joined by dots, at most 253 in all.
pub(crate) fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label_part)
}

fn is_label_part(part: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
}

/// `prefix/name` or `name`; the name part at most 63, of letters, digits, `-`, `_` and `.`, ends alphanumeric.
pub(crate) fn is_qualified_name(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    prefix.is_none_or(is_dns_subdomain) && !name.is_empty() && is_label_value(name)
}

/// Empty, or as the name part of a qualified name.
pub(crate) fn is_label_value(value: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    value.is_empty()
        || (value.len() <= 63
            && value.chars().all(|c| alphanumeric(c) || matches!(c, '-' | '_' | '.'))
            && value.starts_with(alphanumeric)
            && value.ends_with(alphanumeric))
}
