//! What a handful of replicates says: intervals and tests by Student's t, and Holm's correction for many
//! tests.

use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::report::Spread;
use crate::report::results::Interval;

/// Draws of a bootstrap.
pub(in crate::evaluation) const DRAWS: usize = 2_000;

/// Of some replicates' requests, and how many of them keep all limits: the share that does. Nobody breaks a
/// limit where nobody comes.
pub(in crate::evaluation) fn kept_share(counts: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (requests, kept) = counts.fold((0.0, 0.0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    if requests > 0.0 { kept / requests } else { 1.0 }
}

/// What intervals cover.
const COVERAGE: f64 = 0.95;

/// Student's t for so many values; none for fewer than two.
fn student(values: usize) -> Option<StudentsT> {
    if values < 2 {
        return None;
    }
    StudentsT::new(0.0, 1.0, (values - 1) as f64).ok()
}

/// Mean and 95 % interval; without bounds for fewer than two values.
pub(in crate::evaluation) fn interval(values: &[f64]) -> Interval {
    let Spread { mean, sd, .. } = Spread::of(values.iter().copied());
    let half = student(values.len())
        .map(|t| t.inverse_cdf(0.5 + COVERAGE / 2.0) * sd / (values.len() as f64).sqrt());
    Interval {
        mean,
        low: half.map(|half| mean - half),
        high: half.map(|half| mean + half),
        sd,
        n: values.len() as u64,
    }
}

/// How likely a mean as far from 0 is by chance, on both sides; none for fewer than two values.
pub(super) fn p_value(values: &[f64]) -> Option<f64> {
    let t = student(values.len())?;
    let Spread { mean, sd, .. } = Spread::of(values.iter().copied());
    if sd == 0.0 {
        return Some(if mean == 0.0 { 1.0 } else { 0.0 });
    }
    let found = mean.abs() / (sd / (values.len() as f64).sqrt());
    Some(2.0 * t.sf(found))
}

/// Holm: the k-th least of n values (from 0) times n - k, never below the one before it, at most 1.
pub(super) fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let (mut adjusted, mut least) = (vec![0.0; p.len()], 0.0f64);
    for (rank, at) in order.into_iter().enumerate() {
        least = least.max((p[at] * (p.len() - rank) as f64).min(1.0));
        adjusted[at] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_a_known_sample() {
        // Student's sleep data of 1908, extra hours of one drug over the other in ten patients:
        // mean 1.58, t = 4.0621, df = 9, p = 0.002833, 95 % interval 0.7001 to 2.4599.
        let hours = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4];
        let found = interval(&hours);
        approx::assert_abs_diff_eq!(found.mean, 1.58, epsilon = 1e-12);
        approx::assert_abs_diff_eq!(found.low.expect("ten values"), 0.700_114, epsilon = 1e-5);
        approx::assert_abs_diff_eq!(found.high.expect("ten values"), 2.459_886, epsilon = 1e-5);
        approx::assert_abs_diff_eq!(p_value(&hours).expect("ten values"), 0.002_833, epsilon = 1e-6);
        let less: Vec<f64> = hours.iter().map(|hours| -hours).collect();
        approx::assert_abs_diff_eq!(p_value(&less).expect("ten values"), 0.002_833, epsilon = 1e-6);
    }

    #[test]
    fn one_value_says_nothing_of_doubt_and_equal_ones_leave_none() {
        let one = interval(&[3.0]);
        assert_eq!((one.mean, one.low, one.high, one.n, p_value(&[3.0])), (3.0, None, None, 1, None));
        let equal = interval(&[3.0, 3.0]);
        assert_eq!((equal.low, equal.high, p_value(&[3.0, 3.0])), (Some(3.0), Some(3.0), Some(0.0)));
        assert_eq!(p_value(&[0.0, 0.0]), Some(1.0));
    }

    #[test]
    fn holm_steps_down() {
        // 0.01 x 4, 0.03 x 2 and 0.04 x 1 raised to it, 0.02 x 3.
        let found = holm(&[0.01, 0.04, 0.03, 0.02]);
        for (found, expected) in found.iter().zip([0.04, 0.06, 0.06, 0.06]) {
            approx::assert_abs_diff_eq!(*found, expected, epsilon = 1e-12);
        }
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}
