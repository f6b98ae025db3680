//! Requests end, are given up, are put off to come again, or their ends are not told.

use balanceroute::{Dispatch, RequestId, RouterError};

use super::World;
use super::account::Stage;

impl World {
    pub(super) fn end(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let id = self.running[self.rng.index(self.running.len())];
        if !self.engine_has(id) && !self.rng.one_in(10) {
            return;
        }
        self.end_of(id);
        if !self.records.contains_key(&id) {
            assert_eq!(self.router.finish(id, None), Err(RouterError::Unknown { id }));
        }
    }

    fn end_of(&mut self, id: RequestId) {
        let (worker, ..) = self.records[&id].runs().expect("it runs");
        match self.rng.below(8) {
            0 => {
                let reading = self.tell_perhaps();
                assert_eq!(self.router.abort(id, reading), Ok(Some(worker)));
                self.counts.aborted += 1;
                self.is_gone(id);
            }
            1 => {
                let again = self.router.preempt(id).expect("it runs");
                let record = self.records[&id];
                assert_eq!(u64::from(again.prompt_tokens), record.length());
                assert_eq!(u64::from(again.generated_tokens), record.generated);
                assert_eq!((again.rank, again.waited_steps), (record.rank, 0));
                self.counts.preempted += 1;
                self.is_gone(id);
                if self.put_off.len() < 9 {
                    self.put_off.push((id, record));
                }
            }
            _ => {
                let reading = self.tell_perhaps();
                let finished = self.router.finish(id, reading).expect("it runs");
                assert_eq!((finished.id, finished.worker), (id, worker));
                assert_eq!(u64::from(finished.generated_tokens), self.records[&id].generated);
                self.is_finished(id);
            }
        }
    }

    fn is_finished(&mut self, id: RequestId) {
        self.counts.finished += 1;
        self.tally.meets("finished");
        self.is_gone(id);
    }

    /// A request has left the router and its engine.
    fn is_gone(&mut self, id: RequestId) {
        let record = self.strike(id);
        self.leaves(&record);
        self.left += 1;
        if let Some((worker, ..)) = record.runs() {
            let at = self.side(worker);
            self.sides[at].holds.retain(|&(_, other)| other != id);
            self.sides[at].on_the_way.retain(|&(_, other)| other != id);
        }
    }

    /// The end of one life of a request, which may be an older one than the present.
    pub(super) fn end_of_a_life(&mut self) {
        if self.lives.is_empty() {
            return;
        }
        let dispatch = self.lives[self.rng.index(self.lives.len())];
        let Dispatch { id, worker, number, .. } = dispatch;
        let record = self.records.get(&id).copied();
        let present = record.and_then(|record| record.runs()).map(|(worker, number, ..)| (worker, number));
        let finishes = self.rng.one_in(2);
        if present == Some((worker, number)) {
            if !self.rng.one_in(6) {
                return;
            }
            let reading = self.tell_perhaps();
            if finishes {
                let finished = self.router.finish_dispatch(&dispatch, reading).expect("its life");
                assert_eq!((finished.id, finished.worker), (id, worker));
                self.is_finished(id);
            } else {
                assert_eq!(self.router.abort_dispatch(&dispatch, reading), Ok(Some(worker)));
                self.counts.aborted += 1;
                self.is_gone(id);
            }
            self.tally.meets("ended by its life");
            return;
        }
        let error = match record {
            None => RouterError::Unknown { id },
            Some(_) => {
                self.tally.meets("end of a life before");
                RouterError::OtherDispatch { id, worker, number }
            }
        };
        let reading = Some(self.reading(self.now_ms));
        if finishes {
            assert_eq!(self.router.finish_dispatch(&dispatch, reading), Err(error));
        } else {
            assert_eq!(self.router.abort_dispatch(&dispatch, reading), Err(error));
        }
    }

    pub(super) fn abort_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let id = self.waiting[self.rng.index(self.waiting.len())];
        let reading = self.tell_perhaps();
        assert_eq!(self.router.abort(id, reading), Ok(None));
        self.counts.aborted += 1;
        self.is_gone(id);
        assert_eq!(self.router.abort(id, None), Err(RouterError::Unknown { id }));
    }

    /// Nobody will tell the ends of what a worker was sent some while ago.
    pub(super) fn disown(&mut self) {
        if self.sides.is_empty() {
            return;
        }
        let at = self.rng.index(self.sides.len());
        let worker = self.sides[at].id;
        let until_ms = self.now_ms.saturating_sub(self.rng.below(1_500));
        let mut left = Vec::new();
        self.router.disown_sent(worker, self.reading(until_ms), &mut left).expect("a worker");
        let mut expected: Vec<(u64, RequestId)> = Vec::new();
        for &id in &self.running {
            if let Some((number, Stage::Sent, since_ms)) = self.records[&id].runs_on(worker)
                && since_ms <= until_ms
            {
                expected.push((number, id));
            }
        }
        expected.sort_unstable();
        assert_eq!(left, expected.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
        for id in left {
            let record = self.strike(id);
            let side = &mut self.sides[at];
            side.foreign_requests += 1;
            side.unsend(record.length());
            side.correct(side.correction + record.length() as i64);
            self.left += 1;
            self.counts.disowned += 1;
            self.tally.meets("disowned");
        }
        assert!(self.router.disown_sent(u32::MAX, 0, &mut Vec::new()).is_err());
    }
}
