//! Running statistics of the traffic: what a rule may know without predicting anything.

use std::collections::VecDeque;

use crate::batch::{MAX_PROMPT_TOKENS, Traffic};
use crate::forecast::Lifetimes;

/// Samples that a mean remembers: plain below, exponentially forgetting above.
const WINDOW: f64 = 1024.0;
/// Lengths that the quantile looks at.
const RECENT: usize = 256;

#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
struct Mean {
    samples: f64,
    value: f64,
    square: f64,
}

impl Mean {
    fn add(&mut self, sample: f64) {
        self.samples = (self.samples + 1.0).min(WINDOW);
        let share = 1.0 / self.samples;
        self.value += share * (sample - self.value);
        self.square += share * (sample * sample - self.square);
    }

    fn spread(&self) -> f64 {
        (self.square - self.value * self.value).max(0.0).sqrt()
    }
}

/// The clock of those who run: they are a step older once they have generated a token each, in the mean. The
/// step clock goes by whoever is ahead, and is far ahead of the others where requests grow one by one.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Lived {
    pub(super) steps: i64,
    /// What was generated since.
    pub(super) tokens: u64,
}

impl Lived {
    /// So many requests have lived on; the clock stands where it stood before.
    pub(super) fn advance(&mut self, running: usize) -> Option<i64> {
        let running = running.max(1) as u64;
        if self.tokens < running {
            return None;
        }
        let before = self.steps;
        self.steps += (self.tokens / running) as i64;
        self.tokens %= running;
        Some(before)
    }
}

/// Numbers as little-endian bytes.
fn write_numbers(to: &mut Vec<u8>, numbers: impl IntoIterator<Item = f64>) {
    to.extend(numbers.into_iter().flat_map(f64::to_le_bytes));
}

/// The next number, if it is one that can have been counted.
fn read_number(from: &mut &[u8]) -> Option<f64> {
    let (bytes, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(f64::from_le_bytes(*bytes)).filter(|found| (0.0..1e18).contains(found))
}

/// Learns [`Traffic`] from arrivals and ends.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "record", derive(serde::Serialize, serde::Deserialize))]
pub struct TrafficMeter {
    prompts: Mean,
    pub(super) outputs: Lifetimes,
    recent: VecDeque<u32>,
    sorted: Vec<u32>,
}

impl Default for TrafficMeter {
    fn default() -> Self {
        Self::new()
    }
}

impl TrafficMeter {
    /// Knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            prompts: Mean::default(),
            outputs: Lifetimes::new(),
            recent: VecDeque::with_capacity(RECENT + 1),
            sorted: Vec::with_capacity(RECENT + 1),
        }
    }

    /// A request of this length arrived.
    pub fn arrived(&mut self, prompt_tokens: u32) {
        let prompt_tokens = prompt_tokens.min(MAX_PROMPT_TOKENS);
        self.prompts.add(f64::from(prompt_tokens));
        self.recent.push_back(prompt_tokens);
        let at = self.sorted.partition_point(|&other| other < prompt_tokens);
        self.sorted.insert(at, prompt_tokens);
        if self.recent.len() > RECENT
            && let Some(oldest) = self.recent.pop_front()
        {
            self.sorted.remove(self.sorted.partition_point(|&other| other < oldest));
        }
    }

    /// A request ended after this many tokens, all of which it generated since it arrived. One beyond all
    /// limits counts as the longest: else the mean would be past what a batch takes.
    pub fn finished(&mut self, output_tokens: u32) {
        self.outputs.lived(0, output_tokens);
        self.outputs.ended(output_tokens);
        self.outputs.sum();
    }

    pub(super) fn write(&self, to: &mut Vec<u8>) {
        let Mean { samples, value, square } = self.prompts;
        write_numbers(to, [samples, value, square, self.recent.len() as f64]);
        write_numbers(to, self.recent.iter().copied().map(f64::from));
        write_numbers(to, self.outputs.state());
    }

    pub(super) fn read(from: &mut &[u8]) -> Option<Self> {
        let mut meter = Self::new();
        let mut next = |most: f64| read_number(from).filter(|&found| found <= most);
        let longest = f64::from(MAX_PROMPT_TOKENS);
        meter.prompts =
            Mean { samples: next(WINDOW)?, value: next(longest)?, square: next(longest * longest)? };
        for _ in 0..next(RECENT as f64)? as usize {
            meter.recent.push_back(next(longest)? as u32);
        }
        meter.sorted.extend(&meter.recent);
        meter.sorted.sort_unstable();
        let mut state = [0.0; Lifetimes::STATE];
        for number in &mut state {
            *number = read_number(from)?;
        }
        meter.outputs = Lifetimes::from_state(&state);
        Some(meter)
    }

    /// The longest prompt of the last few.
    pub(super) fn longest_tokens(&self) -> u32 {
        self.sorted.last().copied().unwrap_or(0)
    }

    pub(super) fn mean_prompt_tokens(&self) -> f64 {
        self.prompts.value
    }

    /// What is known now.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic {
            mean_prompt_tokens: self.prompts.value.round() as i64,
            sd_prompt_tokens: self.prompts.spread().round() as i64,
            small_prompt_tokens: self.sorted.get(self.sorted.len() / 10).copied().map_or(0, i64::from),
            mean_output_tokens: self.outputs.mean_tokens().min(f64::from(MAX_PROMPT_TOKENS)).round() as i64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_spread_and_quantile() {
        let mut meter = TrafficMeter::new();
        assert_eq!(meter.traffic(), Traffic::default());
        (1..=100).for_each(|tokens| meter.arrived(tokens));
        meter.finished(10);
        meter.finished(20);
        let found = meter.traffic();
        assert_eq!(
            found,
            Traffic {
                mean_prompt_tokens: 51,
                sd_prompt_tokens: 29,
                small_prompt_tokens: 11,
                mean_output_tokens: 15,
            }
        );
    }

    #[test]
    fn lengths_past_the_limits_leave_a_batch_valid() {
        let mut meter = TrafficMeter::new();
        (0..300).for_each(|at| meter.arrived(if at % 2 == 0 { 1 } else { u32::MAX }));
        meter.finished(u32::MAX);
        let (workers, nobody) = ([crate::Worker::new(0, 0, 1)], crate::Pool::new());
        let checked = crate::Batch::draft(&workers, &nobody).traffic(meter.traffic()).check();
        assert!(checked.is_ok(), "{checked:?}");
    }

    #[test]
    fn a_change_of_traffic_is_followed() {
        let mut meter = TrafficMeter::new();
        (0..5000).for_each(|_| meter.arrived(1000));
        (0..5000).for_each(|_| meter.arrived(10));
        let found = meter.traffic();
        assert!(found.mean_prompt_tokens < 30, "{found:?}");
        assert_eq!(found.small_prompt_tokens, 10);
    }
}
