//! Programs in pods that call until they are told to end, and tell how it went.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::mesh::{Mesh, patiently};

const LOAD: &str = include_str!("programs/load.py");

/// A program that calls until it is told to end, or is dropped.
#[derive(Debug)]
pub struct Load {
    what: String,
    mode: String,
    child: Child,
    /// Its end is the program's.
    input: Option<ChildStdin>,
    told: Arc<Mutex<Value>>,
    reader: Option<JoinHandle<()>>,
}

/// How the calls of one program went.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Who called whom, how.
    pub what: String,
    /// How.
    pub mode: String,
    /// How many calls went well.
    pub ok: u64,
    /// How the others failed.
    pub failed: Vec<String>,
    /// The last answer.
    pub last: String,
    /// How often each of the echo servers answered, by name.
    pub answered: BTreeMap<String, u64>,
    /// Digests of the certificates that were seen, in order.
    pub certificates: Vec<String>,
}

impl Load {
    /// Starts calling from a pod of a mesh. Modes: `keep` (one HTTP/1.1 connection on and on), `slow` (the same, with 1.5 s
    /// between calls), `new` (a connection for each call), `stream` (echoes over one connection). The options are those of
    /// `programs/load.py`, such as `path=/slow`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mesh: &Mesh, from: &str, mode: &str, at: (&str, u16), options: &[&str]) -> Result<Self> {
        Self::start_by(|program| mesh.place().exec_command(from, program), from, mode, at, options)
    }

    /// The same, by a function that makes a command run in the pod.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_by(
        command: impl FnOnce(&[&str]) -> Command,
        from: &str,
        mode: &str,
        (host, port): (&str, u16),
        options: &[&str],
    ) -> Result<Self> {
        let number = port.to_string();
        let program = [&["python3", "-c", LOAD, mode, host, &number], options].concat();
        let mut child = command(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take().context("no output")?);
        let told = Arc::<Mutex<Value>>::default();
        let into = Arc::clone(&told);
        let reader = std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            for value in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                *into.lock().unwrap_or_else(PoisonError::into_inner) = value;
            }
        });
        let what = format!("{mode} {from} -> {host}:{port} {}", options.join(" "));
        Ok(Self { what, mode: mode.to_owned(), child, input, told, reader: Some(reader) })
    }

    fn told(&self) -> Value {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many calls there have been, as far as it has told.
    #[must_use]
    pub fn calls(&self) -> u64 {
        let told = self.told();
        told["ok"].as_u64().unwrap_or(0) + told["failed"].as_array().map_or(0, |all| all.len() as u64)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it broke down.
    pub fn end(mut self) -> Result<Ended> {
        drop(self.input.take());
        let status = self.child.wait()?;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        ensure!(status.success(), "{}: it ended with {status}", self.what);
        let told = self.told();
        let texts = |field: &str| -> Vec<String> {
            told[field]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|v| Some(v.as_str()?.to_owned()))
                .collect()
        };
        let answered = told["answered"].as_object().into_iter().flatten();
        Ok(Ended {
            ok: told["ok"].as_u64().with_context(|| format!("{} tells nothing", self.what))?,
            failed: texts("failed"),
            last: told["last"].as_str().unwrap_or_default().to_owned(),
            answered: answered.map(|(name, n)| (name.clone(), n.as_u64().unwrap_or(0))).collect(),
            certificates: texts("certificates"),
            what: std::mem::take(&mut self.what),
            mode: std::mem::take(&mut self.mode),
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until each has made this many more calls.
///
/// # Errors
/// When one stands still.
pub fn some_more(all: &[Load], calls: u64) -> Result<()> {
    let before: Vec<u64> = all.iter().map(Load::calls).collect();
    patiently(|| {
        for (load, before) in all.iter().zip(&before) {
            ensure!(load.calls() >= before + calls, "{} stands still at {before}", load.what);
        }
        Ok(())
    })
}

/// Ends all.
///
/// # Errors
/// When one broke down.
pub fn end(all: Vec<Load>) -> Result<Vec<Ended>> {
    all.into_iter().map(Load::end).collect()
}

/// Ends all, of whom none may have failed once.
///
/// # Errors
/// When a call failed.
pub fn none_failed(all: Vec<Load>) -> Result<Vec<Ended>> {
    let ended = end(all)?;
    let wrong: Vec<String> = ended
        .iter()
        .filter(|one| !one.failed.is_empty() || one.ok == 0)
        .map(|one| format!("{}: {} went well, these failed: {:?}", one.what, one.ok, one.failed))
        .collect();
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(ended)
}
