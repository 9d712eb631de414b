//! Rules of another mesh's sidecar in a pod's network namespace (data-plane rule 6).

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::{KernelError, run};
use crate::ruleset::TABLE;

/// Fails when rules other than Weft's redirect the pod's TCP to a port of the pod itself. Run inside the pod's
/// namespace. `outer`: the interfaces to the network; rules for other ones concern only what runs behind those, such as
/// a container engine's.
///
/// # Errors
/// [`KernelError::Sidecar`], or when nft is missing or refuses.
pub fn refuse_sidecar(outer: &[String]) -> Result<(), KernelError> {
    let listing = run("nft", "nftables", &["-j", "list", "ruleset"], "")?;
    let listing: Value = serde_json::from_str(&listing)
        .map_err(|error| KernelError::system("reading what nft -j printed")(error.into()))?;
    if let Some((family, table)) = redirecting(&listing, outer).into_iter().next() {
        // As text too: in JSON, nft leaves out the ports of rules that were made by iptables.
        let text = run("nft", "nftables", &["list", "table", &family, &table], "").unwrap_or_default();
        return Err(KernelError::Sidecar { by: named(&text, &format!("the nft table {family} {table}")) });
    }
    legacy(outer)
}

/// Rules of the older iptables, where the kernel has any and the program is there to read them.
fn legacy(outer: &[String]) -> Result<(), KernelError> {
    for (names, program) in
        [("ip_tables_names", "iptables-legacy-save"), ("ip6_tables_names", "ip6tables-legacy-save")]
    {
        let tables = fs::read_to_string(format!("/proc/thread-self/net/{names}")).unwrap_or_default();
        // Reading a table that is not there would make it.
        for table in tables.lines().filter(|table| ["nat", "mangle"].contains(table)) {
            let Ok(text) = run(program, "iptables", &["-t", table], "") else { continue };
            if text.lines().any(|line| is_legacy_redirect(line, outer)) {
                return Err(KernelError::Sidecar {
                    by: named(&text, &format!("the iptables table {table}")),
                });
            }
        }
    }
    Ok(())
}

fn is_legacy_redirect(line: &str, outer: &[String]) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |flag: &str| words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1));
    let local = match after("-j") {
        Some(&("REDIRECT" | "TPROXY")) => true,
        Some(&"DNAT") => after("--to-destination").is_some_and(|to| is_loopback(to)),
        _ => false,
    };
    let inner = after("-i").is_some_and(|name| is_inner(name, outer));
    local && !inner && after("-p") != Some(&"udp")
}

/// The maker, as far as ports and names tell it.
fn named(text: &str, table: &str) -> String {
    let words: BTreeSet<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let has = |word: &str| words.contains(word);
    if has("15001") || has("15006") || text.contains("ISTIO_") {
        format!("Istio ({table})")
    } else if has("4143") || has("4140") || text.contains("PROXY_INIT_") {
        format!("Linkerd ({table})")
    } else {
        table.to_owned()
    }
}

/// The tables other than Weft's with a rule that hands TCP to a port of the pod itself.
fn redirecting(listing: &Value, outer: &[String]) -> BTreeSet<(String, String)> {
    let entries = listing.get("nftables").and_then(Value::as_array).into_iter().flatten();
    let rules = entries.filter_map(|entry| entry.get("rule"));
    let rules = rules.filter(|rule| is_redirect(rule, outer));
    let table = |rule: &Value| {
        let text = |key: &str| Some(rule.get(key)?.as_str()?.to_owned());
        Some((text("family")?, text("table")?))
    };
    rules.filter_map(table).filter(|(family, table)| (&**family, &**table) != ("inet", TABLE)).collect()
}

fn is_redirect(rule: &Value, outer: &[String]) -> bool {
    let statements = rule.get("expr").and_then(Value::as_array);
    let statements = || statements.into_iter().flatten();
    statements().any(hands_over) && !statements().any(|statement| spares(statement, outer))
}

/// Does a statement hand a connection to the pod itself? Rules that iptables made show their target's name only.
fn hands_over(statement: &Value) -> bool {
    let local = |dnat: &Value| dnat.get("addr").and_then(Value::as_str).is_some_and(is_loopback);
    statement.get("redirect").is_some()
        || statement.get("tproxy").is_some()
        || statement.get("dnat").is_some_and(local)
        || matches!(statement.pointer("/xt/name").and_then(Value::as_str), Some("REDIRECT" | "TPROXY"))
}

/// Does a statement confine its rule to an inner interface, or to UDP?
fn spares(statement: &Value, outer: &[String]) -> bool {
    let Some(found) = statement.get("match").filter(|found| found.get("op").is_some_and(|op| op == "=="))
    else {
        return false;
    };
    let right = found.get("right").and_then(Value::as_str);
    let left = |pointer: &str| found.pointer(pointer).and_then(Value::as_str);
    match (left("/left/meta/key"), left("/left/payload/protocol"), left("/left/payload/field")) {
        (Some("iif" | "iifname"), ..) => right.is_some_and(|name| is_inner(name, outer)),
        (Some("l4proto"), ..) | (_, Some("ip"), Some("protocol")) | (_, Some("ip6"), Some("nexthdr")) => {
            right == Some("udp")
        }
        (_, protocol, _) => protocol == Some("udp"),
    }
}

fn is_inner(name: &str, outer: &[String]) -> bool {
    name != "lo" && !outer.iter().any(|outer| outer == name)
}

fn is_loopback(address: &str) -> bool {
    address.starts_with("127.") || address == "::1" || address.starts_with("[::1]")
}
