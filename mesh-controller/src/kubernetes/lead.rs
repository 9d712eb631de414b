//! What the leader alone does: hold the lease, and while it is held write statuses, the mesh's own object, the
//! GatewayClass, what Gateways need, and the published root. Streaming configuration is the server's part; it reads who leads.

use std::convert::Infallible;
use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lease::{Candidate, stand};
use super::metrics::LeaderMetrics;
use super::statuses::{Wanted, write};
use super::{StatusMetrics, class, infrastructure, mesh, root};
use crate::infrastructure::plan::Desired;
use crate::infrastructure::refused::Refused;
use crate::leadership::Leadership;
use crate::server::Snapshots;

/// What the leader's work needs.
#[derive(Debug)]
pub struct Duties {
    /// The statuses that there should be.
    pub wanted: watch::Receiver<Wanted>,
    /// What there should be for Gateways.
    pub infrastructure: watch::Receiver<Option<Arc<Desired>>>,
    /// Where it is told what of that was refused.
    pub refused: watch::Sender<Refused>,
    /// The root certificate to be published, PEM.
    pub root_pem: String,
    /// How writing goes.
    pub statuses: StatusMetrics,
    /// Who leads.
    pub leader: LeaderMetrics,
}

/// Stands for election as soon as there is something to serve, and does the leader's work while elected. Ends, with the
/// lease given up, after `stop` is cancelled.
pub async fn lead(
    client: Client,
    candidate: Candidate,
    mut snapshots: Snapshots,
    leadership: watch::Sender<Leadership>,
    duties: Duties,
    stop: CancellationToken,
) {
    // A leader that has nothing to say would take proxies from one that has.
    tokio::select! {
        translated = snapshots.wait_for(Option::is_some) => if translated.is_err() { return },
        () = stop.cancelled() => return,
    }
    let namespace = candidate.namespace.clone();
    let seen = leadership.subscribe();
    let working = work(&client, &namespace, seen, &duties);
    tokio::select! {
        () = stand(client.clone(), candidate, leadership, stop) => {}
        never = working => match never {},
    }
}

async fn work(
    client: &Client,
    namespace: &str,
    mut leadership: watch::Receiver<Leadership>,
    duties: &Duties,
) -> Infallible {
    loop {
        let leads = *leadership.borrow_and_update() == Leadership::Leader;
        duties.leader.leads(leads);
        let working = async {
            if !leads {
                return std::future::pending().await;
            }
            tokio::select! {
                never = write(client.clone(), duties.wanted.clone(), duties.statuses.clone()) => never,
                never = mesh::keep(client.clone(), namespace) => never,
                never = class::keep(client.clone()) => never,
                never = infrastructure::keep(client.clone(), duties.infrastructure.clone(), duties.refused.clone()) => never,
                never = root::publish(client.clone(), namespace, &duties.root_pem) => never,
            }
        };
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { std::future::pending::<()>().await },
            never = working => match never {},
        }
    }
}
