//! `docs/features.md`: what is supported, feature by feature. Made from the controller's own lists, from the tests of the
//! official suite that need each feature (`conformance/features`), and from what is expected of these.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use weft_controller::kubernetes::mesh::FEATURES as ON_SERVICES;
use weft_controller::translate::GATEWAY_FEATURES as AT_GATEWAYS;

use crate::expectations::{Expectation, Expectations};

/// What each feature of the suite means, by the suite's name, in the order of the page's sections.
const WHAT: &[(&str, &[(&str, &str)])] = &[
    (
        "Kinds",
        &[
            ("Gateway", "Gateways, with listeners of HTTP, HTTPS, TLS, TCP and UDP"),
            ("ListenerSet", "listeners that are written apart from their Gateway"),
            (
                "HTTPRoute",
                "HTTPRoutes: matches by path, header and hostname, weights, header filters, redirects by host and code",
            ),
            ("GRPCRoute", "GRPCRoutes: matches by service, method and header, weights"),
            ("TLSRoute", "TLSRoutes: by server name, passed through"),
            ("TCPRoute", "TCPRoutes, with weights"),
            ("UDPRoute", "UDPRoutes, with weights"),
            ("ReferenceGrant", "references into other namespaces"),
            ("BackendTLSPolicy", "TLS from Gateways to backends"),
            ("Mesh", "routes on Services, for callers in the mesh"),
        ],
    ),
    (
        "Gateways",
        &[
            ("GatewayAddressEmpty", "an entry of `addresses` without a value: any address"),
            ("GatewayAddressRoutability", "`addresses[].routability`"),
            ("GatewayAddressRoutabilityCluster", "`routability: Cluster`"),
            ("GatewayBackendClientCertificate", "a certificate that the Gateway shows to backends"),
            ("GatewayFrontendClientCertificateValidation", "clients' certificates, per port or for all"),
            (
                "GatewayFrontendClientCertificateValidationInsecureFallback",
                "the same, with clients let in that show none",
            ),
            (
                "GatewayHTTPListenerIsolation",
                "a request belongs to the listener with the most specific hostname alone",
            ),
            (
                "GatewayHTTPSListenerDetectMisdirectedRequests",
                "421 for a request on a connection made for another listener",
            ),
            ("GatewayInfrastructure", "labels, annotations and parameters of what is made for a Gateway"),
            ("GatewayListenerFilters", "filters of listeners"),
            ("GatewayPort8080", "a listener on port 8080"),
            (
                "GatewayRouteHostnameIntersectionPrecedence",
                "routes go by their own hostnames, with fall-through",
            ),
            ("GatewayStaticAddresses", "addresses that are asked for"),
            ("ClusterTrustBundle", "roots from ClusterTrustBundles"),
        ],
    ),
    (
        "HTTPRoutes",
        &[
            ("HTTPRoute303RedirectStatusCode", "redirects with 303"),
            ("HTTPRoute307RedirectStatusCode", "redirects with 307"),
            ("HTTPRoute308RedirectStatusCode", "redirects with 308"),
            ("HTTPRouteBackendProtocolH2C", "backends that speak HTTP/2 in plaintext"),
            ("HTTPRouteBackendProtocolWebSocket", "WebSockets"),
            ("HTTPRouteBackendRequestHeaderModification", "request headers changed for one backend"),
            ("HTTPRouteBackendTimeout", "`timeouts.backendRequest`"),
            ("HTTPRouteBackendURLRewrite", "paths and hosts rewritten for one backend"),
            ("HTTPRouteCORS", "cross-origin requests, preflights included"),
            ("HTTPRouteDestinationPortMatching", "a parentRef's port, judged with its listeners"),
            ("HTTPRouteHostRewrite", "`urlRewrite.hostname`"),
            ("HTTPRouteMethodMatching", "matches by method"),
            ("HTTPRouteNamedRouteRule", "rules with names"),
            ("HTTPRouteParentRefPort", "a parentRef with a port"),
            ("HTTPRoutePathRedirect", "redirects with another path"),
            ("HTTPRoutePathRewrite", "`urlRewrite.path`"),
            ("HTTPRoutePortRedirect", "redirects to another port"),
            ("HTTPRouteQueryParamMatching", "matches by query parameter"),
            ("HTTPRouteRequestMirror", "copies of requests"),
            ("HTTPRouteRequestMultipleMirrors", "several of them"),
            ("HTTPRouteRequestPercentageMirror", "copies of a share of requests"),
            ("HTTPRouteRequestTimeout", "`timeouts.request`"),
            ("HTTPRouteResponseHeaderModification", "response headers changed"),
            ("HTTPRouteRetryCodes", "`retry` after certain status codes"),
            ("HTTPRouteRetryConnectionError", "`retry` after a failed connection"),
            ("HTTPRouteSchemeRedirect", "redirects to another scheme"),
        ],
    ),
    (
        "GRPCRoutes, TLSRoutes, BackendTLSPolicies",
        &[
            ("GRPCRouteNamedRouteRule", "rules with names"),
            ("GRPCRouteRequestHeaderModifier", "request headers changed"),
            ("TLSRouteModeTerminate", "listeners that end TLS and pass bytes on"),
            ("TLSRouteModeMixed", "listeners that end TLS beside ones that pass it through, on one port"),
            ("BackendTLSPolicySANValidation", "backends known by subject alternative names"),
        ],
    ),
    (
        "Routes on Services",
        &[
            ("MeshClusterIPMatching", "the Service is told by its address, whatever the Host header says"),
            ("MeshConsumerRoute", "routes in a caller's namespace, for its callers alone"),
            ("MeshHTTPRouteBackendRequestHeaderModification", "request headers changed for one backend"),
            ("MeshHTTPRouteNamedRouteRule", "rules with names"),
            ("MeshHTTPRouteQueryParamMatching", "matches by query parameter"),
            ("MeshHTTPRouteRedirectPath", "redirects with another path"),
            ("MeshHTTPRouteRedirectPort", "redirects to another port"),
            ("MeshHTTPRouteRewritePath", "`urlRewrite.path`"),
            ("MeshHTTPRouteSchemeRedirect", "redirects to another scheme"),
        ],
    ),
];

/// The tests that need each feature, by feature.
pub type Needed = BTreeMap<String, Vec<String>>;

/// Reads `conformance/features`: a feature and the tests that need it on each line.
///
/// # Errors
/// If a feature is named twice.
pub fn parse(text: &str) -> Result<Needed> {
    let mut needed = Needed::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace().map(str::to_owned);
        let Some(feature) = words.next() else { continue };
        let before = needed.insert(feature.clone(), words.collect());
        anyhow::ensure!(before.is_none(), "{feature} is there twice");
    }
    Ok(needed)
}

/// The page.
///
/// # Errors
/// If a feature is not described, or a description is of none.
pub fn page(needed: &Needed, expectations: &Expectations) -> Result<String> {
    let mut page = HEAD.to_owned();
    let mut described = Vec::new();
    for (section, features) in WHAT {
        page += &format!(
            "\n## {section}\n\n| Feature | | At Gateways | On Services | Tests |\n|---|---|---|---|---|\n"
        );
        for (name, what) in *features {
            described.push(*name);
            let tests = needed.get(*name).with_context(|| format!("{name} is no feature of the suite"))?;
            let claimed = |list: &[&str]| if list.contains(name) { "yes" } else { "–" };
            let (gateways, services) = (claimed(AT_GATEWAYS), claimed(&ON_SERVICES));
            page += &format!(
                "| `{name}` | {what} | {gateways} | {services} | {} |\n",
                judged(tests, expectations)
            );
        }
    }
    let forgotten: Vec<&String> = needed.keys().filter(|name| !described.contains(&name.as_str())).collect();
    anyhow::ensure!(forgotten.is_empty(), "{} does not say what these are: {forgotten:?}", file!());
    Ok(page)
}

/// What is expected of a feature's tests.
fn judged(tests: &[String], expectations: &Expectations) -> String {
    let passes = |test: &&String| {
        expectations.iter().any(|(name, expectation)| name == *test && *expectation == Expectation::Pass)
    };
    match (tests.len(), tests.iter().filter(passes).count()) {
        (0, _) => "none exists".to_owned(),
        (all, passing) if all == passing => format!("{all} pass"),
        (all, passing) => format!("{passing} of {all} pass"),
    }
}

const HEAD: &str = "\
# What is supported, feature by feature

Made by `cargo xtask golden` from what the controller claims, and from what the official suite's tests are expected to do
(`conformance/expectations`); do not edit. *At Gateways* is what a GatewayClass claims in its status, *on Services* what the XMesh does. A
GatewayClass claims only what the installed definitions of the Gateway API can express: with an older release, or without a
kind, it claims less. *Tests* are those of the suite v1.7.0 that need the feature; most need several.
TLSRoutes, TCPRoutes and UDPRoutes work on Services as well ([routes.md](routes.md)); the suite has no test of that, and the XMesh
claims none.

A feature that is not claimed is refused where it is used, with a reason in the object's status; it is never ignored. For some
the suite has no test: what is claimed of those, our own tests ask for, with real traffic. What no feature of the suite names is in
[routes.md](routes.md), [gateways.md](gateways.md) and [listeners.md](listeners.md).
";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn golden_page_is_what_is_claimed_and_what_tests_are_expected_to_do() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let read = |file: &str| std::fs::read_to_string(root.join(file)).expect(file);
        let needed = parse(&read("conformance/features")).expect("features");
        let expectations = Expectations::parse(&read("conformance/expectations")).expect("expectations");
        let page = page(&needed, &expectations).expect("page");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(root.join("docs/features.md"), &page).expect("written");
        }
        assert!(read("docs/features.md") == page, "docs/features.md: cargo xtask golden");
        for claimed in AT_GATEWAYS.iter().chain(&ON_SERVICES) {
            assert!(needed.contains_key(*claimed), "{claimed} is claimed, but no feature of the suite");
        }
    }

    #[test]
    fn a_feature_without_a_description_and_a_description_without_a_feature_are_refused() {
        let all = || WHAT.iter().flat_map(|(_, features)| features.iter());
        let needed: Needed = all().map(|(name, _)| ((*name).to_owned(), vec!["A".to_owned()])).collect();
        let pass = Expectations::parse("A pass").expect("file");
        assert!(page(&needed, &pass).expect("page").contains("| 1 pass |"));
        let failing = Expectations::parse("A not run: x").expect("file");
        assert!(page(&needed, &failing).expect("page").contains("| 0 of 1 pass |"));
        let mut more = needed.clone();
        more.insert("New".to_owned(), Vec::new());
        assert!(page(&more, &pass).expect_err("more").to_string().contains("New"));
        let mut less = needed;
        less.remove("Mesh");
        assert!(page(&less, &pass).expect_err("less").to_string().contains("Mesh"));
    }
}
