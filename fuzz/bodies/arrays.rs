//! Bytes are the arrays and structs of one `br_assign` after another, of any size, alignment and contents:
//! the answer is that of the Rust interface, decided by the oracle, on what a caller can mean by them; all
//! else is refused, by the status that the header promises.
//!
//! Included by the fuzz target and by `ffi/capi/tests/fuzz_bodies.rs`.

#[path = "columns.rs"]
mod columns;

use std::ffi::c_char;
use std::ops::AddAssign;

use arbitrary::{Arbitrary, Result as Drawn, Unstructured};
use balanceroute::backend::BackendKind;
use balanceroute::batch::{MAX_CLASSES, MAX_WAITING, MAX_WORKERS};
use balanceroute::policy::{self, Parameters};
use balanceroute::{
    Assigner, BatchError, Pairs, PredictedEnd, PredictedEnds, Request, Step, Traffic, WaitReason, Worker,
};
use balanceroute_capi::{
    BR_NONE, BR_NONE64, br_answer, br_assign, br_assigner, br_assigner_describe, br_assigner_error,
    br_assigner_free, br_assigner_new, br_batch, br_options, br_reason, br_requests, br_status, br_workers,
};
use columns::{Column, Plain, Versioned, column, one_in, perhaps};
use half::f16;

/// What the bytes came to.
#[derive(Clone, Copy, Debug, Default)]
#[allow(dead_code, reason = "who fuzzes reads none of it")]
pub(crate) struct Seen {
    pub(crate) calls: usize,
    /// By their status.
    pub(crate) statuses: [usize; 5],
    pub(crate) admitted: usize,
    /// Assigners that could not be made.
    pub(crate) refused_options: usize,
    /// Answers with predicted ends, bonuses in single and half precision, masks and classes.
    pub(crate) terms: [usize; 5],
}

impl AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.admitted += other.admitted;
        self.refused_options += other.refused_options;
        self.statuses.iter_mut().zip(other.statuses).for_each(|(sum, more)| *sum += more);
        self.terms.iter_mut().zip(other.terms).for_each(|(sum, more)| *sum += more);
    }
}

/// Small numbers tie, middling ones look like traffic, and the greatest meet the limits.
fn tokens(u: &mut Unstructured<'_>, limit: u64) -> Drawn<u64> {
    Ok(match u8::arbitrary(u)? % 16 {
        0..=5 => u64::from(u8::arbitrary(u)?) % 8 * 100,
        6..=12 => u64::from(u16::arbitrary(u)?),
        13 | 14 => u.int_in_range(0..=limit)?,
        _ => limit - u64::from(u8::arbitrary(u)? % 4),
    })
}

/// Everything of one call, alive while it lasts.
struct Call {
    workers: Versioned<br_workers>,
    requests: Versioned<br_requests>,
    batch: Option<Versioned<br_batch>>,
    answer: Versioned<br_answer>,
    load: Column<u64>,
    free: Column<u32>,
    running: Column<u32>,
    capacity: Column<u64>,
    used: Column<u64>,
    growth: Column<u64>,
    weight: Column<f32>,
    accepting: Column<u8>,
    completion: Column<u32>,
    prompt: Column<u32>,
    ids: Column<u64>,
    waited: Column<u32>,
    deadline: Column<u32>,
    rank: Column<u32>,
    pair_row: Column<u32>,
    class: Column<u32>,
    passed: Column<u32>,
    priority: Column<i32>,
    projection: Column<u64>,
    offsets: Column<u32>,
    in_steps: Column<u32>,
    freed: Column<u64>,
    bonus: Column<f32>,
    half: Column<u16>,
    eligible: Column<u64>,
    survival: Column<f32>,
    row: Column<u32>,
    worker: Column<u32>,
    score: Column<f64>,
    reason: Column<u8>,
}

fn workers_of(u: &mut Unstructured<'_>) -> Drawn<usize> {
    Ok(match u8::arbitrary(u)? {
        // Nothing is read of so many.
        0 => MAX_WORKERS + 1 + usize::from(u16::arbitrary(u)?),
        1 => usize::MAX,
        2 => 0,
        // More than one word of eligibility bits.
        3..=12 => u.int_in_range(60..=70)?,
        _ => u.int_in_range(1..=6)?,
    })
}

fn requests_of(u: &mut Unstructured<'_>) -> Drawn<usize> {
    Ok(match u8::arbitrary(u)? {
        0 => MAX_WAITING + 1 + usize::from(u16::arbitrary(u)?),
        1 => usize::MAX,
        _ => u.int_in_range(0..=9)?,
    })
}

impl<'a> Arbitrary<'a> for Call {
    fn arbitrary(u: &mut Unstructured<'a>) -> Drawn<Self> {
        let (said_workers, said_requests) = (workers_of(u)?, requests_of(u)?);
        let g = if said_workers > MAX_WORKERS { 0 } else { said_workers };
        let n = if said_requests > MAX_WAITING { 0 } else { said_requests };
        let limit = if u.arbitrary()? { 1 << 30 } else { 1 << 20 };
        let load = if one_in(u, 100)? { Column::absent() } else { column(u, g, |u, _| tokens(u, limit))? };
        let free = if one_in(u, 100)? {
            Column::absent()
        } else {
            column(u, g, |u, _| Ok(u32::from(u8::arbitrary(u)? % 4)))?
        };
        let running = perhaps(u, g, |u, _| Ok(u32::from(u8::arbitrary(u)? % 100)))?;
        let loads = load.read();
        let used = perhaps(u, g, |u, at| Ok(loads.get(at).unwrap_or(&0) / 2 + tokens(u, 1_000)?))?;
        let capacity = perhaps(u, g, |u, at| {
            Ok(if one_in(u, 4)? {
                BR_NONE64
            } else {
                loads.get(at).unwrap_or(&0).saturating_add(tokens(u, 20_000)?).min(1 << 30)
            })
        })?;
        let growth = perhaps(u, g, |u, _| tokens(u, 1_000))?;
        let weight = perhaps(u, g, |u, _| Ok(*u.choose(&[1.0, 1.5, 0.25, 64.0, 0.0, -0.0, 1e-40])?))?;
        // Any byte but 0 is true.
        let accepting = perhaps(u, g, |u, _| u.arbitrary())?;
        let completion = perhaps(u, g, |u, _| Ok(if one_in(u, 3)? { BR_NONE } else { u.arbitrary()? }))?;

        let prompt = if one_in(u, 100)? {
            Column::absent()
        } else {
            column(u, n, |u, _| Ok((tokens(u, 1 << 22)? as u32).max(1)))?
        };
        let ids = perhaps(u, n, |_, at| Ok(7 + 3 * at as u64))?;
        let waited = perhaps(u, n, |u, _| Ok(tokens(u, 1 << 24)? as u32))?;
        let passed = perhaps(u, n, |u, _| Ok(tokens(u, 1 << 24)? as u32))?;
        let deadline = perhaps(u, n, |u, _| Ok(if one_in(u, 2)? { BR_NONE } else { u.arbitrary()? }))?;
        let rank = perhaps(u, n, |u, _| {
            Ok(if one_in(u, 2)? { BR_NONE } else { u32::from(u8::arbitrary(u)?) % g.max(1) as u32 })
        })?;
        let rows = u.int_in_range(0..=3)?;
        let pair_row = perhaps(u, n, |u, _| {
            Ok(if rows == 0 || one_in(u, 4)? { BR_NONE } else { u32::from(u8::arbitrary(u)?) % rows as u32 })
        })?;
        let classes: usize = if one_in(u, 32)? { 257 } else { u.int_in_range(0..=2)? };
        let class = perhaps(u, n, |u, _| {
            Ok(if classes == 0 || one_in(u, 3)? {
                BR_NONE
            } else {
                u32::from(u8::arbitrary(u)?) % classes as u32
            })
        })?;
        let priority = perhaps(u, n, |u, _| Ok(i32::from(i8::arbitrary(u)? % 3)))?;

        let horizon: u32 = if one_in(u, 64)? { u.int_in_range(120..=130)? } else { u.int_in_range(0..=4)? };
        let width = horizon as usize + 1;
        let projection = perhaps(u, g * width, |u, at| {
            Ok(if at % width == 0 { *loads.get(at / width).unwrap_or(&0) } else { tokens(u, limit)? })
        })?;
        let (offsets, in_steps, freed) = ends(u, g, limit)?;
        let bonus = perhaps(u, rows * g, |u, _| Ok(tokens(u, 1 << 30)? as f32 - 20_000.0))?;
        let mut half = Column::absent();
        if !bonus.is_present() || one_in(u, 16)? {
            half = perhaps(u, rows * g, |u, _| Ok(f16::from_f32(tokens(u, 60_000)? as f32).to_bits()))?;
        }
        let eligible =
            perhaps(u, rows * g.div_ceil(64), |u, _| Ok(u64::arbitrary(u)? | u.arbitrary::<u64>()?))?;
        let survival = perhaps(u, classes * width, |u, _| Ok(f32::from(u8::arbitrary(u)?) / 255.0))?;

        let most = (free.read().iter().map(|&free| free as usize).fold(0, usize::saturating_add)).min(n);
        let capacity_of_answer = if one_in(u, 8)? { u.int_in_range(0..=most)? } else { most };
        let row = output(u, capacity_of_answer, 64)?;
        let worker = output(u, capacity_of_answer, 64)?;
        let score = output(u, capacity_of_answer, 3)?;
        let reason = output(u, n, 3)?;
        let traffic: [i64; 4] = if one_in(u, 32)? {
            u.arbitrary()?
        } else {
            std::array::from_fn(|_| u16::arbitrary(u).map_or(0, i64::from))
        };
        let request_growth_tokens = tokens(u, 1_000)? as u32;
        // With no matrix, rows mean nothing.
        let has_pairs = bonus.is_present() || half.is_present() || eligible.is_present();
        let said_rows = if !has_pairs && one_in(u, 2)? { u.arbitrary()? } else { rows };
        let said_classes = if !survival.is_present() && one_in(u, 2)? { u.arbitrary()? } else { classes };
        let workers = br_workers {
            struct_size: size_of::<br_workers>(),
            count: said_workers,
            load_tokens: load.at(),
            running: running.at(),
            free_slots: free.at(),
            kv_capacity_tokens: capacity.at(),
            kv_used_tokens: used.at(),
            kv_growth_tokens: growth.at(),
            weight: weight.at(),
            accepting: accepting.at(),
            next_completion_steps: completion.at(),
        };
        let requests = br_requests {
            struct_size: size_of::<br_requests>(),
            count: said_requests,
            prompt_tokens: prompt.at(),
            ids: ids.at(),
            waited_steps: waited.at(),
            deadline_steps: deadline.at(),
            rank: rank.at(),
            pair_row: pair_row.at(),
            survival_class: class.at(),
            passed: passed.at(),
            priority: priority.at(),
        };
        let batch = br_batch {
            struct_size: size_of::<br_batch>(),
            mean_prompt_tokens: traffic[0],
            sd_prompt_tokens: traffic[1],
            small_prompt_tokens: traffic[2],
            mean_output_tokens: traffic[3],
            request_growth_tokens,
            horizon_steps: horizon,
            projection: projection.at(),
            end_offsets: offsets.at(),
            end_in_steps: in_steps.at(),
            end_freed_tokens: freed.at(),
            pair_rows: said_rows,
            bonus_tokens: bonus.at(),
            bonus_half_tokens: half.at(),
            eligible: eligible.at(),
            class_count: said_classes,
            class_survival: survival.at(),
        };
        let answer = br_answer {
            struct_size: size_of::<br_answer>(),
            capacity: capacity_of_answer,
            count: u.arbitrary()?,
            row: row.at_mut(),
            worker: worker.at_mut(),
            score_tokens: score.at_mut(),
            wait_reason: reason.at_mut(),
            envelope_before_tokens: 0.0,
            imbalance_before_tokens: 0.0,
            envelope_after_tokens: 0.0,
            imbalance_after_tokens: 0.0,
        };
        // Sizes of the first version, as the header had them.
        let batch =
            if one_in(u, 6)? { None } else { Some(Versioned::draw(u, batch, size_of::<br_batch>())?) };
        Ok(Self {
            workers: Versioned::draw(u, workers, 11 * size_of::<usize>())?,
            requests: Versioned::draw(u, requests, 9 * size_of::<usize>())?,
            batch,
            answer: Versioned::draw(u, answer, size_of::<br_answer>())?,
            load,
            free,
            running,
            capacity,
            used,
            growth,
            weight,
            accepting,
            completion,
            prompt,
            ids,
            waited,
            deadline,
            rank,
            pair_row,
            class,
            passed,
            priority,
            projection,
            offsets,
            in_steps,
            freed,
            bonus,
            half,
            eligible,
            survival,
            row,
            worker,
            score,
            reason,
        })
    }
}

/// Room for an answer, absent one time in so many.
fn output<T: Plain>(u: &mut Unstructured<'_>, count: usize, absent_one_in: u8) -> Drawn<Column<T>> {
    if one_in(u, absent_one_in)? {
        return Ok(Column::absent());
    }
    Ok(Column::zeroed(count, columns::offset(u)?))
}

/// Predicted ends: three arrays. The last offset says how long two of them are; those before it may be
/// anything.
fn ends(u: &mut Unstructured<'_>, g: usize, limit: u64) -> Drawn<(Column<u32>, Column<u32>, Column<u64>)> {
    if bool::arbitrary(u)? {
        return Ok((Column::absent(), Column::absent(), Column::absent()));
    }
    let (mut offsets, mut steps) = (vec![0; g + 1], Vec::new());
    for at in 0..g {
        let mut in_steps = 1;
        for _ in 0..u8::arbitrary(u)? % 4 {
            in_steps += u.int_in_range(0..=40)?;
            steps.push(in_steps);
        }
        offsets[at + 1] = steps.len() as u32;
    }
    // The last one stays.
    if g > 0 && one_in(u, 8)? {
        for _ in 0..u8::arbitrary(u)? % 3 {
            let at = u.int_in_range(0..=g - 1)?;
            offsets[at] = if u.arbitrary()? { u.arbitrary()? } else { u.int_in_range(0..=g as u32 * 3)? };
        }
    }
    let count = steps.len();
    let in_steps = if one_in(u, 64)? { Column::absent() } else { column(u, count, |_, at| Ok(steps[at]))? };
    let freed = if one_in(u, 64)? { Column::absent() } else { column(u, count, |u, _| tokens(u, limit))? };
    Ok((Column::of(&offsets, columns::offset(u)?), in_steps, freed))
}

/// A struct that the library sees with fewer fields: those are absent.
fn if_seen<T: Plain>(of: &Column<T>, seen: *const T) -> Option<Vec<T>> {
    (of.is_present() && !seen.is_null()).then(|| of.read())
}

/// What the call asks, in the words of the Rust interface.
#[derive(Default)]
struct Meant {
    workers: Vec<Worker>,
    requests: Vec<Request>,
    traffic: Traffic,
    request_growth_tokens: u32,
    horizon: usize,
    projection: Option<Vec<u64>>,
    offsets: Option<Vec<u32>>,
    ends: Vec<PredictedEnd>,
    bonus: Vec<f32>,
    half: Vec<f16>,
    eligible: Vec<u64>,
    classes: Option<Vec<f32>>,
}

impl Meant {
    fn step(&self) -> Step<'_> {
        let mut step = Step::new(&self.workers, &self.requests)
            .traffic(self.traffic)
            .request_growth(self.request_growth_tokens)
            .pairs(Pairs {
                bonus_tokens: &self.bonus,
                bonus_half_tokens: &self.half,
                eligible: &self.eligible,
            });
        if let Some(rows) = &self.projection {
            step = step.projection(self.horizon, rows);
        }
        if let Some(offsets) = &self.offsets {
            step = step.ends(PredictedEnds { offsets, ends: &self.ends });
        }
        if let Some(rows) = &self.classes {
            step = step.classes(rows);
        }
        step
    }
}

/// Every status that the call may be refused with before the batch is looked at; none: it must be looked at.
struct Wrongs(Vec<br_status>);

impl Wrongs {
    fn argument(&mut self, is_wrong: bool) {
        if is_wrong {
            self.0.push(br_status::BR_ARGUMENT);
        }
    }

    fn batch(&mut self, is_wrong: bool) {
        if is_wrong {
            self.0.push(br_status::BR_BATCH);
        }
    }

    /// An array that may be absent.
    fn array<T: Plain>(&mut self, of: &Column<T>, seen: *const T) {
        self.argument(!seen.is_null() && !of.is_aligned());
    }

    /// One that may not, unless it has no entries.
    fn needed<T: Plain>(&mut self, of: &Column<T>, count: usize) {
        self.argument(if of.is_present() { !of.is_aligned() } else { count > 0 });
    }
}

impl Call {
    /// What is wrong with it by itself, and what it means if nothing is.
    fn meant(&self) -> Result<Meant, Vec<br_status>> {
        let mut wrongs = Wrongs(Vec::new());
        let (Some(workers), Some(requests), Some(_)) =
            (self.workers.seen, self.requests.seen, self.answer.seen)
        else {
            return Err(vec![br_status::BR_ARGUMENT]);
        };
        let batch = match &self.batch {
            None => None,
            Some(batch) if batch.at().is_null() => None,
            Some(batch) => Some(batch.seen.ok_or(vec![br_status::BR_ARGUMENT])?),
        };
        let (g, n) = (workers.count, requests.count);
        wrongs.batch(g > MAX_WORKERS);
        wrongs.batch(n > MAX_WAITING);
        if g <= MAX_WORKERS {
            wrongs.needed(&self.load, g);
            wrongs.needed(&self.free, g);
            wrongs.array(&self.running, workers.running);
            wrongs.array(&self.capacity, workers.kv_capacity_tokens);
            wrongs.array(&self.used, workers.kv_used_tokens);
            wrongs.array(&self.growth, workers.kv_growth_tokens);
            wrongs.array(&self.weight, workers.weight);
            wrongs.array(&self.completion, workers.next_completion_steps);
        }
        let class = if_seen(&self.class, requests.survival_class);
        let priority = if_seen(&self.priority, requests.priority);
        if n <= MAX_WAITING {
            wrongs.needed(&self.prompt, n);
            wrongs.array(&self.ids, requests.ids);
            wrongs.array(&self.waited, requests.waited_steps);
            wrongs.array(&self.deadline, requests.deadline_steps);
            wrongs.array(&self.rank, requests.rank);
            wrongs.array(&self.pair_row, requests.pair_row);
            wrongs.array(&self.class, requests.survival_class);
            wrongs.array(&self.passed, requests.passed);
            wrongs.array(&self.priority, requests.priority);
            let no_class = |&class: &u32| class != BR_NONE && class as usize >= MAX_CLASSES;
            wrongs.batch(class.iter().flatten().any(no_class));
            wrongs.batch(priority.iter().flatten().any(|&priority| i8::try_from(priority).is_err()));
        }
        let mut meant = Meant::default();
        if let Some(batch) = batch.filter(|_| g <= MAX_WORKERS) {
            wrongs.array(&self.projection, batch.projection);
            wrongs.array(&self.offsets, batch.end_offsets);
            wrongs.array(&self.bonus, batch.bonus_tokens);
            wrongs.array(&self.half, batch.bonus_half_tokens);
            wrongs.array(&self.eligible, batch.eligible);
            wrongs.array(&self.survival, batch.class_survival);
            if self.offsets.is_present() && self.offsets.is_aligned() {
                let offsets = self.offsets.read();
                if offsets[0] != 0 || !offsets.is_sorted() {
                    wrongs.batch(true);
                } else {
                    let count = offsets[g] as usize;
                    wrongs.needed(&self.in_steps, count);
                    wrongs.needed(&self.freed, count);
                }
                let pairs = self.in_steps.read().into_iter().zip(self.freed.read());
                meant.ends =
                    pairs.map(|(in_steps, freed_tokens)| PredictedEnd { in_steps, freed_tokens }).collect();
                meant.offsets = Some(offsets);
            }
            let has_classes = self.survival.is_present();
            wrongs.argument(has_classes && !self.projection.is_present() && batch.horizon_steps != 0);
            meant.traffic = Traffic::new()
                .prompts(batch.mean_prompt_tokens, batch.sd_prompt_tokens)
                .small_prompts(batch.small_prompt_tokens)
                .outputs(batch.mean_output_tokens);
            meant.request_growth_tokens = batch.request_growth_tokens;
            meant.horizon = batch.horizon_steps as usize;
            meant.projection = if_seen(&self.projection, batch.projection);
            meant.bonus = self.bonus.read();
            meant.half = self.half.read().into_iter().map(f16::from_bits).collect();
            meant.eligible = self.eligible.read();
            meant.classes = if_seen(&self.survival, batch.class_survival);
        }
        if !wrongs.0.is_empty() {
            return Err(wrongs.0);
        }
        let load = self.load.read();
        let free = self.free.read();
        let at = |of: &Option<Vec<u32>>, at: usize| of.as_ref().map(|of| of[at]).filter(|&of| of != BR_NONE);
        let running = if_seen(&self.running, workers.running);
        let capacity = if_seen(&self.capacity, workers.kv_capacity_tokens);
        let used = if_seen(&self.used, workers.kv_used_tokens);
        let growth = if_seen(&self.growth, workers.kv_growth_tokens);
        let weight = if_seen(&self.weight, workers.weight);
        let accepting = if_seen(&self.accepting, workers.accepting);
        let completion = if_seen(&self.completion, workers.next_completion_steps);
        for place in 0..g {
            let mut worker =
                Worker::new(load[place], running.as_ref().map_or(0, |of| of[place]), free[place]);
            if let Some(used) = &used {
                worker.kv_used_tokens = used[place];
            }
            worker.kv_capacity_tokens =
                capacity.as_ref().map(|of| of[place]).filter(|&tokens| tokens != BR_NONE64);
            worker.kv_growth_tokens = growth.as_ref().map_or(0, |of| of[place]);
            worker.weight = weight.as_ref().map_or(1.0, |of| of[place]);
            worker.accepting = accepting.as_ref().is_none_or(|of| of[place] != 0);
            worker.next_completion_steps = at(&completion, place);
            meant.workers.push(worker);
        }
        let prompt = self.prompt.read();
        let ids = if_seen(&self.ids, requests.ids);
        let waited = if_seen(&self.waited, requests.waited_steps);
        let passed = if_seen(&self.passed, requests.passed);
        let deadline = if_seen(&self.deadline, requests.deadline_steps);
        let rank = if_seen(&self.rank, requests.rank);
        let pair_row = if_seen(&self.pair_row, requests.pair_row);
        for row in 0..n {
            let mut request = Request::new(ids.as_ref().map_or(row as u64, |of| of[row]), prompt[row]);
            request.waited_steps = waited.as_ref().map_or(0, |of| of[row]);
            request.passed = passed.as_ref().map_or(0, |of| of[row]);
            request.priority = priority.as_ref().map_or(0, |of| of[row] as i8);
            request.deadline_steps = at(&deadline, row);
            request.pair_row = at(&pair_row, row);
            request.survival_class = at(&class, row).map(|class| class as u8);
            meant.requests.push(request.rank(at(&rank, row)));
        }
        Ok(meant)
    }
}

fn text_of(assigner: *mut br_assigner) -> String {
    let mut buffer = [0u8; 512];
    // SAFETY: alive, and the buffer has its size.
    let length = unsafe { br_assigner_error(assigner, buffer.as_mut_ptr().cast::<c_char>(), buffer.len()) };
    let shown = buffer.iter().position(|&byte| byte == 0).expect("closed by a zero");
    assert!(shown <= length && (shown == length || length >= buffer.len()));
    String::from_utf8(buffer[..shown].to_vec()).expect("UTF-8")
}

/// An assigner of drawn options, and what the Rust interface makes of them, decided by the oracle.
fn assigners(u: &mut Unstructured<'_>) -> Drawn<Option<(*mut br_assigner, Assigner)>> {
    let policy: &str = if one_in(u, 64)? { "no such policy" } else { u.choose(policy::NAMES)? };
    let backend: Option<&str> =
        *u.choose(&[None, None, Some("auto"), Some("cpu"), Some("reference"), Some("gpu")])?;
    let names = ["max_passed", "candidate_window", "alpha", "no such parameter", "lookahead_steps"];
    let (mut parameters, mut given) = (Parameters::default(), Vec::new());
    let mut refused = policy == "no such policy" || backend == Some("gpu");
    for _ in 0..u8::arbitrary(u)?.saturating_sub(240) / 4 {
        let name = *u.choose(&names)?;
        let value = if u.arbitrary()? { f64::from(u8::arbitrary(u)?) } else { u.arbitrary()? };
        refused |= parameters.set(name, value).is_err();
        given.push((std::ffi::CString::new(name).expect("no zero"), value));
    }
    let text = |text: &str| std::ffi::CString::new(text).expect("no zero");
    let (policy_text, backend_text) = (text(policy), backend.map(text));
    let pointers: Vec<*const c_char> = given.iter().map(|(name, _)| name.as_ptr()).collect();
    let values: Vec<f64> = given.iter().map(|&(_, value)| value).collect();
    let options = br_options {
        struct_size: size_of::<br_options>(),
        backend: backend_text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr()),
        isa: std::ptr::null(),
        parameter_count: given.len(),
        parameter_names: pointers.as_ptr(),
        parameter_values: values.as_ptr(),
    };
    let options = Versioned::draw(u, options, size_of::<br_options>())?;
    let expected = Assigner::new(policy, &parameters.clone().backend(BackendKind::Reference));
    let mut assigner = std::ptr::dangling_mut();
    let mut error = [1 as c_char; 64];
    // SAFETY: texts are closed by zeros, and everything has the size that is said.
    let status = unsafe {
        br_assigner_new(policy_text.as_ptr(), options.at(), &mut assigner, error.as_mut_ptr(), error.len())
    };
    let is_absent = options.at().is_null();
    // Without options it is of the default ones.
    let expected = if is_absent {
        Assigner::new(policy, &Parameters::default().backend(BackendKind::Reference))
    } else {
        expected
    };
    if options.seen.is_none() && !is_absent {
        assert_eq!(status, br_status::BR_ARGUMENT);
    } else if is_absent {
        assert_eq!(status == br_status::BR_OK, policy != "no such policy");
    } else {
        assert_eq!(status == br_status::BR_OK, !refused && expected.is_ok());
        assert!(matches!(status, br_status::BR_OK | br_status::BR_POLICY), "{status:?}");
    }
    if status != br_status::BR_OK {
        assert!(assigner.is_null() && error[0] != 0, "an error without text");
        return Ok(None);
    }
    assert_eq!(error[0], 0);
    Ok(expected.ok().map(|expected| (assigner, expected)))
}

/// Why there is no decision: the batch, or the room for the answer, with the count that is told.
enum Refused {
    Batch(BatchError),
    Answer(br_status, usize),
}

impl From<BatchError> for Refused {
    fn from(error: BatchError) -> Self {
        Self::Batch(error)
    }
}

fn code_of(reason: Option<WaitReason>) -> u8 {
    reason.map_or(br_reason::BR_ADMITTED, br_reason::from) as u8
}

fn check(call: &Call, assigner: *mut br_assigner, oracle: &mut Assigner, seen: &mut Seen) {
    let batch = call.batch.as_ref().map_or(std::ptr::null_mut(), Versioned::at);
    // SAFETY: the handle is alive, and every struct and array lies in memory of the size that it says.
    let status =
        unsafe { br_assign(assigner, call.workers.at(), call.requests.at(), batch, call.answer.at()) };
    let text = text_of(assigner);
    assert_eq!(status == br_status::BR_OK, text.is_empty(), "{status:?}: {text}");
    seen.calls += 1;
    seen.statuses[status as usize] += 1;
    let meant = match call.meant() {
        Ok(meant) => meant,
        Err(wrongs) => {
            assert!(wrongs.contains(&status), "{status:?}: {text}, of {wrongs:?}");
            return;
        }
    };
    let answer = call.answer.read();
    let aligned = call.row.is_aligned() && call.worker.is_aligned() && call.score.is_aligned();
    let has_room = call.row.is_present() && call.worker.is_present();
    // Who refuses here has not decided: a policy with a memory knows nothing of it.
    let decision = oracle.assign_if(&meant.step(), |batch| {
        let most = batch.open_slots().min(meant.requests.len() as u64) as usize;
        if most > answer.capacity {
            Err(Refused::Answer(br_status::BR_SPACE, most))
        } else if !aligned || most > 0 && !has_room {
            Err(Refused::Answer(br_status::BR_ARGUMENT, 0))
        } else {
            Ok(())
        }
    });
    let decision = match decision {
        Ok(decision) => decision,
        Err(Refused::Batch(error)) => {
            assert_eq!(status, br_status::BR_BATCH, "{text}, expected {error}");
            assert!(error.to_string().starts_with(&text), "{text}, expected {error}");
            return;
        }
        Err(Refused::Answer(expected, count)) => {
            assert_eq!((status, answer.count), (expected, count), "{text}");
            return;
        }
    };
    assert_eq!(status, br_status::BR_OK, "{text}");
    let expected: Vec<(usize, u32, f64)> = decision
        .admissions()
        .map(|(row, admission)| (row, admission.worker.get(), admission.score_tokens))
        .collect();
    assert_eq!(answer.count, expected.len());
    let (rows, workers, scores) = (call.row.read(), call.worker.read(), call.score.read());
    for (at, &(row, worker, score)) in expected.iter().enumerate() {
        assert_eq!((rows[at] as usize, workers[at]), (row, worker), "admission {at}");
        assert!(!call.score.is_present() || scores[at].to_bits() == score.to_bits(), "admission {at}");
    }
    // Nothing is written behind the last admission.
    let rest = [&rows, &workers].into_iter().flat_map(|of| of.iter().skip(expected.len()));
    assert!(rest.into_iter().all(|&entry| entry == 0));
    if call.reason.is_present() {
        let codes: Vec<u8> = decision.reasons().into_iter().map(code_of).collect();
        assert_eq!(call.reason.read(), codes);
    }
    let (before, after) = (decision.before(), decision.after());
    assert_eq!(
        [answer.envelope_before_tokens, answer.imbalance_before_tokens].map(f64::to_bits),
        [before.envelope_tokens, before.imbalance_tokens].map(f64::to_bits)
    );
    assert_eq!(
        [answer.envelope_after_tokens, answer.imbalance_after_tokens].map(f64::to_bits),
        [after.envelope_tokens, after.imbalance_tokens].map(f64::to_bits)
    );
    seen.admitted += expected.len();
    let terms = [
        !meant.ends.is_empty(),
        !meant.bonus.is_empty(),
        !meant.half.is_empty(),
        !meant.eligible.is_empty(),
        meant.classes.is_some_and(|classes| !classes.is_empty()),
    ];
    seen.terms.iter_mut().zip(terms).for_each(|(count, had)| *count += usize::from(had));
}

/// What the bytes came to.
pub(crate) fn arrays(data: &[u8]) -> Seen {
    let (mut seen, mut u) = (Seen::default(), Unstructured::new(data));
    let Ok(Some((assigner, mut oracle))) = assigners(&mut u) else {
        seen.refused_options = 1;
        return seen;
    };
    // SAFETY: alive, and nothing is written to NULL.
    assert_eq!(unsafe { br_assigner_describe(assigner, std::ptr::null_mut(), 64) }, br_status::BR_OK);
    for _ in 0..4 {
        if u.is_empty() {
            break;
        }
        if let Ok(call) = Call::arbitrary(&mut u) {
            check(&call, assigner, &mut oracle, &mut seen);
        }
    }
    // SAFETY: made above, and not used again.
    unsafe { br_assigner_free(assigner) };
    seen
}
