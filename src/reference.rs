//! The oracle: the greedy assignment over the full matrix of scores, and the only definition of right.
//!
//! Nothing here is fast and nothing is kept between picks: loads are added up again, profiles are made again
//! and every pair is scored again after each admission. Every other path must answer the same, pick for pick.
//!
//! Decided are the batch's candidates, the oldest of one class who wait up to the pool's window; a step with
//! several classes is a batch for each, the highest first. The rules, in order:
//! 0. *Pinned* requests enter the worker that was kept for them, in the rule's order.
//! 1. *Overdue* requests go first, each to the least-loaded open worker that may take it: those past their
//!    own deadline, longest wait first (then earliest arrival), then those who have been passed as often as
//!    the plan allows, in order of arrival.
//! 2. The plan's [`Order`] then says who is admitted, until nobody fits:
//!    - *Matrix*: the best pair of all, by score, then lowest load, then lowest worker, then earliest
//!      arrival.
//!    - *Least loaded*: the best pair of the least-loaded open worker that may take anybody.
//!    - *Most open slots*: the best pair of the worker with most open slots (then the lowest load, then the
//!      lowest index) that may take anybody, while more slots are open than the [`SubsetStage`] says; then
//!      the best subset of that worker.
//!    - *Longest first*: as many of the earliest requests that some worker may take as slots are open,
//!      longest first (then earliest), each to the least-loaded open worker that may take it.
//!
//!    A rule with a judge chooses among the best few of the best pair's column, where workers choose in turn.
//! 3. *Repair*, with two picks or more: each pick that was not overdue is taken back, unless the length
//!    wanted is still within the rule's tolerance of what it was, and the best waiting request takes its
//!    place if its score is greater; then two picks on two workers change places where that lowers the plan's
//!    pair cost. Where no worker has more than one pick they are reassigned, sorted instead, if each fits:
//!    the longest (then the earliest) to the worker whose anticipated load without its pick is least (then
//!    the lowest index).
//!
//! A worker *may take* a request when a slot is open, the request is eligible and its length plus its growth
//! fits the room. *Least loaded* leaves ties to the lowest index; a plan that goes longest first may put
//! fewest requests before it.

use std::cmp::Reverse;

use crate::assignment::{Admission, Assignment};
use crate::batch::{Batch, MAX_PROMPT_TOKENS, Request};
use crate::pool::PoolSlot;
use crate::rule::{Order, PairCost, PairView, Pin, Plan, Rule, SubsetStage, View};
use crate::score::Profile;

/// A waiting request.
#[derive(Clone, Copy)]
struct Waiting {
    slot: PoolSlot,
    request: Request,
    waited_steps: u32,
    passed: u32,
    arrival: u64,
}

#[derive(Clone, Copy)]
struct Pick {
    waiting: Waiting,
    worker: usize,
    score: i64,
    overdue: bool,
    /// The length wanted when it was chosen; none where it was not.
    wanted_tokens: Option<i64>,
}

struct State<'a> {
    batch: &'a Batch<'a>,
    plan: Plan,
    load_offsets: Vec<i64>,
    left: Vec<Waiting>,
    picks: Vec<Pick>,
}

/// Runs a rule on a batch.
pub fn assign<R: Rule + ?Sized>(rule: &mut R, batch: &Batch<'_>, out: &mut Assignment) {
    let mut load_offsets = Vec::new();
    let plan = rule.begin(batch, &mut load_offsets).settled();
    load_offsets.resize(batch.workers().len(), 0);
    let mut state = State::new(batch, plan, load_offsets);
    state.place_pinned(rule.pins());
    state.place_overdue();
    match plan.order {
        Order::LongestFirst { .. } => state.place_longest_first(rule),
        Order::MostOpenSlots(stage) => {
            while state.all_open_slots() > i64::from(stage.greedy_slots) && state.place_best(rule) {}
            while state.place_subset(rule, stage.in_range()) {}
        }
        Order::Matrix | Order::LeastLoaded => while state.place_best(rule) {},
    }
    if state.picks.len() >= 2 {
        for _ in 0..plan.repair.rounds {
            let replaced = state.replace(rule);
            let swapped = plan.repair.swap.is_some_and(|cost| {
                let reassigned = if plan.repair.one_each { state.reassign_sorted() } else { None };
                reassigned.unwrap_or_else(|| state.swap(cost))
            });
            if !replaced && !swapped {
                break;
            }
        }
    }
    state.answer(out);
}

/// The score of every pair as the batch begins, in tokens: a row of workers for each request in arrival
/// order; minus infinity where the request may not run.
pub fn score_into<R: Rule + ?Sized>(rule: &mut R, batch: &Batch<'_>, score_tokens: &mut Vec<f64>) {
    let mut load_offsets = Vec::new();
    let plan = rule.begin(batch, &mut load_offsets).settled();
    load_offsets.resize(batch.workers().len(), 0);
    let state = State::new(batch, plan, load_offsets);
    score_tokens.clear();
    for waiting in &state.left {
        score_tokens.extend((0..state.workers()).map(|worker| {
            if state.fits(&waiting.request, worker) {
                state.score(rule, waiting, worker) as f64 / plan.unit as f64
            } else {
                f64::NEG_INFINITY
            }
        }));
    }
}

impl<'a> State<'a> {
    fn new(batch: &'a Batch<'a>, plan: Plan, load_offsets: Vec<i64>) -> Self {
        let left = batch
            .waiting()
            .iter()
            .map(|(slot, &request, waited_steps)| Waiting {
                slot,
                request,
                waited_steps,
                passed: batch.waiting().passed(slot),
                arrival: batch.waiting().arrival(slot),
            })
            .collect();
        Self { batch, plan, load_offsets, left, picks: Vec::new() }
    }

    fn answer(&self, out: &mut Assignment) {
        out.clear();
        (out.passed_over, out.max_passed) = (self.plan.passed_over, self.plan.max_passed);
        out.admitted.extend(self.picks.iter().map(|pick| Admission {
            id: pick.waiting.request.id,
            slot: pick.waiting.slot,
            worker: crate::WorkerIndex::at(pick.worker),
            prompt_tokens: pick.waiting.request.prompt_tokens,
            score_tokens: pick.score as f64 / self.plan.unit as f64,
        }));
        out.measure(self.batch);
    }

    fn workers(&self) -> usize {
        self.batch.workers().len()
    }

    fn cost_per_token(&self, worker: usize) -> i64 {
        if self.batch.is_uniform() { 1 } else { self.batch.workers()[worker].cost_per_token() }
    }

    fn picked_tokens(&self, worker: usize) -> i64 {
        let picks = self.picks.iter().filter(|pick| pick.worker == worker);
        picks.map(|pick| i64::from(pick.waiting.request.prompt_tokens)).sum()
    }

    fn picked_count(&self, worker: usize) -> i64 {
        self.picks.iter().filter(|pick| pick.worker == worker).count() as i64
    }

    fn cost(&self, worker: usize) -> i64 {
        (self.batch.workers()[worker].load_tokens as i64 + self.picked_tokens(worker))
            * self.cost_per_token(worker)
    }

    fn open_slots(&self, worker: usize) -> i64 {
        i64::from(self.batch.workers()[worker].open_slots()) - self.picked_count(worker)
    }

    fn anticipated(&self, worker: usize) -> i64 {
        self.cost(worker)
            + self.load_offsets[worker]
            + self.open_slots(worker) * self.plan.refill_tokens * self.cost_per_token(worker)
    }

    fn room_tokens(&self, worker: usize) -> i64 {
        self.batch.workers()[worker].room_tokens()
            - self.picked_tokens(worker)
            - self.picked_count(worker) * i64::from(self.batch.request_growth_tokens())
    }

    fn row(&self, worker: usize) -> Vec<i64> {
        let Some(projection) = self.batch.projection() else { return Vec::new() };
        let width = projection.horizon + 1;
        let row = &projection.rows[worker * width..(worker + 1) * width];
        row.iter()
            .map(|&tokens| (tokens as i64 + self.picked_tokens(worker)) * self.cost_per_token(worker))
            .collect()
    }

    fn fits(&self, request: &Request, worker: usize) -> bool {
        let needs = i64::from(request.prompt_tokens) + i64::from(self.batch.request_growth_tokens());
        needs <= self.room_tokens(worker) && self.batch.eligible(request, worker)
    }

    fn may_take(&self, request: &Request, worker: usize) -> bool {
        self.open_slots(worker) > 0 && self.fits(request, worker)
    }

    fn all_open_slots(&self) -> i64 {
        (0..self.workers()).map(|worker| self.open_slots(worker)).sum()
    }

    fn may_take_any(&self, worker: usize) -> bool {
        self.left.iter().any(|waiting| self.may_take(&waiting.request, worker))
    }

    fn least_loaded_for(&self, request: &Request) -> Option<usize> {
        let requests = |worker: usize| match self.plan.order {
            Order::LongestFirst { fewest_requests: true } => {
                i64::from(self.batch.workers()[worker].running) + self.picked_count(worker)
            }
            _ => 0,
        };
        (0..self.workers())
            .filter(|&worker| self.may_take(request, worker))
            .min_by_key(|&worker| (self.cost(worker), requests(worker), worker))
    }

    fn admit(&mut self, at: usize, worker: usize, score: i64, overdue: bool) {
        let waiting = self.left.remove(at);
        self.picks.push(Pick { waiting, worker, score, overdue, wanted_tokens: None });
    }

    /// The profile of a worker for a request as things stand.
    fn profile(&self, rule: &(impl Rule + ?Sized), waiting: &Waiting, worker: usize) -> Profile {
        let steps = self.row(worker).len().max(1);
        self.profile_of_class(rule, self.batch.survival(waiting.request.survival_class, steps), worker)
    }

    fn profile_of_class(&self, rule: &(impl Rule + ?Sized), class: Option<&[f32]>, worker: usize) -> Profile {
        let mut profile = Profile::default();
        self.with_view(worker, |view| rule.profile(view, class, &mut profile));
        profile
    }

    fn with_view<T>(&self, worker: usize, look: impl FnOnce(&View<'_>) -> T) -> T {
        let workers = self.workers();
        let rows: Vec<Vec<i64>> = (0..workers).map(|other| self.row(other)).collect();
        let envelope_row: Vec<i64> = (0..rows[worker].len())
            .map(|h| rows.iter().map(|row| row[h]).max().unwrap_or(0).max(self.plan.envelope_floor))
            .collect();
        let others = || (0..workers).filter(|&other| other != worker).map(|other| self.anticipated(other));
        let envelope = (0..workers).map(|other| self.cost(other)).max().unwrap_or(0);
        let mut levels: Vec<i64> = (0..workers).map(|other| self.anticipated(other)).collect();
        levels.sort_unstable();
        if !self.plan.follows_levels {
            levels.clear();
        }
        look(&View {
            workers: workers as i64,
            worker,
            cost: self.cost(worker),
            cost_per_token: self.cost_per_token(worker),
            open_slots: self.open_slots(worker),
            envelope: envelope.max(self.plan.envelope_floor),
            anticipated: self.anticipated(worker),
            others_sum: others().sum(),
            others_max: others().max().unwrap_or(self.anticipated(worker)),
            row: &rows[worker],
            envelope_row: &envelope_row,
            levels: &levels,
            level: self.anticipated(worker),
        })
    }

    /// The length that a worker would take most gladly.
    fn wanted_tokens(&self, rule: &(impl Rule + ?Sized), waiting: &Waiting, worker: usize) -> i64 {
        self.with_view(worker, |view| rule.wanted_tokens(view)).unwrap_or_else(|| {
            let profile = self.profile(rule, waiting, worker);
            profile.peak(0, i64::from(MAX_PROMPT_TOKENS), &mut Vec::new())
        })
    }

    /// The score of a waiting request on a worker as things stand.
    fn score(&self, rule: &(impl Rule + ?Sized), waiting: &Waiting, worker: usize) -> i64 {
        self.score_of_length(rule, waiting, worker)
            + self.plan.unit * self.batch.bonus_tokens(&waiting.request, worker)
    }

    /// That score without a bonus.
    fn score_of_length(&self, rule: &(impl Rule + ?Sized), waiting: &Waiting, worker: usize) -> i64 {
        self.profile(rule, waiting, worker).score(i64::from(waiting.request.prompt_tokens))
            + self.plan.unit * self.plan.age.tokens(waiting.passed)
    }

    fn place_pinned(&mut self, pins: &[Pin]) {
        for pin in pins {
            let waiting = self.left.iter().position(|left| left.slot == pin.slot);
            let waiting = waiting.filter(|_| pin.worker < self.batch.workers().len());
            if let Some(at) = waiting.filter(|&at| self.may_take(&self.left[at].request, pin.worker)) {
                self.admit(at, pin.worker, 0, true);
            }
        }
    }

    fn place_overdue(&mut self) {
        let is_late = |waiting: &Waiting| {
            waiting.request.deadline_steps.is_some_and(|steps| waiting.waited_steps >= steps)
        };
        let max_passed = self.plan.max_passed;
        let is_passed = |waiting: &Waiting| max_passed.is_some_and(|most| waiting.passed >= most);
        let (mut late, others): (Vec<Waiting>, Vec<Waiting>) =
            self.left.iter().partition(|waiting| is_late(waiting));
        late.sort_by_key(|waiting| (Reverse(waiting.waited_steps), waiting.arrival));
        for waiting in late.into_iter().chain(others.into_iter().filter(is_passed)) {
            if let Some(worker) = self.least_loaded_for(&waiting.request) {
                self.admit(self.place_of(&waiting), worker, 0, true);
            }
        }
    }

    fn place_longest_first(&mut self, rule: &(impl Rule + ?Sized)) {
        loop {
            let mut queue = self.left.clone();
            queue.retain(|waiting| self.least_loaded_for(&waiting.request).is_some());
            queue.truncate(self.all_open_slots() as usize);
            if queue.is_empty() {
                return;
            }
            queue.sort_by_key(|waiting| (Reverse(waiting.request.prompt_tokens), waiting.arrival));
            for waiting in queue {
                if let Some(worker) = self.least_loaded_for(&waiting.request) {
                    let score = self.score_of_length(rule, &waiting, worker);
                    self.admit(self.place_of(&waiting), worker, score, false);
                }
            }
        }
    }

    /// Admits the best pair, if there is any.
    fn place_best(&mut self, rule: &mut (impl Rule + ?Sized)) -> bool {
        let Some((at, worker, score)) = self.judged_pair(rule) else { return false };
        let wanted_tokens = self.wanted_tokens(rule, &self.left[at], worker);
        self.admit(at, worker, score, false);
        if let Some(pick) = self.picks.last_mut() {
            pick.wanted_tokens = Some(wanted_tokens);
        }
        true
    }

    /// Admits the best subset of the next worker, if anybody is left who may enter one.
    fn place_subset(&mut self, rule: &(impl Rule + ?Sized), stage: SubsetStage) -> bool {
        let Some(worker) = self.workers_by_turn().first().copied() else { return false };
        let value = |set: &[Waiting]| {
            let tokens = set.iter().map(|waiting| i64::from(waiting.request.prompt_tokens)).sum();
            let extra = |waiting: &Waiting| {
                self.plan.age.tokens(waiting.passed) + self.batch.bonus_tokens(&waiting.request, worker)
            };
            self.profile_of_class(rule, None, worker).score(tokens)
                + self.plan.unit * set.iter().map(extra).sum::<i64>()
        };
        let mut window = self.left.clone();
        window.retain(|waiting| self.fits(&waiting.request, worker));
        window.truncate(stage.candidate_window);
        window.sort_by_key(|waiting| (Reverse(value(&[*waiting])), waiting.arrival));
        window.truncate(stage.subset_window);
        let best_single = window[0];
        window.sort_by_key(|waiting| waiting.arrival);

        let mut sets = Vec::new();
        for size in 1..=window.len().min(self.open_slots(worker) as usize) {
            subsets(&window, size, &mut Vec::new(), &mut sets);
        }
        let mut best = (value(&[best_single]), vec![best_single]);
        let mut is_worth_it = false;
        for set in sets {
            let growth = i64::from(self.batch.request_growth_tokens());
            let needs: i64 =
                set.iter().map(|waiting| i64::from(waiting.request.prompt_tokens) + growth).sum();
            let score = value(&set);
            // Smaller sets come before larger ones and earlier before later, so the first of equals stays.
            if needs <= self.room_tokens(worker) && score > 0 && (!is_worth_it || score > best.0) {
                (best, is_worth_it) = ((score, set), true);
            }
        }
        let (score, set) = best;
        for waiting in set {
            self.admit(self.place_of(&waiting), worker, score, false);
        }
        true
    }

    /// Where somebody stands among those who are left.
    fn place_of(&self, waiting: &Waiting) -> usize {
        self.left.iter().position(|left| left.slot == waiting.slot).expect("it waits")
    }

    /// The best pair, or what the rule's judge prefers among the best few of its column.
    fn judged_pair(&self, rule: &mut (impl Rule + ?Sized)) -> Option<(usize, usize, i64)> {
        let (at, worker, score) = self.best_pair(rule)?;
        if rule.candidates() <= 1 || !self.plan.order.is_in_turn() {
            return Some((at, worker, score));
        }
        let mut column: Vec<(i64, u64, usize)> = (0..self.left.len())
            .filter(|&at| self.may_take(&self.left[at].request, worker))
            .map(|at| (-self.score(rule, &self.left[at], worker), self.left[at].arrival, at))
            .collect();
        column.sort_unstable();
        column.truncate(rule.candidates());
        if column.len() <= 1 {
            return Some((at, worker, score));
        }
        let tokens: Vec<i64> =
            column.iter().map(|&(.., at)| i64::from(self.left[at].request.prompt_tokens)).collect();
        let costs: Vec<i64> = (0..self.workers()).map(|worker| self.cost(worker)).collect();
        let open_slots: Vec<i64> = (0..self.workers()).map(|worker| self.open_slots(worker)).collect();
        let chosen = rule.judge(self.batch, &costs, &open_slots, worker, &tokens);
        let &(score, _, at) = column.get(chosen).unwrap_or(&column[0]);
        Some((at, worker, -score))
    }

    /// Whose turn it is to choose, in order, among the workers that may take anybody.
    fn workers_by_turn(&self) -> Vec<usize> {
        let mut workers: Vec<usize> =
            (0..self.workers()).filter(|&worker| self.may_take_any(worker)).collect();
        workers.sort_by_key(|&worker| (self.cost(worker), worker));
        if matches!(self.plan.order, Order::MostOpenSlots(_)) {
            workers.sort_by_key(|&worker| Reverse(self.open_slots(worker)));
        }
        if self.plan.order.is_in_turn() {
            workers.truncate(1);
        }
        workers
    }

    fn best_pair(&self, rule: &(impl Rule + ?Sized)) -> Option<(usize, usize, i64)> {
        let mut best: Option<(usize, usize, i64)> = None;
        for worker in self.workers_by_turn() {
            for (at, waiting) in self.left.iter().enumerate() {
                if !self.may_take(&waiting.request, worker) {
                    continue;
                }
                // Workers come by load and requests by arrival, so the first of equals is the one that the
                // rules name.
                let score = self.score(rule, waiting, worker);
                if best.is_none_or(|(.., other)| score > other) {
                    best = Some((at, worker, score));
                }
            }
        }
        best
    }

    fn replace(&mut self, rule: &(impl Rule + ?Sized)) -> bool {
        let mut changed = false;
        for index in 0..self.picks.len() {
            let pick = self.picks[index];
            if pick.overdue {
                continue;
            }
            self.picks.remove(index);
            let wanted_tokens = self.wanted_tokens(rule, &pick.waiting, pick.worker);
            let moved = pick.wanted_tokens.map(|then| (wanted_tokens - then).abs());
            if self.plan.repair.tolerance_tokens.zip(moved).is_some_and(|(most, moved)| moved <= most) {
                self.picks.insert(index, pick);
                continue;
            }
            let current = self.score(rule, &pick.waiting, pick.worker);
            let mut best = (current, pick.waiting);
            for waiting in &self.left {
                if self.fits(&waiting.request, pick.worker) {
                    let score = self.score(rule, waiting, pick.worker);
                    if score > best.0 {
                        best = (score, *waiting);
                    }
                }
            }
            let (score, waiting) = best;
            if waiting.slot != pick.waiting.slot {
                changed = true;
                self.left.retain(|left| left.slot != waiting.slot);
                self.left.push(pick.waiting);
                self.left.sort_by_key(|left| left.arrival);
            }
            let wanted_tokens = Some(wanted_tokens);
            self.picks.insert(index, Pick { waiting, score, wanted_tokens, ..pick });
        }
        changed
    }

    /// Whether a pick came to another worker; none where one would not fit.
    fn reassign_sorted(&mut self) -> Option<bool> {
        let movable = |pick: &Pick| !pick.overdue && !self.batch.has_terms(&pick.waiting.request);
        let mut places: Vec<usize> = (0..self.picks.len()).filter(|&at| movable(&self.picks[at])).collect();
        let mut reassigned: Vec<Waiting> = places.iter().map(|&at| self.picks[at].waiting).collect();
        let tokens = |waiting: &Waiting| i64::from(waiting.request.prompt_tokens);
        reassigned.sort_by_key(|waiting| (-tokens(waiting), waiting.arrival));
        places.sort_by_key(|&at| {
            let Pick { waiting, worker, .. } = &self.picks[at];
            (self.anticipated(*worker) - tokens(waiting), *worker)
        });
        let fits = |(&at, waiting): (&usize, &Waiting)| {
            let Pick { waiting: own, worker, .. } = &self.picks[at];
            tokens(waiting) <= self.room_tokens(*worker) + tokens(own)
        };
        if !places.iter().zip(&reassigned).all(fits) {
            return None;
        }
        let mut changed = false;
        for (at, waiting) in places.into_iter().zip(reassigned) {
            if self.picks[at].waiting.slot != waiting.slot {
                changed = true;
                self.picks[at] = Pick { waiting, wanted_tokens: None, ..self.picks[at] };
            }
        }
        Some(changed)
    }

    fn swap(&mut self, cost: PairCost) -> bool {
        let mut changed = false;
        let growth = i64::from(self.batch.request_growth_tokens());
        for first in 0..self.picks.len() {
            for second in first + 1..self.picks.len() {
                let (a, b) = (self.picks[first], self.picks[second]);
                if a.worker == b.worker
                    || a.overdue
                    || b.overdue
                    || self.batch.has_terms(&a.waiting.request)
                    || self.batch.has_terms(&b.waiting.request)
                {
                    continue;
                }
                let (a_tokens, b_tokens) =
                    (i64::from(a.waiting.request.prompt_tokens), i64::from(b.waiting.request.prompt_tokens));
                let room = |worker: usize, gone: i64| self.room_tokens(worker) + gone + growth;
                if b_tokens + growth > room(a.worker, a_tokens)
                    || a_tokens + growth > room(b.worker, b_tokens)
                {
                    continue;
                }
                let pair = PairView {
                    workers: self.workers() as i64,
                    sum: (0..self.workers()).map(|worker| self.anticipated(worker)).sum(),
                    rest_max: (0..self.workers())
                        .filter(|&worker| worker != a.worker && worker != b.worker)
                        .map(|worker| self.anticipated(worker))
                        .max(),
                };
                let (x, v) = (self.anticipated(a.worker), self.anticipated(b.worker));
                let moved = b_tokens - a_tokens;
                if cost.of(&pair, x + moved, v - moved) < cost.of(&pair, x, v) {
                    changed = true;
                    self.picks[first] = Pick { waiting: b.waiting, wanted_tokens: None, ..a };
                    self.picks[second] = Pick { waiting: a.waiting, wanted_tokens: None, ..b };
                }
            }
        }
        changed
    }
}

/// Every subset of a size, the earlier before the later.
fn subsets(of: &[Waiting], size: usize, chosen: &mut Vec<Waiting>, sets: &mut Vec<Vec<Waiting>>) {
    if size == 0 {
        sets.push(chosen.clone());
        return;
    }
    for (at, waiting) in of.iter().enumerate() {
        chosen.push(*waiting);
        subsets(&of[at + 1..], size - 1, chosen, sets);
        chosen.pop();
    }
}
