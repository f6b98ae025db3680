//! What an admission leaves free for the growth of those who run.
//!
//! Either a fixed number of tokens for each ([`RouterConfig::headroom_steps`]), or what
//! [`crate::forecast::ruin`] finds for all of a worker together. That is worked out anew as those who run
//! grow older, by a token each in the mean: for a worker where somebody has come or gone since, and for every
//! worker each 16 such steps. A worker whose free slots leave more than the most room, whoever enters them,
//! turns nobody away for the want of it: there it is made anew each 128 only. It counts one request more than
//! are there, of the mean length, for whoever is admitted; where a step admits several to one worker, the
//! room is that of the first of them.
//!
//! [`RouterConfig::headroom_steps`]: crate::RouterConfig::headroom_steps

use crate::account::running::Slab;
use crate::account::worker::Account;
use crate::account::{PreemptionCost, WorkerConfig};
use crate::forecast::Lifetimes;
use crate::forecast::ruin::{Lives, ln};

/// Room is made anew once in two to the power of this many steps, since requests are older, where nobody
/// comes or goes.
const REFRESH_EXPONENT: u32 = 4;
/// And where room turns nobody away.
const ROOMY_EXPONENT: u32 = 7;
/// Room is in parts of so many tokens.
const ROUND_TO: u64 = 64;
/// Of the room that ruin asks for, this part is enough: its odds are a bound from above.
const PART: f64 = 0.7;
/// The odds of a preemption after an admission where its cost is not known, and between which they are.
const ODDS: f64 = 0.02;
const LEAST_ODDS: f64 = 1e-4;
const MOST_ODDS: f64 = 0.5;

/// The most that is left free of a cache.
pub(super) fn most_room(capacity_tokens: u64) -> u64 {
    capacity_tokens * WorkerConfig::MOST_GROWTH_PERCENT / 100
}

/// What room is made by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outlook<'a> {
    pub lives: &'a Lifetimes,
    /// How long an arriving request is, in the mean.
    pub mean_prompt_tokens: f64,
    pub cost: Option<PreemptionCost>,
    pub workers: usize,
}

impl Outlook<'_> {
    /// The odds of a preemption that are worth their room, with so many requests of this mean length on a
    /// worker.
    fn odds(&self, capacity_tokens: u64, requests: f64, mean_tokens: f64, exponent: f64) -> f64 {
        let Some(PreemptionCost { step_base_ms, prefill_us_per_token }) = self.cost else { return ODDS };
        let admissions = requests / self.lives.mean_tokens().max(1.0);
        let room = 1e3 * step_base_ms / capacity_tokens.max(1) as f64;
        let preemption = self.workers as f64 * admissions * prefill_us_per_token * mean_tokens * exponent;
        // What costs nothing may happen at any time.
        if preemption > 0.0 { (room / preemption).clamp(LEAST_ODDS, MOST_ODDS) } else { MOST_ODDS }
    }
}

impl Account {
    /// KV tokens to leave free: for ours, those who were preempted and come back without being sent among
    /// them, and for all who are there.
    pub(super) fn growth_tokens(&self, capacity_tokens: u64) -> (i64, i64) {
        let preempted_tokens = self.preempted_tokens() as i64;
        match self.rules.headroom_tokens {
            Some(headroom_tokens) => {
                let own = self.own.growth_tokens
                    + self.held.growth_tokens
                    + self.preempted.growth_tokens
                    + preempted_tokens;
                (own, own + i64::from(self.foreign_requests) * i64::from(headroom_tokens))
            }
            None => {
                let room = self.room_tokens.min(most_room(capacity_tokens));
                (self.rules.share.part(room) as i64 + preempted_tokens, room as i64 + preempted_tokens)
            }
        }
    }

    /// Room is to be made anew with the next step.
    pub(crate) fn remake_room(&mut self) {
        (self.stale, self.made) = (true, false);
    }

    /// Whether room is to be made anew as those who run live on by these steps, where nobody who comes is
    /// longer than `longest_tokens`.
    pub(crate) fn wants_room(&self, from_step: i64, to_step: i64, longest_tokens: u64) -> bool {
        let Some(capacity_tokens) = self.capacity_tokens else { return false };
        let has_turn = |exponent| self.has_turn(exponent, from_step, to_step);
        (self.stale || has_turn(REFRESH_EXPONENT))
            && (!self.made || has_turn(ROOMY_EXPONENT) || !self.is_roomy(capacity_tokens, longest_tokens))
    }

    /// Whether all free slots may be filled and the most room is left all the same. Of several front ends
    /// each has less than that.
    fn is_roomy(&self, capacity_tokens: u64, longest_tokens: u64) -> bool {
        let counted = self.running().saturating_add(self.foreign_requests);
        let open = u64::from(self.whole_slots.saturating_sub(counted));
        let filled = self.load_tokens().saturating_add(open.saturating_mul(longest_tokens));
        self.rules.share.of == 1 && filled.saturating_add(most_room(capacity_tokens)) <= capacity_tokens
    }

    /// Finds what to leave free for the growth of all who are there; `ends_in` tells in how many steps a
    /// request ends, if that is known. Whether it is another figure than before. Requests of other front ends
    /// are taken to be like ours: the room does not depend on how many they are.
    pub(crate) fn make_room(
        &mut self,
        slab: &Slab,
        outlook: &Outlook<'_>,
        ends_in: impl Fn(u32) -> Option<u32>,
        scratch: &mut Lives,
    ) -> bool {
        (self.stale, self.made) = (false, outlook.lives.known() > 0);
        let found = self.find_room(slab, outlook, ends_in, scratch).unwrap_or(u64::MAX);
        std::mem::replace(&mut self.room_tokens, found) != found
    }

    /// None where nothing is learned yet, or no room is enough.
    fn find_room(
        &self,
        slab: &Slab,
        outlook: &Outlook<'_>,
        ends_in: impl Fn(u32) -> Option<u32>,
        scratch: &mut Lives,
    ) -> Option<u64> {
        let capacity_tokens = self.capacity_tokens?;
        if outlook.lives.known() == 0 {
            return None;
        }
        scratch.clear(self.members.capacity());
        for &index in &self.members {
            let active = &slab.entries[index as usize];
            let age = self.generated_tokens(active);
            // Whoever ends after so many tokens at the latest ends once in so many.
            let left = active.request.max_tokens.map(|most| most.saturating_sub(age));
            let left =
                [left, ends_in(index)].into_iter().flatten().min().map_or(0.0, |left| f64::from(left.max(1)));
            let hazard = outlook.lives.hazard(age);
            let hazard = if left * hazard < 1.0 && left > 0.0 { 1.0 / left } else { hazard };
            scratch.push(hazard, self.tokens_of(active) as f64);
        }
        scratch.push(outlook.lives.hazard(0), outlook.mean_prompt_tokens);
        let requests = scratch.len() as f64;
        let mean_tokens = scratch.mean_tokens();
        // Where requests share, one that ends frees less than its length: all climb faster by that.
        let lengths = self.decoding_tokens() as f64;
        let held = lengths + self.correction_tokens.min(0) as f64;
        let shares = if lengths > 0.0 { (held / lengths).max(0.0) } else { 1.0 };
        let most = most_room(capacity_tokens) as f64;
        // Room is never less than with the greatest odds.
        let least = PART * std::f64::consts::LN_2 / most;
        let exponent = scratch.exponent(requests / shares, least * shares)? / shares;
        let odds = outlook.odds(capacity_tokens, requests, mean_tokens, exponent);
        let tokens = (PART * -ln(odds) / exponent).min(most) as u64;
        Some((tokens + 1).div_ceil(ROUND_TO) * ROUND_TO)
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;
    use crate::account::running::{Active, Stage};
    use crate::account::{Rules, Share};
    use crate::batch::Request;
    use crate::ids::WorkerId;

    const CAPACITY: u64 = 250_000;

    /// A worker with requests of these prompts and ages, which may generate so many tokens in all.
    fn worker(requests: &[(u32, u32, Option<u32>)]) -> (Account, Slab) {
        let rules = Rules { share: Share::WHOLE, headroom_tokens: None, in_order: false };
        let config = WorkerConfig::new(256).capacity(CAPACITY);
        let (mut account, mut slab) = (Account::new(WorkerId(0), &config, rules, 1_000), Slab::default());
        for (id, &(prompt, age, most)) in (0..).zip(requests) {
            let request = Request::new(id, prompt).max_tokens(most);
            let born = account.grown_tokens - i64::from(age);
            let index = slab.insert(Active::new(request, WorkerId(0), born, 0, (0, 0)));
            account.begin(&mut slab, index, None);
        }
        (account, slab)
    }

    fn outlook(lives: &Lifetimes) -> Outlook<'_> {
        Outlook { lives, mean_prompt_tokens: 3_000.0, cost: None, workers: 8 }
    }

    fn room(requests: &[(u32, u32, Option<u32>)], outlook: &Outlook<'_>) -> u64 {
        let (mut account, slab) = worker(requests);
        account.make_room(&slab, outlook, |_| None, &mut Lives::default());
        account.growth_tokens(CAPACITY).1 as u64
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u32) -> u32 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) as u32 % bound
        }

        fn lives(&mut self, mean: u32) -> Lifetimes {
            let mut lives = Lifetimes::new();
            for _ in 0..400 {
                let output = 1 + self.below(mean) + self.below(mean);
                lives.lived(0, output);
                lives.ended(output);
            }
            lives.sum();
            lives
        }

        fn requests(&mut self, mean: u32, limits: bool) -> Vec<(u32, u32, Option<u32>)> {
            let one = |random: &mut Self| {
                let (prompt, age) = (1 + random.below(6_000), random.below(2 * mean));
                (prompt, age, (limits && random.below(3) == 0).then(|| age + random.below(mean)))
            };
            (0..1 + self.below(120)).map(|_| one(self)).collect()
        }
    }

    /// The room as the text has it, with the library's functions and by halving.
    fn plain(requests: &[(u32, u32, Option<u32>)], outlook: &Outlook<'_>) -> f64 {
        let cap = 0.06 * CAPACITY as f64;
        let mut terms: Vec<(f64, f64)> = requests
            .iter()
            .map(|&(prompt, age, most)| {
                let left = most.map_or(f64::INFINITY, |most| f64::from(most.saturating_sub(age).max(1)));
                (outlook.lives.hazard(age).max(1.0 / left), f64::from(prompt + age))
            })
            .collect();
        terms.push((outlook.lives.hazard(0), outlook.mean_prompt_tokens));
        let n = terms.len() as f64;
        let falls = |at: f64| terms.iter().map(|(h, size)| h * (1.0 - (-at * size).exp())).sum::<f64>();
        let (mut low, mut high) = (1e-9, 10.0);
        if falls(low) <= n * low {
            return cap;
        }
        for _ in 0..100 {
            let middle = (low + high) / 2.0;
            if falls(middle) > n * middle { low = middle } else { high = middle }
        }
        let size = terms.iter().map(|(_, size)| size).sum::<f64>() / n;
        let odds = outlook.cost.map_or(0.02, |cost| {
            let a = n / outlook.lives.mean_tokens();
            let prefill_ms = cost.prefill_us_per_token * 1e-3 * size;
            let room_ms = cost.step_base_ms / CAPACITY as f64;
            (room_ms / (outlook.workers as f64 * a * prefill_ms * low)).clamp(1e-4, 0.5)
        });
        (0.7 * (1.0 / odds).ln() / low).min(cap)
    }

    #[test]
    fn room_is_that_of_the_plain_formula() {
        let mut random = Random(7);
        let (mut capped, mut less) = (0, 0);
        for round in 0..400 {
            let mean = 100 + random.below(if round % 5 == 0 { 60_000 } else { 1_500 });
            let lives = random.lives(mean);
            let cost = [None, Some(PreemptionCost::new(4.9, 10.0)), Some(PreemptionCost::new(4.9, 2.0))];
            let outlook = Outlook { cost: cost[round % 3], ..outlook(&lives) };
            let requests = random.requests(mean, round % 2 == 0);
            let (found, expected) = (room(&requests, &outlook) as f64, plain(&requests, &outlook));
            if expected < 14_900.0 {
                less += 1;
                assert!(found >= 0.998 * expected && found <= 1.002 * expected + 64.0, "{found} {expected}");
            } else {
                capped += 1;
                assert!(found > 14_800.0 && found <= 15_000.0, "{found} {expected}");
            }
        }
        assert!(capped > 30 && less > 150, "{capped} {less}");
    }

    #[test]
    fn until_somebody_has_ended_it_is_the_most() {
        let lives = Lifetimes::new();
        assert_eq!(room(&[(3_000, 500, None); 40], &outlook(&lives)), 15_000);
        assert_eq!(room(&[], &outlook(&lives)), 15_000);
    }

    #[test]
    fn limits_and_known_ends_tighten_it_and_shared_tokens_widen_it() {
        let lives = Random(3).lives(2_000);
        let requests = Random(4).requests(2_000, false);
        let outlook = outlook(&lives);
        let free = room(&requests, &outlook);
        let soon: Vec<_> = requests.iter().map(|&(prompt, age, _)| (prompt, age, Some(age + 50))).collect();
        let limited = room(&soon, &outlook);
        assert!(limited < free / 2, "{limited} {free}");
        let (mut account, slab) = worker(&requests);
        account.make_room(&slab, &outlook, |_| Some(50), &mut Lives::default());
        assert_eq!(account.growth_tokens(CAPACITY).1 as u64, limited);
        // Far limits say nothing.
        let late: Vec<_> =
            requests.iter().map(|&(prompt, age, _)| (prompt, age, Some(age + (1 << 20)))).collect();
        assert_eq!(room(&late, &outlook), free);
        account.correction_tokens = -(account.decoding_tokens() as i64) * 4 / 5;
        account.make_room(&slab, &outlook, |_| None, &mut Lives::default());
        let shared = account.growth_tokens(CAPACITY).1 as u64;
        assert!(10 * shared > 11 * free, "{shared} {free}");
    }

    #[test]
    fn it_depends_on_how_requests_end_and_not_on_how_many_they_are() {
        let lives = Random(5).lives(800);
        let few = Random(6).requests(800, false);
        let many = few.repeat(4);
        let of = |requests: &[_]| room(requests, &outlook(&lives)) as f64;
        // One more is counted than are there.
        assert_relative_eq!(of(&few), of(&many), max_relative = 0.1);
    }

    #[test]
    fn it_is_made_anew_when_somebody_comes_or_goes_and_now_and_then() {
        let (mut account, mut slab) = worker(&[(10, 0, None), (20, 5, None), (30, 9, None)]);
        let lives = Random(1).lives(100);
        let outlook = outlook(&lives);
        let make = |account: &mut Account, slab: &Slab| {
            account.make_room(slab, &outlook, |_| None, &mut Lives::default());
        };
        assert!(account.wants_room(0, 1, CAPACITY));
        make(&mut account, &slab);
        assert!(
            !account.wants_room(0, 1, CAPACITY)
                && account.wants_room(0, 16, CAPACITY)
                && account.wants_room(15, 16, CAPACITY)
        );
        account.end(&mut slab, 0, 0);
        assert!(account.wants_room(0, 1, CAPACITY) && account.members == [2, 1]);
        make(&mut account, &slab);
        account.move_to(&mut slab, 1, Stage::Preempted, 0);
        account.disown(&mut slab, 2);
        assert!(account.wants_room(0, 1, CAPACITY) && account.members == [1]);
        // Somebody who comes back by itself finds its room, beside what all may grow by.
        let kept = account.growth_tokens(CAPACITY).1 - account.room_tokens.min(15_000) as i64;
        assert_eq!(kept, 25);
    }

    #[test]
    fn a_worker_knows_the_ages_and_lives_of_its_requests() {
        let (mut account, mut slab) = worker(&[(3_000, 5, None), (25, 7, Some(9)), (400, 0, None)]);
        let mut lives = Lifetimes::default();
        let aged = |account: &Account, slab: &Slab| -> u64 {
            let generated =
                account.members.iter().map(|&at| account.generated_tokens(&slab.entries[at as usize]));
            generated.map(u64::from).sum()
        };
        assert_eq!((account.age_tokens(), aged(&account, &slab)), (12, 12));
        account.grown_tokens += 20;
        account.look_at_lives(&mut slab, &mut lives);
        account.move_to(&mut slab, 1, Stage::Preempted, 0);
        account.grown_tokens += 4;
        account.look_at_lives(&mut slab, &mut lives);
        assert_eq!((account.age_tokens(), aged(&account, &slab)), (80, 80));
        // By each of two windows once.
        let tokens: f64 = lives.state().skip(5).sum();
        assert_eq!(tokens, 2.0 * 80.0);
        account.end(&mut slab, 0, 0);
        assert_eq!((account.age_tokens(), aged(&account, &slab)), (51, 51));
        account.disown_all();
        assert_eq!(account.age_tokens(), 0);
    }

    #[test]
    fn where_it_turns_nobody_away_it_is_made_less_often() {
        let (mut account, mut slab) = worker(&[(3_000, 50, None); 3]);
        let lives = Random(1).lives(100);
        // 253 slots are free, and all but 9,150 tokens and the most room.
        let (fits, does_not) = (892, 893);
        // Never made before.
        assert!(account.wants_room(0, 1, fits));
        account.make_room(&slab, &outlook(&lives), |_| None, &mut Lives::default());
        assert!(account.room_tokens < 15_000);
        let wants = |account: &Account, from: i64, to: i64| {
            (account.wants_room(from, to, fits), account.wants_room(from, to, does_not))
        };
        assert_eq!(wants(&account, 15, 16), (false, true));
        assert_eq!(wants(&account, 127, 128), (true, true));
        let index =
            slab.insert(Active::new(Request::new(9, 10), WorkerId(0), account.grown_tokens, 0, (0, 0)));
        account.begin(&mut slab, index, None);
        account.end(&mut slab, index, 0);
        assert_eq!(wants(&account, 0, 1), (false, true));
        // A report finds somebody else's tokens there; or another front end may fill them.
        account.correct(1_000);
        assert_eq!(wants(&account, 0, 1), (true, true));
        account.correct(0);
        account.set_rules(Rules { share: Share { index: 0, of: 2 }, ..account.rules });
        assert_eq!(wants(&account, 0, 1), (true, true));
        account.set_rules(Rules { share: Share::WHOLE, ..account.rules });
        // What was learned is another's.
        account.remake_room();
        assert_eq!(wants(&account, 0, 1), (true, true));
    }
}
