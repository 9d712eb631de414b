//! The controller's own certificate, renewed in time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use weft_ca::Authority;
use weft_tls::ServerTls;

/// A certificate for `name`, renewed until `stop` is cancelled.
pub(super) fn tls(
    authority: &Arc<Authority>,
    name: &str,
    stop: &CancellationToken,
) -> anyhow::Result<ServerTls> {
    let certificate = authority
        .serving_certificate(name, SystemTime::now())
        .with_context(|| format!("--serving-name {name}: no certificate could be made for it"))?;
    let mut renew_at = certificate.renew_at;
    let tls = ServerTls::new(certificate.chain_der, certificate.key_pkcs8_der)?;
    let (shown, authority, name, stop) = (tls.clone(), Arc::clone(authority), name.to_owned(), stop.clone());
    tokio::spawn(async move {
        loop {
            // Looked at often rather than slept through, so that a clock that jumps does no harm.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(30)) => {}
            }
            let now = SystemTime::now();
            if now < renew_at {
                continue;
            }
            let renewed = authority.serving_certificate(&name, now).map_err(anyhow::Error::from);
            match renewed.and_then(|new| Ok((new.renew_at, shown.replace(new.chain_der, new.key_pkcs8_der)?)))
            {
                Ok((next, ())) => renew_at = next,
                Err(error) => {
                    tracing::error!(%error, "the controller's certificate was not renewed; trying again")
                }
            }
        }
    });
    Ok(tls)
}
