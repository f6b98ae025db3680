//! What was found: one struct a path and a size, as JSON and as a table.

use std::fmt::Write as _;

use balanceroute::backend::BackendKind;
use serde::Serialize;

/// One way to evaluate a batch on one instruction set.
#[derive(Clone, Debug, Serialize)]
pub struct PathReport {
    /// Instruction set and kind.
    pub name: String,
    /// Whether it runs here.
    pub available: bool,
    /// Why it does, or does not.
    pub reason: String,
    /// Batches tested against the oracle: as many as were asked for, and more until so many stayed in the
    /// path's lanes.
    pub batches: u64,
    /// Those of them with no column that the path's lanes could not hold exactly: such columns are scored one
    /// request at a time.
    pub batches_in_lanes: u64,
    /// How many answers differed.
    pub mismatches: u64,
    /// Time per request and worker without a horizon.
    pub ns_per_cell: Option<f64>,
    /// Time per request, worker and step with a horizon of 16, every knot of it between the lengths of every
    /// run: the arithmetic alone.
    pub ns_per_cell_horizon: Option<f64>,
    /// How near a pass comes to its own instructions on registers alone, without a horizon; none but for
    /// AVX-512, which has registers enough to hold them.
    pub peak_fraction: Option<f64>,
    /// As `peak_fraction`, with the horizon.
    pub peak_fraction_horizon: Option<f64>,
    /// How many times as fast as the definition of a score, one request at a time, without a horizon.
    pub times_definition: Option<f64>,
    /// As `times_definition`, with the horizon.
    pub times_definition_horizon: Option<f64>,
    /// How many times as fast as the fastest of the plain lanes, which the compiler turns into the vector
    /// instructions of the target's baseline (SSE2 on x86-64), without a horizon.
    pub times_plain_lanes: Option<f64>,
    /// As `times_plain_lanes`, with the horizon.
    pub times_plain_lanes_horizon: Option<f64>,
}

impl PathReport {
    /// Nothing tested or measured yet.
    pub(super) fn new(name: String, available: bool, reason: String) -> Self {
        Self {
            name,
            available,
            reason,
            batches: 0,
            batches_in_lanes: 0,
            mismatches: 0,
            ns_per_cell: None,
            ns_per_cell_horizon: None,
            peak_fraction: None,
            peak_fraction_horizon: None,
            times_definition: None,
            times_definition_horizon: None,
            times_plain_lanes: None,
            times_plain_lanes_horizon: None,
        }
    }
}

/// One size of the comparison between structured search and matrix.
#[derive(Clone, Debug, Serialize)]
pub struct Crossing {
    /// Waiting requests.
    pub waiting: usize,
    /// Workers, half of them open.
    pub workers: usize,
    /// Steps looked ahead.
    pub horizon: usize,
    /// A decision by length-ordered search.
    pub structured_ns: f64,
    /// That decision by the matrix.
    pub dense_ns: f64,
}

/// What `auto` does here.
#[derive(Clone, Debug, Serialize)]
pub struct AutoReport {
    /// The fastest instruction set.
    pub isa: String,
    /// Time per request and worker by the definition of a score, one request at a time, without a horizon.
    pub definition_ns_per_cell: Option<f64>,
    /// Time per request, worker and step by the same definition with a horizon of 16.
    pub definition_ns_per_cell_horizon: Option<f64>,
    /// In words.
    pub describe: String,
    /// Per horizon the fewest waiting requests from which the structured search is faster at every larger
    /// measured size.
    pub structured_from: Vec<(usize, Option<usize>)>,
    /// What was measured.
    pub crossover: Vec<Crossing>,
    /// Decisions that only the matrix can make: affinity and masks.
    pub paired: Vec<PairedDecision>,
}

/// A whole decision with a bonus matrix and masks.
#[derive(Clone, Debug, Serialize)]
pub struct PairedDecision {
    /// Waiting requests.
    pub waiting: usize,
    /// Workers.
    pub workers: usize,
    /// Workers with a free slot: as many admissions.
    pub open: usize,
    /// Steps looked ahead.
    pub horizon: usize,
    /// The whole decision.
    pub ns: f64,
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct KernelReport {
    /// The processor.
    pub cpu: String,
    /// Every path.
    pub paths: Vec<PathReport>,
    /// The choice.
    pub auto: AutoReport,
}

impl KernelReport {
    /// Whether every path that runs here answered as the oracle does.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.paths.iter().all(|path| path.mismatches == 0)
    }

    /// The report as a table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n\n", self.cpu, self.auto.describe);
        let number = |value: Option<f64>, scale: f64, digits: usize| {
            value.map_or("-".to_owned(), |value| format!("{:.digits$}", value * scale))
        };
        let _ = writeln!(
            text,
            "{:<20} {:>9} {:>9} {:>10} {:>11} {:>8} {:>12} {:>7}   {:>11} {:>8} {:>12} {:>7}",
            "",
            "",
            "",
            "",
            "ps per",
            "times",
            "times plain",
            "of",
            "H = 16, ps",
            "times",
            "times plain",
            "of"
        );
        let _ = writeln!(
            text,
            "{:<20} {:>9} {:>9} {:>10} {:>11} {:>8} {:>12} {:>7}   {:>11} {:>8} {:>12} {:>7}",
            "path",
            "batches",
            "in lanes",
            "mismatches",
            "cell",
            "one by 1",
            "lanes",
            "peak",
            "a step",
            "one by 1",
            "lanes",
            "peak"
        );
        for path in &self.paths {
            if !path.available {
                let _ = writeln!(text, "{:<20} {}", path.name, path.reason);
                continue;
            }
            if path.name == BackendKind::Ascend.name() {
                let _ = writeln!(text, "{:<20} {}", path.name, path.reason);
            }
            let _ = writeln!(
                text,
                "{:<20} {:>9} {:>9} {:>10} {:>11} {:>8} {:>12} {:>7}   {:>11} {:>8} {:>12} {:>7}",
                path.name,
                path.batches,
                path.batches_in_lanes,
                path.mismatches,
                number(path.ns_per_cell, 1e3, 0),
                number(path.times_definition, 1.0, 1),
                number(path.times_plain_lanes, 1.0, 1),
                number(path.peak_fraction, 1.0, 2),
                number(path.ns_per_cell_horizon, 1e3, 1),
                number(path.times_definition_horizon, 1.0, 1),
                number(path.times_plain_lanes_horizon, 1.0, 1),
                number(path.peak_fraction_horizon, 1.0, 2),
            );
        }
        let _ = writeln!(
            text,
            "{:<20} {:>9} {:>9} {:>10} {:>11} {:>8} {:>12} {:>7}   {:>11}",
            "one by one",
            "",
            "",
            "",
            number(self.auto.definition_ns_per_cell, 1e3, 0),
            "",
            "",
            "",
            number(self.auto.definition_ns_per_cell_horizon, 1e3, 0)
        );
        let _ = writeln!(
            text,
            "times one by one: as many times as fast as the definition, a request at a time; \
             times plain lanes: as\n\
             the scalar path, which the compiler turns into the vector instructions \
             of the target's baseline;\n\
             of peak: of the speed of the scores' instructions on registers alone"
        );
        let _ =
            writeln!(text, "\n{:>8} {:>8} {:>14} {:>10}", "waiting", "horizon", "structured us", "dense us");
        for crossing in &self.auto.crossover {
            let _ = writeln!(
                text,
                "{:>8} {:>8} {:>14.2} {:>10.2}",
                crossing.waiting,
                crossing.horizon,
                crossing.structured_ns / 1e3,
                crossing.dense_ns / 1e3
            );
        }
        for decision in &self.auto.paired {
            let PairedDecision { waiting, workers, open, horizon, ns } = decision;
            let _ = writeln!(
                text,
                "affinity and masks, {waiting} waiting, {workers} workers, {open} admissions, \
                 horizon {horizon}: {:.1} us",
                ns / 1e3
            );
        }
        text
    }
}
