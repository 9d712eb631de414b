//! Nodes: their zones and addresses.

use std::net::IpAddr;

use weft_model::node::{Node, ZONE_LABEL};
use weft_model::{Resource, Text};

use super::Translated;
use crate::inputs::Inputs;

/// Converts Nodes.
pub(crate) fn convert(inputs: &Inputs, out: &mut Translated) {
    for (name, node) in &inputs.nodes {
        let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL));
        let listed = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        // Host names among them do not parse.
        let mut addresses: Vec<IpAddr> = listed.filter_map(|listed| listed.address.parse().ok()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let zone = zone.filter(|zone| !zone.is_empty()).map(|zone| Text::from(zone.as_str()));
        out.insert(Resource::Node(Node { name: name.clone(), zone, addresses }));
    }
}
