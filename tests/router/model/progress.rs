//! Requests grow, and change between the stages of those who run.

use balanceroute::{RequestId, RouterError};

use super::World;
use super::account::{Stage, State};

impl World {
    pub(super) fn progress(&mut self) {
        match self.rng.below(9) {
            0 => {
                self.router.advance();
                self.clock += 1;
                self.sides.iter_mut().for_each(|side| side.reach += 1);
                for id in &self.running {
                    let record = self.records.get_mut(id).expect("it runs");
                    if record.runs().is_some_and(|(_, _, stage, _)| stage.grows()) {
                        record.generated += 1;
                    }
                }
            }
            1..5 if !self.sides.is_empty() => self.worker_grows(),
            5 => self.many_grow(),
            _ if !self.running.is_empty() => {
                let id = self.running[self.rng.index(self.running.len())];
                if !self.engine_has(id) && !self.rng.one_in(50) {
                    return;
                }
                let tokens = if self.rng.one_in(10) { 0 } else { 1 + self.rng.below(5) };
                self.router.progress_request(id, tokens as u32).expect("it runs");
                let reach = self.grows(id, tokens);
                self.clock = self.clock.max(reach);
            }
            _ => {}
        }
    }

    fn worker_grows(&mut self) {
        let at = self.rng.index(self.sides.len());
        let (worker, tokens) = (self.sides[at].id, self.rng.below(4));
        self.router.progress(worker, tokens as u32).expect("a worker");
        let mut any = false;
        for id in &self.running {
            let record = self.records.get_mut(id).expect("it runs");
            if record.runs_on(worker).is_some_and(|(_, stage, _)| stage.grows()) {
                record.generated += tokens;
                any = true;
            }
        }
        if any {
            self.sides[at].empty_since_ms = None;
            self.sides[at].reach += tokens as i64;
            self.clock = self.clock.max(self.sides[at].reach);
        }
    }

    /// Tokens of many requests at once: of nearly the same ones as before, in nearly the same order.
    fn many_grow(&mut self) {
        let mut grown: Vec<(RequestId, u32)> = Vec::new();
        for at in 0..self.running.len() {
            let id = self.running[at];
            if self.engine_has(id) && !self.rng.one_in(8) {
                grown.push((id, self.rng.below(3) as u32));
            }
        }
        grown.sort_unstable_by_key(|&(id, _)| id);
        if !grown.is_empty() && self.rng.one_in(3) {
            let (one, other) = (self.rng.index(grown.len()), self.rng.index(grown.len()));
            grown.swap(one, other);
            grown.push(grown[one]);
        }
        let unknown = RequestId(u64::MAX - self.rng.below(9));
        let strangers = self.waiting.first().copied().into_iter().chain([unknown]);
        for stranger in strangers {
            let at = self.rng.index(grown.len() + 1);
            grown.insert(at, (stranger, 2));
        }
        if self.rng.one_in(6) {
            let mut wrong = grown.clone();
            wrong.push((unknown, u32::MAX));
            let refused = self.router.progress_requests(&wrong);
            assert!(matches!(refused, Err(RouterError::Progress { .. })), "{refused:?}");
        }
        let known: Vec<(RequestId, u32)> =
            grown.iter().copied().filter(|(id, _)| self.running.contains(id)).collect();
        assert_eq!(self.router.progress_requests(&grown), Ok(known.len()));
        let mut reach = self.clock;
        for (id, tokens) in known {
            reach = reach.max(self.grows(id, u64::from(tokens)));
        }
        self.clock = reach;
        self.tally.meets("many grew");
    }

    /// A request has tokens of its own. Where the step clock is by it.
    fn grows(&mut self, id: RequestId, tokens: u64) -> i64 {
        let (worker, number, stage, _) = self.records[&id].runs().expect("it runs");
        if tokens == 0 && !stage.grows() {
            return self.clock;
        }
        self.moves(id, Stage::Decoding);
        let at = self.side(worker);
        self.sides[at].empty_since_ms = None;
        if stage != Stage::Decoding {
            // It has begun with these tokens: a report may know none of them.
            self.sides[at].changes.last_mut().expect("it has begun").tokens += tokens;
        }
        if self.setting.in_order && number > 0 {
            self.shows_those_before(id, number);
        }
        let record = self.records.get_mut(&id).expect("it runs");
        record.generated += tokens;
        if !stage.grows() {
            // By the step clock it has just come to its length.
            record.step = self.clock - record.generated as i64;
        }
        record.step + record.generated as i64
    }

    /// Requests keep their order on the way: what was sent before one that has tokens is there too.
    fn shows_those_before(&mut self, id: RequestId, number: u64) {
        let (worker, ..) = self.records[&id].runs().expect("it runs");
        let reach = self.sides[self.side(worker)].reach;
        for id in &self.running {
            let record = self.records.get_mut(id).expect("it runs");
            if let Some((earlier, Stage::Sent, _)) = record.runs_on(worker)
                && earlier < number
            {
                let (stage, since_ms) = (Stage::Received { reach }, self.told_ms);
                record.state = State::Runs { worker, number: earlier, stage, since_ms };
                self.tally.meets("shown by another");
            }
        }
    }

    /// An engine tells what it does with a request.
    pub(super) fn change_stage(&mut self) {
        let call = self.rng.below(5);
        if self.running.is_empty() || self.rng.one_in(20) {
            let unknown = RequestId(u64::MAX);
            let waits = self.waiting.first().copied();
            let (id, error) = match waits {
                Some(id) => (id, RouterError::NotRunning { id }),
                None => (unknown, RouterError::Unknown { id: unknown }),
            };
            let refused = match call {
                0 => self.router.held(id),
                1 => self.router.transfer_done(id),
                2 => self.router.preempted(id),
                _ => self.router.resumed(id),
            };
            assert_eq!(refused, Err(error));
            return;
        }
        let id = self.running[self.rng.index(self.running.len())];
        let (_, _, stage, _) = self.records[&id].runs().expect("it runs");
        let to = match call {
            0 => {
                self.router.held(id).expect("it runs");
                Stage::Held
            }
            1 => {
                self.router.transfer_done(id).expect("it runs");
                if stage == Stage::Preempted { stage } else { Stage::Decoding }
            }
            2 => {
                self.router.preempted(id).expect("it runs");
                self.counts.preempted_in_place += u64::from(stage != Stage::Preempted);
                Stage::Preempted
            }
            _ => {
                self.router.resumed(id).expect("it runs");
                if stage == Stage::Preempted { Stage::Decoding } else { stage }
            }
        };
        if to != stage {
            self.moves(id, to);
            self.tally.meets(match to {
                Stage::Held => "held",
                Stage::Preempted => "preempted in place",
                _ => "decodes by a call",
            });
        }
    }
}
