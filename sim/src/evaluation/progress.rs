//! How far runs are, in steps, and how much time is left, on a terminal's standard error.

use indicatif::{ProgressBar, ProgressStyle};

use crate::cluster::{Arrivals, Capacity, Observer, Scenario, Source, StepSeen, Window};

/// Drawing costs more than a step.
const STEPS_A_TICK: u64 = 1_024;

/// A bar of steps; hidden where nobody asks for it, and by `indicatif` where standard error is no terminal.
pub(super) fn steps_bar(shown: bool) -> ProgressBar {
    bar(shown, "{bar:30} {percent} % of {human_len} steps, {elapsed}, about {eta} left: {msg}")
}

/// A bar of so many rows of a table, or what else is counted.
pub(super) fn count_bar(shown: bool, count: usize, what: &str) -> ProgressBar {
    let bar =
        bar(shown, &format!("{{bar:30}} {{pos}}/{{len}} {what}, {{elapsed}}, about {{eta}} left: {{msg}}"));
    bar.set_length(count as u64);
    bar
}

fn bar(shown: bool, template: &str) -> ProgressBar {
    if !shown {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Counts the steps of a run that is thought to have so many.
pub(super) struct Ticks<'a> {
    bar: &'a ProgressBar,
    expected: u64,
    seen: u64,
    told: u64,
}

impl<'a> Ticks<'a> {
    pub(super) fn new(bar: &'a ProgressBar, expected: u64) -> Self {
        Self { bar, expected, seen: 0, told: 0 }
    }

    /// The run has ended, with more steps than were expected or less.
    pub(super) fn ended(self) {
        self.bar.inc(self.expected - self.told);
    }
}

impl Observer for Ticks<'_> {
    fn step(&mut self, _: StepSeen<'_>) {
        self.seen += 1;
        if self.seen.is_multiple_of(STEPS_A_TICK) && self.seen <= self.expected {
            self.told += STEPS_A_TICK;
            self.bar.inc(STEPS_A_TICK);
        }
    }
}

/// How many steps a run of the scenario is thought to have: as many as are asked for, or the time of its
/// arrivals by the length of a step under their load.
pub(super) fn expected_steps(scenario: &Scenario) -> u64 {
    if let Some(steps) = scenario.steps {
        return scenario.warmup.saturating_add(steps);
    }
    let of = |per_second: f64, played_s: f64| {
        let capacity = Capacity::of(scenario)?;
        let offered_load = per_second / capacity.requests_per_s;
        Some((1e3 * played_s / capacity.step_ms(scenario, offered_load)) as u64)
    };
    let expected = match (scenario.arrivals, &scenario.source) {
        (Arrivals::Poisson { per_second, requests }, _) => of(per_second, requests as f64 / per_second),
        (Arrivals::Trace { rate_scale }, Source::Trace(trace)) => {
            let window = Window::new(&scenario.source, scenario.arrivals, 0, scenario.windows);
            let whole_s = trace.span_s().map(|span_s| span_s / rate_scale);
            let played_s = match scenario.windows {
                0 => whole_s,
                _ => window.map(|window| window.to_ms / 1e3),
            };
            let per_second = trace.requests_per_s().map(|rate| rate * rate_scale);
            per_second.zip(played_s).and_then(|(per_second, played_s)| of(per_second, played_s))
        }
        _ => None,
    };
    expected.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Cluster, Library};
    use crate::workloads::Workload;

    fn played(scenario: &Scenario, observer: &mut impl Observer) {
        let library = Library::new(&scenario.source);
        let policy = scenario.build("jsq", 0).expect("a policy");
        let cluster = Cluster::new(scenario, &library, policy, None, 0, None).expect("a cluster");
        cluster.run_seen(observer).expect("a run");
    }

    struct Count(u64);

    impl Observer for Count {
        fn step(&mut self, _: StepSeen<'_>) {
            self.0 += 1;
        }
    }

    #[test]
    fn the_steps_of_a_closed_run_are_known_and_told_once() {
        let scenario =
            Scenario { workers: 2, slots: 4, steps: Some(2_000), warmup: 500, ..Scenario::default() };
        assert_eq!(expected_steps(&scenario), 2_500);
        for expected in [2_500, 1_200, 9_000] {
            let bar = ProgressBar::hidden();
            bar.set_length(expected);
            let mut ticks = Ticks::new(&bar, expected);
            played(&scenario, &mut ticks);
            let on_the_way = bar.position();
            assert_eq!(on_the_way, 1_024 * (expected.min(2_500) / 1_024));
            ticks.ended();
            assert_eq!(bar.position(), expected);
        }
    }

    #[test]
    fn the_steps_of_an_open_run_are_nearly_known() {
        let scenario = Scenario {
            source: Source::Workload(Workload::Lognormal),
            workers: 2,
            slots: 16,
            arrivals: Arrivals::Poisson { per_second: 8.0, requests: 600 },
            steps: None,
            warmup: 0,
            ..Scenario::default()
        };
        let mut count = Count(0);
        played(&scenario, &mut count);
        let ratio = expected_steps(&scenario) as f64 / count.0 as f64;
        assert!((0.7..1.4).contains(&ratio), "{ratio} of {} steps", count.0);
    }
}
