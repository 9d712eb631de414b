//! Plans over folders as primary plugins leave them.

use super::*;

fn entry() -> Entry {
    Entry::new("/run/weft/cni.sock", 30, &["weft-system"], "")
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
