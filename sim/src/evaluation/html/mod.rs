//! `report`: evaluations as one HTML page, which needs nothing but itself.
//!
//! The verdict comes first, then figures, then tables. Figures are inline SVG by `plot`, coloured by the
//! style of the page; a few lines of script sort tables, and nothing else needs them.

mod compare;
mod lane;
mod pareto;
mod plot;
mod rates;
mod source;
mod spread;
mod tables;
#[cfg(test)]
mod tests;
mod time;

use compare::{Comparison, comparison};
use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use plot::swatch;
use rates::Curve;
use serde::Serialize;
use tables::{Fact, Table};

use crate::error::{SimError, argument};
use crate::report::duration;
use crate::report::evaluated::Evaluated;
use crate::report::results::{Results, ScenarioEntry};
use crate::report::verdict;

/// Bytes that a page stays below: it is sent by mail.
const MOST_BYTES: usize = 1_000_000;
/// Rules with figures over time: the first and those after it.
const MOST_OVER_TIME: usize = 4;

/// Pieces of a page, by file.
const TEMPLATES: [(&str, &str); 5] = [
    ("page.html", include_str!("page.html")),
    ("part.html", include_str!("part.html")),
    ("table.html", include_str!("table.html")),
    ("style.css", include_str!("style.css")),
    ("sort.js", include_str!("sort.js")),
];

/// A figure with what is said of it.
#[derive(Debug, Serialize)]
struct Figure {
    title: String,
    svg: String,
    note: String,
    command: String,
}

impl Figure {
    fn new(title: &str, svg: String, note: &str, command: &str) -> Self {
        Self { title: title.to_owned(), svg, note: note.to_owned(), command: command.to_owned() }
    }
}

/// What a line or a colour means.
#[derive(Clone, Debug, Serialize)]
struct Key {
    swatch: String,
    name: String,
}

impl Key {
    fn of(series: usize, name: &str) -> Self {
        Self { swatch: swatch(series), name: name.to_owned() }
    }

    fn of_colour((class, name): (String, String)) -> Self {
        let swatch = format!(
            "<svg class=\"swatch\" viewBox=\"0 0 36 12\" aria-hidden=\"true\"><path class=\"{class}\" \
             d=\"M8 0h20v12h-20z\"/></svg>"
        );
        Self { swatch, name }
    }
}

/// Figures and tables that belong together.
#[derive(Debug, Default, Serialize)]
struct Part {
    title: String,
    intro: String,
    keys: Vec<Key>,
    colours: Vec<Key>,
    figures: Vec<Figure>,
    tables: Vec<Table>,
    facts: Vec<Fact>,
    /// Which go first where a page would be too large: the greatest.
    #[serde(skip)]
    leaves: u8,
}

impl Part {
    fn of(title: &str, leaves: u8) -> Self {
        Self { title: title.to_owned(), leaves, ..Self::default() }
    }

    fn bytes(&self) -> usize {
        let figures = self.figures.iter().map(|of| of.svg.len() + of.note.len() + of.command.len() + 300);
        let rows = self.tables.iter().flat_map(|table| &table.rows).flatten();
        figures.sum::<usize>() + rows.map(|cell| cell.text.len() + 60).sum::<usize>()
    }
}

/// A cluster, or a source.
#[derive(Debug, Serialize)]
struct Chapter {
    id: String,
    name: String,
    parts: Vec<Part>,
    /// Titles of parts that are not there, since the page would be too large.
    left_out: Vec<String>,
}

/// An evaluation.
#[derive(Debug, Serialize)]
struct Section {
    id: String,
    letter: String,
    name: String,
    command: String,
    version: String,
    started: String,
    elapsed: String,
    interrupted: Option<String>,
    /// Of each cluster.
    verdict: Vec<Vec<String>>,
    gates: Vec<String>,
    chapters: Vec<Chapter>,
    asked: Vec<Fact>,
}

/// The page.
#[derive(Debug, Serialize)]
struct Page {
    title: String,
    command: String,
    version: &'static str,
    comparisons: Vec<Comparison>,
    sections: Vec<Section>,
}

/// What an evaluation is called beside others.
fn letter(at: usize) -> char {
    // Z stands for all that come after it.
    char::from(b'A' + at.min(25) as u8)
}

/// A share in per cent, as an axis has it.
fn percent_of(percent: f64) -> String {
    format!("{} %", plain(percent))
}

/// A number on an axis: no more digits than it has.
fn plain(value: f64) -> String {
    ((value * 1e4).round() / 1e4).to_string()
}

/// Tokens on an axis: `500`, `15k`, `1.2M`.
fn amount(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{}M", plain(value / 1e6)),
        size if size >= 1e3 => format!("{}k", plain(value / 1e3)),
        _ => plain(value),
    }
}

/// A time as an axis has it: `50 ms`, `2 s`.
fn milliseconds(ms: f64) -> String {
    if ms.abs() >= 999.5 { format!("{} s", plain(ms / 1e3)) } else { format!("{} ms", plain(ms)) }
}

/// The unit in which so many seconds are read, and its seconds.
fn time_unit(span_s: f64) -> (&'static str, f64) {
    match span_s {
        span_s if span_s >= 2.0 * 86_400.0 => ("days", 86_400.0),
        span_s if span_s >= 2.0 * 3_600.0 => ("hours", 3_600.0),
        span_s if span_s >= 120.0 => ("minutes", 60.0),
        _ => ("seconds", 1.0),
    }
}

/// `trace.csv on 8 workers x 72 slots`.
fn cluster_name(results: &Results, scenarios: &[&ScenarioEntry]) -> String {
    let Some(first) = scenarios.first() else { return String::new() };
    let source = &results.sources[first.source].name;
    format!("{source} on {} workers x {} slots", first.workers, first.slots)
}

/// The page of some evaluations; with several, each beside the first. `command` is what asked for it.
///
/// # Errors
/// A file of requests or series that cannot be used, or a figure that cannot be drawn.
pub fn page(evaluations: &[Evaluated], command: &str) -> Result<String, SimError> {
    let mut sections = Vec::new();
    for (at, evaluated) in evaluations.iter().enumerate() {
        sections.push(section(at, evaluated, evaluations.len() > 1)?);
    }
    let mut comparisons = Vec::new();
    if let Some((first, others)) = evaluations.split_first() {
        for (at, other) in others.iter().enumerate() {
            comparisons.push(comparison(letter(at + 1), first, other)?);
        }
    }
    // One is called by what was played, several by their folders.
    let title = match evaluations {
        [one] => one.results.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", "),
        several => several.iter().map(|of| of.name.as_str()).collect::<Vec<_>>().join(" and "),
    };
    let version = env!("CARGO_PKG_VERSION");
    let mut page = Page { title, command: command.to_owned(), version, comparisons, sections };
    let mut html = render(&page)?;
    while html.len() >= MOST_BYTES
        && (leave_out(&mut page.sections, html.len() - MOST_BYTES)
            || page.comparisons.iter_mut().rev().any(Comparison::leave_out))
    {
        html = render(&page)?;
    }
    Ok(html)
}

/// Parts of the first cluster of an evaluation leave when those of the others that matter this much more have
/// left.
const FIRST_CLUSTER: i32 = 7;

/// Leaves out parts of about so many bytes: what matters least, of the last cluster first, so that the first
/// is shown whole if anything is. Whether there was one.
fn leave_out(sections: &mut [Section], bytes: usize) -> bool {
    let mut saved = 0;
    while saved <= bytes {
        let chapters = sections.iter_mut().flat_map(|section| section.chapters.iter_mut().enumerate());
        let parts = chapters.flat_map(|(at, chapter)| {
            let order = |part: &Part| 2 * i32::from(part.leaves) - if at == 0 { FIRST_CLUSTER } else { 0 };
            let (place, part) = chapter.parts.iter().enumerate().max_by_key(|(_, part)| part.leaves)?;
            Some((order(part), place, chapter))
        });
        // The last of those that leave first.
        let Some((_, place, chapter)) = parts.max_by_key(|(order, ..)| *order) else { break };
        let part = chapter.parts.remove(place);
        saved += part.bytes();
        chapter.left_out.push(part.title);
    }
    saved > 0
}

fn render(page: &Page) -> Result<String, SimError> {
    let failed =
        |error: minijinja::Error| argument("report", "a page that can be written", format!("{error:#}"));
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?;
    environment.set_syntax(syntax);
    for (name, text) in TEMPLATES {
        environment.add_template(name, text).map_err(failed)?;
    }
    environment.get_template("page.html").and_then(|template| template.render(Serde(page))).map_err(failed)
}

fn section(at: usize, evaluated: &Evaluated, is_one_of_many: bool) -> Result<Section, SimError> {
    let results = &evaluated.results;
    let id = format!("e{}", at + 1);
    let clusters = verdict::clusters(results);
    let before = if is_one_of_many { format!("{}: ", letter(at)) } else { String::new() };
    let verdict = clusters.iter().map(|scenarios| verdict::on_cluster(results, scenarios)).collect();
    let mut chapters = Vec::new();
    for scenarios in &clusters {
        let parts = cluster(evaluated, scenarios)?;
        chapters.push(Chapter {
            id: format!("{id}c{}", chapters.len() + 1),
            name: format!("{before}{}", cluster_name(results, scenarios)),
            parts,
            left_out: Vec::new(),
        });
    }
    for (at, source) in results.sources.iter().enumerate() {
        let command = match (&source.path, source.kind.as_str()) {
            (Some(path), "trace") => {
                let words = ["balanceroute", "trace", "inspect", path, "--out", "shape.svg"];
                shlex::try_join(words).unwrap_or_else(|_| words.join(" "))
            }
            _ => results.command.clone(),
        };
        let part = Part {
            title: "Lengths and arrivals".to_owned(),
            figures: source::figures(source, &command)?,
            tables: vec![tables::lengths(source)],
            facts: tables::source_facts(source),
            leaves: 1,
            ..Part::default()
        };
        let kind = if source.kind == "trace" { "Trace" } else { "Workload" };
        chapters.push(Chapter {
            id: format!("{id}s{}", at + 1),
            name: format!("{before}{kind} {}", source.name),
            parts: vec![part],
            left_out: Vec::new(),
        });
    }
    let gates = results.gate.iter().map(|gate| {
        let word = if gate.holds { "holds" } else { "does not hold" };
        let why =
            if gate.failures.is_empty() { String::new() } else { format!(": {}", gate.failures.join("; ")) };
        format!("Gate {} {word}{why}.", gate.expression)
    });
    Ok(Section {
        id,
        letter: if is_one_of_many { letter(at).to_string() } else { String::new() },
        name: evaluated.name.clone(),
        command: results.command.clone(),
        version: results.version.clone(),
        started: results.started.clone(),
        elapsed: duration(results.elapsed_s),
        interrupted: verdict::interrupted(results),
        gates: gates.collect(),
        verdict,
        chapters,
        asked: tables::asked(results),
    })
}

/// The parts of a cluster, whose scenarios these are.
fn cluster(evaluated: &Evaluated, scenarios: &[&ScenarioEntry]) -> Result<Vec<Part>, SimError> {
    let results = &evaluated.results;
    let limits = results.arguments.slo.as_ref();
    let rules = &results.arguments.rules;
    let keys: Vec<Key> = rules.iter().enumerate().map(|(at, rule)| Key::of(at, &rule.name)).collect();
    let curves: Vec<Curve<'_>> = (0..rules.len())
        .map(|at| {
            let points = scenarios.iter().filter_map(|scenario| Some((*scenario, scenario.rules.get(at)?)));
            Curve::new(at, points.collect())
        })
        .collect();
    let told = verdict::told(scenarios);
    let mut against = rates::figures(&curves, limits, &results.command)?;
    if let Some(first) = rules.first() {
        against.extend(rates::beside_first(&curves, &first.name, &results.command)?);
    }
    let mut parts = vec![Part {
        title: "Against the rate".to_owned(),
        intro: limits.map_or_else(String::new, |limits| format!("Limits: {}.", verdict::limits(limits))),
        keys: keys.clone(),
        figures: against,
        tables: verdict::rates_of(results, scenarios)
            .zip(limits)
            .map(|(rates, limits)| tables::largest(rates, &verdict::limits(limits)))
            .into_iter()
            .collect(),
        ..Part::default()
    }];
    let mut spread = Part {
        title: "Waits and times to tokens".to_owned(),
        keys: keys.clone(),
        leaves: 1,
        ..Part::default()
    };
    for scenario in &told {
        spread.figures.extend(spread::figures(scenario, limits)?);
    }
    for scenario in &told {
        spread.figures.extend(pareto::figure(scenario)?);
    }
    parts.push(spread);
    if let Some(busiest) = told.last() {
        parts.extend(over_time(evaluated, busiest, &keys)?);
    }
    let mut figures =
        Part { title: "All figures".to_owned(), tables: vec![tables::figures(scenarios)], ..Part::default() };
    figures.tables.extend(tables::beside_first(results, scenarios));
    figures.tables.extend(tables::optimum(scenarios));
    figures.tables.extend(told.last().map(|scenario| tables::rules(results, scenario)));
    figures.leaves = 2;
    parts.push(figures);
    parts.retain(|part| !part.figures.is_empty() || !part.tables.is_empty() || !part.intro.is_empty());
    Ok(parts)
}

/// Loads, heat maps and lanes of the first rules of a scenario.
fn over_time(evaluated: &Evaluated, scenario: &ScenarioEntry, keys: &[Key]) -> Result<Vec<Part>, SimError> {
    let results = &evaluated.results;
    let named = results.arguments.rules.iter().map(|rule| rule.name.as_str());
    let rules: Vec<(usize, &str)> = named.enumerate().take(MOST_OVER_TIME).collect();
    let mut intro = format!("At {}, the first {}.", scenario.rate.label, scenario.replicate);
    if results.arguments.rules.len() > rules.len() {
        intro.push_str(&format!(" The first {} rules.", rules.len()));
    }
    let title = "Over time".to_owned();
    let Some(series) = evaluated.series(scenario)? else {
        let why = match &scenario.series_file {
            Some(name) => format!("There are no loads of ranks over time: {name} is not in the folder."),
            None => "There are no loads of ranks over time: they are written with the last run of a rate."
                .to_owned(),
        };
        return Ok(vec![Part { title, intro: why, ..Part::default() }]);
    };
    let mut parts = Vec::new();
    if let Some(over_time) = time::over_time(scenario, &series, &rules)? {
        let keys = rules.iter().filter_map(|&(at, _)| keys.get(at).cloned()).collect();
        let figures = over_time.together;
        parts.push(Part { intro, keys, figures, ..Part::of(&title, 3) });
        parts.push(Part { figures: over_time.ranks, ..Part::of("Loads of the ranks", 5) });
        let colours = over_time.heat.legend().into_iter().map(Key::of_colour).collect();
        parts.push(Part { colours, figures: over_time.maps, ..Part::of("Ranks beside their mean", 6) });
    }
    let requests = evaluated.lane(scenario)?;
    let mut lanes = Part::of("A busy second, step by step", 4);
    if let (None, Some(name)) = (&requests, &scenario.requests_file) {
        lanes.intro = format!("Who enters is not shown: {name} is not in the folder.");
    }
    let requests = requests.unwrap_or_default();
    for (_, rule) in &rules {
        lanes.figures.extend(lane::figure(scenario, &results.arguments, rule, &series, &requests)?);
    }
    if !lanes.figures.is_empty() {
        parts.push(lanes);
    }
    Ok(parts)
}
