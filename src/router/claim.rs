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
use std::collections::BinaryHeap;

use crate::batch::{Batch, Request};
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

/// Where an overdue request stands in the order in which they go: late ones first, by wait, then by arrival.
type Turn = (bool, Reverse<u32>, u64, PoolSlot);

/// Turns of several, the first of which is the greatest.
pub(super) type Turns = Vec<Reverse<Turn>>;

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
        // The first claim must not allocate either.
        self.later.reserve(self.workers.len().saturating_sub(self.later.len()));
        let mut turns = std::mem::take(&mut self.turns);
        let found = self.find_claim(&mut turns);
        self.turns = turns;
        self.next_claim = found.as_ref().map(|found| found.claim);
        if let Some(Found { place, open_slots, .. }) = found {
            if !std::mem::replace(&mut self.changed, true) {
                self.later.clone_from(&self.workers);
            }
            self.later[place].free_slots = open_slots;
        }
    }

    /// The step under way stands, and its claim.
    pub(super) fn keep_claim(&mut self) {
        let admitted = self.planned.len() as u64;
        if let Some(claim) = self.next_claim {
            self.counters.claims += u64::from(self.claim.is_none_or(|before| before.id != claim.id));
            self.counters.admitted_beside_claims += admitted;
        }
        self.claim = self.next_claim;
    }

    fn find_claim(&self, turns: &mut Turns) -> Option<Found> {
        // What one front end of several frees, the others fill: they do not hear of a claim.
        if !self.bounded || self.config.share.of > 1 {
            return None;
        }
        let candidates = self.pool.candidates();
        turns.clear();
        turns.reserve(candidates.len());
        let most = self.max_passed.filter(|&most| candidates.most_passed() >= most);
        if most.is_none() && !candidates.any_deadline() {
            return None;
        }
        let workers = if self.changed { &self.later } else { &self.workers };
        let view = Rooms {
            batch: Batch::draft(workers, &self.pool).pairs(self.next_rows.pairs()).unchecked(),
            growth_tokens: i64::from(self.headroom_steps()),
            max_passed: most,
        };
        let most_tokens = view.most_tokens(|_| true);
        let beyond = |tokens: i64| most_tokens.is_none_or(|most| tokens > most);
        let lacks = |request: &Request| !(0..workers.len()).any(|place| view.takes(request, place));
        turns.extend(view.overdue(beyond, lacks).map(Reverse));
        // Mostly the first one can be helped: the others need no order.
        let mut heap = BinaryHeap::from(std::mem::take(turns));
        let mut found = None;
        while let Some(Reverse(turn)) = heap.pop() {
            let request = candidates.request(turn.3);
            found = self.choose_worker(&view, request, candidates.passed(turn.3)).map(|of| (of, turn));
            if found.is_some() {
                break;
            }
        }
        *turns = heap.into_vec();
        let ((claim, place), turn) = found?;
        Some(Found { claim, place, open_slots: view.taken_before(place, turn, turns) })
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

/// Who waits, and the workers' room, as a step begins.
struct Rooms<'a> {
    batch: Batch<'a>,
    /// What each request is to leave free for itself.
    growth_tokens: i64,
    /// Who has been passed by so many is overdue.
    max_passed: Option<u32>,
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

    /// Tokens that a request may have to enter some of these workers, if one of them has a slot.
    fn most_tokens(&self, of: impl Fn(usize) -> bool) -> Option<i64> {
        let open = self.batch.workers().iter().enumerate();
        let open = open.filter(|(place, worker)| worker.open_slots() > 0 && of(*place));
        open.map(|(_, worker)| worker.room_tokens() - self.growth_tokens).max()
    }

    /// Who is overdue, in no order: by length where nobody has terms, else whoever the second question is
    /// answered with yes.
    fn overdue(
        &self,
        has_length: impl Fn(i64) -> bool,
        has_terms: impl Fn(&Request) -> bool,
    ) -> impl Iterator<Item = Turn> {
        let candidates = self.batch.waiting();
        let (ordered, any_terms) = (candidates.ordered(), candidates.any_pair_terms());
        let any_deadline = candidates.any_deadline();
        (0..candidates.len()).filter_map(move |at| {
            if !any_terms && !has_length(i64::from(ordered.tokens[at])) {
                return None;
            }
            let slot = PoolSlot(ordered.slots[at]);
            let is_passed = self.max_passed.is_some_and(|most| ordered.passed[at] >= most);
            if !is_passed && !any_deadline {
                return None;
            }
            let (request, waited_steps) = (candidates.request(slot), candidates.waited_steps(slot));
            let is_late = request.deadline_steps.is_some_and(|steps| waited_steps >= steps);
            if !(is_passed || is_late) || (any_terms && !has_terms(request)) {
                return None;
            }
            let waited_steps = if is_late { waited_steps } else { 0 };
            Some((!is_late, Reverse(waited_steps), candidates.arrival(slot), slot))
        })
    }

    /// How many of those whose turn is before this one may enter this worker one after the other, and no
    /// other.
    fn taken_before(&self, place: usize, before: Turn, turns: &mut Turns) -> u32 {
        let worker = &self.batch.workers()[place];
        let beside = self.most_tokens(|other| other != place);
        let mut room = worker.room_tokens();
        let only_here =
            |tokens: i64| tokens + self.growth_tokens <= room && beside.is_none_or(|beside| tokens > beside);
        let elsewhere = |request: &Request, other: usize| other != place && self.takes(request, other);
        let takes_alone = |request: &Request| {
            self.takes(request, place)
                && !(0..self.batch.workers().len()).any(|other| elsewhere(request, other))
        };
        turns.clear();
        if worker.open_slots() > 0 {
            turns.extend(self.overdue(only_here, takes_alone).filter(|&turn| turn < before).map(Reverse));
        }
        // The first of them goes first.
        turns.sort_unstable_by_key(|&Reverse(turn)| turn);
        let mut taken = 0;
        for &Reverse((.., slot)) in turns.iter() {
            let needs = self.needs(self.batch.waiting().request(slot));
            if taken < worker.open_slots() && needs <= room {
                room -= needs;
                taken += 1;
            }
        }
        taken
    }
}
