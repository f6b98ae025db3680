//! Reservation: a request that has waited for long gets a worker that runs low for it.
//!
//! A giant that fits nowhere would enter at the backstop wherever a slot is free, and the whole cluster would
//! wait for that worker. With a reservation the least-loaded worker counts the giant's excess over the mean
//! length as if it were there, so it is refilled with shorter requests until the giant fits. It costs balance
//! while it lasts, so it is an option.

use crate::batch::{Batch, Traffic};
use crate::policy::fairness::MeanWait;
use crate::rule::Pin;

/// When a request reserves and when it enters at the latest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ReservationTerms {
    pub after_mean_waits: f64,
    pub enter_mean_waits: f64,
    pub workers_share: f64,
}

#[derive(Clone, Copy, Debug)]
struct Reservation {
    id: u64,
    worker: usize,
}

/// Reservations that live across steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reservations {
    held: Vec<Reservation>,
    pins: Vec<Pin>,
}

impl Reservations {
    /// Who enters a reserved worker in this step.
    pub(crate) fn pins(&self) -> &[Pin] {
        &self.pins
    }

    /// Renews the reservations, adds to `load_offsets` what they count for, and pins those that enter now.
    /// `wanted(worker)` is the length that a worker wants as things stand.
    pub(crate) fn begin(
        &mut self,
        batch: &Batch<'_>,
        terms: &ReservationTerms,
        load_offsets: &mut [i64],
        wanted: impl Fn(usize) -> i64,
    ) {
        let pool = batch.waiting();
        let Traffic { mean_prompt_tokens, mean_output_tokens, .. } = batch.traffic();
        let workers = batch.workers();
        self.pins.clear();
        self.held.retain(|held| held.worker < workers.len() && batch.slot_of(held.id).is_some());
        if mean_output_tokens == 0 {
            return;
        }
        let wait = MeanWait::of(batch);
        let after = wait.steps * terms.after_mean_waits;
        let enter = wait.steps * terms.enter_mean_waits;
        let most = ((workers.len() as f64 * terms.workers_share) as usize).max(1);
        if self.held.len() < most && f64::from(pool.longest_wait_steps()) >= after {
            for (_, request, waited) in pool.iter() {
                if self.held.len() >= most {
                    break;
                }
                if f64::from(waited) < after || self.held.iter().any(|held| held.id == request.id) {
                    continue;
                }
                let free = (0..workers.len()).filter(|&g| {
                    workers[g].accepting
                        && batch.eligible(request, g)
                        && !self.held.iter().any(|held| held.worker == g)
                });
                if let Some(worker) = free.min_by_key(|&g| (workers[g].load_tokens, g)) {
                    self.held.push(Reservation { id: request.id, worker });
                }
            }
        }
        for &Reservation { id, worker } in &self.held {
            let Some(slot) = batch.slot_of(id) else { continue };
            let tokens = i64::from(pool.request(slot).prompt_tokens);
            let fits = workers[worker].open_slots() > 0
                && (tokens <= wanted(worker) || f64::from(pool.waited_steps(slot)) >= enter);
            if fits {
                self.pins.push(Pin { slot, worker });
            } else {
                let excess = (tokens - mean_prompt_tokens).max(0);
                load_offsets[worker] +=
                    excess * if batch.is_uniform() { 1 } else { workers[worker].cost_per_token() };
            }
        }
    }
}
