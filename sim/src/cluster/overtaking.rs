//! Who passes whom: counted from arrivals and admissions alone, whatever a policy believes.
//!
//! A request that waits is *passed* by each admission of a request that arrived after it. Requests are
//! numbered in order of arrival. Admissions of one step pass nobody who is admitted in that step. A preempted
//! request keeps its place and its count; while it runs, nobody passes it.

/// Admissions of the past by number of arrival, as a binary indexed tree that grows: how many numbers above
/// a given one were admitted is a sum of a logarithm of entries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overtaking {
    /// Entry `n` (counted from 1) holds the sum of the `n & -n` numbers up to `n - 1`.
    sums: Vec<u64>,
    admissions: u64,
    waits: Vec<Wait>,
    most: u64,
}

/// A request's count.
#[derive(Clone, Copy, Debug, Default)]
struct Wait {
    /// Passed in waits that are over.
    before: u64,
    /// Younger ones admitted when the present wait began.
    since: u64,
}

impl Overtaking {
    /// The next request in order of arrival.
    pub(crate) fn arrived(&mut self) {
        let n = self.sums.len() as u64 + 1;
        let lowest = n & n.wrapping_neg();
        // The new number has no admission: its entry sums those that it covers.
        let mut step = 1;
        let mut sum = 0;
        while step < lowest {
            sum += self.sums[(n - step) as usize - 1];
            step *= 2;
        }
        self.sums.push(sum);
        self.waits.push(Wait::default());
    }

    fn younger_admitted(&self, id: u64) -> u64 {
        let (mut up_to, mut n) = (0, id + 1);
        while n > 0 {
            up_to += self.sums[n as usize - 1];
            n &= n - 1;
        }
        self.admissions - up_to
    }

    /// How many have passed a request that waits.
    pub(crate) fn passed(&self, id: u64) -> u64 {
        let Wait { before, since } = self.waits[id as usize];
        before + self.younger_admitted(id) - since
    }

    /// It begins to wait again.
    pub(crate) fn waits_again(&mut self, id: u64) {
        self.waits[id as usize].since = self.younger_admitted(id);
    }

    /// One step's admissions.
    pub(crate) fn admitted(&mut self, ids: impl Iterator<Item = u64> + Clone) {
        for id in ids.clone() {
            self.waits[id as usize].before = self.passed(id);
        }
        let mut count = 0;
        for id in ids {
            count += 1;
            self.admissions += 1;
            let mut n = id + 1;
            while n <= self.sums.len() as u64 {
                self.sums[n as usize - 1] += 1;
                n += n & n.wrapping_neg();
            }
        }
        self.most = self.most.max(count);
    }

    /// How many had passed a request that was admitted last.
    pub(crate) fn passed_before(&self, id: u64) -> u64 {
        self.waits[id as usize].before
    }

    /// The most admissions of one step.
    pub(crate) fn most_admissions(&self) -> u64 {
        self.most
    }
}

#[cfg(test)]
mod tests {
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn four_requests_by_hand() {
        let mut order = Overtaking::default();
        for _ in 0..3 {
            order.arrived();
        }
        // 1 passes 0; 2 waits behind it and is not passed.
        order.admitted([1].into_iter());
        assert_eq!([0, 2].map(|id| order.passed(id)), [1, 0]);
        // 2 passes 0. One who arrives now has been passed by nobody.
        order.admitted([2].into_iter());
        order.arrived();
        assert_eq!([0, 3].map(|id| order.passed(id)), [2, 0]);
        // Both enter in one step: 3 does not pass 0.
        order.admitted([3, 0].into_iter());
        assert_eq!([0, 1, 2, 3].map(|id| order.passed_before(id)), [2, 0, 0, 0]);
        assert_eq!(order.most_admissions(), 2);
        // 0 is preempted and 3 as well; 4 arrives and enters, then 3 again: both pass 0, 4 passes 3.
        order.waits_again(0);
        order.waits_again(3);
        order.arrived();
        order.admitted([4].into_iter());
        order.admitted([3].into_iter());
        assert_eq!((order.passed(0), order.passed_before(3)), (4, 1));
    }

    #[test]
    fn as_counted_one_by_one() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut order = Overtaking::default();
        let (mut waiting, mut running) = (Vec::<u64>::new(), Vec::<u64>::new());
        let mut passed: Vec<u64> = Vec::new();
        for _ in 0..3_000 {
            for _ in 0..rng.random_range(0..3) {
                waiting.push(passed.len() as u64);
                passed.push(0);
                order.arrived();
            }
            let count = rng.random_range(0..3);
            let enter: Vec<u64> = waiting.sample(&mut rng, count).copied().collect();
            waiting.retain(|id| !enter.contains(id));
            for &id in &waiting {
                passed[id as usize] += enter.iter().filter(|&&other| other > id).count() as u64;
            }
            order.admitted(enter.iter().copied());
            for &id in &enter {
                assert_eq!(order.passed_before(id), passed[id as usize]);
            }
            running.extend(enter);
            if rng.random_range(0..4) == 0 && !running.is_empty() {
                let id = running.swap_remove(rng.random_range(0..running.len()));
                order.waits_again(id);
                waiting.push(id);
            }
            for &id in &waiting {
                assert_eq!(order.passed(id), passed[id as usize]);
            }
        }
        assert!(passed.iter().any(|&count| count > 100), "somebody is passed often");
    }
}
