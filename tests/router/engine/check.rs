//! Reports on their way, and how near the account must lie to the truth once one is taken.

use balanceroute::{Verdict, WorkerId, WorkerReport};
use rand::RngExt;

use super::rank::Snapshot;
use super::{Kind, RANKS, Report, STEP_MS, Stage, What, World};

/// How old a report may be that tells its age too large by so much.
const SLACK_MS: u64 = 30;

impl World {
    /// One world, until so many calls were made; then everything ends and nothing is left.
    pub(super) fn run(&mut self, calls: u64) {
        while self.calls < calls {
            self.now_ms += STEP_MS;
            if self.waiting.len() < 20 {
                (0..self.rng.random_range(0..3)).for_each(|_| self.arrive());
            }
            self.turn();
            if self.rng.random_ratio(1, 40) {
                self.abort();
            }
            if self.rng.random_ratio(1, 60) {
                let at = self.rng.random_range(0..RANKS);
                self.adopt(at);
            }
        }
        self.close();
    }

    fn turn(&mut self) {
        self.decide();
        for at in 0..RANKS {
            self.engine(at);
            self.listen(at);
            if self.rng.random_ratio(1, 3) {
                self.send_report(at);
            }
            self.take_reports(at);
            self.between(at);
        }
        assert_eq!(self.router.running_len(), self.records.len(), "{}", self.again());
        assert_eq!(self.router.pool().len(), self.waiting.len(), "{}", self.again());
    }

    fn again(&self) -> String {
        format!(
            "BALANCEROUTE_SEED={} BALANCEROUTE_EVENTS={}, at {} ms",
            self.seed,
            self.calls + 1,
            self.now_ms
        )
    }

    fn send_report(&mut self, at: usize) {
        let side = &mut self.sides[at];
        side.rank.sequence += 1;
        let counts = side.rank.now.clone();
        let mut report = WorkerReport::new(counts.running, counts.kv_tokens).waiting(counts.waiting);
        if side.numbers {
            let (last, missing) = side.rank.last_dispatch();
            report = report.last_dispatch(last).missing(missing);
        }
        if side.sequences {
            report = report.sequence(side.rank.sequence);
        }
        if side.epochs {
            report = report.epoch(side.rank.epoch);
        }
        let mut kv = Some(counts.clone());
        if self.rng.random_ratio(1, 6) {
            (kv, report) = (None, report.kv_used(None));
            self.seen.add(Kind::NoKv);
        } else if side.ages && self.rng.random_ratio(1, 4) {
            let back = self.rng.random_range(0..side.snapshots.len().min(20));
            let old = side.snapshots[side.snapshots.len() - 1 - back].clone();
            // What was measured in the life before is not told in this one.
            if !side.restarted || old.went == counts.went {
                report = report.kv_used(old.kv_tokens);
                kv = Some(old);
                self.seen.add(Kind::OldKv);
            }
        }
        for (kind, lacks) in
            [(Kind::NoNumber, !side.numbers), (Kind::NoSequence, !side.sequences), (Kind::NoAge, !side.ages)]
        {
            if lacks {
                self.seen.add(kind);
            }
        }
        if self.rng.random_ratio(1, 10) {
            return self.seen.add(Kind::ReportLost);
        }
        let late = if self.rng.random_bool(0.5) { 0 } else { self.rng.random_range(0..200) };
        let report = Report { counts, kv, report };
        if self.rng.random_ratio(1, 20) {
            self.seen.add(Kind::ReportTwice);
            let later = late + self.rng.random_range(0..100);
            side.reports.push((self.now_ms + later, report.clone()));
        }
        side.reports.push((self.now_ms + late, report));
    }

    fn take_reports(&mut self, at: usize) {
        let now_ms = self.now_ms;
        let (due, later): (Vec<_>, _) =
            std::mem::take(&mut self.sides[at].reports).into_iter().partition(|&(when, _)| when <= now_ms);
        self.sides[at].reports = later;
        for (_, report) in due {
            self.take_report(at, &report);
        }
    }

    fn take_report(&mut self, at: usize, Report { counts, kv, report }: &Report) {
        let mut report = *report;
        if self.sides[at].ages {
            let slack = self.rng.random_range(0..SLACK_MS);
            report = report.age((self.now_ms - counts.at_ms + slack) as u32);
            let kv_age = kv.as_ref().map(|kv| (self.now_ms - kv.at_ms + slack) as u32);
            report = report.kv_age(kv_age);
        }
        self.calls += 1;
        let verdict = self.router.report(at as u32, report, self.now_ms).expect("a report");
        match verdict {
            Verdict::Taken => {}
            Verdict::Restarted => {
                self.seen.add(Kind::RestartSeen);
                // Who is lost by it comes back with the next plan, and is gone from the account by now;
                // none of that can be in the measurement.
                self.forget_returned(at);
                self.sides[at].changes.clear();
            }
            Verdict::Late => self.seen.add(Kind::Late),
            Verdict::Repeated => return self.seen.add(Kind::Repeated),
            _ => return self.seen.add(Kind::Contradictory),
        }
        self.acknowledge(at, &report);
        self.forget_returned(at);
        if verdict != Verdict::Late {
            self.check(at, counts, kv.as_ref(), &report);
        }
    }

    /// Requests that the router has given up, to tell in the next plan.
    fn forget_returned(&mut self, at: usize) {
        let gone = |id, record: &super::Record| record.rank == at && self.router.running_on(id).is_none();
        let ids: Vec<_> =
            self.records.iter().filter(|&(&id, record)| gone(id, record)).map(|(&id, _)| id).collect();
        for id in ids {
            let record = self.leave(id);
            self.gone.insert(id, record);
        }
    }

    /// What a report shows of requests.
    fn acknowledge(&mut self, at: usize, report: &WorkerReport) {
        let reach = self.sides[at].reach;
        let next = |record: &super::Record| match record.stage {
            Stage::Received { reach: then } if then < reach => Some(Stage::Decoding),
            Stage::Sent if report.has_seen(record.dispatch.number) => Some(Stage::Received { reach }),
            _ => None,
        };
        let found: Vec<_> = self
            .records
            .iter()
            .filter(|(id, record)| record.rank == at && self.router.running_on(**id).is_some())
            .filter_map(|(&id, record)| Some((id, next(record)?)))
            .collect();
        found.into_iter().for_each(|(id, stage)| self.enter(id, stage));
    }

    /// Requests and tokens of ours there in the stages that `which` wants.
    fn sum(&self, at: usize, which: impl Fn(Stage) -> bool) -> (u64, u64) {
        let found = self.records.values().filter(|record| record.rank == at && which(record.stage));
        found.fold((0, 0), |(requests, tokens), record| (requests + 1, tokens + record.tokens))
    }

    /// Requests and tokens that changed like this within the age that a report tells.
    fn changed(&self, at: usize, age_ms: u32, which: impl Fn(What) -> bool) -> (u64, u64) {
        let within = |then: u64| age_ms > 0 && self.now_ms - then <= u64::from(age_ms);
        let found = self.sides[at].changes.iter().filter(|&&(then, what, _)| within(then) && which(what));
        found.fold((0, 0), |(requests, tokens), &(.., more)| (requests + 1, tokens + more))
    }

    /// After a report was taken.
    fn check(&mut self, at: usize, counts: &Snapshot, kv: Option<&Snapshot>, report: &WorkerReport) {
        let found = self.router.rank_metrics(WorkerId(at as u32)).expect("a worker");
        let truth = self.sides[at].rank.now.clone();
        let sent = self.sum(at, |stage| stage == Stage::Sent);
        let coming = self.sum(at, |stage| !matches!(stage, Stage::Decoding | Stage::Preempted));
        let all = self.sum(at, |_| true);
        let unsure = if report.last_dispatch.is_none() { sent } else { (0, 0) };
        assert_eq!(u64::from(found.running), all.0, "{}", self.again());

        // Requests: what was counted there, those on their way, and what has begun or ended since.
        let begun = self.changed(at, report.age_ms, |what| what == What::Begun).0;
        let ended = self.changed(at, report.age_ms, |what| what == What::Ended).0;
        let held = u64::from(counts.running + counts.waiting);
        let believed = u64::from(found.running + found.foreign_requests);
        let absent = all.0
            - sent.0
            - self
                .records
                .iter()
                .filter(|(id, record)| {
                    record.rank == at && record.stage != Stage::Sent && counts.ours.contains(id)
                })
                .count() as u64;
        let is = u64::from(truth.running + truth.waiting);
        let (came, went) = (truth.came - counts.came, truth.went - counts.went);
        let over = sent.0 + begun.max(absent) + went;
        let under = (came + unsure.0 + ended).saturating_sub(sent.0);
        assert!(
            believed <= is + over && is <= believed + under,
            "{}: rank {at}, {believed} requests believed, {is} there, {held} measured: over {over}, under \
             {under}; {found:?} {report:?}",
            self.again()
        );

        let Some(kv) = kv else {
            // Nothing was measured.
            let side = &mut self.sides[at];
            side.off_tokens = found.kv_used_tokens.abs_diff(truth.kv_tokens);
            (side.moved_tokens, side.truth) = (0, truth);
            return;
        };
        // KV tokens: what was measured, those whose cache is not known to be there, and what has begun or
        // ended since; and what the engine has allocated and freed since.
        let age_ms = report.kv_age_ms.unwrap_or(report.age_ms);
        let begun = self.changed(at, age_ms, |what| what == What::Begun).1;
        let ended = self.changed(at, age_ms, |what| what != What::Begun).1;
        let believed = found.kv_used_tokens;
        let most = kv.kv_tokens + begun + coming.1;
        let least = (kv.kv_tokens + sent.1).saturating_sub(ended + unsure.1);
        let over = begun + coming.1 + truth.freed - kv.freed;
        let under = ended + unsure.1 + truth.allocated - kv.allocated;
        assert!(
            (least..=most).contains(&believed)
                && believed <= truth.kv_tokens + over
                && truth.kv_tokens <= believed + under,
            "{}: rank {at}, {believed} tokens believed, {} there, {} measured: {least}..={most}, over \
             {over}, under {under}; {found:?} {report:?}",
            self.again(),
            truth.kv_tokens,
            kv.kv_tokens
        );
        if over + under == 0 && believed > 0 {
            self.seen.add(Kind::Exact);
        }
        let side = &mut self.sides[at];
        side.off_tokens = believed.abs_diff(truth.kv_tokens);
        (side.moved_tokens, side.truth) = (0, truth);
        let oldest_ms = self.now_ms.saturating_sub(5_100);
        side.changes.retain(|&(then, ..)| then >= oldest_ms);
    }

    /// Between two reports the count is off by no more than what has happened since the last.
    fn between(&self, at: usize) {
        let found = self.router.rank_metrics(WorkerId(at as u32)).expect("a worker");
        let (side, truth) = (&self.sides[at], &self.sides[at].rank.now);
        let since = truth.allocated - side.truth.allocated + truth.freed - side.truth.freed;
        assert!(
            found.kv_used_tokens.abs_diff(truth.kv_tokens) <= side.off_tokens + side.moved_tokens + since,
            "{}: rank {at}, {} believed, {} there, off by {}, moved {}, since {since}",
            self.again(),
            found.kv_used_tokens,
            truth.kv_tokens,
            side.off_tokens,
            side.moved_tokens
        );
    }

    /// Everybody ends, and nothing is left anywhere.
    fn close(&mut self) {
        self.closing = true;
        for id in std::mem::take(&mut self.waiting) {
            self.router.abort(id, self.now_ms).expect("it waits");
        }
        for side in &mut self.sides {
            side.rank.pinned_blocks = 0;
            side.rank.count();
        }
        for step in 0..2_000 {
            if step > 500
                && self.records.is_empty()
                && self.sides.iter().all(|side| side.rank.jobs.is_empty())
            {
                break;
            }
            self.now_ms += STEP_MS;
            self.turn();
        }
        // Left are those that an engine forgot without a sign of it.
        let left: Vec<_> = self.records.keys().copied().collect();
        for id in left {
            let record = self.leave(id);
            assert!(self.sides[record.rank].restarted, "{}: {record:?} is nowhere", self.again());
            self.router.abort(id, self.now_ms).expect("it runs");
        }
        for at in 0..RANKS {
            let side = &mut self.sides[at];
            side.reports.clear();
            assert!(side.rank.jobs.is_empty() && side.way.is_empty(), "seed {}", self.seed);
            side.rank.sequence += 1;
            let report = WorkerReport::new(0, 0).sequence(side.sequences.then_some(side.rank.sequence));
            let report = report.epoch(side.epochs.then_some(side.rank.epoch));
            self.now_ms += 6_000;
            let taken = self.router.report(at as u32, report, self.now_ms).expect("a report");
            assert_eq!(taken, Verdict::Taken, "{}", self.again());
            let found = self.router.rank_metrics(WorkerId(at as u32)).expect("a worker");
            assert_eq!(
                (found.running, found.foreign_requests, found.kv_used_tokens, found.load_tokens),
                (0, 0, 0, 0),
                "{}: {found:?}",
                self.again()
            );
        }
        let counters = self.router.counters();
        let left = counters.finished + counters.aborted + counters.returned.iter().sum::<u64>();
        assert_eq!(counters.arrived, left, "{}", self.again());
    }
}
