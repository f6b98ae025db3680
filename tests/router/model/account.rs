//! What the model knows of requests and workers, and what follows from it: every sum is taken anew.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use balanceroute::{Dispatch, Request, RequestId, ReturnReason, Share, WorkerId};

use super::{HEADROOM_STEPS, MOST_LOAD_TOKENS, World};

/// How far a request is on its worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stage {
    Sent,
    /// Acknowledged, when the worker had grown by so much.
    Received {
        reach: i64,
    },
    Held,
    Decoding,
    Preempted,
}

impl Stage {
    pub(super) fn grows(self) -> bool {
        !matches!(self, Self::Held | Self::Preempted)
    }

    fn is_coming(self) -> bool {
        matches!(self, Self::Sent | Self::Received { .. } | Self::Held)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    Waits,
    Runs { worker: WorkerId, number: u64, stage: Stage, since_ms: u64 },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// Its length when it had generated nothing.
    pub prompt: u64,
    pub generated: u64,
    /// What it may generate in all.
    pub most: Option<u64>,
    /// What is left free for it to grow by, while it runs.
    pub growth: u64,
    pub rank: Option<WorkerId>,
    pub deadline: Option<u32>,
    pub since_ms: u64,
    /// Step clock when it began to wait, or when it had generated nothing.
    pub step: i64,
    pub state: State,
    /// Its place in the list of those who wait or of those who run.
    pub at: usize,
    /// Its place in the order of arrival; none before it has one.
    pub arrival: Option<u64>,
    /// How many of its class that came later were admitted before it, to workers that it may use.
    pub passed: u32,
    pub priority: i8,
    /// All three of one who comes again as another, by its id.
    pub former: Option<(u64, u32, i8)>,
}

impl Record {
    pub(super) fn length(&self) -> u64 {
        self.prompt + self.generated
    }

    /// What it may still generate, if that is known.
    pub(super) fn left(&self) -> u64 {
        self.most.map_or(0, |most| most.saturating_sub(self.generated))
    }

    /// Where it runs, and how.
    pub(super) fn runs(&self) -> Option<(WorkerId, u64, Stage, u64)> {
        match self.state {
            State::Waits => None,
            State::Runs { worker, number, stage, since_ms } => Some((worker, number, stage, since_ms)),
        }
    }

    pub(super) fn runs_on(&self, worker: WorkerId) -> Option<(u64, Stage, u64)> {
        self.runs()
            .filter(|runs| runs.0 == worker)
            .map(|(_, number, stage, since_ms)| (number, stage, since_ms))
    }

    pub(super) fn request(&self, id: RequestId) -> Request<WorkerId> {
        let mut request = Request::new(id, self.length() as u32).generated(self.generated as u32);
        (request.rank, request.deadline_steps) = (self.rank, self.deadline);
        request.max_tokens(self.most.map(|most| most as u32)).priority(self.priority)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum What {
    Begun,
    Ended,
    Preempted,
}

/// What a report may not know that was measured before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub at_ms: u64,
    pub tokens: u64,
    pub what: What,
}

/// A worker as the router should see it, and the engine behind it.
#[derive(Default)]
pub(super) struct Side {
    pub id: WorkerId,
    pub slots: u64,
    pub capacity: Option<u64>,
    /// The last capacity that was not zero.
    pub ceiling: Option<u64>,
    pub accepting: bool,
    pub draining: bool,
    pub reach: i64,
    pub sent: u64,
    pub acknowledged: u64,
    pub sequence: Option<u64>,
    pub epoch: Option<u64>,
    /// Of the lives before, the last one last.
    pub former_epochs: Vec<u64>,
    /// Reports that rise below the last one taken: since when, the last number, how many, of which epoch.
    pub anew: Option<(u64, Option<u64>, u32, Option<u64>)>,
    pub reported_ms: Option<u64>,
    pub foreign_requests: u64,
    /// Measured tokens less the lengths of those who decode.
    pub correction: i64,
    pub empty_since_ms: Option<u64>,
    pub changes: Vec<Change>,
    /// Requests and tokens that were sent since the last report was measured.
    pub since: (u64, u64),
    /// Requests and tokens that have ended since the last report was measured.
    pub freed: (u64, u64),
    /// Foreign requests and the correction by the report before the last.
    pub before: (u64, i64),
    /// The greatest age that a report has told: nothing is noted for older ones. Before any it may be five
    /// seconds.
    pub oldest_ms: u64,
    // The engine.
    pub on_the_way: VecDeque<(u64, RequestId)>,
    pub received: Vec<u64>,
    pub holds: Vec<(u64, RequestId)>,
    pub reports: u64,
    pub life: Option<u64>,
    /// Never reports.
    pub mute: bool,
    /// Has forgotten what it held and takes nothing.
    pub dead: bool,
}

impl Side {
    pub(super) fn set_capacity(&mut self, capacity: Option<u64>) {
        self.capacity = capacity;
        if capacity != Some(0) {
            self.ceiling = capacity;
        }
    }

    pub(super) fn correct(&mut self, correction: i64) {
        self.correction = correction.clamp(-MOST_LOAD_TOKENS, MOST_LOAD_TOKENS);
    }

    fn changed(&mut self, at_ms: u64, tokens: u64, what: What) {
        let window_ms = if self.oldest_ms == 0 { 5_000 } else { self.oldest_ms };
        self.changes.retain(|change| change.at_ms >= at_ms.saturating_sub(window_ms));
        self.changes.push(Change { at_ms, tokens, what });
    }

    /// Somebody whom nothing has shown is not on the way any more.
    pub(super) fn unsend(&mut self, tokens: u64) {
        self.since = (self.since.0.saturating_sub(1), self.since.1.saturating_sub(tokens));
    }

    /// The slots that are surely this front end's.
    pub(super) fn own_slots(&self, share: Share) -> u64 {
        part(share, self.slots).max(self.slots.min(1))
    }
}

pub(super) fn part(share: Share, whole: u64) -> u64 {
    let (index, of) = (u64::from(share.index), u64::from(share.of));
    whole * (index + 1) / of - whole * index / of
}

/// All slots, or all tokens, of a worker.
struct Free {
    left: i64,
    own: i64,
    /// Whether the others have no more than their parts.
    intact: bool,
    since: i64,
    freed: i64,
    gone: i64,
    reserved: i64,
}

/// Whose the free tokens of a worker are in a turn.
#[derive(Clone, Copy, PartialEq)]
enum Turn {
    Parts,
    Ours,
    Closed,
}

impl World {
    pub(super) fn side(&self, worker: WorkerId) -> usize {
        self.sides.iter().position(|side| side.id == worker).expect("a worker")
    }

    /// Sum over those who run on a worker, of those that `which` wants.
    fn total(&self, worker: WorkerId, which: impl Fn(Stage) -> bool, of: impl Fn(&Record) -> u64) -> u64 {
        let records = self.running.iter().map(|id| &self.records[id]);
        let found = records.filter(|record| record.runs_on(worker).is_some_and(|(_, stage, _)| which(stage)));
        found.map(of).sum()
    }

    /// Requests and tokens on a worker, of those that `which` wants.
    pub(super) fn sum(&self, worker: WorkerId, which: impl Fn(Stage) -> bool) -> (u64, u64) {
        (self.total(worker, &which, |_| 1), self.total(worker, &which, Record::length))
    }

    pub(super) fn own(&self, side: &Side) -> (u64, u64) {
        self.sum(side.id, |_| true)
    }

    pub(super) fn preempted_tokens(&self, side: &Side) -> u64 {
        self.sum(side.id, |stage| stage == Stage::Preempted).1
    }

    /// KV tokens as they count: what is measured of those who decode, and in full what is coming.
    pub(super) fn counted(&self, side: &Side) -> u64 {
        let (_, coming) = self.sum(side.id, Stage::is_coming);
        let (_, decoding) = self.sum(side.id, |stage| stage == Stage::Decoding);
        (decoding as i64 + side.correction).max(0) as u64 + coming
    }

    /// Front ends that see the same loads begin with different workers.
    fn rotation(&self, place: usize) -> u64 {
        let Share { index, of } = self.setting.share;
        if of == 1 {
            return 0;
        }
        (place as u64 + u64::from(index) + self.looked_ms / 256) % self.sides.len() as u64
    }

    pub(super) fn load(&self, place: usize) -> u64 {
        let side = &self.sides[place];
        let tokens = (self.counted(side) + self.preempted_tokens(side)).min(MOST_LOAD_TOKENS as u64);
        // Of what others have there a front end counts its part.
        let foreign = side.correction.max(0) as u64;
        let seen = tokens - foreign.min(tokens) + foreign / u64::from(self.setting.share.of);
        (seen + self.rotation(place)).min(MOST_LOAD_TOKENS as u64)
    }

    /// KV tokens kept for the growth of whoever is there, and for those who come back by themselves.
    pub(super) fn growth(&self, side: &Side) -> (u64, u64) {
        let own = self.total(side.id, |_| true, |record| record.growth) + self.preempted_tokens(side);
        (own, own + side.foreign_requests * u64::from(HEADROOM_STEPS))
    }

    /// Which part of what is free is this front end's now, and whose turn it is.
    fn turn(&self, side: &Side) -> (Share, Turn, bool) {
        let Share { index, of } = self.setting.share;
        let (turn, young) = (self.looked_ms / 256, self.looked_ms % 256 < 128);
        let (place, fronts) = (self.side(side.id) as u64, u64::from(of));
        let index = ((u64::from(index) + place + turn) % fronts) as u32;
        let whose = match (place + turn % fronts + turn / fronts) % 4 {
            0 if index == 0 && !young => Turn::Ours,
            0 => Turn::Closed,
            1 if young => Turn::Closed,
            _ => Turn::Parts,
        };
        (Share { index, of }, whose, young)
    }

    /// What the last two reports show to be free.
    fn spare(side: &Side, free: &Free) -> i64 {
        if side.reported_ms.is_none() {
            return 0;
        }
        let reserved = if free.own > 0 { 0 } else { free.reserved };
        (free.left + free.since - free.freed - free.gone - reserved).max(0)
    }

    /// What this front end has freed itself and what it is lent, and its own part where the others leave it.
    fn ours(&self, side: &Side, free: &Free, lent: i64) -> i64 {
        if self.setting.share.of == 1 {
            return free.left;
        }
        if side.reported_ms.is_none() {
            return free.left.min(free.own);
        }
        let gives = self.turn(side).1 == Turn::Closed && free.own <= 0 && Self::spare(side, free) == 0;
        let taken = if gives { 0 } else { free.freed } + lent - free.since;
        free.left.min(if free.intact { taken.max(free.own) } else { taken })
    }

    pub(super) fn free_slots(&self, side: &Side) -> u64 {
        let (own, _) = self.own(side);
        let (own, foreign) = (own as i64, side.foreign_requests as i64);
        let slots = side.slots as i64;
        let others = i64::from(self.setting.share.of) - 1;
        let free = Free {
            left: slots - own - foreign,
            own: side.own_slots(self.setting.share) as i64 - own,
            intact: foreign <= slots - side.own_slots(self.setting.share) as i64,
            since: side.since.0 as i64,
            freed: side.freed.0 as i64,
            gone: (side.before.0 as i64 - foreign).max(0),
            reserved: (others.min(slots / 8) - foreign).max(0),
        };
        let (spare, (share, _, young)) = (Self::spare(side, &free), self.turn(side));
        let all = if share.index == 0 && !young { spare } else { 0 };
        self.ours(side, &free, all.max(part(share, spare as u64) as i64)).max(0) as u64
    }

    /// What a request may have with its headroom on an empty worker, unless it waits for that alone.
    pub(super) fn lent_tokens(&self, side: &Side) -> Option<u64> {
        let capacity = side.ceiling?;
        let turn = if side.reported_ms.is_some() { capacity / 4 * 3 } else { 0 };
        Some(match self.setting.share {
            Share { of: 1, .. } => capacity,
            share => turn.max(part(share, capacity)),
        })
    }

    /// Whether a worker has one headroom more, and nothing is left of it to others, for a request that only
    /// an empty worker can hold.
    pub(super) fn is_eased(&self, side: &Side) -> bool {
        let is_ours = self.setting.share.of == 1 || self.turn(side).1 == Turn::Ours;
        self.tight && self.own(side).0 + side.foreign_requests == 0 && is_ours
    }

    /// Tokens that nobody uses on a worker, and that are not kept for growth.
    pub(super) fn left_tokens(&self, side: &Side) -> i64 {
        let capacity = side.capacity.map_or(i64::MAX / 8, |capacity| capacity as i64);
        capacity - self.counted(side) as i64 - self.growth(side).1 as i64
    }

    /// Tokens that one more request may have on a worker.
    pub(super) fn room(&self, side: &Side) -> i64 {
        let Some(capacity) = side.capacity else { return i64::MAX / 8 };
        let headroom = i64::from(HEADROOM_STEPS);
        let (_, own) = self.own(side);
        let (counted, growth) = (self.counted(side), self.growth(side));
        let own = own - self.preempted_tokens(side);
        let share = self.setting.share;
        let others = i64::from(share.of > 1);
        let free = Free {
            left: self.left_tokens(side),
            own: part(share, capacity) as i64 - own.min(counted) as i64 - growth.0 as i64,
            intact: side.correction.max(0) as u64 <= capacity - part(share, capacity),
            since: side.since.1 as i64,
            freed: side.freed.1 as i64,
            gone: (side.before.1 - side.correction).max(0),
            reserved: (capacity as i64 / 8 - side.correction.max(0)).max(0) * others,
        };
        let (spare, (share, turn, _)) = (Self::spare(side, &free), self.turn(side));
        let lent = match turn {
            Turn::Parts => part(share, spare as u64) as i64,
            Turn::Ours => spare / 4 * 3,
            Turn::Closed => part(share, spare as u64 / 4) as i64,
        };
        if self.is_eased(side) { free.left } else { self.ours(side, &free, lent) - headroom }
    }

    /// Whether a request may enter a worker as the model counts.
    pub(super) fn fits(&self, record: &Record, side: &Side) -> bool {
        self.is_open_to(record, side) && record.length() as i64 <= self.room(side)
    }

    /// Whether it may but for the tokens.
    pub(super) fn is_open_to(&self, record: &Record, side: &Side) -> bool {
        self.may_take(record, side) && self.free_slots(side) > 0
    }

    pub(super) fn may_take(&self, record: &Record, side: &Side) -> bool {
        side.accepting && record.rank.is_none_or(|rank| rank == side.id)
    }

    /// Slots and tokens that a worker has for one more request.
    pub(super) fn opening(&self, worker: WorkerId) -> (i64, i64) {
        let side = &self.sides[self.side(worker)];
        (self.free_slots(side) as i64, self.room(side))
    }

    /// Whether a worker has no slot or no room for a request of this length.
    pub(super) fn is_beyond(&self, side: &Side, length: u64) -> bool {
        self.free_slots(side) == 0 || self.room(side) + i64::from(HEADROOM_STEPS) < length as i64
    }

    /// Where a request queues that fits nowhere: where the fewest are before it for each one who is served.
    pub(super) fn shortest_queue(&self, record: &Record) -> Option<WorkerId> {
        let key = |&place: &usize| {
            let (side, length) = (&self.sides[place], record.length());
            let there = self.own(side).0 + side.foreign_requests;
            let lacks_room = side.capacity.is_some_and(|capacity| self.counted(side) + length > capacity);
            // Those for whom there are no tokens are taken to be those who have shown nothing.
            let unseen = self.sum(side.id, |stage| stage == Stage::Sent).0;
            let queued = there.saturating_sub(side.slots).max(if lacks_room { unseen } else { 0 });
            let before = if lacks_room || there >= side.slots { queued + 1 } else { 0 };
            let wait = before as f64 / there.saturating_sub(queued).max(1) as f64;
            let is_open = side.accepting && !self.is_shut(side, record.priority);
            (Reverse(is_open), wait.to_bits(), self.load(place), place)
        };
        (0..self.sides.len()).min_by_key(key).map(|place| self.sides[place].id)
    }

    pub(super) fn enlist(&mut self, id: RequestId, mut record: Record) {
        let list = if record.state == State::Waits { &mut self.waiting } else { &mut self.running };
        record.at = list.len();
        list.push(id);
        assert!(self.records.insert(id, record).is_none(), "{id} is there already");
    }

    /// Takes a record out; it must be there, so nobody leaves twice.
    pub(super) fn strike(&mut self, id: RequestId) -> Record {
        self.masked.remove(&id);
        let record = self.records.remove(&id).unwrap_or_else(|| panic!("{id} left twice or was never there"));
        self.claim = self.claim.filter(|claim| claim.id != id);
        let list = if record.state == State::Waits { &mut self.waiting } else { &mut self.running };
        assert_eq!(list.swap_remove(record.at), id);
        if let Some(&moved) = list.get(record.at) {
            self.records.get_mut(&moved).expect("listed").at = record.at;
        }
        record
    }

    /// A request begins to run.
    pub(super) fn begins(&mut self, id: RequestId, mut record: Record, worker: WorkerId, stage: Stage) {
        let at = self.side(worker);
        self.comes_along(at);
        let side = &mut self.sides[at];
        side.sent += u64::from(stage == Stage::Sent);
        if stage == Stage::Sent {
            side.since = (side.since.0 + 1, side.since.1 + record.length());
        }
        let number = if stage == Stage::Sent { side.sent } else { 0 };
        let headroom = u64::from(HEADROOM_STEPS);
        record.growth = if record.most.is_some() { record.left().min(headroom) } else { headroom };
        record.step = self.clock - record.generated as i64;
        record.state = State::Runs { worker, number, stage, since_ms: self.told_ms };
        record.arrival = Some(record.arrival.unwrap_or_else(|| self.next_arrival()));
        self.enlist(id, record);
    }

    /// Nobody's length depends on what the worker has grown by: it is as far as the step clock.
    pub(super) fn comes_along(&mut self, at: usize) {
        let id = self.sides[at].id;
        if self.sum(id, Stage::grows).0 == 0 {
            self.sides[at].reach = self.clock;
        }
    }

    /// A dispatch is on its way to the engine.
    pub(super) fn goes_out(&mut self, dispatch: &Dispatch) {
        let Dispatch { id, worker, number, .. } = *dispatch;
        let at = self.side(worker);
        assert_eq!(number, self.sides[at].sent, "dispatch numbers have no gap");
        assert_eq!(u64::from(dispatch.prompt_tokens), self.records[&id].length());
        // Some are lost on the way.
        if !self.rng.one_in(20) {
            self.sides[at].on_the_way.push_back((number, id));
        }
        self.lives.push_back(*dispatch);
        if self.lives.len() > 40 {
            self.lives.pop_front();
        }
    }

    /// A request that was taken out of the list leaves its worker.
    pub(super) fn leaves(&mut self, record: &Record) {
        let Some((worker, _, stage, _)) = record.runs() else { return };
        if stage == Stage::Decoding {
            self.release(worker, record.length());
        }
        if stage != Stage::Preempted {
            let (at, now_ms) = (self.side(worker), self.told_ms);
            self.sides[at].changed(now_ms, record.length(), What::Ended);
        }
        let at = self.side(worker);
        if stage == Stage::Sent {
            self.sides[at].unsend(record.length());
        } else {
            let freed = &mut self.sides[at].freed;
            *freed = (freed.0 + 1, freed.1 + record.length() + record.growth);
        }
    }

    /// Somebody who has decoded is no longer in the list of a worker: with it goes its part of what they
    /// share.
    fn release(&mut self, worker: WorkerId, tokens: u64) {
        let (_, decoding) = self.sum(worker, |stage| stage == Stage::Decoding);
        let decoding = i128::from(decoding + tokens);
        let at = self.side(worker);
        let side = &mut self.sides[at];
        if side.correction < 0 && decoding > 0 {
            side.correction -= (i128::from(side.correction) * i128::from(tokens) / decoding) as i64;
        }
    }

    /// A request that runs is in another stage.
    pub(super) fn moves(&mut self, id: RequestId, to: Stage) {
        let record = self.records[&id];
        let (worker, number, from, since_ms) = record.runs().expect("it runs");
        let at = self.side(worker);
        if !from.grows() && to.grows() {
            self.comes_along(at);
        }
        let since_ms = if from == Stage::Sent { self.told_ms } else { since_ms };
        let of = self.records.get_mut(&id).expect("it runs");
        of.state = State::Runs { worker, number, stage: to, since_ms };
        if !from.grows() && to.grows() {
            of.step = self.clock - record.generated as i64;
        }
        if (from, to) == (Stage::Decoding, Stage::Preempted) {
            self.release(worker, record.length());
        }
        let now_ms = self.told_ms;
        match to {
            Stage::Decoding if from != to => self.sides[at].changed(now_ms, record.length(), What::Begun),
            Stage::Preempted if from != to => {
                self.sides[at].changed(now_ms, record.length(), What::Preempted)
            }
            _ => {}
        }
    }

    /// A request comes back with the next plan.
    pub(super) fn gone(&mut self, id: RequestId, reason: ReturnReason) {
        let record = self.strike(id);
        self.leaves(&record);
        self.left += 1;
        assert!(self.expected.insert(id, reason).is_none());
    }

    pub(super) fn next_arrival(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    /// Somebody enters a worker: those of its class who came earlier and may use it have been passed.
    pub(super) fn passes(&mut self, arrival: u64, worker: WorkerId, priority: i8) {
        for id in &self.waiting {
            let may = self.masked.get(id).is_none_or(|masked| !masked.contains(&worker));
            let record = self.records.get_mut(id).expect("it waits");
            let came = record.arrival.expect("it waits") < arrival && record.priority == priority;
            record.passed += u32::from(came && may && record.rank.is_none_or(|rank| rank == worker));
        }
    }

    /// Who may be admitted, by the order of arrival: of each class so many.
    pub(super) fn window(&self) -> Vec<RequestId> {
        let mut window = self.waiting.clone();
        window.sort_by_key(|id| self.records[id].arrival);
        let mut seen = BTreeMap::new();
        window.retain(|id| {
            let seen = seen.entry(self.records[id].priority).or_insert(0);
            *seen += 1;
            *seen <= self.setting.window
        });
        window
    }

    /// Whether somebody has been passed as often as may be.
    pub(super) fn is_next(&self, id: RequestId) -> bool {
        self.most_passes().is_some_and(|most| self.records[&id].passed >= most)
    }

    /// By how many a request may be passed, as the last step had it.
    pub(super) fn most_passes(&self) -> Option<u32> {
        let most = self.setting.max_passed.unwrap_or(128 * self.sides_of_step as u32);
        (self.setting.repairs && self.sides_of_step > 0).then_some(most)
    }
}
