//! How long requests live, learned from those that run as well as from those that have ended.
//!
//! Early ends are the short ones: a mean over them is too small for as long as the first long request lives.
//! So each age is looked at by itself. Of all tokens that were generated at an age, how many were the last?
//! That is the *hazard* of the age, and a request that still runs is a witness for every age that it has
//! passed. Lengths follow from it: `S(a) = prod (1 - h)` is the chance to pass an age, and the mean length is
//! the sum of `S` over all ages (Kaplan and Meier's estimate, by ages of like length).
//!
//! The past fades: with every end beyond a window all that was seen weighs a little less, ends and tokens
//! alike, each by when it was seen. There are two windows. The long one is precise. When the short one comes
//! to another mean than chance explains, traffic has changed, and the long one begins anew from the short
//! one, for as long as requests of before may still end.
//!
//! Until as many have ended as may run at once, nobody has seen the whole of a life, and what the estimate
//! adds beyond the oldest age is a guess. A completion then frees what *early* ends free, and balance is lost
//! by the guess (measured on cold starts: 24k instead of 11k tokens of imbalance). So the mean is at most
//! twice the mean age of those who run, or the mean of those who have ended, until then.
//!
//! Only sums, products, quotients and roots of f64 in a fixed order: IEEE 754 fixes their every bit, Rust
//! fuses none, and no function of a mathematical library is called. So all machines learn the same.

/// Ages below this have a bin each.
const EXACT: u32 = 16;
/// Bins of each octave above.
const PER_OCTAVE: u32 = 8;
const OCTAVE_BITS: u32 = PER_OCTAVE.trailing_zeros();
/// Longer lives than any that is valid fall into the last bin.
const MOST_TOKENS: u32 = 1 << 22;
const BINS: usize = EXACT as usize + (PER_OCTAVE * (MOST_TOKENS.trailing_zeros() - 4)) as usize;
/// The oldest ends that are pooled, where there are as many.
const LEAST_ENDS: f64 = 8.0;
/// Ends that the long window holds, at least.
const LONG: u64 = 1024;
/// Ends that the short window holds, at least.
const SHORT: u64 = 16;
/// Standard errors of the short window's mean that chance is taken to explain.
const ERRORS: f64 = 3.0;
/// Those who run are looked at once in 16 to 128 steps.
const LEAST_LOOK_EXPONENT: u32 = 4;
const MOST_LOOK_EXPONENT: u32 = 7;
/// The spread of lengths, as a part of their mean, below which nobody is believed: bins are coarse.
const LEAST_SPREAD: f64 = 0.5;

/// What one window holds, per bin of ages.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Seen {
    ends: Vec<f64>,
    tokens: Vec<f64>,
    /// The sum of `ends`, and what it may be at most.
    weight: f64,
    window: f64,
    hazards: Vec<f64>,
    mean_tokens: f64,
    spread_tokens: f64,
}

/// Ages, when requests end, and what follows.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct Lifetimes {
    long: Seen,
    short: Seen,
    /// Ends since the beginning, and until when the long window follows the short one.
    known: u64,
    follows_until: u64,
    /// The sum of all lengths of these.
    known_tokens: f64,
    slots: u64,
    mean_age_tokens: f64,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self::new()
    }
}

fn bin_of(age: u32) -> usize {
    let age = age.min(MOST_TOKENS - 1);
    if age < EXACT {
        return age as usize;
    }
    let octave = 31 - age.leading_zeros();
    let within = (age >> (octave - OCTAVE_BITS)) & (PER_OCTAVE - 1);
    (EXACT + (octave - 4) * PER_OCTAVE + within) as usize
}

/// First age of a bin, and how many it has.
fn ages_of(bin: usize) -> (u32, u32) {
    let bin = bin as u32;
    if bin < EXACT {
        return (bin, 1);
    }
    let (octave, within) = ((bin - EXACT) / PER_OCTAVE, (bin - EXACT) % PER_OCTAVE);
    let width = 1 << (octave + 4 - OCTAVE_BITS);
    ((PER_OCTAVE + within) * width, width)
}

/// `base^exponent` by squaring, in an order of its own.
fn power(mut base: f64, mut exponent: u32) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}

impl Seen {
    fn new() -> Self {
        let nothing = || vec![0.0; BINS];
        Self {
            ends: nothing(),
            tokens: nothing(),
            weight: 0.0,
            window: 1.0,
            hazards: nothing(),
            mean_tokens: 0.0,
            spread_tokens: 0.0,
        }
    }

    fn clone_what_was_seen(&mut self, other: &Self) {
        self.ends.copy_from_slice(&other.ends);
        self.tokens.copy_from_slice(&other.tokens);
        self.weight = other.weight;
    }

    fn sum(&mut self) {
        if self.weight > self.window {
            let share = self.window / self.weight;
            self.ends.iter_mut().chain(&mut self.tokens).for_each(|of| *of *= share);
            self.weight = self.window;
        }
        // The oldest ends are few: they are pooled, and stand for the ages which nobody has reached.
        let (mut ends, mut tokens, mut tail) = (0.0, 0.0, BINS);
        while tail > 0 && ends < LEAST_ENDS {
            tail -= 1;
            ends += self.ends[tail];
            tokens += self.tokens[tail];
        }
        // An end without its tokens is a caller's slip: it is no more than certain.
        let hazard_of = |ends: f64, tokens: f64| (ends / tokens).min(1.0);
        let mut hazard = if tokens > 0.0 { hazard_of(ends, tokens) } else { 0.0 };
        self.hazards[tail..].fill(hazard);
        for bin in (0..tail).rev() {
            // An age at which nobody was seen is like the next one.
            if self.tokens[bin] > 0.0 {
                hazard = hazard_of(self.ends[bin], self.tokens[bin]);
            }
            self.hazards[bin] = hazard;
        }
        (self.mean_tokens, self.spread_tokens) =
            if self.weight > 0.0 { moments(&self.hazards) } else { (0.0, 0.0) };
    }
}

/// Mean and standard deviation of the lengths that these hazards make.
fn moments(hazards: &[f64]) -> (f64, f64) {
    let (mut mean, mut square, mut alive) = (0.0, 0.0, 1.0);
    for (bin, &hazard) in hazards.iter().enumerate() {
        let (first, width) = ages_of(bin);
        let (pass, mut part) = (power(1.0 - hazard, width), f64::from(width));
        if hazard > 0.0 {
            part = (1.0 - pass) / hazard;
        }
        mean += alive * part;
        // E[o^2] = sum (2 a + 1) S(a), each bin taken in its middle.
        square += alive * part * (f64::from(2 * first) + part);
        alive *= pass;
        if alive < 1e-12 {
            break;
        }
    }
    (mean, (square - mean * mean).max(0.0).sqrt())
}

impl Lifetimes {
    /// Knows nothing.
    #[must_use]
    pub fn new() -> Self {
        let mut lives = Self {
            long: Seen::new(),
            short: Seen::new(),
            known: 0,
            follows_until: 0,
            known_tokens: 0.0,
            slots: 0,
            mean_age_tokens: 0.0,
        };
        lives.set_slots(0);
        lives
    }

    /// Sets how many requests may run at once. A quarter of them are the short window, so that eight of
    /// those have passed when twice as many have ended.
    pub fn set_slots(&mut self, slots: u64) {
        self.slots = slots;
        self.long.window = LONG.max(slots) as f64;
        self.short.window = (slots / 4).clamp(SHORT, LONG) as f64;
    }

    /// A request was seen to generate its tokens `from` up to, and without, `to`.
    pub fn lived(&mut self, from: u32, to: u32) {
        let (mut at, to) = (from.min(MOST_TOKENS), to.min(MOST_TOKENS));
        let exact = to.min(EXACT);
        if at < exact {
            for seen in [&mut self.long, &mut self.short] {
                seen.tokens[at as usize..exact as usize].iter_mut().for_each(|tokens| *tokens += 1.0);
            }
            at = exact;
        }
        if at >= to {
            return;
        }
        // Mostly the last bin is the first: whoever is old has long been of its ages.
        let last = bin_of(to - 1);
        for bin in bin_of(at)..=last {
            let (first, width) = ages_of(bin);
            let tokens = f64::from(to.min(first + width) - at);
            self.long.tokens[bin] += tokens;
            self.short.tokens[bin] += tokens;
            at = first + width;
        }
    }

    /// A request ended after so many tokens; that it generated them is for [`Lifetimes::lived`] to say. One
    /// without a token tells nothing.
    pub fn ended(&mut self, output_tokens: u32) {
        if output_tokens == 0 {
            return;
        }
        for seen in [&mut self.long, &mut self.short] {
            seen.ends[bin_of(output_tokens - 1)] += 1.0;
            seen.weight += 1.0;
        }
        self.known += 1;
        self.known_tokens += f64::from(output_tokens.min(MOST_TOKENS));
    }

    /// Sets the mean age of those who run now.
    pub fn set_mean_age(&mut self, tokens: f64) {
        self.mean_age_tokens = tokens;
    }

    /// Works out what follows from what was seen.
    pub fn sum(&mut self) {
        self.short.sum();
        self.long.sum();
        let off = (self.long.mean_tokens - self.short.mean_tokens).abs();
        let spread = self.long.spread_tokens.max(LEAST_SPREAD * self.long.mean_tokens);
        let error = spread / self.short.weight.max(1.0).sqrt();
        if off > ERRORS * error && self.long.weight > self.short.weight {
            self.follows_until = self.known + 2 * self.slots;
        }
        if self.known < self.follows_until {
            self.long.clone_what_was_seen(&self.short);
            self.long.sum();
        }
    }

    /// Numbers of [`Lifetimes::state`].
    pub(crate) const STATE: usize = 5 + 4 * BINS;

    /// All that was learned, as numbers that are not below zero.
    pub(crate) fn state(&self) -> impl Iterator<Item = f64> + '_ {
        let bins = [&self.long.ends, &self.long.tokens, &self.short.ends, &self.short.tokens];
        let follows = self.follows_until.saturating_sub(self.known);
        [self.known as f64, self.known_tokens, follows as f64, self.long.weight, self.short.weight]
            .into_iter()
            .chain(bins.into_iter().flatten().copied())
    }

    /// From the numbers of [`Lifetimes::state`]: [`Lifetimes::STATE`] of them.
    pub(crate) fn from_state(state: &[f64]) -> Self {
        let mut lives = Self::new();
        let [known, known_tokens, follows, of_long, of_short, bins @ ..] = state else { return lives };
        lives.known = *known as u64;
        lives.known_tokens = *known_tokens;
        lives.follows_until = lives.known + *follows as u64;
        for (at, seen) in [&mut lives.long, &mut lives.short].into_iter().enumerate() {
            for (to, from) in seen.ends.iter_mut().chain(&mut seen.tokens).zip(&bins[at * 2 * BINS..]) {
                *to = *from;
            }
        }
        (lives.long.weight, lives.short.weight) = (*of_long, *of_short);
        lives
    }

    /// Those who run are looked at once in two to the power of this many steps: about a sixteenth of a mean
    /// life, 16 to 128.
    pub(crate) fn look_exponent(&self) -> u32 {
        let least = LEAST_LOOK_EXPONENT;
        (self.mean_tokens() as u64 >> least).max(1).ilog2().clamp(least, MOST_LOOK_EXPONENT)
    }

    /// The mean length in tokens, as of the last [`Lifetimes::sum`]; zero while nobody has ended.
    #[must_use]
    pub fn mean_tokens(&self) -> f64 {
        if self.known == 0 || self.known >= self.slots {
            return self.long.mean_tokens;
        }
        let seen = (self.known_tokens / self.known as f64).max(2.0 * self.mean_age_tokens);
        self.long.mean_tokens.min(seen)
    }

    /// The chance that a request of this age, in tokens generated, ends with its next token, as of the last
    /// [`Lifetimes::sum`]. Ages beyond the oldest end have that of the last few ends; zero while nobody has
    /// ended.
    #[must_use]
    pub fn hazard(&self, age_tokens: u32) -> f64 {
        self.long.hazards[bin_of(age_tokens)]
    }

    /// How many requests have ended.
    #[must_use]
    pub fn known(&self) -> u64 {
        self.known
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;

    /// A cluster whose slots are never empty: outputs come from a fixed list.
    struct Cluster {
        ages: Vec<(u32, u32)>,
        began: u32,
        step: u32,
        ended: u64,
        lives: Lifetimes,
    }

    impl Cluster {
        fn new(slots: u64) -> Self {
            let mut lives = Lifetimes::new();
            lives.set_slots(slots);
            Self { ages: vec![(0, 0); slots as usize], began: 0, step: 0, ended: 0, lives }
        }

        /// Until so many more have ended; the mean that is known then.
        fn run(&mut self, ends: u64, output: impl Fn(u32) -> u32) -> f64 {
            let until = self.ended + ends;
            while self.ended < until {
                self.step += 1;
                for (age, length) in &mut self.ages {
                    if *length == 0 {
                        *length = output(self.began);
                        self.began += 1;
                    }
                    *age += 1;
                    if age == length {
                        self.lives.lived((*age - 1) / 16 * 16, *age);
                        self.lives.ended(*age);
                        self.ended += 1;
                        (*age, *length) = (0, 0);
                    } else if *age % 16 == 0 {
                        self.lives.lived(*age - 16, *age);
                    }
                }
                if self.step.is_multiple_of(16) {
                    let ages: u32 = self.ages.iter().map(|&(age, _)| age).sum();
                    self.lives.set_mean_age(f64::from(ages) / self.ages.len() as f64);
                    self.lives.sum();
                }
            }
            self.lives.sum();
            self.lives.mean_tokens()
        }
    }

    const CONSTANT: fn(u32) -> u32 = |_| 300;
    const UNIFORM: fn(u32) -> u32 = |at| 1 + at * 7919 % 600;
    /// Exponential of mean 300, by its quantiles.
    const MEMORYLESS: fn(u32) -> u32 =
        |at| (1.0 - 300.0 * (1.0 - (f64::from(at * 7919 % 997) + 0.5) / 997.0).ln()) as u32;

    #[test]
    fn bins_tile_all_ages() {
        let mut last = 0;
        for age in (0..200_000).chain([MOST_TOKENS - 1, MOST_TOKENS, u32::MAX]) {
            let bin = bin_of(age);
            let (first, width) = ages_of(bin);
            assert!(first <= age && (age < first + width || age >= MOST_TOKENS), "{age}");
            assert!(bin == last || bin == last + 1 || age >= 200_000);
            last = bin;
        }
        assert_eq!(last, BINS - 1);
    }

    #[test]
    fn hazards_are_ends_over_tokens() {
        let mut lives = Lifetimes::new();
        assert_eq!((lives.mean_tokens(), lives.hazard(5)), (0.0, 0.0));
        // 90 of length 4, 10 of length 12.
        for (count, length) in [(90, 4), (10, 12)] {
            for _ in 0..count {
                lives.lived(0, length);
                lives.ended(length);
            }
        }
        lives.sum();
        assert_eq!([2, 3, 4, 11].map(|age| lives.hazard(age)), [0.0, 0.9, 0.0, 1.0]);
        // Nobody has been older, and the oldest are taken for those.
        assert_eq!(lives.hazard(1_000_000), 1.0);
        assert_relative_eq!(lives.mean_tokens(), 0.9 * 4.0 + 0.1 * 12.0, max_relative = 1e-12);
        // A hundred that still run have passed the age at which most end.
        (0..100).for_each(|_| lives.lived(0, 6));
        lives.sum();
        assert_relative_eq!(lives.hazard(3), 0.45, max_relative = 1e-12);
        assert_relative_eq!(lives.mean_tokens(), 0.45 * 4.0 + 0.55 * 12.0, max_relative = 1e-12);
    }

    #[test]
    fn those_who_run_are_counted_while_few_have_ended() {
        for (output, slots) in [(UNIFORM, 576), (MEMORYLESS, 576), (MEMORYLESS, 64)] {
            let mut cluster = Cluster::new(slots);
            let found = cluster.run(slots / 4, output);
            let of_ended = cluster.lives.known_tokens / cluster.lives.known as f64;
            assert!(found > 1.5 * of_ended && found < 390.0, "{found} {of_ended}");
            assert_relative_eq!(cluster.run(slots, output), 300.0, max_relative = 0.2);
        }
    }

    #[test]
    fn after_lengths_have_doubled_the_mean_has_once_twice_as_many_have_ended_as_run() {
        for slots in [64, 576, 2048] {
            for (output, off) in [(CONSTANT, 0.1), (UNIFORM, 0.1), (MEMORYLESS, 0.15)] {
                // Of 64, too few end to tell this from chance.
                if slots == 64 && off > 0.1 {
                    continue;
                }
                let mut cluster = Cluster::new(slots);
                assert_relative_eq!(cluster.run(8 * slots, output), 300.0, max_relative = 0.08);
                let found = cluster.run(2 * slots, |at| 2 * output(at));
                assert_relative_eq!(found, 600.0, max_relative = off);
            }
        }
    }

    #[test]
    fn what_chance_explains_changes_nothing() {
        let mut cluster = Cluster::new(576);
        cluster.run(4 * 576, MEMORYLESS);
        for _ in 0..40 {
            assert_relative_eq!(cluster.run(288, MEMORYLESS), 300.0, max_relative = 0.1);
        }
    }
}
