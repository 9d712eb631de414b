//! A lab and the ways to call in it.

mod checks;
mod objects;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weft_testkit::{Lab, Options};

pub use checks::{Checks, soon};
pub use objects::{HTTP_PORTS, Port, echo, http_route, namespace, pod, route, rule, service, sleeper};

/// A running lab.
#[derive(Debug)]
pub struct Mesh {
    lab: Lab,
}

/// The echo server that the tests are built with.
fn echo_program() -> String {
    beside_the_tests("weft-echo").display().to_string()
}

/// Programs lie in the folder above the test's own.
fn beside_the_tests(program: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let found = test.ancestors().skip(1).take(3).map(|dir| dir.join(program)).find(|p| p.is_file());
    found.unwrap_or_else(|| PathBuf::from(program))
}

/// An HTTP answer as curl printed it.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status, of the last head that was not interim.
    pub status: u16,
    /// That head's fields, names in lower case.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Everything after it.
    pub body: String,
}

impl Answer {
    /// Reads what `curl --include` prints, interim answers skipped.
    pub fn read(text: &str) -> Result<Self> {
        let mut rest = text;
        loop {
            let (head, body) = rest.split_once("\r\n\r\n").context(format!("no HTTP answer: {text:?}"))?;
            let mut lines = head.lines();
            let status: u16 = lines
                .next()
                .and_then(|l| l.split(' ').nth(1))
                .and_then(|s| s.parse().ok())
                .context(text.to_owned())?;
            rest = body;
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (name, value) in lines.filter_map(|l| l.split_once(':')) {
                headers.entry(name.to_ascii_lowercase()).or_default().push(value.trim().to_owned());
            }
            return Ok(Self { status, headers, body: body.to_owned() });
        }
    }

    /// What the echo server received.
    pub fn echoed(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not from the echo server: {self:?}"))
    }

    /// The echo server's name.
    pub fn name(&self) -> Result<String> {
        Ok(self.echoed()?.get("name").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// The path and query that reached the echo server.
    pub fn path(&self) -> Result<String> {
        Ok(self.echoed()?.get("path").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// All values of a header that reached the echo server.
    pub fn received(&self, header: &str) -> Result<Vec<String>> {
        let echoed = self.echoed()?;
        let values = echoed.get("headers").and_then(|h| h.get(header)).and_then(Value::as_array);
        Ok(values.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect())
    }

    /// All values of a header of the answer.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.get(name).into_iter().flatten().map(String::as_str).collect()
    }

    /// Fails unless the status is this and, if a name is given, this echo server answered.
    pub fn expect(&self, status: u16, name: &str) -> Result<()> {
        ensure!(self.status == status, "status {} instead of {status}: {}", self.status, self.body.trim());
        if !name.is_empty() {
            let who = self.name()?;
            ensure!(who == name, "{who} answered instead of {name}");
        }
        Ok(())
    }
}

/// How often each line occurs.
pub fn tally(text: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    counts
}

impl Mesh {
    /// Brings a lab up and waits until every node's proxy has the same, settled view of it.
    #[track_caller]
    pub fn up(yaml: &str) -> Self {
        let options = Options {
            environment: vec![("WEFT_ACCESS_LOG".to_owned(), "-".to_owned())],
            ..Options::default()
        };
        let lab = Lab::up_with(yaml, &options).unwrap_or_else(|error| panic!("{error:#}"));
        let mesh = Self { lab };
        mesh.settle().unwrap_or_else(|error| panic!("{error:#}"));
        mesh
    }

    /// Waits until no proxy's configuration has changed for a while.
    pub fn settle(&self) -> Result<()> {
        let view = || -> Result<Vec<String>> {
            ["node1", "node2"].map(|n| self.admin(n, "config")).into_iter().collect()
        };
        let mut before = view()?;
        let mut quiet = 0;
        for _ in 0..100 {
            std::thread::sleep(std::time::Duration::from_millis(100));
            let now = view()?;
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
            if quiet == 4 {
                return Ok(());
            }
        }
        bail!("the proxies' configuration does not come to rest")
    }

    /// The lab.
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// What a proxy's admin server says (`metrics`, `config`).
    pub fn admin(&self, node: &str, page: &str) -> Result<String> {
        self.run(&format!("node/{node}"), &["curl", "-sSf", &format!("http://127.0.0.1:15000/{page}")])
    }

    /// Runs a program in a pod; fails with its output if it fails.
    pub fn run(&self, pod: &str, program: &[&str]) -> Result<String> {
        let out = self.lab.exec(pod, program)?;
        ensure!(out.code == 0, "{} ended with {}: {}{}", program.join(" "), out.code, out.stdout, out.stderr);
        Ok(out.stdout)
    }

    /// Runs a shell script in a pod, whatever its exit code: standard output and standard error.
    pub fn shell(&self, pod: &str, script: &str) -> Result<String> {
        let out = self.lab.exec(pod, &["bash", "-c", script])?;
        Ok(out.stdout + &out.stderr)
    }

    /// Runs a program in a pod with standard input.
    pub fn pipe(&self, pod: &str, program: &[&str], input: &[u8]) -> Result<String> {
        let mut command = self.lab.exec_command(pod, program);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ends early does not read all of it.
            let _ = stdin.write_all(input);
        }
        let out = child.wait_with_output()?;
        Ok(format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
    }

    /// One request by curl with these arguments.
    pub fn curl(&self, pod: &str, arguments: &[&str]) -> Result<Answer> {
        let mut program = vec!["curl", "-sS", "-i", "-m", "15"];
        program.extend(arguments);
        Answer::read(&self.run(pod, &program)?)
    }

    /// Many requests by one curl on one connection; how often each status and echo server answered (`200 v1`, `500`).
    pub fn many(
        &self,
        pod: &str,
        count: usize,
        url: &str,
        arguments: &[&str],
    ) -> Result<BTreeMap<String, usize>> {
        let mark = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{mark}n=[1-{count}]");
        let mut program = vec!["curl", "-sS", "-m", "30", "-w", "\n%{http_code}\n", url.as_str()];
        program.extend(arguments);
        let text = self.run(pod, &program)?;
        let mut counts = BTreeMap::new();
        let mut name = String::new();
        for line in text.lines().filter(|l| !l.is_empty()) {
            if let Ok(echoed) = serde_json::from_str::<Value>(line)
                && let Some(who) = echoed.get("name").and_then(Value::as_str)
            {
                name = format!(" {who}");
            } else if line.len() == 3 && line.bytes().all(|b| b.is_ascii_digit()) {
                *counts.entry(format!("{line}{}", std::mem::take(&mut name))).or_default() += 1;
            }
        }
        Ok(counts)
    }

    /// The condition of a route's status for its first parent: status and reason (`True Accepted`).
    pub fn condition(&self, kind: &str, namespace: &str, name: &str, condition: &str) -> Result<String> {
        let status = self.lab.object_status(kind, namespace, name).context("no status")?;
        let at = |v: &Value, p: &str| v.pointer(p).and_then(Value::as_str).unwrap_or_default().to_owned();
        let conditions = status
            .pointer("/parents/0/conditions")
            .or_else(|| status.pointer("/status/parents/0/conditions"))
            .and_then(Value::as_array)
            .with_context(|| format!("no conditions in {status}"))?;
        let found = conditions.iter().find(|c| at(c, "/type") == condition);
        let found = found.with_context(|| format!("no {condition} in {status}"))?;
        Ok(format!("{} {}", at(found, "/status"), at(found, "/reason")))
    }
}
