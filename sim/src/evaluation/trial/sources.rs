//! What is said of a source: lengths, and when its requests come.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::plan::TrialSource;
use crate::cluster::Source;
use crate::job::Job;
use crate::report::results::{ArrivalBins, SourceEntry};
use crate::traces::{Shape, Trace};

/// Lengths of a bin of arrivals in seconds, as people count time.
const BINS_S: [f64; 15] =
    [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 21_600.0, 86_400.0];
/// Most bins.
const MOST_BINS: f64 = 240.0;

/// The bin that a length falls into, by its lower edge: powers of the square root of 2, rounded.
fn lower_edge(tokens: u32) -> u32 {
    let edge = |power: i32| 2f64.powf(f64::from(power) / 2.0).round() as u32;
    if tokens == 0 {
        return 0;
    }
    let near = (2.0 * f64::from(tokens).log2()) as i32;
    // Rounded, an edge may lie on the other side.
    (near - 1..=near + 1).map(edge).filter(|&edge| edge <= tokens).max().unwrap_or(tokens)
}

fn histogram(jobs: &[Job], tokens: fn(&Job) -> u32) -> Vec<(u32, u64)> {
    let mut bins = BTreeMap::new();
    for job in jobs {
        *bins.entry(lower_edge(tokens(job))).or_default() += 1;
    }
    bins.into_iter().collect()
}

fn arrivals(trace: &Trace) -> Option<ArrivalBins> {
    let span_s = trace.span_s()?;
    let bin_s = BINS_S.into_iter().find(|bin_s| span_s < bin_s * MOST_BINS);
    let bin_s = bin_s.unwrap_or(span_s / (MOST_BINS - 1.0));
    let mut requests = vec![0; (span_s / bin_s) as usize + 1];
    for at_s in &trace.arrival_s {
        requests[(at_s / bin_s) as usize] += 1;
    }
    Some(ArrivalBins { bin_s, requests })
}

pub(super) fn entry(of: &TrialSource) -> SourceEntry {
    let (kind, trace) = match &of.source {
        Source::Trace(trace) => ("trace", Arc::clone(trace)),
        Source::Workload(_) => {
            ("workload", Arc::new(Trace { jobs: of.source.library(), ..Trace::default() }))
        }
    };
    SourceEntry {
        name: of.source.name().to_owned(),
        kind: kind.to_owned(),
        path: of.path.clone(),
        sha256: of.sha256.clone(),
        format: (kind == "trace").then(|| trace.format.to_owned()),
        shape: Shape::of(&trace),
        prompt_tokens: histogram(&trace.jobs, |job| job.prompt_tokens),
        output_tokens: histogram(&trace.jobs, |job| job.output_tokens),
        arrivals: arrivals(&trace),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_lies_at_or_above_its_edge_and_below_the_next() {
        let mut edges: Vec<u32> = (0..50_000).map(lower_edge).collect();
        assert!((0..50_000).zip(&edges).all(|(tokens, &edge)| edge <= tokens && tokens <= edge * 3 / 2 + 1));
        assert!(edges.is_sorted());
        edges.dedup();
        assert_eq!(edges[..8], [0, 1, 2, 3, 4, 6, 8, 11]);
    }

    #[test]
    fn every_arrival_falls_into_a_bin() {
        for span_s in [0.0, 3.0, 239.9, 240.0, 1e9] {
            let trace = Trace { arrival_s: vec![0.0, span_s / 2.0, span_s], ..Trace::default() };
            let bins = arrivals(&trace).expect("times");
            assert_eq!(bins.requests.iter().sum::<u64>(), 3);
            assert!(bins.requests.len() as f64 <= MOST_BINS, "{span_s}: {}", bins.requests.len());
        }
        assert!(arrivals(&Trace::default()).is_none());
    }
}
