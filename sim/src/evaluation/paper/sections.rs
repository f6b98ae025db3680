//! The sections of the study: what is played in each.

use std::path::Path;
use std::sync::Arc;

use balanceroute::forecast::Noise;
use balanceroute::policy::Parameters;
use balanceroute::policy::balance_route::BalanceRouteParameters;

use super::findings::{self, BASELINES, Finding};
use super::played::Results;
use super::published::{self, Printed};
use crate::cluster::{Arrivals, Capacity, DEFAULT_STEPS, DEFAULT_WARMUP, Scenario, Source};
use crate::cost::{Prompts, StepCost};
use crate::error::SimError;
use crate::traces::{ReadOptions, Trace};
use crate::workloads::Workload;

/// How much is played.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size<'a> {
    pub(super) quick: bool,
    pub(super) seeds: u64,
    pub(super) first_seed: u64,
    /// Folder of the public traces.
    pub(super) traces: &'a Path,
}

/// Something that is played under some policies.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) scenario: Scenario,
    /// What was published for its policies.
    pub(super) published: &'static [Printed],
}

/// What is played in a section, or why it is left out.
pub(super) enum Cases {
    Played(Vec<Case>),
    LeftOut(String),
}

/// A section.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) cases: fn(&Size<'_>) -> Result<Cases, SimError>,
    pub(super) findings: fn(&Results) -> Vec<Finding>,
}

/// All of them: those of the publication, and those beyond.
pub(super) const SECTIONS: [Section; 16] = [
    Section {
        name: "table",
        about: "G = 8 on the stand-ins of both traces, closed, 32 waiting",
        cases: table,
        findings: findings::table,
    },
    Section {
        name: "scale",
        about: "from 4 to 144 workers on paper-prod, 4 G waiting",
        cases: scale,
        findings: findings::scale,
    },
    Section {
        name: "sweep",
        about: "beta (in numbers of workers) by gamma, true ends",
        cases: sweep,
        findings: findings::sweep,
    },
    Section {
        name: "subset",
        about: "requests whose subsets are tried, and from how many brh takes them",
        cases: subset,
        findings: findings::subset,
    },
    Section {
        name: "horizon",
        about: "steps looked ahead, true ends",
        cases: horizon,
        findings: findings::horizon,
    },
    Section {
        name: "predictor",
        about: "what is learned, and true ends with errors",
        cases: predictor,
        findings: findings::predictor,
    },
    Section {
        name: "dispatch",
        about: "wall-clock time of a decision; differs from run to run",
        cases: dispatch,
        findings: findings::dispatch,
    },
    beyond("waits", "who waits how long at saturation, by the pool", waits),
    beyond("overload", "Poisson arrivals below, at and past what the cluster can serve", overload),
    beyond(
        "bursts",
        "at 80 % of what the cluster can serve, 16 requests at a time, and half as many as there are slots",
        bursts,
    ),
    beyond("cold", "the first 600 steps of a cluster that starts empty", cold),
    beyond("kv", "KV caches of 250,000 tokens bind; a preempted request is prefilled again", kv),
    beyond("hosts", "workers of different speed, which only rules that look at costs are told", hosts),
    beyond("late", "statistics 0 to 500 ms late (simulate --stats-late-ms)", late),
    beyond("laws", "other step laws", laws),
    beyond("affinity", "prefix caches on Mooncake's conversations", affinity),
];

const fn beyond(
    name: &'static str,
    about: &'static str,
    cases: fn(&Size<'_>) -> Result<Cases, SimError>,
) -> Section {
    Section { name, about, cases, findings: findings::level }
}

fn case(name: impl Into<String>, scenario: Scenario, policies: &[&str]) -> Case {
    let policies = policies.iter().map(|&policy| policy.to_owned()).collect();
    Case { name: name.into(), scenario: Scenario { policies, ..scenario }, published: &[] }
}

fn played(cases: impl IntoIterator<Item = Case>) -> Result<Cases, SimError> {
    Ok(Cases::Played(cases.into_iter().collect()))
}

/// A closed run of a workload, with 4 requests waiting for each worker.
fn closed(size: &Size<'_>, workload: Workload, workers: usize) -> Scenario {
    let (steps, warmup) = if size.quick { (3_000, 2_000) } else { (DEFAULT_STEPS, DEFAULT_WARMUP) };
    Scenario {
        source: Source::Workload(workload),
        workers,
        pool: 4 * workers,
        seeds: size.seeds,
        first_seed: size.first_seed,
        steps: Some(steps),
        warmup,
        ..Scenario::default()
    }
}

/// On 8 workers.
fn prod(size: &Size<'_>) -> Scenario {
    closed(size, Workload::PaperProd, 8)
}

/// Rules of engines, of the publication, and ours, none of which knows ends.
const RIVALS: [&str; 8] =
    ["jsq", "vllm-0.33", "sglang-total-tokens", "ascend-proxy", "longest-first", "br0", "exact", "level"];

/// Neighbours that need no hashes, or fall back to the request.
const NEIGHBOURS: [&str; 5] = ["bucket", "dualmap", "block", "hash-ring", "by-type"];

fn table(size: &Size<'_>) -> Result<Cases, SimError> {
    played([Workload::PaperProd, Workload::PaperAzure].map(|workload| {
        let printed = published::table(workload);
        let policies: Vec<&str> = printed.iter().map(|row| row.policy).chain(["exact", "level"]).collect();
        Case { published: printed, ..case(workload.name(), closed(size, workload, 8), &policies) }
    }))
}

fn scale(size: &Size<'_>) -> Result<Cases, SimError> {
    let workers: &[usize] = if size.quick { &[4, 8, 16] } else { &[4, 8, 16, 32, 64, 144] };
    let policies = [&BASELINES[..], &["br0", "brh-oracle", "level"]].concat();
    played(
        workers.iter().map(|&workers| {
            case(format!("G={workers}"), closed(size, Workload::PaperProd, workers), &policies)
        }),
    )
}

/// A scenario with other parameters of `br0` and `brh-*`.
fn tuned(scenario: &Scenario, tune: impl Fn(BalanceRouteParameters) -> BalanceRouteParameters) -> Scenario {
    let parameters = Parameters::new().balance_route(tune(BalanceRouteParameters::default()));
    Scenario { parameters, ..scenario.clone() }
}

fn sweep(size: &Size<'_>) -> Result<Cases, SimError> {
    let (betas, gammas): (&[f64], &[f64]) = if size.quick {
        (&[1.0, 4.0, 8.0], &[0.86, 0.98])
    } else {
        (&[1.0, 2.0, 4.0, 5.4, 8.0], &[0.8, 0.86, 0.9, 0.95, 0.98, 1.0])
    };
    let base = prod(size);
    let cells = betas.iter().flat_map(|&beta| gammas.iter().map(move |&gamma| (beta, gamma)));
    let cells = cells.map(|(beta, gamma)| {
        let scenario = tuned(&base, |of| of.beta_workers(beta).gamma(gamma));
        case(format!("beta={beta} gamma={gamma}"), scenario, &["brh-oracle"])
    });
    played(std::iter::once(case("baselines", base.clone(), &BASELINES)).chain(cells))
}

fn subset(size: &Size<'_>) -> Result<Cases, SimError> {
    let base = prod(size);
    let r_max = [1, 2, 4, 8].map(|r_max| {
        case(format!("R_max={r_max}"), tuned(&base, |of| of.subset_window(r_max)), &["br0", "brh-oracle"])
    });
    let windows = [4, 8, 16].map(|window| {
        let scenario = tuned(&base, |of| of.candidate_window(window));
        case(format!("R_max=4 of the first {window}"), scenario, &["brh-oracle"])
    });
    played(r_max.into_iter().chain(windows))
}

fn horizon(size: &Size<'_>) -> Result<Cases, SimError> {
    let steps: &[usize] = if size.quick { &[0, 8, 32, 80] } else { &[0, 4, 8, 16, 32, 64, 80, 128] };
    let base = prod(size);
    played(steps.iter().map(|&steps| {
        case(format!("H={steps}"), tuned(&base, |of| of.horizon_steps(steps)), &["brh-oracle"])
    }))
}

fn predictor(size: &Size<'_>) -> Result<Cases, SimError> {
    let base = prod(size);
    let noisy = |name: &str, noise: Noise| {
        case(name, Scenario { noise, ..base.clone() }, &["brh-oracle", "level-oracle"])
    };
    played([
        case("no forecast", base.clone(), &["br0", "level"]),
        case("learned", base.clone(), &["brh-survival"]),
        case(
            "recurring prompts",
            closed(size, Workload::Repeats, 8),
            &["brh-survival", "brh-exactmatch", "brh-oracle", "level", "level-exactmatch"],
        ),
        noisy("true ends", Noise::NONE),
        noisy("0.5 % false alarms", Noise { false_positive_rate: 0.005, ..Noise::NONE }),
        noisy("2 % false alarms", Noise { false_positive_rate: 0.02, ..Noise::NONE }),
        noisy("70 % of ends seen", Noise { true_positive_rate: 0.7, ..Noise::NONE }),
        noisy("lengths off by sigma 0.3", Noise { length_sigma: 0.3, ..Noise::NONE }),
        noisy("30 % never predicted", Noise { unpredicted_share: 0.3, ..Noise::NONE }),
    ])
}

fn dispatch(size: &Size<'_>) -> Result<Cases, SimError> {
    let policies = ["br0", "brh-survival", "exact", "level"];
    let workers: &[usize] = if size.quick { &[8] } else { &[8, 64] };
    played(
        workers.iter().map(|&workers| {
            case(format!("G={workers}"), closed(size, Workload::PaperProd, workers), &policies)
        }),
    )
}

fn waits(size: &Size<'_>) -> Result<Cases, SimError> {
    let pools: &[usize] = if size.quick { &[32] } else { &[8, 32, 128, 512] };
    let policies = [&NEIGHBOURS[..], &RIVALS].concat();
    played(pools.iter().map(|&pool| case(format!("P={pool}"), Scenario { pool, ..prod(size) }, &policies)))
}

/// Requests a second that 8 workers can serve.
fn capacity(scenario: &Scenario) -> Result<f64, SimError> {
    let capacity = Capacity::of(scenario).map(|capacity| capacity.requests_per_s);
    capacity.ok_or_else(|| SimError::NothingFits { source_name: scenario.source.name().to_owned() })
}

fn overload(size: &Size<'_>) -> Result<Cases, SimError> {
    let base = Scenario { steps: None, warmup: 0, windows: 1, ..prod(size) };
    let most = capacity(&base)?;
    let requests = if size.quick { 3_000 } else { 9_000 };
    played([60, 80, 90, 100, 110, 120].into_iter().filter(|load| !size.quick || load % 20 == 0).map(|load| {
        let arrivals = Arrivals::Poisson { per_second: most * f64::from(load) / 100.0, requests };
        case(format!("{load} %"), Scenario { arrivals, ..base.clone() }, &RIVALS)
    }))
}

/// Requests of `paper-prod`, so many at a time.
fn bursty(per_second: f64, burst: usize, bursts: usize, seed: u64) -> Trace {
    let jobs = Workload::PaperProd.sample(seed, burst * bursts);
    let at_s = |at: usize| (at / burst) as f64 * burst as f64 / per_second;
    let arrival_s = (0..jobs.len()).map(at_s).collect();
    Trace { name: "paper-prod in bursts".to_owned(), format: "made", jobs, arrival_s, ..Trace::default() }
}

fn bursts(size: &Size<'_>) -> Result<Cases, SimError> {
    let base = prod(size);
    let most = capacity(&base)?;
    let slots = base.workers * base.slots as usize;
    let windows = u32::try_from(size.seeds).unwrap_or(u32::MAX);
    let scenario = |burst: usize| {
        // Three times the slots in each window, and in the one that leads in.
        let count = (3 * slots).div_ceil(burst) * (size.seeds as usize + 1);
        Scenario {
            source: Source::Trace(Arc::new(bursty(0.8 * most, burst, count, size.first_seed))),
            arrivals: Arrivals::Trace { rate_scale: 1.0 },
            windows,
            seeds: 1,
            steps: None,
            warmup: 0,
            ..base.clone()
        }
    };
    played([16, slots / 2].map(|burst| case(format!("{burst} at a time"), scenario(burst), &RIVALS)))
}

fn cold(size: &Size<'_>) -> Result<Cases, SimError> {
    let first =
        |workload| Scenario { cold_start: true, warmup: 0, steps: Some(600), ..closed(size, workload, 8) };
    played(
        [Workload::PaperProd, Workload::Lognormal]
            .map(|workload| case(workload.name(), first(workload), &RIVALS)),
    )
}

fn kv(size: &Size<'_>) -> Result<Cases, SimError> {
    let bound = Scenario { kv_capacity_tokens: Some(250_000), ..prod(size) };
    let whatever_fits = Scenario { headroom_steps: Some(0), ..bound.clone() };
    let policies = [&RIVALS[..], &["llm-d"]].concat();
    played([case("room as learned", bound, &policies), case("whatever fits", whatever_fits, &policies)])
}

fn hosts(size: &Size<'_>) -> Result<Cases, SimError> {
    let of = |weights: [f32; 8]| Scenario { weights: weights.to_vec(), ..prod(size) };
    played([
        case("all alike", prod(size), &RIVALS),
        case("one 25 % slower", of([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.25]), &RIVALS),
        case("half 50 % slower", of([1.0, 1.0, 1.0, 1.0, 1.5, 1.5, 1.5, 1.5]), &RIVALS),
    ])
}

fn late(size: &Size<'_>) -> Result<Cases, SimError> {
    let policies =
        ["jsq", "power-of-two", "vllm-0.33", "sglang-total-tokens", "llm-d", "longest-first", "br0", "level"];
    let all: &[u32] = if size.quick { &[0, 500] } else { &[0, 50, 100, 250, 500] };
    played(all.iter().map(|&ms| {
        case(format!("{ms} ms"), Scenario { stats_late_ms: f64::from(ms), ..prod(size) }, &policies)
    }))
}

fn laws(size: &Size<'_>) -> Result<Cases, SimError> {
    let base = prod(size);
    let law = base.cost;
    let of = |name: &str, cost: StepCost| case(name, Scenario { cost, ..base.clone() }, &RIVALS);
    played([
        of("published", law),
        of("base 20 ms", StepCost { base_ms: 20.0, ..law }),
        of("base 40 ms", StepCost { base_ms: 40.0, ..law }),
        of("60 us a request", StepCost { us_per_request: 60.0, ..law }),
        of("prompts on the worker", StepCost { prompts: Prompts::Worker, ..law }),
    ])
}

/// The trace of the section `affinity`.
const CONVERSATIONS: &str = "mooncake_conversation.jsonl";

fn affinity(size: &Size<'_>) -> Result<Cases, SimError> {
    let path = size.traces.join(CONVERSATIONS);
    if !path.exists() {
        return Ok(Cases::LeftOut(format!("{} is not there (--traces DIR)", path.display())));
    }
    let source = Source::Trace(Arc::new(Trace::read(&path, &ReadOptions::default())?));
    let (steps, warmup) = if size.quick { (1_000, 500) } else { (5_000, 1_000) };
    let of = |bonus: f64| Scenario {
        source: source.clone(),
        affinity: vec![bonus],
        steps: Some(steps),
        warmup,
        ..prod(size)
    };
    let routers =
        ["jsq", "vllm-0.33", "cache-aware", "llm-d", "dualmap", "hash-ring", "br0", "exact", "level"];
    played([
        case("no bonus", of(0.0), &routers),
        case("0.3 tokens a cached token", of(0.3), &["exact", "level"]),
        case("3 tokens a cached token", of(3.0), &["exact", "level"]),
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_case_can_be_played_and_is_there_once() {
        for (quick, seeds) in [(true, 3), (false, 5)] {
            let size = Size { quick, seeds, first_seed: 0, traces: Path::new("no/such/folder") };
            for section in &SECTIONS {
                let cases = match (section.cases)(&size).expect("cases") {
                    Cases::Played(cases) => cases,
                    Cases::LeftOut(why) => {
                        assert!(section.name == "affinity" && why.contains("no/such/folder"), "{why}");
                        continue;
                    }
                };
                let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
                assert_eq!(names.len(), cases.len(), "{}", section.name);
                for Case { name, scenario, .. } in &cases {
                    scenario.check().unwrap_or_else(|error| panic!("{}: {name}: {error}", section.name));
                    assert!(scenario.seeds >= 3 || scenario.windows >= 3, "{}: {name}", section.name);
                }
            }
        }
        let workers = scale(&Size { quick: false, seeds: 5, first_seed: 0, traces: Path::new("") });
        let Ok(Cases::Played(cases)) = workers else { panic!("played") };
        let workers: Vec<usize> = cases.iter().map(|case| case.scenario.workers).collect();
        assert_eq!(workers, [4, 8, 16, 32, 64, 144]);
    }

    #[test]
    fn bursts_come_at_once_and_at_the_rate_asked_for() {
        let trace = bursty(8.0, 16, 10, 1);
        assert_eq!((trace.jobs.len(), trace.arrival_s.len()), (160, 160));
        for (at, &at_s) in trace.arrival_s.iter().enumerate() {
            approx::assert_abs_diff_eq!(at_s, 2.0 * (at / 16) as f64, epsilon = 1e-9);
        }
    }
}
