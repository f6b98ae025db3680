//! Bytes are a batch, often one that a caller got wrong: the validation takes what is sound and refuses the
//! rest with an error. Every policy answers what the oracle answers and keeps its promises, and what says
//! nothing changes no answer.
//!
//! Included by the fuzz target and by `tests/fuzz_bodies.rs`.

use arbitrary::{Arbitrary, Result, Unstructured};
use balanceroute::backend::cpu::Isa;
use balanceroute::batch::{
    MAX_BONUS_TOKENS, MAX_CLASSES, MAX_HORIZON, MAX_LOAD_TOKENS, MAX_PASSED, MAX_PROMPT_TOKENS, MAX_SLOTS,
    MAX_WAITED_STEPS, MAX_WEIGHT, MAX_WORKERS,
};
use balanceroute::policy::{self, Parameters};
use balanceroute::{
    Assignment, Batch, BatchError, Pairs, Pool, PredictedEnd, PredictedEnds, Request, RequestId, Traffic,
    Worker, WorkerIndex,
};
use half::f16;

/// What the bytes came to.
#[derive(Clone, Copy, Debug, Default)]
#[allow(dead_code, reason = "who fuzzes reads none of it")]
pub(crate) struct Seen {
    /// Batches, sound or not; those with something wrong put into them on purpose; and those that the
    /// validation refused.
    pub(crate) batches: usize,
    pub(crate) spoilt: usize,
    pub(crate) refused: usize,
    /// The errors that it said, a bit for each of [`KINDS`].
    pub(crate) errors: u32,
    /// Requests that the pool refused.
    pub(crate) refused_requests: usize,
    /// Of those that the validation took: with somebody behind the window, with bonuses in half precision,
    /// decided again with terms that say nothing, and again with other bits past the last worker.
    pub(crate) windowed: usize,
    pub(crate) halves: usize,
    pub(crate) neutral: usize,
    pub(crate) masks: usize,
    pub(crate) admitted: usize,
}

/// How many errors a batch has.
#[allow(dead_code, reason = "who fuzzes counts none of it")]
pub(crate) const KINDS: u32 = 13;

fn kind(error: &BatchError) -> u32 {
    match error {
        BatchError::NoWorkers => 0,
        BatchError::TooManyWorkers { .. } => 1,
        BatchError::Rank { .. } => 2,
        BatchError::PairRow { .. } => 3,
        BatchError::SurvivalClass { .. } => 4,
        BatchError::WorkerTokens { .. } => 5,
        BatchError::WorkerSlots { .. } => 6,
        BatchError::Weight { .. } => 7,
        BatchError::Horizon { .. } => 8,
        BatchError::Length { .. } => 9,
        BatchError::Value { .. } => 10,
        BatchError::Traffic { .. } => 11,
        BatchError::PredictedEnd { .. } => 12,
        _ => panic!("none of a batch: {error}"),
    }
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.batches += other.batches;
        self.spoilt += other.spoilt;
        self.refused += other.refused;
        self.errors |= other.errors;
        self.refused_requests += other.refused_requests;
        self.windowed += other.windowed;
        self.halves += other.halves;
        self.neutral += other.neutral;
        self.masks += other.masks;
        self.admitted += other.admitted;
    }
}

/// A batch as owned parts; what the validation refuses is kept, for it is under test as well.
#[derive(Clone, Debug, Default)]
struct Parts {
    workers: Vec<Worker>,
    requests: Vec<Request>,
    /// Candidates; none for the window of a pool that is told nothing.
    window: Option<usize>,
    traffic: Traffic,
    request_growth_tokens: u32,
    horizon: usize,
    rows: Option<Vec<u64>>,
    offsets: Vec<u32>,
    ends: Option<Vec<PredictedEnd>>,
    bonus_tokens: Vec<f32>,
    bonus_half_tokens: Vec<f16>,
    eligible: Vec<u64>,
    classes: Option<Vec<f32>>,
    /// Which of [`Isa::ALL`]; the best where this CPU lacks it.
    isa: u8,
    spoilt: bool,
}

fn one_in(u: &mut Unstructured<'_>, n: u8) -> Result<bool> {
    Ok(u8::arbitrary(u)?.is_multiple_of(n))
}

/// Small numbers tie, middling ones look like traffic, and the greatest meet the limits.
fn tokens(u: &mut Unstructured<'_>, limit: u64) -> Result<u64> {
    Ok(match u8::arbitrary(u)? % 8 {
        0..=2 => u64::from(u8::arbitrary(u)?) % 8 * 100,
        3..=5 => u64::from(u16::arbitrary(u)?),
        6 => u.int_in_range(0..=limit)?,
        _ => limit - u64::from(u8::arbitrary(u)? % 4),
    })
}

impl<'a> Arbitrary<'a> for Parts {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let flags: u8 = u.arbitrary()?;
        let flag = |bit: u32| flags >> bit & 1 == 1;
        let [capacity, weights, bonus, masks, lookahead, classes] = [0, 1, 2, 3, 4, 5].map(flag);
        let limit = if flag(6) { 1 << 30 } else { 1 << 20 };
        // More than one word of eligibility bits now and then.
        let g = if one_in(u, 32)? { u.int_in_range(60..=70)? } else { u.int_in_range(1..=6)? };
        // Not both large: the oracle would take seconds.
        let n: usize =
            if g < 60 && one_in(u, 16)? { u.int_in_range(0..=40)? } else { u.int_in_range(0..=9)? };
        let horizon = if one_in(u, 16)? { u.int_in_range(0..=MAX_HORIZON)? } else { u.int_in_range(0..=5)? };
        let mut parts = Self { horizon, ..Self::default() };
        if !one_in(u, 3)? {
            parts.window = Some(u.int_in_range(1..=5)?);
        }
        for _ in 0..g {
            let mut worker = Worker::new(tokens(u, limit)?, u.int_in_range(0..=99)?, u.int_in_range(0..=3)?);
            worker.accepting = !one_in(u, 8)?;
            if one_in(u, 4)? {
                worker.next_completion_steps = Some(u.arbitrary()?);
            }
            if capacity && !one_in(u, 4)? {
                worker.kv_used_tokens = worker.load_tokens.saturating_add(tokens(u, 1000)?);
                worker.kv_growth_tokens = tokens(u, 1000)?;
                worker.kv_capacity_tokens = Some(worker.kv_used_tokens + tokens(u, 20_000)?);
            }
            if weights {
                worker.weight = *u.choose(&[1.0, 1.5, 0.25, 64.0, 0.0, -0.0, 1e-40])?;
            }
            parts.workers.push(worker);
        }
        parts.traffic = Traffic::new()
            .prompts(tokens(u, 1 << 22)? as i64, tokens(u, 1 << 22)? as i64)
            .small_prompts(tokens(u, 1 << 22)? as i64)
            .outputs(tokens(u, 1 << 22)? as i64);
        for id in 0..n as u64 {
            let mut request = Request::new(id ^ 5, (tokens(u, 1 << 22)? as u32).max(1));
            request.waited_steps = tokens(u, 1 << 24)? as u32;
            request.passed = tokens(u, 1 << 24)? as u32;
            request.deadline_steps = if one_in(u, 8)? { Some(u.arbitrary()?) } else { None };
            if bonus || masks {
                match u8::arbitrary(u)? % 6 {
                    0 => request.rank = Some(WorkerIndex(u.int_in_range(0..=g as u32 - 1)?)),
                    row @ 1..=3 => request.pair_row = Some(u32::from(row) - 1),
                    _ => {}
                }
            }
            if classes && lookahead && one_in(u, 2)? {
                request.survival_class = Some(u8::arbitrary(u)? % 2);
            }
            parts.requests.push(request);
        }
        if capacity {
            parts.request_growth_tokens = tokens(u, 1000)? as u32;
        }
        if bonus {
            for _ in 0..3 * g {
                let size = tokens(u, 1 << 30)? as f32;
                parts.bonus_tokens.push(match u8::arbitrary(u)? % 4 {
                    0 => 0.0,
                    1 => -size,
                    2 => size,
                    _ => size + 0.5,
                });
            }
            if flag(7) {
                let most = f16::MAX.to_f32();
                let narrow = |tokens: f32| f16::from_f32(tokens.clamp(-most, most));
                parts.bonus_half_tokens = parts.bonus_tokens.drain(..).map(narrow).collect();
            }
        }
        if masks {
            for _ in 0..3 * (g as usize).div_ceil(64) {
                parts.eligible.push(u.arbitrary::<u64>()? | u.arbitrary::<u64>()?);
            }
        }
        if lookahead {
            parts.offsets.push(0);
            let (mut rows, mut ends) = (Vec::new(), Vec::new());
            for at in 0..g as usize {
                rows.push(parts.workers[at].load_tokens);
                for _ in 0..parts.horizon {
                    rows.push(tokens(u, limit)?);
                }
                let mut in_steps = 1;
                for _ in 0..u8::arbitrary(u)? % 4 {
                    in_steps += u.int_in_range(0..=40)?;
                    ends.push(PredictedEnd { in_steps, freed_tokens: tokens(u, limit)? });
                }
                parts.offsets.push(ends.len() as u32);
            }
            (parts.rows, parts.ends) = (Some(rows), Some(ends));
            if classes {
                let draw = |_| Ok(f32::from(u8::arbitrary(u)?) / 255.0);
                parts.classes = Some((0..2 * (parts.horizon + 1)).map(draw).collect::<Result<_>>()?);
            }
        }
        parts.isa = u.arbitrary()?;
        for _ in 0..[0, 0, 0, 0, 1, 1, 2, 3][usize::from(u8::arbitrary(u)? % 8)] {
            parts.spoil(u)?;
        }
        Ok(parts)
    }
}

/// Cuts off the last, or adds one more.
fn resize<T>(list: &mut Vec<T>, more: bool, last: T) {
    if more { list.push(last) } else { drop(list.pop()) }
}

impl Parts {
    /// What callers get wrong; now and then it happens to be right.
    fn spoil(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        self.spoilt = true;
        let (kind, at, small) =
            (u8::arbitrary(u)? % 22, usize::from(u16::arbitrary(u)?), u8::arbitrary(u)? % 8);
        let (more, any) = (small % 2 == 0, u32::arbitrary(u)?);
        let request = match self.requests.len() {
            0 => None,
            count => Some(&mut self.requests[at % count]),
        };
        let worker = match self.workers.len() {
            0 => None,
            count => Some(&mut self.workers[at % count]),
        };
        match kind {
            // Offsets that fall, start above 0, or leave the list.
            0 if !self.offsets.is_empty() => {
                let at = at % self.offsets.len();
                self.offsets[at] = if more { any } else { u32::from(small) };
            }
            1 => self.offsets.iter_mut().for_each(|offset| *offset = offset.wrapping_add(any % 4)),
            2 => resize(&mut self.offsets, more, any % 4),
            3 => self.offsets.reverse(),
            4 => {
                if let Some(end) = self.ends.iter_mut().flatten().nth(at % 4) {
                    match small {
                        0..=2 => end.in_steps = 0,
                        3..=5 => end.in_steps = any,
                        _ => end.freed_tokens = MAX_LOAD_TOKENS + u64::from(small) % 2,
                    }
                }
            }
            5 => resize(
                self.ends.get_or_insert_default(),
                more,
                PredictedEnd { in_steps: any, freed_tokens: 1 },
            ),
            6 => resize(&mut self.bonus_tokens, more, 1.0),
            7 => {
                const LIMITS: [f32; 8] = [
                    f32::NAN,
                    f32::INFINITY,
                    f32::NEG_INFINITY,
                    MAX_BONUS_TOKENS,
                    -MAX_BONUS_TOKENS,
                    MAX_BONUS_TOKENS * 1.000_001,
                    -1e30,
                    -1e-40,
                ];
                if let Some(bonus) = self.bonus_tokens.get_mut(at % 20) {
                    *bonus = LIMITS[usize::from(small)];
                } else if let Some(bonus) = self.bonus_half_tokens.get_mut(at % 20) {
                    // Any bits.
                    *bonus = f16::from_bits(if more { any as u16 } else { 0x7c00 | any as u16 });
                }
            }
            8 => resize(&mut self.bonus_half_tokens, more, f16::ONE),
            9 => resize(&mut self.eligible, more, u64::from(any)),
            10 | 11 => {
                if let Some(request) = request {
                    request.pair_row = Some(if more { any } else { u32::from(small) });
                }
            }
            12 => {
                if let Some(request) = request {
                    let last = (self.workers.len() as u32).saturating_sub(u32::from(small % 4 == 1));
                    request.rank = Some(WorkerIndex(if more { any } else { last }));
                }
            }
            13 => {
                if let Some(request) = request {
                    request.survival_class = Some(if more { any as u8 } else { small / 2 });
                }
            }
            14 => resize(self.rows.get_or_insert_default(), more, 5),
            15 => {
                self.horizon = [0, 1, 4, MAX_HORIZON, MAX_HORIZON + 1, usize::MAX, 1 << 40, any as usize]
                    [usize::from(small)]
            }
            16 => {
                if let Some(tokens) = self.rows.iter_mut().flatten().nth(at % 20) {
                    *tokens = [MAX_LOAD_TOKENS, MAX_LOAD_TOKENS + 1, u64::MAX, u64::from(any)]
                        [usize::from(small % 4)];
                }
            }
            17 => {
                let classes = self.classes.get_or_insert_default();
                match small {
                    0..=2 => resize(classes, more, 1.0),
                    3 => classes.resize((self.horizon.min(8) + 1) * (MAX_CLASSES + (any % 2) as usize), 0.5),
                    _ => {
                        let value = [f32::NAN, -0.0, 1.000_001, -1e-40, f32::INFINITY][any as usize % 5];
                        classes.iter_mut().skip(at % 8).take(1).for_each(|survival| *survival = value);
                    }
                }
            }
            18 => {
                if let Some(worker) = worker {
                    let tokens = MAX_LOAD_TOKENS + u64::from(any) % 2;
                    match small {
                        0 => worker.load_tokens = tokens,
                        1 => worker.kv_used_tokens = tokens,
                        2 => worker.kv_growth_tokens = tokens,
                        3 => worker.kv_capacity_tokens = Some(tokens),
                        4 => worker.free_slots = MAX_SLOTS - worker.running.min(MAX_SLOTS) + any % 2,
                        5 => worker.running = u32::MAX - any % 2,
                        _ => {
                            let value =
                                [f32::NAN, -1.0, f32::INFINITY, 64.0, 64.001, -0.0, -1e-40][any as usize % 7];
                            worker.weight = value;
                        }
                    }
                }
            }
            19 => {
                let tokens =
                    [-1, i64::from(MAX_PROMPT_TOKENS) + 1, i64::MIN, i64::MAX][usize::from(small % 4)];
                match any % 5 {
                    0 => self.traffic.mean_prompt_tokens = tokens,
                    1 => self.traffic.sd_prompt_tokens = tokens,
                    2 => self.traffic.small_prompt_tokens = tokens,
                    3 => self.traffic.mean_output_tokens = tokens,
                    _ => self.request_growth_tokens = MAX_PROMPT_TOKENS + u32::from(small % 2),
                }
            }
            20 => match small {
                0 => self.workers.clear(),
                1 => self.workers.resize(MAX_WORKERS + 1, Worker::new(1, 1, 1)),
                2 => self.rows = None,
                3 => self.ends = None,
                _ => drop(self.workers.pop()),
            },
            21 => {
                let first = self.requests.first().map(|request| request.id);
                if let (Some(request), Some(first)) = (self.requests.last_mut(), first) {
                    match small {
                        0 => request.prompt_tokens = 0,
                        1 => request.prompt_tokens = MAX_PROMPT_TOKENS + any % 2,
                        2 => request.waited_steps = MAX_WAITED_STEPS + any % 2,
                        3 => request.waited_steps = any,
                        4 => request.passed = MAX_PASSED + any % 2,
                        _ => request.id = first,
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn draft<'a>(&'a self, pool: &'a Pool) -> balanceroute::batch::BatchDraft<'a> {
        let mut draft = Batch::draft(&self.workers, pool)
            .traffic(self.traffic)
            .request_growth(self.request_growth_tokens)
            .pairs(Pairs {
                bonus_tokens: &self.bonus_tokens,
                bonus_half_tokens: &self.bonus_half_tokens,
                eligible: &self.eligible,
            });
        if let Some(rows) = &self.rows {
            draft = draft.projection(self.horizon, rows);
        }
        if let Some(ends) = &self.ends {
            draft = draft.ends(PredictedEnds { offsets: &self.offsets, ends });
        }
        if let Some(classes) = &self.classes {
            draft = draft.classes(classes);
        }
        draft
    }

    /// Entries of a class row, if the horizon is one.
    fn class_width(&self) -> usize {
        if self.rows.is_some() { self.horizon.saturating_add(1) } else { 1 }
    }

    /// What the validation must take, written down once more.
    fn is_sound(&self, candidates: &[Request]) -> bool {
        let g = self.workers.len();
        let is_worker_sound = |worker: &Worker| {
            let tokens = [worker.load_tokens, worker.kv_used_tokens, worker.kv_growth_tokens];
            tokens.iter().all(|&tokens| tokens <= MAX_LOAD_TOKENS)
                && worker.kv_capacity_tokens.is_none_or(|tokens| tokens <= MAX_LOAD_TOKENS)
                && u64::from(worker.running) + u64::from(worker.free_slots) <= u64::from(MAX_SLOTS)
                && worker.weight >= 0.0
                && worker.weight <= MAX_WEIGHT
        };
        let Traffic { mean_prompt_tokens, sd_prompt_tokens, small_prompt_tokens, mean_output_tokens, .. } =
            self.traffic;
        let is_length = |tokens: i64| tokens >= 0 && tokens <= i64::from(MAX_PROMPT_TOKENS);
        let are_rows_sound = self.rows.as_ref().is_none_or(|rows| {
            self.horizon <= MAX_HORIZON
                && rows.len() == g * (self.horizon + 1)
                && rows.iter().all(|&tokens| tokens <= MAX_LOAD_TOKENS)
        });
        let are_ends_sound = self.ends.as_ref().is_none_or(|ends| {
            self.offsets.len() == g + 1
                && self.offsets[0] == 0
                && self.offsets.is_sorted()
                && self.offsets[g] as usize == ends.len()
                && self.offsets.windows(2).all(|pair| {
                    let of = &ends[pair[0] as usize..pair[1] as usize];
                    of.iter().all(|end| end.in_steps > 0 && end.freed_tokens <= MAX_LOAD_TOKENS)
                        && of.is_sorted_by_key(|end| end.in_steps)
                })
        });
        if g == 0 || g > MAX_WORKERS || !are_rows_sound || !are_ends_sound {
            return false;
        }
        let bonuses = self.bonus_tokens.len() + self.bonus_half_tokens.len();
        let rows = if bonuses > 0 { bonuses / g } else { self.eligible.len() / g.div_ceil(64) };
        let are_pairs_sound = (self.bonus_tokens.is_empty() || self.bonus_half_tokens.is_empty())
            && (bonuses == 0 || bonuses == rows * g)
            && (self.eligible.is_empty() || self.eligible.len() == rows * g.div_ceil(64))
            && self.bonus_tokens.iter().all(|bonus| bonus.abs() <= MAX_BONUS_TOKENS)
            && self.bonus_half_tokens.iter().all(|bonus| bonus.is_finite());
        let classes = self.classes.as_deref().unwrap_or_default();
        let class_count = classes.len() / self.class_width();
        are_pairs_sound
            && self.workers.iter().all(is_worker_sound)
            && [mean_prompt_tokens, sd_prompt_tokens, small_prompt_tokens, mean_output_tokens]
                .into_iter()
                .all(is_length)
            && is_length(self.request_growth_tokens.into())
            && classes.len() == class_count * self.class_width()
            && class_count <= MAX_CLASSES
            && classes.iter().all(|survival| (0.0..=1.0).contains(survival))
            && candidates.iter().all(|request| {
                request.rank.is_none_or(|rank| rank.index() < g)
                    && request.pair_row.is_none_or(|row| (row as usize) < rows)
                    && request.survival_class.is_none_or(|class| usize::from(class) < class_count)
            })
    }

    /// The pool of these requests, and who is in it, in order of arrival.
    fn pool(&self, seen: &mut Seen) -> (Pool, Vec<Request>) {
        let mut ids = std::collections::HashSet::new();
        let mut is_sound = |request: &Request| {
            (1..=MAX_PROMPT_TOKENS).contains(&request.prompt_tokens)
                && request.waited_steps <= MAX_WAITED_STEPS
                && request.passed <= MAX_PASSED
                && request.rank.is_none_or(|rank| rank.index() < MAX_WORKERS)
                && ids.insert(request.id)
        };
        let kept: Vec<Request> = self.requests.iter().copied().filter(|request| is_sound(request)).collect();
        seen.refused_requests += self.requests.len() - kept.len();
        let whole = Pool::from_requests(&self.requests);
        assert_eq!(whole.is_ok(), kept.len() == self.requests.len());
        match (self.window, whole) {
            (None, Ok(whole)) => (whole, kept),
            (window, _) => {
                let mut pool = window.map_or_else(Pool::new, Pool::with_window);
                let taken = self.requests.iter().filter(|&&request| pool.insert(request).is_ok()).count();
                assert_eq!(taken, kept.len());
                (pool, kept)
            }
        }
    }

    /// A copy in which every request without terms gets neutral ones.
    fn with_neutral_terms(&self, salt: u64) -> Self {
        let mut parts = self.clone();
        let (g, words) = (self.workers.len(), self.workers.len().div_ceil(64));
        let zero = |at: usize| [0.0, -0.0, 0.49, -0.49, 0.0][(salt as usize + at) % 5];
        let bonuses = self.bonus_tokens.len() + self.bonus_half_tokens.len();
        let mut rows = if bonuses > 0 { bonuses / g } else { self.eligible.len() / words };
        // Bonuses, masks, or both, where there is neither.
        if bonuses > 0 || self.eligible.is_empty() && salt & 3 != 0 {
            if self.bonus_half_tokens.is_empty() && (bonuses > 0 || salt & 4 == 0) {
                parts.bonus_tokens.extend((0..g).map(zero));
            } else {
                parts.bonus_half_tokens.extend((0..g).map(|at| f16::from_f32(zero(at))));
            }
        }
        if !self.eligible.is_empty() || salt & 3 != 1 {
            parts.eligible.resize((rows + 1) * words, u64::MAX);
            if g % 64 != 0 {
                parts.eligible[(rows + 1) * words - 1] = ((1 << (g % 64)) - 1) | (salt << (g % 64));
            }
        }
        // A row of each for whoever has none; a row that is not there stays so.
        rows += 1;
        for request in &mut parts.requests {
            request.pair_row = request.pair_row.or(Some(rows as u32 - 1));
        }
        let width = self.class_width();
        let count = self.classes.as_ref().map_or(0, Vec::len) / width;
        if count < MAX_CLASSES {
            let classes = parts.classes.get_or_insert_default();
            classes.resize((count + 1) * width, 1.0);
            for request in &mut parts.requests {
                request.survival_class = request.survival_class.or(Some(count as u8));
            }
        }
        parts
    }

    /// A copy with other bits past the last worker.
    fn with_other_bits(&self, salt: u64) -> Self {
        let mut parts = self.clone();
        let (g, words) = (self.workers.len(), self.workers.len().div_ceil(64));
        for last in parts.eligible.iter_mut().skip(words - 1).step_by(words) {
            *last ^= salt << (g % 64);
        }
        parts
    }

    /// Whether a request may use a worker.
    fn may(&self, request: &Request, worker: usize) -> bool {
        let words = self.workers.len().div_ceil(64);
        let bit = |row: u32| self.eligible[row as usize * words + worker / 64] >> (worker % 64) & 1 == 1;
        request.rank.is_none_or(|rank| rank.index() == worker)
            && (self.eligible.is_empty() || request.pair_row.is_none_or(bit))
    }
}

/// What every policy answers.
fn answers(
    parts: &Parts,
    batch: &Batch<'_>,
    mut heard: impl FnMut(&'static str, &mut dyn policy::Policy, Assignment),
) {
    let isa = Isa::ALL[usize::from(parts.isa) % Isa::ALL.len()];
    let forced = Parameters::new().isa(Some(isa));
    for &name in policy::NAMES {
        let built = policy::build(name, &forced).or_else(|_| policy::build(name, &Parameters::default()));
        let mut policy = built.expect("known");
        let mut answer = Assignment::new();
        policy.decide(batch, &mut answer);
        heard(name, policy.as_mut(), answer);
    }
}

/// What the bytes came to.
pub(crate) fn decide(data: &[u8]) -> Seen {
    let (mut seen, mut u) = (Seen::default(), Unstructured::new(data));
    let Ok(parts) = Parts::arbitrary(&mut u) else { return seen };
    let salt = u64::arbitrary(&mut u).unwrap_or_default();
    let (pool, kept) = parts.pool(&mut seen);
    let window = parts.window.unwrap_or(kept.len());
    let candidates = &kept[..window.min(kept.len())];
    seen.batches = 1;
    seen.spoilt = usize::from(parts.spoilt);
    let checked = parts.draft(&pool).check();
    assert_eq!(checked.is_ok(), parts.is_sound(&kept), "{:?} of {parts:?}", checked.err());
    let batch = match checked {
        Ok(batch) => batch,
        Err(error) => {
            seen.refused = 1;
            seen.errors = 1 << kind(&error);
            return seen;
        }
    };
    seen.windowed = usize::from(kept.len() > candidates.len());
    seen.halves = usize::from(!parts.bonus_half_tokens.is_empty());
    let mut fast = Vec::new();
    answers(&parts, &batch, |name, policy, answer| {
        let mut oracle = Assignment::new();
        policy.decide_by_reference(&batch, &mut oracle).expect("a rule");
        assert_eq!(answer, oracle, "{name}");
        check_promises(name, &parts, &batch, &answer);
        seen.admitted += answer.admitted.len();
        fast.push(answer);
    });
    // What says nothing changes nothing.
    let others = match salt % 4 {
        0 | 1 => {
            seen.neutral = 1;
            parts.with_neutral_terms(salt >> 2)
        }
        2 if !parts.eligible.is_empty() && !parts.workers.len().is_multiple_of(64) => {
            seen.masks = 1;
            parts.with_other_bits(salt)
        }
        _ => return seen,
    };
    let (pool, _) = others.pool(&mut Seen::default());
    let batch = others.draft(&pool).check().unwrap_or_else(|error| panic!("{error} of {others:?}"));
    let mut fast = fast.into_iter();
    answers(&others, &batch, |name, _, answer| {
        assert_eq!(Some(answer.admitted), fast.next().map(|answer| answer.admitted), "{name}");
    });
    seen
}

/// What holds for every answer of every policy.
fn check_promises(name: &str, parts: &Parts, batch: &Batch<'_>, answer: &Assignment) {
    let growth = i64::from(batch.request_growth_tokens());
    let mut slots: Vec<u32> = batch.workers().iter().map(Worker::open_slots).collect();
    let mut room: Vec<i64> = batch.workers().iter().map(Worker::room_tokens).collect();
    let mut admitted = std::collections::HashSet::new();
    for pick in &answer.admitted {
        let worker = pick.worker.index();
        let request = batch.waiting().request(pick.slot);
        assert!(admitted.insert(pick.id) && request.id == pick.id, "{name}: {} twice", pick.id);
        assert!(slots[worker] > 0, "{name}: no slot on {worker}");
        slots[worker] -= 1;
        room[worker] -= i64::from(request.prompt_tokens) + growth;
        assert!(room[worker] >= 0, "{name}: no room on {worker}");
        assert!(parts.may(request, worker), "{name}: {} may not use {worker}", pick.id);
    }
    let waiting: Vec<RequestId> = answer.waiting(batch).map(|(id, _)| id).collect();
    assert_eq!(admitted.len() + waiting.len(), batch.pool().len(), "{name}");
    assert!(waiting.iter().all(|id| !admitted.contains(id)), "{name}");
}
