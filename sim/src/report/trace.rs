//! What a trace is like, and how loaded a cluster is by it, in words.

use std::fmt::Write as _;

use super::page::{Grid, Page, Style};
use crate::cluster::{Arrivals, Capacity, Scenario, Source};
use crate::traces::{Lengths, Shape, Trace};

/// Seconds as people say them: `42.0 s`, `58 min 17 s`, `3 h 5 min`, `7 d 2 h`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 60.0 => format!("{seconds:.1} s"),
        0..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        3_600..86_400 => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

/// A rate in three digits.
pub(crate) fn per_second(rate: f64) -> String {
    let digits = match rate {
        rate if rate >= 99.95 => 0,
        rate if rate >= 9.995 => 1,
        rate if rate >= 0.9995 => 2,
        _ => 3,
    };
    format!("{rate:.digits$}/s")
}

/// Layout, requests, span, rate and mean lengths; what was left out of the trace and what of it is not
/// simulated with such arrivals.
pub(super) fn summary(trace: &Trace, arrivals: Arrivals) -> String {
    let mut text = format!("{}: {} requests", trace.format, trace.jobs.len());
    // Writing to a string cannot fail.
    let _ = match (trace.span_s(), trace.requests_per_s()) {
        (Some(span_s), Some(rate)) => write!(text, " in {}, {}", duration(span_s), per_second(rate)),
        (Some(_), None) => write!(text, " at one time"),
        (None, _) => write!(text, ", lengths without times"),
    };
    let mean = |tokens: fn(&crate::job::Job) -> u32| {
        Lengths::of(trace.jobs.iter().map(|job| f64::from(tokens(job)))).mean
    };
    let (prompt, output) = (mean(|job| job.prompt_tokens), mean(|job| job.output_tokens));
    let _ = write!(text, ", mean prompt {prompt:.0} and output {output:.0} tokens");
    let turns = trace.turns.iter().flatten().count() as u64;
    let what_of_turns = match arrivals {
        Arrivals::Trace { .. } => "turns wait for the turn before them",
        Arrivals::Closed | Arrivals::Poisson { .. } => "turns of sessions, which wait for nobody here",
    };
    for (count, what) in [
        (trace.skipped_rows, "malformed rows skipped"),
        (trace.rows_without_output, "rows without output left out"),
        (trace.filtered_rows, "below the least output left out"),
        (trace.other_rows, "rows that are no requests passed over"),
        (turns, what_of_turns),
        (trace.requests_with_images, "requests have images, whose cost is not simulated"),
    ] {
        if count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    text
}

/// How much is offered of what the cluster can serve; none where nothing tells a rate or no request fits.
#[must_use]
pub fn load(scenario: &Scenario) -> Option<String> {
    let own = match &scenario.source {
        Source::Trace(trace) => trace.requests_per_s(),
        Source::Workload(_) => None,
    };
    let timed = matches!(scenario.source, Source::Trace(_));
    let rate = match scenario.arrivals {
        Arrivals::Poisson { per_second, .. } => Some(per_second),
        Arrivals::Trace { rate_scale } => own.map(|own| own * rate_scale),
        Arrivals::Closed => own,
    };
    if rate.is_none() && !timed {
        return None;
    }
    let capacity = Capacity::of(scenario)?;
    let slots = f64::from(scenario.slots);
    let full = if capacity.running_per_worker < slots {
        format!("{:.1} of {slots} slots a worker, as many as its KV cache holds", capacity.running_per_worker)
    } else {
        "every slot full".to_owned()
    };
    let capacity_text = format!("capacity {} (perfect balance, {full})", per_second(capacity.requests_per_s));
    Some(match (rate, scenario.arrivals) {
        (Some(rate), arrivals) => {
            let rate = rate * capacity.fitting_share;
            let which = if capacity.fitting_share < 1.0 { " (requests that fit)" } else { "" };
            let what = if arrivals == Arrivals::Closed {
                "offered load 100 %, the pool is kept full; at its own rate the trace offers"
            } else {
                "offered load"
            };
            let percent = 100.0 * rate / capacity.requests_per_s;
            let digits = match percent {
                percent if percent >= 9.95 => 0,
                percent if percent >= 0.095 => 1,
                _ => 3,
            };
            format!("{what} {percent:.digits$} %: {}{which} of {capacity_text}", per_second(rate))
        }
        (None, _) => capacity_text,
    })
}

/// What a trace is like, in straight columns.
#[must_use]
pub fn shape(trace: &Trace, shape: &Shape) -> String {
    described(summary(trace, Arrivals::Trace { rate_scale: 1.0 }), shape).show(Style::Plain)
}

/// What a trace is like, under a name.
#[must_use]
pub fn shape_page(name: &str, trace: &Trace, shape: &Shape) -> Page {
    described(format!("{name}: {}", summary(trace, Arrivals::Trace { rate_scale: 1.0 })), shape)
}

fn described(summary: String, shape: &Shape) -> Page {
    let number = |value: f64| match value {
        value if value >= 99.95 || value.fract() == 0.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    };
    let row = |name: &str, lengths: &Lengths| {
        let Lengths { mean, p50, p90, p99, max } = *lengths;
        [vec![name.to_owned()], [mean, p50, p90, p99, max].map(number).to_vec()].concat()
    };
    let head = ["", "mean", "p50", "p90", "p99", "max"].map(str::to_owned).to_vec();
    let mut rows =
        vec![head, row("prompt tokens", &shape.prompt_tokens), row("output tokens", &shape.output_tokens)];
    if let Some(sessions) = &shape.sessions {
        rows.push(row("turns of a session", &sessions.turns));
        rows.push(row("s between turns", &sessions.delay_s));
    }
    let page = Page::new().text(summary + "\n").grid(Grid::new(rows, 1));
    let mut text = String::new();
    if let Some(variation) = shape.gap_variation {
        let _ = write!(text, "burstiness: gaps vary by {variation:.2} of their mean (Poisson 1)");
        if let Some(window) = shape.windows {
            let length = if window.s == 1.0 { "second" } else { "minute" };
            let _ = write!(
                text,
                "; busiest {length} {}, dispersion of arrivals a {length} {:.2} (Poisson 1)",
                per_second(window.busiest_requests_per_s),
                window.dispersion
            );
        }
        text.push('\n');
    }
    if let Some(prefix) = shape.prefix {
        let _ = writeln!(
            text,
            "shared prefix: {:.1} % of prompt tokens ({:.1} % seen before), blocks of {} tokens",
            100.0 * prefix.shared,
            100.0 * prefix.seen_before,
            prefix.block_tokens
        );
    }
    if let Some(sessions) = &shape.sessions {
        let _ = writeln!(
            text,
            "sessions: {}, {} turns wait for the turn before them",
            sessions.sessions, sessions.turns_that_wait
        );
    }
    if text.is_empty() { page } else { page.text(text) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::job::Job;
    use crate::traces::Turn;

    #[test]
    fn times_and_rates_are_short() {
        for (seconds, text) in [
            (0.5, "0.5 s"),
            (59.9, "59.9 s"),
            (3_497.2, "58 min 17 s"),
            (11_100.0, "3 h 5 min"),
            (612_000.0, "7 d 2 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        for (rate, text) in [(0.05, "0.050/s"), (5.537, "5.54/s"), (44.9, "44.9/s"), (244.4, "244/s")] {
            assert_eq!(per_second(rate), text);
        }
    }

    #[test]
    fn the_load_is_a_share_of_the_capacity() {
        let trace = Trace {
            format: "azure",
            jobs: vec![Job::new(1_000, 100); 11],
            arrival_s: (0..11).map(f64::from).collect(),
            rows_without_output: 2,
            requests_with_images: 1,
            ..Trace::default()
        };
        assert_eq!(
            summary(&trace, Arrivals::Closed),
            "azure: 11 requests in 10.0 s, 1.00/s, mean prompt 1000 and output 100 tokens, \
             2 rows without output left out, 1 requests have images, whose cost is not simulated"
        );
        let waits = Some(Turn { after: 0, delay_s: 1.0 });
        let sessions = Trace { turns: [vec![None], vec![waits; 10]].concat(), ..trace.clone() };
        let text = |arrivals| summary(&sessions, arrivals);
        assert!(text(Arrivals::Trace { rate_scale: 2.0 }).contains(", 10 turns wait for the turn before"));
        assert!(text(Arrivals::Closed).contains(", 10 turns of sessions, which wait for nobody here"));
        let mut scenario = Scenario { source: Source::Trace(Arc::new(trace)), ..Scenario::default() };
        // 72 slots of 1049.5 tokens: 4.8875 ms + 7.594 ms a token of each of the 576, of which one has 100.
        let full = "1.00/s of capacity 461/s (perfect balance, every slot full)";
        let closed = "offered load 100 %, the pool is kept full; at its own rate the trace offers 0.2 %";
        assert_eq!(load(&scenario), Some(format!("{closed}: {full}")));
        scenario.arrivals = Arrivals::Trace { rate_scale: 0.01 };
        assert!(load(&scenario).expect("a rate").starts_with("offered load 0.002 %: 0.010/s of"));
        scenario.arrivals = Arrivals::Trace { rate_scale: 100.0 };
        let text = load(&scenario).expect("a rate");
        assert_eq!(text, format!("offered load 22 %: {}", full.replace("1.00/s", "100/s")));
        scenario.kv_capacity_tokens = Some(20_990);
        let text = load(&scenario).expect("a rate");
        assert!(text.ends_with("20.0 of 72 slots a worker, as many as its KV cache holds)"), "{text}");
        scenario.kv_capacity_tokens = Some(9);
        assert_eq!(load(&scenario), None);
        // Who fits nowhere offers nothing.
        let mut trace = match &scenario.source {
            Source::Trace(trace) => (**trace).clone(),
            Source::Workload(_) => unreachable!(),
        };
        trace.jobs[0] = Job::new(30_000, 100);
        (scenario.source, scenario.kv_capacity_tokens) = (Source::Trace(Arc::new(trace)), Some(20_990));
        let text = load(&scenario).expect("a rate");
        assert!(text.contains(" %: 90.9/s (requests that fit) of capacity"), "{text}");
    }
}
