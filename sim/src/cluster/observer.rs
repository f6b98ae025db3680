//! What a run shows to who looks on, step by step: recorders, pictures.

use balanceroute::Router;

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
    /// A step is about to be decided: who waits, and the workers, as the router knows them.
    fn decides(&mut self, _router: &Router) {}
    /// Whether [`Router::explain`] is to tell why somebody was admitted.
    fn asks_why(&self) -> bool {
        false
    }
    /// It has been decided; its [`Router::plan`] is there.
    fn decided(&mut self, _router: &Router) {}
    fn step(&mut self, _step: StepSeen<'_>) {}
    fn ended(&mut self, _request: RequestSeen) {}
    /// False ends the run with [`SimError::Interrupted`](crate::SimError::Interrupted).
    fn goes_on(&self) -> bool {
        true
    }
}

impl Observer for () {}

/// Perhaps somebody looks on.
impl<O: Observer> Observer for Option<O> {
    fn decides(&mut self, router: &Router) {
        self.iter_mut().for_each(|observer| observer.decides(router));
    }

    fn decided(&mut self, router: &Router) {
        self.iter_mut().for_each(|observer| observer.decided(router));
    }

    fn step(&mut self, step: StepSeen<'_>) {
        self.iter_mut().for_each(|observer| observer.step(step));
    }

    fn ended(&mut self, request: RequestSeen) {
        self.iter_mut().for_each(|observer| observer.ended(request));
    }

    fn asks_why(&self) -> bool {
        self.iter().any(Observer::asks_why)
    }

    fn goes_on(&self) -> bool {
        self.iter().all(Observer::goes_on)
    }
}

/// Both look on.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn decides(&mut self, router: &Router) {
        self.0.decides(router);
        self.1.decides(router);
    }

    fn decided(&mut self, router: &Router) {
        self.0.decided(router);
        self.1.decided(router);
    }

    fn step(&mut self, step: StepSeen<'_>) {
        self.0.step(step);
        self.1.step(step);
    }

    fn ended(&mut self, request: RequestSeen) {
        self.0.ended(request);
        self.1.ended(request);
    }

    fn asks_why(&self) -> bool {
        self.0.asks_why() || self.1.asks_why()
    }

    fn goes_on(&self) -> bool {
        self.0.goes_on() && self.1.goes_on()
    }
}

/// Shows the loads of every measured step.
pub(crate) struct Loads<F>(pub F);

impl<F: FnMut(&[u64])> Observer for Loads<F> {
    fn step(&mut self, step: StepSeen<'_>) {
        if step.measured {
            (self.0)(step.loads);
        }
    }
}
