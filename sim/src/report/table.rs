//! The table of a comparison, and what stands above and below it.

use std::fmt::Write as _;

use super::figures::{Spread, by_policy, over, over_served, short};
use super::legend;
use super::page::{Grid, Page, Style};
use super::paired::{difference_grid, paired};
use super::trace::{load, summary};
use crate::cluster::metrics::Latency;
use crate::cluster::prefix::{BLOCK_TOKENS, PrefixModel};
use crate::cluster::{Arrivals, Run, Scenario, Source};
use crate::cost::StepCost;

/// All that `simulate` says of its runs; with what the names of the columns mean where that is asked for.
#[must_use]
pub fn page(scenario: &Scenario, runs: &[Run], with_legend: bool) -> Page {
    let of_runs = [table_grid(runs), waits_grid(runs), latencies_grid(runs)];
    let names: Vec<String> = of_runs.iter().flat_map(Grid::names).collect();
    let mut page = of_runs.into_iter().fold(Page::new().text(heading(scenario)), Page::grid);
    if scenario.windows > 0 {
        page = page.grid(difference_grid(&paired(runs)));
    }
    page = page.text(footing(runs));
    if with_legend { page.legend(legend::of(&legend::SIMULATE, &names)) } else { page }
}

/// One row per policy (and affinity): means over the seeds, with the sample standard deviation of the
/// imbalance.
#[must_use]
pub fn table(runs: &[Run]) -> String {
    table_grid(runs).show(Style::Plain)
}

fn table_grid(runs: &[Run]) -> Grid {
    const HEAD: [[&str; 13]; 2] = [
        [
            "policy",
            "imbalance",
            "+-",
            "/ bound",
            "tok/s",
            "balanced",
            "TPOT",
            "wait",
            "wait",
            "wait",
            "empty",
            "decide",
            "decide",
        ],
        [
            "",
            "G*max-sum",
            "sd",
            "",
            "",
            "%",
            "p95 ms",
            "ms",
            "p99 ms",
            "max ms",
            "slots %",
            "p50 us",
            "p99 us",
        ],
    ];
    let mut rows = HEAD.map(|row| row.map(str::to_owned).to_vec()).to_vec();
    let with_prefixes = runs.iter().any(|run| run.affinity.is_some());
    if with_prefixes {
        for (row, text) in rows.iter_mut().zip(["cached", "tokens %"]) {
            row.insert(1, text.to_owned());
        }
    }
    for runs in by_policy(runs) {
        let mean = |figure: fn(&Run) -> f64| over(runs, figure).mean;
        let time = |figure: fn(&Run) -> f64| over_served(runs, figure).mean;
        let imbalance = over(runs, |run| run.imbalance_mean);
        let bound = mean(|run| run.bound_imbalance);
        let mut row = vec![
            label(&runs[0]),
            short(imbalance.mean),
            short(imbalance.sd),
            if bound > 0.0 { format!("{:.2}", imbalance.mean / bound) } else { "-".to_owned() },
            format!("{:.0}", mean(|run| run.tokens_per_s)),
            format!("{:.2}", 100.0 * mean(|run| run.balanced_fraction)),
            format!("{:.2}", time(|run| run.tpot_ms.p95)),
            format!("{:.0}", time(|run| run.wait_ms.mean)),
            format!("{:.0}", time(|run| run.wait_ms.p99)),
            format!("{:.0}", over(runs, |run| run.wait_ms.max).max),
            format!("{:.2}", 100.0 * mean(|run| run.empty_slot_fraction)),
            format!("{:.1}", mean(|run| run.decide_us.p50)),
            format!("{:.1}", mean(|run| run.decide_us.p99)),
        ];
        if with_prefixes {
            row.insert(1, format!("{:.1}", 100.0 * mean(|run| run.cached_token_share.unwrap_or(0.0))));
        }
        rows.push(row);
    }
    Grid::new(rows, HEAD.len())
}

/// The second table, a row per policy: what was finished and preempted, how often somebody was passed, where
/// somebody did how many claimed a worker and how many entered meanwhile, waits in steps, and the 99th
/// percentile of those of each quarter of the prompts, shortest first.
#[must_use]
pub fn waits(runs: &[Run]) -> String {
    waits_grid(runs).show(Style::Plain)
}

fn waits_grid(runs: &[Run]) -> Grid {
    const HEAD: [[&str; 12]; 2] = [
        [
            "policy",
            "requests",
            "preempted",
            "passed",
            "steps",
            "steps",
            "steps",
            "steps",
            "p99 of",
            "p99 of",
            "p99 of",
            "p99 of",
        ],
        ["", "/s", "/finished", "max", "mean", "p99", "max", "oldest", "shortest", "2nd", "3rd", "longest"],
    ];
    const OF_CLAIMS: [[&str; 2]; 2] = [["claims", "admitted"], ["", "beside"]];
    const CLAIMS_AT: usize = 4;
    let mut rows = HEAD.map(|row| row.map(str::to_owned).to_vec()).to_vec();
    let with_claims = runs.iter().any(|run| run.claims > 0);
    if with_claims {
        for (row, of_claims) in rows.iter_mut().zip(OF_CLAIMS) {
            row.splice(CLAIMS_AT..CLAIMS_AT, of_claims.map(str::to_owned));
        }
    }
    for runs in by_policy(runs) {
        let mean = |figure: fn(&Run) -> f64| over(runs, figure).mean;
        let mut row = vec![
            label(&runs[0]),
            format!("{:.2}", mean(|run| run.requests_per_s)),
            format!("{:.3}", mean(|run| run.preempted_per_finished)),
            format!("{:.0}", over(runs, |run| run.passed_max as f64).max),
            format!("{:.0}", over_served(runs, |run| run.wait_steps.mean).mean),
            format!("{:.0}", over_served(runs, |run| run.wait_steps.p99).mean),
            format!("{:.0}", over(runs, |run| run.wait_steps.max as f64).max),
            format!("{:.0}", over(runs, |run| run.wait_steps.oldest as f64).max),
        ];
        row.extend(
            (0..4).map(|quarter| {
                format!("{:.0}", over(runs, |run| run.wait_by_length[quarter].steps_p99).mean)
            }),
        );
        if with_claims {
            let most = |figure: fn(&Run) -> f64| format!("{:.0}", over(runs, figure).max);
            let of_claims = [most(|run| run.claims as f64), most(|run| run.admitted_beside_claims as f64)];
            row.splice(CLAIMS_AT..CLAIMS_AT, of_claims);
        }
        rows.push(row);
    }
    Grid::new(rows, HEAD.len())
}

/// The third table, a row per policy: times of requests in ms.
#[must_use]
pub fn latencies(runs: &[Run]) -> String {
    latencies_grid(runs).show(Style::Plain)
}

fn latencies_grid(runs: &[Run]) -> Grid {
    const OF: [(&str, fn(&Run) -> Latency); 3] =
        [("TTFT", |run| run.ttft_ms), ("TPOT", |run| run.tpot_ms), ("end to end", |run| run.e2e_ms)];
    const FIGURES: [(&str, fn(Latency) -> f64); 3] =
        [("mean", |of| of.mean), ("p95", |of| of.p95), ("p99", |of| of.p99)];
    let columns = || OF.iter().flat_map(|&of| FIGURES.map(|figure| (of, figure)));
    let names = columns().map(|((of, _), _)| of.to_owned());
    let units = columns().map(|(_, (figure, _))| format!("{figure} ms"));
    let mut rows = vec![
        std::iter::once("policy".to_owned()).chain(names).collect::<Vec<_>>(),
        std::iter::once(String::new()).chain(units).collect(),
    ];
    for runs in by_policy(runs) {
        let cells = columns().map(|((_, of), (_, figure))| {
            let ms = over_served(runs, |run| figure(of(run))).mean;
            if ms < 1_000.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
        });
        rows.push(std::iter::once(label(&runs[0])).chain(cells).collect());
    }
    Grid::new(rows, 2)
}

/// A policy, and its affinity where prefix caches are in.
pub(super) fn label(run: &Run) -> String {
    match run.affinity {
        Some(weight) => format!("{} W={weight}", run.policy),
        None => run.policy.clone(),
    }
}

/// The lines that stand above the table: the workload, the settings that all policies share, what a trace is
/// like, and how much of what the cluster can serve is offered.
#[must_use]
pub fn heading(scenario: &Scenario) -> String {
    let arrivals = match scenario.arrivals {
        Arrivals::Closed => format!("closed, {} waiting", scenario.pool),
        Arrivals::Trace { rate_scale } => format!("open, the trace's times / {rate_scale}"),
        Arrivals::Poisson { per_second, requests } => {
            format!("open, {requests} requests at {per_second}/s (Poisson)")
        }
    };
    let steps = scenario.steps.map_or("to the end".to_owned(), |steps| format!("{steps} steps"));
    let mut text = format!(
        "{}: {} workers x {} slots, {arrivals}; {steps} after {} of warm-up, {} seeds",
        scenario.source.name(),
        scenario.workers,
        scenario.slots,
        scenario.warmup,
        scenario.seeds
    );
    if scenario.first_seed > 0 {
        let _ = write!(text, " from {}", scenario.first_seed);
    }
    if scenario.windows > 0 {
        let _ = write!(text, ", {} windows", scenario.windows);
    }
    if let Source::Trace(trace) = &scenario.source {
        let _ = write!(text, "\n{}", summary(trace, scenario.arrivals));
    }
    if let Some(load) = load(scenario) {
        let _ = write!(text, "\n{load}");
    }
    let published = StepCost {
        prefill_us_per_token: scenario.cost.prefill_us_per_token,
        ..StepCost::published(scenario.slots)
    };
    if scenario.cost != published {
        let _ = write!(text, "\nstep: {}", scenario.cost);
    }
    if scenario.stats_late_ms > 0.0 {
        let _ = write!(text, "\nstatistics are {} ms late", scenario.stats_late_ms);
    }
    if !scenario.affinity.is_empty() {
        let PrefixModel { cache_blocks } = scenario.prefix;
        let prefill_us_per_token = scenario.prefill_us_per_token();
        let _ = write!(
            text,
            "\nprefix caches of {cache_blocks} blocks of {BLOCK_TOKENS} tokens per worker; \
             {prefill_us_per_token} us per prompt token that is not cached, on the worker with most of them; \
             bonus W tokens per cached token"
        );
    } else if let Some(capacity) = scenario.kv_capacity_tokens {
        let _ = write!(
            text,
            "\n{capacity} KV tokens per worker; a preempted request that returns holds its worker up by \
             {} us per token",
            scenario.prefill_us_per_token()
        );
    }
    text.push('\n');
    text
}

/// The line below the table: the bound, and what happened to the requests.
#[must_use]
pub fn footing(runs: &[Run]) -> String {
    let sum = |figure: fn(&Run) -> u64| runs.iter().map(figure).sum::<u64>();
    let bound = Spread::of(runs.iter().map(|run| run.bound_imbalance)).mean;
    format!(
        "bound without knowledge of ends: {}. \
         All runs: {} requests in, {} done, {} waiting, {} active, {} lost, {} refused, {} preemptions\n\
         max and oldest are the greatest over the seeds\n",
        short(bound),
        sum(|run| run.requests_in),
        sum(|run| run.requests_done),
        sum(|run| run.requests_waiting),
        sum(|run| run.requests_active),
        sum(|run| run.requests_lost),
        sum(|run| run.requests_refused),
        sum(|run| run.preemptions),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_narrow() {
        let run = |policy: &str, imbalance_mean| Run {
            policy: policy.to_owned(),
            imbalance_mean,
            bound_imbalance: 17_000.0,
            tokens_per_s: 123_456.7,
            ..Run::default()
        };
        let text = table(&[
            run("sglang-total-tokens", 20_000.0),
            run("sglang-total-tokens", 22_000.0),
            run("b", 1e6),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.len() <= 120), "{text}");
        let text = waits(&[run("sglang-total-tokens", 20_000.0), run("b", 1e6)]);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.lines().all(|line| line.len() <= 120), "{text}");
        let slow = Latency { mean: 1_234.5, p99: 20_000.0, ..Latency::default() };
        let text = latencies(&[Run { e2e_ms: slow, ..run("sglang-total-tokens", 20_000.0) }]);
        assert!(text.lines().all(|line| line.len() <= 120) && text.trim_end().ends_with("20000"), "{text}");
        assert_eq!(text.split_whitespace().filter(|cell| *cell == "1234").count(), 1, "{text}");
        let of_claims = waits(&[Run { claims: 3, admitted_beside_claims: 40, ..run("b", 1e6) }]);
        assert!(!text.contains("beside") && of_claims.contains("beside"), "{of_claims}");
        assert_eq!(of_claims.lines().nth(2).and_then(|row| row.split_whitespace().nth(5)), Some("40"));
        assert!(
            lines[2].contains("21.0k") && lines[2].contains("1.41k") && lines[2].contains("1.24"),
            "{text}"
        );
    }
}
