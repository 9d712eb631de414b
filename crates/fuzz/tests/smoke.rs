//! Every target runs for a moment on each test run, on inputs that differ from run to run and are reported.

use std::time::Duration;

use weft_fuzz::{driver, targets};

#[test]
fn no_target_panics() {
    let seed = rand::random();
    for target in targets::ALL {
        let report = driver::run(target, seed, Duration::from_secs(2));
        assert!(report.inputs > 100, "{} tried only {} inputs", target.name, report.inputs);
        assert!(
            report.panicked_on.is_none(),
            "{} panicked on {:?} (seed {seed})",
            target.name,
            report.panicked_on.map(|i| String::from_utf8_lossy(&i).into_owned())
        );
    }
}

#[test]
fn the_driver_finds_a_panic() {
    let target = targets::Target {
        name: "faulty",
        run: |input| assert!(!input.contains(&b'='), "found it"),
        seeds: || vec![b"a:b".to_vec()],
    };
    assert!(driver::run(&target, 1, Duration::from_secs(10)).panicked_on.is_some());
}
