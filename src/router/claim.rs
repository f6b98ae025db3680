//! Claims: where KV caches bind, room is made for a request that is overdue and fits nowhere.
//!
//! Small requests would fill whatever a worker frees, again and again. So the first of the overdue, in the
//! order in which they go, that has no room anywhere *claims* a worker: nobody else enters it until the
//! request does. One request claims at a time. Of the workers that it may use and that could hold it once all
//! of ours there have ended, it is the one with most room, chosen anew by every step: so it is where ends
//! happen to come soonest, and what is freed there is never lost. From twice as many passes on as make a
//! request overdue the worker is kept; it then drains, at the latest, as its longest resident ends.
//!
//! A batch shows a claimed worker with as few open slots as there are overdue requests before the claimant
//! that fit there and nowhere else. So no rule, kernel or device knows of claims.

use std::cmp::Reverse;

use crate::batch::{Batch, Request, Worker};
use crate::ids::{RequestId, WorkerId};
use crate::policy::overtaking::PASSED_PER_WORKER;
use crate::pool::PoolSlot;
use crate::router::Router;

/// A worker that nobody enters before one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// Who claims it.
    pub id: RequestId,
    pub worker: WorkerId,
    /// Whether it stays this worker for as long as that could hold the request.
    is_kept: bool,
}

/// What is overdue, in the order in which it goes: late ones first, then by wait, then by arrival.
pub(super) type Overdue = (bool, Reverse<u32>, u64, PoolSlot);

/// A claim as the step under way finds it.
struct Found {
    claim: Claim,
    place: usize,
    /// Slots for those who go before.
    open_slots: u32,
}

impl Router {
    /// The claim as it stands: who claims, and the position of the worker.
    pub(super) fn claimed(&self) -> Option<(RequestId, usize)> {
        let Claim { id, worker, .. } = self.claim?;
        let place = self.place_of(worker).ok().filter(|&place| self.workers[place].accepting)?;
        Some((id, place))
    }

    /// Whether nobody is to be placed on a worker but by a step.
    pub(super) fn is_claimed(&self, place: usize) -> bool {
        self.claimed().is_some_and(|(_, claimed)| claimed == place)
    }

    /// A request has left the pool, and its claim with it.
    pub(super) fn drop_claim_of(&mut self, id: RequestId) {
        self.claim = self.claim.filter(|claim| claim.id != id);
    }

    /// Finds who claims which worker in the step under way, and shuts that worker in the batches to come.
    pub(super) fn claim_worker(&mut self) {
        let mut overdue = std::mem::take(&mut self.overdue);
        let found = self.find_claim(&mut overdue);
        self.overdue = overdue;
        self.next_claim = found.as_ref().map(|found| found.claim);
        if let Some(Found { place, open_slots, .. }) = found {
            if !std::mem::replace(&mut self.changed, true) {
                self.later.clone_from(&self.workers);
            }
            self.later[place].free_slots = open_slots;
        }
    }

    /// The step under way stands, and its claim. Every step that leaves somebody with a claim counts.
    pub(super) fn keep_claim(&mut self) {
        let admitted = self.planned.len() as u64;
        if let Some(claim) = self.next_claim {
            self.counters.claims += u64::from(self.claim.is_none_or(|before| before.id != claim.id));
            self.counters.admitted_beside_claims += admitted;
        }
        self.claim = self.next_claim;
    }

    fn find_claim(&self, overdue: &mut Vec<Overdue>) -> Option<Found> {
        // What one front end of several frees, the others fill: they do not hear of a claim.
        if !self.bounded || self.config.share.of > 1 {
            return None;
        }
        let candidates = self.pool.candidates();
        overdue.clear();
        overdue.reserve(candidates.len());
        let most = self.max_passed.filter(|&most| candidates.most_passed() >= most);
        if most.is_none() && !candidates.any_deadline() {
            return None;
        }
        for (slot, request, waited_steps) in candidates.iter() {
            let is_late = request.deadline_steps.is_some_and(|steps| waited_steps >= steps);
            if is_late || most.is_some_and(|most| candidates.passed(slot) >= most) {
                let waited_steps = if is_late { waited_steps } else { 0 };
                overdue.push((!is_late, Reverse(waited_steps), candidates.arrival(slot), slot));
            }
        }
        overdue.sort_unstable();
        let workers = if self.changed { &self.later } else { &self.workers };
        let view = Rooms {
            batch: Batch::draft(workers, &self.pool).pairs(self.next_rows.pairs()).unchecked(),
            growth_tokens: i64::from(self.headroom_steps()),
            most_tokens: workers.iter().filter(|worker| worker.open_slots() > 0).map(Worker::room_tokens).max(),
        };
        for (at, &(.., slot)) in overdue.iter().enumerate() {
            let request = candidates.request(slot);
            if view.any_takes(request) {
                continue;
            }
            let Some((claim, place)) = self.choose_worker(&view, request, candidates.passed(slot)) else {
                continue;
            };
            let before = overdue[..at].iter().map(|&(.., slot)| candidates.request(slot));
            return Some(Found { claim, place, open_slots: view.take_only_there(place, before) });
        }
        None
    }

    /// The worker that a request claims which has been passed so often, if any could ever hold it.
    fn choose_worker(&self, view: &Rooms<'_>, request: &Request, passed: u32) -> Option<(Claim, usize)> {
        let workers = view.batch.workers();
        let may_claim = |place: usize| {
            workers[place].accepting
                && view.batch.eligible(request, place)
                && self.accounts[place].could_hold(u64::from(request.prompt_tokens), &self.sight)
        };
        let kept = self.claim.filter(|claim| claim.id == request.id && claim.is_kept);
        if let Some(claim) = kept
            && let Some(place) = self.place_of(claim.worker).ok().filter(|&place| may_claim(place))
        {
            return Some((claim, place));
        }
        // Where there is room, only a slot is missing, and who is overdue gets the next one.
        let lacks_room = |place: &usize| !view.has_room(request, *place) && may_claim(*place);
        let place = (0..workers.len())
            .filter(lacks_room)
            .max_by_key(|&place| (workers[place].room_tokens(), Reverse(place)))?;
        let most = self.max_passed.unwrap_or(PASSED_PER_WORKER * workers.len() as u32);
        let is_kept = passed >= most.saturating_mul(2);
        Some((Claim { id: request.id, worker: self.ids[place], is_kept }, place))
    }
}

/// The workers' room as a step begins.
struct Rooms<'a> {
    batch: Batch<'a>,
    /// What each request is to leave free for itself.
    growth_tokens: i64,
    /// The most room of those with an open slot.
    most_tokens: Option<i64>,
}

impl Rooms<'_> {
    fn needs(&self, request: &Request) -> i64 {
        i64::from(request.prompt_tokens) + self.growth_tokens
    }

    fn has_room(&self, request: &Request, place: usize) -> bool {
        self.needs(request) <= self.batch.workers()[place].room_tokens()
    }

    fn takes(&self, request: &Request, place: usize) -> bool {
        self.batch.workers()[place].open_slots() > 0
            && self.has_room(request, place)
            && self.batch.eligible(request, place)
    }

    fn any_takes(&self, request: &Request) -> bool {
        if self.most_tokens.is_none_or(|most| self.needs(request) > most) {
            return false;
        }
        !request.has_pair_terms() || (0..self.batch.workers().len()).any(|place| self.takes(request, place))
    }

    /// How many of these may enter this worker one after the other, and no other.
    fn take_only_there<'a>(&self, place: usize, requests: impl Iterator<Item = &'a Request>) -> u32 {
        let worker = &self.batch.workers()[place];
        let (mut room, mut taken) = (worker.room_tokens(), 0);
        for request in requests {
            if taken == worker.open_slots() {
                break;
            }
            let fits = self.needs(request) <= room && self.batch.eligible(request, place);
            let elsewhere = |other: usize| other != place && self.takes(request, other);
            if fits && !(0..self.batch.workers().len()).any(elsewhere) {
                room -= self.needs(request);
                taken += 1;
            }
        }
        taken
    }
}
