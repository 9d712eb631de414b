//! In which version a built-in kind is served that is not switched on everywhere. There is no definition to watch, so the
//! API server is asked now and then: what it serves changes with its own command line only.

use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup;
use kube::{Client, Error};
use tokio::sync::watch;

use super::follow::{explain, within};
use super::kinds::{self, Served};
use crate::inputs::Kind;

/// How often it is asked.
const EVERY: Duration = Duration::from_secs(60);
/// How soon again after a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// How long one question may take.
const CALL: Duration = Duration::from_secs(10);

/// Keeps `served` up to date, for ever, and tells whether the kind is served, or why that cannot be known.
pub(super) async fn discover(
    client: &Client,
    kind: Kind,
    served: &watch::Sender<Served>,
    tell: impl Fn(Result<bool, String>),
) -> Infallible {
    loop {
        let wait = match best(client, kind).await {
            Ok(found) => {
                tell(Ok(found.is_some()));
                let found = found.map_or(Served::Absent, Served::Version);
                served.send_if_modified(|served| {
                    let changed = *served != found;
                    *served = found;
                    changed
                });
                EVERY
            }
            Err(error) => {
                tell(Err(format!("which version of {kind} is served: {}", explain(&error))));
                AGAIN
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// The first of the group's versions, which the server names in its order of preference, that has the kind.
async fn best(client: &Client, kind: Kind) -> Result<Option<String>, Error> {
    let (group, plural) = kinds::place(kind);
    let groups = within(CALL, client.list_api_groups()).await?.groups;
    let Some(APIGroup { versions, .. }) = groups.into_iter().find(|of| of.name == group) else {
        return Ok(None);
    };
    for offered in versions {
        let resources =
            within(CALL, client.list_api_group_resources(&offered.group_version)).await?.resources;
        if resources.iter().any(|resource| resource.name == plural) {
            return Ok(Some(offered.version));
        }
    }
    Ok(None)
}
