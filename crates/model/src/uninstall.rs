//! How Weft leaves a cluster: the words by which its parts tell each other.

/// Annotation on the DaemonSet `weft-agent`, with the value `true`: no pod is to be in the mesh any longer, whatever the
/// labels say. It is on that object so that it goes with it. Agents and controller both read it.
pub const ANNOTATION: &str = "weft-mesh.dev/uninstall";

/// Condition on an agent's own pod: no pod of its node is in the mesh, and the container runtime's configuration is as if
/// Weft had never been there.
pub const CONDITION: &str = "weft-mesh.dev/Uninstalled";
