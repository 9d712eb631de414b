//! The agent asks before it captures or releases a running pod: doing so at the wrong moment would break connections.

use weft_api::node::Intent;
use weft_model::Text;

use crate::worker::Shared;

/// Whether `intent` may be carried out on the pod now.
///
/// # Errors
/// What is still missing, in words for the agent's status.
pub(super) fn may(shared: &Shared, uid: &Text, intent: Intent) -> Result<(), String> {
    let snapshot = shared.snapshot.load();
    if !snapshot.is_configured() {
        return Err("weft-proxy has no configuration from weft-controller yet".to_owned());
    }
    let workload = snapshot.workload(uid);
    match (intent, workload) {
        (Intent::Capture, None) => Err("weft-controller has not told weft-proxy of the pod yet".to_owned()),
        (Intent::Capture, Some(workload)) if !workload.may_be_captured() => {
            Err("weft-controller has not taken notice of the pod's label yet".to_owned())
        }
        (Intent::Capture, Some(workload)) => {
            if shared.certificates.for_identity(&workload.identity).is_some() {
                return Ok(());
            }
            shared.certificates.expect(&workload.identity);
            Err(format!("weft-proxy has no certificate for {} yet", workload.identity))
        }
        (Intent::Release, Some(workload)) if !workload.may_be_released() => {
            Err("other nodes' proxies have not all been told yet to call the pod without a tunnel".to_owned())
        }
        // Of a pod that the controller does not know no proxy knows a tunnel.
        (Intent::Release, _) => Ok(()),
    }
}
