//! What callers do with requests and workers beside letting them in and deciding.

use balanceroute::{Dispatch, Request, ReturnReason, WorkerId};

use crate::audit;
use crate::caller::Order;
use crate::front::{Life, Stage};
use crate::network::{Draw, Message};
use crate::rank::Phase;
use crate::ranks::owner;
use crate::tally::Kind;
use crate::world::World;

impl World {
    /// Somebody of a list, by a number.
    fn pick<T: Copy>(list: &[T], which: u64) -> Option<T> {
        if list.is_empty() { None } else { Some(list[which as usize % list.len()]) }
    }

    /// A request is sent past all rules: one that waits, or a new one.
    pub(crate) fn send(&mut self, front: u64, which: u64, (prompt, output): (u64, u64), salt: u64) {
        let (front, mut draw) = (self.front(front), Draw(salt));
        let (now_ms, clock) = self.time(&mut draw);
        // Where some workers never come a caller says where to.
        let (to, names) = (draw.below(self.setting.ranks) as usize, draw.one_in(2));
        let to = self.fronts[front].worker_of(to).filter(|_| names || self.setting.absent > 0);
        if self.setting.absent > 0 && to.is_none() {
            return;
        }
        let at = &mut self.fronts[front];
        let waiting = Self::pick(&at.waiting, which).filter(|_| draw.one_in(2));
        let request = match waiting {
            // A rank that the policy chose is not the caller's to name.
            Some(id) => at.records[&id].request,
            None => Request::new(at.new_id(), prompt.max(1) as u32),
        };
        let refused =
            request.rank.is_some_and(|rank| !at.has_worker(rank)) || at.router.worker_ids().is_empty();
        let reading = at.shows(now_ms, clock);
        let sent = at.call(refused, &mut self.seen, |router| router.send(request, to, reading));
        let Some(dispatch) = sent else { return };
        at.read(now_ms, clock);
        assert!(to.or(request.rank).is_none_or(|to| to == dispatch.worker), "{dispatch:?}");
        let record = match waiting {
            Some(id) => {
                at.counts.sent_waiting += 1;
                at.take(id)
            }
            None => at.newcomer(request, output.max(1)),
        };
        at.passes((record.arrival, record.request.priority), dispatch.worker, false);
        at.runs(record, &dispatch, Stage::Sent);
        self.seen.add(Kind::Sent);
        self.dispatch(front, &dispatch, &mut draw);
    }

    pub(crate) fn abort(&mut self, front: u64, which: u64, salt: u64) {
        let (front, mut draw) = (self.front(front), Draw(salt));
        let (now_ms, clock) = self.time(&mut draw);
        let at = &mut self.fronts[front];
        let list = if draw.one_in(2) { &at.waiting } else { &at.running };
        let Some(id) = Self::pick(list, which) else { return };
        let runs = at.runs_on(id);
        let reading = draw.one_in(2).then(|| at.shows(now_ms, clock));
        let by_life = runs.filter(|_| draw.one_in(2));
        let on = match by_life {
            Some((worker, number)) => {
                let dispatch = Dispatch { id, worker, number, prompt_tokens: 1, score_tokens: 0.0 };
                at.call(false, &mut self.seen, |router| router.abort_dispatch(&dispatch, reading))
            }
            None => at.call(false, &mut self.seen, |router| router.abort(id, reading)),
        };
        if reading.is_some() {
            at.read(now_ms, clock);
        }
        assert_eq!(on.expect("it is inside"), runs.map(|(worker, _)| worker));
        at.take(id);
        at.counts.aborted += 1;
        at.end_order();
        self.seen.add(if runs.is_some() { Kind::AbortedRunning } else { Kind::AbortedWaiting });
        if let Some((worker, number)) = runs
            && let Some(rank) = self.fronts[front].rank_of(worker)
        {
            self.network.send(self.now_ms, Message::Abort { rank, id, number }, &mut draw, &mut self.seen);
        }
    }

    /// An engine gives a request up that its caller sends again: it goes on where it was.
    pub(crate) fn preempt(&mut self, front: u64, which: u64) {
        let front = self.front(front);
        let Some(id) = Self::pick(&self.fronts[front].running, which) else { return };
        let at = &mut self.fronts[front];
        let again = at.call(false, &mut self.seen, |router| router.preempt(id)).expect("it runs");
        assert_eq!((again.id, again.waited_steps), (id, 0));
        let record = at.take(id);
        at.counts.preempted += 1;
        self.seen.add(Kind::Preempted);
        self.network.drop_dispatches(id);
        self.sides.iter_mut().for_each(|side| while side.drop(|job| job.id == id).is_some() {});
        let refused = at.is_refused(&again);
        let again_in = at.call(refused, &mut self.seen, |router| router.enqueue(again, None));
        at.end_order();
        if again_in.is_some() {
            at.waits((again, record.output), None, Some(record.arrival));
        }
    }

    /// An engine says that it runs what a front end has not sent.
    pub(crate) fn adopt(&mut self, front: u64, rank: u64) {
        let (front, rank) = (self.front(front), self.rank(rank));
        let Some(worker) = self.fronts[front].worker_of(rank) else { return };
        let side = &mut self.sides[rank];
        let foreign = |job: &&mut crate::rank::Job| job.dispatch.is_none() && owner(job.id) == front;
        let Some(job) = side.rank.jobs.iter_mut().find(foreign) else { return };
        let dispatch = adopted(job.id, worker, job.prompt);
        job.dispatch = Some(dispatch);
        let (request, generated) = (Request::new(job.id, job.prompt as u32), job.generated as u32);
        side.rank.count();
        let at = &mut self.fronts[front];
        at.call(false, &mut self.seen, |router| router.adopt(request, worker, generated))
            .expect("an engine's word");
        let record = at.newcomer(request, 1);
        at.runs(record, &dispatch, Stage::Decoding);
        at.end_order();
        self.seen.add(Kind::Adopted);
    }

    /// An engine says that it runs what waits, or runs elsewhere: it resumes what was put off, or a node took
    /// another one's requests over.
    pub(crate) fn moves(&mut self, front: u64, which: u64, rank: u64) {
        let (front, rank) = (self.front(front), self.rank(rank));
        let Some(worker) = self.fronts[front].worker_of(rank) else { return };
        let at = &mut self.fronts[front];
        let list = if which.is_multiple_of(2) { &at.waiting } else { &at.running };
        let Some(id) = Self::pick(list, which / 2) else { return };
        self.network.drop_dispatches(id);
        let mut moved = None;
        for side in &mut self.sides {
            while let Some(job) = side.drop(|job| job.id == id) {
                moved = Some(job);
            }
        }
        let prompt =
            moved.as_ref().map_or(u64::from(at.records[&id].request.prompt_tokens), |job| job.prompt);
        let generated = moved.as_ref().map_or(0, |job| job.generated);
        let dispatch = adopted(id, worker, prompt);
        let request = Request::new(id, prompt as u32);
        at.call(false, &mut self.seen, |router| router.adopt(request, worker, generated as u32))
            .expect("an engine's word");
        let record = at.take(id);
        if matches!(record.life, Life::Waits(_)) {
            at.passes((record.arrival, record.request.priority), worker, false);
        }
        let output = record.output;
        at.runs(record, &dispatch, Stage::Decoding);
        at.end_order();
        let mut job = moved.unwrap_or_else(|| crate::world::job((id, None), prompt, output, id.0));
        (job.dispatch, job.phase, job.computed) = (Some(dispatch), Phase::Queued, 0);
        job.transfers = false;
        self.sides[rank].receive(job);
        self.seen.add(Kind::Moved);
    }

    pub(crate) fn disown(&mut self, front: u64, rank: u64, ago_ms: u64) {
        let (front, rank) = (self.front(front), self.rank(rank));
        let at = &mut self.fronts[front];
        let Some(worker) = at.worker_of(rank) else { return };
        let until_ms = at.shows(self.now_ms, 0).saturating_sub(ago_ms);
        let mut left = Vec::new();
        at.router.disown_sent(worker, until_ms, &mut left).expect("a worker");
        at.end_order();
        for id in left {
            let record = at.take(id);
            let is_sent = matches!(record.life, Life::Runs { worker: on, number, stage: Stage::Sent }
                if on == worker && number > 0);
            assert!(is_sent, "{id}: {record:?}");
            at.counts.disowned += 1;
            self.seen.add(Kind::Disowned);
        }
    }

    /// A front end takes a rank out; the rank may live on.
    pub(crate) fn remove(&mut self, front: u64, rank: u64, salt: u64) {
        let (front, rank) = (self.front(front), self.rank(rank));
        let mut draw = Draw(salt);
        let at = &mut self.fronts[front];
        let Some(worker) = at.worker_of(rank) else { return };
        let mut returned = Vec::new();
        at.router.remove_worker(worker, &mut returned).expect("a worker");
        at.end_order();
        self.seen.add(Kind::Gone);
        let mut back = Vec::new();
        for left in returned {
            assert_eq!((left.worker, left.reason), (Some(worker), ReturnReason::WorkerRemoved));
            let record = at.take(left.id);
            let on = match record.life {
                Life::Runs { worker, .. } => Some(worker),
                Life::Waits(bound) => bound,
            };
            assert_eq!(on, Some(worker), "{left:?}");
            at.counts.returned[left.reason as usize] += 1;
            self.seen.add(Kind::Removed);
            back.push((left.id, record));
        }
        at.known[rank] = None;
        at.rows_ended = true;
        audit::audit(at);
        for (id, record) in back {
            let ran = matches!(record.life, Life::Runs { .. }).then_some(record.life);
            let (request, reason) = ((record.request, record.output), ReturnReason::WorkerRemoved);
            self.comes_back(front, (id, reason), ran, request, &mut draw);
        }
    }

    /// Everybody comes back, each once.
    pub(crate) fn recover(&mut self, front: usize, salt: u64) {
        let mut draw = Draw(salt);
        let at = &mut self.fronts[front];
        let returned = at.router.recover();
        at.end_order();
        at.classifier_failed = false;
        let mut back = Vec::new();
        for left in returned {
            at.counts.returned[left.reason as usize] += 1;
            if left.reason != ReturnReason::Recovered {
                let is_it =
                    |gone: &crate::front::Gone| (gone.id, Some(gone.worker)) == (left.id, left.worker);
                let place = at.pending.iter().position(is_it);
                let gone = at.pending.swap_remove(place.unwrap_or_else(|| panic!("{left:?} was not inside")));
                back.push((left, gone.record));
                continue;
            }
            let record = at.take(left.id);
            let on = match record.life {
                Life::Runs { worker, .. } => Some(worker),
                Life::Waits(bound) => bound,
            };
            assert_eq!(on, left.worker, "{left:?}");
            self.seen.add(Kind::Recovered);
            back.push((left, record));
        }
        assert!(at.records.is_empty() && at.pending.is_empty(), "they did not come back: {:?}", at.records);
        for (left, record) in back {
            let ran = matches!(record.life, Life::Runs { .. }).then_some(record.life);
            let request = (record.request, record.output);
            self.comes_back(front, (left.id, left.reason), ran, request, &mut draw);
        }
    }

    /// What the caller supplies misbehaves when it is asked next.
    pub(crate) fn mischief(&mut self, front: u64, kind: u64) {
        let front = self.front(front);
        if self.setting.supplied == 1 {
            let order = Order::ALL[kind as usize % Order::ALL.len()];
            // One that was not met yet is over; a classifier may have met it.
            self.fronts[front].end_order();
            self.fronts[front].orders.give(order);
        }
    }
}

/// The dispatch of a request that came to its worker without one.
fn adopted(id: balanceroute::RequestId, worker: WorkerId, prompt: u64) -> Dispatch {
    Dispatch { id, worker, number: 0, prompt_tokens: prompt as u32, score_tokens: 0.0 }
}
