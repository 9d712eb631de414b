//! What the API has that the official suite has no test of yet: addresses of a routability, roots from ClusterTrustBundles.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{CLIENTS, ENCRYPTED, NAMESPACE, PLAIN, address, gateway, get, http, is_programmed, object, rule};
use crate::mesh::{Checks, Mesh, host, patiently};

/// The bundle, and the name that it is applied under.
const BUNDLE: &str = "clients";
/// Makes a root and a client's certificate of it, in `/tmp`.
const MAKE: &str = "cd /tmp; new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
openssl req -x509 $new -days 2 -subj /CN=clients -keyout root.key -out root.crt
openssl req $new -subj /CN=client -keyout client.key -out client.csr
printf 'basicConstraints=CA:FALSE\\nextendedKeyUsage=clientAuth\\n' >client.ext
openssl x509 -req -in client.csr -CA root.crt -CAkey root.key -CAcreateserial -days 2 -extfile client.ext -out client.crt";

/// The sentences.
pub(super) fn run(checks: &mut Checks<'_>) {
    checks.check(
        "a Gateway that asks for the cluster only has a ClusterIP, says so, and is reached there",
        inside,
    );
    checks.check("clients are verified by a ClusterTrustBundle for as long as it is there", by_bundle);
}

fn inside(mesh: &Mesh) -> Result<()> {
    let yaml = gateway("inside", &[PLAIN]);
    let yaml = yaml.replace("spec: {", "spec: {addresses: [{routability: Cluster}], ");
    mesh.apply("inside", &(yaml + &http("inside", &["inside"], &[rule("/inside", &["v1"])])))?;
    is_programmed(mesh, "inside")?;
    let service = mesh.object("Service", NAMESPACE, "inside-weft")?;
    ensure!(service["spec"]["type"] == "ClusterIP", "{}", service["spec"]);
    let status = &object(mesh, "inside")?["status"];
    let wanted =
        json!([{"type": "IPAddress", "value": service["spec"]["clusterIP"], "routability": "Cluster"}]);
    ensure!(status["addresses"] == wanted, "{status}");
    patiently(|| get(mesh, "inside", "/inside")?.expect(200, "v1"))
}

fn by_bundle(mesh: &Mesh) -> Result<()> {
    mesh.run(CLIENTS[0], &["bash", "-ec", MAKE])?;
    let root = mesh.run(CLIENTS[0], &["cat", "/tmp/root.crt"])?;
    let bundle = json!({
        "apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle",
        "metadata": {"name": BUNDLE}, "spec": {"trustBundle": root},
    });
    mesh.apply(BUNDLE, &bundle.to_string())?;
    let yaml = gateway("trusting", &[ENCRYPTED]);
    let reference = "{group: certificates.k8s.io, kind: ClusterTrustBundle, name: clients}";
    let tls = format!(
        "spec: {{tls: {{frontend: {{default: {{validation: {{caCertificateRefs: [{reference}]}}}}}}}}, "
    );
    let yaml = yaml.replace("spec: {", &tls);
    mesh.apply("trusting", &(yaml + &http("trusting", &["trusting"], &[rule("/trusting", &["v1"])])))?;
    is_programmed(mesh, "trusting")?;
    patiently(|| call(mesh, true)?.expect(200, "v1"))?;
    ensure!(call(mesh, false).is_err(), "a client without a certificate was let in");

    mesh.delete(BUNDLE)?;
    patiently(|| {
        ensure!(call(mesh, true).is_err(), "a client was let in by a bundle that is gone");
        let listener = &object(mesh, "trusting")?["status"]["listeners"][0];
        ensure!(listener.to_string().contains("NoValidCACertificate"), "{listener}");
        Ok(())
    })?;
    mesh.apply(BUNDLE, &bundle.to_string())?;
    patiently(|| call(mesh, true)?.expect(200, "v1"))
}

/// Calls by HTTPS, with the client's certificate or without; an error when there is no answer.
fn call(mesh: &Mesh, certified: bool) -> Result<crate::mesh::Answer> {
    let url = format!("https://{}/trusting", host(&address(mesh, "trusting")?));
    let certificate = ["--cert", "/tmp/client.crt", "--key", "/tmp/client.key"];
    let mut arguments = vec!["--insecure", &url];
    arguments.extend(certificate.iter().filter(|_| certified));
    mesh.curl(CLIENTS[0], &arguments)
}
