//! Tables of a page: figures, differences, largest rates, and what was asked for.

use serde::Serialize;

use crate::report::metric::{METRICS, Metric};
use crate::report::results::{
    Difference, Interval, LargestRate, LargestRates, RateBound, Results, RuleFigures, ScenarioEntry,
    SourceEntry, Verdict,
};
use crate::report::verdict::{cell, figure, load, percent};
use crate::report::{duration, per_second, short};
use crate::traces::Lengths;

/// A table that can be sorted by each of its columns.
#[derive(Debug, Default, Serialize)]
pub(super) struct Table {
    pub(super) caption: String,
    pub(super) head: Vec<Head>,
    pub(super) rows: Vec<Vec<Cell>>,
}

/// The head of a column.
#[derive(Debug, Serialize)]
pub(super) struct Head {
    pub(super) text: String,
    pub(super) unit: String,
    pub(super) is_text: bool,
}

/// One field.
#[derive(Debug, Default, Serialize)]
pub(super) struct Cell {
    pub(super) text: String,
    /// Below it, smaller.
    pub(super) below: Option<String>,
    /// What it is sorted by.
    pub(super) by: Option<f64>,
    /// `better` or `worse`.
    pub(super) verdict: Option<&'static str>,
    pub(super) is_text: bool,
}

impl Cell {
    fn number(text: String, by: f64) -> Self {
        Self { text, by: Some(by), ..Self::default() }
    }

    fn words(text: &str) -> Self {
        Self { text: text.to_owned(), is_text: true, ..Self::default() }
    }

    fn nothing() -> Self {
        Self { text: "\u{2013}".to_owned(), ..Self::default() }
    }
}

pub(super) fn head(text: &str, unit: &str) -> Head {
    Head { text: text.to_owned(), unit: unit.to_owned(), is_text: false }
}

fn text_head(text: &str) -> Head {
    Head { is_text: true, ..head(text, "") }
}

/// What is said of a verdict, where it is not nothing.
pub(super) fn mark(verdict: Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::Better => Some("better"),
        Verdict::Worse => Some("worse"),
        Verdict::Tie | Verdict::Unknown => None,
    }
}

/// `own 2.8 %`, `80 %`.
fn offered(scenario: &ScenarioEntry) -> Cell {
    let share = scenario.rate.offered_load;
    let text = if scenario.rate.own { format!("own {}", load(share)) } else { load(share) };
    Cell::number(text, share)
}

/// `(+3.0 to +5.0)` of a difference as a share.
pub(super) fn bounds(low: Option<f64>, high: Option<f64>) -> Option<String> {
    Some(format!("{:+.1} to {:+.1}", 100.0 * low?, 100.0 * high?))
}

/// Metrics that are not 0 everywhere.
fn shown(scenarios: &[&ScenarioEntry]) -> Vec<&'static Metric> {
    let zero =
        |metric: &Metric, rule: &RuleFigures| rule.figures.get(metric.key).is_none_or(|of| of.mean == 0.0);
    let all = |metric: &Metric| scenarios.iter().flat_map(|of| &of.rules).all(|rule| zero(metric, rule));
    METRICS.iter().filter(|metric| !all(metric)).collect()
}

/// A metric as the head of a column.
fn metric_head(metric: &Metric) -> Head {
    let unit = match (metric.unit, metric.name) {
        ("", _) => "%",
        ("tokens/s" | "requests/s", _) => "",
        (unit, _) => unit,
    };
    head(metric.name, unit)
}

/// What a mean lies between.
fn doubt(metric: &Metric, of: &Interval) -> Option<String> {
    Some(format!("{} to {}", cell(metric, of.low?), cell(metric, of.high?)))
}

/// Means of all rules at all rates.
pub(super) fn figures(scenarios: &[&ScenarioEntry]) -> Table {
    let metrics = shown(scenarios);
    let mut table = Table {
        caption: "Means, with 95 % intervals; better and worse beside the first rule".to_owned(),
        ..Table::default()
    };
    table.head = vec![text_head("rule"), head("offered", "")];
    table.head.extend(metrics.iter().map(|metric| metric_head(metric)));
    for scenario in scenarios {
        for rule in &scenario.rules {
            let mut row = vec![Cell::words(&rule.rule), offered(scenario)];
            for metric in &metrics {
                let Some(of) = rule.figures.get(metric.key) else {
                    row.push(Cell::nothing());
                    continue;
                };
                let is = |of: &&Difference| of.rule == rule.rule && of.metric == metric.key;
                let verdict = scenario.differences.iter().find(is).and_then(|of| mark(of.verdict));
                let text = cell(metric, of.mean).trim_end_matches('%').to_owned();
                let below = doubt(metric, of).map(|text| text.replace('%', ""));
                row.push(Cell { below, verdict, ..Cell::number(text, of.mean) });
            }
            table.rows.push(row);
        }
    }
    table
}

/// A difference as a field: a share of the base with its interval, or from which figure to which.
pub(super) fn difference(metric: &Metric, of: &Difference) -> Cell {
    let verdict = mark(of.verdict);
    if of.mean == 0.0 && of.sd == 0.0 {
        return Cell::number("0".to_owned(), 0.0);
    }
    match of.relative {
        Some(relative) if relative.abs() <= 1.0 => Cell {
            below: bounds(of.relative_low, of.relative_high),
            verdict,
            ..Cell::number(percent(relative), relative)
        },
        Some(relative) => {
            let (to, from) = (figure(metric, of.base + of.mean), figure(metric, of.base));
            Cell { below: Some(format!("from {from}")), verdict, ..Cell::number(to, relative) }
        }
        None => {
            let to = figure(metric, of.mean);
            Cell { below: Some("from 0".to_owned()), verdict, ..Cell::number(to, f64::MAX.copysign(of.mean)) }
        }
    }
}

/// What a row of differences is of, and the differences.
pub(super) struct Beside<'a> {
    pub(super) offered: f64,
    pub(super) is_own: bool,
    pub(super) rule: String,
    pub(super) differences: Vec<&'a Difference>,
}

/// Differences: a row a rate and rule, a column a metric.
pub(super) fn differences(caption: &str, rows: &[Beside<'_>]) -> Table {
    let there = |metric: &&Metric| {
        let of = rows.iter().flat_map(|row| &row.differences).filter(|of| of.metric == metric.key);
        of.into_iter().any(|of| of.mean != 0.0 || of.base != 0.0)
    };
    let metrics: Vec<&Metric> = METRICS.iter().filter(there).collect();
    let mut table = Table { caption: caption.to_owned(), ..Table::default() };
    table.head = vec![text_head("rule"), head("offered", "")];
    table.head.extend(metrics.iter().map(|metric| head(metric.name, "")));
    for row in rows {
        let share = load(row.offered);
        let share = if row.is_own { format!("own {share}") } else { share };
        let mut cells = vec![Cell::words(&row.rule), Cell::number(share, row.offered)];
        cells.extend(metrics.iter().map(|metric| {
            let of = row.differences.iter().find(|of| of.metric == metric.key);
            of.map_or_else(Cell::nothing, |of| difference(metric, of))
        }));
        table.rows.push(cells);
    }
    table
}

/// All rules beside the first, at all rates.
pub(super) fn beside_first(results: &Results, scenarios: &[&ScenarioEntry]) -> Option<Table> {
    let (first, others) = results.arguments.rules.split_first()?;
    let mut rows = Vec::new();
    for scenario in scenarios {
        for rule in others {
            let of = scenario.differences.iter().filter(|of| of.rule == rule.name);
            let differences: Vec<&Difference> = of.collect();
            if !differences.is_empty() {
                let (offered, is_own) = (scenario.rate.offered_load, scenario.rate.own);
                rows.push(Beside { offered, is_own, rule: rule.name.clone(), differences });
            }
        }
    }
    let caption = format!("Differences to {}, paired, with 95 % intervals in per cent", first.name);
    (!rows.is_empty()).then(|| differences(&caption, &rows))
}

fn borne(rate: &LargestRate) -> Cell {
    if let Some((from, to)) = rate.far_between() {
        let text = format!("{} to {}", per_second(from), per_second(to));
        return Cell { below: Some("not played".to_owned()), ..Cell::number(text, from) };
    }
    let text = match rate.bound {
        Some(RateBound::AtLeast) => format!("at least {}", per_second(rate.requests_per_s)),
        Some(RateBound::Below) => format!("below {}", per_second(rate.requests_per_s)),
        None => per_second(rate.requests_per_s),
    };
    let below = match (rate.bound, rate.low, rate.high) {
        (None, Some(low), Some(high)) => Some(format!("{} to {}", per_second(low), per_second(high))),
        (None, Some(low), None) => Some(format!("{} or more", per_second(low))),
        (None, None, Some(high)) => Some(format!("up to {}", per_second(high))),
        _ => None,
    };
    Cell { below, ..Cell::number(text, rate.requests_per_s) }
}

/// The largest rates within the limits.
pub(super) fn largest(rates: &LargestRates, limits: &str) -> Table {
    let first = rates.rules.first().map_or("", |rule| rule.rule.as_str());
    let mut table = Table { caption: format!("Largest rate within {limits}"), ..Table::default() };
    table.head = vec![
        text_head("rule"),
        head("requests", ""),
        head("of capacity", ""),
        head(&format!("beside {first}"), ""),
    ];
    for rate in &rates.rules {
        let of = rates.differences.iter().find(|of| of.rule == rate.rule);
        let is_far = |name: &str| rates.rules.iter().any(|of| of.rule == name && of.far_between().is_some());
        let of = of.filter(|of| !is_far(&of.rule) && !is_far(&of.against));
        let beside = match of.and_then(|of| Some((of, of.relative?))) {
            Some((of, relative)) => {
                let least = if of.bound == Some(RateBound::AtLeast) { "at least " } else { "" };
                Cell {
                    below: bounds(of.low, of.high),
                    verdict: mark(of.verdict),
                    ..Cell::number(format!("{least}{}", percent(relative)), relative)
                }
            }
            None => Cell::nothing(),
        };
        let share = match rate.far_between() {
            Some(_) => Cell::nothing(),
            None => Cell::number(load(rate.of_capacity), rate.of_capacity),
        };
        table.rows.push(vec![Cell::words(&rate.rule), borne(rate), share, beside]);
    }
    table
}

/// Rules: their policies, and how long they decide at the greatest rate.
pub(super) fn rules(results: &Results, scenario: &ScenarioEntry) -> Table {
    let mut table = Table {
        caption: format!("Rules, and their decisions at {}", scenario.rate.label),
        ..Table::default()
    };
    table.head = vec![text_head("rule"), text_head("policy"), head("median", "us"), head("p99", "us")];
    for rule in &scenario.rules {
        let named = results.arguments.rules.iter().find(|entry| entry.name == rule.rule);
        let policy = named.map_or("", |entry| entry.policy.as_str());
        let time = |us: f64| Cell::number(format!("{us:.1}"), us);
        let (p50, p99) = (time(rule.decide_us.p50), time(rule.decide_us.p99));
        table.rows.push(vec![Cell::words(&rule.rule), Cell::words(policy), p50, p99]);
    }
    table
}

/// How far sampled decisions are from the best of their steps, where that was asked for.
pub(super) fn optimum(scenarios: &[&ScenarioEntry]) -> Option<Table> {
    let mut table = Table {
        caption: "Decisions beside the best of their steps, in KV tokens of G * max - sum".to_owned(),
        ..Table::default()
    };
    table.head = vec![text_head("rule"), head("offered", ""), head("decisions", ""), head("optimal", "%")];
    table.head.extend(["left", "least possible", "above, mean", "above, p95"].map(|name| head(name, "")));
    for scenario in scenarios {
        for rule in &scenario.rules {
            let Some(of) = &rule.optimum else { continue };
            let tokens = |value: f64| Cell::number(short(value), value);
            let not_solved = of.unsolved + of.too_large;
            let below = (not_solved > 0).then(|| format!("{not_solved} not solved"));
            table.rows.push(vec![
                Cell::words(&rule.rule),
                offered(scenario),
                Cell { below, ..Cell::number(of.decisions.to_string(), of.decisions as f64) },
                Cell::number(format!("{:.1}", 100.0 * of.optimal), of.optimal),
                tokens(of.left_tokens),
                tokens(of.least_tokens),
                tokens(of.above_mean_tokens),
                tokens(of.above_p95_tokens),
            ]);
        }
    }
    (!table.rows.is_empty()).then_some(table)
}

/// Lengths of a source.
pub(super) fn lengths(source: &SourceEntry) -> Table {
    let mut table = Table { caption: "Lengths".to_owned(), ..Table::default() };
    table.head = vec![text_head("of")];
    table.head.extend(["mean", "p50", "p90", "p99", "greatest"].map(|name| head(name, "")));
    let mut add = |name: &str, of: &Lengths| {
        let number = |value: f64| Cell::number(short(value), value);
        let Lengths { mean, p50, p90, p99, max } = *of;
        let numbers = [mean, p50, p90, p99, max].map(number);
        table.rows.push(std::iter::once(Cell::words(name)).chain(numbers).collect());
    };
    add("prompt tokens", &source.shape.prompt_tokens);
    add("output tokens", &source.shape.output_tokens);
    if let Some(sessions) = &source.shape.sessions {
        add("turns of a session", &sessions.turns);
        add("seconds between turns", &sessions.delay_s);
    }
    table
}

/// A name and what is said of it.
#[derive(Debug, Serialize)]
pub(super) struct Fact {
    pub(super) name: String,
    pub(super) value: String,
}

pub(super) fn fact(name: &str, value: impl Into<String>) -> Fact {
    Fact { name: name.to_owned(), value: value.into() }
}

/// What a source is.
pub(super) fn source_facts(source: &SourceEntry) -> Vec<Fact> {
    let shape = &source.shape;
    let mut facts = Vec::new();
    facts.extend(source.path.as_ref().map(|path| fact("File", path.as_str())));
    facts.extend(source.format.as_ref().map(|format| fact("Layout", format.as_str())));
    if source.kind == "trace" {
        facts.push(fact("Requests", shape.requests.to_string()));
    }
    facts.extend(shape.span_s.map(|span_s| fact("Span", duration(span_s))));
    facts.extend(shape.requests_per_s.map(|rate| fact("Rate", per_second(rate))));
    facts.extend(
        shape
            .gap_variation
            .map(|of| fact("Burstiness", format!("gaps vary by {of:.2} of their mean (Poisson 1)"))),
    );
    facts.extend(
        shape
            .prefix
            .as_ref()
            .map(|prefix| fact("Shared prefix", format!("{} of the prompt tokens", load(prefix.shared)))),
    );
    facts.extend(source.sha256.as_ref().map(|hash| fact("SHA-256", hash.as_str())));
    facts
}

/// What was asked for, by the names of the file.
pub(super) fn asked(results: &Results) -> Vec<Fact> {
    let Ok(serde_json::Value::Object(asked)) = serde_json::to_value(&results.arguments) else {
        return Vec::new();
    };
    let value = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        value => value.to_string(),
    };
    asked
        .into_iter()
        .filter(|(name, value)| name != "rules" && !value.is_null())
        .map(|(name, of)| fact(&name, value(of)))
        .collect()
}
