//! What is sent on a path, by which program, and how much of it went well.

use anyhow::{Context, Result, bail};

use super::Options;

/// Size of the page `/big`.
pub(super) const BIG: usize = 1 << 20;
/// Datagrams under way at a time.
const WINDOW: usize = 32;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Load {
    /// Requests of HTTP/1.1 on connections that stay.
    Requests,
    /// Requests of HTTP/2, ten at a time on each connection.
    Streams,
    /// A request on a TLS connection of its own.
    Handshakes,
    /// Large responses.
    Bytes,
    /// Datagrams that are echoed.
    Datagrams,
}

impl Load {
    /// What the cost is told by.
    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::Requests | Self::Streams => "request",
            Self::Handshakes => "new TLS connection",
            Self::Bytes => "MiB",
            Self::Datagrams => "datagram and its answer",
        }
    }

    /// The load generator and its arguments. `url` of datagrams is `HOST PORT`.
    pub(super) fn command(self, options: &Options, url: &str) -> Vec<String> {
        let (connections, seconds) = (options.connections.to_string(), options.seconds.to_string());
        let wrk = |more: &[&str]| {
            let fixed =
                ["wrk".to_owned(), "-t1".to_owned(), format!("-c{connections}"), format!("-d{seconds}s")];
            fixed.into_iter().chain(more.iter().map(|word| (*word).to_owned())).collect()
        };
        match self {
            Self::Requests | Self::Bytes => wrk(&[url]),
            Self::Handshakes => wrk(&["-H", "Connection: close", url]),
            Self::Streams => {
                let clients = (options.connections / 4).max(1).to_string();
                let fixed =
                    ["h2load", "-t1", "-m10", "--warm-up-time=0", "-c", &clients, "-D", &seconds, url];
                fixed.map(str::to_owned).into()
            }
            Self::Datagrams => {
                let (host, port) = url.split_once(' ').unwrap_or((url, "53"));
                let window = WINDOW.to_string();
                ["python3", "-c", include_str!("datagrams.py"), host, port, &seconds, &window]
                    .map(str::to_owned)
                    .into()
            }
        }
    }

    /// How many of its units went well, by what the load generator printed.
    ///
    /// # Errors
    /// Something failed, or nothing is said.
    pub(super) fn amount(self, text: &str) -> Result<f64> {
        if let Some(line) = self.failures(text).next() {
            bail!("the load generator saw failures: {}", line.trim());
        }
        self.total(text)
    }

    /// As [`Load::amount`], whatever else failed.
    ///
    /// # Errors
    /// Nothing is said.
    pub(super) fn total(self, text: &str) -> Result<f64> {
        let before = |words: &str| {
            text.lines().find_map(|line| {
                let (number, _) = line.split_once(words)?;
                number.split_whitespace().next_back()?.parse::<f64>().ok()
            })
        };
        let done = match self {
            Self::Requests | Self::Handshakes | Self::Bytes => before(" requests in "),
            Self::Streams => before(" succeeded, "),
            Self::Datagrams => before(" datagrams came back"),
        };
        let done = done.filter(|done| *done > 0.0);
        done.with_context(|| format!("the load generator printed no total:\n{text}"))
    }

    /// How many of its units failed, by what the load generator printed.
    pub(super) fn failed(self, text: &str) -> u64 {
        let number = |word: &str| word.trim_end_matches(',').parse::<u64>().ok();
        self.failures(text)
            .map(|line| match line.split_once(" failed") {
                Some((before, _)) => before.split_whitespace().next_back().and_then(number).unwrap_or(1),
                None => line.split_whitespace().filter_map(number).sum(),
            })
            .sum()
    }

    /// The lines in which the load generator tells of failures.
    fn failures(self, text: &str) -> impl Iterator<Item = &str> {
        // wrk counts the ends of connections that it asked for as errors of reading; they are none.
        text.lines().filter(move |line| {
            let torn = line.contains("Socket errors") && self != Self::Handshakes;
            line.contains("Non-2xx") || torn || (line.contains(" failed") && !line.contains(" 0 failed"))
        })
    }
}
