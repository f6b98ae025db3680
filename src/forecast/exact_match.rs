//! ExactMatch: output lengths per prompt hash, falling back to survival.

use std::collections::{BTreeMap, HashMap};

use crate::forecast::{Running, Survival, Termination, TerminationClassifier};

/// Output lengths remembered per prompt hash: the latest ones.
const LENGTHS_PER_HASH: usize = 8;

/// Past lengths know an end when they differ by at most this share of what remains: peak levelling gains from
/// errors up to there and loses past it (measured with noisy oracles).
const AGREEMENT: f64 = 0.3;

#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Known {
    lengths: [u32; LENGTHS_PER_HASH],
    count: usize,
    used: u64,
}

/// Repeats of a prompt are predicted from their own past lengths, everything else by [`Survival`].
#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct ExactMatch {
    survival: Survival,
    #[cfg_attr(feature = "record", serde(serialize_with = "crate::bytes::keyed::keys"))]
    known: HashMap<u64, Known>,
    #[cfg_attr(feature = "record", serde(serialize_with = "crate::bytes::keyed::values"))]
    by_use: BTreeMap<u64, u64>,
    clock: u64,
    most_hashes: usize,
}

impl Default for ExactMatch {
    fn default() -> Self {
        Self::new()
    }
}

impl ExactMatch {
    /// Remembers up to 65,536 prompt hashes (about 5 MB).
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(1 << 16)
    }

    /// Remembers up to `most_hashes` prompt hashes (at least one); the least recently finished goes first.
    #[must_use]
    pub fn with_capacity(most_hashes: usize) -> Self {
        Self {
            survival: Survival::new(),
            known: HashMap::new(),
            by_use: BTreeMap::new(),
            clock: 0,
            most_hashes: most_hashes.max(1),
        }
    }

    /// Lengths of the same prompt that the request has not yet outlived.
    fn longer_than_now(&self, request: &Running) -> impl Iterator<Item = u32> {
        let known = request.prompt_hash.and_then(|hash| self.known.get(&hash));
        let lengths = known.map_or(&[][..], |known| &known.lengths[..known.count]);
        let age = request.generated_tokens;
        lengths.iter().copied().filter(move |&length| length > age)
    }

    /// Number of prompt hashes remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether no prompt hash is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

impl TerminationClassifier for ExactMatch {
    fn predict(&mut self, request: &Running, horizon_steps: u32) -> Termination {
        let age = request.generated_tokens;
        let (mut alive, mut soon, mut remaining) = (0u32, 0u32, 0.0);
        for length in self.longer_than_now(request) {
            alive += 1;
            if length - age <= horizon_steps {
                soon += 1;
                remaining += f64::from(length - age);
            }
        }
        match (alive, soon) {
            (0, _) => self.survival.predict(request, horizon_steps),
            (_, 0) => Termination::NEVER,
            _ => Termination {
                probability: f64::from(soon) / f64::from(alive),
                remaining_steps: remaining / f64::from(soon),
            },
        }
    }

    fn end_in(&mut self, request: &Running, horizon_steps: u32) -> Option<u32> {
        let (count, sum, squares) =
            self.longer_than_now(request).fold((0.0, 0.0, 0.0), |(count, sum, squares), length| {
                let remaining = f64::from(length - request.generated_tokens);
                (count + 1.0, sum + remaining, squares + remaining * remaining)
            });
        // One length says nothing about how much the next may differ.
        if count < 2.0 {
            return None;
        }
        let mean: f64 = sum / count;
        let spread = (squares / count - mean * mean).max(0.0).sqrt();
        let known = spread <= AGREEMENT * mean && mean <= f64::from(horizon_steps);
        known.then(|| mean.round().max(1.0) as u32)
    }

    fn finished(&mut self, request: &Running) {
        self.survival.finished(request);
        let Some(hash) = request.prompt_hash else { return };
        self.clock += 1;
        let known = self.known.entry(hash).or_default();
        if known.count > 0 {
            self.by_use.remove(&known.used);
        }
        known.lengths.rotate_right(1);
        known.lengths[0] = request.generated_tokens;
        known.count = (known.count + 1).min(LENGTHS_PER_HASH);
        known.used = self.clock;
        self.by_use.insert(self.clock, hash);
        if self.known.len() > self.most_hashes
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.known.remove(&oldest);
        }
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

    fn request(prompt_hash: Option<u64>, generated_tokens: u32) -> Running {
        Running { id: 0.into(), prompt_tokens: 1, prompt_hash, generated_tokens }
    }

    #[test]
    fn a_known_prompt_is_predicted_from_its_own_lengths() {
        let mut forecast = ExactMatch::new();
        for length in [100, 110, 900] {
            forecast.finished(&request(Some(7), length));
        }
        let found = forecast.predict(&request(Some(7), 90), 32);
        assert_abs_diff_eq!(found.probability, 2.0 / 3.0, epsilon = 1e-12);
        assert_eq!(found.remaining_steps, 15.0);
        assert_eq!(forecast.predict(&request(Some(7), 200), 32), Termination::NEVER);
    }

    #[test]
    fn everything_else_falls_back_to_survival() {
        let mut forecast = ExactMatch::new();
        (0..50).for_each(|_| forecast.finished(&request(None, 40)));
        forecast.finished(&request(Some(7), 10));
        for unknown in [request(None, 30), request(Some(8), 30), request(Some(7), 30)] {
            assert_eq!(forecast.predict(&unknown, 20).probability, 1.0, "{unknown:?}");
        }
    }

    #[test]
    fn an_end_is_known_where_past_lengths_agree() {
        let mut forecast = ExactMatch::new();
        forecast.finished(&request(Some(7), 1000));
        assert_eq!(forecast.end_in(&request(Some(7), 900), 512), None);
        forecast.finished(&request(Some(7), 1010));
        assert_eq!(forecast.end_in(&request(Some(7), 900), 512), Some(105));
        assert_eq!(forecast.end_in(&request(Some(7), 100), 512), None);
        forecast.finished(&request(Some(7), 1400));
        assert_eq!(forecast.end_in(&request(Some(7), 900), 512), None);
        assert_eq!(forecast.end_in(&request(None, 900), 512), None);
    }

    #[test]
    fn memory_is_bounded_and_the_least_recent_goes() {
        let mut forecast = ExactMatch::with_capacity(3);
        for hash in [1, 2, 3, 1, 4] {
            forecast.finished(&request(Some(hash), 5));
        }
        assert_eq!(forecast.len(), 3);
        assert!(forecast.known.contains_key(&1) && !forecast.known.contains_key(&2));
        (0..100).for_each(|_| forecast.finished(&request(Some(1), 5)));
        assert_eq!(forecast.by_use.len(), 3);
    }
}
