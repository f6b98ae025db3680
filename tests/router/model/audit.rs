//! Everything that can be asked, against everything recounted.

use balanceroute::{WaitReason, WorkerConfig};

use super::account::Stage;
use super::{Counts, HEADROOM_STEPS, MOST_LOAD_TOKENS, World};

impl World {
    /// What is looked at after each event: who is where and how long, and that nobody was lost.
    pub(super) fn glance(&mut self) {
        let mut found = vec![(0u32, 0u32, 0u32, 0u64); self.sides.len()];
        for id in &self.running {
            let record = &self.records[id];
            let (worker, _, stage, _) = record.runs().expect("it runs");
            let of = &mut found[self.side(worker)];
            of.0 += 1;
            of.1 += u32::from(stage == Stage::Held);
            of.2 += u32::from(stage == Stage::Preempted);
            of.3 += record.length();
        }
        for (side, expected) in self.sides.iter().zip(found) {
            let rank = self.router.rank_metrics(side.id).expect("a worker");
            assert_eq!((rank.running, rank.held, rank.preempted, rank.own_tokens), expected, "{rank:?}");
            assert_eq!((rank.dispatches, rank.acknowledged), (side.sent, side.acknowledged));
        }
        let counters = self.router.counters();
        let counts = Counts {
            finished: counters.finished,
            aborted: counters.aborted,
            preempted: counters.preempted,
            preempted_in_place: counters.preempted_in_place,
            disowned: counters.disowned,
            sent_beyond: counters.sent_beyond,
            adopted_beyond: counters.adopted_beyond,
            claims: counters.claims,
            admitted_beside_claims: counters.admitted_beside_claims,
        };
        assert_eq!(counts, self.counts);
        assert_eq!(counters.arrived, self.arrived);
        let returned: u64 = counters.returned.iter().sum();
        let left = counters.finished + counters.aborted + counters.preempted + counters.disowned + returned;
        assert_eq!(left, self.left);
        let inside = (self.router.pool().len(), self.router.running_len());
        assert_eq!(inside, (self.waiting.len(), self.running.len()));
        assert_eq!(self.arrived, left + (inside.0 + inside.1) as u64);
    }

    pub(super) fn audit(&mut self) {
        self.router.metrics(&mut self.metrics);
        let metrics = &self.metrics;
        assert_eq!(metrics.step as i64, self.clock);
        assert_eq!(metrics.waiting, self.waiting.len() as u64);
        assert_eq!(metrics.running, self.running.len() as u64);
        assert_eq!(metrics.waiting_by_reason.iter().sum::<u64>(), metrics.waiting);
        assert_eq!(self.router.worker_ids(), self.sides.iter().map(|side| side.id).collect::<Vec<_>>());
        for (rank, side) in metrics.ranks.iter().zip(&self.sides) {
            assert_eq!(rank.worker, side.id);
            let load = self.counted(side) + self.preempted_tokens(side);
            assert_eq!(rank.load_tokens, load.min(MOST_LOAD_TOKENS as u64));
            let correction = rank.foreign_tokens as i64 - rank.shared_tokens as i64;
            assert_eq!(correction, side.correction);
            assert_eq!(u64::from(rank.slots), side.own_slots(self.setting.share));
            assert_eq!(u64::from(rank.free_slots), self.free_slots(side), "{rank:?}");
            assert_eq!(u64::from(rank.unseen), self.sum(side.id, |stage| stage == Stage::Sent).0);
            assert_eq!(u64::from(rank.foreign_requests), side.foreign_requests);
            assert_eq!((rank.accepting, rank.draining), (side.accepting, side.draining));
            assert_eq!(rank.report_age_ms, side.reported_ms.map(|then| self.told_ms - then));
            let config = WorkerConfig::new(side.slots as u32).capacity(side.capacity);
            assert_eq!(self.router.worker_config(side.id), Ok(config));
            if side.capacity.is_some() && side.correction < MOST_LOAD_TOKENS / 2 {
                assert_eq!(rank.kv_growth_tokens, self.growth(side).1);
                let room = rank.kv_capacity_tokens.expect("bounded") as i64
                    - (rank.kv_used_tokens + rank.kv_growth_tokens) as i64;
                assert_eq!(room - i64::from(HEADROOM_STEPS), self.room(side), "{rank:?}");
            }
        }
        for id in &self.running {
            let record = &self.records[id];
            assert_eq!(self.router.generated_tokens(*id).map(u64::from), Some(record.generated));
            assert_eq!(self.router.running_on(*id), record.runs().map(|runs| runs.0));
        }
        let (oldest, longest) = self.waiting.iter().fold((0, 0), |(ms, steps), id| {
            let record = &self.records[id];
            let waited_ms = if self.undated.contains(id) { 0 } else { self.told_ms - record.since_ms };
            (ms.max(waited_ms), steps.max(self.clock - record.step))
        });
        assert_eq!((metrics.now_ms, metrics.longest_wait_ms), (self.reading(self.told_ms), oldest));
        assert_eq!(i64::from(metrics.longest_wait_steps), longest);
        let mut most = 0;
        for id in self.window() {
            let explained = self.router.explain(id).expect("it waits");
            assert_eq!(explained.passed, self.records[&id].passed, "{id}");
            assert_eq!(explained.priority, self.records[&id].priority, "{id}");
            most = most.max(explained.passed);
        }
        assert_eq!((metrics.most_passed, metrics.counters.most_passed), (most, self.most_passed));
        assert_eq!(metrics.waiting_by_priority, self.classes().into_iter().rev().collect::<Vec<_>>());
        for id in &self.waiting {
            assert_eq!(self.router.pool().passed(*id), Some(self.records[id].passed), "{id}");
        }
        let mut by_reason = [0; WaitReason::ALL.len()];
        for (id, reason) in self.router.waiting() {
            by_reason[reason as usize] += 1;
            assert!(self.waiting.contains(&id));
        }
        assert_eq!(by_reason, self.metrics.waiting_by_reason);
        self.audit_claim();
    }

    /// Everybody leaves.
    pub(super) fn close(&mut self) {
        self.step();
        while let Some(&id) = self.running.first() {
            let record = self.strike(id);
            self.leaves(&record);
            self.router.finish(id, None).expect("it runs");
        }
        while let Some(&id) = self.waiting.first() {
            self.strike(id);
            self.router.abort(id, None).expect("it waits");
        }
        assert!(self.records.is_empty() && self.router.pool().is_empty());
        assert_eq!(self.router.running_len(), 0);
        for (place, worker) in self.router.workers().iter().enumerate() {
            assert_eq!(worker.load_tokens, self.load(place));
        }
        let plan = self.router.step(self.reading(self.told_ms)).expect("nothing to decide");
        assert!(plan.admissions.is_empty() && plan.returned.is_empty());
    }
}
