//! Nodes, as a proxy needs to know them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::name::Text;

/// The label on a node that names its zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The node's name.
    pub name: Text,
    /// Its zone ([`ZONE_LABEL`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Text>,
    /// The addresses that node ports of Services are called at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}
