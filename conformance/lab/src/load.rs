//! Programs in pods that call until they are told to end, and tell how it went.

use std::process::{Child, Stdio};

use serde_json::Value;

use crate::Lab;

const LOAD: &str = include_str!("programs/load.py");

/// A program that calls until it is told to end.
#[derive(Debug)]
pub struct Load {
    what: String,
    mode: String,
    child: Child,
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
    pub failed: Vec<Value>,
    /// The last answer.
    pub last: String,
}

impl Load {
    /// Starts calling from a pod. Modes: `keep` (one HTTP/1.1 connection on and on), `slow` (the same, with 1.5 s between
    /// calls), `new` (a connection for each call), `stream` (echoes over one connection).
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(lab: &Lab, from: &str, mode: &str, host: &str, port: &str) -> Self {
        let mut command = lab.exec_command(from, &["python3", "-c", LOAD, mode, host, port]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Self { what: format!("{mode} {from} -> {host}"), mode: mode.to_owned(), child }
    }

    /// Ends it.
    ///
    /// # Panics
    /// When it broke down.
    pub fn end(mut self) -> Ended {
        drop(self.child.stdin.take());
        let out = self.child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", self.what);
        let told: Value = serde_json::from_slice(&out.stdout).unwrap();
        let last = told["last"].as_str().unwrap().to_owned();
        let failed = told["failed"].as_array().unwrap().clone();
        Ended { what: self.what, mode: self.mode, ok: told["ok"].as_u64().unwrap(), failed, last }
    }
}

/// Ends all, of whom none may have failed once; in the end they are to have called through the mesh or not.
///
/// # Panics
/// When a call failed, when there were too few to tell, or when the last went the other way.
pub fn none_failed(all: Vec<Load>, tunnelled: bool) {
    let mut wrong = Vec::new();
    for Ended { what, mode, ok, failed, last } in all.into_iter().map(Load::end) {
        let enough = if mode == "slow" { 4 } else { 20 };
        if ok < enough || !failed.is_empty() {
            wrong.push(format!("{what}: {ok} went well, these failed: {failed:?}"));
        }
        if mode == "new" && last.contains("spiffe://") != tunnelled {
            wrong.push(format!("{what}: last {last}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
