//! What the names of columns mean: one line each, below a table where that is asked for.

use super::metric::METRICS;

/// A column, by its name on one line, and what it is.
pub(crate) type Entry = (&'static str, &'static str);

/// Columns of `simulate`.
pub(super) const SIMULATE: [Entry; 35] = [
    ("policy", "the rule; W is the bonus of a cached prefix token"),
    ("cached tokens %", "prompt tokens that were cached on the worker which their request entered"),
    (
        "imbalance G*max-sum",
        "workers times the greatest load minus the sum of loads, in KV tokens: mean over steps",
    ),
    ("+- sd", "its standard deviation over the seeds"),
    ("/ bound", "imbalance over what no rule without knowledge of ends can go below"),
    ("tok/s", "tokens generated per simulated second, idle time included"),
    ("balanced %", "tokens per second, of those of perfect balance on the same loads"),
    ("TPOT p95 ms", "time per output token: from first admission to the last token"),
    ("wait ms", "from arrival to admission, in simulated ms: the mean"),
    ("wait p99 ms", "99 of 100 requests wait no longer"),
    ("wait max ms", "the longest, served or still waiting at the end, of all seeds"),
    ("empty slots %", "slots left empty after admission, of all"),
    ("decide p50 us", "wall-clock time of a decision in us: the median"),
    ("decide p99 us", "wall-clock time of a decision in us: 99 of 100 take no longer"),
    ("requests /s", "requests that ended per simulated second"),
    ("preempted /finished", "requests given back by a full KV cache, for each that ended"),
    ("passed max", "the most that came later and were admitted before one that waited"),
    ("claims", "how often an overdue request that fitted nowhere claimed a worker"),
    ("admitted beside", "admissions meanwhile"),
    ("steps mean", "waits in decode steps"),
    ("steps p99", "99 of 100 requests wait no longer, in steps"),
    ("steps max", "the longest in steps, served or still waiting at the end, of all seeds"),
    ("steps oldest", "the longest in steps of those still waiting at the end"),
    (
        "p99 of shortest",
        "p99 of the waits in steps, of the quarter of the requests with the shortest prompts",
    ),
    ("p99 of 2nd", "of the second quarter"),
    ("p99 of 3rd", "of the third quarter"),
    ("p99 of longest", "of the quarter with the longest prompts"),
    ("TTFT mean ms", "time to first token: from arrival to the end of the step that admitted it"),
    ("TTFT p95 ms", "its 95th percentile"),
    ("TTFT p99 ms", "its 99th percentile"),
    ("TPOT mean ms", "time per output token"),
    ("TPOT p99 ms", "its 99th percentile"),
    ("end to end mean ms", "from arrival to the last token"),
    ("end to end p95 ms", "its 95th percentile"),
    ("end to end p99 ms", "its 99th percentile"),
];

/// Columns of `settings`.
pub(crate) const SETTINGS: [Entry; 12] = [
    ("imbalance", "workers times the greatest load minus the sum of loads, in KV tokens: mean over steps"),
    ("+- sd", "its standard deviation over the runs"),
    ("ratio", "imbalance over that of the last policy"),
    ("tok/s", "tokens generated per simulated second"),
    ("req/s", "requests that ended per simulated second"),
    ("TPOT p95 ms", "time per output token: from first admission to the last token"),
    ("wait p99 ms", "from arrival to admission: 99 of 100 wait no longer"),
    ("wait max ms", "the longest wait"),
    ("wait p99", "in decode steps"),
    ("wait max", "in decode steps"),
    ("passed max", "the most that came later and were admitted before one that waited"),
    ("preempted /finished", "requests given back by a full KV cache, for each that ended"),
];

/// Columns of `forecast`.
pub(crate) const FORECAST: [Entry; 5] = [
    ("classifier", "what predicts ends"),
    ("samples", "looks at a running request, some steps apart"),
    ("end within", "of these, how many end within the horizon"),
    ("AUC", "how well it tells those from the others: 1 always, 0.5 not at all"),
    ("MAE steps", "how far off it is where it tells when, in steps"),
];

/// Columns of `optimum`.
pub(crate) const OPTIMUM: [Entry; 9] = [
    ("policy", "the rule"),
    (
        "imbalance of the run",
        "workers times the greatest load minus the sum of loads, in KV tokens: mean over steps",
    ),
    ("/ bound", "that over about the least that is possible without knowledge of ends"),
    ("decisions solved", "sampled steps whose best decision was found"),
    ("optimal %", "of these, how many left no more imbalance than the best"),
    ("left by them", "imbalance that the decisions left in their steps, in KV tokens"),
    ("least possible", "imbalance that the best decisions would have left there"),
    ("above mean", "the difference: its mean"),
    ("above p95", "the difference: its 95th percentile"),
];

/// Columns of `recommend`.
pub(super) const SIZING: [Entry; 9] = [
    ("slots", "batch slots of a worker"),
    ("rule", "who decides"),
    ("workers (95 %)", "the fewest that keep the limits, and what the windows leave open"),
    ("offered load", "requests that come, of what that cluster can serve in perfect balance"),
    ("kept", "requests that keep all limits there"),
    ("kept with one less", "with one worker fewer"),
    ("TTFT p99 ms", "from arrival to the end of the step that admitted a request: mean over the windows"),
    ("TPOT p99 ms", "from admission to the last token, over its tokens"),
    ("tok/s a worker", "tokens generated per simulated second, over the workers"),
];

/// Columns of `sweep` beside those that vary.
pub(crate) const SWEEP: [Entry; 9] = [
    ("policy", "the rule"),
    (
        "imbalance G*max-sum",
        "workers times the greatest load minus the sum of loads, in KV tokens: mean over steps",
    ),
    ("+- sd", "the standard deviation of the figure before it over the runs"),
    ("tok/s", "tokens generated per simulated second, idle time included"),
    ("TPOT p95 ms", "time per output token: from first admission to the last token"),
    ("wait ms p99", "from arrival to admission: 99 of 100 wait no longer"),
    ("wait ms max", "the longest, served or still waiting at the end"),
    ("preempted /finished", "requests given back by a full KV cache, for each that ended"),
    ("empty slots %", "slots left empty after admission, of all"),
];

/// Those that explain columns which are there, in the order of the columns.
pub(crate) fn of(entries: &'static [Entry], names: &[String]) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    for name in names {
        let entry = entries.iter().find(|(known, _)| known == name);
        found.extend(entry.filter(|entry| !found.contains(entry)));
    }
    found
}

/// The columns of `evaluate` that are there: of each metric what it is, in what, and which of two is better.
pub(super) fn of_verdict(names: &[String]) -> Vec<(String, String)> {
    let mut entries = vec![
        (
            "offered".to_owned(),
            "requests that come, of what the cluster can serve in perfect balance".to_owned(),
        ),
        ("rule".to_owned(), "the first is what all are set beside".to_owned()),
    ];
    for metric in METRICS.iter().filter(|metric| names.iter().any(|name| name == metric.name)) {
        let unit = if metric.unit.is_empty() { "a share" } else { metric.unit };
        let better = if metric.more_is_better { "more" } else { "less" };
        entries.push((metric.name.to_owned(), format!("{} in {unit}; {better} is better", metric.label)));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Run, Scenario};
    use crate::report::page::Style;

    #[test]
    fn every_column_of_a_comparison_is_explained_and_nothing_else() {
        let run = Run { policy: "level".to_owned(), claims: 1, affinity: Some(1.0), ..Run::default() };
        let page = crate::report::simulation(&Scenario::default(), &[run], true).show(Style::Markdown);
        let tables: Vec<&str> = page.lines().filter(|line| line.starts_with('|')).collect();
        let cells = |line: &str| -> Vec<String> {
            line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
        };
        // Three tables of names, a rule and one run each, then the legend.
        let names: Vec<String> = [0, 3, 6].into_iter().flat_map(|at| cells(tables[at])).collect();
        let explained: Vec<String> = tables[11..].iter().map(|line| cells(line)[0].clone()).collect();
        for name in &names {
            assert!(explained.contains(name), "{name} is not explained: {explained:?}");
        }
        assert_eq!(explained.len(), SIMULATE.len(), "{explained:?}");
    }

    #[test]
    fn what_is_not_there_is_not_explained() {
        let names = ["imbalance", "nothing", "imbalance", "tok/s"].map(str::to_owned);
        assert_eq!(
            of(&SETTINGS, &names).iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["imbalance", "tok/s"]
        );
        let entries = of_verdict(&["offered", "rule", "goodput"].map(str::to_owned));
        assert_eq!(entries[2].1, "goodput in requests/s; more is better");
        assert_eq!(entries.len(), 3);
    }
}
