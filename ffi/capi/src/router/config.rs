//! How a router is made.

use std::ffi::c_char;
use std::mem::offset_of;

use balanceroute::{Mode, PreemptionCost, Router, RouterConfig, Share, WorkerConfig};

use super::{State, br_router, some64};
use crate::guard::{
    Failure, Handle, Versioned, array, br_options, br_status, caught, is_size_of, make, needed, read_policy,
    read_versioned, write_versioned,
};
use crate::{BR_NONE, BR_NONE64};

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
    /// Steps of growth that an admission leaves free for each running request and for itself, where the KV
    /// cache is bounded; `BR_NONE`, the default, for as much room as is learned to be needed.
    pub headroom_steps: u32,
    /// Steps between two predictions for the same running request, 1 to 65536; 16.
    pub refresh_steps: u32,
    /// How far ahead predicted ends are kept, in steps; 512.
    pub ends_horizon_steps: u32,
    /// A `br_mode`; `BR_STEP`.
    pub mode: u32,
    /// Used with `BR_MIXED`.
    pub mixed_free_slots: u32,
    /// Which part of every worker this router is sure of, below `share_of`; 0. Beyond it, it takes its turn
    /// with the others at what reports show to be free.
    pub share_index: u32,
    /// Number of front ends that feed the same workers; 1.
    pub share_of: u32,
    /// Whether `br_router_explain` has something to say about admissions; 0.
    pub explaining: u32,
    /// A dispatch is lost, and returned, when a report that comes at least this long after it has not seen
    /// it; `BR_NONE64` for never, the default.
    pub dispatch_timeout_ms: u64,
    /// A dispatch is returned when nothing at all has shown it for this long; `BR_NONE64` for never, the
    /// default.
    pub silence_timeout_ms: u64,
    /// A request is returned when it has waited this long; `BR_NONE64` for never, the default.
    pub expire_after_ms: u64,
    /// Whether requests reach a worker in the order of their dispatch: a token of one then shows that the
    /// worker has those sent before it; 0.
    pub in_order: u32,
    /// The share that no class above can take: for each `lower_class_one_in - 1` admissions of higher classes
    /// while somebody of a class waits, one is that class's before any of a higher one; 2 to 65536. 0, the
    /// default: a lower class gets what higher ones leave.
    pub lower_class_one_in: u32,
    /// What room and preemptions cost, where `headroom_steps` is `BR_NONE`: how long a decode step takes
    /// without load, in milliseconds, and the prefill of a token that is done again, in microseconds; 0 to
    /// 1e6. Both 0, the default, where that is not known.
    pub step_base_ms: f64,
    /// See `step_base_ms`.
    pub prefill_us_per_token: f64,
}

// SAFETY: begins with its size; NULL and zero are allowed everywhere.
unsafe impl Versioned for br_router_config {
    const NAME: &'static str = "br_router_config";
    const FIRST_SIZE: usize = offset_of!(br_router_config, expire_after_ms) + size_of::<u64>();
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
            if !is_size_of::<br_router_config>(size) {
                return Err(Failure::argument("br_router_config.struct_size"));
            }
            config.cast::<u8>().add(size_of::<usize>()).write_bytes(0, size - size_of::<usize>());
        }
        let defaults = RouterConfig::default();
        let found = br_router_config {
            struct_size: size_of::<br_router_config>(),
            worker_count: 0,
            slots: std::ptr::null(),
            kv_capacity_tokens: std::ptr::null(),
            weight: std::ptr::null(),
            headroom_steps: defaults.headroom_steps.unwrap_or(BR_NONE),
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
            in_order: 0,
            lower_class_one_in: 0,
            step_base_ms: 0.0,
            prefill_us_per_token: 0.0,
        };
        // SAFETY: checked above.
        unsafe { write_versioned(&found, config) };
        Ok(())
    });
    done.map_or_else(|failure| failure.status, |()| br_status::BR_OK)
}

/// Makes a router of a policy ("level" for NULL), options (NULL for none) and a configuration into `*router`,
/// NULL when it fails. The text of an error goes into `error`, which has `error_size` bytes and may be NULL.
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
        let ((policy, parameters), (config, explaining)) =
            unsafe { (read_policy(policy, options)?, read_config(&read_versioned(config)?)?) };
        let mut made = Router::new(config, policy, &parameters)?;
        made.set_explaining(explaining);
        Ok(br_router(Handle::new(State::new(made))))
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
    let (step_base_ms, prefill_us_per_token) = (from.step_base_ms, from.prefill_us_per_token);
    let cost = (step_base_ms != 0.0 || prefill_us_per_token != 0.0)
        .then(|| PreemptionCost::new(step_base_ms, prefill_us_per_token));
    let worker = |at: usize| {
        WorkerConfig::new(slots[at])
            .capacity(capacity.and_then(|of| some64(of[at])))
            .weight(weight.map_or(1.0, |of| of[at]))
    };
    let config = RouterConfig::default()
        .workers((0..count).map(worker).collect::<Vec<_>>())
        .headroom_steps(Some(from.headroom_steps).filter(|&steps| steps != BR_NONE))
        .preemption_cost(cost)
        .refresh_steps(from.refresh_steps)
        .ends_horizon_steps(from.ends_horizon_steps)
        .mode(mode)
        .lower_class_one_in(Some(from.lower_class_one_in).filter(|&one_in| one_in != 0))
        .share(Share::new(from.share_index, from.share_of))
        .in_order(from.in_order != 0)
        .dispatch_timeout_ms(some64(from.dispatch_timeout_ms))
        .silence_timeout_ms(some64(from.silence_timeout_ms))
        .expire_after_ms(some64(from.expire_after_ms));
    Ok((config, from.explaining != 0))
}
