//! Figures over the seeds, in few digits.

use serde::Serialize;

use crate::cluster::Run;

/// A figure over the seeds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation; 0 for one seed.
    pub sd: f64,
    /// Least.
    pub min: f64,
    /// Greatest.
    pub max: f64,
}

impl Spread {
    /// The spread of some figures; all zero for none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        if values.is_empty() {
            return Self::default();
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self {
            mean,
            sd: if n > 1.0 { (squares / (n - 1.0)).sqrt() } else { 0.0 },
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// The runs of each policy (and affinity), in the order in which they were asked for.
#[must_use]
pub fn by_policy(runs: &[Run]) -> Vec<&[Run]> {
    runs.chunk_by(|a, b| a.policy == b.policy && a.affinity == b.affinity).collect()
}

/// A figure of one policy over its seeds.
pub(super) fn over(runs: &[Run], figure: impl Fn(&Run) -> f64) -> Spread {
    Spread::of(runs.iter().map(figure))
}

/// A time of requests over the runs that had any: a window in which nobody came has none.
pub(super) fn over_served(runs: &[Run], figure: impl Fn(&Run) -> f64) -> Spread {
    Spread::of(runs.iter().filter(|run| run.has_times()).map(figure))
}

/// Tokens in three digits: `812`, `20.7k`, `1.23M`.
#[must_use]
pub fn short(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        size if size >= 999_500.0 => (value / 1e6, "M"),
        size if size >= 999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        size if suffix.is_empty() || size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    format!("{scaled:.digits$}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_mean_and_sample_deviation() {
        let spread = Spread::of([2.0, 4.0, 9.0]);
        assert_eq!((spread.mean, spread.min, spread.max), (5.0, 2.0, 9.0));
        approx::assert_abs_diff_eq!(spread.sd, 13f64.sqrt(), epsilon = 1e-12);
        assert_eq!(Spread::of([3.0]).sd, 0.0);
        assert_eq!(Spread::of([]), Spread::default());
    }

    #[test]
    fn runs_without_requests_have_no_times() {
        let run = |ms: f64| {
            let mut run = Run { tokens_per_s: ms, ..Run::default() };
            (run.ttft_ms.mean, run.tpot_ms.p95) = (ms, ms);
            run
        };
        let runs = [run(8.0), run(0.0), run(4.0)];
        assert_eq!(over_served(&runs, |run| run.tpot_ms.p95).mean, 6.0);
        assert_eq!(over(&runs, |run| run.tokens_per_s).mean, 4.0);
    }

    #[test]
    fn short_keeps_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (812.4, "812"),
            (1234.0, "1.23k"),
            (20_700.0, "20.7k"),
            (99_960.0, "100k"),
            (438_225.0, "438k"),
            (1_690_000.0, "1.69M"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
