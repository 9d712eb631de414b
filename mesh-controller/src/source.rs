//! Where objects come from: a folder or an API server. Both give the same `Inputs`.

use std::collections::BTreeSet;
use std::future::Future;

use weft_model::MeshConfig;

use crate::inputs::Inputs;

/// What a source holds.
#[derive(Debug)]
pub struct Loaded {
    /// The objects.
    pub inputs: Inputs,
    /// What is wrong with them and with the source itself, in words for the log.
    pub problems: BTreeSet<String>,
}

/// What may have changed since a source was last looked at. The greater includes the lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Statuses of routes, or what comes with them (`metadata.resourceVersion`): nothing that a translation reads.
    Statuses,
    /// Anything.
    Objects,
}

/// A source of objects.
pub trait Source: Send + 'static {
    /// Waits for a change. The first is there as soon as there is anything to translate.
    fn changed(&mut self) -> impl Future<Output = Change> + Send;

    /// Everything, at one moment; `None` if it is not all known yet. May block.
    fn load(&mut self, mesh: &MeshConfig) -> Option<Loaded>;
}
