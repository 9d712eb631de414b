//! `weft check`: asks the cluster once, judges, and says what to do. Ends with 0 when all is well or only to be noted,
//! with 1 when something does not work, with 2 when something could not be looked at.

mod cluster;
mod explain;
mod list;
mod parts;
mod pods;
mod policies;
mod report;
mod rights;
mod routes;
mod statuses;
#[cfg(test)]
mod tests;
mod verdict;

use anyhow::Result;
use jiff::Timestamp;

use self::list::{CHECKS, View, When};
pub(crate) use self::parts::part;
pub(crate) use self::pods::{Powers, powers};
use self::report::Report;
use crate::cluster::ClusterArgs;
use crate::facts::Facts;
use crate::output::{Format, OutputArgs};

/// Arguments of `weft check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft check --pre                    before installing: is the cluster fit, and may you install?
  weft check                          is Weft well, and what in the cluster gets in its way?
  weft check -n shop                  only what concerns the namespace shop
  weft check -o json | jq '.checks[] | select(.result == \"error\") | .id'
  weft check --explain WEFT030        what a check looks for, and what to do

Ends with 0 if no error was found, 1 if one was, 2 if something could not be looked at.
Whoever is bound to the ClusterRole and the Role weft-viewer may run it.")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Only what can be looked at before Weft is installed.
    #[arg(long)]
    pre: bool,
    /// Only what concerns this namespace, beside the cluster and Weft itself.
    #[arg(short = 'n', long, value_name = "NAME")]
    namespace: Option<String>,
    /// Say what a check looks for and what to do, and check nothing.
    #[arg(long, value_name = "ID", conflicts_with_all = ["pre", "namespace"])]
    explain: Option<String>,
}

/// Exit code when something could not be looked at.
pub(crate) const NOT_CHECKED: u8 = 2;

/// `weft check`.
pub(crate) async fn run(arguments: CheckArgs) -> Result<u8> {
    if let Some(id) = &arguments.explain {
        print!("{}", explain::section(id)?);
        return Ok(0);
    }
    let cluster = arguments.cluster.connect().await?;
    let facts = Box::pin(Facts::ask(&cluster)).await?;
    let rights = match arguments.pre {
        true => Some(rights::ask(&cluster).await),
        false => None,
    };
    let view =
        View { facts: &facts, rights, namespace: arguments.namespace.as_deref(), now: Timestamp::now() };
    let report = judge(&view, arguments.pre);
    match arguments.output.output {
        Format::Text => print!("{}", report.text()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(report.exit_code())
}

/// Every check that makes sense now.
fn judge(view: &View<'_>, before: bool) -> Report {
    let sensible = CHECKS.iter().filter(|check| match check.when {
        When::Always => true,
        When::Before => before,
        When::Installed => !before,
    });
    let kubernetes = view.facts.version.clone().unwrap_or_else(|_| "unknown".to_owned());
    Report::new(kubernetes, sensible.map(|check| (check, (check.judge)(view))))
}
