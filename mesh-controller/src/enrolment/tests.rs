//! The state machine of enrolment, given the time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use weft_model::ObjectName;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A cluster of one namespace `shop`, two nodes, and a controller that publishes after every step.
struct World {
    machine: Enrolments,
    view: View,
    start: (Instant, Timestamp),
    passed: Duration,
    version: u64,
    last: Step,
}

impl World {
    #[allow(clippy::disallowed_methods, reason = "any instant to begin with")]
    fn new(labelled: bool, pods: &[(&str, &str)]) -> Self {
        let start = (Instant::now(), Timestamp::from_second(1_000_000).unwrap());
        let now = Now { monotonic: start.0, wall: start.1 };
        let mut world = Self {
            machine: Enrolments::new(Settings::default(), BTreeMap::new(), now),
            view: View::default(),
            start,
            passed: Duration::ZERO,
            version: 100,
            last: Step::default(),
        };
        for (name, node) in pods {
            world.pod(name, node, labelled);
        }
        if labelled {
            world.view.labelled.insert("shop".into());
        }
        for node in ["n1", "n2"] {
            world.reports(node, &[]);
        }
        world
    }

    fn pod(&mut self, name: &str, node: &str, wanted: bool) {
        let name = ObjectName::new("shop", name);
        self.view.pods.push(PodView { uid: name.name.clone(), name, node: node.into(), wanted });
    }

    fn label(&mut self, on: bool) {
        self.view.labelled = on.then(|| Text::from("shop")).into_iter().collect();
        self.view.pods.iter_mut().for_each(|pod| pod.wanted = on);
    }

    fn reports(&mut self, node: &str, served: &[&str]) {
        let node = self.view.nodes.entry(node.into()).or_default();
        node.served = Some(served.iter().map(|uid| Text::from(*uid)).collect());
    }

    /// Everybody has taken in what is published.
    fn ack(&mut self) {
        self.ack_of("n1");
        self.ack_of("n2");
    }

    fn ack_of(&mut self, node: &str) {
        self.view.nodes.get_mut(node).unwrap().in_force = self.version;
    }

    fn after(&mut self, passed: Duration) -> &mut Self {
        self.passed += passed;
        let wall = self.start.1 + self.passed;
        self.last = self.machine.step(Now { monotonic: self.start.0 + self.passed, wall }, &self.view);
        if !self.last.undecided {
            self.version += 1;
            self.machine.published(self.version);
        }
        self
    }

    /// Another controller process begins with what this one had written, and has heard of nobody yet.
    fn restart(&mut self) {
        let records = self.last.records();
        let now = Now { monotonic: self.start.0 + self.passed, wall: self.start.1 + self.passed };
        self.machine = Enrolments::new(Settings::default(), records, now);
        self.view.nodes.clear();
    }

    #[track_caller]
    fn is(&self, phase: Phase) -> &NamespaceState {
        let state = self.last.namespaces.get("shop").unwrap();
        assert_eq!(state.phase, phase, "{:?}", self.last);
        let open = self.last.enrolment.enrolling.contains_key("shop");
        assert_eq!(open, phase == Phase::Enrolling);
        state
    }

    fn leaving(&self, uid: &str) -> Option<Leaving> {
        self.last.enrolment.leaving.get(uid).copied()
    }

    /// Two pods on two nodes, in the mesh.
    fn strict() -> Self {
        let mut world = Self::new(true, &[("a", "n1"), ("b", "n2")]);
        world.reports("n1", &["a"]);
        world.reports("n2", &["b"]);
        world.after(SECOND).is(Phase::Strict);
        world
    }
}

#[test]
fn a_namespace_labelled_before_it_has_pods_is_strict_at_once_and_stays_so_for_its_first_pods() {
    let mut world = World::new(true, &[]);
    world.after(SECOND).is(Phase::Strict);
    world.pod("a", "n1", true);
    world.after(SECOND).is(Phase::Strict);
}

#[test]
fn a_running_namespace_is_open_until_all_are_served_and_all_proxies_know_it() {
    let mut world = World::new(true, &[("a", "n1"), ("b", "n2")]);
    let state = world.after(SECOND).is(Phase::Enrolling).clone();
    assert_eq!((state.pods, state.missing.len()), (2, 2));
    world.reports("n1", &["a"]);
    world.ack();
    world.after(SECOND).is(Phase::Enrolling);
    assert_eq!(world.last.enrolment.served, BTreeSet::from(["a".into()]));
    world.reports("n2", &["b"]);
    world.after(SECOND).is(Phase::Enrolling);
    world.ack_of("n1");
    let state = world.after(60 * SECOND).is(Phase::Enrolling).clone();
    assert_eq!(state.behind, [Text::from("n2")], "n2 has not taken the table in that says it");
    assert!(world.last.waits_for_acks);
    world.ack_of("n2");
    world.after(SECOND).is(Phase::Enrolling);
    assert!(!world.last.waits_for_acks && world.last.again_in.unwrap() <= 5 * SECOND);
    world.after(4 * SECOND).is(Phase::Enrolling);
    world.after(SECOND).is(Phase::Strict);
    // What comes later does not open it again.
    world.pod("c", "n1", true);
    world.after(SECOND).is(Phase::Strict);
    world.reports("n2", &[]);
    world.after(SECOND).is(Phase::Strict);
}

#[test]
fn a_pod_that_is_not_served_yet_begins_the_count_of_acknowledgements_anew() {
    let mut world = World::new(true, &[("a", "n1")]);
    world.after(SECOND);
    world.reports("n1", &["a"]);
    world.after(SECOND);
    world.ack();
    world.after(SECOND).is(Phase::Enrolling);
    world.pod("b", "n2", true);
    world.after(9 * SECOND).is(Phase::Enrolling);
    world.reports("n2", &["b"]);
    world.after(9 * SECOND).is(Phase::Enrolling);
    world.ack();
    world.after(SECOND).is(Phase::Enrolling);
    world.after(5 * SECOND).is(Phase::Strict);
}

#[test]
fn a_node_cannot_report_pods_of_another() {
    let mut world = World::new(true, &[("a", "n1")]);
    world.reports("n2", &["a"]);
    world.after(SECOND).is(Phase::Enrolling);
    assert!(world.last.enrolment.served.is_empty());
    let unlabelled = World::new(false, &[("a", "n1")]).after(SECOND).last.clone();
    assert!(unlabelled.namespaces.is_empty() && unlabelled.enrolment == Enrolment::default());
}

#[test]
fn at_the_deadline_it_is_closed_and_the_pods_that_are_not_in_the_mesh_are_named() {
    let mut world = World::new(true, &[("a", "n1"), ("b", "n2")]);
    world.reports("n1", &["a"]);
    world.view.nodes.get_mut("n2").unwrap().unserved.insert("b".into(), "port 15001 is taken".into());
    world.after(SECOND).is(Phase::Enrolling);
    world.after(599 * SECOND).is(Phase::Enrolling);
    let state = world.after(SECOND).is(Phase::Strict).clone();
    let condition = state.condition();
    assert_eq!((&condition["status"], &condition["reason"]), (&"False".into(), &"PodsNotMeshed".into()));
    let message = condition["message"].as_str().unwrap();
    assert!(message.contains("b on n2: port 15001 is taken") && !message.contains("a on"), "{message}");
    world.reports("n2", &["b"]);
    let state = world.after(SECOND).is(Phase::Strict);
    assert_eq!(state.condition()["status"], "True");
}

#[test]
fn reports_that_lag_are_not_called_a_problem_in_a_strict_namespace() {
    let mut world = World::strict();
    world.pod("c", "n1", true);
    assert!(world.after(SECOND).is(Phase::Strict).missing.is_empty());
    assert_eq!(world.last.again_in, Some(15 * SECOND));
    assert_eq!(world.after(15 * SECOND).is(Phase::Strict).missing.len(), 1);
}

#[test]
fn a_controller_that_starts_anew_goes_on_where_the_last_one_was() {
    let mut world = World::new(true, &[("a", "n1"), ("b", "n2")]);
    world.after(SECOND).is(Phase::Enrolling);
    let since = world.last.namespaces["shop"].since;
    world.restart();
    assert_eq!(world.after(598 * SECOND).is(Phase::Enrolling).since, since);
    world.after(2 * SECOND).is(Phase::Strict);

    let mut world = World::strict();
    world.restart();
    world.after(SECOND).is(Phase::Strict);
    assert!(world.last.enrolment.served.is_empty(), "nobody has reported, and it is strict all the same");
}

#[test]
fn without_a_record_a_new_controller_first_hears_what_is_served() {
    let mut world = World::strict();
    world.last.namespaces.clear();
    world.restart();
    assert!(world.after(SECOND).last.undecided);
    world.reports("n1", &["a"]);
    assert!(world.after(SECOND).last.undecided);
    world.reports("n2", &["b"]);
    world.after(SECOND).is(Phase::Strict);

    world.last.namespaces.clear();
    world.restart();
    assert!(world.after(SECOND).last.undecided);
    world.after(5 * SECOND).is(Phase::Enrolling);
}

#[test]
fn an_unlabelled_namespace_lets_plaintext_in_then_tells_callers_then_lets_go() {
    let mut world = World::strict();
    world.label(false);
    world.after(SECOND).is(Phase::Leaving);
    assert_eq!(world.leaving("a"), Some(Leaving::Permitted));
    world.ack_of("n1");
    world.after(SECOND);
    assert_eq!(world.leaving("a"), Some(Leaving::Permitted), "n2 does not know yet");
    world.ack_of("n2");
    world.after(SECOND);
    assert_eq!(world.leaving("a"), Some(Leaving::Told));
    world.ack();
    world.after(SECOND);
    world.after(4 * SECOND);
    assert_eq!(world.leaving("a"), Some(Leaving::Told));
    world.after(SECOND).is(Phase::Leaving);
    assert_eq!(world.leaving("a"), None, "it may be released");
    world.after(20 * SECOND).is(Phase::Leaving);
    assert_eq!(world.leaving("a"), None, "and is not asked to wait again");
    world.reports("n1", &[]);
    world.reports("n2", &[]);
    assert!(world.after(SECOND).last.namespaces.is_empty());
}

#[test]
fn a_released_pod_with_connections_keeps_what_it_calls_by_and_not_its_namespace() {
    let mut world = World::strict();
    world.label(false);
    world.after(61 * SECOND);
    world.reports("n1", &[]);
    world.reports("n2", &[]);
    world.view.nodes.get_mut("n1").unwrap().parting = BTreeSet::from(["a".into(), "b".into()]);
    assert!(world.after(SECOND).last.namespaces.is_empty());
    assert_eq!(world.last.enrolment.parting, BTreeSet::from(["a".into()]), "b is of another node");
    world.view.nodes.get_mut("n1").unwrap().parting.clear();
    assert!(world.after(SECOND).last.enrolment.parting.is_empty());
}

#[test]
fn leaving_is_bounded_and_goes_on_in_the_next_process() {
    let mut world = World::strict();
    world.label(false);
    world.after(SECOND);
    world.after(60 * SECOND);
    assert_eq!(world.leaving("a"), None, "a proxy that does not answer holds nobody for ever");

    let mut world = World::strict();
    world.label(false);
    world.after(SECOND).is(Phase::Leaving);
    world.restart();
    assert!(world.after(SECOND).last.undecided, "who is served has to be known before anybody is released");
    world.reports("n1", &["a"]);
    world.reports("n2", &["b"]);
    world.after(SECOND).is(Phase::Leaving);
    assert_eq!(world.leaving("a"), Some(Leaving::Permitted));
}

#[test]
fn a_namespace_that_is_labelled_again_while_it_leaves_is_enrolled_anew() {
    let mut world = World::strict();
    world.label(false);
    world.after(SECOND).is(Phase::Leaving);
    world.label(true);
    world.after(SECOND).is(Phase::Enrolling);
    assert_eq!(world.leaving("a"), None);
    world.after(SECOND);
    world.ack();
    world.after(SECOND).is(Phase::Enrolling);
    world.after(5 * SECOND).is(Phase::Strict);
}

#[test]
fn one_pod_may_leave_a_strict_namespace() {
    let mut world = World::strict();
    world.view.pods[0].wanted = false;
    world.after(SECOND).is(Phase::Strict);
    assert_eq!((world.leaving("a"), world.leaving("b")), (Some(Leaving::Permitted), None));
}

#[test]
fn labels_that_mean_nothing_are_told_and_change_nothing() {
    let mut world = World::strict();
    let wrong = || vec!["has weft-mesh.dev/mtls=permisive, which counts as not there".to_owned()];
    world.view.mislabelled = BTreeMap::from([("shop".into(), wrong()), ("typo".into(), wrong())]);
    let condition = world.after(SECOND).is(Phase::Strict).condition();
    assert_eq!((&condition["status"], &condition["reason"]), (&"True".into(), &"Strict".into()));
    assert!(condition["message"].as_str().unwrap().ends_with(&format!("The namespace {}", wrong()[0])));
    let typo = &world.last.namespaces["typo"];
    let condition = typo.condition();
    assert_eq!((&condition["status"], &condition["reason"]), (&"False".into(), &"InvalidLabel".into()));
    assert_eq!(typo.record(), None, "nothing of it is kept: it is not in the mesh");
    assert!(!world.last.enrolment.enrolling.contains_key("typo"));
    world.view.mislabelled.clear();
    assert!(!world.after(SECOND).last.namespaces.contains_key("typo"));
}
