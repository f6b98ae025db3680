//! The greedy engine: what [`crate::reference`] defines, without the matrix.
//!
//! Scores never fall as a worker's load falls (for the plain F and for rules that fill the least-loaded
//! worker first), so one admission is one column: the profile of one worker, searched in the pool's length
//! order. Rules without that order look at one column per open worker. Terms per pair (bonus, eligibility,
//! rank, survival class) break the length order: then a column is scored entry by entry
//! ([`crate::backend::cpu::dense`]). Where they are bonuses of few pairs, it is searched as if there were
//! none, and who has one is compared with what was found. level, a rule that is known as data, has a kernel
//! of its own for all of a step's admissions ([`crate::backend::cpu::level`]); what does not fit its lanes
//! comes back here.
//!
//! | module | |
//! |---|---|
//! | `step` | what a decision works on, and how its columns are searched |
//! | `search` | the best of one column |
//! | `turns` | who is admitted in turn: overdue requests, the longest first, workers with most open slots |
//! | `column_queue` | columns that compete for the next admission |
//! | `repair` | what the picks gain once all are known |
//! | `device` | picks that a device makes |

mod column_queue;
#[cfg(feature = "ascend")]
mod device;
mod repair;
mod search;
mod step;
mod turns;

use crate::assignment::{Admission, Assignment, Balance};
use crate::backend::column::{Column, Found, Terms};
use crate::backend::cpu::level::Chain;
use crate::backend::cpu::matrix::Matrix;
use crate::backend::cpu::swap::Pairs;
use crate::backend::cpu::{ChainKernels, Kernels};
use crate::backend::loads::Loads;
use crate::backend::picks::{Pick, Room, hold, open_key, put_back, worker_of};
use crate::batch::Batch;
use crate::pool::PoolSlot;
use crate::rule::{MAX_SUBSET_WINDOW, Order, Pin, Plan, Rule};
use crate::score::Profile;

use self::column_queue::ColumnQueue;
use self::step::{Chained, MatrixThreshold, Step, reach};
use self::turns::Candidate;

/// A survival class, or none.
type Class = Option<u8>;

/// Buffers of the engine, kept across steps.
#[derive(Clone, Debug)]
pub(crate) struct Greedy {
    loads: Loads,
    column: Column,
    profile: Profile,
    picks: Vec<Pick>,
    /// Changes that the repair has made to the picks of this step, plus one.
    changes: u32,
    kernels: &'static Kernels,
    /// Open workers by descending (load, index), packed: the next one is the last.
    open: Vec<u64>,
    /// Requests to be placed in turn: (what comes first, arrival, position).
    queue: Vec<(u32, u64, usize)>,
    /// By pool slot: who has been placed. Kept where requests are looked at in order of arrival, and for a
    /// device.
    placed: Vec<bool>,
    /// What a subset may be made of.
    candidates: Vec<Candidate>,
    found: Vec<Found>,
    tokens: Vec<i64>,
    pairs: Pairs,
    /// Lengths, turned so that the longest comes first, and positions of the picks that are reassigned.
    reassigned: Vec<u64>,
    /// The picks that take part, the lowest worker first.
    places: Vec<u32>,
    repair_room: Room,
    columns: Columns,
    matrix: Matrix,
    column_queue: ColumnQueue,
    /// Bounds of the runs of one column, and which they are.
    run_bounds: Vec<(i64, usize)>,
    #[cfg(feature = "ascend")]
    device_picks: Vec<crate::backend::ascend::blob::DevicePick>,
}

/// How the best of a column is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    /// By length where the batch allows it and the rule does not look far, in the matrix otherwise.
    Fastest,
    /// In the matrix.
    Dense,
    /// By length wherever the batch allows it.
    Searched,
}

/// Knots of a profile beside those of steps and of workers.
const MOST_OTHER_KNOTS: usize = 8;
/// A bound before the first look.
const UNKNOWN: i64 = i64::MAX;
/// [`Greedy::changes`] before the repair.
const UNCHANGED: u32 = 1;

impl Greedy {
    pub(crate) fn new(kernels: &'static Kernels) -> Self {
        Self {
            loads: Loads::new(kernels.loads),
            column: Column::new(kernels),
            // Room for the knots of level, which makes a profile only where its kernel does not serve.
            profile: Profile { knots: Vec::with_capacity(2), ..Profile::default() },
            picks: Vec::new(),
            changes: UNCHANGED,
            kernels,
            open: Vec::new(),
            queue: Vec::new(),
            placed: Vec::new(),
            candidates: Vec::with_capacity(MAX_SUBSET_WINDOW),
            found: Vec::new(),
            tokens: Vec::new(),
            pairs: Pairs::default(),
            reassigned: Vec::new(),
            places: Vec::new(),
            repair_room: Room::default(),
            columns: Columns::Fastest,
            matrix: Matrix::new(kernels),
            column_queue: ColumnQueue::default(),
            run_bounds: Vec::new(),
            #[cfg(feature = "ascend")]
            device_picks: Vec::new(),
        }
    }

    /// Sends every batch through the matrix.
    pub(crate) fn dense(self) -> Self {
        Self { columns: Columns::Dense, ..self }
    }

    /// Searches columns by length wherever that is possible.
    pub(crate) fn searching(self) -> Self {
        Self { columns: Columns::Searched, ..self }
    }

    /// Runs a rule on a batch.
    pub(crate) fn assign(&mut self, rule: &mut impl Rule, batch: &Batch<'_>, out: &mut Assignment) {
        let plan = self.plan(rule, batch, out);
        if Self::is_idle(batch, out) {
            return;
        }
        let mut step = self.step(rule, batch, &plan);
        // Who judges among candidates asks for every worker, and a pinned request for its own.
        let open_only = step.rule.candidates() <= 1 && step.rule.pins().is_empty();
        self.load(&mut step, open_only, plan.order.scans_arrivals(), out);
        self.place(&mut step);
        self.finish(&step, out);
    }

    /// Begins a decision. Plans and steps are large, and stay where they are built.
    #[inline(always)]
    fn plan(&mut self, rule: &mut impl Rule, batch: &Batch<'_>, out: &mut Assignment) -> Plan {
        out.clear();
        self.loads.prepare(batch);
        self.picks.clear();
        let plan = rule.begin(batch, &mut self.loads.load_offsets).settled();
        (out.passed_over, out.max_passed) = (plan.passed_over, plan.max_passed);
        plan
    }

    /// Whether there is nothing to decide: the answer is complete then.
    #[inline(always)]
    fn is_idle(batch: &Batch<'_>, out: &mut Assignment) -> bool {
        let idle = batch.waiting().is_empty() || batch.open_slots() == 0;
        if idle {
            out.measure(batch);
        }
        idle
    }

    #[inline(always)]
    fn step<'a, 'b, R: Rule>(
        &self,
        rule: &'a mut R,
        batch: &'a Batch<'b>,
        plan: &'a Plan,
    ) -> Step<'a, 'b, &'a mut R> {
        let terms = Terms::new(batch.waiting(), plan.age, plan.unit);
        let reach = match self.columns {
            Columns::Fastest => reach(self.kernels, rule, batch, &terms),
            Columns::Dense => MatrixThreshold::Far,
            Columns::Searched => MatrixThreshold::Near,
        };
        Step::new(batch, rule, plan, terms, reach)
    }

    /// Takes what a step works on and places who is pinned or overdue. With `by_slot` it is noted who is
    /// placed.
    #[inline(always)]
    fn load(
        &mut self,
        step: &mut Step<'_, '_, &mut impl Rule>,
        open_only: bool,
        by_slot: bool,
        out: &mut Assignment,
    ) {
        let (batch, plan) = (step.batch, step.plan);
        self.placed.clear();
        // A rule may change its order with the batch: that day must not allocate either.
        hold(&mut self.placed, batch.waiting().slot_bound());
        self.queue.clear();
        hold(&mut self.queue, batch.waiting().len());
        if by_slot {
            self.placed.resize(batch.waiting().slot_bound(), false);
        }
        self.loads.load(batch, plan, open_only);
        out.before = Balance::of_totals(batch, self.loads.before());
        self.column.reset(&step.waiting, step.searches());
        if !step.ordered {
            self.matrix.load(batch, plan.age, plan.unit, step.reach != MatrixThreshold::Far);
        } else if step.reach == MatrixThreshold::Further {
            self.matrix.lay_out(batch);
        }
        if !step.ordered || step.reach == MatrixThreshold::Further {
            // A rule may change its order with the batch, and a step its way: that day must not allocate
            // either.
            self.column_queue.reserve(
                batch.workers().len(),
                self.matrix.runs(),
                self.loads.envelopes().1.len(),
            );
            hold(&mut self.run_bounds, self.matrix.runs());
        }
        // A column is searched in 64 bits where lanes do not hold it: that day must not allocate either.
        let knots = self.loads.envelopes().1.len() + usize::from(plan.follows_levels) * batch.workers().len();
        hold(&mut self.profile.knots, knots + MOST_OTHER_KNOTS);
        self.column.hold(knots + MOST_OTHER_KNOTS);
        if let Some(terms) = step.level_terms() {
            let holds = self.column.take_terms(&step.waiting, &step.terms, &terms);
            step.chained = holds.then_some(Chained::Levels);
        } else if self.is_searched(step) {
            step.chained = step.refills();
        }
        self.place_pinned(step);
        self.place_overdue(step);
    }

    #[inline(always)]
    fn place(&mut self, step: &mut Step<'_, '_, &mut impl Rule>) {
        match step.plan.order {
            Order::LongestFirst { .. } => self.place_longest_first(step),
            Order::MostOpenSlots(stage) => self.place_by_open_slots(step, stage.in_range()),
            Order::Matrix | Order::LeastLoaded => self.place_best(step),
        }
    }

    /// Repairs the picks and writes the answer.
    #[inline(always)]
    fn finish(&mut self, step: &Step<'_, '_, &mut impl Rule>, out: &mut Assignment) {
        let (batch, plan) = (step.batch, step.plan);
        self.changes = UNCHANGED;
        if self.picks.len() >= 2 {
            self.hold_repair(batch.workers().len(), self.picks.len());
            for round in 1..=plan.repair.rounds {
                let replaced = self.replace(step);
                self.hold_picks(step);
                let swapped = plan.repair.swap.is_some_and(|cost| {
                    let reassigned = if plan.repair.one_each {
                        self.reassign_sorted(round < plan.repair.rounds)
                    } else {
                        None
                    };
                    reassigned.unwrap_or_else(|| self.swap_pairs(cost))
                });
                if !replaced && !swapped {
                    break;
                }
            }
        }

        let pool = batch.waiting();
        out.admitted.extend(self.picks.iter().map(|pick| {
            let slot = PoolSlot(step.waiting.slots[pick.position]);
            Admission {
                id: pool.request(slot).id,
                slot,
                worker: crate::WorkerIndex::at(pick.worker),
                prompt_tokens: pick.tokens as u32,
                score_tokens: pick.score as f64 / plan.unit as f64,
            }
        }));
        let picked = self.picks.iter().map(|pick| (pick.worker, pick.tokens));
        out.after = Balance::of_totals(batch, self.loads.after(picked));
    }

    /// Finds out which picks have terms of their own.
    fn hold_picks(&mut self, step: &Step<'_, '_, &mut impl Rule>) {
        if step.ordered || step.plan.repair.swap.is_none() || !step.batch.has_pair_terms() {
            return;
        }
        for pick in &mut self.picks {
            let slot = PoolSlot(step.waiting.slots[pick.position]);
            pick.held = step.batch.has_terms(step.batch.waiting().request(slot));
        }
    }

    /// The score of every pair as the batch begins, in tokens; minus infinity where the request may not run.
    pub(crate) fn score_into(
        &mut self,
        rule: &mut impl Rule,
        batch: &Batch<'_>,
        score_tokens: &mut Vec<f64>,
    ) {
        let workers = batch.workers().len();
        score_tokens.clear();
        score_tokens.resize(batch.waiting().len() * workers, f64::NEG_INFINITY);
        self.loads.prepare(batch);
        let plan = rule.begin(batch, &mut self.loads.load_offsets).settled();
        self.loads.load(batch, &plan, false);
        let terms = Terms::new(batch.waiting(), plan.age, plan.unit);
        let step = Step::new(batch, rule, &plan, terms, MatrixThreshold::Far);
        for worker in 0..workers {
            let mut profiled = None;
            for (row, (slot, request, _)) in batch.waiting().iter().enumerate() {
                let fits = i64::from(request.prompt_tokens) <= self.loads.longest_tokens(worker);
                if !fits || !batch.eligible(request, worker) {
                    continue;
                }
                if profiled != Some(request.survival_class) {
                    profiled = Some(request.survival_class);
                    self.profile(&step, worker, request.survival_class);
                }
                let score = self.score_of_profile(&step, worker, request, batch.waiting().passed(slot));
                score_tokens[row * workers + worker] = score as f64 / plan.unit as f64;
            }
        }
    }

    /// See [`crate::policy::Policy::dense_columns`].
    pub(crate) fn dense_columns(&self) -> (u64, u64) {
        self.matrix.counts()
    }

    fn list_open(&mut self) {
        self.open.clear();
        for &worker in self.loads.open_workers() {
            let worker = worker as usize;
            if self.loads.open_slots(worker) > 0 {
                self.open.push(open_key(self.loads.cost(worker), worker));
            }
        }
        self.open.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// Puts a worker back among the open ones after an admission, or leaves it out when it is full.
    fn reopen(&mut self, worker: usize) {
        if self.loads.open_slots(worker) > 0 {
            put_back(&mut self.open, self.loads.cost(worker), worker);
        }
    }

    fn admit(&mut self, step: &Step<'_, '_, &mut impl Rule>, worker: usize, found: Found, overdue: bool) {
        self.take(step, found.position);
        self.admit_taken(step, worker, found, overdue);
    }

    /// Admits a request that has been taken from who waits.
    fn admit_taken(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        worker: usize,
        found: Found,
        overdue: bool,
    ) {
        let tokens = i64::from(step.waiting.tokens[found.position]);
        self.loads.admit(worker, tokens);
        let pick = Pick::new(worker, found.position, tokens);
        self.picks.push(Pick { score: found.score, overdue, ..pick });
    }

    /// Admits the best of a column, and remembers what the column wanted if the repair will ask.
    fn admit_best(&mut self, step: &Step<'_, '_, &mut impl Rule>, worker: usize, found: Found) {
        let tolerant = step.plan.repair.tolerance_tokens.is_some();
        let wanted_tokens = tolerant.then(|| {
            if let Some(wanted) = step.rule.wanted_tokens(&self.loads.view(worker)) {
                return wanted;
            }
            // A search by length has left the worker's only profile.
            if !self.is_searched(step) {
                let slot = PoolSlot(step.waiting.slots[found.position]);
                self.profile(step, worker, step.batch.waiting().request(slot).survival_class);
            }
            self.column.peak_tokens(&self.profile)
        });
        self.admit(step, worker, found, false);
        if let Some(pick) = self.picks.last_mut() {
            pick.wanted_tokens = wanted_tokens;
        }
    }

    fn note_placed(&mut self, step: &Step<'_, '_, &mut impl Rule>, position: usize, placed: bool) {
        if !self.placed.is_empty() {
            self.placed[step.waiting.slots[position] as usize] = placed;
        }
    }

    fn take(&mut self, step: &Step<'_, '_, &mut impl Rule>, position: usize) {
        self.note_placed(step, position, true);
        self.column.take(&step.waiting, position);
        if !step.ordered {
            self.matrix.take(position);
        }
    }

    fn give_back(&mut self, step: &Step<'_, '_, &mut impl Rule>, position: usize) {
        self.note_placed(step, position, false);
        self.column.give_back(&step.waiting, position);
        if !step.ordered {
            self.matrix.give_back(step.batch, position);
        }
    }

    fn place_pinned(&mut self, step: &Step<'_, '_, &mut impl Rule>) {
        let pool = step.batch.waiting();
        for &Pin { slot, worker } in step.rule.pins() {
            if slot.index() >= pool.slot_bound() || worker >= step.batch.workers().len() {
                continue;
            }
            let Some(position) = pool.position(slot).filter(|&at| !self.column.is_taken(at)) else {
                continue;
            };
            if self.loads.refusal(step.batch, pool.request(slot), worker).is_none() {
                self.admit(step, worker, Found { position, score: 0 }, true);
            }
        }
    }

    fn place_best(&mut self, step: &mut Step<'_, '_, &mut impl Rule>) {
        self.list_open();
        while let Some(chained) = step.chained {
            let placed = self.with_chain(step, chained, |kernels, chain| (kernels.place)(chain));
            let Some(worker) = placed else { return };
            // Too large for that kernel: this one goes the general way.
            if let Some(found) = self.best(step, worker) {
                self.admit_best(step, worker, found);
                self.reopen(worker);
            }
        }
        if step.one_column() {
            while let Some(key) = self.open.pop() {
                let worker = worker_of(key);
                // A worker that may take nobody now never may again: rooms and the pool only shrink.
                if let Some(found) = self.best_judged(step, worker) {
                    self.admit_best(step, worker, found);
                    self.reopen(worker);
                }
            }
            return;
        }
        self.place_by_column_queue(step, false);
    }

    /// Hands the step to the kernel of its rule.
    fn with_chain<T>(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        chained: Chained,
        run: impl FnOnce(&'static ChainKernels, &mut Chain<'_>) -> T,
    ) -> T {
        let (kernels, drop_tokens) = match chained {
            Chained::Level { drop_tokens } => (&self.kernels.level, drop_tokens),
            Chained::Levels => (&self.kernels.levels, 0),
        };
        let (marks, block_bounds, levels) = self.column.bounded(&step.waiting, &step.terms);
        let mut chain = Chain {
            ordered: &step.waiting,
            marks,
            block_bounds,
            levels,
            pairs: (!step.ordered).then_some(self.matrix.sparse()),
            loads: &mut self.loads,
            open: &mut self.open,
            picks: &mut self.picks,
            greatest_age: step.terms.greatest_age,
            drop_tokens,
            tolerance_tokens: step.plan.repair.tolerance_tokens,
            changes: self.changes,
        };
        let answer = run(kernels, &mut chain);
        self.changes = chain.changes;
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Isa;
    use crate::batch::{Request, Traffic, Worker};
    use crate::policy::Parameters;
    use crate::policy::level::Level;
    use crate::pool::Pool;

    /// What goes back to the pool outside the level kernel is found by that kernel again.
    #[test]
    fn a_pick_of_level_refill_that_is_taken_back_is_picked_again() {
        let requests: Vec<Request> = (0..300)
            .map(|id| Request::new(id, 100 + 37 * (id as u32 * 7 % 300)).passed(id as u32 * 131 % 1000))
            .collect();
        let pool = Pool::from_requests(&requests).expect("valid");
        let workers: Vec<Worker> = (0..12).map(|at| Worker::new(300_000 + 700 * at, 9, 1)).collect();
        let traffic = Traffic {
            mean_prompt_tokens: 5_000,
            sd_prompt_tokens: 3_000,
            small_prompt_tokens: 500,
            // Nothing has ended: the rule is the plain one.
            mean_output_tokens: 0,
        };
        let batch = Batch::draft(&workers, &pool).traffic(traffic).check().expect("valid");
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::of) {
            let mut greedy = Greedy::new(kernels);
            let mut rule = Level::new(&Parameters::new(), None);
            let mut out = Assignment::new();
            let plan = greedy.plan(&mut rule, &batch, &mut out);
            let mut step = greedy.step(&mut rule, &batch, &plan);
            greedy.load(&mut step, true, false, &mut out);
            assert_eq!(step.chained, Some(Chained::Level { drop_tokens: 0 }), "the kernel serves");
            greedy.place(&mut step);
            let places = |picks: &[Pick]| -> Vec<(usize, usize)> {
                picks.iter().map(|pick| (pick.position, pick.worker)).collect()
            };
            let expected = places(&greedy.picks);
            for taken_back in 1..=expected.len() {
                for _ in 0..taken_back {
                    let pick = greedy.picks.pop().expect("every slot is filled");
                    greedy.loads.release(pick.worker, pick.tokens);
                    greedy.give_back(&step, pick.position);
                }
                greedy.place(&mut step);
                assert_eq!(places(&greedy.picks), expected, "{}, {taken_back} back", kernels.isa);
            }
        }
    }
}
