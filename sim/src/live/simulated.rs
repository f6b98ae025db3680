//! A simulation, step by step.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Instant;

use balanceroute::WaitReason;
use balanceroute::router::{Histogram, Metrics, Router};

use super::{Control, Message, Moment, Rank};
use crate::cluster::{Cluster, Library, Observer, Scenario, StepSeen};
use crate::error::SimError;

/// Plays the first policy of a scenario under its first seed at the pace of `control`, and tells every step
/// that somebody takes in, until it is over or stopped.
///
/// # Errors
/// An argument out of range, or a run that cannot go on.
pub fn play(scenario: &Scenario, control: &Arc<Control>, tell: &SyncSender<Message>) -> Result<(), SimError> {
    scenario.check()?;
    let seed = scenario.first_seed;
    let name = scenario.policies.first().map_or("level", String::as_str);
    let policy = scenario.build(name, seed)?;
    let library = Library::new(&scenario.source);
    let window = (scenario.windows > 0).then_some(0);
    let cluster = Cluster::new(scenario, &library, policy, None, seed, window)?;
    let mut live = Live {
        control,
        tell,
        metrics: Metrics::default(),
        decisions: Vec::new(),
        last: Instant::now(),
        gone: false,
    };
    match cluster.run_seen(&mut live) {
        Ok(_) => {
            // Nobody may be there any more.
            let _ = tell.send(Message::Over("the run is over".to_owned()));
            Ok(())
        }
        Err(SimError::Interrupted) => Ok(()),
        Err(error) => Err(error),
    }
}

struct Live<'a> {
    control: &'a Control,
    tell: &'a SyncSender<Message>,
    metrics: Metrics,
    /// Since somebody has taken a moment in.
    decisions: Vec<String>,
    last: Instant,
    gone: bool,
}

/// Decisions that are kept for somebody who does not come.
const MOST_DECISIONS: usize = 1_000;

/// In tokens, with their sign, or nothing where there is none.
fn tokens(value: f64) -> String {
    if value.is_finite() { format!("{value:.0}") } else { "-".to_owned() }
}

/// `4711 (1532 tokens) -> worker 3, 812 below; passed by 3; before worker 5 by 120`
fn decision(router: &Router, admission: &balanceroute::Dispatch) -> String {
    let (id, worker) = (admission.id.get(), admission.worker.get());
    let mut text = format!("{id} ({} tokens) -> worker {worker}", admission.prompt_tokens);
    let Some(why) = router.explain(admission.id) else { return text };
    text.push_str(&format!(", {} below", tokens(why.margin_tokens)));
    if why.passed > 0 {
        text.push_str(&format!("; passed by {}", why.passed));
    }
    if let Some(second) = why.runner_up {
        let lead = why.lead_tokens().unwrap_or(f64::NAN);
        text.push_str(&format!("; before worker {} by {}", second.worker.get(), tokens(lead)));
    }
    text
}

fn quantiles(of: &Histogram, scale: f64) -> Option<(f64, f64)> {
    let at = |q| of.quantile(q).map(|value| value as f64 * scale);
    Some((at(0.5)?, at(0.99)?))
}

impl Live<'_> {
    fn moment(&self, step: &StepSeen<'_>) -> Moment {
        let Metrics { ranks, waiting_by_reason, counters, .. } = &self.metrics;
        let rank = |rank: &balanceroute::router::RankMetrics| Rank {
            worker: rank.worker.get().to_string(),
            load_tokens: rank.load_tokens as f64,
            running: u64::from(rank.running),
            free_slots: u64::from(rank.free_slots),
            kv_tokens: rank.kv_capacity_tokens.map(|fit| (rank.kv_used_tokens as f64, fit as f64)),
            accepting: rank.accepting,
            claimed: rank.claimed_by.is_some(),
        };
        let reasons = WaitReason::ALL.iter().zip(waiting_by_reason).filter(|&(_, &count)| count > 0);
        Moment {
            at: format!("step {}, {:.1} s", step.step, step.to_ms / 1e3),
            ranks: ranks.iter().map(rank).collect(),
            waiting: self.metrics.waiting,
            reasons: reasons.map(|(reason, &count)| (reason.to_string(), count)).collect(),
            longest_wait_ms: Some(self.metrics.longest_wait_ms as f64),
            wait_ms: quantiles(&counters.wait_ms, 1.0),
            most_passed: Some(u64::from(self.metrics.most_passed)),
            admitted: Some(counters.admitted_by_step + counters.placed_on_arrival),
            decide_us: quantiles(&counters.decide_ns, 1e-3),
        }
    }
}

impl Observer for Live<'_> {
    fn decided(&mut self, router: &Router) {
        router.metrics(&mut self.metrics);
        let admissions = router.plan().admissions.iter();
        self.decisions.extend(admissions.map(|admission| decision(router, admission)));
        let beyond = self.decisions.len().saturating_sub(MOST_DECISIONS);
        self.decisions.drain(..beyond);
    }

    fn step(&mut self, step: StepSeen<'_>) {
        let decisions = std::mem::take(&mut self.decisions);
        match self.tell.try_send(Message::Moment(Box::new(self.moment(&step)), decisions)) {
            Ok(()) => {}
            // Who looks on is slower than the run: the next moment is as good.
            Err(TrySendError::Full(Message::Moment(_, decisions))) => self.decisions = decisions,
            Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => self.gone = true,
        }
        self.control.wait_since(self.last);
        self.last = Instant::now();
    }

    fn asks_why(&self) -> bool {
        true
    }

    fn goes_on(&self) -> bool {
        !self.gone && !self.control.stops()
    }
}
