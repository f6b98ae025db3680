//! Loads over time: of each rank under each rule, how far they are apart, and who waits.

use std::fmt::Write as _;

use super::plot::{Axis, Plot};
use super::{Figure, amount, plain, time_unit};
use crate::error::SimError;
use crate::report::evaluated::SeriesOf;
use crate::report::folder::{SeriesLine, StepKind};
use crate::report::results::ScenarioEntry;

/// Moments of a line, as many as can be told apart.
const MOMENTS: usize = 150;
/// More ranks have no line each: the least, the mean and the greatest are drawn.
const MOST_LINES: usize = 16;
/// Fields of a heat map, at most.
const MOST_FIELDS: usize = 4_000;
/// Rows of a heat map: more ranks are put together.
const MOST_ROWS: usize = 72;
/// Steps of colour above the mean and below it.
const LEVELS: i32 = 3;
/// What a step of colour stands for, as a share of the mean.
const STEPS: [f64; 7] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

/// The samples of one rule, at moments of equal length.
struct Samples {
    series: usize,
    rule: String,
    /// In the unit of the axis, from 0.
    at: Vec<f64>,
    /// Mean loads of the ranks in each moment.
    loads: Vec<Vec<f64>>,
    imbalance: Vec<f64>,
    waiting: Vec<f64>,
}

impl Samples {
    fn of(series: usize, rule: &str, lines: &[&SeriesLine], scale: f64) -> Self {
        let from_ms = lines.first().map_or(0.0, |line| line.t_ms);
        let every = lines.len().div_ceil(MOMENTS).max(1);
        let mut samples = Self {
            series,
            rule: rule.to_owned(),
            at: vec![],
            loads: vec![],
            imbalance: vec![],
            waiting: vec![],
        };
        for moment in lines.chunks(every) {
            let n = moment.len() as f64;
            let mean = |of: &dyn Fn(&SeriesLine) -> f64| moment.iter().map(|line| of(line)).sum::<f64>() / n;
            samples.at.push((mean(&|line| line.t_ms) - from_ms).max(0.0) / 1e3 / scale);
            let ranks = moment[0].loads.len();
            samples.loads.push((0..ranks).map(|rank| mean(&|line| line.loads[rank] as f64)).collect());
            samples.imbalance.push(mean(&|line| line.imbalance));
            samples.waiting.push(mean(&|line| line.waiting as f64));
        }
        samples
    }

    fn mean(&self, moment: usize) -> f64 {
        self.loads[moment].iter().sum::<f64>() / self.loads[moment].len().max(1) as f64
    }

    fn line<'a>(&'a self, of: impl Fn(usize) -> f64 + 'a) -> impl Iterator<Item = (f64, f64)> + 'a {
        self.at.iter().enumerate().map(move |(moment, &at)| (at, of(moment)))
    }

    fn least(&self, moment: usize) -> f64 {
        self.loads[moment].iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn greatest(&self, moment: usize) -> f64 {
        self.loads[moment].iter().copied().fold(0.0, f64::max)
    }

    /// How far a rank is from the mean of all, as a share of it.
    fn deviation(&self, moment: usize, ranks: std::ops::Range<usize>) -> f64 {
        let (mean, n) = (self.mean(moment), ranks.len().max(1) as f64);
        let load = self.loads[moment][ranks].iter().sum::<f64>() / n;
        if mean > 0.0 { load / mean - 1.0 } else { 0.0 }
    }
}

/// What the colours of a heat map mean.
pub(super) struct Heat {
    /// What a step of colour stands for, as a share of the mean.
    step: f64,
}

impl Heat {
    /// The finest at which most of what is there can be told apart.
    fn of(samples: &[Samples]) -> Self {
        let mut sizes: Vec<f64> = Vec::new();
        for of in samples {
            for moment in 0..of.at.len() {
                sizes.extend(
                    (0..of.loads[moment].len()).map(|rank| of.deviation(moment, rank..rank + 1).abs()),
                );
            }
        }
        sizes.sort_unstable_by(f64::total_cmp);
        let most = sizes.get(sizes.len() * 95 / 100).copied().unwrap_or(0.0);
        let reach = f64::from(LEVELS) + 0.5;
        Self { step: STEPS.into_iter().find(|step| most <= step * reach).unwrap_or(STEPS[STEPS.len() - 1]) }
    }

    /// From `-LEVELS`, far below the mean, to `LEVELS`.
    fn level(&self, deviation: f64) -> i32 {
        (deviation / self.step).round().clamp(-f64::from(LEVELS), f64::from(LEVELS)) as i32
    }

    fn class(level: i32) -> String {
        format!("h{}", level + LEVELS)
    }

    /// Class and words of each colour.
    pub(super) fn legend(&self) -> Vec<(String, String)> {
        let words = |level: i32| {
            let percent = super::plain(100.0 * self.step * f64::from(level.abs()));
            match level {
                0 => "the mean".to_owned(),
                level if level == LEVELS => format!("{percent} % above or more"),
                level if level == -LEVELS => format!("{percent} % below or more"),
                level => format!("{percent} % {}", if level > 0 { "above" } else { "below" }),
            }
        };
        (-LEVELS..=LEVELS).map(|level| (Self::class(level), words(level))).collect()
    }
}

/// Figures over time, and what the colours of the heat maps mean.
pub(super) struct OverTime {
    /// All rules in one.
    pub(super) together: Vec<Figure>,
    /// Lines of the ranks, one figure a rule.
    pub(super) ranks: Vec<Figure>,
    /// Heat maps, one a rule.
    pub(super) maps: Vec<Figure>,
    pub(super) heat: Heat,
}

/// Of a scenario and some of its rules, by place; none where nothing was sampled.
///
/// # Errors
/// One cannot be drawn.
pub(super) fn over_time(
    scenario: &ScenarioEntry,
    series: &[SeriesOf],
    rules: &[(usize, &str)],
) -> Result<Option<OverTime>, SimError> {
    let lines = |rule: &str| -> Vec<&SeriesLine> {
        let of_rule = series.iter().filter(|step| step.rule == rule && step.line.kind == StepKind::Sample);
        of_rule.map(|step| &step.line).collect()
    };
    let span_s = |lines: &[&SeriesLine]| match lines {
        [first, .., last] => (last.t_ms - first.t_ms) / 1e3,
        _ => 0.0,
    };
    let span = rules.iter().map(|(_, rule)| span_s(&lines(rule))).fold(0.0, f64::max);
    let (unit, scale) = time_unit(span);
    let samples: Vec<Samples> = (rules.iter())
        .map(|&(at, rule)| Samples::of(at, rule, &lines(rule), scale))
        .filter(|samples| samples.at.len() > 1)
        .collect();
    let end = samples.iter().filter_map(|of| of.at.last().copied()).fold(0.0, f64::max);
    if end <= 0.0 {
        return Ok(None);
    }
    let time = || Axis::between(0.0, end, plain).labelled(unit);
    let command = &scenario.command;
    let most = samples.iter().flat_map(|of| of.loads.iter().flatten().copied());
    let loads = Axis::around(most, amount);
    let drawn = samples.iter().map(|of| Ok(ranks(of, Plot::new(time(), loads.clone())?, command)));
    let ranks = drawn.collect::<Result<Vec<_>, SimError>>()?;
    let heat = Heat::of(&samples);
    let maps = samples.iter().map(|of| heat_map(of, &heat, end, unit, command));
    let maps = maps.collect::<Result<Vec<_>, _>>()?;
    let mut together = Vec::new();
    let both: [(&str, fn(&Samples) -> &Vec<f64>, &str); 2] = [
        (
            "Imbalance over time",
            |of| &of.imbalance,
            "KV tokens by which the ranks lie below the fullest, in sum.",
        ),
        ("Requests that wait", |of| &of.waiting, "Where it rises to the end, more comes than is served."),
    ];
    for (title, values, note) in both {
        let mut plot = Plot::new(
            time(),
            Axis::linear(samples.iter().flat_map(|of| values(of).iter().copied()), amount),
        )?;
        for of in &samples {
            plot.line(&format!("l {}", super::plot::class(of.series)), of.line(|moment| values(of)[moment]));
        }
        let words = format!("{title}, one line a rule");
        together.push(Figure::new(title, plot.finish(&words), note, command));
    }
    Ok(Some(OverTime { together, ranks, maps, heat }))
}

fn ranks(of: &Samples, mut plot: Plot, command: &str) -> Figure {
    let workers = of.loads.first().map_or(0, Vec::len);
    let note = if workers <= MOST_LINES {
        for rank in 0..workers {
            plot.line("rank", of.line(|moment| of.loads[moment][rank]));
        }
        "Thin: each rank; thick: the fullest, for which all wait; dashed: the mean."
    } else {
        plot.line("rank", of.line(|moment| of.least(moment)));
        "Thick: the fullest rank, for which all wait; dashed: the mean; thin: the emptiest."
    };
    plot.line("mean", of.line(|moment| of.mean(moment)));
    plot.line("fullest", of.line(|moment| of.greatest(moment)));
    let title = format!("KV tokens under {}", of.rule);
    let words = format!("{title}, over time, with the fullest and the mean of {workers}");
    Figure::new(&title, plot.finish(&words), note, command)
}

fn heat_map(of: &Samples, heat: &Heat, end: f64, unit: &str, command: &str) -> Result<Figure, SimError> {
    let ranks = of.loads.first().map_or(0, Vec::len);
    let a_row = ranks.div_ceil(MOST_ROWS).max(1);
    let rows = ranks.div_ceil(a_row);
    let every = (of.at.len() * rows).div_ceil(MOST_FIELDS).max(1);
    let x = Axis::between(0.0, end, plain).labelled(unit);
    let height = (60 + 12 * rows as u32).clamp(150, 330);
    let mut plot = Plot::of_height(x, Axis::of_rows(ranks), height)?;
    let mut paths = vec![String::new(); (2 * LEVELS + 1) as usize];
    for row in 0..rows {
        let of_row = row * a_row..((row + 1) * a_row).min(ranks);
        let levels: Vec<i32> =
            (0..of.at.len()).step_by(every).map(|at| heat.level(of.deviation(at, of_row.clone()))).collect();
        let begin =
            |field: usize| if field == 0 { 0.0 } else { of.at.get(field * every).copied().unwrap_or(end) };
        let mut from = 0;
        // Fields of one colour side by side are one.
        for run in levels.chunk_by(|a, b| a == b) {
            let to = from + run.len();
            let (x, y) = plot.at(begin(from), of_row.end as f64);
            let (to_x, to_y) = plot.at(begin(to), of_row.start as f64);
            let path = &mut paths[(run[0] + LEVELS) as usize];
            // Writing to a string cannot fail.
            let _ = write!(path, "M{x:.1} {y:.1}H{to_x:.1}V{to_y:.1}H{x:.1}z");
            from = to;
        }
    }
    // As many names of ranks as have room.
    for rank in (0..ranks).step_by(ranks.div_ceil(8)) {
        plot.beside(rank as f64 + 0.5, &rank.to_string());
    }
    for (level, path) in (-LEVELS..=LEVELS).zip(&paths) {
        plot.path(&Heat::class(level), path);
    }
    let title = format!("Ranks under {}", of.rule);
    let row = if a_row > 1 { format!("One row for {a_row} ranks") } else { "One row a rank".to_owned() };
    let note = format!("{row}: how far it lies from the mean of all at that time.");
    let words = format!("{title}: a heat map of {ranks} ranks over time");
    Ok(Figure::new(&title, plot.finish(&words), &note, command))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(rule: &str, t_ms: f64, loads: &[u64]) -> SeriesOf {
        let line = SeriesLine {
            kind: StepKind::Sample,
            step: 0,
            t_ms,
            step_ms: 10.0,
            loads: loads.to_vec(),
            imbalance: 0.0,
            running: 0,
            waiting: 0,
        };
        SeriesOf { rule: rule.to_owned(), line }
    }

    fn samples(loads: &[&[u64]]) -> Samples {
        let steps: Vec<SeriesOf> =
            loads.iter().enumerate().map(|(at, loads)| step("a", at as f64, loads)).collect();
        Samples::of(0, "a", &steps.iter().map(|step| &step.line).collect::<Vec<_>>(), 1.0)
    }

    #[test]
    fn a_moment_is_the_mean_of_its_steps() {
        let many: Vec<Vec<u64>> = (0..2 * MOMENTS as u64).map(|at| vec![at, 0]).collect();
        let of = samples(&many.iter().map(Vec::as_slice).collect::<Vec<_>>());
        assert_eq!((of.at.len(), of.loads[0][0], of.loads[MOMENTS - 1][0]), (MOMENTS, 0.5, 298.5));
        assert_eq!((of.mean(0), of.least(0), of.greatest(0)), (0.25, 0.0, 0.5));
    }

    #[test]
    fn colours_tell_the_ranks_apart() {
        let of = samples(&[&[90, 110], &[95, 105], &[0, 0]]);
        approx::assert_abs_diff_eq!(of.deviation(0, 1..2), 0.1, epsilon = 1e-12);
        assert_eq!(of.deviation(2, 0..1), 0.0, "where nothing runs, nobody is off");
        let heat = Heat::of(&[of]);
        assert_eq!(heat.step, 0.05);
        assert_eq!([-1.0, -0.1, 0.0, 0.02, 0.06, 9.0].map(|off| heat.level(off)), [-3, -2, 0, 0, 1, 3]);
        let legend = heat.legend();
        assert_eq!((legend.len(), legend[0].1.as_str()), (7, "15 % below or more"));
        assert_eq!((legend[3].1.as_str(), legend[4].1.as_str()), ("the mean", "5 % above"));
        assert_eq!(Heat::of(&[samples(&[&[1, 1]])]).step, 0.01);
    }
}
