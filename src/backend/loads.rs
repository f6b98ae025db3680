//! Worker loads as a step's admissions change them, with the sums and maxima that profiles are made from
//! kept up to date.

use crate::backend::cpu::loads::{LoadKernels, Top};
use crate::backend::picks::hold;
use crate::batch::{Batch, Request, Worker};
use crate::rule::{PairView, Plan, View};

/// Divides by a number of workers, again and again: a multiplication where the dividend is a sum of loads.
#[derive(Clone, Copy, Debug)]
struct Divisor {
    by: u64,
    /// `2^64 / by`, rounded up.
    inverse: u64,
}

impl Divisor {
    /// Dividends up to this, by divisors up to [`crate::batch::MAX_WORKERS`], stay exact.
    const GREATEST: u64 = 1 << 54;

    fn new(by: u64) -> Self {
        Self { by, inverse: (u64::MAX.checked_div(by)).unwrap_or(0).wrapping_add(1) }
    }

    /// `sum / by`, rounded down.
    #[inline(always)]
    fn of(self, sum: i64) -> i64 {
        if self.by >= 2 && (sum as u64) < Self::GREATEST {
            return ((u128::from(sum as u64) * u128::from(self.inverse)) >> 64) as i64;
        }
        sum.div_euclid(self.by.max(1) as i64)
    }
}

/// The anticipated load of a worker without an open slot, where only open ones are taken: below every load.
const SHUT: i64 = -(1 << 52);

/// The place of the greatest load among the workers that are left out.
const NO_WORKER: usize = usize::MAX;

/// Loads during one decision.
#[derive(Clone, Debug)]
pub(crate) struct Loads {
    /// Whether the columns hold open workers only. The loads of all others stay what they are: their sum and
    /// the greatest of them, which the batch knows, are enough.
    open_only: bool,
    greatest_shut: Option<i64>,
    kernels: LoadKernels,
    /// Whether rooms are bounded at all.
    bounded: bool,
    cost: Vec<i64>,
    /// Sum and greatest of the costs before any admission.
    before: (i64, i64),
    /// Whether tokens cost more on some workers than on others; otherwise a token is a unit, and the column
    /// is not filled.
    dear: bool,
    cost_per_token: Vec<i64>,
    open_workers: Vec<u32>,
    open_slots: Vec<i64>,
    room_tokens: Vec<i64>,
    pub(crate) load_offsets: Vec<i64>,
    anticipated: Vec<i64>,
    /// Anticipated loads, least first, where the plan follows them.
    levels: Vec<i64>,
    follows_levels: bool,
    /// Workers in the order that these last had.
    order: Vec<u32>,
    sum: i64,
    /// Divides by the number of workers less one.
    others: Divisor,
    top: Top,
    /// Whether the plan follows the envelope.
    follows_envelope: bool,
    envelope: i64,
    rows: Vec<i64>,
    envelope_row: Vec<i64>,
    width: usize,
    growth_tokens: i64,
    refill_tokens: i64,
    envelope_floor: i64,
}

impl Loads {
    pub(crate) fn new(kernels: LoadKernels) -> Self {
        Self {
            open_only: false,
            greatest_shut: None,
            kernels,
            bounded: false,
            cost: Vec::new(),
            before: (0, 0),
            dear: false,
            cost_per_token: Vec::new(),
            open_workers: Vec::new(),
            open_slots: Vec::new(),
            room_tokens: Vec::new(),
            load_offsets: Vec::new(),
            anticipated: Vec::new(),
            levels: Vec::new(),
            follows_levels: false,
            order: Vec::new(),
            sum: 0,
            others: Divisor::new(1),
            top: Top::NONE,
            follows_envelope: true,
            envelope: 0,
            rows: Vec::new(),
            envelope_row: Vec::new(),
            width: 0,
            growth_tokens: 0,
            refill_tokens: 0,
            envelope_floor: 0,
        }
    }

    /// Clears the load offsets for the rule to fill in, if it has any.
    pub(crate) fn prepare(&mut self, batch: &Batch<'_>) {
        self.load_offsets.clear();
        hold(&mut self.load_offsets, batch.workers().len());
    }

    /// Takes the loads of a batch as a plan sees them; the rule has set the load offsets. With `open_only` no
    /// single worker without an open slot will be asked about: these are left out where that is possible.
    pub(crate) fn load(&mut self, batch: &Batch<'_>, plan: &Plan, open_only: bool) {
        let uniform = batch.is_uniform();
        let workers = batch.workers();
        self.growth_tokens = i64::from(batch.request_growth_tokens());
        self.refill_tokens = plan.refill_tokens;
        self.envelope_floor = plan.envelope_floor;
        self.follows_envelope = plan.follows_envelope;
        self.bounded = batch.is_bounded();
        self.dear = !uniform;
        let (sum, greatest) = batch.load_totals();
        self.before = (sum as i64, greatest as i64);
        let alike = uniform && self.load_offsets.is_empty() && batch.projection().is_none();
        self.follows_levels = plan.follows_levels;
        if open_only && alike && !plan.follows_envelope {
            self.fill_open(batch);
        } else {
            self.load_offsets.resize(workers.len(), 0);
            self.fill(workers);
            if let (true, Ok(refill_tokens)) = (uniform, u32::try_from(plan.refill_tokens)) {
                let columns = [&self.cost[..], &self.load_offsets, &self.open_slots];
                self.sum = (self.kernels.anticipate)(columns, refill_tokens, &mut self.anticipated);
            } else {
                self.anticipate_each(workers);
            }
            self.find_top();
        }
        self.sort_levels(workers);
        let others = workers.len() as u64 - 1;
        if self.others.by != others {
            self.others = Divisor::new(others);
        }
        self.envelope = self.before.1.max(plan.envelope_floor);
        self.room_tokens.clear();
        if self.bounded {
            self.room_tokens.extend(workers.iter().map(Worker::room_tokens));
        }
        self.rows.clear();
        self.envelope_row.clear();
        self.width = 0;
        if let Some(projection) = batch.projection() {
            self.width = projection.horizon + 1;
            if self.dear {
                for (worker, row) in projection.rows.chunks_exact(self.width).enumerate() {
                    let per_token = self.cost_per_token(worker);
                    self.rows.extend(row.iter().map(|&tokens| tokens as i64 * per_token));
                }
            } else {
                self.rows.extend(projection.rows.iter().map(|&tokens| tokens as i64));
            }
            self.envelope_row.resize(self.width, plan.envelope_floor);
            (self.kernels.raise)(&self.rows, &mut self.envelope_row);
        }
    }

    /// Takes the open workers alone, on a uniform cluster without load offsets.
    #[inline(always)]
    fn fill_open(&mut self, batch: &Batch<'_>) {
        let workers = batch.workers();
        let count = workers.len();
        if self.open_only && self.anticipated.len() == count {
            for &worker in &self.open_workers {
                self.anticipated[worker as usize] = SHUT;
            }
        } else {
            self.open_only = true;
            self.cost.resize(count, 0);
            self.open_slots.resize(count, 0);
            self.anticipated.clear();
            self.anticipated.resize(count, SHUT);
        }
        self.greatest_shut = batch.greatest_shut_tokens();
        self.top = Top::NONE;
        self.see_shut();
        self.open_workers.clear();
        // A later batch, with all workers open, must not allocate.
        hold(&mut self.open_workers, count);
        let (mut top, refill_tokens) = (self.top, self.refill_tokens);
        let columns = [&mut self.cost, &mut self.open_slots, &mut self.anticipated];
        let [cost, open_slots, anticipated] = columns.map(|column| &mut column[..count]);
        for (word, &bits) in batch.open_workers().iter().enumerate() {
            let mut bits = bits;
            while bits != 0 {
                let at = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let (load, slots) = (workers[at].load_tokens as i64, i64::from(workers[at].free_slots));
                (cost[at], open_slots[at], anticipated[at]) = (load, slots, load + slots * refill_tokens);
                top.see(at, anticipated[at]);
                self.open_workers.push(at as u32);
            }
        }
        self.top = top;
        self.sum = self.before.0 + batch.open_slots() as i64 * self.refill_tokens;
    }

    /// Finds the two greatest anticipated loads.
    #[inline(never)]
    fn find_top(&mut self) {
        self.top = (self.kernels.top)(&self.anticipated);
        if self.open_only {
            self.see_shut();
        }
    }

    #[inline(always)]
    fn see_shut(&mut self) {
        // Twice: the worker that is asked about is open, so this load is among the others of any, and no open
        // worker below it has to be followed.
        if let Some(load) = self.greatest_shut {
            self.top.see(NO_WORKER, load);
            self.top.see(NO_WORKER, load);
        }
    }

    /// Takes loads in tokens and open slots, and lists the workers that have any.
    #[inline(always)]
    fn fill(&mut self, workers: &[Worker]) {
        self.open_only = false;
        let count = workers.len();
        for column in [&mut self.cost, &mut self.open_slots, &mut self.anticipated] {
            column.resize(count, 0);
        }
        self.open_workers.resize(count, 0);
        let (cost, open_slots) = (&mut self.cost[..count], &mut self.open_slots[..count]);
        let open_workers = &mut self.open_workers[..count];
        let mut open_count = 0;
        // A step with few admissions is mostly this loop.
        for (index, worker) in workers.iter().enumerate() {
            let slots = worker.open_slots();
            cost[index] = worker.load_tokens as i64;
            open_slots[index] = i64::from(slots);
            // Written before it is known whether it counts, so that no branch is mispredicted.
            open_workers[open_count] = index as u32;
            open_count += usize::from(slots > 0);
        }
        self.open_workers.truncate(open_count);
    }

    /// Costs and anticipated loads where tokens cost more on some workers than on others.
    fn anticipate_each(&mut self, workers: &[Worker]) {
        self.cost_per_token.clear();
        self.cost_per_token
            .extend(workers.iter().map(|worker| if self.dear { worker.cost_per_token() } else { 1 }));
        for worker in 0..workers.len() {
            let per_token = self.cost_per_token[worker];
            self.cost[worker] *= per_token;
            let refills = self.open_slots[worker] * self.refill_tokens * per_token;
            self.anticipated[worker] = self.cost[worker] + self.load_offsets[worker] + refills;
        }
        self.before = self.sum_and_max_cost();
        self.sum = self.anticipated.iter().sum();
    }

    /// Workers that had an open slot at first.
    pub(crate) fn open_workers(&self) -> &[u32] {
        &self.open_workers
    }

    /// Cost units of a token on a worker.
    #[inline(always)]
    fn cost_per_token(&self, worker: usize) -> i64 {
        if self.dear { self.cost_per_token[worker] } else { 1 }
    }

    /// Today's envelope, and the projected ones.
    pub(crate) fn envelopes(&self) -> (i64, &[i64]) {
        (self.envelope, &self.envelope_row)
    }

    /// Cost units of the dearest token.
    pub(crate) fn dearest_token(&self) -> i64 {
        if self.dear { self.cost_per_token.iter().copied().max().unwrap_or(1) } else { 1 }
    }

    pub(crate) fn cost(&self, worker: usize) -> i64 {
        self.cost[worker]
    }

    pub(crate) fn open_slots(&self, worker: usize) -> i64 {
        self.open_slots[worker]
    }

    /// Longest request that the room of a worker holds beside its own growth.
    pub(crate) fn longest_tokens(&self, worker: usize) -> i64 {
        if self.bounded { self.room_tokens[worker] - self.growth_tokens } else { i64::MAX / 8 }
    }

    /// Why a worker cannot take a request as things stand; none where it can.
    pub(crate) fn refusal(
        &self,
        batch: &Batch<'_>,
        request: &Request,
        worker: usize,
    ) -> Option<&'static str> {
        if self.open_slots(worker) <= 0 {
            Some("no slot is open there")
        } else if i64::from(request.prompt_tokens) > self.longest_tokens(worker) {
            Some("the room there does not hold it")
        } else if !batch.eligible(request, worker) {
            Some("it may not run there")
        } else {
            None
        }
    }

    /// The view of one worker, as its profile is made from.
    #[inline(always)]
    pub(crate) fn view(&self, worker: usize) -> View<'_> {
        let own = self.anticipated[worker];
        let others_max = if worker == self.top.at { self.top.second } else { self.top.first };
        View {
            workers: self.cost.len() as i64,
            worker,
            cost: self.cost[worker],
            cost_per_token: self.cost_per_token(worker),
            open_slots: self.open_slots[worker],
            envelope: self.envelope,
            anticipated: own,
            others_sum: self.sum - own,
            others_max: if self.cost.len() == 1 { own } else { others_max },
            row: &self.rows[worker * self.width..(worker + 1) * self.width],
            envelope_row: &self.envelope_row,
            levels: &self.levels,
            level: own,
        }
    }

    /// The view of one worker as if a pick of it had been taken back, and the longest request that its room
    /// holds then. None where only taking it back can tell, because loads are projected.
    #[inline(always)]
    pub(crate) fn view_without(&self, worker: usize, tokens: i64) -> Option<(View<'_>, i64)> {
        if self.width > 0 {
            return None;
        }
        let view = self.view(worker);
        let cost = tokens * view.cost_per_token;
        let mut envelope = self.envelope;
        if self.follows_envelope && view.cost == envelope {
            let (below, above) = (&self.cost[..worker], &self.cost[worker + 1..]);
            let others = (self.kernels.sum_and_max)(below).1.max((self.kernels.sum_and_max)(above).1);
            envelope = self.envelope_floor.max(others).max(view.cost - cost);
        }
        let anticipated = view.anticipated + self.refill_tokens * view.cost_per_token - cost;
        let view = View {
            cost: view.cost - cost,
            open_slots: view.open_slots + 1,
            envelope,
            anticipated,
            others_max: if self.cost.len() == 1 { anticipated } else { view.others_max },
            ..view
        };
        Some((view, self.longest_without(worker, tokens)))
    }

    /// What level asks about all others: the mean of their anticipated loads, rounded down, and the greatest
    /// of them.
    #[inline(always)]
    pub(crate) fn others(&self, worker: usize) -> (i64, i64) {
        let mean = self.others.of(self.sum - self.anticipated[worker]);
        (mean, if worker == self.top.at { self.top.second } else { self.top.first })
    }

    /// The anticipated load of a worker without the refill of the slot that is being filled.
    #[inline(always)]
    pub(crate) fn refilled(&self, worker: usize) -> i64 {
        self.anticipated[worker] - self.refill_tokens
    }

    /// [`Self::refilled`] without a pick of this length, whose slot is filled anew.
    #[inline(always)]
    pub(crate) fn without(&self, worker: usize, tokens: i64) -> i64 {
        self.anticipated[worker] - tokens
    }

    /// Whether any worker's room is bounded.
    pub(crate) fn is_bounded(&self) -> bool {
        self.bounded
    }

    /// Longest request that its room holds without a pick of this length.
    #[inline(always)]
    pub(crate) fn longest_without(&self, worker: usize, tokens: i64) -> i64 {
        self.longest_tokens(worker) + tokens + self.growth_tokens
    }

    /// The worker with the greatest anticipated load; past all of them where that one is left out.
    pub(crate) fn top(&self) -> usize {
        self.top.at
    }

    /// Sum of all anticipated loads.
    pub(crate) fn sum(&self) -> i64 {
        self.sum
    }

    /// Sum and greatest of the loads in cost units before any admission.
    pub(crate) fn before(&self) -> (i64, i64) {
        self.before
    }

    /// [`Self::before`] with these lengths on these workers: no other load has changed.
    pub(crate) fn after(&self, picks: impl Iterator<Item = (usize, i64)>) -> (i64, i64) {
        picks.fold(self.before, |(sum, max), (worker, tokens)| {
            (sum + tokens * self.cost_per_token(worker), i64::max(max, self.cost[worker]))
        })
    }

    /// Sum and greatest of the loads in cost units.
    pub(crate) fn sum_and_max_cost(&self) -> (i64, i64) {
        (self.kernels.sum_and_max)(&self.cost)
    }

    pub(crate) fn anticipated(&self) -> &[i64] {
        &self.anticipated
    }

    pub(crate) fn costs(&self) -> &[i64] {
        &self.cost
    }

    pub(crate) fn all_open_slots(&self) -> &[i64] {
        &self.open_slots
    }

    /// What a swap between two workers is judged by.
    pub(crate) fn pair(&self, first: usize, second: usize) -> PairView {
        let rest_max = self.top.without(first, second).or_else(|| {
            let rest = self.anticipated.iter().enumerate();
            let rest = rest.filter(|&(worker, _)| worker != first && worker != second);
            let shut = self.greatest_shut.filter(|_| self.open_only);
            rest.map(|(_, &value)| value).chain(shut).max()
        });
        PairView { workers: self.cost.len() as i64, sum: self.sum, rest_max }
    }

    /// Puts a request on a worker.
    pub(crate) fn admit(&mut self, worker: usize, tokens: i64) {
        self.change(worker, tokens, -1);
    }

    /// Puts a request on a worker of a uniform cluster without projected loads, where the plan does not
    /// follow the envelope. Whoever follows the levels brings them up to date afterwards.
    #[inline(always)]
    pub(crate) fn admit_alike(&mut self, worker: usize, tokens: i64) {
        self.cost[worker] += tokens;
        self.open_slots[worker] -= 1;
        if self.bounded {
            self.room_tokens[worker] -= tokens + self.growth_tokens;
        }
        let more = tokens - self.refill_tokens;
        self.sum += more;
        let anticipated = self.anticipated[worker] + more;
        self.anticipated[worker] = anticipated;
        if !self.top.follow(worker, anticipated) {
            self.find_top();
        }
    }

    /// Takes a pick back.
    pub(crate) fn release(&mut self, worker: usize, tokens: i64) {
        self.change(worker, -tokens, 1);
    }

    /// Changes the length that a pick brings.
    pub(crate) fn change_tokens(&mut self, worker: usize, more_tokens: i64) {
        self.change(worker, more_tokens, 0);
    }

    /// Changes the lengths of many picks. The greatest loads are found once, and the levels followed, only if
    /// they are asked for later.
    #[inline(always)]
    pub(crate) fn change_all(&mut self, changes: impl Iterator<Item = (usize, i64)>, checked_later: bool) {
        if self.width > 0 || self.dear || (self.follows_levels && checked_later) {
            changes.for_each(|(worker, more_tokens)| self.change_tokens(worker, more_tokens));
        } else {
            let mut all_tokens = 0;
            for (worker, more_tokens) in changes {
                self.cost[worker] += more_tokens;
                self.anticipated[worker] += more_tokens;
                all_tokens += more_tokens;
                if self.bounded {
                    self.room_tokens[worker] -= more_tokens;
                }
            }
            self.sum += all_tokens;
        }
        if !checked_later {
            return;
        }
        self.find_top();
        if self.follows_envelope {
            self.envelope = self.sum_and_max_cost().1.max(self.envelope_floor);
        }
    }

    fn change(&mut self, worker: usize, tokens: i64, slots: i64) {
        let per_token = self.cost_per_token(worker);
        let old_cost = self.cost[worker];
        self.cost[worker] += tokens * per_token;
        self.open_slots[worker] += slots;
        if self.bounded {
            self.room_tokens[worker] -= tokens - slots * self.growth_tokens;
        }
        let old = self.anticipated[worker];
        let new = old + (tokens + slots * self.refill_tokens) * per_token;
        self.anticipated[worker] = new;
        self.sum += new - old;
        if self.follows_levels {
            self.follow_level(old, new);
        }
        if !self.top.follow(worker, new) {
            self.find_top();
        }
        if self.follows_envelope {
            self.follow_envelope(worker, old_cost);
        }
        if self.width > 0 {
            self.change_row(worker, tokens * per_token);
        }
    }

    /// Brings the envelope up to date after the cost of a worker has changed.
    fn follow_envelope(&mut self, worker: usize, old_cost: i64) {
        if self.cost[worker] >= old_cost {
            self.envelope = self.envelope.max(self.cost[worker]);
        } else if old_cost == self.envelope {
            self.envelope = self.sum_and_max_cost().1.max(self.envelope_floor);
        }
    }

    fn change_row(&mut self, worker: usize, cost: i64) {
        let row = &mut self.rows[worker * self.width..(worker + 1) * self.width];
        let envelope = &mut self.envelope_row[..];
        let fell = cost < 0 && row.iter().zip(&*envelope).any(|(value, envelope)| value == envelope);
        row.iter_mut().for_each(|value| *value += cost);
        if cost > 0 {
            (self.kernels.raise)(row, envelope);
        }
        if fell {
            self.envelope_row.fill(self.envelope_floor);
            (self.kernels.raise)(&self.rows, &mut self.envelope_row);
        }
    }
}

mod levels;
#[cfg(test)]
mod tests;
