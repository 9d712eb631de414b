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
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry::new("/run/weft/cni.sock", 30, &["weft-system".into()], "")
    }

    fn files(files: &[(&str, &str)]) -> Files {
        files.iter().map(|(name, text)| ((*name).to_owned(), Some((*text).to_owned()))).collect()
    }

    /// Does what a plan says.
    fn done(files: &Files, plan: &Plan) -> Files {
        let mut files = files.clone();
        for name in &plan.remove {
            files.remove(name);
        }
        files.extend(plan.write.iter().map(|(name, text)| (name.clone(), Some(text.clone()))));
        files
    }

    /// Chains, checks that a second time changes nothing, and gives the files and the target.
    fn chained(before: &Files) -> (Files, String) {
        let (plan, target) = chain(before, &entry());
        let after = done(before, &plan);
        let target = target.unwrap();
        assert_eq!(chain(&after, &entry()), (Plan::default(), Ok(target.clone())), "{after:?}");
        assert!(conflist::has_ours(after[&target].as_ref().unwrap()));
        (after, target)
    }

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"ptp"}]}"#;
    const OTHER: &str = r#"{"cniVersion":"1.0.0","name":"b","plugins":[{"type":"bridge"}]}"#;
    const SINGLE: &str = r#"{"cniVersion":"1.0.0","name":"s","type":"bridge"}"#;

    #[test]
    fn first_list_by_name_is_chained_and_the_others_are_left_alone() {
        let before = files(&[("10-a.conflist", LIST), ("05-b.conflist", OTHER), ("99-s.conf", SINGLE)]);
        let (after, target) = chained(&before);
        assert_eq!(target, "05-b.conflist");
        assert_eq!(after["10-a.conflist"], before["10-a.conflist"]);
        assert_eq!(done(&after, &unchain(&after)), before);
    }

    #[test]
    fn single_plugins_file_gets_a_list_of_ours_before_it() {
        for (single, ours) in [
            ("10-s.conf", "00-weft.conflist"),
            ("10-s.json", "00-weft.conflist"),
            ("00-a.conf", "!weft.conflist"),
            ("00-weft.conf", "!weft.conflist"),
        ] {
            let before = files(&[(single, SINGLE), ("99-a.conflist", LIST)]);
            let (after, target) = chained(&before);
            assert_eq!(target, ours, "{single}");
            assert_eq!(after.keys().next(), Some(&target), "the runtime takes ours");
            assert_eq!(after[single], before[single]);
            assert_eq!(done(&after, &unchain(&after)), before);
        }
    }

    #[test]
    fn list_of_ours_follows_its_source_and_goes_with_it() {
        let (mut after, target) = chained(&files(&[("10-s.conf", SINGLE)]));
        after.insert("10-s.conf".into(), Some(SINGLE.replace("bridge", "ptp")));
        let (after, _) = chained(&after);
        assert!(after[&target].as_ref().unwrap().contains("ptp"));
        let mut without = after.clone();
        without.remove("10-s.conf");
        let (plan, outcome) = chain(&without, &entry());
        assert_eq!(outcome, Err(PlanError::Nothing));
        assert_eq!(done(&without, &plan), Files::new());
        // The primary CNI has gone over to a list.
        without.insert("10-s.conflist".into(), Some(LIST.into()));
        let (after, target) = chained(&without);
        assert_eq!((target.as_str(), after.len()), ("10-s.conflist", 1));
    }

    #[test]
    fn list_that_its_owner_rewrites_is_chained_again() {
        let (mut after, target) = chained(&files(&[("10-a.conflist", LIST)]));
        after.insert(target, Some(OTHER.into()));
        let (after, target) = chained(&after);
        assert!(after[&target].as_ref().unwrap().contains("bridge"));
    }

    #[test]
    fn broken_files_are_passed_over_and_told_if_there_is_no_other() {
        let (_, target) =
            chained(&files(&[("00-x.conflist", "{"), ("01-y.conf", LIST), ("10-a.conflist", LIST)]));
        assert_eq!(target, "10-a.conflist");
        let unreadable: Files = [("10-a.conflist".to_owned(), None)].into();
        assert_eq!(chain(&unreadable, &entry()), (Plan::default(), Err(PlanError::Nothing)));
        let (plan, outcome) = chain(&files(&[("10-a.conflist", "{")]), &entry());
        assert_eq!(plan, Plan::default());
        assert!(outcome.unwrap_err().to_string().contains("10-a.conflist"));
        assert_eq!(chain(&Files::new(), &entry()).1, Err(PlanError::Nothing));
    }

    #[test]
    fn list_of_an_old_version_is_told_and_not_passed_over() {
        let old = LIST.replace("1.0.0", "0.2.0");
        let (plan, outcome) = chain(&files(&[("10-a.conflist", &old), ("20-b.conflist", OTHER)]), &entry());
        assert_eq!(plan, Plan::default());
        let told = outcome.unwrap_err().to_string();
        assert!(told.contains("10-a.conflist") && told.contains("0.2.0") && told.contains("0.3.1"), "{told}");
    }

    #[test]
    fn only_what_runtimes_look_at_is_configuration() {
        for (name, is) in [
            ("10-a.conf", true),
            ("10-a.conflist", true),
            ("10-a.json", true),
            ("10-a.conflist.bak", false),
            (".10-a.conflist.0.weft-tmp", false),
            ("README", false),
        ] {
            assert_eq!(is_configuration(name), is, "{name}");
        }
    }
}
