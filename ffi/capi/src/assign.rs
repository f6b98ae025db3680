//! One step for a caller that keeps its own state.

use std::ffi::c_char;

use balanceroute::policy::{self, Parameters};
use balanceroute::pool::CANDIDATE_WINDOW;
use balanceroute::{
    Assignment, Batch, Pairs, Policy, Pool, PredictedEnd, PredictedEnds, Request, Traffic, Worker,
};

use crate::columns::{self, Terms, br_answer, br_batch, br_reason, br_requests, br_workers};
use crate::door::{
    Failure, Handle, Mend, br_options, br_status, build_policy, copy_text, free, make, read_versioned,
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
    policy: Box<dyn Policy>,
    parameters: Parameters,
    pool: Pool,
    workers: Vec<Worker>,
    requests: Vec<Request>,
    ends: Vec<PredictedEnd>,
    assignment: Assignment,
}

impl State {
    fn new((policy, parameters): (Box<dyn Policy>, Parameters)) -> Self {
        let candidates = policy.needs().candidate_window.unwrap_or(CANDIDATE_WINDOW);
        Self {
            policy,
            parameters,
            pool: Pool::with_window(candidates),
            workers: Vec::new(),
            requests: Vec::new(),
            ends: Vec::new(),
            assignment: Assignment::new(),
        }
    }
}

impl Mend for State {
    const WAY_OUT: &'static str = "free this handle";

    /// Everything is built anew; with a policy's memory goes nothing that a decision needs.
    fn mend(&mut self) -> bool {
        let Ok(policy) = policy::build(self.policy.name(), &self.parameters) else { return false };
        *self = Self::new((policy, self.parameters.clone()));
        true
    }
}

/// Makes an assigner of a policy ("level" for NULL) with options (NULL for none) into `*assigner`, NULL when it fails. The text of an error goes
/// into `error`, which has `error_size` bytes and may be NULL.
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
        let state = State::new(unsafe { build_policy(policy, options) }?);
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

/// The text of the last call's error, cut to `size` bytes with the closing zero: its length without the zero; "" after a call without error.
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
        Handle::enter(br_assigner::handle(assigner), |State { policy, .. }| {
            copy_text(&format!("{}; {}", policy.name(), policy.describe()), buffer, size);
            Ok(())
        })
    }
}

/// Decides a step: which waiting request enters which free slot. `batch` may be NULL. The same input gives the same answer, whatever was decided
/// before, unless the policy has a memory. Nothing is allocated once the handle has seen its largest sizes, unless reasons are asked for.
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
        // SAFETY: the caller's word.
        let terms = unsafe {
            columns::read_workers(workers, &mut self.workers)?;
            columns::read_requests(requests, &mut self.requests)?;
            self.pool.refill(&self.requests)?;
            match batch {
                Some(batch) => columns::read_terms(batch, workers.count, &mut self.ends)?,
                None => Terms::default(),
            }
        };
        let growth_tokens = batch.map_or(0, |batch| batch.request_growth_tokens);
        self.pool.look_past_shut(&self.workers, growth_tokens, terms.eligible);
        let mut draft = Batch::draft(&self.workers, &self.pool).pairs(Pairs {
            bonus_tokens: terms.bonus_tokens,
            bonus_half_tokens: terms.bonus_half_tokens,
            eligible: terms.eligible,
        });
        if let Some(batch) = batch {
            draft = draft.request_growth(batch.request_growth_tokens).traffic(Traffic {
                mean_prompt_tokens: batch.mean_prompt_tokens,
                sd_prompt_tokens: batch.sd_prompt_tokens,
                small_prompt_tokens: batch.small_prompt_tokens,
                mean_output_tokens: batch.mean_output_tokens,
            });
            if let Some(rows) = terms.projection {
                draft = draft.projection(batch.horizon_steps as usize, rows);
            } else if terms.class_survival.is_some() && batch.horizon_steps != 0 {
                return Err(Failure::argument(
                    "br_batch.class_survival: needs a projection over its horizon",
                ));
            }
        }
        if let Some(offsets) = terms.end_offsets {
            draft = draft.ends(PredictedEnds { offsets, ends: &self.ends });
        }
        if let Some(rows) = terms.class_survival {
            draft = draft.classes(rows);
        }
        let batch = draft.check()?;

        let most = batch.open_slots().min(self.pool.len() as u64) as usize;
        if most > answer.capacity {
            answer.count = most;
            let found = answer.capacity;
            let text = format!("br_answer.capacity: at most {most} admissions, found room for {found}");
            return Err(Failure::new(br_status::BR_SPACE, text));
        }
        let aligned =
            answer.row.is_aligned() && answer.worker.is_aligned() && answer.score_tokens.is_aligned();
        if most > 0 && (answer.row.is_null() || answer.worker.is_null()) || !aligned {
            return Err(Failure::argument(
                "br_answer.row, worker, score_tokens: expected aligned arrays, found NULL or others",
            ));
        }
        self.policy.decide(&batch, &mut self.assignment);
        let admitted = &self.assignment.admitted;
        if admitted.len() > most {
            return Err(Failure::lost(format!("{} admissions into {most} places", admitted.len())));
        }
        for (at, admission) in admitted.iter().enumerate() {
            // SAFETY: `at < most <= capacity`, and the arrays hold that many by the caller's word.
            unsafe {
                answer.row.add(at).write(self.pool.row_of(admission.slot) as u32);
                answer.worker.add(at).write(admission.worker);
                if !answer.score_tokens.is_null() {
                    answer.score_tokens.add(at).write(admission.score_tokens);
                }
            }
        }
        answer.count = admitted.len();
        if !answer.wait_reason.is_null() {
            // SAFETY: as many entries as requests, by the caller's word.
            let reasons = unsafe { std::slice::from_raw_parts_mut(answer.wait_reason, self.pool.len()) };
            // Rows are in arrival order, as reasons are.
            reasons.fill(u8::MAX);
            admitted.iter().for_each(|admission| reasons[self.pool.row_of(admission.slot)] = 0);
            let waiting = reasons.iter_mut().filter(|reason| **reason != 0);
            for (code, (_, reason)) in waiting.zip(self.assignment.waiting(&batch)) {
                *code = br_reason::from(reason) as u8;
            }
        }
        let (before, after) = (self.assignment.before, self.assignment.after);
        answer.envelope_before_tokens = before.envelope_tokens;
        answer.imbalance_before_tokens = before.imbalance_tokens;
        answer.envelope_after_tokens = after.envelope_tokens;
        answer.imbalance_after_tokens = after.imbalance_tokens;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
