//! The answer: who goes where, who waits and why, envelope and imbalance before and after.
//!
//! The buffers belong to the caller and are reused: a step allocates nothing once they have seen their
//! largest size.

use crate::batch::{Batch, MAX_LOAD_TOKENS, Request, WEIGHT_ONE, Worker};
use crate::ids::{RequestId, WorkerIndex};
use crate::names::names;
use crate::pool::PoolSlot;

/// One admission.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Admission {
    /// Request id.
    pub id: RequestId,
    /// Its slot in the batch's pool.
    pub slot: PoolSlot,
    /// Its worker's position in the batch.
    pub worker: WorkerIndex,
    /// Its length in tokens.
    pub prompt_tokens: u32,
    /// The score that won, in tokens; comparable within one decision of one policy.
    pub score_tokens: f64,
}

/// Why a request still waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum WaitReason {
    /// No accepting worker that it may use has a free slot left.
    NoSlot,
    /// Slots are free, but the KV cache there would not hold it and the predicted growth.
    NoCapacity,
    /// Slots are free, but only on workers that it may not use.
    NotEligible,
    /// The policy looks at the oldest few only, and it is not among them.
    OutsideWindow,
    /// The policy keeps the slot for another request.
    Deferred,
    /// It is overdue and fits nowhere: a worker is kept for it until it does.
    Claims,
    /// It would fit only on the worker that is kept for such a request.
    Claimed,
}

names! {
    WaitReason, "wait reason":
    NoSlot = "no_slot",
    NoCapacity = "no_capacity",
    NotEligible = "not_eligible",
    OutsideWindow = "outside_window",
    Deferred = "deferred",
    Claims = "claims",
    Claimed = "claimed",
}

impl WaitReason {
    /// Its number in the arrays of C and Python; 0 stands for a request that is admitted.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8 + 1
    }

    /// What it says, in words.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::NoSlot => "no free slot",
            Self::NoCapacity => "no KV capacity",
            Self::NotEligible => "not eligible on the open workers",
            Self::OutsideWindow => "outside the policy's window",
            Self::Deferred => "deferred",
            Self::Claims => "a worker makes room for it",
            Self::Claimed => "fits only where room is made for another request",
        }
    }
}

/// How level a set of loads is. Loads are tokens times weight.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Balance {
    /// The greatest load: the step lasts as long as this.
    pub envelope_tokens: f64,
    /// `G * envelope - sum of loads`.
    pub imbalance_tokens: f64,
}

impl Balance {
    /// Measures loads in cost units of the batch: tokens where the cluster is uniform, else tokens times cost
    /// per token.
    pub(crate) fn of(batch: &Batch<'_>, costs: impl Iterator<Item = i64>) -> Self {
        Self::of_totals(batch, costs.fold((0, 0), |(sum, max): (i64, i64), cost| (sum + cost, max.max(cost))))
    }

    /// Measures loads by their sum and their greatest.
    pub(crate) fn of_totals(batch: &Batch<'_>, (sum, max): (i64, i64)) -> Self {
        let scale =
            if batch.is_uniform() { f64::from(batch.workers()[0].weight) } else { 1.0 / WEIGHT_ONE as f64 };
        Self {
            envelope_tokens: max as f64 * scale,
            imbalance_tokens: (batch.workers().len() as i64 * max - sum) as f64 * scale,
        }
    }
}

/// The admissions of one step.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Assignment {
    /// Who is admitted, in the order of decision.
    pub admitted: Vec<Admission>,
    /// Before the admissions.
    pub before: Balance,
    /// After them.
    pub after: Balance,
    /// What a request is told that could still be placed: set by the policy.
    pub(crate) passed_over: Option<WaitReason>,
    /// Who has been passed by so many goes first: set by the policy.
    pub(crate) max_passed: Option<u32>,
}

impl Assignment {
    /// An empty answer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Empties it and keeps the buffers.
    pub fn clear(&mut self) {
        self.admitted.clear();
        self.before = Balance::default();
        self.after = Balance::default();
        (self.passed_over, self.max_passed) = (None, None);
    }

    /// Brings workers, and as many columns of what is projected for each, to where the admissions leave them;
    /// each also leaves so many tokens free for its growth.
    pub(crate) fn carry_into(&self, workers: &mut [Worker], projected: &mut [u64], growth_tokens: u32) {
        let width = projected.len() / workers.len().max(1);
        for admission in &self.admitted {
            let (place, tokens) = (admission.worker.index(), u64::from(admission.prompt_tokens));
            workers[place].take(tokens, u64::from(growth_tokens));
            for load in &mut projected[place * width..(place + 1) * width] {
                *load = (*load + tokens).min(MAX_LOAD_TOKENS);
            }
        }
    }

    /// The admission of a request, if it was admitted.
    #[must_use]
    pub fn of(&self, id: impl Into<RequestId>) -> Option<&Admission> {
        let id = id.into();
        self.admitted.iter().find(|admission| admission.id == id)
    }

    /// Fills in envelope and imbalance from the batch and the admissions, adding everything up again.
    pub(crate) fn measure(&mut self, batch: &Batch<'_>) {
        let cost_per_token = |worker: &Worker| if batch.is_uniform() { 1 } else { worker.cost_per_token() };
        let cost = |worker: usize, added: &[Admission]| {
            let added = added.iter().filter(|admission| admission.worker.index() == worker);
            let added: i64 = added.map(|admission| i64::from(admission.prompt_tokens)).sum();
            let worker = &batch.workers()[worker];
            (worker.load_tokens as i64 + added) * cost_per_token(worker)
        };
        let workers = 0..batch.workers().len();
        self.before = Balance::of(batch, workers.clone().map(|worker| cost(worker, &[])));
        self.after = Balance::of(batch, workers.map(|worker| cost(worker, &self.admitted)));
    }

    /// Why every request that was not admitted waits, in arrival order. Costs nothing when not asked for.
    pub fn waiting<'a>(&'a self, batch: &'a Batch<'a>) -> impl Iterator<Item = (RequestId, WaitReason)> + 'a {
        let mut admitted: Vec<RequestId> = self.admitted.iter().map(|admission| admission.id).collect();
        admitted.sort_unstable();
        let reasons = Reasons::new(*batch, self);
        let waits = move |id: RequestId| admitted.binary_search(&id).is_err();
        let everybody = batch.pool().iter_with_slots().filter(move |(_, request, _)| waits(request.id));
        everybody.map(move |(slot, request, _)| (request.id, reasons.of(slot, &request)))
    }
}

/// A worker that is kept for a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claimed {
    /// Who claims it.
    pub id: RequestId,
    /// Its position.
    pub worker: usize,
    /// Its claimant's class: higher ones may enter.
    pub priority: i8,
}

impl Claimed {
    /// Whether it keeps those of a class from a worker.
    pub(crate) fn shuts(&self, worker: usize, priority: i8) -> bool {
        worker == self.worker && priority <= self.priority
    }
}

/// Why requests wait once somebody has been admitted.
pub(crate) struct Reasons<'a> {
    batch: Batch<'a>,
    /// Slots and room of each worker.
    open: Vec<(u32, i64)>,
    /// The most room of those with a slot; none where nobody has one.
    most_room: Option<i64>,
    /// Who claims which worker, if somebody does.
    claimed: Option<Claimed>,
    /// The most room of the others with a slot.
    most_room_beside: Option<i64>,
    growth: i64,
    passed_over: WaitReason,
}

impl<'a> Reasons<'a> {
    pub(crate) fn new(batch: Batch<'a>, assignment: &Assignment) -> Self {
        let mut open: Vec<(u32, i64)> =
            batch.workers().iter().map(|worker| (worker.open_slots(), worker.room_tokens())).collect();
        let growth = i64::from(batch.request_growth_tokens());
        for admission in &assignment.admitted {
            let (slots, room) = &mut open[admission.worker.index()];
            *slots = slots.saturating_sub(1);
            *room -= i64::from(admission.prompt_tokens) + growth;
        }
        let most_room = open.iter().filter(|(slots, _)| *slots > 0).map(|&(_, room)| room).max();
        let passed_over = assignment.passed_over.unwrap_or(WaitReason::Deferred);
        Self { batch, open, most_room, claimed: None, most_room_beside: most_room, growth, passed_over }
    }

    /// With a worker that is kept for one of them.
    pub(crate) fn claimed(mut self, claimed: Option<Claimed>) -> Self {
        self.claimed = claimed;
        let is_other = |worker| claimed.is_none_or(|claimed| claimed.worker != worker);
        let open = self.open.iter().enumerate();
        let open = open.filter(|&(worker, (slots, _))| *slots > 0 && is_other(worker));
        self.most_room_beside = open.map(|(_, &(_, room))| room).max();
        self
    }

    /// Tokens that a request of a rank may have to be placed, of any rank for none; none where it finds no
    /// slot.
    pub(crate) fn most_tokens(&self, rank: Option<WorkerIndex>) -> Option<i64> {
        let room = match rank {
            None => self.most_room?,
            Some(rank) => self.open.get(rank.index()).filter(|(slots, _)| *slots > 0)?.1,
        };
        Some(room - self.growth)
    }

    /// [`Reasons::most_tokens`] of one of a class where no worker is kept from it.
    pub(crate) fn most_tokens_beside(&self, rank: Option<WorkerIndex>, priority: i8) -> Option<i64> {
        match (self.claimed, rank) {
            (Some(claimed), Some(rank)) if claimed.shuts(rank.index(), priority) => None,
            (Some(claimed), None) if priority <= claimed.priority => {
                Some(self.most_room_beside? - self.growth)
            }
            _ => self.most_tokens(rank),
        }
    }

    /// Why those of a rank wait who find no slot.
    pub(crate) fn without_slot(&self, rank: Option<WorkerIndex>) -> WaitReason {
        match (rank, self.most_room) {
            // Others have slots that it may not use.
            (Some(_), Some(_)) => WaitReason::NotEligible,
            _ => WaitReason::NoSlot,
        }
    }

    /// Why a request waits; it is a candidate where it has a slot.
    pub(crate) fn of(&self, slot: Option<PoolSlot>, request: &Request) -> WaitReason {
        let placeable = if slot.is_some() { self.passed_over } else { WaitReason::OutsideWindow };
        match self.held_back(request) {
            None => placeable,
            Some(_) if self.claimed.is_some_and(|claimed| claimed.id == request.id) => WaitReason::Claims,
            Some(reason) => reason,
        }
    }

    /// Why a request that claims nothing may not enter a worker; none where it may.
    pub(crate) fn held_back(&self, request: &Request) -> Option<WaitReason> {
        let refused = self.refused(request);
        let claimed = self.claimed.filter(|claimed| request.priority <= claimed.priority);
        let Some(Claimed { worker, .. }) = claimed else { return refused };
        let may_enter = refused.is_none() && self.is_placeable_beside(request, worker);
        if may_enter { None } else { Some(refused.unwrap_or(WaitReason::Claimed)) }
    }

    /// Whether another worker than that which is claimed could take a request.
    fn is_placeable_beside(&self, request: &Request, claimed: usize) -> bool {
        let needs = i64::from(request.prompt_tokens) + self.growth;
        if !request.has_pair_terms() {
            return self.most_room_beside.is_some_and(|room| needs <= room);
        }
        self.open.iter().enumerate().any(|(worker, &(slots, room))| {
            worker != claimed && slots > 0 && needs <= room && self.batch.eligible(request, worker)
        })
    }

    /// Why no worker could take a request; none where one could, for all that claims say.
    fn refused(&self, request: &Request) -> Option<WaitReason> {
        let needs = i64::from(request.prompt_tokens) + self.growth;
        if !request.has_pair_terms() {
            return match self.most_room {
                None => Some(WaitReason::NoSlot),
                Some(room) if room < needs => Some(WaitReason::NoCapacity),
                Some(_) => None,
            };
        }
        let mut reason = WaitReason::NoSlot;
        for (worker, &(slots, room)) in self.open.iter().enumerate() {
            if slots == 0 {
                continue;
            }
            if !self.batch.eligible(request, worker) {
                // A full cache on a worker that it may use says more than a worker that it may not.
                if reason == WaitReason::NoSlot {
                    reason = WaitReason::NotEligible;
                }
            } else if room < needs {
                reason = WaitReason::NoCapacity;
            } else {
                return None;
            }
        }
        Some(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchError, Pairs};
    use crate::policy::{self, Parameters};
    use crate::pool::Pool;

    /// Who is refused by the validation is refused behind the window as well: the reasons follow the rows of
    /// everybody.
    #[test]
    fn a_row_that_is_not_there_is_refused_behind_the_window_too() {
        let mut pool = Pool::with_window(1);
        pool.insert(Request::new(1, 10)).unwrap();
        pool.insert(Request::new(2, 10).pairs(7)).unwrap();
        let workers = [Worker::new(10, 1, 1), Worker::new(10, 1, 1)];
        let pairs = Pairs { eligible: &[1], ..Pairs::default() };
        let refused = Batch::draft(&workers, &pool).pairs(pairs).check().unwrap_err();
        assert_eq!(refused, BatchError::PairRow { index: 1, id: 2.into(), rows: 1, found: 7 });
        assert!(pool.remove(2).is_some());
        pool.insert(Request::new(3, 10).pairs(0)).unwrap();
        let batch = Batch::draft(&workers, &pool).pairs(pairs).check().unwrap();
        let mut answer = Assignment::new();
        policy::build("level", &Parameters::default()).unwrap().decide(&batch, &mut answer);
        assert_eq!(answer.waiting(&batch).collect::<Vec<_>>().len(), 1);
    }
}
