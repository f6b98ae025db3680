//! The state across steps.

use std::collections::HashMap;
use std::ffi::c_char;
use std::mem::offset_of;

use balanceroute::batch::MAX_BONUS_TOKENS;
use balanceroute::router::{
    self as core, Decided, Dispatch, Explanation, Histogram, Metrics, Mode, Placement, ReturnReason,
    Returned, RouterConfig, Share, Verdict, WorkerConfig, WorkerReport,
};
use balanceroute::{Request, Router, RouterError, WaitReason};

use crate::columns::br_reason;
use crate::door::{
    Failure, Handle, Mend, Versioned, array, br_options, br_status, build_policy, caught, copy_text, free,
    make, maybe_output, needed, output, read_versioned, write_versioned,
};
use crate::{BR_NONE, BR_NONE64};

/// A cluster's state across steps and the policy that decides. Calls with one handle come one at a time, from any thread.
///
/// Every request that was let in leaves exactly once: by `br_router_finish`, `br_router_abort` or `br_router_preempt`, or as a `br_returned`.
/// `now_ms` is the caller's clock in milliseconds, any origin; a clock that is set back or far ahead neither stops nor moves the time here.
pub struct br_router(Handle<State>);

struct State {
    router: Router,
    metrics: Metrics,
    /// Requests that have left and that the caller has not been told of yet, oldest first.
    returned: Vec<Returned>,
    waiting: Vec<(u64, WaitReason)>,
    bonus_of: HashMap<u64, usize>,
    /// What `br_router_at` has said, until the next reading of the clock.
    now_ms: Option<u64>,
}

impl Mend for State {
    const WAY_OUT: &'static str = "br_router_recover gives every request back and begins anew";
}

impl br_router {
    /// The handle inside; NULL for NULL.
    ///
    /// # Safety
    /// `router` is NULL or alive.
    unsafe fn handle(router: *mut Self) -> *mut Handle<State> {
        // SAFETY: alive if not NULL; no reference is made.
        if router.is_null() { std::ptr::null_mut() } else { unsafe { &raw mut (*router).0 } }
    }

    /// Runs `f` on the state.
    ///
    /// # Safety
    /// `router` is NULL or alive.
    unsafe fn enter(router: *mut Self, f: impl FnOnce(&mut State) -> Result<(), Failure>) -> br_status {
        // SAFETY: passed on.
        unsafe { Handle::enter(Self::handle(router), f) }
    }
}

impl From<RouterError> for Failure {
    fn from(error: RouterError) -> Self {
        let status = match &error {
            RouterError::Batch(_) => br_status::BR_BATCH,
            RouterError::Policy(_) => br_status::BR_POLICY,
            RouterError::Unknown { .. } => br_status::BR_UNKNOWN_REQUEST,
            RouterError::Worker { .. } => br_status::BR_UNKNOWN_WORKER,
            // Nothing has changed by it.
            RouterError::Panicked { .. } => br_status::BR_INTERNAL,
            _ => br_status::BR_STATE,
        };
        Self::new(status, error.to_string())
    }
}

/// When `br_router_place` decides.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum br_mode {
    /// Never: every request waits for a step.
    BR_STEP = 0,
    /// Always, where a worker has room.
    BR_ARRIVAL = 1,
    /// While more than `mixed_free_slots` slots are open over all workers.
    BR_MIXED = 2,
}

/// How a router is made; `br_router_defaults` fills it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_router_config {
    /// `sizeof(br_router_config)`.
    pub struct_size: usize,
    /// Number of workers; their ids are 0, 1, 2 and so on. May be 0.
    pub worker_count: usize,
    /// Batch slots of each worker.
    pub slots: *const u32,
    /// KV tokens that fit on each, `BR_NONE64` for no bound; NULL for no bound anywhere.
    pub kv_capacity_tokens: *const u64,
    /// Relative step cost per token of each, 0 to 64; NULL for 1.
    pub weight: *const f32,
    /// Steps of growth that an admission leaves free for each running request and for itself, where the KV cache is bounded; 256.
    pub headroom_steps: u32,
    /// Steps between two predictions for the same running request; 16.
    pub refresh_steps: u32,
    /// How far ahead predicted ends are kept, in steps; 512.
    pub ends_horizon_steps: u32,
    /// A `br_mode`; `BR_STEP`.
    pub mode: u32,
    /// Used with `BR_MIXED`.
    pub mixed_free_slots: u32,
    /// Which part of every worker is this router's, below `share_of`; 0.
    pub share_index: u32,
    /// Number of front ends that feed the same workers; 1.
    pub share_of: u32,
    /// Whether `br_router_explain` has something to say about admissions; 0.
    pub explaining: u32,
    /// A dispatch is lost, and returned, when a report that comes at least this long after it has not seen it; `BR_NONE64` for never, the default.
    pub dispatch_timeout_ms: u64,
    /// A dispatch is returned when nothing at all has shown it for this long; `BR_NONE64` for never, the default.
    pub silence_timeout_ms: u64,
    /// A request is returned when it has waited this long; `BR_NONE64` for never, the default.
    pub expire_after_ms: u64,
}

// SAFETY: begins with its size; NULL and zero are allowed everywhere.
unsafe impl Versioned for br_router_config {
    const NAME: &'static str = "br_router_config";
    const FIRST_SIZE: usize = offset_of!(br_router_config, expire_after_ms) + size_of::<u64>();
}

/// `br_request.fields`: `rank` is set.
pub const BR_HAS_RANK: u32 = 1;
/// `br_request.fields`: `deadline_steps` is set.
pub const BR_HAS_DEADLINE: u32 = 2;
/// `br_request.fields`: `prompt_hash` is set.
pub const BR_HAS_PROMPT_HASH: u32 = 4;

/// A request that arrives. All fields but the first three may be zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_request {
    /// `sizeof(br_request)`.
    pub struct_size: usize,
    /// Unique among those that wait or run.
    pub id: u64,
    /// KV tokens that it brings, 1 to 2^22.
    pub prompt_tokens: u32,
    /// Which of the fields below are set: `BR_HAS_RANK`, `BR_HAS_DEADLINE`, `BR_HAS_PROMPT_HASH`.
    pub fields: u32,
    /// The id of the only worker that may take it (a sticky session, an explicit rank).
    pub rank: u32,
    /// Overdue once it has waited this many steps.
    pub deadline_steps: u32,
    /// Equal for equal prompts, for forecasts that know repeated prompts.
    pub prompt_hash: u64,
    /// Steps waited so far.
    pub waited_steps: u32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: begins with its size; zero is allowed everywhere.
unsafe impl Versioned for br_request {
    const NAME: &'static str = "br_request";
    const FIRST_SIZE: usize = offset_of!(br_request, reserved) + size_of::<u32>();
}

/// One admission, numbered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_dispatch {
    /// Request id.
    pub id: u64,
    /// Its number among the dispatches to this worker, 1, 2, 3 and so on: what a report acknowledges. 0: it waits.
    pub number: u64,
    /// The score that won, in tokens; comparable within one decision.
    pub score_tokens: f64,
    /// Worker id.
    pub worker: u32,
    /// Its length in tokens.
    pub prompt_tokens: u32,
}

/// Why a request comes back.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum br_return_reason {
    /// A report that came long enough after the dispatch has not seen it.
    BR_LOST_DISPATCH = 1,
    /// Nothing at all has shown the dispatch for the silence timeout.
    BR_WORKER_SILENT = 2,
    /// The worker had acknowledged it and has reported for the dispatch timeout that it holds no request.
    BR_WORKER_FORGOT = 3,
    /// Its worker was removed.
    BR_WORKER_REMOVED = 4,
    /// It waits for a worker that is draining and might go nowhere else.
    BR_WORKER_DRAINING = 5,
    /// It and its headroom are longer than the KV cache of any worker that it may use.
    BR_NEVER_FITS = 6,
    /// It has waited for the time that the configuration allows.
    BR_EXPIRED = 7,
    /// The router has begun anew (`br_router_recover`): it waited, or runs on.
    BR_RECOVERED = 8,
    /// A reason that this version has no name for.
    BR_OTHER_RETURN = 255,
}

impl From<ReturnReason> for br_return_reason {
    fn from(reason: ReturnReason) -> Self {
        match reason {
            ReturnReason::LostDispatch => Self::BR_LOST_DISPATCH,
            ReturnReason::WorkerSilent => Self::BR_WORKER_SILENT,
            ReturnReason::WorkerForgot => Self::BR_WORKER_FORGOT,
            ReturnReason::WorkerRemoved => Self::BR_WORKER_REMOVED,
            ReturnReason::WorkerDraining => Self::BR_WORKER_DRAINING,
            ReturnReason::NeverFits => Self::BR_NEVER_FITS,
            ReturnReason::Expired => Self::BR_EXPIRED,
            ReturnReason::Recovered => Self::BR_RECOVERED,
            _ => Self::BR_OTHER_RETURN,
        }
    }
}

/// A request that leaves without having finished; it may be enqueued again.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_returned {
    /// Request id.
    pub id: u64,
    /// The worker that it ran on or was bound to, `BR_NONE` for none.
    pub worker: u32,
    /// A `br_return_reason`.
    pub reason: u32,
    /// Tokens that it is known to have generated.
    pub generated_tokens: u32,
    /// Zero.
    pub reserved: u32,
}

/// The answer of one step, in arrays of the caller.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_plan {
    /// `sizeof(br_plan)`.
    pub struct_size: usize,
    /// Who enters which worker, in the order of decision.
    pub admissions: *mut br_dispatch,
    /// Entries that `admissions` holds; as many as requests wait, or as all slots together, always suffice.
    pub admission_capacity: usize,
    /// Out: admissions; with `BR_SPACE` the capacity that suffices.
    pub admission_count: usize,
    /// Who has left without having finished and was not told of before; NULL to ask with `br_router_returned`.
    pub returned: *mut br_returned,
    /// Entries that `returned` holds.
    pub returned_capacity: usize,
    /// Out: how many of them are told of here.
    pub returned_count: usize,
    /// Out: how many more there are: the next step tells, or `br_router_returned`.
    pub returned_left: usize,
    /// Out: the greatest load before, in tokens times weight.
    pub envelope_before_tokens: f64,
    /// Out: workers times the greatest load minus the sum of loads, before.
    pub imbalance_before_tokens: f64,
    /// Out: the greatest load after.
    pub envelope_after_tokens: f64,
    /// Out: the imbalance after.
    pub imbalance_after_tokens: f64,
}

// SAFETY: begins with its size; NULL and zero are allowed everywhere.
unsafe impl Versioned for br_plan {
    const NAME: &'static str = "br_plan";
    const FIRST_SIZE: usize = offset_of!(br_plan, imbalance_after_tokens) + size_of::<f64>();
}

/// What single requests gain on single workers in tokens, such as prefix affinity.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_bonuses {
    /// `sizeof(br_bonuses)`.
    pub struct_size: usize,
    /// Number of requests that have a bonus.
    pub count: usize,
    /// Their ids.
    pub ids: *const u64,
    /// A row of one entry per worker, in order of id, for each.
    pub tokens: *const f32,
}

// SAFETY: begins with its size; NULL and zero are allowed everywhere.
unsafe impl Versioned for br_bonuses {
    const NAME: &'static str = "br_bonuses";
    const FIRST_SIZE: usize = 4 * size_of::<usize>();
}

/// What a worker measured.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_report {
    /// `sizeof(br_report)`.
    pub struct_size: usize,
    /// Rises with each of this worker's reports; `BR_NONE64`: reports are taken to come in order.
    pub sequence: u64,
    /// Greatest dispatch number that the worker had received, 0 for none; `BR_NONE64` when it cannot tell. What it has not seen stays counted on top of
    /// what it measured.
    pub last_dispatch: u64,
    /// Bit `i`: it had not received number `last_dispatch - 1 - i`.
    pub missing: u64,
    /// KV tokens in use.
    pub kv_used_tokens: u64,
    /// KV tokens that fit; `BR_NONE64` leaves the capacity as it was.
    pub kv_capacity_tokens: u64,
    /// Requests that decode there.
    pub running: u32,
    /// Requests that it holds and that do not decode yet.
    pub waiting: u32,
}

// SAFETY: begins with its size; zero is allowed everywhere.
unsafe impl Versioned for br_report {
    const NAME: &'static str = "br_report";
    const FIRST_SIZE: usize = offset_of!(br_report, waiting) + size_of::<u32>();
}

/// What became of a report.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum br_verdict {
    /// It is the newest: the state is now what it measured plus what it has not seen.
    BR_TAKEN = 0,
    /// It carries the number of the newest one: ignored.
    BR_REPEATED = 1,
    /// It is older than the newest one: its acknowledgement counts, its measurement does not.
    BR_LATE = 2,
    /// It is newer by its number and has seen less than the one before: ignored.
    BR_CONTRADICTORY = 3,
    /// A verdict that this version has no name for.
    BR_OTHER_VERDICT = 255,
}

/// Why a decision fell as it did.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_explanation {
    /// `sizeof(br_explanation)`.
    pub struct_size: usize,
    /// Out: a `br_decided`.
    pub decided: u32,
    /// Out: a `br_reason`, if it waits.
    pub wait_reason: u32,
    /// Out: the worker that it entered, `BR_NONE` if it waits.
    pub worker: u32,
    /// Out: the worker that came second, `BR_NONE` if there was none or the policy scores no pairs.
    pub runner_up: u32,
    /// Out: the score that won, in tokens, after the picks before it; NaN if it waits.
    pub score_tokens: f64,
    /// Out: its score there as the step began; NaN for a policy that scores no pairs.
    pub opening_score_tokens: f64,
    /// Out: the runner-up's score as the step began; NaN without one.
    pub runner_up_score_tokens: f64,
    /// Out: tokens by which the worker was below the most loaded one as the step began.
    pub margin_tokens: f64,
    /// Out: steps that it has waited, while it waits.
    pub waited_steps: u32,
    /// Zero.
    pub reserved: u32,
}

// SAFETY: begins with its size; zero is allowed everywhere.
unsafe impl Versioned for br_explanation {
    const NAME: &'static str = "br_explanation";
    const FIRST_SIZE: usize = offset_of!(br_explanation, reserved) + size_of::<u32>();
}

/// How a request was decided.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum br_decided {
    /// Nothing is known of it.
    BR_UNDECIDED = 0,
    /// Admitted by the last step.
    BR_BY_STEP = 1,
    /// Placed on arrival since.
    BR_BY_ARRIVAL = 2,
    /// It waits.
    BR_WAITS = 3,
}

/// Buckets of a histogram.
pub const BR_BUCKETS: usize = 40;

/// Counts in powers of two: bucket `b` has values of `b` binary digits, the last one all that are longer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_histogram {
    /// Counts.
    pub buckets: [u64; BR_BUCKETS],
    /// Sum of all values.
    pub sum: u64,
}

const _: () = assert!(BR_BUCKETS == Histogram::BUCKETS);

impl From<Histogram> for br_histogram {
    fn from(of: Histogram) -> Self {
        Self { buckets: of.buckets, sum: of.sum }
    }
}

/// One worker as it stands.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_rank_metrics {
    /// KV tokens that it reads each step, foreign ones included.
    pub load_tokens: u64,
    /// Tokens by which it is below the most loaded worker.
    pub margin_tokens: f64,
    /// KV tokens counted as used.
    pub kv_used_tokens: u64,
    /// KV tokens kept free for the growth of what runs.
    pub kv_growth_tokens: u64,
    /// KV tokens that fit, our share of them; `BR_NONE64` for no bound.
    pub kv_capacity_tokens: u64,
    /// Tokens that the last report showed and that are none of ours.
    pub foreign_tokens: u64,
    /// Dispatches made.
    pub dispatches: u64,
    /// The last one acknowledged by a report.
    pub acknowledged: u64,
    /// Milliseconds since a report was taken; `BR_NONE64` before the first.
    pub report_age_ms: u64,
    /// Reports: taken, repeated, late, contradictory, and 0: a refused one changes nothing, this count included.
    pub reports: [u64; 5],
    /// Worker id.
    pub worker: u32,
    /// Whether it takes new requests.
    pub accepting: u32,
    /// Whether it is being drained.
    pub draining: u32,
    /// Requests of ours that run there.
    pub running: u32,
    /// Slots of ours.
    pub slots: u32,
    /// Slots that an admission could take.
    pub free_slots: u32,
    /// Requests that the last report showed and that are none of ours.
    pub foreign_requests: u32,
    /// Dispatches that nothing has shown yet.
    pub unseen: u32,
}

/// How a router stands and what has happened since it was made.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct br_metrics {
    /// `sizeof(br_metrics)`.
    pub struct_size: usize,
    /// One entry per worker, in order of id; or NULL.
    pub ranks: *mut br_rank_metrics,
    /// Entries that `ranks` holds.
    pub rank_capacity: usize,
    /// Out: workers; more than `rank_capacity` only if `ranks` is NULL.
    pub rank_count: usize,
    /// Out: the caller's clock.
    pub now_ms: u64,
    /// Out: the step clock.
    pub step: u64,
    /// Out: requests that wait.
    pub waiting: u64,
    /// Out: the same by `br_reason`; entry 0 stays zero.
    pub waiting_by_reason: [u64; 6],
    /// Out: requests that run.
    pub running: u64,
    /// Out: the greatest load, tokens times weight: a step lasts as long as this.
    pub envelope_tokens: f64,
    /// Out: workers times the greatest load minus the sum of loads.
    pub imbalance_tokens: f64,
    /// Out: wait of the first of those who wait now.
    pub longest_wait_ms: u64,
    /// Out: longest wait of those who wait now.
    pub longest_wait_steps: u64,
    /// Out: requests enqueued, placed or adopted.
    pub arrived: u64,
    /// Out: admissions by steps.
    pub admitted_by_step: u64,
    /// Out: placements on arrival.
    pub placed_on_arrival: u64,
    /// Out: requests that finished.
    pub finished: u64,
    /// Out: requests given up.
    pub aborted: u64,
    /// Out: requests put off their worker.
    pub preempted: u64,
    /// Out: requests returned, by `br_return_reason` up to `BR_EXPIRED`; entry 0 stays zero.
    pub returned: [u64; 8],
    /// Out: time of a decision in nanoseconds.
    pub decide_ns: br_histogram,
    /// Out: waits of the admitted in milliseconds.
    pub wait_ms: br_histogram,
    /// Out: the same in steps.
    pub wait_steps: br_histogram,
    /// Out: requests returned as `BR_RECOVERED`.
    pub recovered: u64,
    /// Out: jumps of the caller's clock: readings more than ten minutes ahead of the last one or more than ten seconds behind it. No time passes by them.
    pub clock_jumps: u64,
}

// SAFETY: begins with its size; NULL and zero are allowed everywhere.
unsafe impl Versioned for br_metrics {
    const NAME: &'static str = "br_metrics";
    const FIRST_SIZE: usize = offset_of!(br_metrics, wait_steps) + size_of::<br_histogram>();
}

/// Refuses a bonus that none can be, before anything of the call is kept.
fn check_bonuses(what: &str, tokens: &[f32]) -> Result<(), Failure> {
    let limit = MAX_BONUS_TOKENS;
    match tokens.iter().position(|found| !(-limit..=limit).contains(found)) {
        Some(at) => {
            let (limit, found) = (f64::from(limit), tokens[at]);
            let text = format!("{what}, entry {at}: must be in -{limit}..={limit}, found {found}");
            Err(Failure::new(br_status::BR_BATCH, text))
        }
        None => Ok(()),
    }
}

fn some64(found: u64) -> Option<u64> {
    (found != BR_NONE64).then_some(found)
}

/// Fills a configuration with its defaults: no workers yet. Set `struct_size` first.
///
/// # Safety
/// `config` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_defaults(config: *mut br_router_config) -> br_status {
    let done = caught(|| {
        // SAFETY: the caller's word. Only the size is looked at: the rest may be anything.
        unsafe {
            if config.is_null() || !config.is_aligned() {
                return Err(Failure::argument("br_router_config"));
            }
            let size = config.cast::<usize>().read();
            if !(br_router_config::FIRST_SIZE..=4096).contains(&size) {
                return Err(Failure::argument("br_router_config.struct_size"));
            }
            config.cast::<u8>().add(size_of::<usize>()).write_bytes(0, size - size_of::<usize>());
        }
        let defaults = RouterConfig::new(0, 0);
        let found = br_router_config {
            struct_size: size_of::<br_router_config>(),
            worker_count: 0,
            slots: std::ptr::null(),
            kv_capacity_tokens: std::ptr::null(),
            weight: std::ptr::null(),
            headroom_steps: defaults.headroom_steps,
            refresh_steps: defaults.refresh_steps,
            ends_horizon_steps: defaults.ends_horizon_steps,
            mode: br_mode::BR_STEP as u32,
            mixed_free_slots: 0,
            share_index: defaults.share.index,
            share_of: defaults.share.of,
            explaining: 0,
            dispatch_timeout_ms: BR_NONE64,
            silence_timeout_ms: BR_NONE64,
            expire_after_ms: BR_NONE64,
        };
        // SAFETY: checked above.
        unsafe { write_versioned(&found, config) };
        Ok(())
    });
    done.map_or_else(|failure| failure.status, |()| br_status::BR_OK)
}

/// Makes a router of a policy ("level" for NULL), options (NULL for none) and a configuration into `*router`, NULL when it fails. The text of an error
/// goes into `error`, which has `error_size` bytes and may be NULL.
///
/// # Safety
/// Pointers are NULL or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_new(
    policy: *const c_char,
    options: *const br_options,
    config: *const br_router_config,
    router: *mut *mut br_router,
    error: *mut c_char,
    error_size: usize,
) -> br_status {
    let made = || {
        // SAFETY: the caller's word.
        let (policy, config) =
            unsafe { (build_policy(policy, options)?.0, read_config(&read_versioned(config)?)?) };
        let (config, explaining) = config;
        let classifier = policy.needs().forecast.map(balanceroute::forecast::classifier_for);
        let mut made = Router::with_policy(config, policy, classifier)?;
        made.set_explaining(explaining);
        let state = State {
            router: made,
            metrics: Metrics::default(),
            returned: Vec::new(),
            waiting: Vec::new(),
            bonus_of: HashMap::new(),
            now_ms: None,
        };
        Ok(br_router(Handle::new(state)))
    };
    // SAFETY: the caller's word.
    unsafe { make("router", router, (error, error_size), made) }
}

/// # Safety
/// The arrays are as the header says.
unsafe fn read_config(from: &br_router_config) -> Result<(RouterConfig, bool), Failure> {
    let count = from.worker_count;
    if count > balanceroute::batch::MAX_WORKERS {
        let limit = balanceroute::batch::MAX_WORKERS;
        return Err(balanceroute::BatchError::TooManyWorkers { limit, found: count }.into());
    }
    // SAFETY: the caller's word.
    let (slots, capacity, weight) = unsafe {
        (
            needed("br_router_config.slots", from.slots, count)?,
            array("br_router_config.kv_capacity_tokens", from.kv_capacity_tokens, count)?,
            array("br_router_config.weight", from.weight, count)?,
        )
    };
    let mode = match from.mode {
        0 => Mode::Step,
        1 => Mode::Arrival,
        2 => Mode::Mixed { free_slots: from.mixed_free_slots },
        found => {
            return Err(Failure::argument(format!(
                "br_router_config.mode: expected a br_mode, found {found}"
            )));
        }
    };
    let worker = |at: usize| WorkerConfig {
        slots: slots[at],
        kv_capacity_tokens: capacity.and_then(|of| some64(of[at])),
        weight: weight.map_or(1.0, |of| of[at]),
    };
    let config = RouterConfig {
        workers: (0..count).map(worker).collect(),
        headroom_steps: from.headroom_steps,
        refresh_steps: from.refresh_steps,
        ends_horizon_steps: from.ends_horizon_steps,
        mode,
        share: Share { index: from.share_index, of: from.share_of },
        dispatch_timeout_ms: some64(from.dispatch_timeout_ms),
        silence_timeout_ms: some64(from.silence_timeout_ms),
        expire_after_ms: some64(from.expire_after_ms),
    };
    Ok((config, from.explaining != 0))
}

/// Frees a router, after its last call; NULL is allowed.
///
/// # Safety
/// It is NULL, or was made by `br_router_new`, is not freed yet, and nobody is inside.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_free(router: *mut br_router) {
    // SAFETY: the caller's word.
    unsafe { free(router) }
}

/// The text of the last call's error, cut to `size` bytes with the closing zero: its length without the zero; "" after a call without error.
///
/// # Safety
/// `router` is NULL or alive, `buffer` NULL or of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_error(router: *mut br_router, buffer: *mut c_char, size: usize) -> usize {
    // SAFETY: the caller's word.
    unsafe { Handle::last_error(br_router::handle(router), buffer, size) }
}

/// Which policy and backend decide, on which instruction set, and why, into `buffer` of `size` bytes.
///
/// # Safety
/// `router` is NULL or alive, `buffer` NULL or of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_describe(
    router: *mut br_router,
    buffer: *mut c_char,
    size: usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let policy = state.router.policy();
            copy_text(&format!("{}; {}", policy.name(), policy.describe()), buffer, size);
            Ok(())
        })
    }
}

/// # Safety
/// `from` is NULL or as the header says.
unsafe fn read_request(from: *const br_request) -> Result<Request, Failure> {
    // SAFETY: passed on.
    let from = unsafe { read_versioned(from) }?;
    let known = BR_HAS_RANK | BR_HAS_DEADLINE | BR_HAS_PROMPT_HASH;
    if from.fields & !known != 0 || from.reserved != 0 {
        let found = from.fields;
        return Err(Failure::argument(format!(
            "br_request.fields: expected flags of {known:#x}, found {found:#x}"
        )));
    }
    let has = |flag: u32| from.fields & flag != 0;
    Ok(Request {
        waited_steps: from.waited_steps,
        deadline_steps: has(BR_HAS_DEADLINE).then_some(from.deadline_steps),
        prompt_hash: has(BR_HAS_PROMPT_HASH).then_some(from.prompt_hash),
        rank: has(BR_HAS_RANK).then_some(from.rank),
        ..Request::new(from.id, from.prompt_tokens)
    })
}

fn dispatch_of(of: &Dispatch) -> br_dispatch {
    let &Dispatch { id, worker, number, prompt_tokens, score_tokens } = of;
    br_dispatch { id, number, score_tokens, worker, prompt_tokens }
}

/// Tells the time: `br_router_enqueue`, `br_router_report`, `br_router_finish` and `br_router_abort` happen at `now_ms` until the clock is read again, here, by
/// `br_router_step` or by `br_router_place`. Without it they happen at the last reading, and a wait begins at the next one.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_at(router: *mut br_router, now_ms: u64) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            state.now_ms = Some(now_ms);
            Ok(())
        })
    }
}

/// Lets a request wait for a step.
///
/// # Safety
/// `router` is NULL or alive, `request` NULL or a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_enqueue(router: *mut br_router, request: *const br_request) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| Ok(state.router.enqueue(read_request(request)?, state.now_ms)?))
    }
}

/// A request arrives: it enters a worker at once if the mode decides on arrival and one has room; else it waits, and `dispatch->number` is 0.
/// `bonus_tokens` has one entry per worker, in order of id, or is NULL with a `bonus_count` of 0.
///
/// # Safety
/// `router` is NULL or alive, structs and arrays are as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_place(
    router: *mut br_router,
    request: *const br_request,
    now_ms: u64,
    bonus_tokens: *const f32,
    bonus_count: usize,
    dispatch: *mut br_dispatch,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let request = read_request(request)?;
            let dispatch = output("dispatch", dispatch)?;
            // NULL is no row, but not one of so many entries.
            let bonus = match array("bonus_tokens", bonus_tokens, bonus_count)? {
                None => (bonus_count > 0)
                    .then(|| needed("bonus_tokens", bonus_tokens, bonus_count))
                    .transpose()?,
                row => row,
            };
            let placement = match bonus {
                None => state.router.place(request, now_ms)?,
                Some(row) => {
                    let expected = state.router.worker_ids().len();
                    if row.len() != expected {
                        let found = row.len();
                        let text = format!("bonus_count: expected {expected}, one per worker, found {found}");
                        return Err(Failure::argument(text));
                    }
                    check_bonuses("bonus_tokens", row)?;
                    let mut terms = |_: &Request, into: &mut [f32]| {
                        into.copy_from_slice(row);
                        true
                    };
                    state.router.place_with(request, now_ms, &mut terms)?
                }
            };
            state.now_ms = None;
            dispatch.write(match placement {
                Placement::Placed(found) => dispatch_of(&found),
                Placement::Waits => br_dispatch {
                    id: request.id,
                    number: 0,
                    score_tokens: 0.0,
                    worker: BR_NONE,
                    prompt_tokens: request.prompt_tokens,
                },
            });
            Ok(())
        })
    }
}

/// Takes over a request that already runs on a worker (a restart, a warm start).
///
/// # Safety
/// `router` is NULL or alive, `request` NULL or a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_adopt(
    router: *mut br_router,
    request: *const br_request,
    worker: u32,
    generated_tokens: u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            Ok(state.router.adopt(read_request(request)?, worker, generated_tokens)?)
        })
    }
}

/// A running request has sent its last token. `worker` and `generated_tokens` may be NULL.
///
/// # Safety
/// `router` is NULL or alive, the others are NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_finish(
    router: *mut br_router,
    id: u64,
    worker: *mut u32,
    generated_tokens: *mut u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let worker = maybe_output("worker", worker)?;
            let generated_tokens = maybe_output("generated_tokens", generated_tokens)?;
            let finished = state.router.finish(id, state.now_ms)?;
            write_if(worker, finished.worker);
            write_if(generated_tokens, finished.generated_tokens);
            Ok(())
        })
    }
}

/// A waiting or running request was given up. `worker`, which may be NULL, gets the one that it ran on, `BR_NONE` if it waited.
///
/// # Safety
/// `router` is NULL or alive, `worker` NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_abort(router: *mut br_router, id: u64, worker: *mut u32) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let worker = maybe_output("worker", worker)?;
            let found = state.router.abort(id, state.now_ms)?;
            write_if(worker, found.unwrap_or(BR_NONE));
            Ok(())
        })
    }
}

/// The engine took a running request's KV cache away: it leaves, to be enqueued again with the length in `prompt_tokens`, which may be NULL.
///
/// # Safety
/// `router` is NULL or alive, `prompt_tokens` NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_preempt(
    router: *mut br_router,
    id: u64,
    prompt_tokens: *mut u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let prompt_tokens = maybe_output("prompt_tokens", prompt_tokens)?;
            let request = state.router.preempt(id)?;
            write_if(prompt_tokens, request.prompt_tokens);
            Ok(())
        })
    }
}

/// # Safety
/// `to` comes from [`maybe_output`] and may be written if it is not NULL.
unsafe fn write_if<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: the caller's word.
        unsafe { to.write(value) };
    }
}

/// One lock-step decode step has run: every running request has a token more, everybody who waits has waited a step.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_advance(router: *mut br_router) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            state.router.advance();
            Ok(())
        })
    }
}

/// Every running request of a worker has `tokens` more.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_progress(router: *mut br_router, worker: u32, tokens: u32) -> br_status {
    // SAFETY: the caller's word.
    unsafe { br_router::enter(router, |state| Ok(state.router.progress(worker, tokens)?)) }
}

/// One running request has `tokens` more.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_progress_request(
    router: *mut br_router,
    id: u64,
    tokens: u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe { br_router::enter(router, |state| Ok(state.router.progress_request(id, tokens)?)) }
}

/// Takes in what a worker measured. `verdict`, which may be NULL, gets a `br_verdict`.
///
/// # Safety
/// `router` is NULL or alive, the others are NULL or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_report(
    router: *mut br_router,
    worker: u32,
    report: *const br_report,
    verdict: *mut u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let (of, verdict) = (read_versioned(report)?, maybe_output("verdict", verdict)?);
            let report = WorkerReport {
                sequence: some64(of.sequence),
                last_dispatch: some64(of.last_dispatch),
                missing: of.missing,
                running: of.running,
                waiting: of.waiting,
                kv_used_tokens: of.kv_used_tokens,
                kv_capacity_tokens: some64(of.kv_capacity_tokens),
            };
            let found = match state.router.report(worker, report, state.now_ms)? {
                Verdict::Taken => br_verdict::BR_TAKEN,
                Verdict::Repeated => br_verdict::BR_REPEATED,
                Verdict::Late => br_verdict::BR_LATE,
                Verdict::Contradictory => br_verdict::BR_CONTRADICTORY,
                _ => br_verdict::BR_OTHER_VERDICT,
            };
            write_if(verdict, found as u32);
            Ok(())
        })
    }
}

/// A worker joins, empty: its id into `worker`. `kv_capacity_tokens` is `BR_NONE64` for no bound; `weight` is 1 in a uniform cluster.
///
/// # Safety
/// `router` is NULL or alive, `worker` NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_add_worker(
    router: *mut br_router,
    slots: u32,
    kv_capacity_tokens: u64,
    weight: f32,
    worker: *mut u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let worker = output("worker", worker)?;
            let config = WorkerConfig { slots, kv_capacity_tokens: some64(kv_capacity_tokens), weight };
            worker.write(state.router.add_worker(config)?);
            Ok(())
        })
    }
}

/// A worker takes nobody new; what runs there runs on. Requests that wait for it alone are returned by the next step.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_drain_worker(router: *mut br_router, worker: u32) -> br_status {
    // SAFETY: the caller's word.
    unsafe { br_router::enter(router, |state| Ok(state.router.drain_worker(worker)?)) }
}

/// Whether a worker is draining and holds none of our requests any more: 0 or 1 into `drained`.
///
/// # Safety
/// `router` is NULL or alive, `drained` NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_is_drained(
    router: *mut br_router,
    worker: u32,
    drained: *mut u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let drained = output("drained", drained)?;
            drained.write(state.router.is_drained(worker)?.into());
            Ok(())
        })
    }
}

/// Stops new requests to a worker for a while (0), or resumes them (1).
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_set_accepting(
    router: *mut br_router,
    worker: u32,
    accepting: u32,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe { br_router::enter(router, |state| Ok(state.router.set_accepting(worker, accepting != 0)?)) }
}

/// A worker is gone. `br_router_returned` and the next step tell who ran there or waited for it alone.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_remove_worker(router: *mut br_router, worker: u32) -> br_status {
    // SAFETY: the caller's word.
    unsafe { br_router::enter(router, |state| Ok(state.router.remove_worker(worker, &mut state.returned)?)) }
}

/// Begins anew, whatever has happened to the count, and is the way out of `BR_BROKEN`: every request that waits or runs comes back as `BR_RECOVERED`, told by
/// `br_router_returned` and the next step. Workers stay, with what they measured; what runs there is foreign load until they report again.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_recover(router: *mut br_router) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        Handle::repair(br_router::handle(router), |state| {
            state.now_ms = None;
            state.returned.append(&mut state.router.recover());
            Ok(())
        })
    }
}

impl State {
    /// Tells the caller of the oldest who have left: how many.
    ///
    /// # Safety
    /// `to` is NULL or `capacity` entries may be written.
    unsafe fn tell_returned(&mut self, to: *mut br_returned, capacity: usize) -> Result<usize, Failure> {
        if to.is_null() {
            return Ok(0);
        }
        if !to.is_aligned() {
            return Err(Failure::argument("returned: expected an aligned array"));
        }
        let told = self.returned.len().min(capacity);
        for (at, of) in self.returned.drain(..told).enumerate() {
            let found = br_returned {
                id: of.id,
                worker: of.worker.unwrap_or(BR_NONE),
                reason: br_return_reason::from(of.reason) as u32,
                generated_tokens: of.generated_tokens,
                reserved: 0,
            };
            // SAFETY: `at < told <= capacity`.
            unsafe { to.add(at).write(found) };
        }
        Ok(told)
    }
}

/// Who has left without having finished and was not told of yet, up to `capacity` of them, oldest first: how many into `count`, how many more
/// there are into `left`, which may be NULL.
///
/// # Safety
/// `router` is NULL or alive, the others are NULL or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_returned(
    router: *mut br_router,
    returned: *mut br_returned,
    capacity: usize,
    count: *mut usize,
    left: *mut usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let (count, left) = (output("count", count)?, maybe_output("left", left)?);
            count.write(state.tell_returned(returned, capacity)?);
            write_if(left, state.returned.len());
            Ok(())
        })
    }
}

/// Decides a step: admits, and accounts for what it admitted. `bonuses` may be NULL.
///
/// # Safety
/// `router` is NULL or alive, structs and arrays are as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_step(
    router: *mut br_router,
    now_ms: u64,
    bonuses: *const br_bonuses,
    plan: *mut br_plan,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let bonuses = if bonuses.is_null() { None } else { Some(read_versioned(bonuses)?) };
            let mut found = read_versioned(plan)?;
            let done = state.step(now_ms, bonuses.as_ref(), &mut found);
            write_versioned(&found, plan);
            done
        })
    }
}

impl State {
    /// # Safety
    /// Arrays are as the header says.
    unsafe fn step(
        &mut self,
        now_ms: u64,
        bonuses: Option<&br_bonuses>,
        plan: &mut br_plan,
    ) -> Result<(), Failure> {
        (plan.admission_count, plan.returned_count, plan.returned_left) = (0, 0, self.returned.len());
        // A step may free slots before it decides, so that all of them count.
        let slots = self.router.workers().iter().map(|of| u64::from(of.running) + u64::from(of.free_slots));
        let most = slots.sum::<u64>().min(self.router.pool().len() as u64) as usize;
        if most > plan.admission_capacity {
            plan.admission_count = most;
            let found = plan.admission_capacity;
            let text =
                format!("br_plan.admission_capacity: at most {most} admissions, found room for {found}");
            return Err(Failure::new(br_status::BR_SPACE, text));
        }
        if (most > 0 && plan.admissions.is_null())
            || !plan.admissions.is_aligned()
            || !plan.returned.is_aligned()
        {
            return Err(Failure::argument(
                "br_plan.admissions, returned: expected aligned arrays, found NULL or others",
            ));
        }
        let answer = match bonuses.filter(|bonuses| bonuses.count > 0) {
            None => self.router.step(now_ms)?,
            Some(bonuses) => {
                let workers = self.router.worker_ids().len();
                // SAFETY: the caller's word.
                let (ids, rows) = unsafe {
                    let count = bonuses.count.saturating_mul(workers);
                    (
                        needed("br_bonuses.ids", bonuses.ids, bonuses.count)?,
                        needed("br_bonuses.tokens", bonuses.tokens, count)?,
                    )
                };
                check_bonuses("br_bonuses.tokens", rows)?;
                self.bonus_of.clear();
                for (row, &id) in ids.iter().enumerate() {
                    if let Some(first) = self.bonus_of.insert(id, row) {
                        let text =
                            format!("br_bonuses.ids, entry {row}: request {id} has entry {first} already");
                        return Err(Failure::argument(text));
                    }
                }
                let bonus_of = &self.bonus_of;
                let mut terms = |request: &Request, into: &mut [f32]| match bonus_of.get(&request.id) {
                    Some(&row) => {
                        into.copy_from_slice(&rows[row * workers..][..workers]);
                        true
                    }
                    None => false,
                };
                self.router.step_with(now_ms, &mut terms)?
            }
        };
        if answer.admissions.len() > most {
            return Err(Failure::lost(format!("{} admissions into {most} places", answer.admissions.len())));
        }
        self.now_ms = None;
        for (at, dispatch) in answer.admissions.iter().enumerate() {
            // SAFETY: `at < most <= admission_capacity`.
            unsafe { plan.admissions.add(at).write(dispatch_of(dispatch)) };
        }
        plan.admission_count = answer.admissions.len();
        plan.envelope_before_tokens = answer.before.envelope_tokens;
        plan.imbalance_before_tokens = answer.before.imbalance_tokens;
        plan.envelope_after_tokens = answer.after.envelope_tokens;
        plan.imbalance_after_tokens = answer.after.imbalance_tokens;
        self.returned.extend_from_slice(&answer.returned);
        // SAFETY: the caller's word.
        plan.returned_count = unsafe { self.tell_returned(plan.returned, plan.returned_capacity) }?;
        plan.returned_left = self.returned.len();
        Ok(())
    }
}

/// Switches `br_router_explain` for admissions on (1) or off (0), from the next decision on. Decisions stay the same.
///
/// # Safety
/// `router` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_set_explaining(router: *mut br_router, on: u32) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            state.router.set_explaining(on != 0);
            Ok(())
        })
    }
}

/// Why the last step, or a placement since, decided as it did; why a waiting request waits.
///
/// # Safety
/// `router` is NULL or alive, `explanation` NULL or a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_explain(
    router: *mut br_router,
    id: u64,
    explanation: *mut br_explanation,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let told = read_versioned(explanation)?;
            let told = match state.router.explain(id) {
                Some(found) => explained(told.struct_size, &found),
                None => br_explanation {
                    decided: br_decided::BR_UNDECIDED as u32,
                    worker: BR_NONE,
                    runner_up: BR_NONE,
                    ..told
                },
            };
            write_versioned(&told, explanation);
            Ok(())
        })
    }
}

fn explained(struct_size: usize, of: &Explanation) -> br_explanation {
    let (decided, wait_reason) = match of.decided {
        Decided::Step => (br_decided::BR_BY_STEP, br_reason::BR_ADMITTED),
        Decided::Arrival => (br_decided::BR_BY_ARRIVAL, br_reason::BR_ADMITTED),
        Decided::Waits(reason) => (br_decided::BR_WAITS, br_reason::from(reason)),
    };
    br_explanation {
        struct_size,
        decided: decided as u32,
        wait_reason: wait_reason as u32,
        worker: of.worker.unwrap_or(BR_NONE),
        runner_up: of.runner_up.map_or(BR_NONE, |second| second.worker),
        score_tokens: of.score_tokens,
        opening_score_tokens: of.opening_score_tokens,
        runner_up_score_tokens: of.runner_up.map_or(f64::NAN, |second| second.score_tokens),
        margin_tokens: of.margin_tokens,
        waited_steps: of.waited_steps,
        reserved: 0,
    }
}

/// Why each request still waits, in order of arrival: ids and `br_reason`s into arrays of `capacity` entries, how many into `count`; with `BR_SPACE`
/// how many there are.
///
/// # Safety
/// `router` is NULL or alive, arrays are NULL or hold `capacity` entries, `count` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_waiting(
    router: *mut br_router,
    ids: *mut u64,
    reasons: *mut u8,
    capacity: usize,
    count: *mut usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let count = output("count", count)?;
            let waiting = state.router.pool().len();
            count.write(waiting);
            if waiting > capacity {
                let text = format!("capacity: {waiting} requests wait, found room for {capacity}");
                return Err(Failure::new(br_status::BR_SPACE, text));
            }
            if waiting == 0 {
                return Ok(());
            }
            let (ids, reasons) = (output("ids", ids)?, output("reasons", reasons)?);
            state.router.waiting_into(&mut state.waiting);
            for (at, &(id, reason)) in state.waiting.iter().enumerate().take(capacity) {
                ids.add(at).write(id);
                reasons.add(at).write(br_reason::from(reason) as u8);
            }
            Ok(())
        })
    }
}

/// The ids of the workers, ascending, into an array of `capacity` entries; how many into `count`; with `BR_SPACE` how many there are.
///
/// # Safety
/// `router` is NULL or alive, the others are NULL or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_worker_ids(
    router: *mut br_router,
    ids: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let count = output("count", count)?;
            let found = state.router.worker_ids();
            count.write(found.len());
            if found.len() > capacity {
                let text = format!("capacity: {} workers, found room for {capacity}", found.len());
                return Err(Failure::new(br_status::BR_SPACE, text));
            }
            if !found.is_empty() {
                let ids = output("ids", ids)?;
                std::ptr::copy_nonoverlapping(found.as_ptr(), ids, found.len());
            }
            Ok(())
        })
    }
}

/// How many requests wait and how many run; either may be NULL.
///
/// # Safety
/// `router` is NULL or alive, the others are NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_counts(
    router: *mut br_router,
    waiting: *mut usize,
    running: *mut usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let (waiting, running) = (maybe_output("waiting", waiting)?, maybe_output("running", running)?);
            write_if(waiting, state.router.pool().len());
            write_if(running, state.router.running_len());
            Ok(())
        })
    }
}

/// How the router stands. Nothing of it is computed before.
///
/// # Safety
/// `router` is NULL or alive, `metrics` NULL or a struct with an array as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_router_metrics(router: *mut br_router, metrics: *mut br_metrics) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        br_router::enter(router, |state| {
            let mut found = read_versioned(metrics)?;
            state.router.metrics(&mut state.metrics);
            let done = fill_metrics(&state.metrics, &mut found);
            write_versioned(&found, metrics);
            done
        })
    }
}

/// # Safety
/// The array is as the header says.
unsafe fn fill_metrics(of: &Metrics, into: &mut br_metrics) -> Result<(), Failure> {
    into.rank_count = of.ranks.len();
    if !into.ranks.is_null() {
        if of.ranks.len() > into.rank_capacity {
            let (found, room) = (of.ranks.len(), into.rank_capacity);
            let text = format!("br_metrics.rank_capacity: {found} workers, found room for {room}");
            return Err(Failure::new(br_status::BR_SPACE, text));
        }
        let ranks = output("br_metrics.ranks", into.ranks)?;
        for (at, rank) in of.ranks.iter().enumerate() {
            // SAFETY: `at < rank_capacity`, by the check above.
            unsafe { ranks.add(at).write(rank_metrics(rank)) };
        }
    }
    into.now_ms = of.now_ms;
    into.step = of.step;
    into.waiting = of.waiting;
    into.waiting_by_reason = [0; 6];
    for (reason, &count) in WaitReason::ALL.iter().zip(&of.waiting_by_reason) {
        if let Some(entry) = into.waiting_by_reason.get_mut(br_reason::from(*reason) as usize) {
            *entry += count;
        }
    }
    into.running = of.running;
    into.envelope_tokens = of.envelope_tokens;
    into.imbalance_tokens = of.imbalance_tokens;
    into.longest_wait_ms = of.longest_wait_ms;
    into.longest_wait_steps = of.longest_wait_steps.into();
    let counters = &of.counters;
    into.arrived = counters.arrived;
    into.admitted_by_step = counters.admitted_by_step;
    into.placed_on_arrival = counters.placed_on_arrival;
    into.finished = counters.finished;
    into.aborted = counters.aborted;
    into.preempted = counters.preempted;
    into.returned = [0; 8];
    for (reason, &count) in ReturnReason::ALL.iter().zip(&counters.returned) {
        if let Some(entry) = into.returned.get_mut(br_return_reason::from(*reason) as usize) {
            *entry += count;
        }
        if *reason == ReturnReason::Recovered {
            into.recovered = count;
        }
    }
    into.clock_jumps = counters.clock_jumps;
    into.decide_ns = counters.decide_ns.into();
    into.wait_ms = counters.wait_ms.into();
    into.wait_steps = counters.wait_steps.into();
    Ok(())
}

fn rank_metrics(of: &core::RankMetrics) -> br_rank_metrics {
    let core::ReportCounts { taken, repeated, late, contradictory } = of.reports;
    br_rank_metrics {
        load_tokens: of.load_tokens,
        margin_tokens: of.margin_tokens,
        kv_used_tokens: of.kv_used_tokens,
        kv_growth_tokens: of.kv_growth_tokens,
        kv_capacity_tokens: of.kv_capacity_tokens.unwrap_or(BR_NONE64),
        foreign_tokens: of.foreign_tokens,
        dispatches: of.dispatches,
        acknowledged: of.acknowledged,
        report_age_ms: of.report_age_ms.unwrap_or(BR_NONE64),
        reports: [taken, repeated, late, contradictory, 0],
        worker: of.worker,
        accepting: of.accepting.into(),
        draining: of.draining.into(),
        running: of.running,
        slots: of.slots,
        free_slots: of.free_slots,
        foreign_requests: of.foreign_requests,
        unseen: of.unseen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use balanceroute::policy::Parameters;
    use balanceroute::{Assignment, Batch, Needs, Policy};

    fn made(router: Router) -> *mut br_router {
        Box::into_raw(Box::new(br_router(Handle::new(State {
            router,
            metrics: Metrics::default(),
            returned: Vec::new(),
            waiting: Vec::new(),
            bonus_of: HashMap::new(),
            now_ms: None,
        }))))
    }

    fn request(id: u64) -> br_request {
        // SAFETY: every field may be zero.
        let zero: br_request = unsafe { std::mem::zeroed() };
        br_request { struct_size: size_of::<br_request>(), id, prompt_tokens: 10, ..zero }
    }

    /// Where a call panics, that call says so once; nothing else is answered until every request has come back.
    #[test]
    fn a_router_that_panicked_gives_every_request_back() {
        let config = RouterConfig::new(2, 1);
        let router = made(Router::new(config, "level", &Parameters::default()).expect("valid"));
        let panics = |after: fn(&mut State)| {
            // SAFETY: the handle is alive, here and below, and every pointer is of the size that is said.
            unsafe {
                br_router::enter(router, |state| {
                    after(state);
                    std::panic::resume_unwind(Box::new("asked for"))
                })
            }
        };
        let enqueued = |id| {
            let request = request(id);
            // SAFETY: see above.
            unsafe { br_router_enqueue(router, &request) }
        };
        // SAFETY: see above.
        let recovered = || unsafe { br_router_recover(router) };
        for id in 1..=3 {
            assert_eq!(enqueued(id), br_status::BR_OK);
        }
        // In the middle of a step: two have been admitted, and nobody was told.
        assert_eq!(panics(|state| drop(state.router.step(0).cloned())), br_status::BR_INTERNAL);
        for _ in 0..2 {
            assert_eq!(enqueued(4), br_status::BR_BROKEN);
            // SAFETY: see above.
            assert_eq!(unsafe { br_router_advance(router) }, br_status::BR_BROKEN);
        }
        assert_eq!(recovered(), br_status::BR_OK);
        // SAFETY: see above; what comes back is plain numbers.
        let (mut returned, mut count): ([br_returned; 8], usize) = (unsafe { std::mem::zeroed() }, 0);
        let told = |returned: &mut [br_returned; 8], count: &mut usize| {
            // SAFETY: see above.
            unsafe { br_router_returned(router, returned.as_mut_ptr(), 8, count, std::ptr::null_mut()) }
        };
        assert_eq!(told(&mut returned, &mut count), br_status::BR_OK);
        let mut ids: Vec<u64> = returned[..count].iter().map(|of| of.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 3]);
        let reason = br_return_reason::BR_RECOVERED as u32;
        assert!(returned[..count].iter().all(|of| of.reason == reason));
        assert_eq!(returned[..count].iter().filter(|of| of.worker != BR_NONE).count(), 2);
        // It is a router again: the same ids may come again.
        assert_eq!((enqueued(1), enqueued(1)), (br_status::BR_OK, br_status::BR_BATCH));
        assert_eq!((recovered(), told(&mut returned, &mut count)), (br_status::BR_OK, br_status::BR_OK));
        assert_eq!((count, returned[0].id), (1, 1));
        // SAFETY: the struct may be zero.
        let mut metrics: br_metrics = unsafe { std::mem::zeroed() };
        metrics.struct_size = size_of::<br_metrics>();
        // SAFETY: see above.
        assert_eq!(unsafe { br_router_metrics(router, &mut metrics) }, br_status::BR_OK);
        assert_eq!((metrics.recovered, metrics.returned), (4, [0; 8]));
        assert_eq!(metrics.arrived, 4);
        // SAFETY: see above, and not used again.
        unsafe { br_router_free(router) };
    }

    /// The router itself stands by what a policy does.
    #[test]
    fn a_policy_that_panics_has_changed_nothing() {
        struct Panics;
        impl Policy for Panics {
            fn name(&self) -> &'static str {
                "panics"
            }
            fn decide(&mut self, _: &Batch<'_>, _: &mut Assignment) {
                std::panic::resume_unwind(Box::new("asked for"));
            }
            fn needs(&self) -> Needs {
                Needs::new()
            }
        }
        let made_of = Router::with_policy(RouterConfig::new(1, 1), Box::new(Panics), None);
        let router = made(made_of.expect("valid"));
        // SAFETY: the handle is alive, every pointer is of the size that is said, and structs may be zero.
        unsafe {
            assert_eq!(br_router_enqueue(router, &request(1)), br_status::BR_OK);
            let mut admission: br_dispatch = std::mem::zeroed();
            let mut plan: br_plan = std::mem::zeroed();
            plan.struct_size = size_of::<br_plan>();
            (plan.admissions, plan.admission_capacity) = (&mut admission, 1);
            for _ in 0..2 {
                assert_eq!(br_router_step(router, 5, std::ptr::null(), &mut plan), br_status::BR_INTERNAL);
                let mut waiting = 0;
                assert_eq!(br_router_counts(router, &mut waiting, std::ptr::null_mut()), br_status::BR_OK);
                assert_eq!((waiting, plan.admission_count), (1, 0));
            }
            br_router_free(router);
        }
    }
}
