//! Runs a target on mutated seeds until a bound is reached or it panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::targets::Target;

/// The largest input tried, bytes.
const MAX_INPUT: usize = 64 * 1024;

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// Inputs tried.
    pub inputs: u64,
    /// The input that made the target panic, if one did.
    pub panicked_on: Option<Vec<u8>>,
}

/// A busy machine must not make a run empty.
const LEAST: u64 = 128;

/// Runs `target` for `time`, and on [`LEAST`] inputs however long that takes. `seed` determines the inputs.
pub fn run(target: &Target, seed: u64, time: Duration) -> Report {
    let mut random = StdRng::seed_from_u64(seed);
    let end = Instant::now() + time;
    let mut corpus: Vec<Vec<u8>> = (target.seeds)();
    let mut inputs = 0;
    for input in corpus.clone() {
        inputs += 1;
        if panics(target, &input) {
            return Report { inputs, panicked_on: Some(input) };
        }
    }
    while inputs < LEAST || Instant::now() < end {
        let input = mutated(&corpus, &mut random);
        inputs += 1;
        if panics(target, &input) {
            return Report { inputs, panicked_on: Some(input) };
        }
        // Drift away from the seeds slowly, so that several mutations add up.
        if random.random_ratio(1, 64) && corpus.len() < 1024 {
            corpus.push(input);
        }
    }
    Report { inputs, panicked_on: None }
}

fn panics(target: &Target, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err()
}

fn mutated(corpus: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut input = pick(corpus, random);
    for _ in 0..random.random_range(1..=8) {
        mutate_once(&mut input, corpus, random);
    }
    input.truncate(MAX_INPUT);
    input
}

fn pick(corpus: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    corpus.get(random.random_range(0..corpus.len().max(1))).cloned().unwrap_or_default()
}

fn mutate_once(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut StdRng) {
    const TELLING: &[&[u8]] = &[
        b"\r\n",
        b"\n",
        b"\0",
        b"/",
        b"=",
        b"; ",
        b":",
        b"\xff\xff",
        b"%00",
        b"\"",
        b"{}",
        b"[",
        b"*",
        b"\xf0\x9f\xa7\xb5",
    ];
    let at = random.random_range(0..=input.len());
    match random.random_range(0..6) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        1 if at < input.len() => input[at] = random.random(),
        2 => input.truncate(at),
        3 => insert(input, at, TELLING[random.random_range(0..TELLING.len())]),
        4 => {
            let other = pick(corpus, random);
            let from = random.random_range(0..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => {
            let end = random.random_range(at..=input.len());
            let copy = input[at..end].to_vec();
            insert(input, at, &copy);
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}
