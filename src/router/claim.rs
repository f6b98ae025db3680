//! Claims: where KV caches bind, room is made for a request that is overdue and fits nowhere.
//!
//! Small requests would fill whatever a worker frees, again and again. So the first of the overdue, in the
//! order in which they go, that has no room anywhere *claims* a worker: nobody else of its class or a lower
//! one enters it until the request does. One request claims at a time, of the highest class that has one. Of
//! the workers that it may use and that could hold it once all of ours there have ended, it is the one with
//! most room, chosen anew by every step: so it is where ends happen to come soonest, and what is freed there
//! is never lost. From twice as many passes on as make a request overdue the worker is kept; it then drains,
//! at the latest, as its longest resident ends.
//!
//! A batch shows a claimed worker as it is to a higher class; to the claimant's with as few open slots as
//! there are overdue requests of it before the claimant that fit there and nowhere else; with none to a lower
//! one. So no rule, kernel or device knows of claims.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::assignment::Claimed;
use crate::batch::{Batch, Request};
use crate::ids::{RequestId, WorkerId};
use crate::policy::overtaking;
use crate::pool::PoolSlot;
use crate::router::{Router, find};

/// A worker that nobody of a class or a lower one enters before one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Claim {
    /// Who claims it.
    pub id: RequestId,
    pub worker: WorkerId,
    /// The class of the request, and where it stood among the overdue of that as the step found the claim.
    priority: i8,
    turn: Turn,
    /// Whether it stays this worker for as long as that could hold the request.
    is_kept: bool,
}

/// Where an overdue request stands in the order in which they go: late ones first, by wait, then by arrival.
type Turn = (bool, Reverse<u32>, u64, PoolSlot);

/// Turns of several, the first of which is the greatest.
pub(super) type Turns = Vec<Reverse<Turn>>;

impl Router {
    /// The claim as it stands.
    pub(super) fn claimed(&self) -> Option<Claimed> {
        let Claim { id, worker, priority, .. } = self.claim?;
        let place = self.place_of(worker).ok().filter(|&place| self.workers[place].accepting)?;
        Some(Claimed { id, worker: place, priority })
    }

    /// The worker on which nobody of this class is to be placed but by a step.
    pub(super) fn claimed_from(&self, priority: i8) -> Option<usize> {
        let claimed = self.claimed().filter(|claimed| claimed.shuts(claimed.worker, priority));
        claimed.map(|claimed| claimed.worker)
    }

    /// A request has left the pool, and its claim with it.
    pub(super) fn drop_claim_of(&mut self, id: RequestId) {
        self.claim = self.claim.filter(|claim| claim.id != id);
    }

    /// Finds who claims which worker in the step under way, before anything is decided.
    pub(super) fn claim_worker(&mut self) {
        // The first claim must not allocate either.
        self.later.reserve(self.workers.len().saturating_sub(self.later.len()));
        self.hidden_slots = 0;
        // What one front end of several frees, the others fill: they do not hear of a claim.
        if !self.bounded || self.config.share.of > 1 {
            return;
        }
        let (mut turns, mut class) = (std::mem::take(&mut self.turns), None);
        while self.next_claim.is_none() && self.pool.turn_below(class) {
            class = Some(self.pool.priority());
            self.next_claim = self.find_claim(&mut turns);
        }
        self.pool.face_first();
        self.turns = turns;
    }

    /// Shows the worker that is claimed in the step under way as the class whose turn it is may see it.
    pub(super) fn show_claimed(&mut self) {
        let Some(claim) = self.next_claim else { return };
        let Some(place) = find(&self.ids, claim.worker) else { return };
        if !std::mem::replace(&mut self.changed, true) {
            self.later.clone_from(&self.workers);
        }
        self.later[place].free_slots += std::mem::take(&mut self.hidden_slots);
        let open_slots = match self.pool.priority().cmp(&claim.priority) {
            Ordering::Greater => return,
            Ordering::Less => 0,
            Ordering::Equal => {
                let mut turns = std::mem::take(&mut self.turns);
                let open_slots = self.rooms().taken_before(place, claim.turn, &mut turns);
                self.turns = turns;
                open_slots
            }
        };
        let free_slots = &mut self.later[place].free_slots;
        self.hidden_slots = *free_slots - open_slots;
        *free_slots = open_slots;
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

    /// Who waits of the class whose turn it is, and the workers' room as things stand.
    fn rooms(&self) -> Rooms<'_> {
        let workers = if self.changed { &self.later } else { &self.workers };
        let most_passed = self.pool.candidates().most_passed();
        Rooms {
            batch: Batch::draft(workers, &self.pool).pairs(self.next_rows.pairs()).unchecked(),
            growth_tokens: i64::from(self.headroom_steps()),
            max_passed: self.max_passed.filter(|&most| most_passed >= most),
        }
    }

    fn find_claim(&self, turns: &mut Turns) -> Option<Claim> {
        let (view, candidates) = (self.rooms(), self.pool.candidates());
        turns.clear();
        turns.reserve(candidates.len());
        if view.max_passed.is_none() && !candidates.any_deadline() {
            return None;
        }
        let places = 0..view.batch.workers().len();
        let most_tokens = view.most_tokens(|_| true);
        let beyond = |tokens: i64| most_tokens.is_none_or(|most| tokens > most);
        let lacks = |request: &Request| !places.clone().any(|place| view.takes(request, place));
        turns.extend(view.overdue(beyond, lacks).map(Reverse));
        // Mostly the first one can be helped: the others need no order.
        let mut heap = BinaryHeap::from(std::mem::take(turns));
        let mut found = None;
        while let Some(Reverse(turn)) = heap.pop() {
            found = self.choose_worker(&view, turn);
            if found.is_some() {
                break;
            }
        }
        *turns = heap.into_vec();
        found
    }

    /// The claim of a request with this turn, if any worker could ever hold it.
    fn choose_worker(&self, view: &Rooms<'_>, turn: Turn) -> Option<Claim> {
        let (workers, candidates) = (view.batch.workers(), view.batch.waiting());
        let (request, passed) = (candidates.request(turn.3), candidates.passed(turn.3));
        let claim_on =
            |worker, is_kept| Claim { id: request.id, worker, priority: self.pool.priority(), turn, is_kept };
        let may_claim = |place: usize| {
            workers[place].accepting
                && view.batch.eligible(request, place)
                && self.accounts[place].could_hold(u64::from(request.prompt_tokens), &self.sight)
        };
        let kept = self.claim.filter(|claim| claim.id == request.id && claim.is_kept);
        if let Some(Claim { worker, .. }) = kept
            && find(&self.ids, worker).is_some_and(may_claim)
        {
            return Some(claim_on(worker, true));
        }
        // Where there is room, only a slot is missing, and who is overdue gets the next one.
        let lacks_room = |place: &usize| !view.has_room(request, *place) && may_claim(*place);
        let place = (0..workers.len())
            .filter(lacks_room)
            .max_by_key(|&place| (workers[place].room_tokens(), Reverse(place)))?;
        let most = overtaking::max_passed(&view.batch, self.max_passed);
        Some(claim_on(self.ids[place], passed >= most.saturating_mul(2)))
    }
}

/// Who waits of a class, and the workers' room.
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
