//! Who leads: a Lease that one replica holds and renews. The holder's name ends in its pod's address, so that the
//! others can say where the leader is.

mod election;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client, Error, ResourceExt};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::follow::{Event, Selector, explain, follow, is, within};
use crate::leadership::Leadership;
use election::{Election, Record, Times, Wish};

/// The Lease's name.
pub const NAME: &str = "weft-controller";
/// What giving the lease up may cost when the process stops.
const RELEASE: Duration = Duration::from_secs(3);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);

/// A candidate.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The namespace of the Lease.
    pub namespace: String,
    /// This pod's name.
    pub pod: String,
    /// This pod's address.
    pub address: IpAddr,
    /// The port that every replica serves proxies on.
    pub port: u16,
}

impl Candidate {
    fn holder(&self) -> String {
        format!("{}_{}", self.pod, self.address)
    }

    fn address_of(&self, holder: &str) -> Option<SocketAddr> {
        let (_, address) = holder.rsplit_once('_')?;
        Some(SocketAddr::new(address.parse().ok()?, self.port))
    }
}

/// Stands for election until `stop` is cancelled, then gives the lease up, so that another can take it at once.
pub async fn stand(
    client: Client,
    candidate: Candidate,
    leadership: watch::Sender<Leadership>,
    stop: CancellationToken,
) {
    stand_by(Times::USUAL, client, candidate, leadership, stop).await;
}

async fn stand_by(
    times: Times,
    client: Client,
    candidate: Candidate,
    leadership: watch::Sender<Leadership>,
    stop: CancellationToken,
) {
    let api: Api<Lease> = Api::namespaced(client, &candidate.namespace);
    let election = Election::new(candidate.holder(), times);
    let mut standing = Standing { election, times, api: api.clone(), candidate, leadership };
    // The watch says only when to look: it may be late, a read is not.
    let wake = Arc::new(Notify::new());
    let (woken, me) = (Arc::clone(&wake), standing.candidate.holder());
    let selector = format!("metadata.name={NAME}");
    let watching = follow(&api, Selector::fields(&selector), |event| match event {
        Event::Applied(lease) | Event::Found(lease) if holder(&lease) != me => woken.notify_one(),
        Event::Deleted(_) => woken.notify_one(),
        _ => {}
    });
    let standing = async {
        loop {
            standing.round().await;
            tokio::select! {
                () = stop.cancelled() => break,
                () = wake.notified() => {}
                () = tokio::time::sleep(standing.election.pause(Instant::now())) => {}
            }
        }
        standing.release().await;
    };
    tokio::select! {
        never = watching => match never {},
        () = standing => {}
    }
}

struct Standing {
    election: Election,
    times: Times,
    api: Api<Lease>,
    candidate: Candidate,
    leadership: watch::Sender<Leadership>,
}

impl Standing {
    /// Looks at the lease, takes or renews it if that is due, and tells what came of it.
    async fn round(&mut self) {
        let most = self.election.left(Instant::now()).map_or(CALL, |left| left.min(CALL));
        let leader = match within(most, self.look()).await {
            Ok(leader) => leader,
            Err(error) => {
                tracing::warn!(error = explain(&error), "the lease cannot be read or written; trying again");
                None
            }
        };
        let leads = self.election.leads(Instant::now());
        self.tell(if leads { Leadership::Leader } else { Leadership::Follower { leader } });
    }

    fn tell(&self, now: Leadership) {
        self.leadership.send_if_modified(|leadership| {
            let changed = *leadership != now;
            if changed {
                tracing::info!(?now, "leadership");
                *leadership = now;
            }
            changed
        });
    }

    async fn look(&mut self) -> Result<Option<SocketAddr>, Error> {
        let now = Instant::now();
        let lease = self.api.get_opt(NAME).await?;
        let record = lease.as_ref().map(record);
        let wish = self.election.look(record.as_ref(), now);
        let written = match (&wish, lease) {
            (Wish::Nothing, lease) => {
                let leader = lease.as_ref().map(holder).unwrap_or_default();
                return Ok(self.candidate.address_of(leader));
            }
            (Wish::Renew | Wish::Take, Some(lease)) => {
                let lease = self.claimed(lease, wish == Wish::Take);
                self.api.replace(NAME, &PostParams::default(), &lease).await
            }
            (_, None) => {
                let lease = self.claimed(Lease::default(), true);
                self.api.create(&PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => self.election.holds(now),
            // Somebody else wrote; the next look shows who.
            Err(error) if is(&error, 409) => {}
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// The lease as ours from now on.
    fn claimed(&self, lease: Lease, anew: bool) -> Lease {
        let Lease { metadata, spec } = lease;
        let mut spec = spec.unwrap_or_default();
        let now = MicroTime(jiff::Timestamp::now());
        if anew {
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
            spec.acquire_time = Some(now.clone());
        }
        spec.holder_identity = Some(self.candidate.holder());
        // Rounded up: the API has no shorter one than a second.
        spec.lease_duration_seconds = i32::try_from(self.times.duration.as_secs_f64().ceil() as i64).ok();
        spec.renew_time = Some(now);
        Lease { metadata: ObjectMeta { name: Some(NAME.to_owned()), ..metadata }, spec: Some(spec) }
    }

    /// Gives the lease up if it is held.
    async fn release(&mut self) {
        let held = self.election.leads(Instant::now());
        self.tell(Leadership::Follower { leader: None });
        if !held {
            return;
        }
        let release = async {
            let Some(mut lease) = self.api.get_opt(NAME).await? else { return Ok(()) };
            if holder(&lease) != self.candidate.holder() {
                return Ok(());
            }
            let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            self.api.replace(NAME, &PostParams::default(), &lease).await.map(drop)
        };
        match within(RELEASE, release).await {
            Ok(()) => tracing::info!("gave the lease up"),
            Err(error) => {
                tracing::warn!(error = explain(&error), "the lease could not be given up; it ends by itself")
            }
        }
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

fn record(lease: &Lease) -> Record {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    Record {
        holder: holder(lease).to_owned(),
        version: lease.resource_version().unwrap_or_default(),
        duration: seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs),
    }
}

#[cfg(test)]
mod tests;
