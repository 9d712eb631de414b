//! `weft install`: prints the chart as it renders with its default values. For anything else there is helm.

use anyhow::{Result, bail};

/// What `cargo xtask golden` rendered: the namespace, and the chart without its hooks.
const RENDERED: &str = include_str!("../../../deploy/weft.yaml");

/// Arguments of `weft install`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft install | kubectl apply -f -
  weft install | kubectl diff -f -

It prints and changes nothing. With other values than the chart's defaults, install with helm:
  helm install weft deploy/helm/weft --namespace weft-system --create-namespace --values my-values.yaml

What was installed so is removed by:
  weft uninstall
  weft install | kubectl delete -f -")]
pub(crate) struct InstallArgs {
    /// Not here: helm takes values.
    #[arg(long, value_name = "KEY=VALUE", hide = true)]
    set: Vec<String>,
    /// Not here: helm takes values.
    #[arg(short = 'f', long, value_name = "FILE", hide = true)]
    values: Vec<String>,
}

/// `weft install`.
pub(crate) fn run(arguments: &InstallArgs) -> Result<u8> {
    if !arguments.set.is_empty() || !arguments.values.is_empty() {
        let given: Vec<String> = arguments
            .set
            .iter()
            .map(|pair| format!(" --set {pair}"))
            .chain(arguments.values.iter().map(|file| format!(" --values {file}")))
            .collect();
        bail!(
            "this command prints the chart with its default values only; for others: \
             helm install weft deploy/helm/weft --namespace weft-system --create-namespace{}",
            given.concat()
        );
    }
    print!("{RENDERED}");
    Ok(0)
}
