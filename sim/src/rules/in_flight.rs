//! Rules that add up what they have sent: `ascend-proxy`, `bucket`, and `by-type`, which only counts.

use std::collections::HashMap;
use std::ops::Range;

use super::chooser::{Arriving, Chooser, RankSeen, Setup, least};

/// Prompt tokens sent to each rank and not finished. They never grow: the proxy does not see tokens come.
#[derive(Clone, Debug)]
struct InFlight {
    tokens: Vec<u64>,
    /// Prompt tokens of each request, by id.
    sent: HashMap<u64, u64>,
}

impl InFlight {
    fn new(ranks: usize) -> Self {
        Self { tokens: vec![0; ranks], sent: HashMap::new() }
    }

    fn send(&mut self, arriving: &Arriving<'_>, rank: usize) {
        let tokens = u64::from(arriving.job.prompt_tokens);
        self.tokens[rank] += tokens;
        self.sent.insert(arriving.id, tokens);
    }

    fn ended(&mut self, id: u64, rank: usize) {
        self.tokens[rank] -= self.sent.remove(&id).unwrap_or_default();
    }
}

/// The rank with least prompt tokens in flight, among some of them; of equals the first.
pub(super) struct LeastInFlight {
    in_flight: InFlight,
    among: fn(&InFlight, &Arriving<'_>) -> Range<usize>,
}

impl LeastInFlight {
    /// `ascend-proxy`: of all ranks.
    pub(super) fn of_all(setup: &Setup) -> Self {
        let among = |in_flight: &InFlight, _: &Arriving<'_>| 0..in_flight.tokens.len();
        Self { in_flight: InFlight::new(setup.workers()), among }
    }

    /// `bucket`: of two groups of ranks, for short and for long prompts; a group may help its neighbour out.
    pub(super) fn of_groups(setup: &Setup) -> Self {
        let among = |in_flight: &InFlight, arriving: &Arriving<'_>| {
            in_flight.ranks(in_flight.group(f64::from(arriving.job.prompt_tokens)))
        };
        Self { in_flight: InFlight::new(setup.workers()), among }
    }
}

impl Chooser for LeastInFlight {
    fn choose(&mut self, arriving: &Arriving<'_>, _ranks: &[RankSeen]) -> usize {
        let among = (self.among)(&self.in_flight, arriving);
        let rank = least(among, |rank| self.in_flight.tokens[rank]).unwrap_or(0);
        self.in_flight.send(arriving, rank);
        rank
    }

    fn adopted(&mut self, running: &Arriving<'_>, _generated_tokens: u32, rank: usize) {
        self.in_flight.send(running, rank);
    }

    fn ended(&mut self, id: u64, rank: usize, _output_tokens: u32) {
        self.in_flight.ended(id, rank);
    }
}

/// Where short prompts end, in tokens.
const SHORT_BELOW: f64 = 32_768.0;
/// Where long ones end: our choice.
const LONG_BELOW: f64 = 131_072.0;
/// How fast a neighbour's worth falls with the distance from its lengths.
const DECAY: f64 = 0.1;
/// What a neighbour must be worth.
const WORTH: f64 = 0.12;

impl InFlight {
    /// The group of a prompt: the short one is 0, the long one 1.
    fn group(&self, prompt_tokens: f64) -> usize {
        let of = [self.ranks(0), self.ranks(1)];
        let load = of.map(|ranks| {
            let sum: u64 = self.tokens[ranks.clone()].iter().sum();
            sum as f64 / ranks.len().max(1) as f64
        });
        let home = usize::from(prompt_tokens >= SHORT_BELOW);
        let other = 1 - home;
        if load[other] >= load[home] {
            return home;
        }
        let (from, to) = [(0.0, SHORT_BELOW), (SHORT_BELOW, LONG_BELOW)][other];
        let (centre, half) = ((from + to) / 2.0, (to - from) / 2.0);
        let relief = (1.0 - load[other] / load[home]).clamp(0.0, 1.0);
        let nearness = (-DECAY * ((prompt_tokens - centre).abs() - half) / half).exp().clamp(0.0, 1.0);
        if relief * nearness > WORTH { other } else { home }
    }

    /// The ranks of a group: half of them each, the odd one among the short.
    fn ranks(&self, group: usize) -> Range<usize> {
        let ranks = self.tokens.len();
        let middle = ranks.div_ceil(2);
        if group == 0 { 0..middle } else { middle..ranks }
    }
}

/// Each quarter of the lengths goes round the ranks by itself.
#[derive(Default)]
pub(super) struct ByType {
    next: [usize; 4],
}

impl Chooser for ByType {
    fn choose(&mut self, arriving: &Arriving<'_>, ranks: &[RankSeen]) -> usize {
        let next = &mut self.next[usize::from(arriving.quarter)];
        let rank = *next;
        *next = (rank + 1) % ranks.len();
        rank
    }
}
