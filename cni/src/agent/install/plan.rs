//! What is to be done in the folder of CNI configuration: decided from its files' texts alone.

use std::collections::BTreeMap;

use super::conflist::{self, ConflistError, Entry};

/// The files of the folder that a container runtime looks at, by name: their texts, or none where unreadable.
/// Runtimes take the first by the order of bytes, which is this map's.
pub(super) type Files = BTreeMap<String, Option<String>>;

/// Names for a list of our own, in order of preference. The first that comes before its source is taken; nothing that
/// an installer writes comes before the last.
const OWN_NAMES: [&str; 2] = ["00-weft.conflist", "!weft.conflist"];

/// Files to write and to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// By name.
    pub(super) write: BTreeMap<String, String>,
    /// By name.
    pub(super) remove: Vec<String>,
}

/// Why the plugin is not chained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlanError {
    /// The cluster's CNI has not written its configuration.
    #[error("there is no CNI configuration yet: the cluster's own CNI plugin has to write one")]
    Nothing,
    /// The file that the runtime takes cannot be chained into.
    #[error("{0}: {1}")]
    Unsuitable(String, ConflistError),
}

/// Is this a name that a container runtime looks at?
pub(super) fn is_configuration(name: &str) -> bool {
    [".conf", ".conflist", ".json"].iter().any(|ending| name.ends_with(ending))
}

/// How the plugin becomes, or stays, the last one of the configuration that the runtime takes.
pub(super) fn chain(files: &Files, entry: &Entry) -> (Plan, Result<String, PlanError>) {
    let mut plan = Plan::default();
    let own: Vec<String> = own_files(files).cloned().collect();
    let mut broken = None;
    for (name, text) in files.iter().filter(|(name, _)| !own.contains(name)) {
        let Some(text) = text else { continue };
        match chain_one(files, name, text, entry) {
            Ok((target, changed)) => {
                plan.remove = own.iter().filter(|name| **name != target).cloned().collect();
                plan.write.extend(changed.map(|text| (target.clone(), text)));
                return (plan, Ok(target));
            }
            // Runtimes pass over it or refuse everything because of it; either way no pod runs by it.
            Err(error @ ConflistError::Malformed(_)) => {
                broken.get_or_insert_with(|| PlanError::Unsuitable(name.clone(), error));
            }
            Err(error) => return (plan, Err(PlanError::Unsuitable(name.clone(), error))),
        }
    }
    // What our list was made from is gone: it must not keep a network alive that its owner has taken away.
    plan.remove = own;
    (plan, Err(broken.unwrap_or(PlanError::Nothing)))
}

/// The file that is to have the entry, and its new text if it has to change.
fn chain_one(
    files: &Files,
    name: &str,
    text: &str,
    entry: &Entry,
) -> Result<(String, Option<String>), ConflistError> {
    if name.ends_with(".conflist") {
        return Ok((name.to_owned(), conflist::chain(text, entry)?));
    }
    let list = conflist::of_single(text, name, entry)?;
    let free = |own: &&&str| match files.get(**own) {
        Some(text) => text.as_ref().is_some_and(|text| conflist::source_of(text).is_some()),
        None => true,
    };
    let target = OWN_NAMES.iter().filter(|own| **own < name).find(free).copied().unwrap_or("!!weft.conflist");
    let same = files.get(target).is_some_and(|found| found.as_ref() == Some(&list));
    Ok((target.to_owned(), (!same).then_some(list)))
}

/// How everything of ours is taken out.
pub(super) fn unchain(files: &Files) -> Plan {
    let mut plan = Plan { remove: own_files(files).cloned().collect(), ..Plan::default() };
    for (name, text) in files {
        let Some(text) = text else { continue };
        if !plan.remove.contains(name)
            && let Some(plain) = conflist::unchain(text)
        {
            plan.write.insert(name.clone(), plain);
        }
    }
    plan
}

/// Lists that we made from a single plugin's file.
fn own_files(files: &Files) -> impl Iterator<Item = &String> {
    let own = |text: &Option<String>| text.as_ref().is_some_and(|text| conflist::source_of(text).is_some());
    files.iter().filter(move |(_, text)| own(text)).map(|(name, _)| name)
}

#[cfg(test)]
mod tests;
