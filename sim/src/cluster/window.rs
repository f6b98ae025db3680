//! Windows of an open trace: one trace gives one run a rate, its windows give many.
//!
//! A Poisson process has as many runs as there are seeds and one window each: its first third leads in, its
//! second is measured, and its last keeps the cluster loaded until those of the second have finished.
//!
//! The trace's time is cut into equal spans, one more than there are windows. A window's run starts empty and
//! plays the span before the window to lead in; then it measures the steps that begin in the window and the
//! requests that arrive in it. It goes on with the trace until all of those have finished, so that nobody's
//! wait is cut short or eased by an end of the traffic.

use super::source::{Arrivals, Source};

/// One window, on the clock of its own run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    /// Row of the trace that leads in.
    pub first_row: usize,
    /// Where the run's clock begins, in seconds of the trace.
    pub origin_s: f64,
    /// First moment that is measured.
    pub from_ms: f64,
    /// First moment after it.
    pub to_ms: f64,
}

impl Window {
    /// The window `index` of so many; none where the pool is kept full.
    pub(crate) fn new(source: &Source, arrivals: Arrivals, index: u32, windows: u32) -> Option<Self> {
        let (trace, rate_scale) = match (source, arrivals) {
            (Source::Trace(trace), Arrivals::Trace { rate_scale }) => (trace, rate_scale),
            (_, Arrivals::Poisson { per_second, requests }) => {
                let third_ms = requests as f64 / 3.0 / per_second * 1e3;
                return Some(Self { first_row: 0, origin_s: 0.0, from_ms: third_ms, to_ms: 2.0 * third_ms });
            }
            _ => return None,
        };
        let span_s = trace.arrival_s.last()? / f64::from(windows + 1);
        let origin_s = span_s * f64::from(index);
        let span_ms = span_s / rate_scale * 1e3;
        let first_row = trace.arrival_s.partition_point(|&at_s| at_s < origin_s);
        Some(Self { first_row, origin_s, from_ms: span_ms, to_ms: 2.0 * span_ms })
    }

    pub(crate) fn contains(&self, at_ms: f64) -> bool {
        (self.from_ms..self.to_ms).contains(&at_ms)
    }
}
