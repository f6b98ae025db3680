//! What an evaluation comes to: sentences first, then a table of each cluster.

use std::fmt::Write as _;

use super::figures::short;
use super::legend;
use super::metric::{METRICS, Metric};
use super::page::{Grid, Page, Style};
use super::results::{
    BETWEEN, Difference, LargestRate, LargestRates, Limits, RateBound, RateDifference, Results, RuleFigures,
    ScenarioEntry, Verdict,
};
use super::trace::per_second;
use crate::cost::Prompts;

/// Findings that one sentence names.
const MOST_NAMED: usize = 4;
/// What people ask for first, by key of the metric; the others follow.
const FIRST: [&str; 4] = ["tokens_per_s", "goodput_requests_per_s", "ttft_p99_ms", "tpot_p99_ms"];
/// What most who run one engine for both have to know.
pub(crate) const PROMPTS_ELSEWHERE: &str =
    "Prompts are taken to be computed elsewhere (prefill nodes); if your ranks do it: --prompts worker.";
/// A relative difference above this is told by its two figures.
const MOST_RELATIVE: f64 = 1.0;

fn metric_of(difference: &Difference) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.key == difference.metric)
}

pub(crate) fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    let digits = if percent.abs() < 0.095 { 2 } else { 1 };
    format!("{percent:+.digits$} %")
}

/// A share of a load: `2.8 %`, `86 %`.
pub(crate) fn load(share: f64) -> String {
    let percent = 100.0 * share;
    let digits = if percent < 9.95 { 1 } else { 0 };
    format!("{percent:.digits$} %")
}

/// A figure with its unit.
pub(crate) fn figure(metric: &Metric, value: f64) -> String {
    match metric.unit {
        "" => format!("{:.1} %", 100.0 * value),
        "ms" if value.abs() < 99.95 => format!("{value:.1} ms"),
        "ms" => format!("{} ms", short(value)),
        "requests/s" => per_second(value),
        unit => format!("{} {unit}", short(value)),
    }
}

/// `p99 TTFT -12.0 % (-14.1 to -9.9)`, or from which figure to which.
fn finding(difference: &Difference) -> String {
    let Some(metric) = metric_of(difference) else { return String::new() };
    match (difference.relative, difference.relative_low, difference.relative_high) {
        (Some(relative), Some(low), Some(high)) if relative.abs() <= MOST_RELATIVE => {
            format!("{} {} ({:+.1} to {:+.1})", metric.label, percent(relative), 100.0 * low, 100.0 * high)
        }
        _ => {
            let (from, to) = (difference.base, difference.base + difference.mean);
            format!("{} {} instead of {}", metric.label, figure(metric, to), figure(metric, from))
        }
    }
}

fn findings(of: &[&Difference]) -> String {
    let named: Vec<String> = of.iter().take(MOST_NAMED).map(|difference| finding(difference)).collect();
    let mut text = named.join(", ");
    if of.len() > MOST_NAMED {
        // Writing to a string cannot fail.
        let _ = write!(text, " and {} more", of.len() - MOST_NAMED);
    }
    text
}

/// `TTFT 2 s and TPOT 50 ms for 99 % of the requests`.
pub(crate) fn limits(limits: &Limits) -> String {
    let time = |ms: f64| if ms >= 1e3 { format!("{} s", ms / 1e3) } else { format!("{ms} ms") };
    let named: Vec<String> =
        [("TTFT", limits.ttft_ms), ("TPOT", limits.tpot_ms), ("end to end", limits.e2e_ms)]
            .into_iter()
            .filter_map(|(name, limit)| Some(format!("{name} {}", time(limit?))))
            .collect();
    format!("{} for {} of the requests", named.join(" and "), load(limits.share))
}

/// What the trace offers of what the cluster can serve.
fn offered(results: &Results, scenarios: &[&ScenarioEntry]) -> String {
    let Some(first) = scenarios.first() else { return String::new() };
    let name = results.sources.get(first.source).map_or("", |source| source.name.as_str());
    let capacity = per_second(first.capacity_requests_per_s);
    let cluster = format!("{name} on {} workers x {} slots", first.workers, first.slots);
    let Some(own) = scenarios.iter().find(|scenario| scenario.rate.own) else {
        return format!("{cluster}: the cluster can serve {capacity} in perfect balance.");
    };
    let what = match own.rate.offered_load {
        share if share < 0.5 => " Slots are free nearly all of the time.",
        share if share < 0.95 => "",
        share if share < 1.0 => " It is close to full.",
        _ => " More comes than it can serve: queues grow for as long as that lasts.",
    };
    format!(
        "{cluster}: at its own rate of {} it offers {} of what the cluster can serve ({capacity} in perfect \
         balance).{what}",
        per_second(own.rate.requests_per_s),
        load(own.rate.offered_load)
    )
}

/// What changes with a rule at one rate.
pub(crate) fn at_rate(scenario: &ScenarioEntry, rule: &str, against: &str) -> Option<String> {
    let of = |verdict: Verdict| -> Vec<&Difference> {
        let is = |difference: &&Difference| difference.rule == rule && difference.verdict == verdict;
        let mut found: Vec<&Difference> = scenario.differences.iter().filter(is).collect();
        found.sort_by_key(|difference| {
            FIRST.iter().position(|key| *key == difference.metric).unwrap_or(FIRST.len())
        });
        found
    };
    let (better, worse, ties, unknown) =
        (of(Verdict::Better), of(Verdict::Worse), of(Verdict::Tie), of(Verdict::Unknown));
    let all = better.len() + worse.len() + ties.len() + unknown.len();
    if all == 0 {
        return None;
    }
    let rate = if scenario.rate.own { "its own rate" } else { &scenario.rate.label };
    let mut text = format!("At {rate} {rule} beside {against}: ");
    if !unknown.is_empty() {
        text.push_str("too few runs for a verdict.");
    } else if better.is_empty() && worse.is_empty() {
        let _ = write!(text, "a tie in all {all} figures.");
    } else {
        let mut parts = Vec::new();
        for (word, of) in [("better", &better), ("worse", &worse)] {
            if !of.is_empty() {
                parts.push(format!("{word} in {}", findings(of)));
            }
        }
        if !ties.is_empty() {
            parts.push(format!("a tie in {} of {all} figures", ties.len()));
        }
        let _ = write!(text, "{}.", parts.join("; "));
    }
    Some(text)
}

fn bears(rate: &LargestRate) -> String {
    if let Some((from, to)) = rate.far_between() {
        let (from, to) = (per_second(from), per_second(to));
        return format!("{} bears {from} and not {to}, and nothing was played between", rate.rule);
    }
    let mut text = match rate.bound {
        Some(RateBound::Below) => {
            return format!("{} does not bear even {}", rate.rule, per_second(rate.requests_per_s));
        }
        Some(RateBound::AtLeast) => {
            format!("{} bears at least {}", rate.rule, per_second(rate.requests_per_s))
        }
        None => format!("{} bears {}", rate.rule, per_second(rate.requests_per_s)),
    };
    if rate.bound.is_none() {
        // Writing to a string cannot fail.
        let _ = match (rate.low, rate.high) {
            (Some(low), Some(high)) => write!(text, " ({} to {})", per_second(low), per_second(high)),
            (Some(low), None) => write!(text, " ({} to beyond what was played)", per_second(low)),
            (None, Some(high)) => write!(text, " (at most {})", per_second(high)),
            (None, None) => Ok(()),
        };
    }
    let _ = write!(text, ", {} of capacity", load(rate.of_capacity));
    text
}

/// `+14.6 % for level (+11.0 to +18.2)`.
fn bears_more(difference: &RateDifference) -> Option<String> {
    let least = if difference.bound == Some(RateBound::AtLeast) { "at least " } else { "" };
    let mut text = format!("{least}{} for {}", percent(difference.relative?), difference.rule);
    // Writing to a string cannot fail.
    let _ = match (difference.low, difference.high) {
        (Some(low), Some(high)) => write!(text, " ({:+.1} to {:+.1})", 100.0 * low, 100.0 * high),
        (Some(low), None) => write!(text, " ({:+.1} to more than was played)", 100.0 * low),
        _ => Ok(()),
    };
    if difference.verdict == Verdict::Tie {
        text.push_str(", a tie");
    }
    Some(text)
}

/// How much load the rules bear within the limits.
fn largest(results: &Results, rates: &LargestRates) -> Option<String> {
    let within = results.arguments.slo.as_ref().map(limits)?;
    let borne: Vec<String> = rates.rules.iter().map(bears).collect();
    let mut text = format!("Within the limits ({within}) {}.", borne.join("; "));
    let is_known =
        |rule: &str| rates.rules.iter().any(|rate| rate.rule == rule && rate.far_between().is_none());
    let known = rates.differences.iter().filter(|of| is_known(&of.rule) && is_known(&of.against));
    let more: Vec<String> = known.filter_map(bears_more).collect();
    if let (Some(first), false) = (rates.rules.first(), more.is_empty()) {
        let _ = write!(text, " Beside {} that is {}.", first.rule, more.join("; "));
    }
    Some(text)
}

/// Where a rule is worse than the first, and by how much.
fn worse(scenarios: &[&ScenarioEntry], rule: &str, against: &str) -> String {
    let mut found: Vec<(&ScenarioEntry, &Difference)> = scenarios
        .iter()
        .flat_map(|scenario| scenario.differences.iter().map(move |difference| (*scenario, difference)))
        .filter(|(_, difference)| difference.rule == rule && difference.verdict == Verdict::Worse)
        .collect();
    if found.is_empty() {
        return format!("Nowhere is {rule} shown to be worse than {against}.");
    }
    let size = |difference: &Difference| difference.relative.map_or(f64::INFINITY, f64::abs);
    found.sort_by(|(_, a), (_, b)| size(b).total_cmp(&size(a)));
    let named: Vec<String> = found
        .iter()
        .take(MOST_NAMED)
        .map(|(scenario, difference)| format!("at {} {}", scenario.rate.label, finding(difference)))
        .collect();
    let more = found.len().saturating_sub(MOST_NAMED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{rule} is worse than {against}: {}{more}.", named.join("; "))
}

/// The scenarios of each source and cluster.
pub(crate) fn clusters(results: &Results) -> Vec<Vec<&ScenarioEntry>> {
    let scenarios: Vec<&ScenarioEntry> = results.scenarios.iter().collect();
    let cluster = |of: &&ScenarioEntry| (of.source, of.workers, of.slots);
    scenarios.chunk_by(|a, b| cluster(a) == cluster(b)).map(<[&ScenarioEntry]>::to_vec).collect()
}

/// What is told of a cluster first: its own rate, or the rate at which every slot is full, and then the
/// greatest. Where slots are free little can change: what happens when they are not is told as well.
pub(crate) fn told<'a>(scenarios: &[&'a ScenarioEntry]) -> Vec<&'a ScenarioEntry> {
    let full = |scenario: &&&ScenarioEntry| scenario.rate.offered_load < 1.0 + 1e-9;
    let own = scenarios.iter().find(|scenario| scenario.rate.own);
    let shown = own.or_else(|| scenarios.iter().rfind(full)).or_else(|| scenarios.first());
    let busiest = scenarios.last().filter(|busiest| shown.is_some_and(|shown| shown.id != busiest.id));
    shown.into_iter().chain(busiest).copied().collect()
}

/// The verdict on one cluster, whose scenarios these are.
pub(crate) fn on_cluster(results: &Results, scenarios: &[&ScenarioEntry]) -> Vec<String> {
    let mut sentences = vec![offered(results, scenarios)];
    let Some((first, others)) = results.arguments.rules.split_first() else { return sentences };
    for scenario in told(scenarios) {
        sentences.extend(others.iter().filter_map(|rule| at_rate(scenario, &rule.name, &first.name)));
    }
    sentences.extend(rates_of(results, scenarios).and_then(|rates| largest(results, rates)));
    for rule in others {
        sentences.push(worse(scenarios, &rule.name, &first.name));
    }
    if results.arguments.prompts == Prompts::Elsewhere.name() {
        sentences.push(PROMPTS_ELSEWHERE.to_owned());
    }
    // Those of the greatest rate stand for the others.
    sentences.extend(scenarios.last().into_iter().flat_map(|scenario| scenario.notes.iter().cloned()));
    sentences
}

/// The largest rates on the cluster of some scenarios.
pub(crate) fn rates_of<'a>(results: &'a Results, scenarios: &[&ScenarioEntry]) -> Option<&'a LargestRates> {
    let first = scenarios.first()?;
    let cluster = (first.source, first.workers, first.slots);
    results.largest_rates.iter().find(|of| (of.source, of.workers, of.slots) == cluster)
}

/// How much of an evaluation that was interrupted is there.
pub(crate) fn interrupted(results: &Results) -> Option<String> {
    let Results { runs_done, runs_planned, .. } = *results;
    (!results.complete)
        .then(|| format!("Of {runs_planned} runs {runs_done} are done; this is what they say."))
}

/// The verdict: for each cluster how loaded it is, what changes at its own rate, how much more it bears, and
/// where a rule is worse.
#[must_use]
pub fn sentences(results: &Results) -> Vec<String> {
    let clusters = clusters(results);
    let verdicts = clusters.iter().flat_map(|scenarios| on_cluster(results, scenarios));
    interrupted(results).into_iter().chain(verdicts).collect()
}

/// One table of a cluster: a line for each rate and rule.
fn table(scenarios: &[&ScenarioEntry], with_limits: bool) -> Grid {
    let shown: Vec<&Metric> = METRICS
        .iter()
        .filter(|metric| with_limits || metric.key != "goodput_requests_per_s")
        .filter(|metric| {
            // What is 0 everywhere needs no column.
            let zero = |rule: &RuleFigures| rule.figures.get(metric.key).is_none_or(|of| of.mean == 0.0);
            !scenarios.iter().flat_map(|scenario| &scenario.rules).all(zero)
        })
        .collect();
    let head = ["offered", "rule"].map(str::to_owned).into_iter();
    let mut rows = vec![head.chain(shown.iter().map(|metric| metric.name.to_owned())).collect::<Vec<_>>()];
    for scenario in scenarios.iter().filter(|scenario| scenario.rate.asked != BETWEEN) {
        for rule in &scenario.rules {
            let offered = load(scenario.rate.offered_load);
            let offered = if scenario.rate.own { format!("own {offered}") } else { offered };
            let mut row = vec![offered, rule.rule.clone()];
            for metric in &shown {
                let Some(of) = rule.figures.get(metric.key) else {
                    row.push("- ".to_owned());
                    continue;
                };
                let is = |difference: &&Difference| {
                    difference.rule == rule.rule && difference.metric == metric.key
                };
                let mark = match scenario.differences.iter().find(is).map(|of| of.verdict) {
                    Some(Verdict::Better) => '+',
                    Some(Verdict::Worse) => '-',
                    Some(Verdict::Unknown) => '?',
                    Some(Verdict::Tie) | None => ' ',
                };
                row.push(format!("{}{mark}", cell(metric, of.mean)));
            }
            rows.push(row);
        }
    }
    Grid::new(rows, 1)
}

/// A figure without its unit, as tables have it.
pub(crate) fn cell(metric: &Metric, value: f64) -> String {
    match metric.unit {
        "" => format!("{:.2}%", 100.0 * value),
        "KV tokens" => short(value),
        _ if value.abs() < 9.995 => format!("{value:.2}"),
        _ if value.abs() < 999.5 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Verdict and tables.
#[must_use]
pub fn text(results: &Results) -> String {
    page(results, false).show(Style::Plain)
}

/// Verdict and tables; with what the names of the columns mean where that is asked for.
#[must_use]
pub fn page(results: &Results, with_legend: bool) -> Page {
    let mut page = Page::new().text(results.sentences.join("\n") + "\n");
    let mut names = Vec::new();
    let rules = &results.arguments.rules;
    for scenarios in clusters(results) {
        let Some(first) = scenarios.first() else { continue };
        let name = results.sources.get(first.source).map_or("", |source| source.name.as_str());
        let kv = first.kv_capacity_tokens.map_or(String::new(), |kv| format!(", {kv} KV tokens each"));
        let caption = format!(
            "{name}: {} workers x {} slots{kv}; means of {} {}s; times in ms\n",
            first.workers, first.slots, first.replicates, first.replicate
        );
        let grid = table(&scenarios, results.arguments.slo.is_some());
        names.extend(grid.names());
        page = page.captioned(caption, grid);
    }
    let mut text = String::new();
    if let (Some(first), true) = (rules.first(), rules.len() > 1) {
        let _ = writeln!(
            text,
            "+ better, - worse than {} in the same windows or draws, paired, 95 % by Student's t, Holm over \
             the figures; neither: a tie; ?: too few",
            first.name
        );
    }
    for gate in &results.gate {
        let word = if gate.holds { "holds" } else { "does not hold" };
        let _ = writeln!(text, "gate {}: {word}", gate.expression);
        for failure in &gate.failures {
            let _ = writeln!(text, "  {failure}");
        }
    }
    if !text.is_empty() {
        page = page.text(text);
    }
    if with_legend { page.legend(legend::of_verdict(&names)) } else { page }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::results::RateEntry;

    fn difference(metric: &str, verdict: Verdict, base: f64, mean: f64) -> Difference {
        let over = |value: f64| (base != 0.0).then(|| value / base);
        let half = mean.abs() / 4.0;
        Difference {
            rule: "level".to_owned(),
            against: "today".to_owned(),
            metric: metric.to_owned(),
            pairs: 12,
            mean,
            low: Some(mean - half),
            high: Some(mean + half),
            sd: 1.0,
            base,
            relative: over(mean),
            relative_low: over(mean - half),
            relative_high: over(mean + half),
            p: Some(0.01),
            p_holm: Some(0.01),
            verdict,
        }
    }

    fn scenario(own: bool, label: &str, differences: Vec<Difference>) -> ScenarioEntry {
        ScenarioEntry {
            id: "s000".to_owned(),
            source: 0,
            workers: 8,
            slots: 72,
            kv_capacity_tokens: None,
            rate: RateEntry {
                asked: "own".to_owned(),
                label: label.to_owned(),
                own,
                requests_per_s: 5.0,
                rate_scale: Some(1.0),
                offered_load: 0.5,
            },
            capacity_requests_per_s: 10.0,
            running_per_worker: 72.0,
            step_base_ms: 5.0,
            replicate: "window".to_owned(),
            replicates: 12,
            command: String::new(),
            complete: true,
            requests_file: None,
            series_file: None,
            notes: Vec::new(),
            rules: Vec::new(),
            differences,
        }
    }

    #[test]
    fn what_changes_is_named_with_its_interval() {
        let of = |differences| at_rate(&scenario(true, "own rate", differences), "level", "today");
        let changes = vec![
            difference("imbalance_tokens", Verdict::Better, 1_000.0, -500.0),
            difference("tokens_per_s", Verdict::Better, 1_000.0, 40.0),
            difference("wait_p99_ms", Verdict::Worse, 2.0, 30.0),
            difference("preempted", Verdict::Tie, 0.0, 0.0),
        ];
        assert_eq!(
            of(changes).as_deref(),
            Some(
                "At its own rate level beside today: better in tokens/s +4.0 % (+3.0 to +5.0), imbalance \
                 -50.0 % (-62.5 to -37.5); worse in p99 wait 32.0 ms instead of 2.0 ms; a tie in 1 of 4 \
                 figures."
            )
        );
        let ties = vec![difference("tokens_per_s", Verdict::Tie, 1_000.0, 0.1)];
        assert_eq!(of(ties).as_deref(), Some("At its own rate level beside today: a tie in all 1 figures."));
        let unknown = vec![difference("tokens_per_s", Verdict::Unknown, 1_000.0, 0.1)];
        assert!(of(unknown).is_some_and(|text| text.ends_with("too few runs for a verdict.")));
        assert_eq!(of(Vec::new()), None);
    }

    #[test]
    fn where_a_rule_is_worse_is_told_wherever_it_is() {
        let fine = scenario(true, "own rate", vec![difference("tokens_per_s", Verdict::Better, 10.0, 1.0)]);
        assert_eq!(worse(&[&fine], "level", "today"), "Nowhere is level shown to be worse than today.");
        let bad = |by| vec![difference("tokens_per_s", Verdict::Worse, 100.0, by)];
        let (bad, worst) =
            (scenario(false, "80 % of capacity", bad(-2.0)), scenario(false, "9/s", bad(-8.0)));
        assert_eq!(
            worse(&[&fine, &bad, &worst], "level", "today"),
            "level is worse than today: at 9/s tokens/s -8.0 % (-10.0 to -6.0); at 80 % of capacity tokens/s \
             -2.0 % (-2.5 to -1.5)."
        );
    }

    #[test]
    fn a_rate_that_is_borne_has_its_doubt() {
        let rate = |bound, low, high| LargestRate {
            rule: "level".to_owned(),
            requests_per_s: 12.0,
            low,
            high,
            of_capacity: 0.8,
            bound,
            between: None,
        };
        assert_eq!(
            bears(&rate(None, Some(11.0), Some(13.0))),
            "level bears 12.0/s (11.0/s to 13.0/s), 80 % of capacity"
        );
        let beyond = bears(&rate(None, Some(11.0), None));
        assert_eq!(beyond, "level bears 12.0/s (11.0/s to beyond what was played), 80 % of capacity");
        let most = bears(&rate(Some(RateBound::AtLeast), Some(12.0), None));
        assert_eq!(most, "level bears at least 12.0/s, 80 % of capacity");
        let far = LargestRate { between: Some((3.0, 13.5)), ..rate(None, Some(3.0), Some(13.5)) };
        assert_eq!(bears(&far), "level bears 3.00/s and not 13.5/s, and nothing was played between");
        let near = LargestRate { between: Some((11.5, 13.0)), ..rate(None, Some(11.5), Some(13.0)) };
        assert!(bears(&near).starts_with("level bears 12.0/s (11.5/s to 13.0/s)"));
        let none = bears(&rate(Some(RateBound::Below), None, Some(12.0)));
        assert_eq!(none, "level does not bear even 12.0/s");
    }
}
