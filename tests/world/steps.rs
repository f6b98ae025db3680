//! What a front end decides, checked against what it knew.

use std::collections::BTreeMap;

use balanceroute::batch::{MAX_BONUS_TOKENS, MAX_PROMPT_TOKENS, MAX_WAITING};
use balanceroute::{
    BatchError, Dispatch, PairTerms, Placement, Plan, Request, RequestId, ReturnReason, Returned, Router,
    RouterError, WorkerId,
};

use crate::caller::{Manner, PANIC, Terms};
use crate::front::{Front, Life, Record, Stage};
use crate::network::Draw;
use crate::tally::{Kind, Seen};

/// What a salt makes of the pair terms of a call.
fn manner(draw: &mut Draw) -> Manner {
    let left = draw.below(4);
    match draw.below(16) {
        0 => Manner::Neutral,
        1 => {
            let wild = [f32::NAN, f32::INFINITY, -f32::INFINITY, 1.1e9, -3e38, 65_505.0, MAX_BONUS_TOKENS];
            Manner::Bonus(wild[draw.below(wild.len() as u64) as usize], left)
        }
        2 => Manner::Panics(left),
        _ => Manner::Sound,
    }
}

/// Whether an error is that of the terms.
fn is_of_terms(terms: &Terms<'_>, error: &RouterError, seen: &mut Seen) -> bool {
    match (terms.manner, error) {
        (Manner::Bonus(bonus, _), RouterError::Batch(BatchError::Bonus { found, limit, .. })) => {
            seen.add(Kind::BadBonus);
            let most = if terms.stores_half() { 65_504.0 } else { MAX_BONUS_TOKENS };
            found.to_bits() == bonus.to_bits() && *limit == most && (bonus.is_nan() || bonus.abs() > most)
        }
        (Manner::Panics(_), RouterError::Panicked { message, .. }) => {
            seen.add(Kind::TermsPanicked);
            message == PANIC
        }
        _ => false,
    }
}

/// What a call with pair terms came to: its answer, unless the terms or what else the caller supplies were to
/// blame; whatever failed has changed nothing.
struct Asked<'a, T> {
    answer: Option<T>,
    terms: Option<Terms<'a>>,
}

impl Front {
    /// A call with the terms that a salt stands for.
    fn ask<'a, T>(
        &mut self,
        (salt, ids): (u64, &'a [WorkerId]),
        seen: &mut Seen,
        call: impl FnOnce(&mut Router, Option<&mut dyn PairTerms>) -> Result<T, RouterError>,
    ) -> Asked<'a, T> {
        let mut draw = Draw(salt);
        let has_terms = (self.setting.masks == 1 || self.setting.bonuses == 1) && draw.one_in(2);
        let terms = has_terms.then(|| Terms {
            salt,
            manner: manner(&mut draw),
            ids,
            masks: self.setting.masks == 1,
            bonuses: self.setting.bonuses == 1,
        });
        let before = self.state_before(terms.as_ref());
        let mut asked = terms;
        let done = call(&mut self.router, asked.as_mut().map(|terms| terms as &mut dyn PairTerms));
        let answer = match done {
            Ok(answer) => Some(answer),
            Err(error) => {
                let by_terms = terms.as_ref().is_some_and(|terms| is_of_terms(terms, &error, seen));
                assert!(by_terms || self.excuses(&error, seen), "it may not fail: {error}, {terms:?}");
                self.assert_unchanged(before, &error);
                None
            }
        };
        Asked { answer, terms }
    }

    /// Decides. Who was admitted and who comes back, as the books have it by now.
    pub(crate) fn step(
        &mut self,
        (now_ms, clock): (u64, u64),
        salt: u64,
        seen: &mut Seen,
    ) -> Option<(Plan, Vec<(Returned, Record)>)> {
        let mut before = std::mem::take(&mut self.metrics);
        self.router.metrics(&mut before);
        let ids: Vec<WorkerId> = self.router.worker_ids().to_vec();
        let reading = self.shows(now_ms, clock);
        let asked = self.ask((salt, &ids), seen, |router, terms| match terms {
            None => router.step(reading).cloned(),
            Some(terms) => router.step_with(reading, terms).cloned(),
        });
        self.end_order();
        let Some(plan) = asked.answer else {
            self.metrics = before;
            return None;
        };
        self.read(now_ms, clock);
        self.rows_ended = false;
        let mut given_back: BTreeMap<WorkerId, u32> = BTreeMap::new();
        let returned = plan.returned.iter().map(|&returned| {
            if returned.reason == ReturnReason::WorkerSilent {
                *given_back.entry(returned.worker.expect("it ran")).or_default() += 1;
            }
            (returned, self.is_told(&returned, now_ms, seen))
        });
        let returned: Vec<(Returned, Option<Record>)> = returned.collect();
        assert!(self.pending.is_empty(), "they left and are not told: {:?}", self.pending);
        let mut taken: BTreeMap<WorkerId, (u32, u64)> = BTreeMap::new();
        for dispatch in &plan.admissions {
            let &Dispatch { id, worker, number, prompt_tokens, .. } = dispatch;
            let rank = self.rank_of(worker).unwrap_or_else(|| panic!("{dispatch:?}: no such worker"));
            let found = before.ranks.iter().find(|found| found.worker == worker).expect("it was there");
            let (count, tokens) = taken.entry(worker).or_default();
            (*count, *tokens) = (*count + 1, *tokens + u64::from(prompt_tokens));
            assert_eq!(number, found.dispatches + u64::from(*count), "numbers have no gap: {dispatch:?}");
            let free = given_back.get(&worker).copied().unwrap_or(0);
            let known = self.known[rank].expect("a worker");
            assert!(known.accepting, "it takes nobody: {dispatch:?}");
            self.check_room(&known.config, found, (*count, *tokens), free, dispatch);
            let Some(&record) = self.records.get(&id) else { panic!("{dispatch:?}: it is not inside") };
            let Life::Waits(bound) = record.life else { panic!("{dispatch:?} of {record:?}") };
            assert!(bound.is_none_or(|bound| bound == worker), "{dispatch:?} of {record:?}");
            if let Some(terms) = &asked.terms {
                assert!(terms.may(id, worker), "it may not enter this worker: {dispatch:?}");
                seen.add(Kind::Masked);
            }
            let record = self.take(id);
            self.runs(record, dispatch, Stage::Sent);
            self.counts.admitted += 1;
            seen.add(Kind::Admitted);
        }
        self.most_admitted = self.most_admitted.max(plan.admissions.len() as u32);
        for dispatch in &plan.admissions {
            let record = self.records[&dispatch.id];
            self.passes((record.arrival, record.request.priority), dispatch.worker, true);
        }
        self.metrics = before;
        self.check_expiry(now_ms);
        self.check_overtaking(seen);
        let returned = returned.into_iter().filter_map(|(returned, record)| Some((returned, record?)));
        Some((plan, returned.collect()))
    }

    /// No slot and no KV token is given that was not free by what was known as the step began.
    fn check_room(
        &self,
        config: &balanceroute::WorkerConfig,
        found: &balanceroute::router::RankMetrics,
        (count, tokens): (u32, u64),
        given_back: u32,
        dispatch: &Dispatch,
    ) {
        let whole = self.router.config().share.of == 1;
        let there = found.running.saturating_sub(given_back);
        // A front end with a share is lent what reports show to be free, by the time of the step.
        let others = if whole { found.foreign_requests } else { 0 };
        assert!(
            count + there + others <= config.slots,
            "{count} slots of {}: {dispatch:?}, {found:?}",
            config.slots
        );
        let Some(capacity) = config.kv_capacity_tokens.filter(|_| given_back == 0 && whole) else { return };
        assert!(
            found.kv_used_tokens + tokens <= capacity,
            "{tokens} tokens of {capacity}: {dispatch:?}, {found:?}"
        );
        // Where somebody waits who fits an empty worker alone, that shows one headroom more.
        let shown = found.kv_capacity_tokens.expect("bounded");
        assert!(shown == capacity || found.running == 0, "the capacity is {capacity}: {found:?}");
    }

    /// Somebody has left: before, told now, or with this plan. The record of one who leaves now.
    fn is_told(&mut self, returned: &Returned, now_ms: u64, seen: &mut Seen) -> Option<Record> {
        use ReturnReason::{Expired, LostDispatch, NeverFits, WorkerDraining, WorkerForgot, WorkerSilent};
        let &Returned { id, worker, reason, .. } = returned;
        self.counts.returned[reason as usize] += 1;
        seen.add(match reason {
            LostDispatch => Kind::Lost,
            WorkerForgot => Kind::Forgot,
            WorkerSilent => Kind::Silent,
            NeverFits => Kind::NeverFits,
            Expired => Kind::Expired,
            WorkerDraining => Kind::Draining,
            reason => panic!("a plan returns nobody for {reason:?}"),
        });
        if let LostDispatch | WorkerForgot = reason {
            let at = self.pending.iter().position(|gone| (gone.id, Some(gone.worker)) == (id, worker));
            let at = at.unwrap_or_else(|| panic!("{returned:?} was not inside"));
            return Some(self.pending.swap_remove(at).record);
        }
        let record = self.take(id);
        match record.life {
            Life::Runs { worker: on, number, stage } => {
                assert_eq!((Some(on), reason), (worker, WorkerSilent), "{returned:?}");
                assert!(number > 0 && stage == Stage::Sent, "{returned:?} of {record:?}: it was shown");
                assert!(self.setting.silence_ms > 0);
            }
            Life::Waits(bound) => {
                assert_eq!(bound, worker, "{returned:?}");
                match reason {
                    Expired => self.may_expire(&record, now_ms),
                    WorkerDraining => {
                        let rank = bound.and_then(|bound| self.rank_of(bound)).expect("a rank of its own");
                        assert!(self.known[rank].is_some_and(|known| known.draining), "{returned:?}");
                    }
                    NeverFits => self.check_never_fits(&record),
                    _ => panic!("{returned:?} waited"),
                }
            }
        }
        Some(record)
    }

    /// No worker, present, draining or announced, could hold it if it were empty.
    fn check_never_fits(&self, record: &Record) {
        let Life::Waits(bound) = record.life else { return };
        let request = &record.request;
        let left = request.max_tokens.map_or(0, |most| most.saturating_sub(request.generated_tokens));
        let needs = u64::from(request.prompt_tokens) + u64::from(left);
        let may_use = self.known.iter().flatten().filter(|known| bound.is_none_or(|to| to == known.worker));
        for known in may_use {
            let ceiling = known.ceiling_tokens;
            assert!(ceiling.is_some_and(|ceiling| needs > ceiling), "{record:?} fits {known:?}");
        }
    }

    /// Overtaking is bounded as promised, where its conditions hold all the time: no KV capacity, no mask, no
    /// deadline, one front end, a window that holds everybody.
    fn check_overtaking(&self, seen: &mut Seen) {
        let setting = &self.setting;
        let bounds = ["level", "exact", "rollout"].iter().any(|family| setting.policy.starts_with(family));
        let holds = bounds
            && setting.bounded == 0
            && setting.masks == 0
            && setting.deadlines == 0
            && setting.shared == 0
            && setting.window == 4_096
            && setting.supplied == 0;
        if !holds {
            return;
        }
        let bound = if setting.max_passed > 0 {
            setting.max_passed as u32
        } else {
            128 * (setting.ranks + setting.absent) as u32
        };
        for id in &self.waiting {
            if let Some((_, by_steps)) = Self::passed(&self.records[id]) {
                let most = bound + self.most_admitted;
                assert!(by_steps <= most, "{id} was passed {by_steps} times, of {most}");
                if by_steps > 0 {
                    seen.add(Kind::Passed);
                }
            }
        }
    }

    /// Lets a request wait, or enter at once where the mode says so.
    pub(crate) fn arrive(
        &mut self,
        (now_ms, clock): (u64, u64),
        (request, output): (Request<WorkerId>, u64),
        salt: u64,
        seen: &mut Seen,
    ) -> Option<Dispatch> {
        let mut draw = Draw(salt ^ 0x5851_f42d);
        let refused = self.is_refused(&request);
        let places = (self.setting.mode > 0) != draw.one_in(5);
        let reading = self.shows(now_ms, clock);
        if !places || refused {
            let dated = !draw.one_in(3);
            let told = dated.then_some(reading);
            let let_in = self.call(refused, seen, |router| router.enqueue(request, told)).is_some();
            self.end_order();
            if let_in {
                if dated {
                    self.read(now_ms, clock);
                } else {
                    seen.add(Kind::Undated);
                }
                self.waits((request, output), dated.then_some(now_ms), None);
                seen.add(Kind::Arrived);
            }
            return None;
        }
        let ids: Vec<WorkerId> = self.router.worker_ids().to_vec();
        let asked = self.ask((salt, &ids), seen, |router, terms| match terms {
            None => router.place(request, reading),
            Some(terms) => router.place_with(request, reading, terms),
        });
        self.end_order();
        let placement = asked.answer?;
        self.read(now_ms, clock);
        match placement {
            Placement::Waits => {
                self.waits((request, output), Some(now_ms), None);
                seen.add(Kind::PlacedWaits);
                None
            }
            Placement::Placed(dispatch) => {
                let rank = self.rank_of(dispatch.worker).expect("a worker");
                let known = self.known[rank].expect("a worker");
                assert!(known.accepting, "it takes nobody: {dispatch:?}");
                let found = self.router.rank_metrics(dispatch.worker).expect("a worker");
                assert!(found.running <= known.config.slots, "no slot: {dispatch:?}, {found:?}");
                assert!(request.rank.is_none_or(|rank| rank == dispatch.worker), "{dispatch:?}");
                assert!(
                    asked.terms.as_ref().is_none_or(|terms| terms.may(request.id, dispatch.worker)),
                    "it may not enter this worker: {dispatch:?}"
                );
                let record = self.newcomer(request, output);
                self.passes((record.arrival, request.priority), dispatch.worker, false);
                self.runs(record, &dispatch, Stage::Sent);
                self.counts.placed += 1;
                seen.add(Kind::Placed);
                Some(dispatch)
            }
        }
    }

    /// Whether a request must be refused.
    pub(crate) fn is_refused(&self, request: &Request<WorkerId>) -> bool {
        self.records.contains_key(&request.id)
            || self.waiting.len() >= MAX_WAITING
            || !(1..=MAX_PROMPT_TOKENS).contains(&request.prompt_tokens)
            || request.generated_tokens > request.prompt_tokens + request.cached_tokens
            || request.rank.is_some_and(|rank| !self.has_worker(rank))
    }

    /// Whom the router has given up with a call about this worker leaves the books; the next plan tells.
    pub(crate) fn finds_lost(&mut self, worker: WorkerId) {
        let lost = |id: &RequestId| {
            self.runs_on(*id).is_some_and(|(on, _)| on == worker) && self.router.running_on(*id).is_none()
        };
        let lost: Vec<RequestId> = self.running.iter().copied().filter(lost).collect();
        for id in lost {
            let record = self.take(id);
            self.pending.push(crate::front::Gone { id, worker, record });
        }
    }
}
