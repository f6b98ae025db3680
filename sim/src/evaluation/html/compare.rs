//! One evaluation beside another: replicate by replicate where both have the same arrivals, and why not where
//! they have not.

use serde::Serialize;

use super::super::trial::beside_first;
use super::rates::{self, Curve};
use super::tables::{Beside, Fact, Table, asked, differences, fact};
use super::{Figure, Key, cluster_name};
use crate::error::SimError;
use crate::report::evaluated::Evaluated;
use crate::report::results::{Difference, Results, RuleFigures, ScenarioEntry, SourceEntry};
use crate::report::verdict::{at_rate, clusters, told};

/// Rates of which the greater lies so little above the other are one.
const ALIKE: f64 = 1e-9;
/// Hollow points: what series so many places further have.
const HOLLOW: usize = 6;

/// The second beside the first.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) id: String,
    pub(super) first: String,
    pub(super) second: String,
    /// Of the second; the first is A.
    pub(super) letter: char,
    /// Arguments that are not the same: both values.
    pub(super) differ: Vec<Fact>,
    pub(super) clusters: Vec<Compared>,
    /// What only one of them has.
    pub(super) alone: Vec<String>,
}

/// A cluster that both have.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    pub(super) name: String,
    pub(super) sentences: Vec<String>,
    /// Why replicates are not paired.
    pub(super) unpaired: Vec<String>,
    pub(super) keys: Vec<Key>,
    pub(super) figures: Vec<Figure>,
    pub(super) tables: Vec<Table>,
}

/// A scenario, and what it belongs to.
#[derive(Clone, Copy)]
struct Side<'a> {
    results: &'a Results,
    source: &'a SourceEntry,
    scenario: &'a ScenarioEntry,
}

impl<'a> Side<'a> {
    fn new(results: &'a Results, scenario: &'a ScenarioEntry) -> Self {
        Self { results, source: &results.sources[scenario.source], scenario }
    }
}

fn is_same_source(a: &SourceEntry, b: &SourceEntry) -> bool {
    match (&a.sha256, &b.sha256) {
        (Some(a), Some(b)) => a == b,
        (None, None) => a.kind == b.kind && a.name == b.name,
        _ => false,
    }
}

/// Why the replicates of two scenarios have not the same arrivals; none where they have.
fn why_unpaired(a: Side<'_>, b: Side<'_>) -> Option<String> {
    if !is_same_source(a.source, b.source) {
        return Some("other requests".to_owned());
    }
    if a.source.shape != b.source.shape {
        return Some("the trace was read in another way".to_owned());
    }
    let [of_a, of_b] = [a.scenario, b.scenario].map(|scenario| scenario.rate.requests_per_s);
    if (of_a - of_b).abs() > ALIKE * of_a.abs().max(of_b.abs()) {
        return Some(format!("other rates: {of_a:.4}/s and {of_b:.4}/s"));
    }
    let (asked_a, asked_b) = (&a.results.arguments, &b.results.arguments);
    if a.scenario.replicate != b.scenario.replicate {
        return Some(format!("{}s and {}s", a.scenario.replicate, b.scenario.replicate));
    }
    if a.scenario.replicate == "window" {
        let (a, b) = (asked_a.windows, asked_b.windows);
        return (a != b).then(|| format!("the trace is cut into {a} windows and into {b}"));
    }
    if asked_a.first_seed != asked_b.first_seed {
        return Some(format!(
            "draws of other seeds: from {} and from {} on",
            asked_a.first_seed, asked_b.first_seed
        ));
    }
    // Without a number of requests, slots decide.
    let slots = |of: &ScenarioEntry| of.workers as u64 * u64::from(of.slots);
    let is_alike = match (asked_a.requests, asked_b.requests) {
        (None, None) => slots(a.scenario) == slots(b.scenario),
        (a, b) => a == b,
    };
    (!is_alike).then(|| "draws of other numbers of requests".to_owned())
}

/// Pairs of scenarios: of the same rate, or else of the same words for it.
fn matched<'a>(
    a: &[&'a ScenarioEntry],
    b: &[&'a ScenarioEntry],
) -> Vec<(&'a ScenarioEntry, &'a ScenarioEntry)> {
    let find = |of: &ScenarioEntry| {
        let rate = of.rate.requests_per_s;
        let alike = |other: &&&ScenarioEntry| (other.rate.requests_per_s - rate).abs() <= ALIKE * rate;
        let named = |other: &&&ScenarioEntry| other.rate.label == of.rate.label;
        b.iter().find(alike).or_else(|| b.iter().find(named)).copied()
    };
    a.iter().filter_map(|&of| Some((of, find(of)?))).collect()
}

/// The second rule of a name beside the first, under names that tell them apart.
fn paired(a: &RuleFigures, b: &RuleFigures, letter: char) -> Vec<Difference> {
    let mut differences = beside_first(a, b);
    for difference in &mut differences {
        difference.against = format!("{} in A", a.rule);
        difference.rule = format!("{} in {letter}", b.rule);
    }
    differences
}

/// Both evaluations side by side.
///
/// # Errors
/// A figure cannot be drawn.
pub(super) fn comparison(letter: char, a: &Evaluated, b: &Evaluated) -> Result<Comparison, SimError> {
    let (of_a, of_b) = (clusters(&a.results), clusters(&b.results));
    let mut comparison = Comparison {
        id: format!("beside-{}", letter.to_ascii_lowercase()),
        letter,
        first: a.name.clone(),
        second: b.name.clone(),
        differ: differ(&a.results, &b.results),
        clusters: Vec::new(),
        alone: Vec::new(),
    };
    let is_same = |a_of: &[&ScenarioEntry], b_of: &[&ScenarioEntry]| {
        let (Some(first), Some(other)) = (a_of.first(), b_of.first()) else { return false };
        let (x, y) = (Side::new(&a.results, first), Side::new(&b.results, other));
        is_same_source(x.source, y.source) && (first.workers, first.slots) == (other.workers, other.slots)
    };
    for scenarios in &of_a {
        match of_b.iter().find(|other| is_same(scenarios, other)) {
            Some(others) => comparison.clusters.push(compared(letter, a, scenarios, b, others)?),
            None => comparison.alone.push(format!("{} is in A only.", cluster_name(&a.results, scenarios))),
        }
    }
    let others = of_b.iter().filter(|others| !of_a.iter().any(|scenarios| is_same(scenarios, others)));
    let others = others.map(|others| format!("{} is in {letter} only.", cluster_name(&b.results, others)));
    comparison.alone.extend(others);
    Ok(comparison)
}

/// Arguments that are not the same.
fn differ(a: &Results, b: &Results) -> Vec<Fact> {
    let (of_a, of_b) = (asked(a), asked(b));
    let value = |facts: &[Fact], name: &str| {
        facts.iter().find(|fact| fact.name == name).map_or("unset".to_owned(), |fact| fact.value.clone())
    };
    let mut names: Vec<&str> = of_a.iter().map(|fact| fact.name.as_str()).collect();
    names.extend(
        of_b.iter().map(|fact| fact.name.as_str()).filter(|name| !of_a.iter().any(|of| of.name == *name)),
    );
    let policies = |of: &Results| -> String {
        let rules = of.arguments.rules.iter().map(|rule| format!("{}={}", rule.name, rule.policy));
        rules.collect::<Vec<_>>().join(", ")
    };
    let mut both =
        vec![("version", a.version.clone(), b.version.clone()), ("rules", policies(a), policies(b))];
    both.extend(names.into_iter().map(|name| (name, value(&of_a, name), value(&of_b, name))));
    let differ = both.into_iter().filter(|(_, a, b)| a != b);
    differ.map(|(name, a, b)| fact(name, format!("{a} and {b}"))).collect()
}

fn compared(
    letter: char,
    a: &Evaluated,
    of_a: &[&ScenarioEntry],
    b: &Evaluated,
    of_b: &[&ScenarioEntry],
) -> Result<Compared, SimError> {
    let (mut sentences, mut unpaired, mut tests) = (Vec::new(), Vec::new(), Vec::new());
    let pairs = matched(of_a, of_b);
    let rules: Vec<&str> = (a.results.arguments.rules.iter())
        .map(|rule| rule.name.as_str())
        .filter(|name| b.results.arguments.rules.iter().any(|rule| rule.name == *name))
        .collect();
    if rules.is_empty() {
        unpaired.push("No rule has the same name in both.".to_owned());
    }
    let told: Vec<&str> = told(of_a).into_iter().map(|scenario| scenario.id.as_str()).collect();
    for (x, y) in pairs {
        if let Some(why) = why_unpaired(Side::new(&a.results, x), Side::new(&b.results, y)) {
            unpaired.push(format!("At {} nothing is paired: {why}.", x.rate.label));
            continue;
        }
        for name in &rules {
            let rule = |of: &'_ ScenarioEntry| of.rules.iter().position(|rule| rule.rule == *name);
            let (Some(i), Some(j)) = (rule(x), rule(y)) else { continue };
            let differences = paired(&x.rules[i], &y.rules[j], letter);
            if differences.is_empty() {
                unpaired.push(format!("At {} no replicate of {name} is in both.", x.rate.label));
                continue;
            }
            if told.contains(&x.id.as_str()) {
                let beside = ScenarioEntry { differences: differences.clone(), ..x.clone() };
                sentences.extend(at_rate(&beside, &format!("{name} in {letter}"), &format!("{name} in A")));
            }
            tests.push((x.rate.offered_load, x.rate.own, (*name).to_owned(), differences));
        }
    }
    let only = of_a.iter().filter(|of| !of_b.iter().any(|other| matched(&[of], &[other]).len() == 1)).count();
    if only > 0 {
        unpaired.push(format!("{only} rates of A are not in {letter}."));
    }
    let rows: Vec<Beside<'_>> = (tests.iter())
        .map(|(offered, is_own, rule, of)| Beside {
            offered: *offered,
            is_own: *is_own,
            rule: rule.clone(),
            differences: of.iter().collect(),
        })
        .collect();
    let mut tables = Vec::new();
    if !rows.is_empty() {
        let caption = format!("{letter} less A, paired, with 95 % intervals in per cent of A");
        tables.push(differences(&caption, &rows));
    }
    // What is not paired is to be read side by side.
    for (letter, of) in [('A', of_a), (letter, of_b)].into_iter().filter(|_| !unpaired.is_empty()) {
        let mut table = super::tables::figures(of);
        table.caption = format!("{letter}: {}", table.caption);
        tables.push(table);
    }
    let (keys, figures) = side_by_side(letter, a, of_a, b, of_b, &rules)?;
    Ok(Compared { name: cluster_name(&a.results, of_a), sentences, unpaired, keys, figures, tables })
}

/// Figures against the rate, with the lines of both.
fn side_by_side(
    second: char,
    a: &Evaluated,
    of_a: &[&ScenarioEntry],
    b: &Evaluated,
    of_b: &[&ScenarioEntry],
    rules: &[&str],
) -> Result<(Vec<Key>, Vec<Figure>), SimError> {
    let (mut keys, mut curves) = (Vec::new(), Vec::new());
    for (series, name) in rules.iter().enumerate() {
        for (letter, of, series) in [('A', of_a, series), (second, of_b, series + HOLLOW)] {
            let point =
                |scenario: &&'_ ScenarioEntry| scenario.rules.iter().position(|rule| rule.rule == *name);
            let points =
                of.iter().filter_map(|scenario| Some((*scenario, &scenario.rules[point(scenario)?])));
            curves.push(Curve::new(series, points.collect()));
            keys.push(Key::of(series, &format!("{name} in {letter}")));
        }
    }
    let limits = a.results.arguments.slo.filter(|slo| b.results.arguments.slo == Some(*slo));
    let command = format!("{}\n{}", a.results.command, b.results.command);
    Ok((keys, rates::figures(&curves, limits.as_ref(), &command)?))
}

impl Comparison {
    /// Leaves out figures and tables of the last cluster that has some. Whether there was one.
    pub(super) fn leave_out(&mut self) -> bool {
        let has_some = |of: &&mut Compared| !of.figures.is_empty() || !of.tables.is_empty();
        let Some(last) = self.clusters.iter_mut().rfind(has_some) else { return false };
        (last.figures, last.tables) = (Vec::new(), Vec::new());
        last.unpaired.push("Figures and tables are left out, so that this page stays below 1 MB.".to_owned());
        true
    }
}
