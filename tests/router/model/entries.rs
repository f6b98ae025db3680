//! Requests come: they wait, are placed, are sent whether or not there is room, or run already.

use balanceroute::{Mode, Placement, Request, RequestId, RouterError, WorkerId};

use super::account::{Record, Side, Stage, State};
use super::{HEADROOM_STEPS, MOST_WAITING, World};

impl World {
    fn any_worker(&mut self) -> Option<WorkerId> {
        (!self.sides.is_empty()).then(|| self.sides[self.rng.index(self.sides.len())].id)
    }

    /// A request that comes, new or once more, and what is true of it.
    fn request(&mut self) -> (Request<WorkerId>, Record) {
        if !self.put_off.is_empty() && self.rng.one_in(3) {
            return self.again();
        }
        self.next_id += 1;
        let mut rank = if self.rng.one_in(6) { self.any_worker() } else { None };
        let prompt = match self.rng.below(40) {
            0 => 1 + self.rng.below(6_000),
            // As long as a whole cache, or nearly.
            1 | 2 if !self.sides.is_empty() => {
                let side = &self.sides[self.rng.index(self.sides.len())];
                rank = self.rng.one_in(2).then_some(side.id);
                let around = self.rng.below(2 * u64::from(HEADROOM_STEPS));
                (side.ceiling.unwrap_or(900) + 5).saturating_sub(around).max(1)
            }
            2..9 => 200 + self.rng.below(800),
            _ => 1 + self.rng.below(200),
        };
        let deadline = self.rng.one_in(5).then(|| 1 + self.rng.below(60) as u32);
        let most = match self.rng.below(8) {
            0 => Some(self.rng.below(2 * u64::from(HEADROOM_STEPS))),
            1 => Some(self.rng.below(500)),
            _ => None,
        };
        // Some come from elsewhere, where they have generated tokens already.
        let generated = if self.rng.one_in(12) { self.rng.below(prompt + 1) } else { 0 };
        let record = Record {
            prompt: prompt - generated,
            generated,
            most,
            growth: 0,
            rank,
            deadline,
            since_ms: 0,
            step: 0,
            state: State::Waits,
            at: 0,
            arrival: None,
            passed: 0,
            priority: if self.setting.classes { [-9, 0, 0, 4][self.rng.index(4)] } else { 0 },
            former: None,
        };
        let id = RequestId(self.next_id);
        let mut request = record.request(id);
        if self.rng.one_in(8) {
            // A prefix that its worker has is none of its length here.
            let cached = self.rng.below(100) as u32;
            request.prompt_tokens += cached;
            request = request.cached(cached);
        }
        if self.rng.one_in(3) {
            request.prompt_hash = Some(self.rng.below(5));
        }
        (request, record)
    }

    /// Somebody who was put off.
    fn again(&mut self) -> (Request<WorkerId>, Record) {
        let at = self.rng.index(self.put_off.len());
        let (id, mut record) = self.put_off.swap_remove(at);
        record.rank = record.rank.filter(|&rank| self.sides.iter().any(|side| side.id == rank));
        let mut request = record.request(id);
        let before = record.priority;
        if self.setting.classes {
            match self.rng.below(3) {
                // It need not say again which class it is of.
                0 => request.priority = 0,
                1 => {
                    record.priority = 4;
                    request.priority = 4;
                }
                _ => {}
            }
        }
        match self.rng.below(3) {
            // By its id and its length it is known.
            0 => request.generated_tokens = 0,
            // Of another length it is somebody else.
            1 => {
                request.prompt_tokens += 1;
                request.generated_tokens = 0;
                (record.prompt, record.generated) = (record.length() + 1, 0);
                record.former = record.arrival.map(|arrival| (arrival, record.passed, before));
                (record.arrival, record.passed, record.priority) = (None, 0, request.priority);
                self.tally.meets("came again as another");
            }
            _ => {}
        }
        self.tally.meets("came again");
        (request, record)
    }

    /// A request waits. Under a policy that binds on arrival the router chose a rank.
    fn waits(&mut self, id: RequestId, mut record: Record) {
        let request = self.router.pool().request(id).expect("it waits");
        let rank = request.rank.map(|place| self.sides[place.index()].id);
        assert!(record.rank.is_none() || rank == record.rank, "a given rank is kept");
        assert_eq!(u64::from(request.prompt_tokens), record.length());
        assert_eq!(u64::from(request.generated_tokens), record.generated);
        assert_eq!(request.priority, record.priority);
        record.rank = rank;
        (record.state, record.growth) = (State::Waits, 0);
        (record.since_ms, record.step) = (self.told_ms, self.clock);
        match record.arrival {
            None => record.arrival = Some(self.next_arrival()),
            // One that has been here before has been passed as often as who came after it, or more.
            Some(arrival) => {
                let others = self.waiting.iter().map(|id| &self.records[id]);
                let younger = others
                    .filter(|other| other.rank == rank && other.priority == record.priority)
                    .filter(|other| other.arrival > Some(arrival))
                    .min_by_key(|other| other.arrival);
                record.passed = record.passed.max(younger.map_or(0, |younger| younger.passed));
            }
        }
        self.enlist(id, record);
        // Whoever it has pushed behind the window is taken to use any worker.
        let window = self.window();
        self.masked.retain(|id, _| window.contains(id));
    }

    pub(super) fn enqueue(&mut self) {
        if self.waiting.len() >= MOST_WAITING {
            return;
        }
        let now_ms = self.tell_perhaps();
        let (request, record) = self.request();
        self.router.enqueue(request, now_ms).expect("valid");
        self.arrived += 1;
        self.waits(request.id, record);
        if now_ms.is_none() {
            self.undated.push(request.id);
        }
        if self.rng.one_in(20) {
            let later_ms = self.reading(self.now_ms + 1);
            assert!(self.router.enqueue(request, later_ms).is_err(), "a second one of the same id");
        }
    }

    pub(super) fn place(&mut self) {
        if self.waiting.len() >= MOST_WAITING {
            return;
        }
        let reading = self.tell();
        self.looked_ms = reading;
        let (request, record) = self.request();
        let is_open = |side: &&Side| side.accepting && !self.is_shut(side, record.priority);
        let open: u64 = self.sides.iter().filter(is_open).map(|side| self.free_slots(side)).sum();
        let at_once = match self.setting.mode {
            Mode::Step => false,
            Mode::Arrival => open > 0,
            Mode::Mixed { free_slots } => open > u64::from(free_slots),
        };
        let loads: Vec<i64> = (0..self.sides.len()).map(|place| self.load(place) as i64).collect();
        let most = loads.iter().copied().max().unwrap_or(0);
        let score = |g: usize| {
            let tokens = record.length() as i64;
            tokens - self.sides.len() as i64 * (tokens - (most - loads[g])).max(0)
        };
        let takes = |side: &Side| self.fits(&record, side) && !self.is_shut(side, record.priority);
        let best = (0..self.sides.len())
            .filter(|&g| at_once && takes(&self.sides[g]))
            .max_by_key(|&g| (score(g), -loads[g], std::cmp::Reverse(g)))
            .map(|g| self.sides[g].id);
        let binds = self.router.policy().needs().binds_on_arrival;
        match self.router.place(request, reading).expect("valid") {
            Placement::Placed(dispatch) => {
                assert!(at_once, "the mode lets it wait");
                let mut record = record;
                let worker = dispatch.worker;
                if binds {
                    record.rank = Some(worker);
                } else {
                    assert_eq!(Some(worker), best);
                }
                assert!(!self.is_taken(worker, record.priority), "somebody is next on {worker}");
                let is_shut = self.is_shut(&self.sides[self.side(worker)], record.priority);
                assert!(!is_shut, "{worker} is claimed: {:?}", self.claim);
                if self.sides.iter().any(|side| self.is_claimed(side)) {
                    self.counts.admitted_beside_claims += 1;
                    if self.is_claimed(&self.sides[self.side(worker)]) {
                        self.tally.meets("placed on the claimed worker of a lower class");
                    }
                }
                let opening = self.opening(worker);
                self.is_admitted(&record, worker, false, opening);
                record.arrival = Some(record.arrival.unwrap_or_else(|| self.next_arrival()));
                self.passes(record.arrival.expect("given"), worker, record.priority);
                self.counts_turns(&[record.priority], &[]);
                self.most_passed = self.most_passed.max(record.passed);
                self.begins(request.id, record, worker, Stage::Sent);
                self.goes_out(&dispatch);
                self.tally.meets("placed");
            }
            Placement::Waits => {
                let is_shut = best.is_none_or(|best| self.is_taken(best, record.priority));
                assert!(binds || is_shut, "it could have entered {best:?}");
                self.waits(request.id, record);
            }
        }
        self.arrived += 1;
    }

    /// Whether somebody waits whom this worker could take, and who goes before one of this class: of a higher
    /// class or of one whose turn is due, or of this one, who has been passed as often as may be.
    fn is_taken(&self, worker: WorkerId, priority: i8) -> bool {
        let side = &self.sides[self.side(worker)];
        let fits = |id: &RequestId| self.fits(&self.records[id], side);
        let is_next = |id: &RequestId| self.records[id].priority == priority && self.is_next(*id);
        let goes_first = |id: &RequestId| {
            let class = self.records[id].priority;
            class > priority || class < priority && self.due(class) > 0
        };
        self.waiting.iter().any(|id| goes_first(id) && fits(id))
            || self.window().iter().any(|id| is_next(id) && fits(id))
    }

    /// Somebody may be let into a worker.
    ///
    /// `opening` is what the worker had as the decision began, less what it has taken by it: of several front
    /// ends' workers the decision sees that, for what is lent is known again once somebody was sent.
    pub(super) fn is_admitted(
        &mut self,
        record: &Record,
        worker: WorkerId,
        eased: bool,
        opening: (i64, i64),
    ) {
        let at = self.side(worker);
        let (length, side) = (record.length() as i64, &self.sides[at]);
        // The exception for who needs an empty worker is that worker's, for all that enter it in this step.
        let room = if eased { self.left_tokens(side) } else { self.room(side) };
        let (slots, room) = match self.setting.share.of {
            1 => (self.free_slots(side) as i64, room),
            _ => (opening.0, opening.1.max(if eased { room } else { i64::MIN })),
        };
        let fits = self.may_take(record, side) && slots > 0 && length <= room;
        assert!(fits, "{record:?} does not fit worker {worker}: {length} in {room}, {slots} slots");
        let is_beyond_own = self.own(side).0 >= side.own_slots(self.setting.share);
        let is_tight = self.is_eased(side) && length > room - i64::from(HEADROOM_STEPS);
        if is_beyond_own {
            self.tally.meets("borrowed");
        }
        if is_tight {
            self.tally.meets("without headroom");
        }
    }

    pub(super) fn send(&mut self) {
        let of_waiting = !self.waiting.is_empty() && self.rng.one_in(2);
        let (mut request, mut record) = if of_waiting {
            let id = self.waiting[self.rng.index(self.waiting.len())];
            let record = self.records[&id];
            (record.request(id), record)
        } else {
            self.request()
        };
        // Its rank is a promise, but for a caller that names a worker itself.
        let worker = if self.rng.one_in(2) { self.any_worker() } else { None };
        if of_waiting && self.rng.one_in(4) {
            // What is sent is what was said last.
            request.prompt_tokens += 3;
            record.prompt += 3;
        }
        if of_waiting && self.rng.one_in(4) {
            let mut wrong = request;
            wrong.prompt_tokens = [0, u32::MAX][self.rng.index(2)];
            let refused = self.router.send(wrong, worker, None);
            assert!(
                matches!(refused, Err(RouterError::Batch(_) | RouterError::Generated { .. })),
                "{refused:?}"
            );
        }
        let expected = worker.or(record.rank).or_else(|| self.shortest_queue(&record));
        let reading = self.rng.one_in(2).then(|| self.reading(self.now_ms));
        let Some(to) = expected else {
            let refused = self.router.send(request, worker, reading);
            assert_eq!(refused, Err(RouterError::NoWorker { id: request.id }));
            return;
        };
        let is_beyond = self.is_beyond(&self.sides[self.side(to)], record.length());
        self.counts.sent_beyond += u64::from(is_beyond);
        let dispatch = self.router.send(request, worker, reading).expect("there is a worker");
        assert_eq!((dispatch.id, dispatch.worker), (request.id, to));
        if reading.is_some() {
            self.tell();
        }
        if of_waiting {
            record.passed = self.strike(request.id).passed;
            self.most_passed = self.most_passed.max(record.passed);
        } else {
            self.arrived += 1;
        }
        record.arrival = Some(record.arrival.unwrap_or_else(|| self.next_arrival()));
        self.passes(record.arrival.expect("given"), to, record.priority);
        self.counts_turns(&[record.priority], &[]);
        record.rank = record.rank.filter(|&rank| rank == to);
        self.begins(request.id, record, to, Stage::Sent);
        self.goes_out(&dispatch);
        self.tally.meets(if of_waiting { "sent, waited" } else { "sent" });
        if is_beyond {
            self.tally.meets("sent beyond");
        }
        let again = self.router.send(request, None, None);
        assert_eq!(again, Err(RouterError::Running { id: request.id, worker: to }));
    }

    pub(super) fn adopt(&mut self) {
        let Some(worker) = self.any_worker() else { return };
        let list = match self.rng.below(3) {
            0 => &self.waiting,
            1 => &self.running,
            _ => &Vec::new(),
        };
        let at = if list.is_empty() { 0 } else { self.rng.0 as usize % list.len() };
        let known = list.get(at).map(|&id| (id, self.records[&id]));
        let (id, mut record) = known.unwrap_or_else(|| {
            let (request, record) = self.request();
            (request.id, record)
        });
        if let Some((arrival, passed, priority)) = record.former.take().filter(|_| known.is_none()) {
            // Whatever its length, it is the same that an engine goes on with.
            (record.arrival, record.passed) = (Some(arrival), passed);
            record.priority = if record.priority == 0 { priority } else { record.priority };
        }
        // An engine counts for itself.
        record.generated = self.rng.below(40);
        let mut request = record.request(id);
        (request.prompt_tokens, request.generated_tokens) = (record.prompt.max(1) as u32, 7);
        record.prompt = record.prompt.max(1);
        let is_beyond = self.is_beyond(&self.sides[self.side(worker)], record.length());
        self.router.adopt(request, worker, record.generated as u32).expect("a worker");
        match known.map(|(_, before)| before.state) {
            None => self.arrived += 1,
            Some(State::Waits) => {
                self.strike(id);
                self.passes(record.arrival.expect("it waited"), worker, record.priority);
                self.counts_turns(&[record.priority], &[]);
            }
            Some(State::Runs { worker: before, .. }) => {
                let before_it = self.strike(id);
                self.leaves(&before_it);
                self.tally.meets(if before == worker { "adopted where it runs" } else { "moved" });
            }
        }
        let ran = known.is_some_and(|(_, before)| before.state != State::Waits);
        self.counts.adopted_beyond += u64::from(is_beyond && !ran);
        record.rank = record.rank.filter(|&rank| rank == worker);
        self.begins(id, record, worker, Stage::Decoding);
        self.tally.meets("adopted");
    }
}
