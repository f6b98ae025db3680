//! What a run shows to who looks on, step by step: recorders, pictures.

/// A step that has been played; loads are those that its admissions have left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepSeen<'a> {
    /// From 0, warm-up included.
    pub step: u64,
    /// Where it begins and ends on the clock of the run.
    pub from_ms: f64,
    pub to_ms: f64,
    /// KV tokens of each worker.
    pub loads: &'a [u64],
    /// Request and worker of everybody who entered.
    pub admissions: &'a [(u64, u32)],
    /// Requests that run, and that wait.
    pub running: u64,
    pub waiting: u64,
    pub measured: bool,
}

/// A request that has sent its last token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestSeen {
    /// In order of arrival, from 0.
    pub id: u64,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
    /// The worker that it ended on.
    pub worker: u32,
    pub arrived_ms: f64,
    /// First admission.
    pub admitted_ms: f64,
    pub ended_ms: f64,
    pub measured: bool,
}

impl RequestSeen {
    /// From first admission to the last token, over its tokens.
    pub(crate) fn per_token_ms(&self) -> f64 {
        (self.ended_ms - self.admitted_ms) / f64::from(self.output_tokens)
    }
}

/// Looks on; changes nothing of what is played.
pub(crate) trait Observer {
    fn step(&mut self, _step: StepSeen<'_>) {}
    fn ended(&mut self, _request: RequestSeen) {}
    /// False ends the run with [`SimError::Interrupted`](crate::SimError::Interrupted).
    fn goes_on(&self) -> bool {
        true
    }
}

impl Observer for () {}

/// Shows the loads of every measured step.
pub(crate) struct Loads<F>(pub F);

impl<F: FnMut(&[u64])> Observer for Loads<F> {
    fn step(&mut self, step: StepSeen<'_>) {
        if step.measured {
            (self.0)(step.loads);
        }
    }
}
