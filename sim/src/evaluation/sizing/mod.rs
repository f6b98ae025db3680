//! `recommend`: the smallest cluster that keeps the limits at one rate, for each number of slots and rule.
//!
//! More workers are taken to keep what fewer keep. From the number that perfect balance asks for on, they are
//! counted up or down in growing steps, and then halved between the last that is too few and the first that
//! is enough. Every cluster that is tried is a scenario of [`super::trial`], all rules on the same arrivals.
//!
//! The doubt is that of the windows: they are drawn with replacement, and a number of workers is enough
//! beyond doubt where 97.5 % of the draws keep the limits, and perhaps enough where 2.5 % do.

mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use balanceroute::batch::MAX_WORKERS;
use indicatif::ProgressBar;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use self::search::smallest;
use super::trial::inference::{DRAWS, kept_share};
use super::trial::{Plan, Playing, RateAsked, evaluate};
use crate::cluster::Source;
use crate::cost::Prompts;
use crate::error::{SimError, argument};
use crate::report::results::{Limits, RateEntry, Replicate, RuleEntry, RuleFigures, ScenarioEntry};
use crate::report::verdict::PROMPTS_ELSEWHERE;

/// Of the draws, those that keep the limits where they are kept perhaps, and beyond doubt.
const PERHAPS: f64 = 0.025;
const SURELY: f64 = 0.975;

/// What is asked.
pub struct Question<'a> {
    /// What is played by so many workers of so many slots.
    pub plan: &'a dyn Fn(usize, u32) -> Plan,
    /// Numbers of slots that a worker may have.
    pub slots: Vec<u32>,
    /// The most workers.
    pub most_workers: usize,
    /// Runs at a time; 0 for one per processor. No result depends on it.
    pub threads: usize,
    /// Ends the search when it is set.
    pub stop: &'a AtomicBool,
    /// Whether a line on stderr says what is tried, where that is a terminal.
    pub progress: bool,
}

/// The smallest clusters.
#[derive(Clone, Debug, Serialize)]
pub struct Sizing {
    /// Version of this crate.
    pub version: &'static str,
    /// Workload or file name.
    pub source: String,
    /// What a request must keep, and how many must.
    pub limits: Limits,
    /// Requests that come.
    pub rate: RateEntry,
    /// `window` or `draw`.
    pub replicate: String,
    /// How many there are of them.
    pub replicates: u64,
    /// The most workers that were tried.
    pub most_workers: usize,
    /// The smallest of all: the fewest workers, then the fewest slots, then the rule that keeps most; none
    /// where no cluster keeps the limits. A place in `options`.
    pub best: Option<usize>,
    /// For each number of slots, in the order of the rules.
    pub options: Vec<SizeOption>,
    /// What the answer rests on; of the scenarios of the smallest clusters, each once.
    pub notes: Vec<String>,
}

/// The fewest workers of so many slots under a rule.
#[derive(Clone, Debug, Serialize)]
pub struct SizeOption {
    /// Slots of a worker.
    pub slots: u32,
    /// The rule.
    pub rule: String,
    /// The fewest workers that keep the limits; none where no number of them does.
    pub workers: Option<usize>,
    /// The fewest that perhaps do.
    pub low: Option<usize>,
    /// The fewest that do beyond doubt.
    pub high: Option<usize>,
    /// What that cluster does; where there is none, the one that keeps most.
    pub there: Tried,
    /// What one worker fewer does.
    pub with_one_less: Option<Tried>,
    /// The clusters that were tried, by workers.
    pub tried: Vec<Tried>,
    /// What plays the cluster alone.
    pub command: String,
}

impl SizeOption {
    /// Without the clusters that were tried on the way.
    #[must_use]
    pub fn line(&self) -> Self {
        Self { tried: Vec::new(), ..self.clone() }
    }
}

/// A cluster that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tried {
    /// Workers.
    pub workers: usize,
    /// Requests that keep all limits, as a share.
    pub kept: f64,
    /// Draws in which enough of them do, as a share.
    pub sure: f64,
    /// What comes, as a share of what the cluster can serve.
    pub offered_load: f64,
    /// 99th percentile of the times to the first token, its mean over the replicates.
    pub ttft_p99_ms: f64,
    /// 99th percentile of the times per output token, its mean over the replicates.
    pub tpot_p99_ms: f64,
    /// Tokens a second of the whole cluster.
    pub tokens_per_s: f64,
}

/// One cluster under all rules.
struct Cluster {
    rules: Vec<Tried>,
    entry: ScenarioEntry,
}

/// Of the requests of some replicates, the share that keeps all limits.
fn kept<'a>(replicates: impl Iterator<Item = &'a Replicate>) -> f64 {
    kept_share(replicates.filter_map(Replicate::counts))
}

/// Share of the draws in which enough requests keep the limits.
fn sure(replicates: &[Replicate], share: f64) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let draw = |_: &usize| {
        kept((0..replicates.len()).map(|_| &replicates[rng.random_range(0..replicates.len())])) >= share
    };
    (0..DRAWS).filter(draw).count() as f64 / DRAWS as f64
}

impl Tried {
    fn of(workers: usize, figures: &RuleFigures, share: f64, offered_load: f64) -> Self {
        let mean = |key: &str| figures.figures.get(key).map_or(0.0, |interval| interval.mean);
        Self {
            workers,
            kept: kept(figures.replicates.iter()),
            sure: sure(&figures.replicates, share),
            offered_load,
            ttft_p99_ms: mean("ttft_p99_ms"),
            tpot_p99_ms: mean("tpot_p99_ms"),
            tokens_per_s: mean("tokens_per_s"),
        }
    }
}

/// Clusters of so many slots that have been tried, by workers.
struct OfSlots<'a> {
    question: &'a Question<'a>,
    slots: u32,
    share: f64,
    bar: &'a ProgressBar,
    tried: BTreeMap<usize, Cluster>,
}

impl OfSlots<'_> {
    fn at(&mut self, workers: usize) -> Result<&Cluster, SimError> {
        if !self.tried.contains_key(&workers) {
            self.bar.set_message(format!("{workers} workers x {} slots", self.slots));
            let plan = (self.question.plan)(workers, self.slots);
            let playing = Playing {
                folder: None,
                threads: self.question.threads,
                stop: self.question.stop,
                progress: false,
                command: String::new(),
                quick: false,
            };
            let mut results = evaluate(&plan, &playing)?;
            let entry = results.scenarios.pop().filter(|of| of.complete).ok_or(SimError::Interrupted)?;
            let tried = |rule| Tried::of(workers, rule, self.share, entry.rate.offered_load);
            let rules = entry.rules.iter().map(tried).collect();
            self.tried.insert(workers, Cluster { rules, entry });
            self.bar.inc(1);
        }
        Ok(&self.tried[&workers])
    }

    /// The fewest workers that are enough for a rule by some measure.
    fn fewest(&mut self, rule: usize, enough: impl Fn(&Tried) -> bool) -> Result<Option<usize>, SimError> {
        // What is known already is a better start than perfect balance.
        let known = self.tried.iter().find(|(_, cluster)| enough(&cluster.rules[rule]));
        let start = known.or(self.tried.iter().next_back()).map_or(1, |(&workers, _)| workers);
        smallest(start, self.question.most_workers, |workers| Ok(enough(&self.at(workers)?.rules[rule])))
    }

    fn option(&mut self, rule: usize, entry: &RuleEntry) -> Result<SizeOption, SimError> {
        let share = self.share;
        let workers = self.fewest(rule, |tried| tried.kept >= share)?;
        let low = self.fewest(rule, |tried| tried.sure >= PERHAPS)?;
        let high = self.fewest(rule, |tried| tried.sure >= SURELY)?;
        let tried: Vec<Tried> = self.tried.values().map(|cluster| cluster.rules[rule]).collect();
        let most = tried.iter().max_by(|a, b| a.kept.total_cmp(&b.kept)).map_or(1, |most| most.workers);
        let one_less = workers.filter(|&workers| workers > 1).map(|workers| workers - 1);
        let with_one_less = one_less.map(|less| Ok::<_, SimError>(self.at(less)?.rules[rule])).transpose()?;
        let slots = self.slots;
        let there = self.at(workers.unwrap_or(most))?;
        Ok(SizeOption {
            slots,
            rule: entry.name.clone(),
            workers,
            low,
            high,
            there: there.rules[rule],
            with_one_less,
            tried,
            command: there.entry.command.clone(),
        })
    }
}

/// Finds the smallest clusters.
///
/// # Errors
/// Arguments that cannot be used, a run that cannot go on, or an interrupt.
pub fn recommend(question: &Question<'_>) -> Result<Sizing, SimError> {
    if !(1..=MAX_WORKERS).contains(&question.most_workers) {
        let expected = format!("a whole number in 1..={MAX_WORKERS}");
        return Err(argument("most-workers", expected, question.most_workers));
    }
    let Some(&first_slots) = question.slots.first() else {
        return Err(argument("slots", "one number at least", "none"));
    };
    let first = (question.plan)(1, first_slots);
    let limits = first.limits.ok_or_else(|| argument("slo", "limits to keep", "none"))?;
    let [of] = &first.sources[..] else {
        return Err(argument("TRACE", "one trace or workload", first.sources.len()));
    };
    let name = of.source.name();
    let has_times = matches!(&of.source, Source::Trace(trace) if trace.requests_per_s().is_some());
    match (&first.rates[..], has_times) {
        ([RateAsked::PerSecond(_)], _) | ([RateAsked::Own | RateAsked::Times(_)], true) => {}
        ([rate @ (RateAsked::Own | RateAsked::Times(_))], false) => {
            let expected = format!("requests per second (12.5/s) for {name}, which has no times");
            return Err(argument("rate", expected, rate));
        }
        (rates, _) => {
            let asked: Vec<String> = rates.iter().map(RateAsked::to_string).collect();
            let expected = "one rate that no cluster decides: own, 2x (of the trace) or 12.5/s";
            return Err(argument("rate", expected, asked.join(",")));
        }
    }
    let base_ms = question.slots.iter().map(|&slots| Ok((first.cost)(slots)?.base_ms));
    let base_ms = base_ms.collect::<Result<Vec<f64>, SimError>>()?.into_iter().fold(f64::INFINITY, f64::min);
    if [limits.ttft_ms, limits.tpot_ms].into_iter().flatten().any(|limit_ms| limit_ms < base_ms) {
        let expected = format!("TTFT and TPOT of at least {base_ms:.2} ms, a step without load");
        let asked = [("ttft", limits.ttft_ms), ("tpot", limits.tpot_ms)];
        let asked = asked.iter().filter_map(|(name, ms)| Some(format!("{name}={}ms", (*ms)?)));
        return Err(argument("slo", expected, asked.collect::<Vec<_>>().join(",")));
    }
    let bar = if question.progress { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let (mut options, mut known, mut notes) = (Vec::new(), None, Vec::new());
    if (first.cost)(first_slots)?.prompts == Prompts::Elsewhere {
        notes.push(PROMPTS_ELSEWHERE.to_owned());
    }
    for &slots in &question.slots {
        let tried = BTreeMap::new();
        let mut clusters = OfSlots { question, slots, share: limits.share, bar: &bar, tried };
        // Perfect balance asks for so many.
        let load = (question.plan)(1, slots).rates()?.first().map_or(1.0, |rate| rate.offered_load);
        clusters.at((load.ceil() as usize).clamp(1, question.most_workers))?;
        for (at, entry) in first.rules.iter().enumerate() {
            let option = clusters.option(at, entry)?;
            for note in &clusters.at(option.there.workers)?.entry.notes {
                let note = format!("{} workers x {slots} slots: {note}", option.there.workers);
                if option.workers.is_some() && !notes.contains(&note) {
                    notes.push(note);
                }
            }
            options.push(option);
        }
        known = clusters.tried.into_values().next().map(|cluster| cluster.entry).or(known);
    }
    bar.finish_and_clear();
    let Some(known) = known else { return Err(argument("slots", "one number at least", "none")) };
    let size = |option: &SizeOption| Some((option.workers?, option.slots));
    let best = (0..options.len()).filter(|&at| options[at].workers.is_some()).min_by(|&a, &b| {
        let more_kept = || options[b].there.kept.total_cmp(&options[a].there.kept);
        size(&options[a]).cmp(&size(&options[b])).then_with(more_kept)
    });
    Ok(Sizing {
        version: env!("CARGO_PKG_VERSION"),
        source: name.to_owned(),
        limits,
        rate: known.rate,
        replicate: known.replicate,
        replicates: known.replicates,
        most_workers: question.most_workers,
        best,
        options,
        notes,
    })
}
