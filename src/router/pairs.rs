//! What waiting requests gain on single workers, or may not use: rows as a batch reads them, filled anew each
//! step.

use half::f16;

use crate::batch::{BatchError, MAX_BONUS_TOKENS, Pairs, Request, all_ones};
use crate::ids::WorkerId;

/// What a waiting request gains on single workers, and which may take it: prefix affinity, adapters, tenants,
/// as the caller knows them.
///
/// Asked for every candidate of each [`crate::Router::step_with`] that can admit anybody; what it answers
/// lives for that step. A closure of the shape of [`PairTerms::bonus`] is one too. Workers stand in the order
/// of [`crate::Router::worker_ids`].
pub trait PairTerms {
    /// Writes the bonus in tokens on each worker into `bonus_tokens`, which is zero. False when there is
    /// none: without terms of their own requests are decided faster.
    fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool;

    /// Clears the bits of workers that may not take the request, 64 workers a word, lowest bit first; all are
    /// set. False when any worker may.
    fn eligible(&mut self, _request: &Request, _workers: &mut [u64]) -> bool {
        false
    }

    /// Whether bonuses are kept in half precision: half the memory to read, exact up to 2,048 tokens, at most
    /// 65,504.
    fn stores_half(&self) -> bool {
        false
    }
}

impl<F: FnMut(&Request, &mut [f32]) -> bool> PairTerms for F {
    fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool {
        self(request, bonus_tokens)
    }
}

/// Rows of one batch.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct PairRows {
    bonus_tokens: Vec<f32>,
    bonus_half_tokens: Vec<f16>,
    eligible: Vec<u64>,
    rows: u32,
    any_bonus: bool,
    any_mask: bool,
}

impl PairRows {
    pub(super) fn clear(&mut self) {
        self.bonus_tokens.clear();
        self.bonus_half_tokens.clear();
        self.eligible.clear();
        (self.rows, self.any_bonus, self.any_mask) = (0, false, false);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The row of a request, if it has terms that say anything; `workers` are the ids of the workers.
    ///
    /// # Errors
    /// A bonus past its limits; nothing is kept of the row then.
    pub(super) fn add(
        &mut self,
        workers: &[WorkerId],
        request: &Request,
        terms: &mut (impl PairTerms + ?Sized),
    ) -> Result<Option<u32>, BatchError> {
        let (half, words) = (terms.stores_half(), workers.len().div_ceil(64));
        // In half precision the row of `f32` is scratch.
        let from = if half { 0 } else { self.rows as usize * workers.len() };
        let mask_from = self.rows as usize * words;
        // What a call that panicked has left goes.
        self.bonus_tokens.truncate(from);
        self.bonus_tokens.resize(from + workers.len(), 0.0);
        self.eligible.truncate(mask_from);
        self.eligible.resize(mask_from + words, u64::MAX);
        let bonus = terms.bonus(request, &mut self.bonus_tokens[from..]);
        let mask = terms.eligible(request, &mut self.eligible[mask_from..]);
        // What was written and then disowned does not count.
        if !bonus {
            self.bonus_tokens[from..].fill(0.0);
        }
        let limit = if half { f16::MAX.to_f32() } else { MAX_BONUS_TOKENS };
        let (mut any, mut within) = (false, true);
        for &tokens in &self.bonus_tokens[from..] {
            any |= tokens.abs() >= 0.5;
            within &= tokens.abs() <= limit;
        }
        if !within {
            let at = self.bonus_tokens[from..]
                .iter()
                .position(|tokens| tokens.is_nan() || tokens.abs() > limit)
                .unwrap_or_default();
            let found = self.bonus_tokens[from + at];
            self.bonus_tokens.truncate(from);
            self.eligible.truncate(mask_from);
            return Err(BatchError::Bonus { id: request.id, worker: workers[at], limit, found });
        }
        let masked = mask && !all_ones(&self.eligible[mask_from..], workers.len());
        if !any && !masked {
            self.bonus_tokens.truncate(from);
            self.eligible.truncate(mask_from);
            return Ok(None);
        }
        if !masked {
            self.eligible[mask_from..].fill(u64::MAX);
        }
        if half {
            self.bonus_half_tokens.extend(self.bonus_tokens.iter().map(|&tokens| f16::from_f32(tokens)));
        }
        self.any_bonus |= any;
        self.any_mask |= masked;
        self.rows += 1;
        Ok(Some(self.rows - 1))
    }

    pub(super) fn pairs(&self) -> Pairs<'_> {
        let half = !self.bonus_half_tokens.is_empty();
        Pairs {
            bonus_tokens: if self.any_bonus && !half { &self.bonus_tokens } else { &[] },
            bonus_half_tokens: if self.any_bonus { &self.bonus_half_tokens } else { &[] },
            eligible: if self.any_mask { &self.eligible } else { &[] },
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Request;
    use crate::assignment::WaitReason;
    use crate::policy::Parameters;
    use crate::router::{Mode, PairTerms, Placement, Router, RouterConfig};

    struct Terms {
        half: bool,
    }

    impl PairTerms for Terms {
        fn bonus(&mut self, request: &Request, bonus_tokens: &mut [f32]) -> bool {
            bonus_tokens[2] = 1500.0;
            request.id.get() % 2 == 1
        }

        fn eligible(&mut self, request: &Request, workers: &mut [u64]) -> bool {
            // An even request may run on the first worker only, the fifth nowhere.
            workers[0] = u64::from(request.id != 5);
            request.id.get().is_multiple_of(2) || request.id == 5
        }

        fn stores_half(&self) -> bool {
            self.half
        }
    }

    #[test]
    fn masks_and_bonuses_of_either_precision_decide_a_step() {
        for half in [false, true] {
            let build =
                || Router::new(RouterConfig::new(3, 2), "exact", &Parameters::default()).expect("valid");
            let (mut router, mut oracle) = (build(), build());
            for id in 1..=6 {
                router.enqueue(Request::new(id, 100 + id as u32), None).expect("new");
                oracle.enqueue(Request::new(id, 100 + id as u32), None).expect("new");
            }
            let plan = router.step_with(0, &mut Terms { half }).expect("sound");
            assert_eq!(plan, oracle.step_by_reference_with(0, &mut Terms { half }).expect("sound"));
            let mut admitted: Vec<(u64, u32)> = plan
                .admissions
                .iter()
                .map(|admission| (admission.id.get(), admission.worker.get()))
                .collect();
            admitted.sort_unstable();
            // Of the even ones the first worker holds two; the odd ones like the third, which holds two.
            assert_eq!(admitted.len(), 4, "{admitted:?}");
            assert!(
                admitted.iter().all(|&(id, worker)| worker == if id % 2 == 0 { 0 } else { 2 }),
                "{admitted:?}"
            );
            let waiting = router.waiting();
            assert!(waiting.contains(&(5.into(), WaitReason::NotEligible)), "{waiting:?}");
        }
    }

    #[test]
    fn an_arriving_request_goes_where_it_may() {
        let config = RouterConfig { mode: Mode::Arrival, ..RouterConfig::new(3, 2) };
        let mut router = Router::new(config, "level", &Parameters::default()).expect("valid");
        let mut place =
            |id| router.place_with(Request::new(id, 100), 0, &mut Terms { half: true }).expect("sound");
        for (id, expected) in [(4, 0), (2, 0), (3, 2)] {
            let placed = place(id);
            assert!(
                matches!(placed, Placement::Placed(dispatch) if dispatch.worker == expected),
                "{placed:?}"
            );
        }
        // The only worker that may take the sixth is full, and the fifth may run nowhere.
        for id in [6, 5] {
            let placed = place(id);
            assert!(matches!(placed, Placement::Waits), "{placed:?}");
        }
    }
}
