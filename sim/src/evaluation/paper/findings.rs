//! What the numbers say: where simulation and publication agree, and what lies beyond the publication.

use serde::Serialize;

use super::played::{Figure, IMBALANCE, Played, Results, TOKENS, TPOT, WAIT};
use super::published;
use crate::report::results::Interval;
use crate::report::short;
use crate::workloads::Workload;

/// A figure agrees when it lies within this share of the published one.
pub const TOLERANCE: f64 = 0.3;
/// Differences below this share of the tokens per second are none, however sure they are, in per cent.
const SAME_PERCENT: f64 = 0.1;

/// A line of what was found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Whether it agrees with the publication; none where nothing was published.
    pub agrees: Option<bool>,
    /// In words, with the figures.
    pub says: String,
    /// What was simulated: mean and 95 % interval over the seeds.
    pub simulated: Option<Interval>,
    /// What was published.
    pub published: Option<f64>,
}

impl Finding {
    fn beyond(says: String, simulated: Option<Interval>) -> Self {
        Self { agrees: None, says, simulated, published: None }
    }

    /// The line as it is printed.
    #[must_use]
    pub fn line(&self) -> String {
        let verdict = match self.agrees {
            Some(true) => "agrees ",
            Some(false) => "differs",
            // Two figures that are not of one kind.
            None if self.published.is_some() => "beside ",
            None => "beyond ",
        };
        format!("{verdict}  {}\n", self.says)
    }
}

/// Mean and interval in few digits.
fn in_words(found: Interval, unit: &str) -> String {
    let number = |value: f64| {
        let digits = usize::from(value.abs() < 99.95) + usize::from(value.abs() < 9.995);
        format!("{value:.digits$}")
    };
    match (found.low, found.high) {
        (Some(low), Some(high)) => {
            format!("{}{unit} ({} to {})", number(found.mean), number(low), number(high))
        }
        _ => format!("{}{unit}", number(found.mean)),
    }
}

/// A figure beside the published one.
pub(super) fn beside(what: &str, unit: &str, simulated: Interval, published: f64) -> Finding {
    let off = |value: f64| value / published - 1.0;
    let near = |value: f64| off(value).abs() <= TOLERANCE;
    let agrees = near(simulated.mean);
    let reaches_past = agrees && [simulated.low, simulated.high].into_iter().flatten().any(|end| !near(end));
    let says = format!(
        "{what}: {}, published {published:.2}{unit}, {:+.0} %{}",
        in_words(simulated, unit),
        100.0 * off(simulated.mean),
        if reaches_past { "; the interval reaches past 30 %" } else { "" }
    );
    Finding { agrees: Some(agrees), says, simulated: Some(simulated), published: Some(published) }
}

/// The order of policies by a figure, pair by pair, beside the published order.
fn order(
    case: &str,
    what: &str,
    of: &[&Played],
    figure: Figure,
    published: impl Fn(&Played) -> f64,
) -> Finding {
    let (mut pairs, mut turned) = (0, Vec::new());
    for (at, first) in of.iter().enumerate() {
        for second in &of[at + 1..] {
            pairs += 1;
            let (simulated, printed) =
                (first.mean(figure) - second.mean(figure), published(first) - published(second));
            if simulated * printed < 0.0 {
                turned.push(format!("{} and {}", first.policy, second.policy));
            }
        }
    }
    let kept = pairs - turned.len();
    let rest = if turned.is_empty() { String::new() } else { format!("; not {}", turned.join(", ")) };
    Finding {
        agrees: Some(turned.is_empty()),
        says: format!("{case}: {what} in the published order for {kept} of {pairs} pairs of policies{rest}"),
        simulated: None,
        published: None,
    }
}

/// The table of G = 8.
pub(super) fn table(results: &Results) -> Vec<Finding> {
    let mut findings = Vec::new();
    for workload in [Workload::PaperProd, Workload::PaperAzure] {
        let case = workload.name();
        let printed = published::table(workload);
        let of = |policy: &str| results.of(case, policy).zip(printed.iter().find(|row| row.policy == policy));
        let Some((oracle, best)) = of("brh-oracle") else { continue };
        for policy in ["jsq", "br0", "brh-survival"] {
            let Some((played, row)) = of(policy) else { continue };
            let (found, expected) = (played.ratio(oracle, IMBALANCE), row.imbalance / best.imbalance);
            findings.push(beside(
                &format!("{case}: imbalance of {policy} over brh-oracle"),
                "",
                found,
                expected,
            ));
        }
        let Some((jsq, base)) = of("jsq") else { continue };
        for policy in ["br0", "brh-oracle"] {
            let Some((played, row)) = of(policy) else { continue };
            let found = played.above_percent(jsq, TOKENS);
            let expected = 100.0 * (row.tokens_per_s / base.tokens_per_s - 1.0);
            findings.push(beside(&format!("{case}: tok/s of {policy} above jsq"), " %", found, expected));
            let fall = played.above_percent(jsq, TPOT);
            let expected = 100.0 * (row.tpot_p95_ms / base.tpot_p95_ms - 1.0);
            findings.push(beside(&format!("{case}: TPOT p95 of {policy} beside jsq"), " %", fall, expected));
        }
        let all: Vec<&Played> = results.case(case).filter(|played| played.published.is_some()).collect();
        let printed = |figure: fn(&published::Printed) -> f64| {
            move |played: &Played| played.published.as_ref().map_or(0.0, figure)
        };
        findings.push(order(case, "imbalance", &all, IMBALANCE, printed(|row| row.imbalance)));
        findings.push(order(case, "tok/s", &all, TOKENS, printed(|row| row.tokens_per_s)));
        if let Some(level) = results.of(case, "level") {
            findings.push(Finding::beyond(
                format!(
                    "{case}: imbalance of level, which predicts nothing, over brh-oracle: {}",
                    in_words(level.ratio(oracle, IMBALANCE), "")
                ),
                Some(level.ratio(oracle, IMBALANCE)),
            ));
        }
    }
    findings
}

/// Baselines on arrival of which the paper takes the best.
pub(super) const BASELINES: [&str; 4] = ["random", "round-robin", "power-of-two", "jsq"];

/// The baseline of most tokens per second.
fn best_baseline<'a>(results: &'a Results, case: &'a str) -> Option<&'a Played> {
    let of = results.case(case).filter(|played| BASELINES.contains(&played.policy.as_str()));
    of.max_by(|a, b| a.mean(TOKENS).total_cmp(&b.mean(TOKENS)))
}

/// From few to many workers.
pub(super) fn scale(results: &Results) -> Vec<Finding> {
    let mut findings = Vec::new();
    for case in results.cases() {
        let Some(baseline) = best_baseline(results, case) else { continue };
        let printed = published::SCALE.iter().find(|(workers, _)| case == format!("G={workers}"));
        for (at, policy) in ["br0", "brh-oracle"].into_iter().enumerate() {
            let Some(played) = results.of(case, policy) else { continue };
            let found = played.above_percent(baseline, TOKENS);
            let what = format!("{case}: tok/s of {policy} above the best baseline ({})", baseline.policy);
            findings.push(match printed {
                Some((_, figures)) => {
                    beside(&what, " %", found, 100.0 * (figures[at + 1] / figures[0] - 1.0))
                }
                None => Finding::beyond(format!("{what}: {}", in_words(found, " %")), Some(found)),
            });
        }
        if let (Some(level), Some(oracle)) = (results.of(case, "level"), results.of(case, "brh-oracle")) {
            let found = level.ratio(oracle, IMBALANCE);
            findings.push(Finding::beyond(
                format!("{case}: imbalance of level over brh-oracle: {}", in_words(found, "")),
                Some(found),
            ));
        }
    }
    findings
}

/// The cell of a grid with the least mean of a figure, and the one with the greatest.
fn ends<'a>(cells: &[&'a Played], figure: Figure) -> Option<(&'a Played, &'a Played)> {
    let by = |a: &&&Played, b: &&&Played| a.mean(figure).total_cmp(&b.mean(figure));
    Some((cells.iter().min_by(by)?, cells.iter().max_by(by)?))
}

/// The sweep over beta and gamma.
pub(super) fn sweep(results: &Results) -> Vec<Finding> {
    let Some(baseline) = best_baseline(results, "baselines") else { return Vec::new() };
    let cells: Vec<&Played> = results.0.iter().filter(|played| played.policy == "brh-oracle").collect();
    let Some((least, greatest)) = ends(&cells, TOKENS) else { return Vec::new() };
    let above = cells.iter().filter(|cell| {
        let gain = cell.above_percent(baseline, TOKENS);
        gain.low.unwrap_or(gain.mean) > 0.0
    });
    let above = above.count();
    let [low, high] = published::SWEEP;
    let width = greatest.above_percent(least, TOKENS);
    vec![
        Finding {
            agrees: Some(above == cells.len()),
            says: format!(
                "{above} of {} cells are surely above the best baseline ({}); published: all",
                cells.len(),
                baseline.policy
            ),
            simulated: None,
            published: None,
        },
        beside(
            &format!("tok/s of the best cell ({}) above the worst ({})", greatest.case, least.case),
            " %",
            width,
            100.0 * (high / low - 1.0),
        ),
    ]
}

/// Which value of a parameter has least imbalance, and how far the published one lies above it.
fn chosen(results: &Results, policy: &str, what: &str, printed: &str) -> Vec<Finding> {
    let cells: Vec<&Played> = results.0.iter().filter(|played| played.policy == policy).collect();
    let (Some((least, greatest)), Some(own)) = (ends(&cells, IMBALANCE), results.of(printed, policy)) else {
        return Vec::new();
    };
    let tokens = |of: &Played| in_words(of.above_percent(least, TOKENS), " %");
    if least.case == own.case {
        let says = format!(
            "{policy}: the published {what} ({printed}) has least imbalance, {} tokens; {} has most, {}",
            short(own.mean(IMBALANCE)),
            greatest.case,
            short(greatest.mean(IMBALANCE))
        );
        return vec![Finding { agrees: Some(true), says, simulated: None, published: None }];
    }
    let above = own.above_percent(least, IMBALANCE);
    let is_tie = above.low.is_some_and(|low| low <= 0.0);
    vec![Finding {
        agrees: Some(is_tie),
        says: format!(
            "{policy}: the published {what} ({printed}) lies {} above the least imbalance, {} at {}{}, \
             and {} in tok/s",
            in_words(above, " %"),
            short(least.mean(IMBALANCE)),
            least.case,
            if is_tie { " (a tie)" } else { "" },
            tokens(own)
        ),
        simulated: Some(above),
        published: None,
    }]
}

/// Subsets of the first few, and from how many they are taken.
pub(super) fn subset(results: &Results) -> Vec<Finding> {
    let printed = format!("R_max={}", published::R_MAX);
    let mut findings = chosen(results, "br0", "R_max", &printed);
    findings.extend(chosen(results, "brh-oracle", "R_max, from all who wait", &printed));
    findings
}

/// Steps looked ahead.
pub(super) fn horizon(results: &Results) -> Vec<Finding> {
    chosen(results, "brh-oracle", "horizon", &format!("H={}", published::HORIZON_STEPS))
}

/// What a forecast must be worth.
pub(super) fn predictor(results: &Results) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(oracle) = results.of("true ends", "brh-oracle") else { return findings };
    let printed = published::table(Workload::PaperProd);
    let of = |policy: &str| printed.iter().find(|row| row.policy == policy).map(|row| row.imbalance);
    if let (Some(survival), Some(a), Some(b)) =
        (results.of("learned", "brh-survival"), of("brh-survival"), of("brh-oracle"))
    {
        let found = survival.ratio(oracle, IMBALANCE);
        findings.push(beside("imbalance of brh-survival over brh-oracle", "", found, a / b));
    }
    if let (Some(exact), Some(oracle), Some(a), Some(b)) = (
        results.of("recurring prompts", "brh-exactmatch"),
        results.of("recurring prompts", "brh-oracle"),
        of("brh-exactmatch"),
        of("brh-oracle"),
    ) {
        let found = exact.ratio(oracle, IMBALANCE);
        let what = "recurring prompts: imbalance of brh-exactmatch over brh-oracle";
        findings.push(beside(what, "", found, a / b));
    }
    let Some(br0) = results.of("no forecast", "br0") else { return findings };
    for case in
        results.cases().into_iter().filter(|case| !["no forecast", "recurring prompts"].contains(case))
    {
        for played in results.case(case) {
            let found = played.above_percent(br0, IMBALANCE);
            let says =
                format!("{case}: imbalance of {} beside br0: {}", played.policy, in_words(found, " %"));
            findings.push(Finding::beyond(says, Some(found)));
        }
    }
    findings
}

/// How long a decision takes.
pub(super) fn dispatch(results: &Results) -> Vec<Finding> {
    let mut findings = Vec::new();
    let [p50, p99] = published::DISPATCH_US;
    for played in &results.0 {
        let (median, late) = (played.mean(|run| run.decide_us.p50), played.mean(|run| run.decide_us.p99));
        let says = format!(
            "{}: {} decides a step in {median:.1} us, p99 {late:.1}, on a core of this machine; \
                 published for a dispatch by a proxy in Python: {p50:.0} and {p99:.0}",
            played.case, played.policy
        );
        findings.push(Finding { agrees: None, says, simulated: None, published: Some(p50) });
    }
    findings
}

/// What `level` changes beside other rules, case by case.
pub(super) fn level(results: &Results) -> Vec<Finding> {
    let mut findings = Vec::new();
    for case in results.cases() {
        let Some(level) = results.case(case).find(|played| played.policy == "level") else { continue };
        let others = || results.case(case).filter(|played| !played.policy.ends_with("level"));
        let best = others().max_by(|a, b| a.mean(TOKENS).total_cmp(&b.mean(TOKENS)));
        let today = others().find(|played| played.policy == "vllm-0.33");
        let mut seen = Vec::new();
        for other in today.into_iter().chain(best) {
            if seen.contains(&other.policy.as_str()) {
                continue;
            }
            seen.push(other.policy.as_str());
            let tokens = level.above_percent(other, TOKENS);
            let sure = match (tokens.low, tokens.high) {
                _ if tokens.mean.abs() < SAME_PERCENT => "a tie",
                (Some(low), _) if low > 0.0 => "better",
                (_, Some(high)) if high < 0.0 => "worse",
                _ => "a tie",
            };
            let role = if other.policy == "vllm-0.33" { "" } else { ", the best of the others" };
            findings.push(Finding::beyond(
                format!(
                    "{case}: level beside {}{role}: tok/s {}, {sure}; p99 wait {:.1} s and {:.1} s",
                    other.policy,
                    in_words(tokens, " %"),
                    level.mean(WAIT) / 1e3,
                    other.mean(WAIT) / 1e3
                ),
                Some(tokens),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Run;

    fn played(case: &str, policy: &str, figures: &[(f64, f64)]) -> Played {
        let run = |(seed, &(imbalance_mean, tokens_per_s)): (usize, &(f64, f64))| Run {
            policy: policy.to_owned(),
            seed: seed as u64,
            imbalance_mean,
            tokens_per_s,
            ..Run::default()
        };
        let printed = published::table(Workload::PaperProd).iter().find(|row| row.policy == policy).copied();
        let runs = figures.iter().enumerate().map(run).collect();
        Played { case: case.to_owned(), policy: policy.to_owned(), runs, published: printed }
    }

    fn verdicts(findings: &[Finding], part: &str) -> Vec<Option<bool>> {
        findings.iter().filter(|found| found.says.contains(part)).map(|found| found.agrees).collect()
    }

    #[test]
    fn a_ratio_agrees_within_thirty_per_cent_and_says_so() {
        let oracle = || played("paper-prod", "brh-oracle", &[(20e3, 100.0), (22e3, 101.0), (21e3, 99.0)]);
        let times = |policy: &str, factor: f64| {
            played(
                "paper-prod",
                policy,
                &[(20e3 * factor, 90.0), (22e3 * factor, 91.0), (21e3 * factor, 89.0)],
            )
        };
        // Published: 9.12, 2.20 and 1.73.
        let results =
            Results(vec![oracle(), times("jsq", 9.0), times("br0", 2.9), times("brh-survival", 2.2)]);
        let findings = table(&results);
        assert_eq!(verdicts(&findings, "imbalance of jsq over"), [Some(true)]);
        assert_eq!(verdicts(&findings, "imbalance of br0 over"), [Some(false)]);
        assert_eq!(verdicts(&findings, "imbalance of brh-survival over"), [Some(true)]);
        assert!(findings[0].says.contains("9.00 (9.00 to 9.00), published 9.12, -1 %"), "{findings:?}");
        assert_eq!(verdicts(&findings, "imbalance in the published order for 6 of 6"), [Some(true)]);
        // 101 : 90 are far less than the published 22 %.
        assert_eq!(verdicts(&findings, "tok/s of brh-oracle above jsq"), [Some(false)]);
        let turned =
            Results(vec![oracle(), times("jsq", 2.0), times("br0", 2.9), times("brh-survival", 2.2)]);
        let findings = table(&turned);
        let says = "for 4 of 6 pairs of policies; not jsq and br0, jsq and brh-survival";
        assert_eq!(verdicts(&findings, says), [Some(false)], "{findings:?}");
        let wide = played("paper-prod", "jsq", &[(140e3, 90.0), (242e3, 91.0), (189e3, 89.0)]);
        let findings = table(&Results(vec![oracle(), wide]));
        assert!(findings[0].says.ends_with("the interval reaches past 30 %"), "{findings:?}");
    }

    #[test]
    fn a_parameter_agrees_where_it_is_best_or_ties() {
        let at = |case: &str, figures: [f64; 3]| {
            played(case, "brh-oracle", &figures.map(|imbalance| (imbalance, 100.0)))
        };
        let best = Results(vec![at("H=8", [30.0, 31.0, 32.0]), at("H=80", [20.0, 21.0, 22.0])]);
        let ties = Results(vec![at("H=8", [20.0, 21.0, 22.0]), at("H=80", [21.0, 20.5, 22.5])]);
        let worse = Results(vec![at("H=8", [20.0, 21.0, 22.0]), at("H=80", [30.0, 31.0, 32.0])]);
        for (results, agrees, says) in
            [(best, true, "has least imbalance"), (ties, true, "(a tie)"), (worse, false, "lies 47.7 %")]
        {
            let findings = horizon(&results);
            assert_eq!(findings.len(), 1);
            assert!(findings[0].agrees == Some(agrees) && findings[0].says.contains(says), "{findings:?}");
        }
    }

    #[test]
    fn every_cell_of_the_sweep_is_looked_at() {
        let cell = |case: &str, tokens: f64| {
            played(case, "brh-oracle", &[(1.0, tokens), (1.0, tokens + 1.0), (1.0, tokens + 2.0)])
        };
        let base = || played("baselines", "jsq", &[(1.0, 100.0), (1.0, 101.0), (1.0, 102.0)]);
        let findings = sweep(&Results(vec![base(), cell("a", 110.0), cell("b", 121.0)]));
        assert_eq!(findings[0].agrees, Some(true));
        // 10 % beside the published 10.4.
        assert_eq!(findings[1].agrees, Some(true), "{findings:?}");
        let findings = sweep(&Results(vec![base(), cell("a", 99.0), cell("b", 121.0)]));
        assert!(findings[0].agrees == Some(false) && findings[0].says.starts_with("1 of 2 cells"));
        assert_eq!(findings[1].agrees, Some(false));
    }

    #[test]
    fn level_is_better_worse_or_ties_by_its_interval() {
        let tokens =
            |policy: &str, figures: [f64; 3]| played("c", policy, &figures.map(|tokens| (1.0, tokens)));
        let says = |level: [f64; 3]| {
            let results = Results(vec![
                tokens("vllm-0.33", [100.0, 101.0, 102.0]),
                tokens("br0", [110.0, 111.0, 112.0]),
                tokens("level", level),
            ]);
            level_lines(&results)
        };
        fn level_lines(results: &Results) -> Vec<String> {
            level(results).into_iter().map(|found| found.says).collect()
        }
        let lines = says([120.0, 121.0, 122.0]);
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].contains("beside vllm-0.33: tok/s 19.8 %") && lines[0].contains("better"),
            "{lines:?}"
        );
        assert!(lines[1].contains("beside br0, the best of the others") && lines[1].contains("better"));
        assert!(says([90.0, 91.0, 92.0]).iter().all(|line| line.contains("worse")));
        assert!(says([105.0, 111.0, 118.0])[1].contains("a tie"));
        assert!(says([110.01, 111.01, 112.01])[1].contains("a tie"));
    }
}
