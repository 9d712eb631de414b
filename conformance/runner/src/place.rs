//! Acting as the scheduler for the suite's pods while it runs, and watching where they run.

use std::io::Write;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use weft_cluster::Cluster;

use crate::placement::{Placement, Pod, Record, objects};

/// The two nodes that placements speak of.
pub const NODES: [&str; 2] = ["node1", "node2"];

/// While it lives, all nodes are cordoned and every pod of the suite is bound where the placement says.
pub struct Scheduler {
    cluster: Cluster,
    watch: Child,
    thread: Option<JoinHandle<()>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    record: Record,
    failures: Vec<String>,
}

impl Scheduler {
    /// Cordons the nodes and begins.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn start(cluster: &Cluster, placement: Placement) -> Result<Self> {
        cluster.kubectl(&[&["cordon"], &NODES[..]].concat())?;
        let mut watch = cluster.command("kubectl");
        watch.args(["--", "get", "pods", "--all-namespaces", "--watch", "--output=json"]);
        let mut watch =
            watch.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start kubectl")?;
        let source = watch.stdout.take().context("kubectl has no output")?;
        let seen = Arc::<Mutex<Seen>>::default();
        let (into, of) = (Arc::clone(&seen), cluster.clone());
        let thread = std::thread::spawn(move || {
            for object in objects(std::io::BufReader::new(source)) {
                let Ok(object) = object else { break };
                let unbound = lock(&into).record.see(&object);
                if let Some(Err(error)) = unbound.map(|pod| bind(&of, &pod, placement.node(&pod, NODES))) {
                    lock(&into).failures.push(format!("{error:#}"));
                }
            }
        });
        Ok(Self { cluster: cluster.clone(), watch, thread: Some(thread), seen })
    }

    /// Ends, and says where the pods ran.
    ///
    /// # Errors
    /// If a pod could not be bound, or the watch had ended before.
    pub fn finish(mut self) -> Result<Record> {
        let early = self.watch.try_wait()?;
        self.stop();
        let seen = std::mem::take(&mut *lock(&self.seen));
        if let Some(failure) = seen.failures.first() {
            bail!("{failure}");
        }
        if let Some(status) = early {
            bail!("the watch on pods ended early, with {status}, so nobody knows where they ran");
        }
        Ok(seen.record)
    }

    fn stop(&mut self) {
        // It may have ended already.
        let _ = self.watch.kill();
        let _ = self.watch.wait();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.stop();
        if let Err(error) = self.cluster.kubectl(&[&["uncordon"], &NODES[..]].concat()) {
            eprintln!("the nodes stay cordoned: {error:#}");
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Binds a pod as a scheduler does. A pod that is gone or bound by now needs nothing.
fn bind(cluster: &Cluster, pod: &Pod, node: &str) -> Result<()> {
    let path = format!("/api/v1/namespaces/{}/pods/{}/binding", pod.namespace, pod.name);
    let mut command = cluster.command("kubectl");
    command.args(["--", "create", "--raw", &path, "--filename", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start kubectl")?;
    child
        .stdin
        .take()
        .context("kubectl has no input")?
        .write_all(pod.binding(node).to_string().as_bytes())?;
    let out = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&out.stderr);
    if !out.status.success() && !complaint.contains("Conflict") && !complaint.contains("NotFound") {
        bail!("{}/{} cannot be bound to {node}: {}", pod.namespace, pod.name, complaint.trim());
    }
    Ok(())
}
