//! `--part changes`: a route at a Gateway is changed again and again while requests of HTTP/1.1 and HTTP/2 pass by it: how soon
//! each change is in force, and how many requests failed meanwhile.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::load::Load;
use super::{Options, gateway};
use crate::lab::Lab;

/// Between two looks at whether a change is in force.
const PAUSE: Duration = Duration::from_millis(1);
/// How long one change is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// The field that each change gives another value in responses.
const FIELD: &str = "x-change";

/// Makes the changes and says what came of them.
pub(super) fn measure(lab: &Lab, state: &Path, options: &Options) -> Result<()> {
    let address = lab.gateway(gateway::GATEWAY)?;
    let mut route = Route::read(&state.join(&lab.name))?;
    let mut client = Client::connect(&address)?;
    let ended = AtomicBool::new(false);
    let (times, loads) = thread::scope(|scope| {
        let loads = [Load::Requests, Load::Streams].map(|load| {
            let ended = &ended;
            scope.spawn(move || under_load(lab, options, load, ended))
        });
        let times: Result<Vec<Duration>> = (1..=options.changes)
            .map(|number| {
                route.change(number)?;
                client.wait_for(number, Instant::now())
            })
            .collect();
        ended.store(true, Ordering::Relaxed);
        (times, loads.map(thread::ScopedJoinHandle::join))
    });
    let (mut passed, mut failed) = (0.0, 0);
    for load in loads {
        let (of_load, failures) =
            load.map_err(|_| anyhow::anyhow!("a load generator's thread panicked"))??;
        passed += of_load;
        failed += failures;
    }
    report(times?, passed, failed);
    Ok(())
}

fn report(mut times: Vec<Duration>, passed: f64, failed: u64) {
    times.sort();
    let percentile = |percent: usize| {
        let at = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    };
    println!(
        "{} changes of a route, one after the other: in force after {:.1} ms (p50), {:.1} ms (p99), {:.1} ms (the slowest)",
        times.len(),
        percentile(50),
        percentile(99),
        percentile(100)
    );
    println!("requests meanwhile: {passed:.0} answered, {failed} failed");
}

/// Sends requests until the changes have been made: how many were answered, and how many failed.
fn under_load(lab: &Lab, options: &Options, load: Load, ended: &AtomicBool) -> Result<(f64, u64)> {
    let words = load.command(options, &gateway::own_url());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (mut passed, mut failed) = (0.0, 0);
    while !ended.load(Ordering::Relaxed) {
        let text = lab.exec("peers/client", &words)?;
        passed += load.total(&text)?;
        failed += load.failed(&text);
    }
    Ok((passed, failed))
}

/// The route, where the controller reads it: the lab itself looks at its folder a few times a second only.
struct Route {
    file: PathBuf,
    object: Value,
}

impl Route {
    fn read(state: &Path) -> Result<Self> {
        let file = state.join("cluster/HTTPRoute/peers/http.json");
        let text = std::fs::read(&file).with_context(|| file.display().to_string())?;
        Ok(Self { object: serde_json::from_slice(&text)?, file })
    }

    fn change(&mut self, number: u32) -> Result<()> {
        let field = json!({ "name": FIELD, "value": number.to_string() });
        let filters =
            json!([{ "type": "ResponseHeaderModifier", "responseHeaderModifier": { "set": [field] } }]);
        self.set("/spec/rules/0", "filters", filters)?;
        self.set("/metadata", "generation", (number + 1).into())?;
        let new = self.file.with_file_name(".http.new");
        std::fs::write(&new, self.object.to_string())?;
        Ok(std::fs::rename(new, &self.file)?)
    }

    fn set(&mut self, within: &str, key: &str, value: Value) -> Result<()> {
        let within = self.object.pointer_mut(within).and_then(Value::as_object_mut);
        within.context("the route has no rule")?.insert(key.to_owned(), value);
        Ok(())
    }
}

/// A connection that asks again and again.
struct Client {
    host: String,
    connection: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: &str) -> Result<Self> {
        let host = format!("{address}:{}", gateway::HTTP);
        let connection = TcpStream::connect(&host).with_context(|| host.clone())?;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.set_nodelay(true)?;
        Ok(Self { host, connection: BufReader::new(connection) })
    }

    /// Asks until an answer is by change `number`; how long that took from `begun`.
    fn wait_for(&mut self, number: u32, begun: Instant) -> Result<Duration> {
        let wanted = format!("{FIELD}: {number}");
        while begun.elapsed() < PATIENCE {
            if self.ask()?.contains(&wanted) {
                return Ok(begun.elapsed());
            }
            thread::sleep(PAUSE);
        }
        bail!("the Gateway does not follow change {number} of the route");
    }

    /// One request; the lines of its answer's head.
    fn ask(&mut self) -> Result<Vec<String>> {
        let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.connection.get_mut().write_all(request.as_bytes())?;
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            self.connection.read_line(&mut line)?;
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_lowercase()),
            }
        }
        if head.first().is_none_or(|status| status != "http/1.1 200 ok") {
            bail!("the Gateway answered {head:?}");
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        self.connection.read_exact(&mut vec![0; length.context("no Content-Length")?])?;
        Ok(head)
    }
}
