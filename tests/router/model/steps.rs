//! A step: who comes back, who is admitted, and that nobody waits beside room.

use std::collections::BTreeMap;

use balanceroute::router::Metrics;
use balanceroute::{BatchError, Plan, Request, RequestId, ReturnReason, Router, RouterError, WorkerId};

use super::account::{Record, Side, Stage};
use super::{EXPIRE_MS, HEADROOM_STEPS, SILENCE_MS, Terms, World};

/// The turns of lower classes in a step, the highest first.
struct Turns {
    due: Vec<(i8, u64)>,
    at: usize,
    /// Who could not use all of them although slots were open.
    lapsed: Vec<i8>,
}

impl Turns {
    fn begin(world: &World) -> Self {
        let classes = world.classes();
        let due = classes.keys().rev().map(|&class| (class, world.due(class)));
        let due = due.filter(|&(_, due)| due > 0 && classes.len() > 1).collect();
        Self { due, at: 0, lapsed: Vec::new() }
    }

    /// How many a class has left.
    fn left(&self, class: i8) -> u64 {
        let left = self.due[self.at..].iter().find(|&&(other, _)| other == class);
        left.map_or(0, |&(_, left)| left)
    }

    /// Somebody of a class enters, when so many slots are open.
    fn takes(&mut self, class: i8, open: i64) {
        while let Some(&(other, left)) = self.due.get(self.at)
            && other != class
        {
            self.skip(other, left, open);
        }
        if let Some((_, left)) = self.due.get_mut(self.at) {
            *left -= 1;
            self.at += usize::from(*left == 0);
        }
    }

    fn skip(&mut self, class: i8, left: u64, open: i64) {
        if left > 0 && open > 0 {
            self.lapsed.push(class);
        }
        self.at += 1;
    }

    /// The step ends with so many slots open.
    fn ends(&mut self, open: i64) {
        while let Some(&(class, left)) = self.due.get(self.at) {
            self.skip(class, left, open);
        }
    }
}

impl World {
    /// How many wait of each class.
    pub(super) fn classes(&self) -> BTreeMap<i8, u64> {
        let mut classes = BTreeMap::new();
        for id in &self.waiting {
            *classes.entry(self.records[id].priority).or_default() += 1;
        }
        classes
    }

    /// Admissions that are a class's before any of a higher one.
    pub(super) fn due(&self, priority: i8) -> u64 {
        let one_in = self.setting.lower_class_one_in.map_or(u64::MAX, u64::from);
        self.credits.get(&priority).copied().unwrap_or(0) / (one_in - 1)
    }

    /// Some have been admitted, by their classes. What those in `lapsed` could not use is worth one turn.
    pub(super) fn counts_turns(&mut self, admitted: &[i8], lapsed: &[i8]) {
        let Some(one_in) = self.setting.lower_class_one_in else { return };
        let price = u64::from(one_in) - 1;
        let counted = |class: i8| {
            let above = admitted.iter().filter(|&&other| other > class).count() as u64;
            let own = admitted.iter().filter(|&&other| other == class).count() as u64;
            let credit = self.credits.get(&class).copied().unwrap_or(0) + above;
            let credit = credit.saturating_sub(own * price);
            if lapsed.contains(&class) { credit.min(price) } else { credit }
        };
        self.credits = self.classes().into_keys().map(|class| (class, counted(class))).collect();
    }

    /// The most tokens that some worker could hold that a request may use; none where there is no bound.
    fn ceiling(&self, record: &Record, of: impl Fn(&Side) -> Option<u64>) -> Option<u64> {
        match record.rank {
            Some(rank) => of(&self.sides[self.side(rank)]),
            None => {
                let ceilings: Option<Vec<u64>> = self.sides.iter().map(of).collect();
                ceilings?.into_iter().max()
            }
        }
    }

    /// What the next plan must return beside what is expected already.
    fn foresee(&mut self) {
        let mut found = Vec::new();
        self.tight = false;
        for &id in &self.waiting {
            let record = &self.records[&id];
            let bound = record.rank.map(|rank| &self.sides[self.side(rank)]);
            let ceiling = self.ceiling(record, |side| side.ceiling);
            let exceeds = |tokens: u64| ceiling.is_some_and(|ceiling| tokens > ceiling);
            // Dated: the step has told the time.
            let reason = if self.told_ms - record.since_ms >= EXPIRE_MS {
                Some(ReturnReason::Expired)
            } else if bound.is_some_and(|side| side.draining) {
                Some(ReturnReason::WorkerDraining)
            } else if exceeds(record.length() + record.left()) {
                Some(ReturnReason::NeverFits)
            } else {
                let needs = record.length() + u64::from(HEADROOM_STEPS);
                let lent = self.ceiling(record, |side| self.lent_tokens(side));
                self.tight |= lent.is_some_and(|lent| needs > lent);
                None
            };
            found.extend(reason.map(|reason| (id, reason)));
        }
        if self.setting.silence {
            for &id in &self.running {
                if let Some((_, _, Stage::Sent, since_ms)) = self.records[&id].runs()
                    && self.told_ms - since_ms >= SILENCE_MS
                {
                    found.push((id, ReturnReason::WorkerSilent));
                }
            }
        }
        for (id, reason) in found {
            self.gone(id, reason);
        }
    }

    pub(super) fn step(&mut self) {
        let reading = self.tell();
        self.looked_ms = reading;
        self.foresee();
        let ids: Vec<WorkerId> = self.sides.iter().map(|side| side.id).collect();
        let salt = (self.setting.terms && self.rng.one_in(3)).then(|| self.rng.next());
        let terms = salt.map(|salt| Terms { salt, ids: &ids });
        let may = |id: RequestId, worker: WorkerId| terms.as_ref().is_none_or(|terms| terms.may(id, worker));
        let plan = match salt {
            Some(salt) => {
                let mut terms = Terms { salt, ids: &ids };
                self.router.step_with(reading, &mut terms).expect("a decision").clone()
            }
            None => self.router.step(reading).expect("a decision").clone(),
        };
        let returned: BTreeMap<RequestId, ReturnReason> =
            plan.returned.iter().map(|back| (back.id, back.reason)).collect();
        assert_eq!(returned.len(), plan.returned.len(), "nobody comes back twice");
        assert_eq!(returned, std::mem::take(&mut self.expected));
        for reason in returned.values() {
            self.tally.returned[*reason as usize] += 1;
        }
        // Who was asked for.
        let idle = self.waiting.is_empty()
            || !self.sides.iter().any(|side| side.accepting && self.free_slots(side) > 0);
        let claim = if idle { self.claim } else { self.expected_claim(&may) };
        let claim = claim.filter(|_| !self.sides.is_empty());
        let entered: Vec<(RequestId, WorkerId)> =
            plan.admissions.iter().map(|dispatch| (dispatch.id, dispatch.worker)).collect();
        self.checks_claim(claim, &entered);
        self.masked.clear();
        if let Some(terms) = terms.as_ref().filter(|_| !idle) {
            for id in self.window() {
                let shut = ids.iter().copied().filter(|&worker| !terms.may(id, worker)).collect();
                self.masked.insert(id, shut);
            }
        }
        self.sides_of_step = self.sides.len();
        self.admits(&plan, &may);
        // Nobody waits beside a slot that would take it. Three cases leave room that the next step fills: the
        // joint repair of `level` and `exact` may exchange a pick for a shorter or a bound one; who may
        // generate little keeps less room than a decision takes for everybody; and what is lent is known
        // again once somebody was sent.
        let fits = |id: &RequestId| {
            let record = &self.records[id];
            let is_open = |side: &Side| !self.is_shut(side, record.priority) && may(*id, side.id);
            self.sides.iter().any(|side| self.fits(record, side) && is_open(side))
        };
        if self.waiting.iter().any(fits) {
            let policy = self.setting.policy;
            let keeps_less = plan.admissions.iter().any(|dispatch| self.keeps_less(dispatch.id));
            let may_leave_room = self.setting.repairs || keeps_less || self.setting.share.of > 1;
            assert!(
                may_leave_room && !plan.admissions.is_empty(),
                "{policy}: {plan:?}, {:?}",
                self.router.waiting()
            );
            return self.step();
        }
        if !self.waiting.is_empty() {
            self.tally.meets("held back");
        }
        if self.rng.one_in(8) {
            self.refused_step();
        }
        // The bound of the wait.
        let late = self.waiting.iter().any(|id| self.told_ms - self.records[id].since_ms >= EXPIRE_MS);
        assert!(!late);
    }

    fn keeps_less(&self, id: RequestId) -> bool {
        self.records[&id].growth < u64::from(HEADROOM_STEPS)
    }

    /// The admissions of a step, one by one.
    fn admits(&mut self, plan: &Plan, may: &dyn Fn(RequestId, WorkerId) -> bool) {
        let is_eased = |side: &&Side| self.is_eased(side);
        let eased: Vec<WorkerId> = self.sides.iter().filter(is_eased).map(|side| side.id).collect();
        // Whether what is left is what the decision saw: see above.
        let mut is_exact = true;
        let ids: Vec<WorkerId> = self.sides.iter().map(|side| side.id).collect();
        let mut openings: Vec<(i64, i64)> = ids.iter().map(|&id| self.opening(id)).collect();
        let window = self.window();
        let next: Vec<RequestId> = window.iter().copied().filter(|&id| self.is_next(id)).collect();
        let mut entered = Vec::new();
        let mut turns = Turns::begin(self);
        for dispatch in &plan.admissions {
            let (id, worker) = (dispatch.id, dispatch.worker);
            assert!(may(id, worker), "{dispatch:?} was masked");
            let record = self.records[&id];
            assert!(record.runs().is_none(), "{id} runs");
            if is_exact {
                self.goes_first(&turns, &record, worker, may);
            }
            turns.takes(record.priority, self.open(&openings));
            let due = |record: &Record| {
                record.deadline.is_some_and(|steps| self.clock - record.step >= i64::from(steps))
            };
            if due(&record) {
                self.tally.meets("overdue");
            } else if self.setting.overdue_first && is_exact {
                // Nobody who is overdue by its deadline and has waited longer could have entered here, nor
                // anybody who had been passed as often as may be, unless this one had been, and came before.
                let side = &self.sides[self.side(worker)];
                let of_class = |id: &&RequestId| self.records[*id].priority == record.priority;
                for id in self.waiting.iter().filter(of_class) {
                    let other = &self.records[id];
                    // Who has come back stands before some who have waited longer, maybe alone in the window.
                    let is_seen = window.contains(id) || other.arrival < record.arrival;
                    let is_due = due(other) && other.step < record.step && is_seen;
                    let passed_over = is_due && self.fits(other, side) && may(*id, worker);
                    let policy = self.setting.policy;
                    assert!(!passed_over, "{policy}: {id} is overdue: {other:?}, {dispatch:?} of {plan:?}");
                }
                let is_next = next.contains(&id);
                for other in next.iter().filter(|other| self.waiting.contains(other)).filter(of_class) {
                    let (at, passed_over) = (&self.records[other], may(*other, worker));
                    let passed_over = passed_over && self.fits(at, side);
                    let came_first = !is_next || at.arrival < record.arrival;
                    assert!(
                        !(passed_over && came_first),
                        "{other} is next: {at:?}, {dispatch:?} of {plan:?}"
                    );
                }
                if is_next {
                    self.tally.meets("next");
                }
            }
            let is_empty = self.is_eased(&self.sides[self.side(worker)]);
            let opening = &mut openings[self.side(worker)];
            let before = *opening;
            *opening = (before.0 - 1, before.1 - record.length() as i64 - i64::from(HEADROOM_STEPS));
            self.is_admitted(&record, worker, eased.contains(&worker) && !is_empty, before);
            self.strike(id);
            self.begins(id, record, worker, Stage::Sent);
            self.goes_out(dispatch);
            is_exact &= self.setting.share.of == 1 && !self.keeps_less(id);
            self.tally.meets("admitted");
            self.most_passed = self.most_passed.max(record.passed);
            entered.push((record.arrival.expect("it waited"), worker, record.priority));
        }
        // Counts stand still while a step decides.
        for &(arrival, worker, priority) in &entered {
            self.passes(arrival, worker, priority);
        }
        turns.ends(self.open(&openings));
        if self.classes().len() > 1 {
            self.tally.meets("classes wait");
        }
        for _ in &turns.lapsed {
            self.tally.meets("a turn that cannot be used");
        }
        let admitted: Vec<i8> = entered.into_iter().map(|(.., priority)| priority).collect();
        self.counts_turns(&admitted, &turns.lapsed);
    }

    /// Slots that are open, of those that each worker has.
    fn open(&self, openings: &[(i64, i64)]) -> i64 {
        let open = self.sides.iter().zip(openings).filter(|(side, _)| side.accepting);
        open.map(|(_, &(slots, _))| slots.max(0)).sum()
    }

    /// Nobody waits whom this worker could take, and who goes before the one who enters: first come classes
    /// whose turn is due, then the others, of each the highest.
    fn goes_first(
        &mut self,
        turns: &Turns,
        record: &Record,
        worker: WorkerId,
        may: &dyn Fn(RequestId, WorkerId) -> bool,
    ) {
        let side = &self.sides[self.side(worker)];
        let place = |class: i8| (turns.left(class) > 0, class);
        for &id in &self.waiting {
            let other = &self.records[&id];
            let fits = || self.fits(other, side) && may(id, worker) && !self.is_shut(side, other.priority);
            assert!(
                place(other.priority) <= place(record.priority) || !fits(),
                "{id} goes first: {other:?}, {record:?}"
            );
        }
        if self.classes().into_keys().any(|class| class > record.priority) {
            self.tally.meets("a lower class before a higher");
        }
    }

    /// Terms that are refused, or that panic: the router says so, and is as it was.
    fn refused_step(&mut self) {
        // Somebody is asked for: nobody leaves at the time of the last step.
        let open = self.sides.iter().any(|side| side.accepting && self.free_slots(side) > 0);
        if self.waiting.is_empty() || !open {
            return;
        }
        let state = |router: &Router| {
            let mut metrics = Metrics::default();
            router.metrics(&mut metrics);
            (metrics, router.waiting(), router.plan().clone())
        };
        let before = state(&self.router);
        let mut wrong = |_: &Request, bonus_tokens: &mut [f32]| {
            bonus_tokens[0] = f32::NAN;
            true
        };
        let refused = self.router.step_with(self.reading(self.told_ms), &mut wrong);
        assert!(matches!(refused, Err(RouterError::Batch(BatchError::Bonus { .. }))), "{refused:?}");
        assert_eq!(before, state(&self.router));
        self.tally.meets("refused step");
    }
}
