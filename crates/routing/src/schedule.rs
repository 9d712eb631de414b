//! Which backend is next: smooth weighted round robin, computed once into slots that all workers walk together.

use std::sync::atomic::{AtomicU64, Ordering};

/// The most slots a schedule has.
pub const MAX_SLOTS: usize = 4096;

/// A repeating order of backends in which each has its share and turns are spread evenly.
///
/// Where the weights, divided by their greatest common divisor, add up to at most [`MAX_SLOTS`], every period holds
/// each backend exactly as often as its weight says. Otherwise shares are rounded to slots and each backend's share
/// differs from its weight's by at most `backends / MAX_SLOTS`; a weight above 0 always has at least one slot.
#[derive(Debug)]
pub struct WeightSchedule {
    /// Backend indexes.
    slots: Box<[u16]>,
    /// Slots taken so far, by all workers. Starts anywhere, so that periodic callers do not alias.
    taken: AtomicU64,
}

impl WeightSchedule {
    /// The schedule of backends with these weights; `None` if no weight is above 0 (the spec's answer is then 500).
    pub fn new(weights: &[u32]) -> Option<Self> {
        Self::starting_at(weights, u64::from(rand::random::<u32>()))
    }

    /// As [`Self::new`] with a given first slot, for tests.
    pub fn starting_at(weights: &[u32], start: u64) -> Option<Self> {
        let slots = smooth_order(&slot_counts(weights)?);
        Some(Self { slots: slots.into_boxed_slice(), taken: AtomicU64::new(start) })
    }

    /// The index of the next backend.
    pub fn next(&self) -> usize {
        let [only] = *self.slots else {
            // A relaxed counter suffices: only the number of turns matters, not who comes first.
            let turn = self.taken.fetch_add(1, Ordering::Relaxed);
            let slot = usize::try_from(turn % self.slots.len().max(1) as u64).unwrap_or(0);
            return self.slots.get(slot).map_or(0, |&backend| usize::from(backend));
        };
        usize::from(only)
    }

    /// Slots in a period.
    pub fn period(&self) -> usize {
        self.slots.len()
    }
}

/// How many slots each backend gets.
fn slot_counts(weights: &[u32]) -> Option<Vec<u64>> {
    let divisor = weights.iter().fold(0, |a, &b| gcd(a, u64::from(b)));
    if divisor == 0 {
        return None;
    }
    let reduced: Vec<u64> = weights.iter().map(|&w| u64::from(w) / divisor).collect();
    let sum: u64 = reduced.iter().sum();
    if sum <= MAX_SLOTS as u64 { Some(reduced) } else { Some(rounded(&reduced, sum)) }
}

/// Largest-remainder rounding to [`MAX_SLOTS`], but no weight above 0 loses its last slot.
fn rounded(weights: &[u64], sum: u64) -> Vec<u64> {
    let max = MAX_SLOTS as u64;
    let mut counts: Vec<u64> =
        weights.iter().map(|&w| if w == 0 { 0 } else { (w.saturating_mul(max) / sum).max(1) }).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder
        .sort_by_key(|&i| std::cmp::Reverse(weights.get(i).map_or(0, |w| w.saturating_mul(max) % sum)));
    let used: u64 = counts.iter().sum();
    let spare = usize::try_from(max.saturating_sub(used)).unwrap_or(0);
    for &i in by_remainder.iter().take(spare) {
        if let Some(count) = counts.get_mut(i) {
            *count += 1;
        }
    }
    counts
}

/// Smooth weighted round robin: in each turn every backend gains its weight, and the richest pays the sum.
fn smooth_order(counts: &[u64]) -> Vec<u16> {
    let sum: i64 = counts.iter().map(|&c| c.cast_signed()).sum();
    let mut credit = vec![0_i64; counts.len()];
    let mut order = Vec::with_capacity(usize::try_from(sum).unwrap_or(0));
    for _ in 0..sum {
        for (credit, &count) in credit.iter_mut().zip(counts) {
            *credit += count.cast_signed();
        }
        // Of equally rich backends the first: `max_by_key` would take the last.
        let richest = credit.iter_mut().enumerate().rev().max_by_key(|(_, credit)| **credit);
        if let Some((backend, credit)) = richest {
            *credit -= sum;
            order.push(u16::try_from(backend).unwrap_or(0));
        }
    }
    order
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
