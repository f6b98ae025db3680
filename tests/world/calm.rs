//! The calm that ends a world: the network heals, nobody comes any more, and everything drains. What front
//! ends believe comes to what is true, and nothing is left anywhere.

use balanceroute::WorkerReport;

use crate::audit;
use crate::front::{Life, Stage};
use crate::network::{Draw, Message};
use crate::tally::Kind;
use crate::world::World;

const ROUND_MS: u64 = 20;
/// A rank that is forgotten by nobody holds so much more than before that all can run that wait for it.
const ROOM: u64 = 4;
/// Rounds in which one generation of requests surely ends, timeouts included.
const ROUNDS: u64 = 600;

impl World {
    pub(crate) fn ends(&mut self) {
        self.heals();
        let most = self.rounds();
        for round in 0.. {
            let idle = self.network.is_empty() && self.sides.iter().all(|side| side.rank.jobs.is_empty());
            if idle && self.fronts.iter().all(|front| front.records.is_empty()) {
                break;
            }
            assert!(round < most, "after {most} rounds of calm somebody is left: {}", self.left());
            self.round(round);
        }
        self.is_empty();
        self.seen.add(Kind::Calm);
    }

    /// How long everybody may take: as many generations as who wait fill, one after the other.
    fn rounds(&self) -> u64 {
        let slots: u64 = self.sides.iter().map(|side| side.rank.slots as u64).sum();
        let inside: u64 = self.fronts.iter().map(|front| front.records.len() as u64).sum();
        // A request that only an empty rank can hold has it for itself, and of several front ends only one at
        // a time may enter.
        let turns = if self.setting.bounded == 1 { 4 * self.setting.fronts } else { 1 };
        ROUNDS * (20 + turns * (inside / slots.max(1)))
    }

    fn heals(&mut self) {
        self.calm = true;
        self.network.heal();
        self.passes_time(1_000);
        for front in 0..self.fronts.len() {
            self.fronts[front].end_order();
            self.fronts[front].orders.give(crate::caller::Order::Nothing);
        }
        for rank in 0..self.sides.len() {
            let side = &mut self.sides[rank];
            side.stuck_until_ms = 0;
            side.rank.pinned_blocks = 0;
            side.rank.slots = self.setting.slots as usize;
            side.rank.capacity_blocks = self.setting.blocks;
            for front in 0..self.fronts.len() {
                match self.fronts[front].known[rank] {
                    None => self.join(front, rank, 0),
                    Some(known) if !known.accepting => self.join_or_open(front, rank, 0),
                    Some(_) => {}
                }
                self.configure(front, rank, 64);
            }
            // What fits by what is told fits for certain, with all that it will generate.
            self.sides[rank].rank.capacity_blocks = ROOM * self.setting.blocks;
            self.sides[rank].rank.count();
        }
    }

    fn round(&mut self, round: u64) {
        self.passes_time(ROUND_MS);
        for rank in 0..self.sides.len() {
            // An engine stands still where nobody is.
            self.engine(rank, 1, round);
            self.deliver();
            self.report(rank, round);
            (0..self.fronts.len()).for_each(|front| self.is_exact(front, rank));
        }
        for front in 0..self.fronts.len() {
            self.step(front, round);
            self.deliver();
            audit::glance(&self.fronts[front]);
            if round.is_multiple_of(16) {
                audit::audit(&mut self.fronts[front]);
            }
        }
        if self.setting.dispatch_ms == 0 {
            self.gives_up_ghosts();
        }
    }

    /// Callers that hand requests over in process know what their engines do not have.
    fn gives_up_ghosts(&mut self) {
        for front in 0..self.fronts.len() {
            let ids = self.fronts[front].running.clone();
            for id in ids {
                let Some((worker, _)) = self.fronts[front].runs_on(id) else { continue };
                let rank = self.fronts[front].rank_of(worker).expect("a worker");
                if !self.is_there(front, rank, id) {
                    let at = &mut self.fronts[front];
                    at.call(false, &mut self.seen, |router| router.abort(id, None)).expect("it runs");
                    at.take(id);
                    at.counts.aborted += 1;
                }
            }
        }
    }

    /// After a report that knows everything a front end counts what is there.
    fn is_exact(&mut self, front: usize, rank: usize) {
        let at = &self.fronts[front];
        let worker = at.worker_of(rank).expect("all have joined");
        let found = at.router.rank_metrics(worker).expect("a worker");
        let of_rank = at.running.iter().filter(|id| at.runs_on(**id).is_some_and(|(on, _)| on == worker));
        let mut decode = true;
        for &id in of_rank {
            if !self.is_there(front, rank, id) {
                // It has lost its end, or its way: nobody can know how many of those there are others'.
                return;
            }
            let life = at.records[&id].life;
            decode &= matches!(life, Life::Runs { stage: Stage::Decoding, .. });
        }
        let truth = &self.sides[rank].rank.now;
        if found.unseen > 0 || self.setting.numbers >> rank & 1 == 0 || !self.is_fresh(front, rank) {
            return;
        }
        let believed = u64::from(found.running + found.foreign_requests);
        assert_eq!(believed, self.sides[rank].requests(), "requests on rank {rank}: {found:?}, {truth:?}");
        if decode {
            // As a front end with a share sees a rank, the others' part of it is in use.
            let used = found.own_tokens + found.foreign_tokens - found.shared_tokens;
            assert_eq!(used, truth.kv_tokens, "KV tokens on rank {rank}: {found:?}, {truth:?}");
            self.seen.add(Kind::Exact);
        }
    }

    /// Whether the last report of a rank was taken in this round.
    fn is_fresh(&self, front: usize, rank: usize) -> bool {
        self.fronts[front].known[rank].is_some_and(|known| known.taken_ms == Some(self.now_ms))
    }

    /// Who is left, for a failure.
    fn left(&self) -> String {
        let of_front = |front: &crate::front::Front| {
            let some: Vec<_> = front.records.iter().take(3).collect();
            format!(
                "{} waiting, {} running, {some:?}, {:?}",
                front.waiting.len(),
                front.running.len(),
                front.router.waiting().first()
            )
        };
        let fronts: Vec<String> = self.fronts.iter().map(of_front).collect();
        let jobs: Vec<usize> = self.sides.iter().map(|side| side.rank.jobs.len()).collect();
        format!("{fronts:?}; on ranks {jobs:?}")
    }

    /// Nothing is left, by a last report neither of requests nor of tokens.
    fn is_empty(&mut self) {
        // Nothing that has ended lately may be in it.
        self.now_ms += 6_000;
        let mut draw = Draw(1);
        for rank in 0..self.sides.len() {
            let side = &mut self.sides[rank];
            assert!(side.rank.jobs.is_empty());
            side.rank.sequence += 1;
            let (life, sequence) = (side.rank.epoch, side.rank.sequence);
            let tells = |which: u64| which >> rank & 1 == 1;
            for front in 0..self.fronts.len() {
                let worker = self.fronts[front].worker_of(rank).expect("all have joined");
                let report = WorkerReport::new(0, 0)
                    .sequence(tells(self.setting.sequences).then_some(sequence))
                    .epoch(tells(self.setting.epochs).then_some(life));
                let at_ms = (self.now_ms, self.now_ms);
                let message = Message::Report { rank, front, worker, report, life, at_ms };
                self.network.send(self.now_ms, message, &mut draw, &mut self.seen);
            }
        }
        self.deliver();
        for front in &mut self.fronts {
            audit::glance(front);
            audit::audit(front);
            for rank in &front.metrics.ranks[front.setting.absent as usize..] {
                let found = (rank.running, rank.foreign_requests, rank.foreign_tokens, rank.load_tokens);
                assert_eq!(found, (0, 0, 0, 0), "it is empty: {rank:?}");
                assert!(self.setting.shared == 1 || rank.kv_used_tokens == 0, "it is empty: {rank:?}");
            }
        }
    }
}
