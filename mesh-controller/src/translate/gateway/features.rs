//! What Gateways of this class can do, in the official suite's words.

/// `status.supportedFeatures` of a GatewayClass, sorted.
pub(crate) const FEATURES: &[&str] = &["Gateway", "HTTPRoute", "ReferenceGrant"];

#[cfg(test)]
mod tests {
    #[test]
    fn features_are_sorted_and_named_once() {
        assert!(super::FEATURES.is_sorted_by(|one, other| one < other));
        assert!(super::FEATURES.len() <= 64, "the API admits no more");
    }
}
