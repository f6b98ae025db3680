//! A step decides, and requests come back.

use std::mem::offset_of;

use balanceroute::{ReturnReason, WorkerId};

use super::{State, br_bonuses, br_dispatch, br_router, dispatch_of, read_bonuses, read_terms, write_if};
use crate::BR_NONE;
use crate::guard::{
    Failure, Handle, Versioned, br_status, maybe_output, output, read_versioned, write_versioned,
};

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
    /// Entries that `admissions` holds; as many as requests wait, or as all workers have slots together
    /// (those of other front ends too), always suffice.
    pub admission_capacity: usize,
    /// Out: admissions; with `BR_SPACE` the capacity that suffices.
    pub admission_count: usize,
    /// Who has left without having finished and was not told of before; NULL to ask with
    /// `br_router_returned`.
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

/// Begins anew, whatever has happened to the count, and is the way out of `BR_BROKEN`: every request that
/// waits or runs comes back as `BR_RECOVERED`, told by `br_router_returned` and the next step. Workers stay,
/// with what they measured; what runs there is foreign load until they report again.
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
                id: of.id.0,
                worker: of.worker.map_or(BR_NONE, WorkerId::get),
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

/// Who has left without having finished and was not told of yet, up to `capacity` of them, oldest first: how
/// many into `count`, how many more there are into `left`, which may be NULL.
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
            let bonuses = read_bonuses(bonuses)?;
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
        // A step may free slots before it decides, and what a front end may borrow changes with the time: of
        // no worker more than it has.
        let mut slots = 0;
        for &worker in self.router.worker_ids() {
            slots += u64::from(self.router.worker_config(worker)?.slots);
        }
        let most = slots.min(self.router.pool().len() as u64) as usize;
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
        let answer = match bonuses {
            None => self.router.step(now_ms)?,
            Some(rows) => {
                // SAFETY: the caller's word.
                let mut terms =
                    unsafe { read_terms(rows, self.router.worker_ids().len(), &mut self.row_of) }?;
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
