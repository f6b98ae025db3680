//! How much of a KV cache to leave free: a problem of ruin.
//!
//! Between admissions the tokens of a worker climb by one for each request a step, and drop by a request's
//! size when it ends. By the law of such walks the greatest climb exceeds `u` with a chance of `e^(-R u)`,
//! where the *exponent* `R` is the positive root of
//!
//! ```text
//! sum_i h_i (1 - e^(-R size_i)) = n R       h_i: the chance that request i ends with the next token
//! ```
//!
//! over the `n` requests there. So `u = ln(1 / eps) / R` tokens of room are overrun with the odds `eps`.
//! Without a positive root (`sum h size <= n`: it climbs faster than it falls) no room is enough.
//!
//! What `eps` is worth is a newsvendor's question: a token of room costs every step `c0 / C` of the time
//! without load, and a preemption costs all `G` workers the prefill of what was lost:
//!
//! ```text
//! eps = (c0 / C) / (G a p size R)           a = n / E[o] admissions a step, p the time of a prefill a token
//! ```
//!
//! # On every machine alike
//! The room decides who is admitted, so all machines are to find the same to the last bit. `exp` and `ln` of
//! a mathematical library differ by library and version; here both are polynomials of their own, and all
//! else are sums, products and quotients, each rounded as IEEE 754 says and never fused, in an order that the
//! source fixes: the sum over the requests goes in [`LANES`] strands, however wide the machine's vectors are.

/// Strands of the sums: as many as the widest vectors hold.
const LANES: usize = 8;
/// A step of Newton's method that is at most this part of the root is the last: the next one would be about
/// its square.
const LAST_STEP: f64 = 1.0 / 64.0;
/// Steps of Newton's method at most; near the cap, where the root is small, they are many.
const MOST_ROUNDS: u32 = 32;

/// Chances to end and sizes of the requests of one worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lives {
    hazards: Vec<f64>,
    sizes: Vec<f64>,
}

impl Lives {
    /// Forgets them, with a place for so many and one more.
    pub(crate) fn clear(&mut self, requests: usize) {
        for of in [&mut self.hazards, &mut self.sizes] {
            of.clear();
            of.reserve(requests + LANES);
        }
    }

    pub(crate) fn push(&mut self, hazard: f64, size_tokens: f64) {
        self.hazards.push(hazard);
        self.sizes.push(size_tokens);
    }

    pub(crate) fn len(&self) -> usize {
        self.sizes.len()
    }

    pub(crate) fn mean_tokens(&self) -> f64 {
        self.sizes.iter().sum::<f64>() / self.sizes.len().max(1) as f64
    }

    /// The exponent, where `climb` tokens are added a step and it is above `least`: else it is taken to be
    /// nothing.
    pub(crate) fn exponent(&mut self, climb: f64, least: f64) -> Option<f64> {
        // Those that never end and are nothing change no sum.
        while !self.sizes.len().is_multiple_of(LANES) {
            self.push(0.0, 0.0);
        }
        let (hazards, sizes) = (self.hazards.as_chunks::<LANES>().0, self.sizes.as_chunks::<LANES>().0);
        let (mut ends, mut falls) = ([0.0; LANES], [0.0; LANES]);
        for (hazards, sizes) in hazards.iter().zip(sizes) {
            for lane in 0..LANES {
                ends[lane] += hazards[lane];
                falls[lane] += hazards[lane] * sizes[lane];
            }
        }
        let (ends, falls) = (sum(ends), sum(falls));
        if climb <= 0.0 || falls <= climb || falls.is_nan() {
            return None;
        }
        // What the equation says is concave in `R` and zero at 0 and at the root. Here it is below zero, so
        // this is to the right of the root, and from there Newton's method comes down to it.
        let mut at = ends / climb;
        for _ in 0..MOST_ROUNDS {
            let (mut rest, mut slope) = ([0.0; LANES], [0.0; LANES]);
            for (hazards, sizes) in hazards.iter().zip(sizes) {
                for lane in 0..LANES {
                    let passed = hazards[lane] * exp_of_minus(at * sizes[lane]);
                    rest[lane] += passed;
                    slope[lane] += passed * sizes[lane];
                }
            }
            let down = (ends - sum(rest) - climb * at) / (sum(slope) - climb);
            at -= if down > 0.0 { down } else { 0.0 };
            if down <= LAST_STEP * at || at <= least {
                break;
            }
        }
        (at > least).then_some(at)
    }
}

/// In an order of its own.
fn sum(lanes: [f64; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// `e^(-x)` of a number that is not below zero, to seven digits.
fn exp_of_minus(x: f64) -> f64 {
    // Adding this rounds to a whole number, which the low bits then hold.
    const WHOLE: f64 = (1u64 << 52) as f64 * 1.5;
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let x = if x < 700.0 { x } else { 700.0 };
    let shifted = x * std::f64::consts::LOG2_E + WHOLE;
    let halvings = shifted - WHOLE;
    let r = (halvings * LN_2_HIGH - x) + halvings * LN_2_LOW;
    // At most half of ln 2 in size: the series is short.
    let mut series = 1.0 / 720.0;
    for divisor in [120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        series = series * r + 1.0 / divisor;
    }
    series * f64::from_bits(1023u64.wrapping_sub(shifted.to_bits()) << 52)
}

/// The natural logarithm of a positive, normal number, to ten digits.
pub(crate) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let (mut octave, mut m) =
        ((bits >> 52) as i64 - 1023, f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52));
    if m > std::f64::consts::SQRT_2 {
        (octave, m) = (octave + 1, m / 2.0);
    }
    let z = (m - 1.0) / (m + 1.0);
    let square = z * z;
    let mut series = 1.0 / 13.0;
    for divisor in [11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = series * square + 1.0 / divisor;
    }
    2.0 * z * series + octave as f64 * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use approx::{assert_abs_diff_eq, assert_relative_eq};

    use super::*;

    #[test]
    fn functions_are_what_they_say() {
        for step in 0..70_000 {
            let x = f64::from(step) * 0.01;
            assert_relative_eq!(exp_of_minus(x), (-x).exp(), max_relative = 2e-7);
            let y = 1e-6 * 1.0004f64.powi(step);
            assert_abs_diff_eq!(ln(y), y.ln(), epsilon = 1e-9);
        }
        assert!(exp_of_minus(1e300) < 1e-300);
        assert_eq!((exp_of_minus(0.0), ln(1.0)), (1.0, 0.0));
    }

    /// Every bit: a machine or a compiler that finds another has another arithmetic.
    #[test]
    fn every_bit_is_fixed() {
        let mut lives = Lives::default();
        (0..100).for_each(|at| lives.push(f64::from(at % 13) * 1e-4, 500.0 + f64::from(at * at)));
        let found = lives.exponent(70.0, 0.0).expect("it falls");
        let bits = [found, exp_of_minus(1.0), exp_of_minus(12.3456789), ln(0.02), ln(12345.678)];
        assert_eq!(bits.map(f64::to_bits), BITS, "{:#x?}", bits.map(f64::to_bits));
    }

    const BITS: [u64; 5] = [
        0x3f44_497e_2ee9_5f16,
        0x3fd7_8b56_5073_3e32,
        0x3ed2_3d2b_6a31_bbcc,
        0xc00f_4bd2_b7ac_1bb5,
        0x4022_d795_5979_1e3d,
    ];

    /// The root as the formula has it, by halving.
    fn plain(lives: &[(f64, f64)], climb: f64) -> Option<f64> {
        let above = |at: f64| {
            lives.iter().map(|(hazard, size)| hazard * (1.0 - (-at * size).exp())).sum::<f64>() > climb * at
        };
        let (mut low, mut high) = (1e-12, 1.0);
        if !above(low) {
            return None;
        }
        while above(high) {
            high *= 2.0;
        }
        for _ in 0..200 {
            let middle = (low + high) / 2.0;
            if above(middle) { low = middle } else { high = middle }
        }
        Some(low)
    }

    #[test]
    fn the_root_is_that_of_the_plain_formula() {
        let mut state = 1u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        let (mut found, mut none) = (0, 0);
        for _ in 0..3_000 {
            let (count, scale) = (1 + next(100), 1 + next(20_000));
            let all: Vec<(f64, f64)> = (0..count)
                .map(|_| (next(1000) as f64 / 1000.0 / next(2000).max(1) as f64, (1 + next(scale)) as f64))
                .collect();
            let mut lives = Lives::default();
            all.iter().for_each(|&(hazard, size)| lives.push(hazard, size));
            let climb = count as f64;
            match (lives.exponent(climb, 0.0), plain(&all, climb)) {
                (Some(at), Some(root)) => {
                    found += 1;
                    assert_relative_eq!(at, root, max_relative = 1e-3);
                }
                (None, None) => none += 1,
                // Where it hardly falls the root is almost nothing.
                (at, root) => assert!(at.or(root) < Some(1e-7), "{at:?} {root:?}"),
            }
            if let Some(root) = plain(&all, climb) {
                assert_eq!(lives.exponent(climb, 1.01 * root), None);
            }
        }
        assert!(found > 500 && none > 100, "{found} {none}");
    }

    #[test]
    fn nothing_that_is_no_number_comes_of_edges() {
        let mut lives = Lives::default();
        assert_eq!(lives.exponent(0.0, 0.0), None);
        assert_eq!(lives.exponent(1.0, 0.0), None);
        lives.push(1.0, 4e9);
        assert!(lives.exponent(1e-9, 0.0).is_some_and(f64::is_finite));
        lives.push(f64::NAN, 1.0);
        assert_eq!(lives.exponent(1.0, 0.0), None);
    }
}
