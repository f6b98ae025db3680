//! One step's problem as arrays of the caller, and the answer into arrays of the caller.

use balanceroute::batch::{MAX_CLASSES, MAX_WAITING, MAX_WORKERS};
use balanceroute::{BatchError, PredictedEnd, Request, WaitReason, Worker, WorkerIndex};
use half::f16;

use crate::guard::{Failure, Versioned, array, br_status, needed};
use crate::{BR_NONE, BR_NONE64};

/// The workers (data-parallel ranks) as the step begins, `count` entries in each array. Arrays that may be
/// NULL say what that means.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_workers {
    /// `sizeof(br_workers)`.
    pub struct_size: usize,
    /// Number of workers, 1 to 1024.
    pub count: usize,
    /// KV tokens that the running requests read each step.
    pub load_tokens: *const u64,
    /// Requests decoding there now, each of which adds a token a step; NULL for none.
    pub running: *const u32,
    /// Free batch slots.
    pub free_slots: *const u32,
    /// KV tokens that fit, `BR_NONE64` for no bound; NULL for no bound anywhere.
    pub kv_capacity_tokens: *const u64,
    /// KV tokens held, at least the load; NULL for the load.
    pub kv_used_tokens: *const u64,
    /// KV tokens by which running requests are predicted to grow and that an admission must leave free; NULL
    /// for 0.
    pub kv_growth_tokens: *const u64,
    /// Relative step cost per token, 0 to 64; NULL for 1.
    pub weight: *const f32,
    /// 0 for a draining worker: it takes nothing new and still holds the step up; NULL for 1.
    pub accepting: *const u8,
    /// Steps to the next predicted completion, `BR_NONE` for unknown; NULL for unknown everywhere.
    pub next_completion_steps: *const u32,
}

/// The waiting requests in arrival order, of whatever classes, `count` entries in each array.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_requests {
    /// `sizeof(br_requests)`.
    pub struct_size: usize,
    /// Number of requests, 0 to 2^20.
    pub count: usize,
    /// KV tokens that each brings, 1 to 2^22.
    pub prompt_tokens: *const u32,
    /// Names that stay the same from call to call, each once. NULL for the rows 0, 1, 2 and so on, which is
    /// faster and means the same unless the policy has a memory.
    pub ids: *const u64,
    /// Steps waited so far; NULL for 0.
    pub waited_steps: *const u32,
    /// Overdue once it has waited this many steps, `BR_NONE` for no such bound; NULL for none anywhere.
    pub deadline_steps: *const u32,
    /// The only worker that may take it, `BR_NONE` for any; NULL for any everywhere.
    pub rank: *const u32,
    /// Its row in the bonus and eligibility matrices of `br_batch`, `BR_NONE` for none; NULL for none
    /// anywhere.
    pub pair_row: *const u32,
    /// Its row in the survival classes of `br_batch`, `BR_NONE` for none; NULL for none anywhere.
    pub survival_class: *const u32,
    /// How many of its class that came later were admitted before each, to workers that it may use; NULL for
    /// 0.
    pub passed: *const u32,
    /// Class of each, -128 to 127: whoever is of a higher one goes before it; NULL for 0.
    pub priority: *const i32,
}

/// What else is known of the step. All fields but the first may be zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_batch {
    /// `sizeof(br_batch)`.
    pub struct_size: usize,
    /// Mean length of arriving requests in tokens.
    pub mean_prompt_tokens: i64,
    /// Standard deviation of the same.
    pub sd_prompt_tokens: i64,
    /// The 10 % quantile of the same: the smallest refill to be expected.
    pub small_prompt_tokens: i64,
    /// Mean output length of finished requests in tokens.
    pub mean_output_tokens: i64,
    /// Tokens that an admission must leave free for the admitted request's own growth.
    pub request_growth_tokens: u32,
    /// Steps looked ahead by `projection` and `class_survival`, at most 128.
    pub horizon_steps: u32,
    /// Tokens that the requests running now hold in 0 to `horizon_steps` steps: a row of `horizon_steps + 1`
    /// for each worker; NULL for unknown.
    pub projection: *const u64,
    /// Where each worker's predicted completions begin in the two arrays below: one entry more than workers;
    /// NULL for unknown.
    pub end_offsets: *const u32,
    /// Steps until each completion, at least 1, in order of time for each worker.
    pub end_in_steps: *const u32,
    /// KV tokens that each frees.
    pub end_freed_tokens: *const u64,
    /// Rows of the matrices below.
    pub pair_rows: usize,
    /// Bonus in tokens (prefix affinity), a row of one entry per worker for each `pair_row`; NULL for none.
    pub bonus_tokens: *const f32,
    /// Bonuses as the bits of 16-bit floats, instead of `bonus_tokens`; NULL for none.
    pub bonus_half_tokens: *const u16,
    /// Eligibility: a row of one 64-bit word per 64 workers for each `pair_row`, bit `g % 64` of word `g /
    /// 64`; NULL for all.
    pub eligible: *const u64,
    /// Number of survival classes, at most 256.
    pub class_count: usize,
    /// Probability to still run after 0 to `horizon_steps` steps: a row of `horizon_steps + 1` for each
    /// class; NULL for none.
    pub class_survival: *const f32,
}

/// What became of a request.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum br_reason {
    /// It is admitted.
    BR_ADMITTED = 0,
    /// It waits: no accepting worker that it may use has a free slot left.
    BR_NO_SLOT = 1,
    /// It waits: slots are free, but the KV cache there would not hold it and the predicted growth.
    BR_NO_CAPACITY = 2,
    /// It waits: slots are free, but only on workers that it may not use.
    BR_NOT_ELIGIBLE = 3,
    /// It waits: the policy looks at the oldest few only, and it is not among them.
    BR_OUTSIDE_WINDOW = 4,
    /// It waits: the policy keeps the slot for another request.
    BR_DEFERRED = 5,
    /// It waits: it is overdue and fits nowhere, and a worker is kept for it until it does.
    BR_CLAIMS = 6,
    /// It waits: it would fit only on the worker that is kept for such a request.
    BR_CLAIMED = 7,
    /// It waits for a reason that this version has no name for.
    BR_OTHER_REASON = 255,
}

impl From<WaitReason> for br_reason {
    fn from(reason: WaitReason) -> Self {
        match reason {
            WaitReason::NoSlot => Self::BR_NO_SLOT,
            WaitReason::NoCapacity => Self::BR_NO_CAPACITY,
            WaitReason::NotEligible => Self::BR_NOT_ELIGIBLE,
            WaitReason::OutsideWindow => Self::BR_OUTSIDE_WINDOW,
            WaitReason::Deferred => Self::BR_DEFERRED,
            WaitReason::Claims => Self::BR_CLAIMS,
            WaitReason::Claimed => Self::BR_CLAIMED,
            _ => Self::BR_OTHER_REASON,
        }
    }
}

/// The answer, in arrays of the caller; those that may be NULL are not filled then.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_answer {
    /// `sizeof(br_answer)`.
    pub struct_size: usize,
    /// Entries that `row`, `worker` and `score_tokens` hold; the free slots of accepting workers, or all
    /// requests if fewer, always suffice.
    pub capacity: usize,
    /// Out: admissions, in the order of decision; with `BR_SPACE` the capacity that suffices.
    pub count: usize,
    /// Out: row of each admitted request.
    pub row: *mut u32,
    /// Out: its worker.
    pub worker: *mut u32,
    /// Out: the score that won, in tokens, comparable within one call; or NULL.
    pub score_tokens: *mut f64,
    /// Out: a `br_reason` for every request; or NULL.
    pub wait_reason: *mut u8,
    /// Out: the greatest load before, in tokens times weight.
    pub envelope_before_tokens: f64,
    /// Out: workers times the greatest load minus the sum of loads, before.
    pub imbalance_before_tokens: f64,
    /// Out: the greatest load after.
    pub envelope_after_tokens: f64,
    /// Out: the imbalance after.
    pub imbalance_after_tokens: f64,
}

// SAFETY (all four): they begin with their size, and NULL and zero are allowed everywhere.
// SAFETY: see above.
unsafe impl Versioned for br_workers {
    const NAME: &'static str = "br_workers";
    const FIRST_SIZE: usize = 11 * size_of::<usize>();
}
// SAFETY: see above.
unsafe impl Versioned for br_requests {
    const NAME: &'static str = "br_requests";
    const FIRST_SIZE: usize = 9 * size_of::<usize>();
}
// SAFETY: see above.
unsafe impl Versioned for br_batch {
    const NAME: &'static str = "br_batch";
    const FIRST_SIZE: usize = std::mem::offset_of!(br_batch, class_survival) + size_of::<usize>();
}
// SAFETY: see above.
unsafe impl Versioned for br_answer {
    const NAME: &'static str = "br_answer";
    const FIRST_SIZE: usize = std::mem::offset_of!(br_answer, imbalance_after_tokens) + size_of::<f64>();
}

fn some(found: u32) -> Option<u32> {
    (found != BR_NONE).then_some(found)
}

/// Reads the workers into `out`, which is emptied first.
///
/// # Safety
/// The arrays are as the header says.
pub(crate) unsafe fn read_workers(from: &br_workers, out: &mut Vec<Worker>) -> Result<(), Failure> {
    let count = from.count;
    if count > MAX_WORKERS {
        return Err(BatchError::TooManyWorkers { limit: MAX_WORKERS, found: count }.into());
    }
    // SAFETY: the caller's word.
    let (load, free, running, capacity, used, growth, weight, accepting, completion) = unsafe {
        (
            needed("br_workers.load_tokens", from.load_tokens, count)?,
            needed("br_workers.free_slots", from.free_slots, count)?,
            array("br_workers.running", from.running, count)?,
            array("br_workers.kv_capacity_tokens", from.kv_capacity_tokens, count)?,
            array("br_workers.kv_used_tokens", from.kv_used_tokens, count)?,
            array("br_workers.kv_growth_tokens", from.kv_growth_tokens, count)?,
            array("br_workers.weight", from.weight, count)?,
            array("br_workers.accepting", from.accepting, count)?,
            array("br_workers.next_completion_steps", from.next_completion_steps, count)?,
        )
    };
    out.clear();
    out.extend((0..count).map(|at| {
        Worker::new(load[at], running.map_or(0, |of| of[at]), free[at])
            .capacity(capacity.map(|of| of[at]).filter(|&tokens| tokens != BR_NONE64))
            .kv_used(used.map_or(load[at], |of| of[at]))
            .kv_growth(growth.map_or(0, |of| of[at]))
            .weight(weight.map_or(1.0, |of| of[at]))
            .accepting(accepting.is_none_or(|of| of[at] != 0))
            .next_completion(completion.and_then(|of| some(of[at])))
    }));
    Ok(())
}

/// Reads the requests into `out`, which is emptied first.
///
/// # Safety
/// The arrays are as the header says.
pub(crate) unsafe fn read_requests(from: &br_requests, out: &mut Vec<Request>) -> Result<(), Failure> {
    let count = from.count;
    if count > MAX_WAITING {
        return Err(BatchError::TooManyWaiting { limit: MAX_WAITING, found: count }.into());
    }
    // SAFETY: the caller's word.
    let (prompt, ids, waited, deadline, rank, pair_row, class, passed, priority) = unsafe {
        (
            needed("br_requests.prompt_tokens", from.prompt_tokens, count)?,
            array("br_requests.ids", from.ids, count)?,
            array("br_requests.waited_steps", from.waited_steps, count)?,
            array("br_requests.deadline_steps", from.deadline_steps, count)?,
            array("br_requests.rank", from.rank, count)?,
            array("br_requests.pair_row", from.pair_row, count)?,
            array("br_requests.survival_class", from.survival_class, count)?,
            array("br_requests.passed", from.passed, count)?,
            array("br_requests.priority", from.priority, count)?,
        )
    };
    if let Some(at) = class.and_then(|of| of.iter().position(|&c| c != BR_NONE && c as usize >= MAX_CLASSES))
    {
        let found = class.map_or(0, |of| of[at]);
        let limit = MAX_CLASSES - 1;
        let text = format!("request {at}: survival class must be at most {limit}, found {found}");
        return Err(Failure::new(br_status::BR_BATCH, text));
    }
    let id = |at: usize| ids.map_or(at as u64, |of| of[at]);
    for (at, &found) in priority.unwrap_or_default().iter().enumerate() {
        BatchError::check_priority(Some(at), id(at).into(), found.into())?;
    }
    out.clear();
    out.extend((0..count).map(|at| {
        Request::new(id(at), prompt[at])
            .waited(waited.map_or(0, |of| of[at]))
            .passed(passed.map_or(0, |of| of[at]))
            .priority(priority.map_or(0, |of| of[at] as i8))
            .deadline(deadline.and_then(|of| some(of[at])))
            .rank(rank.and_then(|of| some(of[at])))
            .pairs(pair_row.and_then(|of| some(of[at])))
            .class(class.and_then(|of| some(of[at])).map(|class| class as u8))
    }));
    Ok(())
}

/// The arrays of a `br_batch`.
#[derive(Default)]
pub(crate) struct Terms<'a> {
    pub projection: Option<&'a [u64]>,
    pub end_offsets: Option<&'a [u32]>,
    pub bonus_tokens: &'a [f32],
    pub bonus_half_tokens: &'a [f16],
    pub eligible: &'a [u64],
    pub class_survival: Option<&'a [f32]>,
}

/// A product of sizes; far too large instead of wrapped, so that it is refused.
fn area(rows: usize, width: usize) -> usize {
    rows.saturating_mul(width)
}

/// Reads the terms of a step; predicted completions go into `ends`, which is emptied first.
///
/// # Safety
/// The arrays are as the header says and stay so during `'a`.
pub(crate) unsafe fn read_terms<'a>(
    from: &br_batch,
    workers: usize,
    ends: &mut Vec<PredictedEnd>,
) -> Result<Terms<'a>, Failure> {
    let width = from.horizon_steps as usize + 1;
    let rows = from.pair_rows;
    // SAFETY: the caller's word.
    let (terms, offsets) = unsafe {
        let offsets: Option<&'a [u32]> = array("br_batch.end_offsets", from.end_offsets, workers + 1)?;
        let half =
            array("br_batch.bonus_half_tokens", from.bonus_half_tokens.cast::<f16>(), area(rows, workers))?;
        let terms = Terms {
            projection: array("br_batch.projection", from.projection, area(workers, width))?,
            end_offsets: offsets,
            bonus_tokens: array("br_batch.bonus_tokens", from.bonus_tokens, area(rows, workers))?
                .unwrap_or_default(),
            bonus_half_tokens: half.unwrap_or_default(),
            eligible: array("br_batch.eligible", from.eligible, area(rows, workers.div_ceil(64)))?
                .unwrap_or_default(),
            class_survival: array(
                "br_batch.class_survival",
                from.class_survival,
                area(from.class_count, width),
            )?,
        };
        (terms, offsets)
    };
    ends.clear();
    if let Some(offsets) = offsets {
        // The last one says how much is read, and each of them is followed later on.
        let mut before = 0;
        for (at, &offset) in offsets.iter().enumerate() {
            if offset < before || (at == 0 && offset != 0) {
                return Err(BatchError::PredictedEnd {
                    worker: WorkerIndex::at(at.saturating_sub(1)),
                    index: 0,
                    expected: "offsets that begin at 0 and do not fall",
                    found: u64::from(offset),
                }
                .into());
            }
            before = offset;
        }
        let count = before as usize;
        // SAFETY: the caller's word.
        let (steps, tokens) = unsafe {
            (
                needed("br_batch.end_in_steps", from.end_in_steps, count)?,
                needed("br_batch.end_freed_tokens", from.end_freed_tokens, count)?,
            )
        };
        ends.extend(
            steps
                .iter()
                .zip(tokens)
                .map(|(&in_steps, &freed_tokens)| PredictedEnd { in_steps, freed_tokens }),
        );
    }
    Ok(terms)
}
