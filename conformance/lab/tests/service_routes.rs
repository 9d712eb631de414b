//! Gateways that obey the routes of the Services that they send to, and what their proxies are sent and tell.

use anyhow::{Result, ensure};
use weft_conformance::cases::service_routes;
use weft_conformance::mesh::Mesh;

#[test]
fn service_routes() {
    weft_conformance::place::run(&service_routes::topology(), |checks| {
        service_routes::run(checks);
        checks.check("metrics tell both routes, and only the proxy that obeys is sent the Service's", told);
    });
}

fn told(m: &Mesh) -> Result<()> {
    let both = "route=\"HTTPRoute/a/front\",rule=\"0\",service_route=\"HTTPRoute/a/own\",service_rule=\"0\",backend=\"a/v2:80\"";
    let metrics = admin(m, "obeying", "metrics")?;
    ensure!(metrics.contains(both), "{metrics}");
    let [obeying, plain] = ["obeying", "plain"].map(|gateway| admin(m, gateway, "config?Route/"));
    let obeying = obeying?;
    ensure!(obeying.contains("HTTPRoute/a/own/for/gateways") && !obeying.contains("further"), "{obeying}");
    let plain = plain?;
    ensure!(!plain.contains("own"), "{plain}");
    Ok(())
}

/// Answered inside the Gateway's pod only.
fn admin(m: &Mesh, gateway: &str, page: &str) -> Result<String> {
    m.run(&format!("a/deploy/{gateway}-weft"), &["curl", "-sSf", &format!("http://127.0.0.1:15000/{page}")])
}
