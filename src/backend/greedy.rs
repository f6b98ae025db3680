//! The greedy engine: what [`crate::reference`] defines, without the matrix.
//!
//! Scores never fall as a worker's load falls (for the plain F and for rules that fill the least-loaded worker first), so one
//! admission is one column: the profile of one worker, searched in the pool's length order. Rules without that order look at
//! one column per open worker. Terms per pair (bonus, eligibility, rank, survival class) break the length order: then a
//! column is scored entry by entry ([`crate::backend::cpu::dense`]). Where they are bonuses of few pairs, it is searched as if there were
//! none, and who has one is compared with what was found. Level refill, a rule that is known as data, has a kernel of its own for all of a
//! step's admissions ([`crate::backend::cpu::refill`]); what does not fit its lanes comes back here.
//!
//! A column that is scored entry by entry is bounded before, run by run of the length order: only runs whose bound reaches the best found are scored.
//!
//! Where many columns compete, each keeps the best that it found, which stays an upper bound until it is looked at again: taking
//! requests only lowers what is left, and an envelope that rises lifts every score by a bounded amount, the same for all columns
//! ([`Rule::envelope_weights`]). Only a column whose bound comes first is scored again, so the answer is that of scoring everything.

use crate::assignment::{Admission, Assignment, Balance};
#[cfg(feature = "ascend")]
use crate::backend::ascend::blob::{AnswerError, DevicePick, Kept, Problem, Source, Turn, Work};
#[cfg(feature = "ascend")]
use crate::backend::ascend::offload::{Device, Outcome};
use crate::backend::column::{Column, Found, Terms};
use crate::backend::cpu::Kernels;
use crate::backend::cpu::dense::Tier;
use crate::backend::cpu::exchange::{Exchange, Pairs};
use crate::backend::cpu::matrix::Matrix;
use crate::backend::cpu::refill::Chain;
use crate::backend::cpu::runs::NOBODY;
use crate::backend::loads::Loads;
use crate::backend::picks::{Pick, Room, hold, open_key, worker_of};
use crate::batch::{Batch, Request, Worker};
use crate::pool::{BLOCK, Ordered, PoolSlot};
use crate::rule::{Drawer, Order, PairCost, Pin, Plan, Rule};
use crate::score::Profile;

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
    overdue: Vec<(u32, u64, usize)>,
    found: Vec<Found>,
    tokens: Vec<i64>,
    pairs: Pairs,
    /// Lengths, turned so that the longest comes first, and positions of the picks that are dealt.
    dealt: Vec<u64>,
    /// The picks that take part, the lowest worker first.
    places: Vec<u32>,
    repair_room: Room,
    columns: Columns,
    matrix: Matrix,
    rivals: Rivals,
    /// Bounds of the runs of one column, and which they are.
    run_bounds: Vec<(i64, usize)>,
    /// By pool slot: who was placed before the device was asked.
    #[cfg(feature = "ascend")]
    taken: Vec<bool>,
    #[cfg(feature = "ascend")]
    device_picks: Vec<DevicePick>,
}

/// The best known of each run of each column.
#[derive(Clone, Copy, Debug)]
struct Bound {
    /// Its score, less the rise of the envelopes by then.
    key: i64,
    rise: i64,
    /// Position in the length order; none before the first look.
    position: u32,
}

/// Columns that compete for the next admission.
#[derive(Clone, Debug, Default)]
struct Rivals {
    /// Runs of each worker's column.
    bounds: Vec<Bound>,
    /// The greatest key of each worker.
    keys: Vec<i64>,
    runs: usize,
    /// By how much the envelopes have lifted scores at most.
    rise: i64,
    weights: Vec<i64>,
    weighted: bool,
    dearest_token: i64,
    envelope: i64,
    envelope_row: Vec<i64>,
    /// Admissions that have moved an envelope.
    moves: u32,
    /// By worker: its last pick, and the moves by then.
    last: Vec<(u32, u32)>,
}

/// How the best of a column is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    /// By length where the batch allows it and profiles have few knots, in the matrix otherwise.
    Fastest,
    /// In the matrix.
    Dense,
    /// By length wherever the batch allows it.
    Searched,
}

/// Knots from which the matrix is faster, whatever waits: a search by length adds up all of them for each block, a run of the matrix those between
/// its lengths (measured; plain lanes gain from twice as many on).
const MANY_KNOTS: usize = 9;

const UNKNOWN: i64 = i64::MAX;
/// [`Greedy::changes`] before the repair.
const UNCHANGED: u32 = 1;
/// The rise at a look that has not been.
const NEVER: i64 = -1;
/// No pick yet.
const NO_PICK: u32 = u32::MAX;

/// A pick in [`Greedy::dealt`]: the longest first, equal lengths in order of arrival.
fn dealt_key(pick: &Pick) -> u64 {
    u64::from(u32::MAX - pick.tokens as u32) << 32 | pick.position as u64
}

/// The length in a key of [`Greedy::dealt`].
fn tokens_of(key: u64) -> i64 {
    i64::from(u32::MAX - (key >> 32) as u32)
}

/// Whether a rule looks so far ahead that the matrix is faster, and everything fits its lanes.
fn looks_far(rule: &impl Rule, batch: &Batch<'_>, plan: &Plan) -> bool {
    let Some(projection) = batch.projection() else { return false };
    let Some(Drawer::Lookahead { discounts, alpha, beta, .. }) = rule.drawer(batch) else { return false };
    let discounts = &discounts[..discounts.len().min(projection.horizon + 1)];
    if discounts.len() < MANY_KNOTS {
        return false;
    }
    let dearest = match batch.is_uniform() {
        true => 1,
        false => batch.workers().iter().map(Worker::cost_per_token).max().unwrap_or(1),
    };
    // Slopes and weights together.
    let steepest = (alpha + beta) * discounts.iter().sum::<i64>() as f64 * dearest as f64;
    steepest < f64::from(1u32 << 31) && Terms::new(batch.waiting(), plan.age, plan.unit).fit_lanes()
}

struct Step<'a, 'b, R> {
    batch: &'a Batch<'b>,
    waiting: Ordered<'a>,
    rule: R,
    plan: &'a Plan,
    terms: Terms,
    /// Whether columns go through the matrix even where they could be searched by length.
    dense: bool,
    /// Whether nothing but lengths and ages tells requests apart, and columns are searched by length.
    ordered: bool,
    /// What a completion must lower its worker by, where the rule is level refill and the kernel made for it can run it.
    refill_drop_tokens: Option<i64>,
}

impl<'a, 'b, R> Step<'a, 'b, R> {
    fn new(batch: &'a Batch<'b>, rule: R, plan: &'a Plan, dense: bool) -> Self {
        let terms = Terms::new(batch.waiting(), plan.age, plan.unit);
        Self {
            batch,
            waiting: batch.waiting().ordered(),
            rule,
            plan,
            terms,
            dense,
            ordered: !dense && !batch.has_pair_terms(),
            refill_drop_tokens: None,
        }
    }

    /// The survival class of the request at a position of the length order, where classes mean something.
    fn class_of(&self, position: usize) -> Option<u8> {
        self.batch.classes()?;
        self.batch.waiting().request(PoolSlot(self.waiting.slots[position])).survival_class
    }

    /// About how many columns will be searched.
    fn searches(&self) -> usize {
        let admissions = self.batch.open_slots().min(self.batch.waiting().len() as u64) as usize;
        let columns = if self.one_column() { 0 } else { self.batch.workers().len() };
        admissions + columns
    }

    /// See [`Step::refill_drop_tokens`]: where columns are searched by length.
    fn refills(&self) -> Option<i64>
    where
        R: std::ops::Deref<Target: Rule>,
    {
        let batch = self.batch;
        let one_by_one = self.plan.order == Order::LeastLoaded && self.rule.candidates() <= 1;
        let alike = batch.is_uniform() && batch.workers().len() >= 2 && batch.projection().is_none();
        if !(one_by_one && alike && self.plan.unit == 1 && self.terms.fit_refill(&self.waiting)) {
            return None;
        }
        match self.rule.drawer(batch) {
            Some(Drawer::Level { drop_tokens }) => Some(drop_tokens),
            _ => None,
        }
    }

    /// Whether the best pair is always in the column of the least-loaded open worker.
    fn one_column(&self) -> bool {
        let nested = self.plan.nested && self.ordered && self.batch.is_uniform() && !self.batch.is_bounded();
        self.plan.order == Order::LeastLoaded || nested
    }
}

impl Greedy {
    pub(crate) fn new(kernels: &'static Kernels) -> Self {
        Self {
            loads: Loads::new(kernels.loads),
            column: Column::new(kernels),
            // Room for the knots of level refill, which draws a profile only where its kernel does not serve.
            profile: Profile { knots: Vec::with_capacity(2), ..Profile::default() },
            picks: Vec::new(),
            changes: UNCHANGED,
            kernels,
            open: Vec::new(),
            overdue: Vec::new(),
            found: Vec::new(),
            tokens: Vec::new(),
            pairs: Pairs::default(),
            dealt: Vec::new(),
            places: Vec::new(),
            repair_room: Room::default(),
            columns: Columns::Fastest,
            matrix: Matrix::new(kernels),
            rivals: Rivals::default(),
            run_bounds: Vec::new(),
            #[cfg(feature = "ascend")]
            taken: Vec::new(),
            #[cfg(feature = "ascend")]
            device_picks: Vec::new(),
        }
    }

    /// Sends every batch through the matrix.
    pub(crate) fn dense(self, only: Option<Tier>) -> Self {
        Self { columns: Columns::Dense, matrix: self.matrix.only(only), ..self }
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
        self.load(&mut step, open_only, out);
        self.place(&mut step);
        self.finish(&step, out);
    }

    /// Begins a decision. Plans and steps are large, and stay where they are built.
    #[inline(always)]
    fn plan(&mut self, rule: &mut impl Rule, batch: &Batch<'_>, out: &mut Assignment) -> Plan {
        out.clear();
        self.loads.prepare(batch);
        self.picks.clear();
        let plan = rule.begin(batch, &mut self.loads.lift);
        out.passed_over = plan.passed_over;
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
        let dense = match self.columns {
            Columns::Fastest => looks_far(rule, batch, plan),
            Columns::Dense => true,
            Columns::Searched => false,
        };
        Step::new(batch, rule, plan, dense)
    }

    /// Takes what a step works on and places who is pinned or overdue.
    #[inline(always)]
    fn load(&mut self, step: &mut Step<'_, '_, &mut impl Rule>, open_only: bool, out: &mut Assignment) {
        let (batch, plan) = (step.batch, step.plan);
        self.loads.load(batch, plan, open_only);
        out.before = Balance::of_totals(batch, self.loads.before());
        self.column.reset(&step.waiting, step.searches());
        if !step.ordered {
            self.matrix.load(batch, plan.age, plan.unit, !step.dense);
            // A rule may change its order with the batch: that day must not allocate either.
            self.rivals.reserve(batch.workers().len(), self.matrix.runs(), self.loads.envelopes().1.len());
            hold(&mut self.run_bounds, self.matrix.runs());
        }
        if self.is_searched(step) {
            step.refill_drop_tokens = step.refills();
        }
        self.place_pinned(step);
        self.place_overdue(step);
    }

    #[inline(always)]
    fn place(&mut self, step: &mut Step<'_, '_, &mut impl Rule>) {
        if step.plan.longest_first {
            self.place_longest_first(step);
        } else {
            self.place_best(step);
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
                let swapped = plan.repair.swap.is_some_and(|cost| {
                    let dealt =
                        if plan.repair.one_each { self.deal(round < plan.repair.rounds) } else { None };
                    dealt.unwrap_or_else(|| self.exchange(cost))
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
                worker: pick.worker as u32,
                prompt_tokens: pick.tokens as u32,
                score_tokens: pick.score as f64 / plan.unit as f64,
            }
        }));
        let picked = self.picks.iter().map(|pick| (pick.worker, pick.tokens));
        out.after = Balance::of_totals(batch, self.loads.after(picked));
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
        let plan = rule.begin(batch, &mut self.loads.lift);
        self.loads.load(batch, &plan, false);
        let step = Step::new(batch, rule, &plan, true);
        for worker in 0..workers {
            let mut drawn = None;
            for (row, (_, request, waited)) in batch.waiting().iter().enumerate() {
                let fits = i64::from(request.prompt_tokens) <= self.loads.longest_tokens(worker);
                if !fits || !batch.eligible(request, worker) {
                    continue;
                }
                if drawn != Some(request.survival_class) {
                    drawn = Some(request.survival_class);
                    self.draw(&step, worker, request.survival_class);
                }
                let score = self.score_drawn(&step, worker, request, waited);
                score_tokens[row * workers + worker] = score as f64 / plan.unit as f64;
            }
        }
    }

    /// The same with the greedy picks, or the first look at the columns, on a device where it can and answers well.
    #[cfg(feature = "ascend")]
    pub(crate) fn assign_on(
        &mut self,
        device: &mut Device,
        rule: &mut impl Rule,
        batch: &Batch<'_>,
        out: &mut Assignment,
    ) {
        let plan = self.plan(rule, batch, out);
        if Self::is_idle(batch, out) {
            return;
        }
        let mut step = self.step(rule, batch, &plan);
        self.load(&mut step, false, out);
        let mut begin = device.clock();
        if !(device.is_wanted(batch) && self.place_on(device, &mut step)) {
            if device.is_submitting() {
                return;
            }
            begin = device.clock();
            self.place(&mut step);
        }
        device.picked(batch, begin);
        self.finish(&step, out);
    }

    /// Has a device make the picks; false, and none made, where the CPU must.
    #[cfg(feature = "ascend")]
    fn place_on(&mut self, device: &mut Device, step: &mut Step<'_, '_, &mut impl Rule>) -> bool {
        let batch = step.batch;
        self.mark_taken(step);
        let kept = match step.rule.candidates() {
            0 | 1 => None,
            _ => Some(Kept::Judge),
        };
        match (kept, step.rule.drawer(batch)) {
            (Some(kept), _) => device.note(Outcome::Kept(kept)),
            (None, Some(drawer)) => {
                let mut picks = std::mem::take(&mut self.device_picks);
                let work = device.picks(&self.problem(step, drawer), &mut picks);
                let accepted = self.accept(step, work, &picks, device);
                self.device_picks = picks;
                return accepted;
            }
            (None, None) if step.plan.order == Order::Matrix => {
                self.list_open();
                if self.look_on(device, step) {
                    device.note(Outcome::Looked);
                    self.place_rivals(step, true);
                    return true;
                }
            }
            (None, None) => device.note(Outcome::Kept(Kept::NoDrawer)),
        }
        false
    }

    /// Makes the picks of a device, if it has any and they are good; false, and none made, where the CPU must.
    #[cfg(feature = "ascend")]
    fn accept(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        work: Option<Work>,
        picks: &[DevicePick],
        device: &mut Device,
    ) -> bool {
        let before = self.picks.len();
        let Some(work) = work else { return false };
        match self.place_picks(step, picks) {
            Ok(()) => {
                device.note(Outcome::Decided(work));
                true
            }
            Err(error) => {
                self.take_back(step, before);
                device.note(Outcome::Refused(error));
                false
            }
        }
    }

    /// Decides many batches with one launch. Engines are added as they are needed.
    #[cfg(feature = "ascend")]
    pub(crate) fn assign_many_on<R: Rule>(
        engines: &mut Vec<Self>,
        kernels: &'static Kernels,
        device: &mut Device,
        rules: &mut [R],
        batches: &[Batch<'_>],
        outs: &mut [Assignment],
    ) {
        while engines.len() < batches.len() {
            engines.push(Self::new(kernels));
        }
        let decisions = engines.iter_mut().zip(rules.iter_mut()).zip(batches.iter().zip(outs.iter_mut()));
        let plans: Vec<Plan> =
            decisions.map(|((greedy, rule), (batch, out))| greedy.plan(rule, batch, out)).collect();
        let decisions = engines.iter_mut().zip(rules).zip(batches.iter().zip(outs)).zip(&plans);
        let mut begun: Vec<_> = decisions
            .filter_map(|(((greedy, rule), (batch, out)), plan)| {
                if Self::is_idle(batch, out) {
                    return None;
                }
                let mut step = greedy.step(rule, batch, plan);
                greedy.load(&mut step, false, out);
                greedy.mark_taken(&step);
                Some((greedy, step, out))
            })
            .collect();
        let mut problems = Vec::with_capacity(begun.len());
        for (greedy, step, _) in &begun {
            let drawer = if step.rule.candidates() <= 1 { step.rule.drawer(step.batch) } else { None };
            problems.push(drawer.map(|drawer| greedy.problem(step, drawer)));
        }
        let answers = device.many(&problems);
        drop(problems);
        for ((greedy, step, out), (work, picks)) in begun.iter_mut().zip(answers) {
            if !greedy.accept(step, work, &picks, device) {
                greedy.place(step);
            }
            greedy.finish(step, out);
        }
    }

    /// Notes who was placed before the device is asked.
    #[cfg(feature = "ascend")]
    fn mark_taken(&mut self, step: &Step<'_, '_, &mut impl Rule>) {
        self.taken.clear();
        self.taken.resize(step.batch.waiting().slot_bound(), false);
        for pick in &self.picks {
            self.taken[step.waiting.slots[pick.position] as usize] = true;
        }
    }

    #[cfg(feature = "ascend")]
    fn problem<'a, R: Rule>(
        &'a self,
        step: &'a Step<'_, '_, &mut R>,
        drawer: crate::rule::Drawer<'a>,
    ) -> Problem<'a> {
        Problem {
            batch: step.batch,
            plan: step.plan,
            turn: Turn::Rule(step.plan.order),
            source: Source::Drawn(drawer),
            loads: &self.loads,
            taken: &self.taken,
        }
    }

    /// Makes the picks of a device, each checked: its slot, its room, its eligibility and its score.
    #[cfg(feature = "ascend")]
    fn place_picks(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        picks: &[DevicePick],
    ) -> Result<(), AnswerError> {
        let pool = step.batch.waiting();
        for (index, &DevicePick { slot, worker, score }) in picks.iter().enumerate() {
            let wrong = |what| Err(AnswerError::Pick { index, slot: slot.0, worker: worker as u32, what });
            let request = pool.request(slot);
            let Some(position) = pool.position(slot).filter(|&at| !self.column.is_taken(at)) else {
                return wrong("it waits no longer");
            };
            if self.loads.open_slots(worker) <= 0 {
                return wrong("no slot is open there");
            }
            if i64::from(request.prompt_tokens) > self.loads.longest_tokens(worker) {
                return wrong("the room there does not hold it");
            }
            if !step.batch.eligible(request, worker) {
                return wrong("it may not run there");
            }
            if self.score(step, worker, position) != score {
                return wrong("its score is another");
            }
            self.admit_best(step, worker, Found { position, score });
        }
        Ok(())
    }

    /// Takes the picks from the `before`th on back.
    #[cfg(feature = "ascend")]
    fn take_back(&mut self, step: &Step<'_, '_, &mut impl Rule>, before: usize) {
        while self.picks.len() > before {
            let Some(pick) = self.picks.pop() else { break };
            self.loads.release(pick.worker, pick.tokens);
            self.give_back(step, pick.position);
        }
    }

    /// Has a device look at every column for the first time.
    #[cfg(feature = "ascend")]
    fn look_on(&mut self, device: &mut Device, step: &Step<'_, '_, &mut impl Rule>) -> bool {
        let batch = step.batch;
        let (loads, width) = (&self.loads, self.loads.envelopes().1.len().max(1));
        let draw = |worker: usize, class: Option<u8>, profile: &mut Profile| {
            let class = class.and_then(|class| {
                batch.classes()?.rows.get(usize::from(class) * width..(usize::from(class) + 1) * width)
            });
            step.rule.draw(&loads.view(worker), class, profile);
        };
        let problem = Problem {
            batch,
            plan: step.plan,
            turn: Turn::Rule(Order::Matrix),
            source: Source::Fixed(&draw),
            loads,
            taken: &self.taken,
        };
        let Some(columns) = device.columns(&problem) else { return false };
        let (workers, pool) = (batch.workers().len(), batch.waiting());
        self.begin_rivals(step);
        let searched = self.is_searched(step);
        let (rivals, matrix) = (&mut self.rivals, &self.matrix);
        let runs = rivals.runs;
        rivals.bounds[..workers * runs].fill(Bound { key: NOBODY, rise: 0, position: u32::MAX });
        for column in columns {
            let Some((slot, score)) = column.best else { continue };
            let Some(position) = pool.position(slot) else { return false };
            for run in 0..runs {
                let same_class = searched || matrix.run(run).class == column.class;
                if same_class {
                    // The best of its run, and a bound for the other runs of its class, which are looked at when it matters.
                    let own = searched || matrix.holds(run, position);
                    let rise = if own { 0 } else { NEVER };
                    rivals.bounds[column.worker * runs + run] =
                        Bound { key: score, rise, position: position as u32 };
                }
            }
        }
        for worker in 0..workers {
            rivals.rank(worker);
        }
        true
    }

    /// See [`Policy::dense_columns`].
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
            let key = open_key(self.loads.cost(worker), worker);
            let at = self.open.partition_point(|other| *other > key);
            self.open.insert(at, key);
        }
    }

    fn admit(&mut self, step: &Step<'_, '_, &mut impl Rule>, worker: usize, found: Found, overdue: bool) {
        let ordered = &step.waiting;
        let tokens = i64::from(ordered.tokens[found.position]);
        let pair_terms = !step.ordered
            && step.batch.waiting().request(PoolSlot(ordered.slots[found.position])).has_pair_terms();
        self.take(step, found.position);
        self.loads.admit(worker, tokens);
        self.picks.push(Pick {
            position: found.position,
            worker,
            tokens,
            score: found.score,
            overdue,
            pair_terms,
            peak_tokens: None,
            best_at: 0,
        });
    }

    /// Admits the best of a column, and remembers what the column wanted if the repair will ask.
    fn admit_best(&mut self, step: &Step<'_, '_, &mut impl Rule>, worker: usize, found: Found) {
        let tolerant = step.plan.repair.tolerance_tokens.is_some();
        let peak_tokens = tolerant.then(|| {
            // A search by length has left the worker's only profile.
            if !self.is_searched(step) {
                let slot = PoolSlot(step.waiting.slots[found.position]);
                self.draw(step, worker, step.batch.waiting().request(slot).survival_class);
            }
            self.column.peak_tokens(&self.profile)
        });
        self.admit(step, worker, found, false);
        if let Some(pick) = self.picks.last_mut() {
            pick.peak_tokens = peak_tokens;
        }
    }

    fn take(&mut self, step: &Step<'_, '_, &mut impl Rule>, position: usize) {
        self.column.take(&step.waiting, position);
        if !step.ordered {
            self.matrix.take(position);
        }
    }

    fn give_back(&mut self, step: &Step<'_, '_, &mut impl Rule>, position: usize) {
        self.column.give_back(&step.waiting, position);
        if !step.ordered {
            self.matrix.give_back(step.batch, position);
        }
    }

    /// The least-loaded open worker that may take a request: its place in `open`.
    fn open_for(&self, batch: &Batch<'_>, request: &Request) -> Option<usize> {
        self.open.iter().rposition(|&key| {
            let worker = worker_of(key);
            i64::from(request.prompt_tokens) <= self.loads.longest_tokens(worker)
                && batch.eligible(request, worker)
        })
    }

    fn place_pinned(&mut self, step: &Step<'_, '_, &mut impl Rule>) {
        let pool = step.batch.waiting();
        for &Pin { slot, worker } in step.rule.pins() {
            let request = pool.request(slot);
            let fits = self.loads.open_slots(worker) > 0
                && i64::from(request.prompt_tokens) <= self.loads.longest_tokens(worker)
                && step.batch.eligible(request, worker);
            if fits && let Some(position) = pool.position(slot) {
                self.admit(step, worker, Found { position, score: 0 }, true);
            }
        }
    }

    fn place_overdue(&mut self, step: &Step<'_, '_, &mut impl Rule>) {
        let pool = step.batch.waiting();
        if !step.plan.overdue.may_be_due(step.terms.longest_wait_steps) && !pool.any_deadline() {
            return;
        }
        self.overdue.clear();
        // All at once some day: that day must not allocate either.
        self.overdue.reserve(step.waiting.tokens.len());
        let ordered = &step.waiting;
        for (position, &slot) in ordered.slots.iter().enumerate() {
            let slot = PoolSlot(slot);
            let waited = ordered.now_step - ordered.enqueued[position];
            if !self.column.is_taken(position) && step.plan.overdue.is_due(pool.request(slot), waited) {
                self.overdue.push((u32::MAX - waited, pool.arrival(slot), position));
            }
        }
        self.overdue.sort_unstable();
        self.list_open();
        let overdue = std::mem::take(&mut self.overdue);
        for &(_, _, position) in &overdue {
            let request = pool.request(PoolSlot(ordered.slots[position]));
            if let Some(at) = self.open_for(step.batch, request) {
                let worker = worker_of(self.open.remove(at));
                self.admit(step, worker, Found { position, score: 0 }, true);
                self.reopen(worker);
            }
        }
        self.overdue = overdue;
    }

    fn place_longest_first(&mut self, step: &Step<'_, '_, &mut impl Rule>) {
        self.list_open();
        let pool = step.batch.waiting();
        let ordered = &step.waiting;
        let mut to = ordered.tokens.len();
        while to > 0 && !self.open.is_empty() {
            // Equal lengths go by arrival, the length order keeps them by insertion: the same.
            let tokens = ordered.tokens[to - 1];
            let from = ordered.tokens[..to].partition_point(|&other| other < tokens);
            for position in from..to {
                if self.column.is_taken(position) {
                    continue;
                }
                let slot = PoolSlot(ordered.slots[position]);
                let Some(at) = self.open_for(step.batch, pool.request(slot)) else { continue };
                let worker = worker_of(self.open.remove(at));
                let score = self.score(step, worker, position);
                self.admit(step, worker, Found { position, score }, false);
                self.reopen(worker);
            }
            to = from;
        }
    }

    fn place_best(&mut self, step: &mut Step<'_, '_, &mut impl Rule>) {
        self.list_open();
        while step.refill_drop_tokens.is_some() {
            let Some(worker) = self.with_chain(step, |kernels, chain| (kernels.refill)(chain)) else {
                return;
            };
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
        self.place_rivals(step, false);
    }

    /// Whether columns are searched by length, as a whole.
    fn is_searched(&self, step: &Step<'_, '_, &mut impl Rule>) -> bool {
        step.ordered || self.matrix.is_searchable()
    }

    fn begin_rivals(&mut self, step: &Step<'_, '_, &mut impl Rule>) {
        let workers = step.batch.workers().len();
        let searched = self.is_searched(step);
        let (envelope, row) = self.loads.envelopes();
        let rivals = &mut self.rivals;
        rivals.runs = if searched { 1 } else { self.matrix.runs() };
        rivals.rise = 0;
        rivals.dearest_token = self.loads.dearest_token();
        rivals.envelope = envelope;
        rivals.envelope_row.clear();
        rivals.envelope_row.extend_from_slice(row);
        rivals.weights.clear();
        rivals.weighted = step.rule.envelope_weights(workers as i64, row.len(), &mut rivals.weights);
        rivals.bounds.clear();
        rivals.bounds.resize(workers * rivals.runs, Bound { key: UNKNOWN, rise: NEVER, position: u32::MAX });
        rivals.keys.clear();
        rivals.keys.resize(workers, UNKNOWN);
        rivals.moves = 0;
        rivals.last.clear();
        rivals.last.resize(workers, (NO_PICK, 0));
    }

    /// Admits the best pair of all columns until nobody fits.
    fn place_rivals(&mut self, step: &Step<'_, '_, &mut impl Rule>, looked: bool) {
        if !looked {
            self.begin_rivals(step);
        }
        let unknown = if looked { 0 } else { self.open.len() };
        for at in 0..unknown {
            let worker = worker_of(self.open[at]);
            while self.rivals.keys[worker] != NOBODY
                && let Leader::Stale(run) = self.leader(step, worker)
            {
                self.look(step, worker, run);
                self.rivals.rank(worker);
            }
        }
        while let Some((at, worker, next)) = self.first_rival() {
            loop {
                match self.leader(step, worker) {
                    Leader::Stale(run) => {
                        self.look(step, worker, run);
                        self.rivals.rank(worker);
                    }
                    Leader::Fresh(found) => {
                        self.open.remove(at);
                        self.rivals.last[worker] = (self.picks.len() as u32, self.rivals.moves);
                        self.admit(step, worker, found, false);
                        self.reopen(worker);
                        self.follow_envelopes(worker);
                        break;
                    }
                }
                if self.rivals.keys[worker] <= next {
                    break;
                }
            }
        }
        if step.plan.repair.tolerance_tokens.is_none() {
            self.mark_lasting();
        }
    }

    /// Spares the repair the picks that are still the best for their worker: no envelope has moved since, nobody has followed them there,
    /// and who waits by now waited then.
    fn mark_lasting(&mut self) {
        for &(pick, moves) in &self.rivals.last {
            if moves == self.rivals.moves
                && let Some(pick) = self.picks.get_mut(pick as usize)
            {
                pick.best_at = UNCHANGED;
            }
        }
    }

    /// The column whose best may come first, and the greatest bound of the others: greatest bound, then least load, then lowest index. Columns
    /// without anybody left go.
    fn first_rival(&mut self) -> Option<(usize, usize, i64)> {
        let (mut best, mut next, mut first) = (NOBODY, NOBODY, None);
        for at in (0..self.open.len()).rev() {
            let key = self.rivals.keys[worker_of(self.open[at])];
            if key > best {
                (best, next, first) = (key, best, Some(at));
            } else {
                next = next.max(key);
            }
        }
        first.map(|at| (at, worker_of(self.open[at]), next))
    }

    /// The run that leads a column: one to look at again, or the earliest of the best.
    fn leader(&self, step: &Step<'_, '_, &mut impl Rule>, worker: usize) -> Leader {
        let rivals = &self.rivals;
        let bounds = &rivals.bounds[worker * rivals.runs..(worker + 1) * rivals.runs];
        let mut best: Option<(u64, Found)> = None;
        for (run, bound) in bounds.iter().enumerate() {
            if bound.key != rivals.keys[worker] {
                continue;
            }
            let position = bound.position as usize;
            if bound.rise != rivals.rise || self.column.is_taken(position) {
                return Leader::Stale(run);
            }
            let arrived = step.waiting.arrived_blocks[position / BLOCK][position % BLOCK];
            if best.is_none_or(|(other, _)| arrived < other) {
                best = Some((arrived, Found { position, score: bound.key + bound.rise }));
            }
        }
        best.map_or(Leader::Stale(0), |(_, found)| Leader::Fresh(found))
    }

    /// Scores a run of a column again; where the profile is another by now, brings bounds down to it first.
    fn look(&mut self, step: &Step<'_, '_, &mut impl Rule>, worker: usize, run: usize) {
        let searched = self.is_searched(step);
        if !searched && self.prepare(step, worker, run) && self.tighten_runs(worker, run) {
            // Another run may lead now.
            return;
        }
        let found = if searched { self.best(step, worker) } else { self.best_of_run(step, worker, run) };
        let rivals = &mut self.rivals;
        rivals.bounds[worker * rivals.runs + run] = match found {
            Some(found) => {
                Bound { key: found.score - rivals.rise, rise: rivals.rise, position: found.position as u32 }
            }
            None => Bound { key: NOBODY, rise: rivals.rise, position: u32::MAX },
        };
    }

    /// Prepares the profile of a worker for a run: false where it is the one prepared last.
    fn prepare(&mut self, step: &Step<'_, '_, &mut impl Rule>, worker: usize, run: usize) -> bool {
        let class = self.matrix.run(run).class;
        if self.matrix.is_prepared(worker, class) {
            return false;
        }
        self.draw(step, worker, class);
        self.matrix.prepare((worker, class), &self.profile, self.loads.longest_tokens(worker));
        true
    }

    /// Brings the bounds of runs that are to be looked at down to what the profile prepared last allows: whether there are others than this
    /// one.
    fn tighten_runs(&mut self, worker: usize, run: usize) -> bool {
        let (rivals, class) = (&mut self.rivals, self.matrix.run(run).class);
        let of_worker = &mut rivals.bounds[worker * rivals.runs..(worker + 1) * rivals.runs];
        let mut others = false;
        for ((at, known), &bound) in of_worker.iter_mut().enumerate().zip(self.matrix.bounds()) {
            if self.matrix.run(at).class == class && known.rise != rivals.rise {
                let key = bound.saturating_sub(rivals.rise).min(known.key);
                *known = Bound { key, rise: NEVER, position: u32::MAX };
                others |= at != run;
            }
        }
        others
    }

    /// Takes note of what an admission has changed: the profile of its worker, and every profile where an envelope has risen.
    fn follow_envelopes(&mut self, worker: usize) {
        let (envelope, row) = self.loads.envelopes();
        let rivals = &mut self.rivals;
        let (mut moved, mut any) = (false, false);
        let seen = std::iter::once(&mut rivals.envelope).chain(&mut rivals.envelope_row);
        for (step, (seen, &now)) in seen.zip(std::iter::once(&envelope).chain(row)).enumerate() {
            if now != *seen {
                // A knot moves by whole tokens.
                let weight = rivals.weights.get(step).copied().unwrap_or(0);
                rivals.rise += weight * (now - *seen + rivals.dearest_token - 1);
                moved |= weight != 0 || !rivals.weighted;
                any = true;
                *seen = now;
            }
        }
        rivals.moves += u32::from(any);
        self.matrix.forget();
        let unknown = Bound { key: UNKNOWN, rise: NEVER, position: u32::MAX };
        let far = rivals.rise >= 1 << 60;
        if far || (moved && !rivals.weighted) {
            rivals.bounds.fill(unknown);
            rivals.keys.fill(UNKNOWN);
            rivals.rise = if far { 0 } else { rivals.rise };
        } else {
            rivals.bounds[worker * rivals.runs..(worker + 1) * rivals.runs].fill(unknown);
            rivals.keys[worker] = UNKNOWN;
        }
    }

    /// The best free request for a worker, chosen by the rule's judge among the best few.
    fn best_judged(&mut self, step: &mut Step<'_, '_, &mut impl Rule>, worker: usize) -> Option<Found> {
        let candidates = step.rule.candidates();
        if candidates <= 1 {
            return self.best(step, worker);
        }
        self.found.clear();
        self.tokens.clear();
        while self.found.len() < candidates {
            let Some(found) = self.best(step, worker) else { break };
            self.take(step, found.position);
            self.found.push(found);
            self.tokens.push(i64::from(step.waiting.tokens[found.position]));
        }
        for at in 0..self.found.len() {
            self.give_back(step, self.found[at].position);
        }
        if self.found.len() <= 1 {
            return self.found.first().copied();
        }
        let (costs, open_slots) = (self.loads.costs(), self.loads.all_open_slots());
        let chosen = step.rule.judge(step.batch, costs, open_slots, worker, &self.tokens);
        self.found.get(chosen).copied()
    }

    /// The best free request for a worker as things stand.
    fn best(&mut self, step: &Step<'_, '_, &mut impl Rule>, worker: usize) -> Option<Found> {
        self.best_of_at_least(step, worker, i64::MIN, None)
    }

    /// The same; what lies below `wanted` may be left out. The profile of one class may be drawn already.
    fn best_of_at_least(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        worker: usize,
        wanted: i64,
        drawn: Option<Class>,
    ) -> Option<Found> {
        let longest = self.loads.longest_tokens(worker);
        if step.ordered {
            self.profile.clear();
            step.rule.draw(&self.loads.view(worker), None, &mut self.profile);
            return self.column.best(&step.waiting, &self.profile, &step.terms, longest, wanted);
        }
        self.best_in_pairs(step, worker, (longest, wanted), drawn)
    }

    /// The same where requests have terms per pair.
    #[inline(never)]
    fn best_in_pairs(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        worker: usize,
        (longest, wanted): (i64, i64),
        drawn: Option<Class>,
    ) -> Option<Found> {
        if self.is_searched(step) {
            if drawn != Some(None) {
                self.draw(step, worker, None);
            }
            let found = self.column.best(&step.waiting, &self.profile, &step.terms, longest, wanted);
            let is_taken = |position| self.column.is_taken(position);
            let score_of = |tokens| self.profile.score(tokens);
            return self.matrix.listed().best(&step.waiting, found, score_of, (worker, longest), is_taken);
        }
        self.matrix.forget();
        let mut best: Option<(Found, u64)> = None;
        let mut from = 0;
        while from < self.matrix.runs() {
            // The runs of a class share a profile.
            let class = self.matrix.run(from).class;
            let to = (from..self.matrix.runs()).find(|&run| self.matrix.run(run).class != class);
            let runs = from..to.unwrap_or(self.matrix.runs());
            if from > 0 || drawn != Some(class) {
                self.draw(step, worker, class);
            }
            from = runs.end;
            self.matrix.prepare((worker, class), &self.profile, longest);
            let (bounds, known) = (&mut self.run_bounds, self.matrix.bounds());
            bounds.clear();
            bounds.extend(runs.map(|run| (known.get(run).copied().unwrap_or(UNKNOWN), run)));
            bounds.sort_unstable();
            // The most promising first: it leaves the fewest others.
            for at in (0..self.run_bounds.len()).rev() {
                let (bound, run) = self.run_bounds[at];
                if bound < wanted.max(best.map_or(i64::MIN, |(found, _)| found.score)) {
                    break;
                }
                let Some(found) = self.best_of_run(step, worker, run) else { continue };
                let arrived = step.waiting.arrived_blocks[found.position / BLOCK][found.position % BLOCK];
                let better = best.is_none_or(|(other, earlier)| {
                    found.score > other.score || (found.score == other.score && arrived < earlier)
                });
                if better {
                    best = Some((found, arrived));
                }
            }
        }
        best.map(|(found, _)| found)
    }

    /// The best free request of one run of the matrix for the profile prepared last.
    fn best_of_run(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        worker: usize,
        run: usize,
    ) -> Option<Found> {
        let longest = self.loads.longest_tokens(worker);
        self.matrix.best(step.batch, self.matrix.run(run), &self.profile, worker, longest)
    }

    fn draw(&mut self, step: &Step<'_, '_, &mut impl Rule>, worker: usize, class: Option<u8>) {
        let view = self.loads.view(worker);
        let width = view.row.len().max(1);
        let class = class.and_then(|class| {
            step.batch.classes()?.rows.get(usize::from(class) * width..(usize::from(class) + 1) * width)
        });
        self.profile.clear();
        step.rule.draw(&view, class, &mut self.profile);
    }

    fn score_drawn(
        &self,
        step: &Step<'_, '_, &mut impl Rule>,
        worker: usize,
        request: &Request,
        waited: u32,
    ) -> i64 {
        self.profile.score(i64::from(request.prompt_tokens))
            + step.plan.unit * (step.plan.age.tokens(waited) + step.batch.bonus_tokens(request, worker))
    }

    fn score(&mut self, step: &Step<'_, '_, &mut impl Rule>, worker: usize, position: usize) -> i64 {
        let pool = step.batch.waiting();
        let slot = PoolSlot(step.waiting.slots[position]);
        self.draw(step, worker, pool.request(slot).survival_class);
        self.score_drawn(step, worker, pool.request(slot), pool.waited_steps(slot))
    }

    /// Makes room for a repair: whether picks are dealt or exchanged may change with the batch, and that day must not allocate.
    fn hold_repair(&mut self, workers: usize, picks: usize) {
        if self.repair_room.grow(workers, picks) {
            hold(&mut self.dealt, picks);
            hold(&mut self.places, picks);
            self.pairs.reserve(workers, picks);
        }
    }

    /// Hands the step to a kernel of level refill.
    fn with_chain<T>(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        run: impl FnOnce(&'static Kernels, &mut Chain<'_>) -> T,
    ) -> T {
        let (marks, flanks) = self.column.flanked(&step.waiting, &step.terms);
        let mut chain = Chain {
            ordered: &step.waiting,
            marks,
            flanks,
            pairs: (!step.ordered).then_some(self.matrix.listed()),
            loads: &mut self.loads,
            open: &mut self.open,
            picks: &mut self.picks,
            oldest_age: step.terms.oldest_age,
            drop_tokens: step.refill_drop_tokens.unwrap_or(0),
            tolerance_tokens: step.plan.repair.tolerance_tokens,
            changes: self.changes,
        };
        let answer = run(self.kernels, &mut chain);
        self.changes = chain.changes;
        answer
    }

    /// Deals the picks anew, the longest to the worker that lies lowest without its own: whether any came to another worker; none where one
    /// would not fit.
    fn deal(&mut self, asked_again: bool) -> Option<bool> {
        let (picks, loads) = (&self.picks, &self.loads);
        let bare = |pick: &Pick| (loads.without(pick.worker, pick.tokens), pick.worker);
        let movable = || picks.iter().enumerate().filter(|(_, pick)| pick.may_move());
        // Least loaded first is how they were placed, mostly, and the longest goes there.
        if movable()
            .map(|(_, pick)| (dealt_key(pick), bare(pick)))
            .is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1)
        {
            return Some(false);
        }
        self.dealt.clear();
        self.dealt.extend(movable().map(|(_, pick)| dealt_key(pick)));
        self.dealt.sort_unstable();
        self.places.clear();
        self.places.extend(movable().map(|(index, _)| index as u32));
        if !movable().map(|(_, pick)| bare(pick)).is_sorted() {
            self.places.sort_unstable_by_key(|&index| bare(&picks[index as usize]));
        }
        let deal = || self.places.iter().zip(&self.dealt).map(|(&index, &key)| (index as usize, key));
        let fits = |(index, key): (usize, u64)| {
            let pick = &picks[index];
            tokens_of(key) <= loads.longest_without(pick.worker, pick.tokens)
        };
        if loads.is_bounded() && !deal().all(fits) {
            return None;
        }
        let (picks, mut moved) = (&mut self.picks, 0);
        let exchanges = deal().filter_map(|(index, key)| {
            let pick = &mut picks[index];
            let (position, tokens) = (key as u32 as usize, tokens_of(key));
            if position == pick.position {
                return None;
            }
            moved += 1;
            let more_tokens = tokens - pick.tokens;
            (pick.position, pick.tokens, pick.peak_tokens) = (position, tokens, None);
            Some((pick.worker, more_tokens))
        });
        self.loads.exchange_all(exchanges, asked_again);
        self.changes += moved;
        Some(moved > 0)
    }

    /// Exchanges picks of two workers where that lowers their cost.
    fn exchange(&mut self, cost: PairCost) -> bool {
        let mut exchange = Exchange {
            loads: &mut self.loads,
            picks: &mut self.picks,
            pairs: &mut self.pairs,
            cost,
            changes: self.changes,
        };
        let changed = (self.kernels.exchange)(&mut exchange);
        self.changes = exchange.changes;
        changed
    }

    /// Puts a waiting request in the place of each pick that it suits better.
    fn replace(&mut self, step: &Step<'_, '_, &mut impl Rule>) -> bool {
        let mut changed = false;
        let mut from = 0;
        while step.refill_drop_tokens.is_some() {
            let (some, stuck) = self.with_chain(step, |kernels, chain| (kernels.refill_again)(chain, from));
            changed |= some;
            let Some(index) = stuck else { return changed };
            // Too large for that kernel: this one goes the general way.
            changed |= self.replace_general(step, index..index + 1);
            from = index + 1;
        }
        self.replace_general(step, 0..self.picks.len())
    }

    fn replace_general(
        &mut self,
        step: &Step<'_, '_, &mut impl Rule>,
        picks: std::ops::Range<usize>,
    ) -> bool {
        let mut changed = false;
        for index in picks {
            let pick = self.picks[index];
            // Nothing has changed since it was looked at: neither would the answer.
            if pick.overdue || pick.best_at == self.changes {
                continue;
            }
            // The pick itself stays taken, so only others are found.
            let mut peak_tokens = None;
            let (position, score) = match self.loads.view_without(pick.worker, pick.tokens) {
                Some((view, longest)) if step.ordered => {
                    self.profile.clear();
                    step.rule.draw(&view, None, &mut self.profile);
                    if let Some(tolerance) = step.plan.repair.tolerance_tokens {
                        let peak = self.column.peak_tokens(&self.profile);
                        if pick.peak_tokens.is_some_and(|then| (peak - then).abs() <= tolerance) {
                            continue;
                        }
                        peak_tokens = Some(peak);
                    }
                    let waited = step.waiting.now_step - step.waiting.enqueued[pick.position];
                    let current =
                        self.profile.score(pick.tokens) + step.plan.unit * step.plan.age.tokens(waited);
                    let better =
                        self.column.best(&step.waiting, &self.profile, &step.terms, longest, current + 1);
                    better.map_or((pick.position, current), |found| (found.position, found.score))
                }
                _ => {
                    self.loads.release(pick.worker, pick.tokens);
                    let current = self.score(step, pick.worker, pick.position);
                    if let Some(tolerance) = step.plan.repair.tolerance_tokens {
                        let peak = self.column.peak_tokens(&self.profile);
                        if pick.peak_tokens.is_some_and(|then| (peak - then).abs() <= tolerance) {
                            self.loads.admit(pick.worker, pick.tokens);
                            continue;
                        }
                        peak_tokens = Some(peak);
                    }
                    let class = step.class_of(pick.position);
                    let better = self
                        .best_of_at_least(step, pick.worker, current + 1, Some(class))
                        .filter(|found| found.score > current);
                    self.loads.admit(pick.worker, pick.tokens);
                    better.map_or((pick.position, current), |found| (found.position, found.score))
                }
            };
            if position != pick.position {
                changed = true;
                self.changes += 1;
                self.give_back(step, pick.position);
                self.take(step, position);
                let tokens = i64::from(step.waiting.tokens[position]);
                let pair_terms = !step.ordered
                    && step.batch.waiting().request(PoolSlot(step.waiting.slots[position])).has_pair_terms();
                self.loads.exchange(pick.worker, tokens - pick.tokens);
                self.picks[index] = Pick { position, tokens, pair_terms, ..pick };
            }
            // Its own change leaves it the best: its worker without it is the same, and who went back to the pool was worse.
            let pick = &mut self.picks[index];
            (pick.score, pick.best_at, pick.peak_tokens) = (score, self.changes, peak_tokens);
        }
        changed
    }
}

enum Leader {
    Stale(usize),
    Fresh(Found),
}

impl Rivals {
    /// Makes room for so many workers, runs of each and projected steps.
    fn reserve(&mut self, workers: usize, runs: usize, steps: usize) {
        hold(&mut self.bounds, workers * runs);
        hold(&mut self.keys, workers);
        hold(&mut self.last, workers);
        hold(&mut self.weights, steps + 1);
        hold(&mut self.envelope_row, steps);
    }

    /// Works out the greatest key of a worker.
    fn rank(&mut self, worker: usize) {
        let bounds = &self.bounds[worker * self.runs..(worker + 1) * self.runs];
        self.keys[worker] = bounds.iter().map(|bound| bound.key).fold(NOBODY, i64::max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Isa;
    use crate::batch::{Traffic, Worker};
    use crate::policy::level::{Level, LevelParameters};
    use crate::pool::Pool;

    /// What goes back to the pool outside the kernel of level refill is found by that kernel again.
    #[test]
    fn a_pick_of_level_refill_that_is_taken_back_is_picked_again() {
        let requests: Vec<Request> = (0..300)
            .map(|id| Request::new(id, 100 + 37 * (id as u32 * 7 % 300)).waited(id as u32 * 131 % 4000))
            .collect();
        let pool = Pool::from_requests(&requests).expect("valid");
        let workers: Vec<Worker> = (0..12).map(|at| Worker::new(300_000 + 700 * at, 9, 1)).collect();
        let traffic = Traffic {
            mean_prompt_tokens: 5_000,
            sd_prompt_tokens: 3_000,
            small_prompt_tokens: 500,
            mean_output_tokens: 900,
        };
        let batch = Batch::draft(&workers, &pool).traffic(traffic).check().expect("valid");
        for kernels in Isa::ALL.into_iter().filter_map(Kernels::of) {
            let mut greedy = Greedy::new(kernels);
            let mut rule = Level::new(LevelParameters::default(), false);
            let mut out = Assignment::new();
            let plan = greedy.plan(&mut rule, &batch, &mut out);
            let mut step = greedy.step(&mut rule, &batch, &plan);
            greedy.load(&mut step, true, &mut out);
            assert!(step.refill_drop_tokens.is_some(), "the kernel serves");
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
