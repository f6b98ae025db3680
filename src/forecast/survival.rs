//! Survival: the empirical distribution of output lengths, conditional on the tokens generated so far.
//!
//! With `S(x) = P(O > x)` and age `a`: `p = 1 - S(a+H)/S(a)` and `E[min(r, H)] = sum_{h<H} S(a+h)/S(a)`, from
//! which `mu = (E[min(r, H)] - (1-p) H) / p`.

use crate::forecast::{Running, Termination, TerminationClassifier};

/// Lengths below this have a bucket each; above, 64 buckets per octave (1.6 % wide at most).
const EXACT: u32 = 128;
const PER_OCTAVE: u32 = 64;
const BUCKETS: usize = EXACT as usize + (32 - 7) * PER_OCTAVE as usize;
/// Finished requests between two sums of the table, at most; a sixteenth of what is known at least.
const REFRESH_EVERY: f64 = 64.0;

/// Output lengths seen so far, as a survival function.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct Survival {
    counts: Vec<f64>,
    known: f64,
    /// Weight of a new length; grows where older ones are forgotten.
    weight: f64,
    growth: f64,
    unsummed: f64,
    /// Per bucket edge: lengths at or above it, and the sum of that over all lengths below it.
    at_least: Vec<f64>,
    area: Vec<f64>,
}

impl Default for Survival {
    fn default() -> Self {
        Self::new()
    }
}

fn bucket_of(length: u32) -> usize {
    if length < EXACT {
        return length as usize;
    }
    let octave = 31 - length.leading_zeros();
    let sub = (length >> (octave - 6)) & (PER_OCTAVE - 1);
    (EXACT + (octave - 7) * PER_OCTAVE + sub) as usize
}

/// First length of a bucket, and how many lengths it holds.
fn edge_of(bucket: usize) -> (f64, f64) {
    let bucket = bucket as u32;
    if bucket < EXACT {
        return (f64::from(bucket), 1.0);
    }
    let (octave, sub) = ((bucket - EXACT) / PER_OCTAVE, (bucket - EXACT) % PER_OCTAVE);
    let width = f64::from(2 << octave);
    (f64::from(PER_OCTAVE + sub) * width, width)
}

impl Survival {
    /// Knows nothing yet: predicts that nothing ends. Remembers everything.
    #[must_use]
    pub fn new() -> Self {
        Self {
            counts: vec![0.0; BUCKETS],
            known: 0.0,
            weight: 1.0,
            growth: 1.0,
            unsummed: 0.0,
            at_least: vec![0.0; BUCKETS + 1],
            area: vec![0.0; BUCKETS + 1],
        }
    }

    /// Forgets exponentially: a length weighs half after `half_life` further ones (at least 1).
    #[must_use]
    pub fn forgetting(half_life: u32) -> Self {
        Self { growth: (2f64).powf(1.0 / f64::from(half_life.max(1))), ..Self::new() }
    }

    /// Warm start from known output lengths.
    #[must_use]
    pub fn from_lengths(lengths: &[u32]) -> Self {
        let mut survival = Self::new();
        for &length in lengths {
            survival.add(length);
        }
        survival.sum();
        survival
    }

    /// Learns one output length.
    pub fn add(&mut self, output_tokens: u32) {
        self.counts[bucket_of(output_tokens)] += self.weight;
        self.known += self.weight;
        self.unsummed += self.weight;
        self.weight *= self.growth;
        if self.weight > 1e12 {
            let scale = 1.0 / self.weight;
            self.counts.iter_mut().for_each(|count| *count *= scale);
            self.known *= scale;
            self.weight = 1.0;
            self.sum();
        }
        if self.unsummed >= (self.known / 16.0).min(REFRESH_EVERY * self.weight) {
            self.sum();
        }
    }

    fn sum(&mut self) {
        let mut above = 0.0;
        for bucket in (0..BUCKETS).rev() {
            above += self.counts[bucket];
            self.at_least[bucket] = above;
        }
        let mut area = 0.0;
        for bucket in 0..BUCKETS {
            self.area[bucket] = area;
            let (_, width) = edge_of(bucket);
            let fall = self.counts[bucket] / width;
            area += width * self.at_least[bucket] - fall * width * (width - 1.0) / 2.0;
        }
        self.area[BUCKETS] = area;
        self.unsummed = 0.0;
    }

    /// Weight of lengths at or above `length`, and the sum of that over all shorter ones. Uniform within a
    /// bucket.
    fn tail(&self, length: u32) -> (f64, f64) {
        let bucket = bucket_of(length);
        let (edge, width) = edge_of(bucket);
        let into = f64::from(length) - edge;
        // Read from the sums, so that both parts are of the same moment.
        let fall = (self.at_least[bucket] - self.at_least[bucket + 1]) / width;
        let at_least = self.at_least[bucket] - fall * into;
        let area = self.area[bucket] + into * self.at_least[bucket] - fall * into * (into - 1.0) / 2.0;
        (at_least, area)
    }

    /// The forecast at an age in generated tokens.
    #[must_use]
    pub fn at_age(&self, age_tokens: u32, horizon_steps: u32) -> Termination {
        if horizon_steps == 0 {
            return Termination::NEVER;
        }
        // S(x) = P(O > x) = at_least(x + 1).
        let (now, area_now) = self.tail(age_tokens.saturating_add(1));
        let (then, area_then) = self.tail(age_tokens.saturating_add(1).saturating_add(horizon_steps));
        if now <= self.known * 1e-12 {
            // Nothing known, or older than anything seen.
            return Termination::NEVER;
        }
        let horizon = f64::from(horizon_steps);
        let probability = (1.0 - then / now).clamp(0.0, 1.0);
        if probability <= 1e-12 {
            return Termination::NEVER;
        }
        let expected = ((area_then - area_now) / now).clamp(0.0, horizon);
        let remaining = (expected - (1.0 - probability) * horizon) / probability;
        Termination { probability, remaining_steps: remaining.clamp(1.0, horizon) }
    }

    /// Probabilities that a new request still runs after `0..=horizon` steps: a survival class of a batch.
    #[must_use]
    pub fn class_row(&self, horizon: usize) -> Vec<f32> {
        let (all, _) = self.tail(1);
        (0..=horizon as u32)
            .map(|h| if all > 0.0 { (self.tail(h + 1).0 / all).clamp(0.0, 1.0) as f32 } else { 1.0 })
            .collect()
    }
}

impl TerminationClassifier for Survival {
    fn predict(&mut self, request: &Running, horizon_steps: u32) -> Termination {
        self.at_age(request.generated_tokens, horizon_steps)
    }

    fn end_in(&mut self, _request: &Running, _horizon_steps: u32) -> Option<u32> {
        None
    }

    fn finished(&mut self, request: &Running) {
        self.add(request.generated_tokens);
    }

    #[cfg(feature = "record")]
    fn memory(&self) -> Vec<u8> {
        crate::bytes::to_bytes(self)
    }

    #[cfg(feature = "record")]
    fn recall(&mut self, memory: &[u8]) -> bool {
        crate::bytes::from_bytes(memory).map(|learned| *self = learned).is_some()
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    #[test]
    fn buckets_tile_all_lengths() {
        let mut last = 0;
        for length in (0..200_000).chain([1 << 22, u32::MAX]) {
            let bucket = bucket_of(length);
            let (edge, width) = edge_of(bucket);
            assert!(edge <= f64::from(length) && f64::from(length) < edge + width, "{length}");
            assert!(bucket == last || length >= 200_000 || bucket == last + 1);
            last = bucket;
        }
    }

    #[test]
    fn equals_the_naive_conditional_distribution() {
        let lengths: Vec<u32> = (0..500u32).map(|i| 1 + (i * i) % 119).collect();
        let survival = Survival::from_lengths(&lengths);
        for age in [0u32, 1, 5, 40, 90] {
            for horizon in [1u32, 7, 30] {
                let alive: Vec<u32> = lengths.iter().copied().filter(|&o| o > age).collect();
                let soon: Vec<f64> =
                    alive.iter().filter(|&&o| o <= age + horizon).map(|&o| f64::from(o - age)).collect();
                let found = survival.at_age(age, horizon);
                let probability = soon.len() as f64 / alive.len() as f64;
                assert_abs_diff_eq!(found.probability, probability, epsilon = 1e-9);
                if !soon.is_empty() {
                    let mean = soon.iter().sum::<f64>() / soon.len() as f64;
                    assert_abs_diff_eq!(found.remaining_steps, mean, epsilon = 1e-6);
                }
            }
        }
    }

    #[test]
    fn knows_nothing_at_first_and_nothing_past_the_oldest() {
        assert_eq!(Survival::new().at_age(3, 16), Termination::NEVER);
        let survival = Survival::from_lengths(&[10, 20]);
        assert_eq!(survival.at_age(20, 16), Termination::NEVER);
        assert_eq!(survival.at_age(19, 16).probability, 1.0);
        assert_eq!(survival.at_age(u32::MAX, u32::MAX), Termination::NEVER);
        assert_eq!(survival.class_row(2), vec![1.0, 1.0, 1.0]);
    }

    #[test]
    fn forgetting_follows_a_change() {
        let mut survival = Survival::forgetting(50);
        (0..3000).for_each(|_| survival.add(1000));
        (0..1000).for_each(|_| survival.add(20));
        assert!(survival.at_age(0, 30).probability > 0.99);
    }
}
