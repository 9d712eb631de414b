//! Whether a caller may reach a pod. Today: mutual TLS unless the pod's namespace, or a label for the port, permits plaintext. Policies will be
//! judged here too, on the connection and on the parsed request; a policy that is not known yet means no.

use weft_model::Reason;
use weft_model::workload::{MTLS_LABEL, PLAINTEXT_PORTS_LABEL};

use crate::call::Caller;
use crate::pod::{LocalPod, is_own_port};
use crate::state::Snapshot;
use crate::tunnel::dial::Failure;

/// Judges a connection of `caller` to `port` of `pod`, whatever way it came.
pub(crate) fn connection(
    snapshot: &Snapshot,
    pod: &LocalPod,
    port: u16,
    caller: &Caller,
) -> Result<(), Failure> {
    if is_own_port(port) {
        return Err(Failure::new(Reason::Loop, format!("port {port} belongs to Weft itself")));
    }
    if !snapshot.is_configured() {
        let message = "the proxy has no configuration from the controller yet";
        return Err(Failure::new(Reason::NoConfiguration, message));
    }
    if caller.identity.is_none() && !admits_plaintext(snapshot, pod, port) {
        let message = format!(
            "{} called without mutual TLS: enrol it, open the port (label the pod {PLAINTEXT_PORTS_LABEL}={port}), or \
             label namespace {} {MTLS_LABEL}=permissive",
            caller.address.ip(),
            pod.enrolled.pod.namespace
        );
        return Err(Failure::new(Reason::PlaintextRefused, message));
    }
    Ok(())
}

/// No, unless the controller says so of this very pod.
fn admits_plaintext(snapshot: &Snapshot, pod: &LocalPod, port: u16) -> bool {
    snapshot.workload(&pod.enrolled.uid).is_some_and(|workload| workload.admits_plaintext(port))
}
