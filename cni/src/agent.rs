//! The agent of one node: decides which pods are enrolled, captures their traffic, and shares their sockets with the
//! proxy. This file builds the parts; `agent/members.rs` has what happens to one pod.

mod admin;
mod bootstrap;
mod callers;
mod census;
mod condition;
pub mod config;
mod event;
mod foreign;
mod health;
mod host;
mod install;
mod kubernetes;
mod link;
mod members;
mod old;
mod peer;
mod plaintext;
mod plugin_socket;
pub mod pods;
mod proxies;
mod proxy_socket;
mod reason;
mod reconcile;
mod release;
mod sandbox;
mod stand_in;
mod status;
mod taint;
mod trust;
mod uninstall;

use std::future::pending;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_runtime::admin::Admin;
use weft_runtime::logging::Level;

use config::Config;
use health::Health;
use install::{Installed, Installer};
use members::Members;
use pods::{Folder, Kubernetes, PodSource, Pods, Table};

/// Runs the agent until it is told to stop or one of its parts fails. What it did in pods and on the node stays.
///
/// # Errors
/// When a socket cannot be made in the runtime directory or for the admin server, or there is no way to the API server.
pub async fn run(config: Config, level: Level) -> io::Result<()> {
    let directory = config.runtime_dir.clone();
    let described =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", directory.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(described)?;
    let (table, pods) = watch::channel(None);
    let client = if config.kubernetes { Some(kubernetes::client().await?) } else { None };
    let source = Source::new(client.clone(), &config);
    let installer = Installer::new(&config);
    let proxies = weft_runtime::fd::bind_seqpacket(&directory.join("agent.sock")).map_err(described)?;
    let plugins = plugin_socket::bind(&directory.join("cni.sock")).map_err(described)?;
    let admin_listener = match config.admin_address() {
        Some(address) => Some(Admin::bind(address).await?),
        None => None,
    };
    let first = host::addresses().map_err(io::Error::other)?;
    let (node_addresses, known_addresses) = watch::channel(Arc::new(first));
    let members = Arc::new(Members::new(config, pods.clone(), known_addresses));
    let (state, installed) =
        watch::channel(installer.as_ref().map_or_else(Installed::elsewhere, |_| Installed::Unknown));
    let health = Health { pods: pods.clone(), installed, link: members.link.subscribe() };
    let admin = admin::admin(&members, &health, level);
    tracing::info!(node = %members.config.node, directory = %directory.display(), "agent started");
    let stop = CancellationToken::new();
    weft_runtime::shutdown::cancel_on_signal(stop.clone())?;
    tokio::select! {
        () = stop.cancelled() => {
            // An uninstallation leaves nothing behind.
            if *health.installed.borrow() == Installed::Removed {
                uninstall::remove_files(&members.config.runtime_dir);
            }
            Ok(())
        }
        () = source.run(table) => Err(io::Error::other("the pod source ended")),
        result = proxy_socket::serve(proxies, members.clone()) => result,
        result = plugin_socket::serve(plugins, members.clone()) => result,
        () = reconcile::run(members.clone()) => Err(io::Error::other("the reconciliation ended")),
        () = stand_in::run(members.clone()) => Err(io::Error::other("the stand-in for the proxy ended")),
        error = host::follow(node_addresses) => Err(error),
        () = status::write_changes(members.clone()) => Err(io::Error::other("the status writer ended")),
        () = installation(installer, &state, pods) => Err(io::Error::other("the installer ended")),
        () = serve_admin(admin, admin_listener) => Err(io::Error::other("the admin server ended")),
        () = census::run(members.clone()) => Err(io::Error::other("the census ended")),
        () = cluster(client, &members, &health) => Err(io::Error::other("a watch ended")),
    }
}

/// Where objects come from.
enum Source {
    Kubernetes(Kubernetes),
    Folder(Folder),
}

impl Source {
    fn new(client: Option<Client>, config: &Config) -> Self {
        let node = config.node.as_str().into();
        match client {
            Some(client) => {
                let namespace = config.namespace.as_str().into();
                Self::Kubernetes(Kubernetes::new(client, node, namespace, config.exempt()))
            }
            None => {
                Self::Folder(Folder::new(config.folder.clone().unwrap_or_default(), node, config.exempt()))
            }
        }
    }

    async fn run(self, tables: watch::Sender<Option<Arc<Table>>>) {
        match self {
            Self::Kubernetes(source) => source.run(tables).await,
            Self::Folder(source) => source.run(tables).await,
        }
    }
}

/// Keeps the plugin in place, if that is the agent's task.
async fn installation(installer: Option<Installer>, state: &watch::Sender<Installed>, pods: Pods) {
    match installer {
        Some(installer) => install::run(installer, state, pods).await,
        None => pending().await,
    }
}

async fn serve_admin(admin: Admin, listener: Option<tokio::net::TcpListener>) {
    match listener {
        Some(listener) => match admin.serve(listener).await {},
        None => pending().await,
    }
}

/// What is done with the API server beside watching pods.
async fn cluster(client: Option<Client>, members: &Members, health: &Health) {
    let Some(client) = client else { return pending().await };
    let config = &members.config;
    tokio::select! {
        () = trust::run(client.clone(), &config.namespace, &config.runtime_dir) => {}
        () = condition::run(&client, members) => {}
        () = taint::run(&client, &config.node, health) => {}
        () = event::run(client.clone(), &config.node, &members.refusals) => {}
        () = bootstrap::run(&client, members) => {}
        () = uninstall::run(&client, members, health) => {}
    }
}
