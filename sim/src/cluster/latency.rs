//! Times of requests: to the first token, per token, to the end.

use super::metrics::{Run, Sample};

#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    tpot_ms: Sample,
    ttft_ms: Sample,
    e2e_ms: Sample,
}

impl Latencies {
    /// A request has its first token.
    pub(crate) fn began(&mut self, since_arrival_ms: f64) {
        self.ttft_ms.push(since_arrival_ms);
    }

    /// A request has its last token; the end-to-end time of one that ran when the run began is not known.
    pub(crate) fn ended(&mut self, per_token_ms: f64, since_arrival_ms: Option<f64>) {
        self.tpot_ms.push(per_token_ms);
        since_arrival_ms.into_iter().for_each(|ms| self.e2e_ms.push(ms));
    }

    pub(crate) fn write(mut self, run: &mut Run) {
        run.tpot_ms = self.tpot_ms.latency();
        run.ttft_ms = self.ttft_ms.latency();
        run.e2e_ms = self.e2e_ms.latency();
    }
}
