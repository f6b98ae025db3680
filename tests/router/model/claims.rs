//! Who claims which worker, found anew from what is known of everybody.

use std::cmp::Reverse;

use balanceroute::{RequestId, Share, WorkerId};

use super::account::{Record, Side};
use super::{HEADROOM_STEPS, World};

/// A worker that nobody enters before one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Claim {
    pub id: RequestId,
    pub worker: WorkerId,
    pub priority: i8,
    pub is_kept: bool,
}

impl World {
    pub(super) fn is_claimed(&self, side: &Side) -> bool {
        side.accepting && self.claim.is_some_and(|claim| claim.worker == side.id)
    }

    /// Whether nobody of a class is to be placed on a worker but by a step.
    pub(super) fn is_shut(&self, side: &Side, priority: i8) -> bool {
        self.is_claimed(side) && self.claim.is_some_and(|claim| priority <= claim.priority)
    }

    pub(super) fn is_late(&self, record: &Record) -> bool {
        record.deadline.is_some_and(|steps| self.clock - record.step >= i64::from(steps))
    }

    /// Who of these is overdue, in the order in which they go, the highest class first.
    fn overdue(&self, mut overdue: Vec<RequestId>) -> Vec<RequestId> {
        overdue.retain(|id| self.is_late(&self.records[id]) || self.is_next(*id));
        overdue.sort_by_key(|id| {
            let record = &self.records[id];
            let is_late = self.is_late(record);
            let step = if is_late { record.step } else { 0 };
            (Reverse(record.priority), !is_late, step, record.arrival)
        });
        overdue
    }

    /// Whether a worker could hold a request once all of ours there are gone.
    fn could_hold(&self, record: &Record, side: &Side) -> bool {
        let Some(capacity) = side.capacity else { return true };
        let free = capacity as i64 - side.correction.max(0);
        let eased = self.tight && side.foreign_requests == 0;
        let growth = (side.foreign_requests + 1) as i64 * i64::from(HEADROOM_STEPS);
        record.length() as i64 + if eased { 0 } else { growth } <= free
    }

    /// The claim of a step that begins as things stand.
    pub(super) fn expected_claim(&self, may: &dyn Fn(RequestId, WorkerId) -> bool) -> Option<Claim> {
        if self.setting.share != Share::WHOLE || !self.sides.iter().any(|side| side.capacity.is_some()) {
            return None;
        }
        for id in self.overdue(self.window()) {
            let record = self.records[&id];
            let may_use = |side: &&Side| self.may_take(&record, side) && may(id, side.id);
            let usable: Vec<&Side> = self.sides.iter().filter(may_use).collect();
            if usable.iter().any(|side| self.fits(&record, side)) {
                continue;
            }
            let could: Vec<&Side> =
                usable.into_iter().filter(|side| self.could_hold(&record, side)).collect();
            let before = self.claim.filter(|claim| claim.id == id && claim.is_kept);
            if let Some(claim) = before.filter(|claim| could.iter().any(|side| side.id == claim.worker)) {
                return Some(claim);
            }
            let short = could.into_iter().filter(|side| record.length() as i64 > self.room(side));
            let most = short.max_by_key(|side| (self.room(side), Reverse(side.id)));
            if let Some(side) = most {
                let many = 128 * self.sides.len() as u32;
                let is_kept = record.passed >= 2 * self.most_passes().unwrap_or(many);
                return Some(Claim { id, worker: side.id, priority: record.priority, is_kept });
            }
        }
        None
    }

    /// The step is done: who has entered the claimed worker was of a higher class than the one that claims,
    /// or overdue and before it.
    pub(super) fn checks_claim(&mut self, claim: Option<Claim>, entered: &[(RequestId, WorkerId)]) {
        if let Some(claim) = claim {
            self.counts.claims += u64::from(self.claim.is_none_or(|before| before.id != claim.id));
            self.counts.admitted_beside_claims += entered.len() as u64;
            // A second turn of a class begins where its window stands: with late ones of behind it too.
            let overdue = self.overdue(self.waiting.clone());
            let at = overdue.iter().position(|&id| id == claim.id).unwrap_or(0);
            for (id, worker) in entered {
                assert_ne!(*id, claim.id, "it fitted nowhere");
                if *worker != claim.worker {
                    continue;
                }
                if self.records[id].priority > claim.priority {
                    self.tally.meets("entered the claimed worker of a lower class");
                    continue;
                }
                let is_of_class = self.records[id].priority == claim.priority;
                let is_before = is_of_class && overdue[..at].contains(id);
                assert!(is_before, "{id} has entered the claimed {worker}: {claim:?}");
                self.tally.meets("entered before the claim");
            }
            self.tally.meets("claimed");
            if self.classes().into_keys().any(|class| class > claim.priority) {
                self.tally.meets("claimed below a higher class");
            }
            if self.claim.is_some_and(|before| before.id == claim.id && before.worker != claim.worker) {
                self.tally.meets("claimed another worker");
            }
            if claim.is_kept {
                self.tally.meets("kept the worker");
            }
        }
        self.claim = claim;
    }

    pub(super) fn audit_claim(&self) {
        for (rank, side) in self.metrics.ranks.iter().zip(&self.sides) {
            let by = self.claim.filter(|_| self.is_claimed(side)).map(|claim| claim.id);
            assert_eq!(rank.claimed_by, by, "{:?}", self.claim);
        }
    }
}
