//! The oracle of output lengths, exact or with errors of a known kind: for study only.

use std::collections::HashMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::forecast::{Running, Termination, TerminationClassifier};
use crate::ids::RequestId;

/// Errors put on true lengths; each request's errors are drawn from its id and the seed alone.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct Noise {
    /// Sigma of a lognormal factor on the remaining length, 0 for none: a prediction sharpens as the end
    /// comes near.
    pub length_sigma: f64,
    /// Share of ends within the horizon that are seen, 0..=1.
    pub true_positive_rate: f64,
    /// Share of running requests falsely said to end within the horizon, 0..=1; drawn anew each horizon.
    pub false_positive_rate: f64,
    /// Share of requests that are never predicted, 0..=1.
    pub unpredicted_share: f64,
    /// Seed of all errors.
    pub seed: u64,
}

impl Noise {
    /// No errors.
    pub const NONE: Self = Self {
        length_sigma: 0.0,
        true_positive_rate: 1.0,
        false_positive_rate: 0.0,
        unpredicted_share: 0.0,
        seed: 0,
    };
}

/// Knows the output length of every request that it was told about.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct Oracle {
    lengths: HashMap<RequestId, u32>,
    noise: Noise,
}

impl Default for Oracle {
    fn default() -> Self {
        Self::new()
    }
}

impl Oracle {
    /// Exact.
    #[must_use]
    pub fn new() -> Self {
        Self::noisy(Noise::NONE)
    }

    /// With errors.
    #[must_use]
    pub fn noisy(noise: Noise) -> Self {
        Self { lengths: HashMap::new(), noise }
    }

    fn rng(&self, id: RequestId, stream: u64) -> ChaCha8Rng {
        let mut rng =
            ChaCha8Rng::seed_from_u64(self.noise.seed ^ id.get().wrapping_mul(0x9e37_79b9_7f4a_7c15));
        rng.set_stream(stream);
        rng
    }
}

/// A standard normal from two uniforms (Box and Muller).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

impl TerminationClassifier for Oracle {
    fn predict(&mut self, request: &Running, horizon_steps: u32) -> Termination {
        let Some(&output) = self.lengths.get(&request.id) else { return Termination::NEVER };
        let horizon = f64::from(horizon_steps.max(1));
        let age = request.generated_tokens;
        let exact = f64::from(output.saturating_sub(age).max(1));
        if self.noise == Noise::NONE {
            return Termination {
                probability: f64::from(u8::from(exact <= horizon)),
                remaining_steps: exact.min(horizon),
            };
        }
        let mut rng = self.rng(request.id, 0);
        let factor = (self.noise.length_sigma * normal(&mut rng)).exp();
        if rng.random::<f64>() < self.noise.unpredicted_share {
            return Termination::NEVER;
        }
        // One draw per horizon, so that repeated looks at one window do not add up their errors.
        let mut window = self.rng(request.id, 1 + u64::from(age / horizon_steps.max(1)));
        let (seen, false_alarm, at) =
            (window.random::<f64>(), window.random::<f64>(), window.random::<f64>());
        let remaining = (exact * factor).max(1.0);
        if remaining <= horizon {
            let probability = f64::from(u8::from(seen < self.noise.true_positive_rate));
            return Termination { probability, remaining_steps: remaining };
        }
        let probability = f64::from(u8::from(false_alarm < self.noise.false_positive_rate));
        Termination { probability, remaining_steps: (at * horizon).max(1.0) }
    }

    fn finished(&mut self, request: &Running) {
        self.lengths.remove(&request.id);
    }

    fn aborted(&mut self, id: RequestId) {
        self.lengths.remove(&id);
    }

    fn told(&mut self, id: RequestId, output_tokens: u32) {
        self.lengths.insert(id, output_tokens);
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
    use super::*;

    fn request(id: u64, generated_tokens: u32) -> Running {
        Running { id: id.into(), prompt_tokens: 1, prompt_hash: None, generated_tokens }
    }

    #[test]
    fn tells_the_truth_about_what_it_knows() {
        let mut oracle = Oracle::new();
        oracle.told(RequestId::new(1), 100);
        assert_eq!(
            oracle.predict(&request(1, 90), 16),
            Termination { probability: 1.0, remaining_steps: 10.0 }
        );
        assert_eq!(oracle.predict(&request(1, 10), 16).probability, 0.0);
        assert_eq!(oracle.predict(&request(2, 10), 16), Termination::NEVER);
        oracle.finished(&request(1, 100));
        assert_eq!(oracle.predict(&request(1, 90), 16), Termination::NEVER);
    }

    #[test]
    fn errors_have_the_stated_rates_and_repeat() {
        let noise = Noise {
            length_sigma: 0.0,
            true_positive_rate: 0.8,
            false_positive_rate: 0.05,
            unpredicted_share: 0.0,
            seed: 3,
        };
        let mut oracle = Oracle::noisy(noise);
        let (mut seen, mut alarms) = (0, 0);
        for id in 0..4000 {
            oracle.told(id.into(), 100);
            let late = oracle.predict(&request(id, 90), 16);
            assert_eq!(late, oracle.predict(&request(id, 90), 16));
            seen += u32::from(late.probability > 0.5);
            alarms += u32::from(oracle.predict(&request(id, 2), 16).probability > 0.5);
        }
        assert!((3100..3300).contains(&seen), "{seen}");
        assert!((150..250).contains(&alarms), "{alarms}");
        let mut blurred = Oracle::noisy(Noise { length_sigma: 0.3, unpredicted_share: 0.3, ..Noise::NONE });
        let mut predicted = 0;
        for id in 0..2000 {
            blurred.told(id.into(), 1000);
            predicted += u32::from(blurred.predict(&request(id, 0), 100_000).probability > 0.5);
        }
        assert!((1300..1500).contains(&predicted), "{predicted}");
    }
}
