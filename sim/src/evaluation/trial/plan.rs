//! What is to be played: every rule in every scenario, a scenario being a source, a cluster and a rate.

use std::sync::Arc;

use super::gate::Gate;
use super::rate::{RateAsked, resolve};
use crate::cluster::{Arrivals, Capacity, Library, Scenario, Source, StepCost, Window};
use crate::error::{SimError, argument};
use crate::names::did_you_mean;
use crate::report::results::{Asked, Limits, RateEntry, RuleEntry, ScenarioEntry};
use crate::rules::RuleError;

/// A source, and where it is from.
#[derive(Clone, Debug)]
pub struct TrialSource {
    /// The requests.
    pub source: Source,
    /// The file, as given.
    pub path: Option<String>,
    /// Of its bytes.
    pub sha256: Option<String>,
}

/// What a step costs on workers of so many slots.
pub type CostOf = Arc<dyn Fn(u32) -> Result<StepCost, SimError> + Send + Sync>;

/// What is to be compared.
#[derive(Clone)]
pub struct Plan {
    /// Traces and workloads, each played for itself.
    pub sources: Vec<TrialSource>,
    /// Numbers of decode workers.
    pub workers: Vec<usize>,
    /// Numbers of slots.
    pub slots: Vec<u32>,
    /// Rules; all others are set beside the first.
    pub rules: Vec<RuleEntry>,
    /// Rates.
    pub rates: Vec<RateAsked>,
    /// How often rates are added between two, where the limits stop being kept.
    pub refinements: u32,
    /// What a request must keep to count.
    pub limits: Option<Limits>,
    /// Windows of a trace; as many draws, times the seeds, of a source without times.
    pub windows: u32,
    /// Seeds. Those of a window are one replicate: only rules that draw lots differ by them.
    pub seeds: u64,
    /// The first of them.
    pub first_seed: u64,
    /// Requests of a draw; without it as many as fill the cluster a few times.
    pub requests: Option<u64>,
    /// Decisions of the first replicate of each rule that are set beside the best of their steps, at least; 0
    /// for none.
    pub decisions: usize,
    /// Bounds that the differences must keep.
    pub gates: Vec<Gate>,
    /// What a step costs.
    pub cost: CostOf,
    /// Everything else that scenarios have in common: KV capacity, headroom, deadlines, parameters.
    pub model: Scenario,
    /// Flags of `simulate` that say the same as `model` and `cost`.
    pub flags: Vec<String>,
}

/// Rules as asked for: a policy, or `name=policy`.
///
/// # Errors
/// No such policy, an empty name, or one that is there twice.
pub fn rules(asked: &[String]) -> Result<Vec<RuleEntry>, SimError> {
    let mut rules: Vec<RuleEntry> = Vec::new();
    for text in asked {
        let (name, policy) = text.split_once('=').map_or((text.as_str(), text.as_str()), |(a, b)| (a, b));
        let (name, policy) = (name.trim(), policy.trim());
        let newest = crate::rules::find(policy).map_err(|error| match error {
            RuleError::Unknown { found, meant, expected } => {
                argument("rules", format!("one of {expected}"), format!("{found:?}{}", did_you_mean(meant)))
            }
            error => error.into(),
        })?;
        if name.is_empty() || rules.iter().any(|rule| rule.name == name) {
            return Err(argument("rules", "a name for each rule, each once", format!("{text:?}")));
        }
        rules.push(RuleEntry { name: name.to_owned(), policy: newest.name.to_owned() });
    }
    if rules.is_empty() {
        return Err(argument("rules", "one rule at least", "none"));
    }
    Ok(rules)
}

/// Which requests go to which cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClusterOf {
    pub(super) source: usize,
    pub(super) workers: usize,
    pub(super) slots: u32,
}

/// A scenario that can be played.
pub(super) struct Prepared {
    pub(super) scenario: Scenario,
    pub(super) library: Arc<Library>,
    /// What is said of it, without what has been played.
    pub(super) entry: ScenarioEntry,
    /// Runs of a rule: replicates, and seeds of each.
    pub(super) replicates: u32,
    pub(super) seeds: u64,
    /// Steps that a run is thought to have.
    pub(super) steps: u64,
}

impl Prepared {
    pub(super) fn cluster(&self) -> ClusterOf {
        let ScenarioEntry { source, workers, slots, .. } = self.entry;
        ClusterOf { source, workers, slots }
    }

    /// The window of the source and the seed of a run.
    pub(super) fn window_and_seed(&self, replicate: u32, seed: u64) -> (u32, u64) {
        match self.scenario.arrivals {
            Arrivals::Trace { .. } => (replicate, self.scenario.first_seed + seed),
            _ => (0, self.scenario.first_seed + u64::from(replicate)),
        }
    }
}

/// With fewer a difference must be far larger than what windows vary by to be shown.
const FEW_REPLICATES: u32 = 5;

/// Requests of each third of a draw where none are asked for: at least so many, and so many for each slot.
const LEAST_REQUESTS: u64 = 1_000;
const REQUESTS_A_SLOT: u64 = 3;

impl Plan {
    /// The arguments as they are written.
    pub(super) fn asked(&self, quick: bool) -> Result<Asked, SimError> {
        let law = (self.cost)(self.slots.first().copied().unwrap_or(1))?;
        // The published base depends on the slots.
        let bases = self.slots.iter().map(|&slots| Ok((self.cost)(slots)?.base_ms));
        let bases: Vec<f64> = bases.collect::<Result<_, SimError>>()?;
        Ok(Asked {
            workers: self.workers.clone(),
            slots: self.slots.clone(),
            kv_capacity_tokens: self.model.kv_capacity_tokens,
            rates: self.rates.iter().map(RateAsked::to_string).collect(),
            rules: self.rules.clone(),
            slo: self.limits,
            windows: self.windows,
            seeds: self.seeds,
            first_seed: self.first_seed,
            requests: self.requests,
            quick,
            gate: self.gates.iter().map(Gate::to_string).collect(),
            step_us_per_token: law.us_per_token,
            step_us_per_request: law.us_per_request,
            step_base_ms: bases.first().copied().filter(|first| bases.iter().all(|base| base == first)),
            prefill_us_per_token: law.prefill_us_per_token,
            prompts: law.prompts.name().to_owned(),
            headroom_steps: self.model.headroom_steps,
            deadline_steps: self.model.deadline_steps,
            max_passed: self.model.parameters.max_passed,
        })
    }

    fn check(&self) -> Result<(), SimError> {
        let positive = |name, empty: bool| {
            if empty { Err(argument(name, "one number at least", "none")) } else { Ok(()) }
        };
        positive("workers", self.workers.is_empty())?;
        positive("slots", self.slots.is_empty())?;
        if self.windows == 0 {
            return Err(argument("windows", "at least 1", 0));
        }
        if self.requests.is_some_and(|requests| requests < 3) {
            return Err(argument("requests", "at least 3", self.requests.unwrap_or_default()));
        }
        for gate in &self.gates {
            let others = || self.rules.iter().skip(1);
            if others().count() == 0 {
                return Err(argument("gate", "a second rule to look at", format!("{:?}", gate.to_string())));
            }
            if let Some(rule) = gate.rule()
                && others().all(|other| other.name != rule)
            {
                let names: Vec<&str> = others().map(|other| other.name.as_str()).collect();
                return Err(argument("gate", format!("a rule of {}", names.join(", ")), format!("{rule:?}")));
            }
        }
        Ok(())
    }

    /// The rates of all scenarios, without playing any.
    ///
    /// # Errors
    /// Arguments that cannot be used.
    pub fn rates(&self) -> Result<Vec<RateEntry>, SimError> {
        Ok(self.scenarios()?.into_iter().map(|prepared| prepared.entry.rate).collect())
    }

    /// All scenarios: sources in order, then workers, slots and rates.
    pub(super) fn scenarios(&self) -> Result<Vec<Prepared>, SimError> {
        self.check()?;
        let mut prepared = Vec::new();
        for (source, of) in self.sources.iter().enumerate() {
            let library = Arc::new(Library::new(&of.source));
            for &workers in &self.workers {
                for &slots in &self.slots {
                    let cluster = ClusterOf { source, workers, slots };
                    prepared.extend(self.at_rates(cluster, &library, &self.rates, prepared.len())?);
                }
            }
        }
        Ok(prepared)
    }

    /// Where a scenario is in results: as asked for, rates rising after the trace's own.
    pub(super) fn order(&self, entry: &ScenarioEntry) -> (usize, usize, usize, bool, u64) {
        let workers = self.workers.iter().position(|&workers| workers == entry.workers);
        let slots = self.slots.iter().position(|&slots| slots == entry.slots);
        // Bits of numbers that are not negative are in their order.
        let rate = entry.rate.requests_per_s.to_bits();
        (entry.source, workers.unwrap_or_default(), slots.unwrap_or_default(), !entry.rate.own, rate)
    }

    /// The scenarios of a cluster at some rates; their names are numbers from `first` on.
    pub(super) fn at_rates(
        &self,
        cluster: ClusterOf,
        library: &Arc<Library>,
        rates: &[RateAsked],
        first: usize,
    ) -> Result<Vec<Prepared>, SimError> {
        let ClusterOf { source, workers, slots } = cluster;
        let mut prepared = Vec::new();
        let of = &self.sources[source];
        let own = match &of.source {
            Source::Trace(trace) => trace.requests_per_s(),
            Source::Workload(_) => None,
        };
        let base = Scenario {
            source: of.source.clone(),
            workers,
            slots,
            policies: self.rules.iter().map(|rule| rule.policy.clone()).collect(),
            first_seed: self.first_seed,
            steps: None,
            warmup: 0,
            cost: (self.cost)(slots)?,
            ..self.model.clone()
        };
        let capacity = Capacity::of(&base)
            .ok_or_else(|| SimError::NothingFits { source_name: of.source.name().to_owned() })?;
        for rate in resolve(rates, own, of.source.name(), &capacity)? {
            let requests = self
                .requests
                .unwrap_or(3 * LEAST_REQUESTS.max(REQUESTS_A_SLOT * workers as u64 * u64::from(slots)));
            let per_second = rate.requests_per_s;
            let (arrivals, windows, replicates, seeds) = match rate.rate_scale {
                Some(rate_scale) => (Arrivals::Trace { rate_scale }, self.windows, self.windows, self.seeds),
                None => {
                    let draws = u32::try_from(u64::from(self.windows).saturating_mul(self.seeds));
                    let draws = draws.map_err(|_| argument("seeds", "fewer draws", self.seeds))?;
                    (Arrivals::Poisson { per_second, requests }, 1, draws, 1)
                }
            };
            let seeds_of_check = seeds.max(u64::from(replicates));
            let scenario = Scenario { arrivals, windows, seeds: seeds_of_check, ..base.clone() };
            scenario.check()?;
            let id = format!("s{:03}", first + prepared.len());
            let entry = self.entry(id, source, &scenario, rate, &capacity, replicates);
            let steps = expected_steps(&scenario, &capacity, entry.rate.offered_load);
            prepared.push(Prepared {
                scenario,
                library: Arc::clone(library),
                entry,
                replicates,
                seeds,
                steps,
            });
        }
        Ok(prepared)
    }

    fn entry(
        &self,
        id: String,
        source: usize,
        scenario: &Scenario,
        rate: RateEntry,
        capacity: &Capacity,
        replicates: u32,
    ) -> ScenarioEntry {
        let is_window = matches!(scenario.arrivals, Arrivals::Trace { .. });
        let mut notes = Vec::new();
        if capacity.fitting_share < 1.0 {
            let share = 100.0 * (1.0 - capacity.fitting_share);
            notes.push(format!("{share:.2} % of the requests fit no worker and are refused by every rule."));
        }
        notes.extend(scenario.untold().into_iter().map(|sentence| format!("{sentence}.")));
        let name = if is_window { "window" } else { "draw" };
        if replicates < FEW_REPLICATES {
            notes.push(format!(
                "There are few {name}s ({replicates}): a tie may only say that nothing could be shown."
            ));
        }
        if matches!(scenario.source, Source::Trace(_)) && !is_window {
            notes.push("The trace has no times that differ: arrivals are Poisson.".to_owned());
        }
        if rate.offered_load > 1.0 {
            notes.push(format!(
                "Past what the cluster can serve queues grow for as long as it lasts: waits are those of \
                 {}s of {:.1} s.",
                name,
                measured_s(scenario)
            ));
        }
        if let (Source::Trace(trace), true) = (&scenario.source, is_window) {
            let arrive = trace.jobs.len() as f64 / f64::from(self.windows + 1);
            let run = rate.offered_load.min(1.0) * capacity.running_per_worker * scenario.workers as f64;
            if arrive < 1.5 * run {
                notes.push(format!(
                    "Windows are short: {arrive:.0} requests arrive in one, and {run:.0} run at a time at \
                     this rate. The cluster is hardly full when measuring begins; fewer windows (--windows) \
                     or a longer trace tell more."
                ));
            }
        }
        ScenarioEntry {
            id,
            source,
            workers: scenario.workers,
            slots: scenario.slots,
            kv_capacity_tokens: scenario.kv_capacity_tokens,
            capacity_requests_per_s: capacity.requests_per_s,
            running_per_worker: capacity.running_per_worker,
            step_base_ms: scenario.cost.base_ms,
            replicate: name.to_owned(),
            replicates: u64::from(replicates),
            command: self.command(&self.sources[source], scenario, replicates),
            rate,
            complete: false,
            requests_file: None,
            series_file: None,
            notes,
            rules: Vec::new(),
            differences: Vec::new(),
        }
    }

    /// What plays the scenario alone; its differences are to the last policy, which is the first rule here.
    fn command(&self, source: &TrialSource, scenario: &Scenario, replicates: u32) -> String {
        let mut words: Vec<String> = ["balanceroute", "simulate"].map(str::to_owned).to_vec();
        let mut flag = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        match (&source.source, &source.path) {
            (Source::Workload(workload), _) => flag("workload", workload.name().to_owned()),
            (Source::Trace(_), path) => flag("trace", path.clone().unwrap_or_else(|| "-".to_owned())),
        }
        flag("arrivals", "open".to_owned());
        match scenario.arrivals {
            Arrivals::Trace { rate_scale } => {
                flag("rate-scale", rate_scale.to_string());
                flag("windows", self.windows.to_string());
                flag("seeds", self.seeds.to_string());
            }
            Arrivals::Poisson { per_second, requests } => {
                flag("rate", per_second.to_string());
                flag("requests", requests.to_string());
                flag("windows", "1".to_owned());
                flag("seeds", replicates.to_string());
            }
            Arrivals::Closed => {}
        }
        flag("first-seed", self.first_seed.to_string());
        flag("workers", scenario.workers.to_string());
        flag("slots", scenario.slots.to_string());
        let (first, others) = self.rules.split_at(1);
        let policies: Vec<&str> = others.iter().chain(first).map(|rule| rule.policy.as_str()).collect();
        flag("policy", policies.join(","));
        words.extend(self.flags.iter().cloned());
        // What cannot be quoted holds a zero, which no argument has.
        shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
    }
}

/// How long a window or a draw is measured.
fn measured_s(scenario: &Scenario) -> f64 {
    Window::new(&scenario.source, scenario.arrivals, 0, scenario.windows)
        .map_or(0.0, |window| (window.to_ms - window.from_ms) / 1e3)
}

/// For the bar: time that is played, to lead in and measured, over the length of a step under this load.
fn expected_steps(scenario: &Scenario, capacity: &Capacity, offered_load: f64) -> u64 {
    let played_s = 2.0 * measured_s(scenario);
    (played_s * 1e3 / capacity.step_ms(scenario, offered_load)) as u64
}
