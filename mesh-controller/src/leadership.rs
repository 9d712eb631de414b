//! Which replica leads: it alone streams configuration and writes to the API server. All translate and sign.

use std::net::SocketAddr;

use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

/// The metadata that says where the leader is: `address:port`.
pub const METADATA: &str = "weft-leader";

/// Whether this replica leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// It does.
    Leader,
    /// It does not.
    Follower {
        /// Where the leader serves, if there is one that is known.
        leader: Option<SocketAddr>,
    },
}

impl Leadership {
    /// Of the only replica.
    pub fn alone() -> watch::Receiver<Self> {
        watch::channel(Self::Leader).1
    }

    /// What is answered to a proxy that should be with the leader; `None` if this is the leader.
    pub fn refusal(&self) -> Option<Status> {
        let Self::Follower { leader } = self else { return None };
        let mut metadata = MetadataMap::new();
        let message = match leader {
            Some(leader) => {
                if let Ok(leader) = leader.to_string().parse() {
                    metadata.insert(METADATA, leader);
                }
                format!("this replica does not lead; {leader} does")
            }
            None => "this replica does not lead, and none that does is known yet".to_owned(),
        };
        Some(Status::with_metadata(Code::FailedPrecondition, message, metadata))
    }
}

/// Waits until this replica does not lead; the answer to whom it served as leader.
pub async fn lost(leadership: &mut watch::Receiver<Leadership>) -> Status {
    match leadership.wait_for(|now| *now != Leadership::Leader).await.map(|now| now.refusal()) {
        Ok(Some(status)) => status,
        // Nobody decides any more: what is, stays.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}
