//! Reports on their way, and what the router makes of them.

use balanceroute::{RequestId, ReturnReason, RouterError, Verdict, WorkerId, WorkerReport};

use super::account::{Record, Stage, State, What};
use super::{FRESH_MS, MOST_LOAD_TOKENS, TIMEOUT_MS, World};

impl World {
    /// The network delivers: in order, out of order, twice, never, or garbage.
    pub(super) fn deliver(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let (worker, mut report) = match self.rng.below(10) {
            0 => {
                let at = self.rng.index(self.network.len());
                self.network.remove(at);
                return;
            }
            1 => self.network.remove(self.rng.index(self.network.len())),
            2 => self.network[self.rng.index(self.network.len())],
            _ => self.network.remove(0),
        };
        match self.rng.below(40) {
            0 => report.last_dispatch = Some(report.last_dispatch.unwrap_or(0) + 1 + self.rng.below(50)),
            1 => report.last_dispatch = Some(self.rng.below(3)),
            2 => report.kv_used_tokens = Some(u64::MAX >> self.rng.below(40)),
            3 => report.sequence = report.sequence.map(|number| number + self.rng.below(9)),
            4 => report.missing = self.rng.next(),
            5 => report.epoch = report.epoch.map(|epoch| epoch + self.rng.below(2)),
            6 | 7 => report.epoch = report.epoch.map(|epoch| epoch.saturating_sub(self.rng.below(4))),
            _ => {}
        }
        let reading = self.rng.one_in(2).then(|| self.reading(self.now_ms));
        let found = self.router.report(worker, report, reading);
        if found.is_ok() && reading.is_some() {
            self.tell();
        }
        let Some(at) = self.sides.iter().position(|side| side.id == worker) else {
            assert!(matches!(found, Err(RouterError::Worker { .. })));
            return;
        };
        let too_much = report.kv_used_tokens.is_some_and(|used| used > MOST_LOAD_TOKENS as u64);
        if too_much || report.last_dispatch.is_some_and(|last| last > self.sides[at].sent) {
            assert!(found.is_err(), "{report:?}");
            self.tally.meets("refused report");
            return;
        }
        let (verdict, restarted_ms) = self.judge(at, &report);
        assert_eq!(found, Ok(verdict), "{report:?}");
        self.tally.verdicts[verdict as usize] += 1;
        if matches!(verdict, Verdict::Repeated | Verdict::Contradictory) {
            return;
        }
        if let Some(restarted_ms) = restarted_ms {
            self.begins_anew(at, &report, restarted_ms);
        }
        if let Some(epoch) = report.epoch {
            let side = &mut self.sides[at];
            let last = side.epoch.replace(epoch);
            side.former_epochs.retain(|&former| former != epoch);
            side.former_epochs.extend(last.filter(|&last| last != epoch));
            side.former_epochs.drain(..side.former_epochs.len().saturating_sub(8));
        }
        // Told by the counts alone, whoever is not ours is as long as ours are in the mean.
        let lengths: u64 = self.running.iter().map(|id| self.records[id].length()).sum();
        let mean = lengths / (self.running.len() as u64).max(1);
        self.acknowledges(worker, &report);
        if verdict == Verdict::Late {
            return;
        }
        let side = &mut self.sides[at];
        side.sequence = report.sequence.or(side.sequence);
        side.reported_ms = Some(self.told_ms);
        self.measures(at, &report, mean);
        if let Some(capacity) = report.kv_capacity_tokens {
            self.sides[at].set_capacity(Some(capacity));
        }
        self.loses(at, &report);
    }

    /// What becomes of a report, and since when its worker lives anew if it does.
    fn judge(&mut self, at: usize, report: &WorkerReport) -> (Verdict, Option<u64>) {
        let (side, now_ms) = (&mut self.sides[at], self.told_ms);
        let former = report.epoch.and_then(|epoch| side.former_epochs.iter().rposition(|&of| of == epoch));
        let is_former = former.is_some();
        match former {
            Some(at) if at + 1 == side.former_epochs.len() => self.tally.meets("the epoch before"),
            Some(_) => self.tally.meets("an epoch before that"),
            None if report.epoch.is_some() && side.epoch.is_some() && report.epoch != side.epoch => {
                side.anew = None;
                self.tally.meets("another epoch");
                return (Verdict::Restarted, Some(now_ms));
            }
            None => {}
        }
        let less = report.last_dispatch.is_some_and(|last| last < side.acknowledged);
        let verdict = match (report.sequence, side.sequence) {
            _ if is_former => Verdict::Contradictory,
            (Some(new), Some(old)) if new == old => Verdict::Repeated,
            (Some(new), Some(old)) if new < old => Verdict::Late,
            (Some(_), Some(_)) if less => Verdict::Contradictory,
            (None, _) if less => Verdict::Late,
            _ => Verdict::Taken,
        };
        match verdict {
            Verdict::Late | Verdict::Contradictory => {
                let goes_on = |anew: &(u64, Option<u64>, u32, Option<u64>)| {
                    let rises = match (report.sequence, anew.1) {
                        (Some(new), Some(old)) => new > old,
                        (new, old) => new == old,
                    };
                    rises && anew.3 == report.epoch
                };
                let (since, _, count, _) = side.anew.filter(goes_on).unwrap_or((now_ms, None, 0, None));
                side.anew = Some((since, report.sequence, count + 1, report.epoch));
                if count + 1 >= 3 && now_ms - since >= 1_000 {
                    side.anew = None;
                    return (Verdict::Restarted, Some(since));
                }
            }
            Verdict::Taken => side.anew = None,
            _ => {}
        }
        (verdict, None)
    }

    /// A worker's new life: what ran in the one before is gone.
    fn begins_anew(&mut self, at: usize, report: &WorkerReport, restarted_ms: u64) {
        let now_ms = self.told_ms;
        let side = &mut self.sides[at];
        (side.sequence, side.acknowledged, side.empty_since_ms) = (None, 0, None);
        (side.foreign_requests, side.correction) = (0, 0);
        side.changes.clear();
        let worker = side.id;
        let forgotten = |record: &Record| match record.runs_on(worker) {
            Some((number, Stage::Sent, since_ms)) => {
                since_ms < restarted_ms.min(now_ms.saturating_sub(1_000)) && !report.has_seen(number)
            }
            Some((_, _, since_ms)) => since_ms < restarted_ms,
            None => false,
        };
        let gone: Vec<RequestId> =
            self.running.iter().copied().filter(|id| forgotten(&self.records[id])).collect();
        for id in gone {
            self.gone(id, ReturnReason::WorkerForgot);
        }
        // What has ended with the old life is in no measurement of the new one.
        self.sides[at].changes.clear();
    }

    /// Who has grown since it was acknowledged decodes; whoever the report has seen is there.
    fn acknowledges(&mut self, worker: WorkerId, report: &WorkerReport) {
        let at = self.side(worker);
        let reach = self.sides[at].reach;
        for id in self.running.clone() {
            if let Some((_, Stage::Received { reach: then }, _)) = self.records[&id].runs_on(worker)
                && then < reach
            {
                self.moves(id, Stage::Decoding);
            }
        }
        let Some(last) = report.last_dispatch else { return };
        self.sides[at].acknowledged = self.sides[at].acknowledged.max(last);
        for id in &self.running {
            let record = self.records.get_mut(id).expect("it runs");
            let Some((number, Stage::Sent, _)) = record.runs_on(worker) else { continue };
            let back = last.wrapping_sub(number).wrapping_sub(1);
            let missed = number > last || (number < last && back < 64 && report.missing >> back & 1 == 1);
            if !missed {
                let stage = Stage::Received { reach };
                record.state = State::Runs { worker, number, stage, since_ms: self.told_ms };
            }
        }
    }

    /// The correction lies between what was measured less all that may have been in it, and less what surely
    /// was.
    fn measures(&mut self, at: usize, report: &WorkerReport, mean: u64) {
        let now_ms = self.told_ms;
        let age_ms = u64::from(report.age_ms).min(5_000);
        let kv_age_ms = report.kv_age_ms.map_or(age_ms, |kv_age_ms| u64::from(kv_age_ms).min(5_000));
        let side = &mut self.sides[at];
        side.oldest_ms = side.oldest_ms.max(age_ms).max(kv_age_ms);
        let worker = side.id;
        let since = |age_ms: u64, what: &[What]| {
            let recent = |change_ms: u64| age_ms > 0 && now_ms - change_ms <= age_ms;
            let changes = side.changes.iter();
            let found = changes.filter(|change| what.contains(&change.what) && recent(change.at_ms));
            found.fold((0, 0), |(count, tokens), change| (count + 1, tokens + change.tokens))
        };
        let ((begun, _), (ended, _)) = (since(age_ms, &[What::Begun]), since(age_ms, &[What::Ended]));
        let (_, begun_tokens) = since(kv_age_ms, &[What::Begun]);
        let (_, ended_tokens) = since(kv_age_ms, &[What::Ended, What::Preempted]);
        let freed = since(age_ms.min(FRESH_MS), &[What::Ended]);
        let (own, _) = self.sum(worker, |_| true);
        let (sent, sent_tokens) = self.sum(worker, |stage| stage == Stage::Sent);
        let (_, decoding) = self.sum(worker, |stage| stage == Stage::Decoding);
        let there = |stage| matches!(stage, Stage::Received { .. } | Stage::Held);
        let (_, there_tokens) = self.sum(worker, there);
        let seen = own - sent;
        let (unsure, unsure_tokens) =
            if report.last_dispatch.is_some() { (0, 0) } else { (sent, sent_tokens) };
        let held = u64::from(report.running) + u64::from(report.waiting);
        let (least, most) = (seen.saturating_sub(begun), seen + unsure + ended);
        let side = &mut self.sides[at];
        (side.freed, side.before) = (freed, (side.foreign_requests, side.correction));
        let unsure = if report.last_dispatch.is_none() { (begun, begun_tokens) } else { (0, 0) };
        side.since = (sent + unsure.0, sent_tokens + unsure.1);
        side.foreign_requests =
            side.foreign_requests.clamp(held.saturating_sub(most), held.saturating_sub(least));
        match report.kv_used_tokens {
            Some(measured) => {
                let least = decoding.saturating_sub(begun_tokens) as i64;
                let most = (decoding + there_tokens + unsure_tokens + ended_tokens) as i64;
                let measured = measured as i64;
                side.correct(side.correction.clamp(measured - most, measured - least));
            }
            None => {
                let more = side.foreign_requests as i64 - side.before.0 as i64;
                side.correct(side.correction + more * mean.min(MOST_LOAD_TOKENS as u64) as i64);
                self.tally.meets("without KV tokens");
            }
        }
        let side = &mut self.sides[at];
        side.empty_since_ms = if held == 0 && seen > 0 { side.empty_since_ms.or(Some(now_ms)) } else { None };
        if begun + ended > 0 {
            self.tally.meets("younger than its report");
        }
    }

    /// Dispatches that the report should have seen are lost; a worker that is empty for long has forgotten.
    fn loses(&mut self, at: usize, report: &WorkerReport) {
        let now_ms = self.told_ms;
        let side = &mut self.sides[at];
        let worker = side.id;
        let forgets = side.empty_since_ms.is_some_and(|since| now_ms - since >= TIMEOUT_MS);
        if forgets {
            side.empty_since_ms = None;
        }
        let mut lost = Vec::new();
        for &id in &self.running {
            let Some((_, stage, since_ms)) = self.records[&id].runs_on(worker) else { continue };
            let (old, seen) = (now_ms - since_ms >= TIMEOUT_MS, stage != Stage::Sent);
            if old && !seen && report.last_dispatch.is_some() {
                lost.push((id, ReturnReason::LostDispatch));
            } else if old && seen && forgets {
                lost.push((id, ReturnReason::WorkerForgot));
            }
        }
        let several = lost.len() as i64;
        for (id, reason) in lost {
            self.gone(id, reason);
        }
        // Each takes its part of what is shared, rounded: the last token depends on who goes first.
        if several > 1 {
            self.router.metrics(&mut self.metrics);
            let rank = &self.metrics.ranks[at];
            let correction = rank.foreign_tokens as i64 - rank.shared_tokens as i64;
            let side = &mut self.sides[at];
            assert!((correction - side.correction).abs() <= several, "{correction} {}", side.correction);
            side.correction = correction;
        }
    }
}
