//! The names of what is made for a Gateway, and the labels that it is found by again (GEP-1762).

use std::fmt::Write;

use sha2::{Digest, Sha256};

pub use crate::translate::status::GATEWAY_CONTROLLER_NAME as CONTROLLER_NAME;
/// The label, always with the value [`CONTROLLER`], on everything that the controller makes.
pub use weft_model::workload::MANAGED_BY_LABEL as MANAGED_BY;

/// The GatewayClass that comes with the controller.
pub const CLASS: &str = "weft";
/// The label that says which Gateway something was made for.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// The controller, as the value of [`MANAGED_BY`].
pub const CONTROLLER: &str = "weft-controller";

/// The longest label value, and the longest name of a Service.
const LONGEST: usize = 63;
/// Hexadecimal digits of a hash that makes a shortened name unique again.
const HASH: usize = 8;

/// The name of a Gateway's ServiceAccount, Deployment and PodDisruptionBudget, and of the Service that no address was
/// requested for: `<gateway>-<class>`, if a Service may be called so; else what can be kept of it, and a hash.
pub fn object(gateway: &str, class: &str) -> String {
    let plain = format!("{gateway}-{class}");
    if is_service_name(&plain) { plain } else { hashed(&plain, &[gateway, class]) }
}

/// The name of the Service for an address that `spec.addresses` requests. It depends on nothing but the address, so
/// that a change to the list leaves the others' Services alone.
pub fn service_for(gateway: &str, class: &str, address: &str) -> String {
    hashed(&object(gateway, class), &[gateway, class, address])
}

/// The value of [`GATEWAY_NAME`]: the Gateway's name, and if that is too long for a label a prefix and a hash.
pub fn label(gateway: &str) -> String {
    if gateway.len() <= LONGEST { gateway.to_owned() } else { hashed(gateway, &[gateway]) }
}

/// What can be kept of a name, and a hash of what it stands for.
fn hashed(name: &str, of: &[&str]) -> String {
    let first = if name.starts_with(|c: char| c.is_ascii_lowercase()) { "" } else { "g-" };
    let kept = name.chars().map(|c| if c == '.' { '-' } else { c });
    let mut made: String = first.chars().chain(kept).take(LONGEST - HASH - 1).collect();
    made.truncate(made.trim_end_matches('-').len());
    made.push('-');
    // No name contains the slash, so that no two lists are written alike.
    let digest = Sha256::digest(of.join("/"));
    for byte in digest.iter().take(HASH / 2) {
        // Writing to a string cannot fail.
        let _ = write!(made, "{byte:02x}");
    }
    made
}

/// RFC 1035 labels, which the names of Services are.
fn is_service_name(name: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= LONGEST
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_gateway_gives_its_name_and_class() {
        assert_eq!(object("shop", "weft"), "shop-weft");
        assert_eq!(label("shop"), "shop");
    }

    #[test]
    fn every_name_is_one_that_a_service_may_have() {
        let long = "a".repeat(253);
        for (gateway, class) in
            [("shop", "weft"), ("1shop", "weft"), ("shop.example", "weft"), (&long, &long)]
        {
            let names = [object(gateway, class), service_for(gateway, class, "203.0.113.1")];
            assert!(names.iter().all(|name| is_service_name(name)), "{names:?}");
            assert!(label(gateway).len() <= LONGEST);
        }
        let edge = format!("{}-{}", "a".repeat(53), "b".repeat(60));
        assert!(!object(&edge, "weft").contains("--"));
    }

    #[test]
    fn shortened_names_stay_apart() {
        let one = object(&format!("{}1", "a".repeat(100)), "weft");
        let other = object(&format!("{}2", "a".repeat(100)), "weft");
        assert_ne!(one, other);
        assert_ne!(object("shop.a", "weft"), object("shop-a", "weft"));
        assert_ne!(service_for("shop", "weft", "203.0.113.1"), service_for("shop", "weft", "203.0.113.2"));
        assert_ne!(service_for("shop", "weft", "203.0.113.1"), object("shop", "weft"));
    }
}
