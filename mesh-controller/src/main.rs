//! `weft-controller`: the control plane. Arguments, logging and the runtime; the parts are built in the library's
//! `app`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use tokio_util::sync::CancellationToken;
use weft_controller::app;
use weft_controller::config::Config;
use weft_runtime::{logging, panic, shutdown};

fn main() -> ExitCode {
    match run(Config::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    let level = logging::init(&config.log, config.log_format)?;
    panic::log_panics();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        shutdown::cancel_on_signal(stop.clone())?;
        Box::pin(app::run(config, level, stop)).await
    })
}
