//! Builds every part of the controller once, in the order in which they depend on each other, and runs them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use weft_ca::{Authority, NodeSecretAuthenticator, Settings};
use weft_runtime::admin::{Admin, Answer};
use weft_runtime::logging::Level;
use weft_runtime::metrics::Metrics;
use weft_tls::ServerTls;

use crate::config::Config;
use crate::control::Control;
use crate::folder::WatchedFolder;
use crate::metrics::ControlMetrics;
use crate::server::{Progress, Server, Snapshots};
use crate::status::StatusWriter;

/// Runs until `stop` is cancelled.
///
/// # Errors
/// What keeps the controller from starting, with what to do; and the failure of a part that cannot be done without.
pub async fn run(config: Config, level: Level, stop: CancellationToken) -> anyhow::Result<()> {
    let mesh = config.mesh.to_model();
    let mut settings = Settings::new(&config.ca_dir, mesh.trust_domain.clone());
    settings.leaf_lifetime = config.leaf_lifetime;
    let authority =
        Arc::new(Authority::open(settings, SystemTime::now()).context("the certificate authority")?);
    let tls = serving_tls(&authority, &config.serving_name, &stop)?;

    let listener = listen(&config).await?;
    let admin_listener = Admin::bind(config.admin).await?;
    let source = WatchedFolder::new(&config.folder).with_context(|| {
        format!("--folder {}: it cannot be watched; does it exist?", config.folder.display())
    })?;

    let mut metrics = Metrics::new("weft_controller");
    let control_metrics = ControlMetrics::register(&mut metrics);
    // Versions go on rising when the controller starts again: its clock is far ahead of its counting.
    let version = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let version = u64::try_from(version).unwrap_or_default();
    let control = Control::new(source, StatusWriter::new(&config.status_dir), mesh, version, control_metrics);

    let snapshots = control.snapshots();
    let progress = Arc::new(Progress::default());
    let server = Server {
        authenticator: Arc::new(NodeSecretAuthenticator::new(&config.node_secrets)),
        authority,
        tls,
        snapshots: snapshots.clone(),
        progress: Arc::clone(&progress),
    };
    let admin = admin(metrics, level, snapshots, progress);

    tokio::select! {
        () = server.serve(listener, stop.clone()) => Ok(()),
        ended = control.run() => ended.context("the control loop"),
        never = admin.serve(admin_listener) => match never {},
    }
}

async fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("--listen {}: the controller cannot listen there", config.listen))?;
    let address = listener.local_addr().context("the listening address")?;
    tracing::info!(%address, folder = %config.folder.display(), "serving proxies");
    Ok(listener)
}

/// The controller's own certificate, renewed in time.
fn serving_tls(
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

fn admin(metrics: Metrics, level: Level, snapshots: Snapshots, progress: Arc<Progress>) -> Admin {
    let mut admin = Admin::new();
    admin.serve_metrics(Arc::new(metrics));
    admin.serve_logging(level);
    let translated = snapshots.clone();
    admin.ready_when("the first translation", move || translated.borrow().is_some());
    // Everything that is published, or with ?node=NAME what that node's proxy gets.
    admin.handle("/config", move |query| {
        let snapshot = snapshots.borrow().clone();
        snapshot.map_or_else(
            || Answer::text(http::StatusCode::SERVICE_UNAVAILABLE, "nothing is published yet\n"),
            |snapshot| Answer::json(&snapshot.shown(query.strip_prefix("node="))),
        )
    });
    admin.handle("/nodes", move |_| {
        let nodes: BTreeMap<_, _> = progress.by_node();
        Answer::json(&nodes)
    });
    admin
}
