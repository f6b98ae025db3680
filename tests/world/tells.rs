//! What ranks say of requests and of themselves, and what front ends make of it.

use balanceroute::{RequestId, RouterError, Verdict, WorkerId, WorkerReport};

use crate::front::Stage;
use crate::network::{Draw, Message};
use crate::rank::Voice;
use crate::ranks::owner;
use crate::tally::Kind;
use crate::world::World;

/// How old a report may be that tells its age too large by so much.
const SLACK_MS: u64 = 30;

impl Voice {
    /// Whose request it is about.
    pub(crate) fn owner(&self) -> usize {
        let id = match *self {
            Self::Tokens(id, _) | Self::Held(id) | Self::Arrived(id) => id,
            Self::Preempted(id) | Self::Resumed(id) => id,
            Self::Ended(dispatch) => dispatch.id,
        };
        owner(id)
    }
}

impl World {
    // Requests.

    /// A front end hears of its requests on a rank.
    pub(crate) fn hears(&mut self, rank: usize, front: usize, voices: &[Voice]) {
        let grown: Vec<(RequestId, u32)> = voices.iter().filter_map(tokens_of).collect();
        // How it passes tokens on.
        let manner = if self.calm { 0 } else { (self.now_ms ^ grown.len() as u64) % 8 };
        match manner {
            0..=3 => self.grow_many(front, &grown),
            4 | 5 => grown.iter().for_each(|&(id, tokens)| self.grow(front, id, tokens)),
            6 => {
                if let Some(worker) = self.fronts[front].worker_of(rank) {
                    self.fronts[front].router.progress(worker, 1).expect("a worker");
                    self.seen.add(Kind::WorkerProgress);
                }
            }
            _ => {}
        }
        for voice in voices {
            self.hear(front, voice);
        }
    }

    fn grow_many(&mut self, front: usize, grown: &[(RequestId, u32)]) {
        let runs = grown.iter().filter(|(id, _)| self.fronts[front].runs_on(*id).is_some()).count();
        assert_eq!(self.fronts[front].router.progress_requests(grown), Ok(runs));
        self.seen.add(Kind::ManyProgress);
        grown.iter().for_each(|&(id, _)| self.shown(front, id));
    }

    fn grow(&mut self, front: usize, id: RequestId, tokens: u32) {
        let refused = self.fronts[front].runs_on(id).is_none();
        let call = |router: &mut balanceroute::Router| router.progress_request(id, tokens);
        if self.fronts[front].call(refused, &mut self.seen, call).is_some() {
            self.shown(front, id);
            self.seen.add(Kind::RequestProgress);
        }
    }

    fn hear(&mut self, front: usize, voice: &Voice) {
        let seen = &mut self.seen;
        let at = &mut self.fronts[front];
        let (id, kind) = match *voice {
            Voice::Tokens(..) => return,
            Voice::Ended(dispatch) => return self.hears_end(front, &dispatch),
            Voice::Held(id) => (id, Kind::Held),
            Voice::Arrived(id) => (id, Kind::TransferDone),
            Voice::Preempted(id) => (id, Kind::PutOff),
            Voice::Resumed(id) => (id, Kind::Resumed),
        };
        let refused = at.runs_on(id).is_none();
        let told = at.call(refused, seen, |router| match voice {
            Voice::Held(_) => router.held(id),
            Voice::Arrived(_) => router.transfer_done(id),
            Voice::Preempted(_) => router.preempted(id),
            _ => router.resumed(id),
        });
        if told.is_none() {
            return;
        }
        seen.add(kind);
        match voice {
            Voice::Held(_) => at.set_stage(id, Stage::Held, |_| true),
            Voice::Arrived(_) => at.set_stage(id, Stage::Decoding, |stage| stage != Stage::PutOff),
            Voice::Preempted(_) => at.set_stage(id, Stage::PutOff, |_| true),
            _ => at.set_stage(id, Stage::Decoding, |stage| stage == Stage::PutOff),
        }
    }

    /// The end of one life of a request, which may be an older one, or told before.
    pub(crate) fn hears_end(&mut self, front: usize, dispatch: &balanceroute::Dispatch) {
        let life = (dispatch.worker, dispatch.number);
        let at = &mut self.fronts[front];
        let refused = at.runs_on(dispatch.id) != Some(life);
        let mut draw = Draw(dispatch.id.0 ^ self.now_ms);
        let dated = draw.one_in(2);
        let reading = dated.then(|| at.shows(self.now_ms, 0));
        let call = |router: &mut balanceroute::Router| router.finish_dispatch(dispatch, reading);
        if at.call(refused, &mut self.seen, call).is_none() {
            return self.seen.add(Kind::StaleEnd);
        }
        if dated {
            at.read(self.now_ms, 0);
        }
        at.take(dispatch.id);
        at.counts.finished += 1;
        self.seen.add(Kind::Finished);
        // It may be told once more.
        if draw.one_in(40) && !self.calm {
            self.seen.add(Kind::RepeatedEnd);
            self.hears_end(front, dispatch);
        }
    }

    // Ranks.

    /// A rank reports to every front end.
    pub(crate) fn report(&mut self, rank: usize, salt: u64) {
        let mut draw = Draw(salt);
        let tells = |which: u64| which >> rank & 1 == 1;
        let side = &mut self.sides[rank];
        side.rank.sequence += 1;
        let counts = side.rank.now.clone();
        let (mut kv_tokens, mut kv_at_ms) = (Some(counts.kv_tokens), self.now_ms);
        if !self.calm && draw.one_in(6) {
            kv_tokens = None;
            self.seen.add(Kind::NoKv);
        } else if !self.calm && tells(self.setting.ages) && draw.one_in(4) && !side.snapshots.is_empty() {
            let old = &side.snapshots[draw.below(side.snapshots.len() as u64) as usize];
            (kv_tokens, kv_at_ms) = (Some(old.kv_tokens), old.at_ms);
            self.seen.add(Kind::Aged);
        }
        let (life, sequence) = (side.rank.epoch, side.rank.sequence);
        let capacity =
            (self.setting.bounded == 1 && !self.calm && draw.one_in(4)).then(|| side.capacity_tokens());
        let received = side.received;
        for (front, received) in received.iter().enumerate().take(self.fronts.len()) {
            let Some(worker) = self.fronts[front].worker_of(rank) else { continue };
            let (last, missing) = received.told();
            let mut report = WorkerReport::requests(counts.running, counts.waiting)
                .kv_used(kv_tokens)
                .capacity(capacity)
                .sequence(tells(self.setting.sequences).then_some(sequence))
                .epoch(tells(self.setting.epochs).then_some(life));
            if tells(self.setting.numbers) {
                report = report.last_dispatch(last).missing(missing);
            }
            let at_ms = (self.now_ms, kv_at_ms);
            let message = Message::Report { rank, front, worker, report, life, at_ms };
            self.network.send(self.now_ms, message, &mut draw, &mut self.seen);
        }
        self.deliver();
    }

    /// A report arrives, of a worker that may be gone.
    pub(crate) fn takes_report(
        &mut self,
        (rank, front): (usize, usize),
        worker: WorkerId,
        mut report: WorkerReport,
        life: u64,
        (counts_at_ms, kv_at_ms): (u64, u64),
    ) {
        let mut draw = Draw(counts_at_ms ^ self.now_ms << 20 ^ rank as u64);
        if self.setting.ages >> rank & 1 == 1 {
            let slack_ms = if self.calm { 0 } else { draw.below(SLACK_MS) };
            report = report.age((self.now_ms - counts_at_ms + slack_ms) as u32);
            report = report.kv_age((self.now_ms - kv_at_ms + slack_ms) as u32);
        }
        let clock = draw.below(self.setting.clocks);
        let dated = !draw.one_in(4);
        let at = &mut self.fronts[front];
        let reading = dated.then(|| at.shows(self.now_ms, clock));
        if !at.has_worker(worker) {
            self.seen.add(Kind::OldWorker);
            let call = |router: &mut balanceroute::Router| match router.report(worker, report, reading) {
                Err(RouterError::Worker { found, .. }) if found == worker => {
                    Err(RouterError::Worker { found, workers: router.worker_ids().len() })
                }
                other => panic!("{worker} is gone: {other:?}"),
            };
            at.call::<()>(true, &mut self.seen, call);
            return;
        }
        let verdict = at.call(false, &mut self.seen, |router| router.report(worker, report, reading));
        let verdict = verdict.expect("nothing fails that may not");
        if dated {
            at.read(self.now_ms, clock);
        }
        let known = at.known[rank].as_mut().expect("a worker");
        match verdict {
            Verdict::Taken | Verdict::Restarted => {
                if let Some(capacity) = report.kv_capacity_tokens {
                    known.set(known.config.capacity(capacity));
                }
                if verdict == Verdict::Restarted {
                    self.seen.add(Kind::RestartSeen);
                    assert!(
                        life != known.life || at.clocks.off_ms() > known.off_ms,
                        "{report:?} is of life {life} as before"
                    );
                }
                (known.life, known.off_ms) = (life, at.clocks.off_ms());
                known.taken_ms = Some(self.now_ms);
            }
            Verdict::Late => self.seen.add(Kind::Late),
            Verdict::Repeated => {}
            _ => self.seen.add(Kind::Contradictory),
        }
        at.finds_lost(worker);
        at.end_order();
    }
}

fn tokens_of(voice: &Voice) -> Option<(RequestId, u32)> {
    match *voice {
        Voice::Tokens(id, tokens) => Some((id, tokens)),
        _ => None,
    }
}
