//! The way back from the application to the proxy: packets with the inbound mark are delivered locally whatever their
//! destination, because the proxy's socket has the caller's address (data-plane rule 16).

use serde_json::Value;

use super::{KernelError, run};

/// Routing table and rule preference; the number that stands for the inbound leg everywhere.
pub const TABLE: u32 = 15006;

const PACKAGE: &str = "iproute2";

/// Makes rule and route as they should be. Run inside the pod's namespace.
///
/// # Errors
/// When `ip` is missing or refuses.
pub fn install(inbound_mark: u32, ipv6: bool) -> Result<(), KernelError> {
    for family in families(ipv6) {
        let mut script = String::new();
        for _ in 0..rules(family)?.len() {
            script.push_str(&format!("rule del pref {TABLE}\n"));
        }
        script.push_str(&format!("route replace local default dev lo table {TABLE}\n"));
        script.push_str(&format!("rule add pref {TABLE} fwmark {inbound_mark:#x} lookup {TABLE}\n"));
        run("ip", PACKAGE, &[family, "-batch", "-"], &script)?;
    }
    Ok(())
}

/// Compares rule and route with what they should be. Run inside the pod's namespace.
///
/// # Errors
/// [`KernelError::Differs`], or when `ip` fails for another reason.
pub fn verify(inbound_mark: u32, ipv6: bool) -> Result<(), KernelError> {
    for family in families(ipv6) {
        let rules = rules(family)?;
        let right = |rule: &Value| {
            rule.get("fwmark").and_then(Value::as_str) == Some(&format!("{inbound_mark:#x}"))
                && rule.get("table").and_then(Value::as_str) == Some(&TABLE.to_string())
                && rule.get("src").and_then(Value::as_str) == Some("all")
        };
        let right = matches!(rules.as_slice(), [rule] if right(rule));
        if !(right && routed(family)?) {
            return Err(KernelError::Differs { what: "the routing rules" });
        }
    }
    Ok(())
}

/// Removes rule and route. Run inside the pod's namespace.
///
/// # Errors
/// When `ip` is missing or refuses.
pub fn remove(ipv6: bool) -> Result<(), KernelError> {
    for family in families(ipv6) {
        let mut script = String::new();
        for _ in 0..rules(family)?.len() {
            script.push_str(&format!("rule del pref {TABLE}\n"));
        }
        if routed(family)? {
            script.push_str(&format!("route flush table {TABLE}\n"));
        }
        run("ip", PACKAGE, &[family, "-batch", "-"], &script)?;
    }
    Ok(())
}

fn families(ipv6: bool) -> impl Iterator<Item = &'static str> {
    ["-4", "-6"].into_iter().take(if ipv6 { 2 } else { 1 })
}

/// Every rule at our preference.
fn rules(family: &str) -> Result<Vec<Value>, KernelError> {
    let text = run("ip", PACKAGE, &[family, "-N", "-json", "rule", "show"], "")?;
    let rules: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
    Ok(rules
        .into_iter()
        .filter(|rule| rule.get("priority").and_then(Value::as_u64) == Some(u64::from(TABLE)))
        .collect())
}

fn routed(family: &str) -> Result<bool, KernelError> {
    let table = TABLE.to_string();
    // A table that was never used is an error for `ip`, and no route for us.
    let text = match run("ip", PACKAGE, &[family, "-N", "-details", "route", "show", "table", &table], "") {
        Err(KernelError::Program { .. }) => return Ok(false),
        other => other?,
    };
    // Type 2 is RTN_LOCAL; `-N` prints numbers where names depend on files in /etc.
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let local = first.starts_with("local default dev lo") || first.starts_with("2 default dev lo");
    Ok(local && lines.next().is_none())
}
