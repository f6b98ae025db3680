//! What reports say: which of them count, and what a measurement teaches.

use crate::account::running::{Active, Slab, Stage};
use crate::account::worker::Account;
use crate::account::{Verdict, WorkerReport};
use crate::batch::MAX_LOAD_TOKENS;

/// A request whose KV cache came to be counted as there, or went, and its length then.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Change {
    pub at_ms: u64,
    pub tokens: u64,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) enum What {
    Begun,
    Ended,
    /// Its tokens went, and it stays.
    Preempted,
}

/// Requests and tokens that a report may not know of: what has begun since it was measured, and what has
/// ended; and of those ended what others may have seen to be free.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    begun: u32,
    begun_tokens: u64,
    ended: u32,
    ended_tokens: u64,
    freed: (u32, u64),
}

/// No report is taken to be older than this.
const OLDEST_REPORT_MS: u64 = 5_000;

/// So many changes are kept before a report has told an age.
const FIRST_CHANGES: usize = 1024;

/// What has ended longer ago than this, and a report came since, others may have seen and filled already.
const FRESH_MS: u64 = 32;

/// So many lives of a worker are told from a new one: more than it has while a report is on its way.
pub(super) const FORMER_EPOCHS: usize = 8;

/// How many reports of a worker met which verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ReportCounts {
    /// Newest when they came.
    pub taken: u64,
    /// Seen before.
    pub repeated: u64,
    /// Older than one seen before.
    pub late: u64,
    /// At odds with what was acknowledged before.
    pub contradictory: u64,
    /// First of a new life.
    pub restarted: u64,
}

/// Reports that are no newer than the last one taken, yet rise among themselves: of a new life perhaps.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Anew {
    since_ms: u64,
    sequence: Option<u64>,
    epoch: Option<u64>,
    reports: u32,
}

/// So long, and so often, do reports rise below the last one taken until they count as those of a new life:
/// by far longer than the way of a report that others overtake.
const ANEW_MS: u64 = 1_000;
const ANEW_REPORTS: u32 = 3;

impl Account {
    pub(super) fn changed(&mut self, change: Change) {
        // Whoever has never told an age may do so yet.
        let (most, window_ms) = match self.oldest_report_ms {
            0 => (FIRST_CHANGES, OLDEST_REPORT_MS),
            oldest_ms => (usize::MAX, oldest_ms),
        };
        let from_ms = change.at_ms.saturating_sub(window_ms);
        while self.changes.len() >= most || self.changes.front().is_some_and(|first| first.at_ms < from_ms) {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    /// Judges a report whose last dispatch was made. After [`Verdict::Restarted`] the account is that of a
    /// new life, but for the requests of the old one ([`Account::is_forgotten`]).
    #[inline]
    pub(crate) fn judge(&mut self, report: &WorkerReport, now_ms: u64) -> Verdict {
        let verdict = self.verdict(report, now_ms);
        let count = match verdict {
            Verdict::Taken => &mut self.counts.taken,
            Verdict::Repeated => &mut self.counts.repeated,
            Verdict::Late => &mut self.counts.late,
            Verdict::Contradictory => &mut self.counts.contradictory,
            Verdict::Restarted => &mut self.counts.restarted,
        };
        *count += 1;
        if verdict == Verdict::Restarted {
            self.restarted_ms = self.anew.take().map_or(now_ms, |anew| anew.since_ms);
            (self.sequence, self.acknowledged, self.empty_since_ms) = (None, 0, None);
            self.correct(0);
            self.foreign_requests = 0;
        }
        if !matches!(verdict, Verdict::Repeated | Verdict::Contradictory) {
            self.enter(report.epoch);
        }
        verdict
    }

    /// The life that a taken report is of; those before it stay known.
    fn enter(&mut self, epoch: Option<u64>) {
        if epoch.is_none() || epoch == self.epoch {
            return;
        }
        if self.epoch.is_some() {
            // One that comes again is not among those before any more, and leaves its place to the last one.
            let most = FORMER_EPOCHS - 1;
            let at = self.former_epochs.iter().position(|&former| former == epoch).unwrap_or(most);
            self.former_epochs[..=at].rotate_right(1);
            self.former_epochs[0] = self.epoch;
        }
        self.epoch = epoch;
    }

    /// What has ended with the old life cannot be in a measurement of the new one.
    pub(crate) fn forget_changes(&mut self) {
        self.changes.clear();
    }

    /// Whether a request was the old life's. What was sent a moment ago may still arrive in the new one.
    pub(crate) fn is_forgotten(&self, active: &Active, report: &WorkerReport, now_ms: u64) -> bool {
        match active.stage {
            Stage::Sent => {
                let from_ms = self.restarted_ms.min(now_ms.saturating_sub(ANEW_MS));
                active.since_ms < from_ms && !report.has_seen(active.number)
            }
            _ => active.since_ms < self.restarted_ms,
        }
    }

    /// Takes a report in, but for its capacity. Where it tells no KV tokens, whoever is not ours there is
    /// taken to hold `mean_tokens`.
    pub(crate) fn take(
        &mut self,
        slab: &mut Slab,
        report: &WorkerReport,
        verdict: Verdict,
        now_ms: u64,
        mean_tokens: u64,
    ) {
        if let Verdict::Repeated | Verdict::Contradictory = verdict {
            return;
        }
        // Whoever was there already and has grown with the others decodes.
        while let Some(active) = slab.entries.get(self.received_line.head as usize)
            && active.received_tokens < self.grown_tokens
        {
            self.move_to(slab, self.received_line.head, Stage::Decoding, now_ms);
        }
        // Not by progress: a report that was made before it has seen less and is right all the same.
        let last = report.last_dispatch.unwrap_or(0);
        self.acknowledged = self.acknowledged.max(last);
        self.receive_up_to(slab, last, now_ms, |number| report.has_seen(number));
        if verdict == Verdict::Late {
            return;
        }
        self.sequence = report.sequence.or(self.sequence);
        self.reported_ms = Some(now_ms);
        self.measure(report, now_ms, mean_tokens);
    }

    #[inline]
    fn verdict(&mut self, report: &WorkerReport, now_ms: u64) -> Verdict {
        // One of a life before is on its way still, unless that goes on.
        let is_former = report.epoch.is_some() && self.former_epochs.contains(&report.epoch);
        if let (Some(epoch), Some(last)) = (report.epoch, self.epoch)
            && epoch != last
            && !is_former
        {
            self.anew = None;
            return Verdict::Restarted;
        }
        let seen_less = report.last_dispatch.is_some_and(|number| number < self.acknowledged);
        let verdict = match (report.sequence, self.sequence) {
            _ if is_former => Verdict::Contradictory,
            (Some(number), Some(last)) if number == last => Verdict::Repeated,
            (Some(number), Some(last)) if number < last => Verdict::Late,
            (Some(_), Some(_)) if seen_less => Verdict::Contradictory,
            (None, _) if seen_less => Verdict::Late,
            _ => Verdict::Taken,
        };
        match verdict {
            Verdict::Taken => self.anew = None,
            Verdict::Repeated | Verdict::Restarted => {}
            Verdict::Late | Verdict::Contradictory => {
                if self.begins_anew(report, now_ms) {
                    return Verdict::Restarted;
                }
            }
        }
        verdict
    }

    /// Whether reports that are no newer than the last one taken have risen for so long, this one too, that
    /// they are of a new life.
    #[inline(never)]
    fn begins_anew(&mut self, report: &WorkerReport, now_ms: u64) -> bool {
        let (sequence, epoch) = (report.sequence, report.epoch);
        let begins = Anew { since_ms: now_ms, sequence, epoch, reports: 0 };
        let rises = |anew: &Anew| match (sequence, anew.sequence) {
            (Some(number), Some(last)) => number > last,
            (None, None) => true,
            _ => false,
        };
        let before = self.anew.filter(|anew| anew.epoch == epoch && rises(anew));
        let mut anew = before.unwrap_or(begins);
        anew.reports += 1;
        anew.sequence = report.sequence;
        self.anew = Some(anew);
        let lasts = now_ms.saturating_sub(anew.since_ms) >= ANEW_MS;
        lasts && anew.reports >= ANEW_REPORTS
    }

    /// Renews what is corrected by a measurement.
    ///
    /// It holds the requests that decoded when it was made, and at most all that may have been there: those
    /// acknowledged or held, those sent where the worker cannot tell what it has, those that have ended
    /// since. So the correction lies between two bounds; it stays where it is between them, and moves to the
    /// nearer one where it is not. The same holds for the count of requests.
    fn measure(&mut self, report: &WorkerReport, now_ms: u64, mean_tokens: u64) {
        let age_ms = u64::from(report.age_ms).min(OLDEST_REPORT_MS);
        let kv_age_ms =
            report.kv_age_ms.map_or(age_ms, |kv_age_ms| u64::from(kv_age_ms).min(OLDEST_REPORT_MS));
        self.oldest_report_ms = self.oldest_report_ms.max(age_ms).max(kv_age_ms);
        // Nothing is too recent for a report that is new.
        let recent = if age_ms.max(kv_age_ms) > 0 {
            self.recent(age_ms, kv_age_ms, now_ms)
        } else {
            Recent::default()
        };
        let Recent { begun, begun_tokens, ended, ended_tokens, .. } = recent;
        self.freed = recent.freed;
        self.before = (self.foreign_requests, self.correction_tokens);
        let (sent, sent_tokens) = (self.unseen(), self.sent_line.tally.tokens(self.grown_tokens));
        // A worker that tells what it has had has measured that, and nothing else that was sent. Of another
        // what was sent may be in it, and what has just begun may not.
        let (unsure, unsure_tokens) = match report.last_dispatch {
            Some(_) => {
                self.since = (sent, sent_tokens);
                (0, 0)
            }
            None => {
                self.since = (sent + begun, sent_tokens + begun_tokens);
                (sent, sent_tokens)
            }
        };
        let held = report.running.saturating_add(report.waiting);
        let seen = self.running() - sent;
        let (least, most) = (seen.saturating_sub(begun), seen.saturating_add(unsure).saturating_add(ended));
        self.foreign_requests =
            self.foreign_requests.clamp(held.saturating_sub(most), held.saturating_sub(least));
        self.empty_since_ms = if held == 0 && seen > 0 { self.empty_since_ms.or(Some(now_ms)) } else { None };
        let Some(measured) = report.kv_used_tokens else {
            // What was measured before goes on to be so.
            let more = i64::from(self.foreign_requests) - i64::from(self.before.0);
            self.correct(self.correction_tokens + more * mean_tokens.min(MAX_LOAD_TOKENS) as i64);
            return;
        };
        let decoding_tokens = self.decoding_tokens();
        let received_tokens = self.received_line.tally.tokens(self.grown_tokens) + self.held.tokens(0);
        let least = decoding_tokens.saturating_sub(begun_tokens) as i64;
        let most = (decoding_tokens + received_tokens + unsure_tokens + ended_tokens) as i64;
        let measured = measured as i64;
        self.correct(self.correction_tokens.clamp(measured - most, measured - least));
    }

    /// What has changed within these ages.
    #[inline(never)]
    fn recent(&self, age_ms: u64, kv_age_ms: u64, now_ms: u64) -> Recent {
        let mut recent = Recent::default();
        for change in self.changes.iter().rev() {
            let ago_ms = now_ms.saturating_sub(change.at_ms);
            let within = |age_ms: u64| age_ms > 0 && ago_ms <= age_ms;
            if !within(age_ms.max(kv_age_ms)) {
                break;
            }
            if change.what == What::Ended && within(age_ms.min(FRESH_MS)) {
                recent.freed = (recent.freed.0 + 1, recent.freed.1 + change.tokens);
            }
            match change.what {
                What::Begun => recent.begun += u32::from(within(age_ms)),
                What::Ended => recent.ended += u32::from(within(age_ms)),
                What::Preempted => {}
            }
            if within(kv_age_ms) {
                match change.what {
                    What::Begun => recent.begun_tokens += change.tokens,
                    What::Ended | What::Preempted => recent.ended_tokens += change.tokens,
                }
            }
        }
        recent
    }
}
