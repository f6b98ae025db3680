//! What a trace is like: lengths, arrivals, what its prompts share, its sessions.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::Trace;

/// What a trace is like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Shape {
    /// Requests.
    pub requests: u64,
    /// From the first arrival to the last; none where there are lengths only, as for all times.
    pub span_s: Option<f64>,
    /// Arrivals after the first per second.
    pub requests_per_s: Option<f64>,
    /// Standard deviation of the gaps between arrivals over their mean: 1 for a Poisson process, more for
    /// bursts.
    pub gap_variation: Option<f64>,
    /// Arrivals in windows of equal length, where the trace is long enough for ten.
    pub windows: Option<Window>,
    /// Prompts in tokens.
    pub prompt_tokens: Lengths,
    /// Outputs in tokens.
    pub output_tokens: Lengths,
    /// What prompts share, where blocks of them are known.
    pub prefix: Option<Prefix>,
    /// Sessions, where turns wait for each other.
    pub sessions: Option<Sessions>,
}

/// Some lengths, or times; percentiles by nearest rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lengths {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Greatest.
    pub max: f64,
}

/// Arrivals in windows of equal length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Length in seconds: a minute, or a second in traces of less than ten minutes.
    pub s: f64,
    /// Requests per second of the busiest.
    pub busiest_requests_per_s: f64,
    /// Variance of the arrivals of a window over their mean: 1 for a Poisson process, more for bursts.
    pub dispersion: f64,
}

/// What prompts share with others, as a share of all prompt tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prefix {
    /// Tokens of a block.
    pub block_tokens: u32,
    /// In leading blocks that another prompt has too.
    pub shared: f64,
    /// In leading blocks that a prompt before it had: what a cache without a bound, common to all workers,
    /// would save.
    pub seen_before: f64,
}

/// Turns that wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sessions {
    /// Sessions, those of one turn too.
    pub sessions: u64,
    /// Turns that wait for the one before.
    pub turns_that_wait: u64,
    /// Turns of a session.
    pub turns: Lengths,
    /// Seconds from the end of a turn to the next at the least.
    pub delay_s: Lengths,
}

impl Lengths {
    /// Of some lengths; all zero for none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = (share * values.len() as f64).ceil().max(1.0) as usize;
            values.get(rank - 1).copied().unwrap_or(0.0)
        };
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        Self { mean, p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
    }
}

/// Mean and variance over all.
fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n)
}

impl Shape {
    /// Of a trace.
    #[must_use]
    pub fn of(trace: &Trace) -> Self {
        let gaps: Vec<f64> = trace.arrival_s.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let (mean_gap, variance) = moments(&gaps);
        Self {
            requests: trace.jobs.len() as u64,
            span_s: trace.span_s(),
            requests_per_s: trace.requests_per_s(),
            gap_variation: (mean_gap > 0.0).then(|| variance.sqrt() / mean_gap),
            windows: windows(&trace.arrival_s),
            prompt_tokens: Lengths::of(trace.jobs.iter().map(|job| f64::from(job.prompt_tokens))),
            output_tokens: Lengths::of(trace.jobs.iter().map(|job| f64::from(job.output_tokens))),
            prefix: prefix(trace),
            sessions: sessions(trace),
        }
    }
}

fn windows(arrival_s: &[f64]) -> Option<Window> {
    let span_s = *arrival_s.last()?;
    let s = [60.0, 1.0].into_iter().find(|s| span_s >= 10.0 * s)?;
    // The last window is whole.
    let mut counts = vec![0.0; (span_s / s) as usize];
    for at in arrival_s.iter().map(|at_s| (at_s / s) as usize) {
        if let Some(count) = counts.get_mut(at) {
            *count += 1.0;
        }
    }
    let (mean, variance) = moments(&counts);
    let busiest = counts.iter().copied().fold(0.0, f64::max);
    Some(Window {
        s,
        busiest_requests_per_s: busiest / s,
        dispersion: variance / mean.max(f64::MIN_POSITIVE),
    })
}

fn prefix(trace: &Trace) -> Option<Prefix> {
    let blocks = || trace.jobs.iter().filter_map(|job| Some((job, job.prefix_blocks.as_deref()?)));
    blocks().next()?;
    let mut prompts_with: HashMap<u64, u32> = HashMap::new();
    for (_, blocks) in blocks() {
        // A block counts once a prompt.
        let once: HashSet<u64> = blocks.iter().copied().collect();
        once.into_iter().for_each(|block| *prompts_with.entry(block).or_default() += 1);
    }
    let (mut seen, mut shared_tokens, mut seen_tokens) = (HashSet::new(), 0, 0);
    for (job, blocks) in blocks() {
        let tokens = |leading: usize| {
            (leading as u64 * u64::from(trace.block_tokens)).min(u64::from(job.prompt_tokens))
        };
        shared_tokens += tokens(blocks.iter().take_while(|block| prompts_with[*block] > 1).count());
        seen_tokens += tokens(blocks.iter().take_while(|block| seen.contains(*block)).count());
        seen.extend(blocks.iter().copied());
    }
    let all = trace.jobs.iter().map(|job| u64::from(job.prompt_tokens)).sum::<u64>().max(1) as f64;
    Some(Prefix {
        block_tokens: trace.block_tokens,
        shared: shared_tokens as f64 / all,
        seen_before: seen_tokens as f64 / all,
    })
}

fn sessions(trace: &Trace) -> Option<Sessions> {
    if trace.turns.is_empty() {
        return None;
    }
    // A turn comes after the one that it waits for, so its session is known.
    let mut session_of = vec![0; trace.turns.len()];
    let mut sizes: Vec<f64> = Vec::new();
    for (at, turn) in trace.turns.iter().enumerate() {
        session_of[at] = match turn {
            Some(turn) => session_of[turn.after as usize],
            None => {
                sizes.push(0.0);
                sizes.len() - 1
            }
        };
        sizes[session_of[at]] += 1.0;
    }
    Some(Sessions {
        sessions: sizes.len() as u64,
        turns_that_wait: (trace.turns.len() - sizes.len()) as u64,
        turns: Lengths::of(sizes),
        delay_s: Lengths::of(trace.turns.iter().flatten().map(|turn| turn.delay_s)),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::job::Job;
    use crate::traces::Turn;

    #[test]
    fn regular_arrivals_are_no_bursts() {
        let even = |count: usize, step_s: f64| Trace {
            jobs: vec![Job::new(10, 1); count],
            arrival_s: (0..count).map(|at| at as f64 * step_s).collect(),
            ..Trace::default()
        };
        let shape = Shape::of(&even(1201, 1.0));
        assert_eq!(
            (shape.span_s, shape.requests_per_s, shape.gap_variation),
            (Some(1200.0), Some(1.0), Some(0.0))
        );
        let minute = Window { s: 60.0, busiest_requests_per_s: 1.0, dispersion: 0.0 };
        assert_eq!(shape.windows, Some(minute));
        assert_eq!(Shape::of(&even(5, 1.0)).windows, None);
        // Ten at once, and nothing between: a gap in ten is not zero.
        let bursts = Trace { arrival_s: (0..1000).map(|at| f64::from(at / 10)).collect(), ..even(1000, 0.0) };
        let shape = Shape::of(&bursts);
        assert!((2.9..3.2).contains(&shape.gap_variation.expect("gaps")), "{shape:?}");
        assert_eq!(shape.windows.expect("a hundred seconds").busiest_requests_per_s, 10.0);
    }

    #[test]
    fn leading_blocks_are_shared() {
        let job = |blocks: &[u64]| Job { prefix_blocks: Some(Arc::from(blocks)), ..Job::new(40, 1) };
        let trace = Trace {
            // The third has a block of the others, but does not begin with it.
            jobs: vec![job(&[1, 2, 3, 4]), job(&[1, 2, 5, 6]), job(&[7, 1, 8, 9]), Job::new(40, 1)],
            block_tokens: 10,
            ..Trace::default()
        };
        let shared = Shape::of(&trace).prefix.expect("blocks");
        assert_eq!((shared.shared, shared.seen_before), (40.0 / 160.0, 20.0 / 160.0));
        assert_eq!(Shape::of(&Trace { jobs: vec![Job::new(1, 1)], ..Trace::default() }).prefix, None);
    }

    #[test]
    fn turns_belong_to_the_session_that_they_wait_in() {
        let after = |after, delay_s| Some(Turn { after, delay_s });
        let trace = Trace {
            jobs: vec![Job::new(1, 1); 5],
            turns: vec![None, after(0, 2.0), None, after(1, 4.0), after(0, 0.0)],
            ..Trace::default()
        };
        let sessions = Shape::of(&trace).sessions.expect("sessions");
        assert_eq!((sessions.sessions, sessions.turns_that_wait), (2, 3));
        assert_eq!((sessions.turns.max, sessions.turns.mean, sessions.delay_s.mean), (4.0, 2.5, 2.0));
    }

    #[test]
    fn lengths_are_nearest_ranks() {
        let lengths = Lengths::of((1..=200).map(f64::from));
        let (p50, p90, p99, max) = (100.0, 180.0, 198.0, 200.0);
        assert_eq!(lengths, Lengths { mean: 100.5, p50, p90, p99, max });
        assert_eq!(Lengths::of([]), Lengths::default());
    }
}
