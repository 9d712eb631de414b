//! `weft uninstall`: takes every pod out of the mesh and removes what the programs made, so that deleting what was
//! installed breaks nothing and leaves nothing. The chart runs it before it is deleted.

mod leave;
mod namespaces;
mod remove;

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

use crate::cluster::ClusterArgs;
use crate::output::count;

/// How often the cluster is asked how far it is.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Arguments of `weft uninstall`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft uninstall                            then: weft install | kubectl delete -f -
  weft uninstall --keep-root                keeps the root's key for a later installation

`helm uninstall` runs it by itself. It needs the rights of an administrator. Labels on namespaces and pods stay:
they are yours. To stop halfway and stay in the mesh:
  kubectl -n weft-system annotate daemonset weft-agent weft-mesh.dev/uninstall-
  kubectl -n weft-system scale deployment weft-controller --replicas 2")]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Do not ask.
    #[arg(short = 'y', long)]
    yes: bool,
    /// Keep the Secret weft-ca with the root's key.
    #[arg(long)]
    keep_root: bool,
    /// How long all nodes together may take.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = weft_runtime::duration::duration)]
    timeout: Duration,
}

/// `weft uninstall`.
pub(crate) async fn run(arguments: UninstallArgs) -> Result<u8> {
    let cluster = arguments.cluster.connect().await?;
    if !arguments.yes && !confirmed()? {
        bail!("nothing was done");
    }
    let deadline = Instant::now() + arguments.timeout;
    println!("telling the agents that their pods leave the mesh");
    let mut said = String::new();
    if leave::announce(&cluster).await? {
        loop {
            let progress = leave::progress(&cluster).await?;
            let sentence = progress.sentence();
            if said != sentence {
                println!("{sentence}");
                said = sentence;
            }
            if progress.is_done() {
                break;
            }
            if Instant::now() > deadline {
                bail!(
                    "{} not out of the mesh after {:?}: {}. Nothing was removed; run it again, or see docs/install.md",
                    count(progress.waiting.len(), "node"),
                    arguments.timeout,
                    progress.waiting.join(", ")
                );
            }
            sleep(ASK_EVERY).await;
        }
    } else {
        println!("there is no DaemonSet weft-agent: nobody can take pods out of the mesh");
    }
    println!("stopping the controller");
    remove::stop_controller(&cluster, deadline, ASK_EVERY).await?;
    for line in remove::everything(&cluster, arguments.keep_root).await? {
        println!("{line}");
    }
    Ok(0)
}

fn confirmed() -> Result<bool> {
    use std::io::{BufRead as _, Write as _};
    print!(
        "Take every pod of the cluster out of the mesh? What they say to each other is plaintext then. [y/N] "
    );
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
