//! The cluster's main process inside its namespaces: brings everything up in order, then keeps it.

use std::thread::{park, sleep};
use std::time::Duration;

use anyhow::{Result, anyhow};
use nix::sys::signal::{SigSet, Signal};

use crate::config::{Channel, Config};
use crate::report::{Phase, Report};
use crate::{addons, control_plane, network, node, pki};

/// Runs until a signal ends it. A start that fails is reported, and ends the cluster.
pub(crate) fn run(config: &Config) -> Result<u8> {
    // Without its supervisor nothing of the cluster may go on; process 1 sees to that when this one ends.
    weft_runtime::init::unblock_signals()?;
    end_on_signal()?;
    let mut report = Report::default();
    if let Err(error) = bring_up(config, &mut report) {
        report.phase = Phase::Failed(format!("{error:#}"));
        report.write(&config.state.report())?;
        return Err(error);
    }
    report.phase = Phase::Running;
    report.write(&config.state.report())?;
    loop {
        park();
    }
}

/// The first thread's mask is inherited by all that follow, so that one of them waits for the signals.
fn end_on_signal() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    std::thread::spawn(move || {
        while signals.wait().is_err() {
            sleep(Duration::from_millis(100));
        }
        // Nothing is to be said good-bye to: what runs here is gone with its namespaces.
        std::process::exit(0);
    });
    Ok(())
}

fn bring_up(config: &Config, report: &mut Report) -> Result<()> {
    let mut step = |text: String| {
        println!("{text}");
        report.steps.push(text);
        report.write(&config.state.report())
    };
    network::build(config)?;
    pki::write(config)?;
    control_plane::start_api(config)?;
    addons::write_base_images(config)?;
    for node in config.all_nodes() {
        node::write(config, node)?;
        node::keep(config, node)?;
    }
    step(format!("network, certificates and {} nodes are set up", config.nodes))?;
    addons::wait_for_api(config)?;
    step("the API server is ready".to_owned())?;
    control_plane::start_controllers(config)?;
    std::thread::scope(|scope| {
        let crds = scope.spawn(|| addons::apply_crds(config));
        addons::apply_dns(config)?;
        addons::wait_until_ready(config, &mut step)?;
        crds.join().map_err(|_| anyhow!("applying CRDs panicked"))??;
        let api = match config.crds {
            Channel::None => "there is no Gateway API, as asked",
            Channel::Standard | Channel::Experimental => "the Gateway API is served",
        };
        step(api.to_owned())
    })
}
