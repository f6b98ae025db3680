//! One step for a caller that keeps its own state.

use std::ffi::c_char;

use balanceroute::policy::{self, Parameters};
use balanceroute::{Assigner, Pairs, Policy, PredictedEnd, PredictedEnds, Request, Step, Traffic, Worker};

use crate::columns::{self, Terms, br_answer, br_batch, br_reason, br_requests, br_workers};
use crate::guard::{
    Failure, Handle, Mend, br_options, br_status, copy_text, free, make, read_policy, read_versioned,
    write_versioned,
};

/// A policy and its buffers. Calls with one handle come one at a time, from any thread.
pub struct br_assigner(Handle<State>);

impl br_assigner {
    /// The handle inside; NULL for NULL.
    ///
    /// # Safety
    /// `assigner` is NULL or alive.
    unsafe fn handle(assigner: *mut Self) -> *mut Handle<State> {
        // SAFETY: alive if not NULL; no reference is made.
        if assigner.is_null() { std::ptr::null_mut() } else { unsafe { &raw mut (*assigner).0 } }
    }
}

struct State {
    assigner: Assigner,
    parameters: Parameters,
    workers: Vec<Worker>,
    requests: Vec<Request>,
    ends: Vec<PredictedEnd>,
}

impl State {
    fn new((policy, parameters): (Box<dyn Policy>, Parameters)) -> Self {
        Self {
            assigner: Assigner::with_policy(policy),
            parameters,
            workers: Vec::new(),
            requests: Vec::new(),
            ends: Vec::new(),
        }
    }
}

impl Mend for State {
    const WAY_OUT: &'static str = "free this handle";

    /// Everything is built anew; with a policy's memory goes nothing that a decision needs.
    fn mend(&mut self) -> bool {
        let name = self.assigner.policy().name();
        let Ok(policy) = policy::build(name, &self.parameters) else { return false };
        *self = Self::new((policy, self.parameters.clone()));
        true
    }
}

/// Makes an assigner of a policy ("level" for NULL) with options (NULL for none) into `*assigner`, NULL when
/// it fails. The text of an error goes into `error`, which has `error_size` bytes and may be NULL.
///
/// # Safety
/// Pointers are NULL or what they are said to be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_assigner_new(
    policy: *const c_char,
    options: *const br_options,
    assigner: *mut *mut br_assigner,
    error: *mut c_char,
    error_size: usize,
) -> br_status {
    let made = || {
        // SAFETY: the caller's word.
        let (name, parameters) = unsafe { read_policy(policy, options) }?;
        let state = State::new((policy::build(name, &parameters)?, parameters));
        Ok(br_assigner(Handle::new(state)))
    };
    // SAFETY: the caller's word.
    unsafe { make("assigner", assigner, (error, error_size), made) }
}

/// Frees an assigner, after its last call; NULL is allowed.
///
/// # Safety
/// It is NULL, or was made by `br_assigner_new`, is not freed yet, and nobody is inside.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_assigner_free(assigner: *mut br_assigner) {
    // SAFETY: the caller's word.
    unsafe { free(assigner) }
}

/// The text of the last call's error, cut to `size` bytes with the closing zero: its length without the zero;
/// "" after a call without error.
///
/// # Safety
/// `assigner` is NULL or alive, `buffer` NULL or of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_assigner_error(
    assigner: *mut br_assigner,
    buffer: *mut c_char,
    size: usize,
) -> usize {
    // SAFETY: the caller's word.
    unsafe { Handle::last_error(br_assigner::handle(assigner), buffer, size) }
}

/// Which policy and backend decide, on which instruction set, and why, into `buffer` of `size` bytes.
///
/// # Safety
/// `assigner` is NULL or alive, `buffer` NULL or of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_assigner_describe(
    assigner: *mut br_assigner,
    buffer: *mut c_char,
    size: usize,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        Handle::enter(br_assigner::handle(assigner), |state| {
            let policy = state.assigner.policy();
            copy_text(&format!("{}; {}", policy.name(), policy.describe()), buffer, size);
            Ok(())
        })
    }
}

/// Decides a step: which waiting request enters which free slot. `batch` may be NULL. One input gives
/// the same answer, whatever was decided before, unless the policy has a memory. Nothing is allocated once
/// the handle has seen its largest sizes, unless reasons are asked for.
///
/// # Safety
/// `assigner` is NULL or alive, and every struct and array is as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn br_assign(
    assigner: *mut br_assigner,
    workers: *const br_workers,
    requests: *const br_requests,
    batch: *const br_batch,
    answer: *mut br_answer,
) -> br_status {
    // SAFETY: the caller's word.
    unsafe {
        Handle::enter(br_assigner::handle(assigner), |state| {
            let workers = read_versioned(workers)?;
            let requests = read_versioned(requests)?;
            let batch = if batch.is_null() { None } else { Some(read_versioned(batch)?) };
            let mut found = read_versioned(answer)?;
            let done = state.assign(&workers, &requests, batch.as_ref(), &mut found);
            write_versioned(&found, answer);
            done
        })
    }
}

impl State {
    /// # Safety
    /// Every array is as the header says.
    unsafe fn assign(
        &mut self,
        workers: &br_workers,
        requests: &br_requests,
        batch: Option<&br_batch>,
        answer: &mut br_answer,
    ) -> Result<(), Failure> {
        answer.count = 0;
        let Self { assigner, workers: to_workers, requests: to_requests, ends, .. } = self;
        // SAFETY: the caller's word.
        let terms = unsafe {
            columns::read_workers(workers, to_workers)?;
            columns::read_requests(requests, to_requests)?;
            match batch {
                Some(batch) => columns::read_terms(batch, workers.count, ends)?,
                None => Terms::default(),
            }
        };
        let step = step_of(to_workers, to_requests, batch, &terms, ends)?;
        let waiting = step.requests.len();
        let decision = assigner.assign_if(&step, |batch| fits(answer, batch.open_slots(), waiting))?;

        let admissions = decision.admissions();
        if admissions.len() > answer.capacity {
            let text = format!("{} admissions into {} places", admissions.len(), answer.capacity);
            return Err(Failure::lost(text));
        }
        answer.count = admissions.len();
        for (at, (row, admission)) in admissions.enumerate() {
            // SAFETY: `at < count <= capacity`, and the arrays hold that many by the caller's word.
            unsafe {
                answer.row.add(at).write(row as u32);
                answer.worker.add(at).write(admission.worker.get());
                if !answer.score_tokens.is_null() {
                    answer.score_tokens.add(at).write(admission.score_tokens);
                }
            }
        }
        if !answer.wait_reason.is_null() {
            for (row, reason) in decision.reasons().into_iter().enumerate() {
                let code = reason.map_or(br_reason::BR_ADMITTED, br_reason::from);
                // SAFETY: as many entries as requests, by the caller's word.
                unsafe { answer.wait_reason.add(row).write(code as u8) };
            }
        }
        let (before, after) = (decision.before(), decision.after());
        answer.envelope_before_tokens = before.envelope_tokens;
        answer.imbalance_before_tokens = before.imbalance_tokens;
        answer.envelope_after_tokens = after.envelope_tokens;
        answer.imbalance_after_tokens = after.imbalance_tokens;
        Ok(())
    }
}

/// What was read, as the library asks it.
fn step_of<'a>(
    workers: &'a [Worker],
    requests: &'a [Request],
    batch: Option<&br_batch>,
    terms: &Terms<'a>,
    ends: &'a [PredictedEnd],
) -> Result<Step<'a>, Failure> {
    let mut step = Step::new(workers, requests).pairs(Pairs {
        bonus_tokens: terms.bonus_tokens,
        bonus_half_tokens: terms.bonus_half_tokens,
        eligible: terms.eligible,
    });
    if let Some(batch) = batch {
        let traffic = Traffic::new()
            .prompts(batch.mean_prompt_tokens, batch.sd_prompt_tokens)
            .small_prompts(batch.small_prompt_tokens)
            .outputs(batch.mean_output_tokens);
        step = step.request_growth(batch.request_growth_tokens).traffic(traffic);
        if let Some(rows) = terms.projection {
            step = step.projection(batch.horizon_steps as usize, rows);
        } else if terms.class_survival.is_some() && batch.horizon_steps != 0 {
            return Err(Failure::argument("br_batch.class_survival: needs a projection over its horizon"));
        }
    }
    if let Some(offsets) = terms.end_offsets {
        step = step.ends(PredictedEnds { offsets, ends });
    }
    if let Some(rows) = terms.class_survival {
        step = step.classes(rows);
    }
    Ok(step)
}

/// Whether the arrays of the caller hold all that may be admitted; with `BR_SPACE` how many that is.
fn fits(answer: &mut br_answer, open_slots: u64, waiting: usize) -> Result<(), Failure> {
    let most = open_slots.min(waiting as u64) as usize;
    if most > answer.capacity {
        answer.count = most;
        let found = answer.capacity;
        let text = format!("br_answer.capacity: at most {most} admissions, found room for {found}");
        return Err(Failure::new(br_status::BR_SPACE, text));
    }
    let aligned = answer.row.is_aligned() && answer.worker.is_aligned() && answer.score_tokens.is_aligned();
    if most > 0 && (answer.row.is_null() || answer.worker.is_null()) || !aligned {
        return Err(Failure::argument(
            "br_answer.row, worker, score_tokens: expected aligned arrays, found NULL or others",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use balanceroute::{Assignment, Batch};

    /// A policy that panics as often as it is asked is replaced by one as it was built.
    #[test]
    fn an_assigner_decides_on_after_a_panic() {
        struct Panics;
        impl Policy for Panics {
            fn name(&self) -> &'static str {
                "exact"
            }
            fn decide(&mut self, _: &Batch<'_>, _: &mut Assignment) {
                std::panic::resume_unwind(Box::new("asked for"));
            }
            fn needs(&self) -> policy::Needs {
                policy::Needs::new()
            }
        }
        let assigner = Box::into_raw(Box::new(br_assigner(Handle::new(State::new((
            Box::new(Panics),
            Parameters::default(),
        ))))));
        let (loads, free, prompts) = ([5u64, 7], [1u32, 1], [3u32, 4]);
        // SAFETY: every field may be zero.
        let (mut workers, mut requests, mut answer): (br_workers, br_requests, br_answer) =
            unsafe { std::mem::zeroed() };
        (workers.struct_size, workers.count) = (size_of::<br_workers>(), 2);
        (workers.load_tokens, workers.free_slots) = (loads.as_ptr(), free.as_ptr());
        (requests.struct_size, requests.count) = (size_of::<br_requests>(), 2);
        requests.prompt_tokens = prompts.as_ptr();
        let (mut row, mut worker) = ([0; 2], [0; 2]);
        (answer.struct_size, answer.capacity) = (size_of::<br_answer>(), 2);
        (answer.row, answer.worker) = (row.as_mut_ptr(), worker.as_mut_ptr());
        let mut assign =
            // SAFETY: the handle is alive, and the arrays have the sizes that are said.
            || unsafe { br_assign(assigner, &workers, &requests, std::ptr::null(), &mut answer) };
        assert_eq!(assign(), br_status::BR_INTERNAL);
        assert_eq!(assign(), br_status::BR_OK);
        assert_eq!(answer.count, 2);
        // SAFETY: made above, and not used again.
        unsafe { br_assigner_free(assigner) };
    }
}
