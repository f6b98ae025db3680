//! How it stands, in plain numbers: for exporters, dashboards and tests.

use crate::account::ReportCounts;
use crate::assignment::WaitReason;
use crate::batch::Request;
use crate::ids::{RequestId, WorkerId};
use crate::pool::Candidates;
use crate::router::explain::margin_tokens;
use crate::router::plan::ReturnReason;
use crate::router::trace::refused;
use crate::router::{Router, RouterError};

/// A histogram in powers of two: bucket `b` counts values of `b` binary digits, `2^(b-1) <= value < 2^b`,
/// bucket 0 zeros; the last one all that are longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Histogram {
    /// Counts.
    #[cfg_attr(feature = "serde", serde(with = "buckets"))]
    pub buckets: [u64; Self::BUCKETS],
    /// Sum of all values.
    pub sum: u64,
}

impl Histogram {
    /// Number of buckets.
    pub const BUCKETS: usize = 40;

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        let digits = (u64::BITS - value.leading_zeros()) as usize;
        self.buckets[digits.min(Self::BUCKETS - 1)] += 1;
        self.sum = self.sum.saturating_add(value);
    }

    /// Greatest value that a bucket counts; none for the last.
    #[must_use]
    pub fn upper_bound(bucket: usize) -> Option<u64> {
        (bucket + 1 < Self::BUCKETS).then(|| (1u64 << bucket) - 1)
    }

    /// Values counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The upper bound of the bucket in which the quantile `q`, 0..=1, lies: at most twice the value. None
    /// without values, or when it lies in the last bucket.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let rank = (q.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let at = self.buckets.iter().position(|&count| {
            seen += count;
            seen >= rank
        })?;
        Self::upper_bound(at)
    }
}

/// Arrays of more than 32 entries are lists to serde.
#[cfg(feature = "serde")]
mod buckets {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Histogram;

    pub(super) fn serialize<S: Serializer>(
        buckets: &[u64; Histogram::BUCKETS],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        buckets.as_slice().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<[u64; Histogram::BUCKETS], D::Error> {
        let found = Vec::<u64>::deserialize(from)?;
        let count = found.len();
        found.try_into().map_err(|_| D::Error::invalid_length(count, &"40 buckets"))
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; Self::BUCKETS], sum: 0 }
    }
}

/// What has happened since the router was made. `arrived` is everybody who was let in: those who wait, run,
/// or have left by one of the other counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Counters {
    /// Requests enqueued, placed or adopted, preempted ones each time they come again.
    pub arrived: u64,
    /// Admissions by steps.
    pub admitted_by_step: u64,
    /// Placements on arrival.
    pub placed_on_arrival: u64,
    /// Requests that finished.
    pub finished: u64,
    /// Requests given up.
    pub aborted: u64,
    /// Requests put off their worker, to come again.
    pub preempted: u64,
    /// Times that an engine put a request off to go on with it by itself.
    pub preempted_in_place: u64,
    /// Requests sent to a worker that had no room by our count.
    pub sent_beyond: u64,
    /// Requests whose ends are not told ([`Router::disown_sent`]).
    pub disowned: u64,
    /// Of those adopted, how many had no slot or no room by our count: the engine's word is good all the
    /// same.
    pub adopted_beyond: u64,
    /// Requests returned, in the order of [`ReturnReason::ALL`].
    pub returned: [u64; ReturnReason::ALL.len()],
    /// Jumps of the caller's clock ([`super::FORWARD_JUMP_MS`]).
    pub clock_jumps: u64,
    /// Time of a decision that had somebody and a slot to decide on, or of a placement, in nanoseconds.
    pub decide_ns: Histogram,
    /// Waits of the admitted, in milliseconds of the caller's clock.
    pub wait_ms: Histogram,
    /// Waits of the admitted, in steps.
    pub wait_steps: Histogram,
    /// How many that came later were admitted before each of the admitted, to workers that it might use.
    pub passed: Histogram,
    /// The most of these.
    pub most_passed: u32,
    /// Times that a request which was overdue and fitted nowhere began to claim a worker.
    pub claims: u64,
    /// Requests that entered other workers meanwhile, or this one before it.
    pub admitted_beside_claims: u64,
}

impl Counters {
    pub(super) fn waited<W>(&mut self, wait_ms: u64, request: &Request<W>) {
        self.wait_ms.record(wait_ms);
        self.wait_steps.record(u64::from(request.waited_steps));
        self.passed.record(u64::from(request.passed));
        self.most_passed = self.most_passed.max(request.passed);
    }
}

/// One worker as it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct RankMetrics {
    /// Worker id.
    pub worker: WorkerId,
    /// Whether it takes new requests.
    pub accepting: bool,
    /// Whether it is being drained.
    pub draining: bool,
    /// Who waits for room there that nobody else of its class or a lower one is to fill: it is overdue and
    /// fits nowhere.
    pub claimed_by: Option<RequestId>,
    /// KV tokens that it reads each step, foreign ones included.
    pub load_tokens: u64,
    /// Tokens by which it is below the most loaded worker.
    pub margin_tokens: f64,
    /// Requests of ours that run there.
    pub running: u32,
    /// Of these, how many have KV there and do not decode yet.
    pub held: u32,
    /// Of these, how many the engine has put off.
    pub preempted: u32,
    /// The lengths of these, whatever they share.
    pub own_tokens: u64,
    /// Slots that this router is sure of.
    pub slots: u32,
    /// Slots that an admission could take.
    pub free_slots: u32,
    /// KV tokens counted as used; with several front ends also those that are not for this one now.
    pub kv_used_tokens: u64,
    /// KV tokens kept free for the growth of what runs.
    pub kv_growth_tokens: u64,
    /// KV tokens that fit, if bounded.
    pub kv_capacity_tokens: Option<u64>,
    /// Requests and tokens that the last report showed and that are none of ours.
    pub foreign_requests: u32,
    /// The tokens of these, or of blocks that nobody who runs holds.
    pub foreign_tokens: u64,
    /// Tokens by which our requests hold less than their lengths, for they share.
    pub shared_tokens: u64,
    /// Dispatches made.
    pub dispatches: u64,
    /// The last one acknowledged by a report.
    pub acknowledged: u64,
    /// Dispatches that nothing has shown yet.
    pub unseen: u32,
    /// Milliseconds since a report was taken; none before the first.
    pub report_age_ms: Option<u64>,
    /// Reports by verdict.
    pub reports: ReportCounts,
}

/// How a router stands. The caller owns it and fills it again and again.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Metrics {
    /// The caller's clock.
    pub now_ms: u64,
    /// The step clock.
    pub step: u64,
    /// Per worker, in order of id.
    pub ranks: Vec<RankMetrics>,
    /// Requests that wait.
    pub waiting: u64,
    /// Requests that wait by reason, in the order of [`WaitReason::ALL`].
    pub waiting_by_reason: [u64; WaitReason::ALL.len()],
    /// Classes of whom anybody waits ([`Request::priority`]), the highest first, and how many wait of each.
    pub waiting_by_priority: Vec<(i8, u64)>,
    /// Requests that run.
    pub running: u64,
    /// Greatest load, tokens times weight: a step lasts as long as this.
    pub envelope_tokens: f64,
    /// `G * envelope - sum of loads`.
    pub imbalance_tokens: f64,
    /// Longest wait of those who wait now, in steps; of those behind the window it is taken that they came
    /// later.
    pub longest_wait_steps: u32,
    /// The wait of the one who came first of those who wait now, in milliseconds.
    pub longest_wait_ms: u64,
    /// The most that anybody who waits now has been passed; of those behind the window it is taken that they
    /// came later.
    pub most_passed: u32,
    /// By how many a request may be passed, as the last step had it; none where the policy knows no bound.
    pub max_passed: Option<u32>,
    /// What has happened so far.
    pub counters: Counters,
}

impl Router {
    /// Fills in how it stands. Nothing of it is computed before.
    pub fn metrics(&self, metrics: &mut Metrics) {
        metrics.now_ms = self.clock.told_ms();
        metrics.step = self.now.max(0) as u64;
        metrics.ranks.clear();
        let mut sum = 0.0;
        metrics.envelope_tokens = 0.0;
        for (place, (worker, account)) in self.workers.iter().zip(&self.accounts).enumerate() {
            // What is there, not what this front end decides by.
            let cost = account.load_tokens() as f64 * f64::from(worker.weight);
            sum += cost;
            metrics.envelope_tokens = metrics.envelope_tokens.max(cost);
            metrics.ranks.push(self.rank_at(place));
        }
        metrics.imbalance_tokens = metrics.envelope_tokens * self.workers.len() as f64 - sum;
        metrics.waiting = self.pool.len() as u64;
        metrics.waiting_by_priority.clear();
        let by_priority = self.pool.classes().map(|(class, count)| (class, count as u64));
        metrics.waiting_by_priority.extend(by_priority);
        metrics.running = self.slab.len() as u64;
        metrics.longest_wait_steps = self.pool.longest_wait_steps();
        metrics.longest_wait_ms =
            self.pool.first_since_ms().map_or(0, |since_ms| self.now_ms().saturating_sub(since_ms));
        metrics.waiting_by_reason = Default::default();
        let by_reason = &mut metrics.waiting_by_reason;
        let reasons = self.reasons();
        for (slot, request, _) in self.pool.windows().flat_map(Candidates::iter) {
            by_reason[reasons.of(Some(slot), request) as usize] += 1;
        }
        // Of those behind the window only ranks and lengths are known, of most of them together.
        for (class, rank, count) in self.pool.queued() {
            let Some(most_tokens) = reasons.most_tokens(rank) else {
                by_reason[reasons.without_slot(rank) as usize] += count as u64;
                continue;
            };
            let fit = self.pool.queued_of_at_most(class, rank, most_tokens);
            let placeable = match reasons.most_tokens_beside(rank, class) {
                Some(tokens) if tokens < most_tokens => self.pool.queued_of_at_most(class, rank, tokens),
                Some(_) => fit,
                None => 0,
            };
            by_reason[WaitReason::OutsideWindow as usize] += placeable as u64;
            by_reason[WaitReason::Claimed as usize] += (fit - placeable) as u64;
            by_reason[WaitReason::NoCapacity as usize] += (count - fit) as u64;
        }
        // Who claims stands there too where one who came back has pushed it out.
        if let Some((None, request, _)) = self.claimed().and_then(|claimed| self.pool.find(claimed.id))
            && let Some(counted) = reasons.held_back(&request)
        {
            by_reason[counted as usize] -= 1;
            by_reason[WaitReason::Claims as usize] += 1;
        }
        metrics.most_passed = self.pool.most_passed();
        metrics.max_passed = self.max_passed;
        metrics.counters = self.counters;
        metrics.counters.clock_jumps = self.clock.jumps;
    }

    /// One worker as it stands.
    ///
    /// # Errors
    /// No such worker.
    pub fn rank_metrics(&self, worker: impl Into<WorkerId>) -> Result<RankMetrics, RouterError> {
        Ok(self.rank_at(refused("rank_metrics", self.place_of(worker.into()))?))
    }

    fn rank_at(&self, place: usize) -> RankMetrics {
        let (worker, account) = (&self.workers[place], &self.accounts[place]);
        RankMetrics {
            worker: account.id,
            accepting: worker.accepting,
            draining: account.draining,
            claimed_by: self.claimed().filter(|claimed| claimed.worker == place).map(|claimed| claimed.id),
            load_tokens: account.load_tokens(),
            margin_tokens: margin_tokens(&self.workers, place),
            running: account.running(),
            own_tokens: account.own_tokens(),
            held: account.held_requests(),
            preempted: account.preempted_requests(),
            slots: account.own_slots,
            free_slots: worker.free_slots,
            kv_used_tokens: worker.kv_used_tokens,
            kv_growth_tokens: worker.kv_growth_tokens,
            kv_capacity_tokens: worker.kv_capacity_tokens,
            foreign_requests: account.foreign_requests,
            foreign_tokens: account.foreign_tokens(),
            shared_tokens: account.shared_tokens(),
            dispatches: account.sent,
            acknowledged: account.acknowledged,
            unseen: account.unseen(),
            report_age_ms: account.reported_ms.map(|then| self.now_ms() - then),
            reports: account.counts,
        }
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_bucket_of_their_length() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for value in [0, 1, 2, 3, 4, 1000, u64::MAX] {
            histogram.record(value);
        }
        assert_eq!(histogram.buckets[..4], [1, 1, 2, 1]);
        assert_eq!((histogram.buckets[10], histogram.buckets[Histogram::BUCKETS - 1]), (1, 1));
        assert_eq!((histogram.count(), histogram.quantile(0.5), histogram.quantile(1.0)), (7, Some(3), None));
        for bucket in 0..Histogram::BUCKETS - 1 {
            let mut one = Histogram::default();
            one.record(Histogram::upper_bound(bucket).unwrap());
            assert_eq!(one.buckets[bucket], 1);
        }
    }
}
