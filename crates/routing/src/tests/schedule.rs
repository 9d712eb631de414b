//! Weights: exact over a period, spread evenly, errors as stated.

use proptest::prelude::*;

use crate::WeightSchedule;
use crate::schedule::MAX_SLOTS;

fn period(weights: &[u32]) -> Vec<usize> {
    let schedule = WeightSchedule::starting_at(weights, 0).unwrap();
    (0..schedule.period()).map(|_| schedule.next()).collect()
}

#[test]
fn no_weight_above_zero_is_no_schedule() {
    assert!(WeightSchedule::new(&[]).is_none());
    assert!(WeightSchedule::new(&[0, 0]).is_none());
}

#[test]
fn turns_are_spread_smoothly() {
    assert_eq!(period(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
    assert_eq!(period(&[1, 1]), [0, 1]);
    assert_eq!(period(&[100]), [0]);
}

#[test]
fn weights_are_reduced_by_their_common_divisor() {
    assert_eq!(period(&[70, 30, 0]).len(), 10);
    assert_eq!(period(&[1_000_000, 1_000_000]).len(), 2);
}

#[test]
fn workers_share_one_sequence() {
    let schedule = WeightSchedule::new(&[70, 30]).unwrap();
    let counts: Vec<[u32; 2]> = std::thread::scope(|scope| {
        let count = || {
            let mut counts = [0, 0];
            for _ in 0..2500 {
                counts[schedule.next()] += 1;
            }
            counts
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    // 10,000 turns are whole periods of 10.
    assert_eq!(counts.iter().map(|counts| counts[0]).sum::<u32>(), 7000);
}

proptest! {
    #[test]
    fn shares_are_exact_or_within_the_stated_error(weights in prop::collection::vec(0..=1_000_000_u32, 1..16), start: u32) {
        let sum: u64 = weights.iter().map(|&w| u64::from(w)).sum();
        let Some(schedule) = WeightSchedule::starting_at(&weights, u64::from(start)) else {
            prop_assert_eq!(sum, 0);
            return Ok(());
        };
        let period = schedule.period();
        prop_assert!(period <= MAX_SLOTS + weights.len());
        let mut counts = vec![0_u64; weights.len()];
        for _ in 0..period {
            counts[schedule.next()] += 1;
        }
        let exact = counts.iter().zip(&weights).all(|(&count, &weight)| count * sum == u64::from(weight) * period as u64);
        for (&count, &weight) in counts.iter().zip(&weights) {
            prop_assert_eq!(count == 0, weight == 0);
            let error = (count as f64 / period as f64 - f64::from(weight) / sum as f64).abs();
            prop_assert!(exact || error <= weights.len() as f64 / MAX_SLOTS as f64, "{} {:?}", error, weights);
        }
    }

    #[test]
    fn small_weights_are_always_exact(weights in prop::collection::vec(0..=200_u32, 1..16)) {
        let sum: u32 = weights.iter().sum();
        prop_assume!(sum > 0);
        let turns = period(&weights);
        for (backend, &weight) in weights.iter().enumerate() {
            let count = turns.iter().filter(|&&turn| turn == backend).count();
            prop_assert_eq!(count * sum as usize, weight as usize * turns.len());
        }
    }
}
